"""Messages of strangers: good ones damaged, parts lost or exchanged, wrong types, lying sizes, bombs, noise. All from a seed."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import cbor2

from tests.live.dectris_messages import damaged

GB2 = 2 << 30
NASTY: list[Any] = [
    None, True, False, -1, 0, 1, 2, 255, 65536, GB2, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 10**30, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "x", "x" * 300, "\0", "NaN", "-1", "uint16", "object", "O", "<u2", "bs16-lz4<", "bs9999999-lz4<", "../x", [], [[]],
    [0], [GB2, GB2], [-1, 5], [1] * 100, {}, {"a": []}, {"": None},
]  # fmt: skip
"""Values that somebody may believe."""
JSON_BOMBS = [
    b"[" * 100_000, b'{"a":' * 50_000, b'{"htype": ' + b"9" * 6000 + b"}", b'{"htype":"dimage-1.0","series":1e999,"frame":0}',
    '{"htype": "dheader-1.0"}'.encode("utf-16"), b'{"htype":"dimage-1.0","frame":0,"frame":1}', b'{"htype":"\\ud800"}', b"{}", b"null",
    b"{", b'{"htype":"dheader-1.0","series":' + b"1" * 4400 + b"}",
]  # fmt: skip
CBOR_BOMBS = [
    b"\x81" * 10_000, b"\xc1" * 10_000, b"\xd9\xd9\xf7" * 3000, b"\xa1\x61a" * 5000, b"\x9f" * 1000, b"\xbf" * 1000,
    b"\x5a\x80\x00\x00\x00", b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", b"\x7a\xff\xff\xff\xff", b"\x9a\x80\x00\x00\x00",
    b"\xba\xff\xff\xff\xff",
    b"\x9b\x00\x00\x00\x01\x00\x00\x00\x00", b"\xa1\x64type\x5a\x80\x00\x00\x00abc", b"\xfb\x7f\xf0", b"\xff",
    b"\xc2\x5a\x80\x00\x00\x00", b"",
]  # fmt: skip
MSGPACK_BOMBS = [
    b"\x91" * 10_000, b"\xdd\x80\x00\x00\x00", b"\xdd\xff\xff\xff\xff\x01\x02", b"\xc6\x80\x00\x00\x00", b"\xdb\xff\xff\xff\xff",
    b"\xdf\x80\x00\x00\x00",
    b"\xc9\x80\x00\x00\x00\x01", b"\xdc\xff\xff", b"\x81" * 5000, b"\xc1", b"\xd4\x01\x00", b"\x98" + b"\xcf" + b"\xff" * 8 + b"\x00" * 7,
    b"\x80", b"",
]  # fmt: skip
MERLIN_BOMBS = [
    b"MPX,2147483648,HDR,", b"MPX,2147483648,MQ1,000001,00384,01,0256,0256,U16,", b"MPX,9999999999,", b"MPX,0000000000,",
    b"MPX,0000000001,",
    b"MPX,-000000001,MQ1,", b"MPX,00000000x1,HDR,", b"MPX," * 2000, b"MPX,0000000005,HDR,", b"MPX,0000000009,MQ1,,,,,",
    b"MPX,0000000030,MQ1,000001,99999,01,9999,999,", b"MPX,0000005000,HDR,", b"MPX,0060000000,MQ1,000001,00384,01,0256,0256,U16,",
    b"HDR,\t\r\nEnd\t", b"MQ1,000001,00384,01,", b"MPX,0000000016,HDR,\tEnd" + b"9" * 8, b"\0" * 5000, b"MPX",
]  # fmt: skip


def _leaves(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside of a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in list(items) for found in [(value, key), *_leaves(inner)]]


def _nasty(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(NASTY))


def swapped(rng: random.Random, value: Any) -> Any:
    """A value in which something is replaced, lost, or doubled under another name."""
    for _ in range(rng.randint(1, 3)):
        leaves = _leaves(value)
        if not leaves:
            return _nasty(rng)
        container, key = rng.choice(leaves)
        what = rng.random()
        if what < 0.8:
            container[key] = _nasty(rng)
        elif what < 0.9:
            del container[key]
        elif isinstance(container, dict):
            container[str(key) + "_"] = container[key]
        else:
            container.append(_nasty(rng))
    return value


class Rubbish:
    """Makes messages. good: what a sender says, by message the list of its parts; loads, dumps: of the part that says what it is."""

    def __init__(self, seed: int, good: Sequence[list[bytes]], protocol: str) -> None:
        self.rng = random.Random(seed)
        self.good = [list(parts) for parts in good]
        self._kinds: list[Callable[[], list[bytes]]] = [
            self.damaged, self.damaged, self.damaged, self.noise, self.parts, self.types, self.types, self.bombs, self.sizes,
        ]  # fmt: skip
        self._loads, self._dumps, self._bombs = {
            "dectris-v1": (json.loads, _json, JSON_BOMBS),
            "dectris-v2": (cbor2.loads, cbor2.dumps, CBOR_BOMBS),
            "own": (cbor2.loads, cbor2.dumps, CBOR_BOMBS),
            "sectors": (_unpack, _pack, MSGPACK_BOMBS),
            "merlin": (_fields, _join, MERLIN_BOMBS),
        }[protocol]

    def one(self) -> list[bytes]:
        """Any."""
        return self.rng.choice(self._kinds)()

    def some(self) -> list[bytes]:
        """A good message."""
        return list(self.rng.choice(self.good))

    def damaged(self) -> list[bytes]:
        """Bytes changed, cut, inserted, doubled."""
        return next(damaged(self.some(), 1, self.rng.randrange(1 << 30)))

    def noise(self) -> list[bytes]:
        """Random bytes."""
        return [self.rng.randbytes(self.rng.randint(0, 300)) for _ in range(self.rng.choice([1, 1, 1, 2, 3, 4, 5, 40]))]

    def parts(self) -> list[bytes]:
        """The wrong parts, or the wrong number of them."""
        parts = self.some() + self.some()
        self.rng.shuffle(parts)
        out = parts[: self.rng.randint(1, len(parts))] * self.rng.choice([1, 1, 1, 2, 8])
        return out + [b""] * self.rng.choice([0, 0, 1, 3])

    def types(self) -> list[bytes]:
        """Something of another type or size than it should be."""
        parts = self.some()
        at = self.rng.choice([i for i, p in enumerate(parts) if i in (0, 1, 3)])
        try:
            parts[at] = self._dumps(swapped(self.rng, self._loads(parts[at])))
        except (ValueError, TypeError, OverflowError, RecursionError):  # no such value in this format, or no such part
            parts[at] = self.rng.choice(self._bombs)
        return parts

    def bombs(self) -> list[bytes]:
        """Alone, or instead of a part."""
        bomb = self.rng.choice(self._bombs)
        if self.rng.random() < 0.5:
            return [bomb]
        parts = self.some()
        parts[self.rng.randrange(len(parts))] = bomb
        return parts

    def sizes(self) -> list[bytes]:
        """Announced sizes that are not true: 2 GB and more, nothing, a bit more or less."""
        parts = [bytearray(p) for p in self.some()]
        part = max(parts, key=len)
        lie = self.rng.choice([GB2, GB2 + 1, 2**32 - 1, 2**63, 0, 1, len(part), len(part) + 1])
        width = self.rng.choice([2, 4, 8])
        raw = (lie % (1 << 8 * width)).to_bytes(width, self.rng.choice(["big", "little"]))
        at = self.rng.choice([0, 4, 8, self.rng.randrange(len(part) + 1), self.rng.randrange(min(len(part), 64) + 1)])
        part[at : at + width] = raw
        return [bytes(p) for p in parts]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _unpack(data: bytes) -> Any:
    import msgpack

    return msgpack.unpackb(data, strict_map_key=False)


def _pack(value: Any) -> bytes:
    import msgpack

    out: bytes = msgpack.packb(value)
    return out


def _fields(data: bytes) -> list[str]:
    """The beginning of a Merlin message, cut at its commas."""
    return [*data[:300].decode("latin-1").split(","), data[300:].decode("latin-1")]


def _join(value: Any) -> bytes:
    out = io.BytesIO()
    for i, field in enumerate(value if isinstance(value, list) else [value]):
        out.write((b"," if i else b"") + str(field).encode("latin-1", "replace"))
    return out.getvalue()
