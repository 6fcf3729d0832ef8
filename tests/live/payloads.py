"""Payloads in all codecs, laid out as in a ring, and damaged in all ways: what the tests of `libstream.codecs.wire` share."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.codecs import wire

_Arr = np.ndarray[Any, Any]
GUARD = 64

CODECS: list[tuple[str, tuple[int, int], str]] = [
    ("raw<", (7, 33), "u2"),
    ("raw>", (7, 33), "u4"),
    ("bslz4/2", (16, 33), "u2"),
    ("bslz4/1>", (16, 33), "u2"),
    ("bslz4/4", (16, 34), "u2"),
    ("lz4", (16, 33), "u2"),
    ("lz4f>", (16, 33), "u2"),
    ("zstd", (16, 33), "u2"),
    ("merlin/U16/0/1x1", (3, 33), "u2"),
    ("merlin/R64/1/1x1", (2, 256), "u1"),
    ("merlin/R64/6/2x2G", (6, 514), "u1"),
    ("merlin/R64/12/2x2", (4, 512), "u2"),
]


def mutate(rng: np.random.Generator, blob: bytes) -> bytes:
    """The blob with some bytes changed, inserted or removed, or mere noise."""
    if rng.random() < 0.05:
        return rng.bytes(int(rng.integers(0, 200)))
    edited = bytearray(blob)
    for _ in range(int(rng.integers(1, 4))):
        where = int(rng.integers(0, min(len(edited), 10 ** int(rng.integers(1, 5))) + 1))
        what = rng.integers(5)
        if what <= 2 and where < len(edited):
            edited[where] = int(rng.choice([0, 1, 15, 127, 240, 255, rng.integers(256)]))
        elif what == 3:
            edited[where:where] = rng.bytes(int(rng.integers(1, 8)))
        else:
            del edited[where : where + int(rng.choice([1, 4, 1 << 20]))]
    if rng.random() < 0.2:
        edited[:12] = bytes(12)
    return bytes(edited)


def pixels(rng: np.random.Generator, n: int, dtype: np.dtype[Any]) -> _Arr:
    """Contents that take all branches of encoders: empty, few counts, runs, noise."""
    size = n * dtype.itemsize
    what = rng.integers(4)
    unit = rng.bytes(int(rng.integers(1, 40)))
    raw = [
        lambda: bytes(size),
        lambda: rng.poisson(0.1, size).astype("u1").tobytes(),
        lambda: (unit * (size // len(unit) + 1))[:size],
        lambda: rng.bytes(size),
    ][what]()
    return np.frombuffer(bytes(b & 1 for b in raw) if dtype.kind == "b" else raw, dtype)


def lay_out(rng: np.random.Generator, blobs: list[bytes]) -> tuple[_Arr, _Arr, _Arr]:
    """Payloads with gaps of any length between them, as they lie in a ring: src, at, size."""
    parts, at, pos = [], [], 0
    for blob in blobs:
        gap = rng.bytes(int(rng.integers(0, 20)))
        parts += [gap, blob]
        at.append(pos + len(gap))
        pos += len(gap) + len(blob)
    return np.frombuffer(b"".join([*parts, b"end"]), "u1"), np.array(at), np.array([len(b) for b in blobs])


def decoded(codec: str, like: _Arr, blobs: list[bytes], rows: tuple[int, int] | None = None, seed: int = 0) -> tuple[_Arr, list[bytes]]:
    """valid and the bytes of each part; fails where a byte outside of the parts was written."""
    rng = np.random.default_rng(seed)
    src, at, size = lay_out(rng, blobs)
    a, b = rows or (0, like.shape[0])
    part = (b - a) * like.shape[1] * like.itemsize
    # parts anywhere, in any order, not even aligned
    step = part + GUARD + int(rng.choice([0, 1, 8]))
    to = GUARD + rng.permutation(len(blobs)) * step + int(rng.integers(3)) * (seed % 2)
    out = np.full(len(blobs) * step + 2 * GUARD, 0xEE, "u1")
    valid = wire.decode(codec, like.shape, like.dtype, src, at, size, out, to, rows)
    assert valid.dtype == bool
    assert valid.shape == (len(blobs),)
    touched = np.ones(out.size, bool)
    for p in to:
        touched[p : p + part] = False
    assert (out[touched] == 0xEE).all()
    return valid, [out[p : p + part].tobytes() for p in to]


def hostile_frame(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> _Arr:
    """Few counts; nothing in the cross between chips, which is not stored."""
    frame = rng.poisson(0.2, shape).clip(0, 1).astype(dtype)
    if shape[1] == 514:
        frame[2:4], frame[:, 256:258] = 0, 0
    return frame
