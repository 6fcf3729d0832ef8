"""DECTRIS stream V1: damaged and hostile messages, the fast path against the careful one."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from libstream.ext import FramePart, Skipped, WireError
from libstream.io_backends.streams._dectris_v1 import V1Decoder
from tests.live import dectris_messages as d
from tests.live.dectris_v1_messages import CONFIG, END, head, image, one, packed, tables, text

# -- damaged messages ------------------------------------------------------------------------------------------------------


def changed(part: int, key: str, value: Any) -> list[bytes]:
    parts = image(0, bytes(768))
    there = json.loads(parts[part])
    if value is KeyError:
        del there[key]
    else:
        there[key] = value
    parts[part] = text(there)
    return parts


WRONG = [KeyError, None, True, -1, 1.5, 10**30, "x", "uint128", [], [0, 5], [5], [1 << 17, 5], [65536, 65536], ["a", "b"], {}, [24, 16, 2]]


@pytest.mark.parametrize(
    ("part", "key"), [(0, "htype"), (0, "series"), (0, "frame"), (1, "htype"), (1, "shape"), (1, "type"), (1, "encoding")]
)
def test_fields_that_are_missing_or_wrong(part: int, key: str) -> None:
    for value in WRONG:
        parts = changed(part, key, value)
        decoder = V1Decoder()
        one(decoder, image(0, bytes(768)))
        if part == 0 and key == "htype" and isinstance(value, str):
            assert isinstance(one(decoder, parts), Skipped)
        else:
            with pytest.raises(WireError):
                decoder.feed(d.views(parts))
        assert one(decoder, image(4, bytes(768))).number == 4


@pytest.mark.parametrize(("part", "key"), [(0, "hash"), (1, "size"), (3, "start_time"), (3, "stop_time"), (3, "htype")])
def test_fields_that_cost_no_frame(part: int, key: str) -> None:
    for value in WRONG:
        event = one(V1Decoder(), changed(part, key, value))
        assert (event.number, event.stop) == (0, 768)
        assert event.t_ns == (0 if key == "start_time" else 5_000_000)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([], "without parts"),
        ([b""], "no JSON"),
        ([b"\x80\x04\x95pickle"], "no JSON"),
        ([b'{"htype": NaN'], "no JSON"),
        ([b"[" * 100_000], "no JSON"),
        ([b"[]"], "of type list"),
        ([b"{}"], "without a type"),
        ([b" " * ((1 << 20) + 1)], "at most 1048576"),
        ([text({"htype": "dseries_end-1.0"})], "missing"),
        ([head(), b"{"], "the configuration in a header"),
        ([text({"htype": "dheader-1.0", "header_detail": "basic", "series": 1e300}), text(CONFIG)], "series"),
        (image(0, b"")[:2], "2 parts"),
        ([*image(0, b""), b"", b""], "6 parts"),
        ([*image(0, b"")[:3], b"\xff"], "times of image 0"),
        (image(0, b"", "bs12-lz4<"), "bs12-lz4<"),
        (image(0, b"", "bs16<"), "bs16<"),
        (image(0, b"", "zstd<"), "zstd<"),
    ],
)
def test_refused(parts: list[bytes], says: str) -> None:
    decoder = V1Decoder()
    with pytest.raises(WireError, match=says):
        decoder.feed(d.views(parts))
    assert one(decoder, image(1, bytes(768))).number == 1


def test_two_gigabytes_announced() -> None:
    event = one(V1Decoder(), changed(1, "size", 1 << 31))
    assert event.stop == 768
    with pytest.raises(WireError, match="65536"):
        V1Decoder().feed(changed(1, "shape", [1 << 20, 1 << 20]))


def series(detail: str = "all") -> list[list[bytes]]:
    frames = [packed(d.counts(n), "bs16-lz4<") for n in range(2)]
    return [[head(detail), text(CONFIG), *tables()], *(image(n, f, "bs16-lz4<") for n, f in enumerate(frames)), [END]]


def test_cut_at_every_byte() -> None:
    good = series()
    bad = [[*m[:i], part[:k]] for m in good for i, part in enumerate(m) for k in range(0, len(part), 1 if part[:1] == b"{" else 97)]
    assert d.survives(V1Decoder, good, bad) > 400


def test_damaged_in_every_way() -> None:
    good = series()
    bad = [v for i, m in enumerate([*good, [head()], [text(CONFIG)]]) for v in d.damaged(m, 700, i)]
    assert len(bad) >= 3000
    assert d.survives(V1Decoder, good, bad) > 1000


# -- the fast path ---------------------------------------------------------------------------------------------------------


def test_images_go_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = V1Decoder()
    for writes in (image, compact):
        one(decoder, writes(0, bytes(768)))
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "_careful", lambda parts: pytest.fail("an ordinary image went the careful way"))
            event = one(decoder, writes(123, bytes(700)))
        assert event == FramePart(7, 123, 2, 0, 700, "raw<", (16, 24), "uint16", 0, 0, 5_000_000)


def compact(*args: Any) -> list[bytes]:
    parts = image(*args)
    return [p if i == 2 else json.dumps(json.loads(p), separators=(",", ":")).encode() for i, p in enumerate(parts)]


@pytest.mark.parametrize(
    "end", ["5}", "05}", "-5}", "5.0}", "}", "5", "5 }", " 5}", "  5}", "5}}", "5 5}", "1" * 18 + "}", "1" * 19 + "}", '5,"shape":[1,1]}']
)
def test_a_layout_that_is_known_up_to_its_size(end: str) -> None:
    decoder = V1Decoder()
    parts = image(0, bytes(768))
    one(decoder, parts)
    at = parts[1].rfind(b"768")
    parts[1] = parts[1][:at].rstrip() + end.encode()
    assert outcome(decoder, parts) == outcome(V1Decoder(), parts)


@given(data=st.data())
def test_fast_and_careful_agree(data: st.DataObject) -> None:
    def number() -> str:
        return data.draw(
            st.sampled_from(["0", "1", "17", "01", "-1", "1.0", "1e2", "123456789012345678", "1234567890123456789", "9" * 30, "null"])
        )

    def space() -> str:
        return data.draw(st.sampled_from(["", "", " ", "  ", "\n"]))

    def obj(*pairs: tuple[str, str]) -> bytes:
        chosen = list(pairs) if data.draw(st.booleans()) else data.draw(st.lists(st.sampled_from(pairs), max_size=5))
        return ("{" + f",{space()}".join(f'"{k}":{space()}{v}' for k, v in chosen) + "}" + space().strip(" ")).encode()

    quoted = st.sampled_from(['""', '"abc"', r'"\""', r'"\u0041"', '"\u00e9"', "3"])
    layout = [
        ("htype", '"dimage_d-1.0"'),
        ("shape", data.draw(st.sampled_from(["[24,16]", "[24, 16]", "[24,16,1]", "[24,0]"]))),
        ("type", data.draw(st.sampled_from(['"uint16"', '"uint8"', '"object"']))),
        ("encoding", data.draw(st.sampled_from(['"<"', '"bs16-lz4<"', r'"\u003c"', '","', r'",\"size\":5"']))),
        ("size", number()),
    ]
    decoder = V1Decoder()
    for _ in range(3):
        layout[4] = ("size", number())
        parts = [
            obj(("htype", '"dimage-1.0"'), ("series", number()), ("frame", number()), ("hash", data.draw(quoted))),
            obj(*layout),
            bytes(data.draw(st.integers(0, 20))),
            obj(("htype", '"dconfig-1.0"'), ("start_time", number()), ("stop_time", number()), ("real_time", number())),
        ]
        assert outcome(decoder, parts) == outcome(V1Decoder(), parts)


def outcome(decoder: V1Decoder, parts: list[bytes]) -> Any:
    try:
        return list(decoder.feed(parts))
    except WireError as exc:
        return str(exc)
