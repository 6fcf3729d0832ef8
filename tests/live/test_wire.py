"""Payloads of the wire: encoder and decoder against each other and against other libraries, and hostile payloads."""

from __future__ import annotations

import io
import struct
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.codecs import _encode, _wire, wire
from libstream.codecs import _kernels as k
from libstream.codecs.bslz4 import default_block
from libstream.errors import CodecError, NotInstalledError, UsageError
from tests.live.payloads import decoded, pixels
from tests.writers import mib as writer

bitshuffle = pytest.importorskip("bitshuffle")
lz4 = pytest.importorskip("lz4.block")
zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

_Arr = np.ndarray[Any, Any]

DTYPES = ["u1", "u2", "u4", "u8", "i2", "f4", "f8", "c8", "?"]
MERLIN = [(code, 0, "1x1") for code in writer.DTYPES] + [("R64", d, chips) for d in (1, 6, 12, 24) for chips in ("1x1", "2x2", "2x2G")]


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[_Arr]]:
    """A codec and frames for it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 4))
    if draw(st.booleans()):
        code, depth, chips = draw(st.sampled_from(MERLIN))
        frames = writer.random_frames(rng, n, code, depth, chips, draw(st.sampled_from([1, 3])))
        return f"merlin/{code}/{depth}/{chips}", list(frames)
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    ny, nx = draw(st.integers(1, 30)), draw(st.sampled_from([1, 3, 7, 16, 64, 101]))
    high = draw(st.sampled_from(["", ">"]))
    fits = [f"bslz4/{e}{high}" for e in (1, 2, 4, 8, 16) if ny * nx * dtype.itemsize % e == 0]
    codec = draw(st.sampled_from(["raw" + (high or "<"), f"lz4{high}", f"lz4f{high}", f"zstd{high}", *fits]))
    return codec, [pixels(rng, ny * nx, dtype).reshape(ny, nx) for _ in range(n)]


@settings(max_examples=150)
@given(cases(), st.integers(0, 99), st.data())
def test_frames_come_back(case: tuple[str, list[_Arr]], seed: int, data: st.DataObject) -> None:
    codec, frames = case
    blobs = [wire.encode(codec, f) for f in frames]
    valid, parts = decoded(codec, frames[0], blobs, None, seed)
    assert valid.all()
    assert parts == [f.tobytes() for f in frames]
    a, b = sorted(data.draw(st.tuples(*[st.integers(0, frames[0].shape[0])] * 2)))
    valid, parts = decoded(codec, frames[0], blobs, (a, b), seed)
    assert valid.all()
    assert parts == [f[a:b].tobytes() for f in frames]


@pytest.mark.parametrize("codec", ["bslz4/16", "bslz4/8>", "bslz4/4"])
def test_rows_that_begin_inside_of_an_element(codec: str) -> None:
    frame = np.arange(192, dtype="u2").reshape(64, 3)
    blob = wire.encode(codec, frame)
    for a in range(0, 65, 5):
        for b in range(a, 65, 3):
            valid, parts = decoded(codec, frame, [blob, blob], (a, b))
            assert valid.all()
            assert parts == [frame[a:b].tobytes()] * 2


@given(cases(), st.integers(0, 99), st.data())
def test_a_damaged_payload_does_not_touch_its_neighbours(case: tuple[str, list[_Arr]], seed: int, data: st.DataObject) -> None:
    codec, frames = case
    blobs = [wire.encode(codec, f) for f in frames]
    i = data.draw(st.integers(0, len(frames) - 1))
    blobs[i] = blobs[i][:-1] if data.draw(st.booleans()) else b""
    valid, parts = decoded(codec, frames[0], blobs, None, seed)
    assert valid.tolist() == [j != i for j in range(len(frames))]
    assert [p for p, good in zip(parts, valid, strict=True) if good] == [f.tobytes() for j, f in enumerate(frames) if j != i]


# -- other libraries as judges -------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["u1", "u2", "u4", "u8"]), st.integers(1, 40), st.sampled_from([1, 5, 8, 61, 200]))
def test_bslz4_is_what_bitshuffle_reads_and_writes(seed: int, dtype: str, ny: int, nx: int) -> None:
    frame = pixels(np.random.default_rng(seed), ny * nx, np.dtype(dtype)).reshape(ny, nx)
    for elem in (1, 2, 4, 8):
        if frame.nbytes % elem:
            continue
        flat = frame.reshape(-1).view(f"u{elem}")
        blob = wire.encode(f"bslz4/{elem}", frame)
        assert struct.unpack(">QI", blob[:12]) == (frame.nbytes, default_block(elem))
        back = bitshuffle.decompress_lz4(np.frombuffer(blob[12:], "u1"), flat.shape, flat.dtype, default_block(elem) // elem)
        assert back.tobytes() == frame.tobytes()
        for block in (0, 128):
            theirs = bitshuffle.compress_lz4(flat, block).tobytes()
            heads = [struct.pack(">QI", frame.nbytes, block * elem)] + ([bytes(12)] if block == 0 else [])
            valid, parts = decoded(f"bslz4/{elem}", frame, [head + theirs for head in heads])
            assert valid.all()
            assert set(parts) == {frame.tobytes()}


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from([1, 5, 8, 61, 700]))
def test_lz4_is_what_lz4_reads(seed: int, ny: int, nx: int) -> None:
    frame = pixels(np.random.default_rng(seed), ny * nx, np.dtype("u2")).reshape(ny, nx)
    assert lz4.decompress(wire.encode("lz4", frame), uncompressed_size=frame.nbytes) == frame.tobytes()
    assert lz4.decompress(wire.encode("lz4>", frame), uncompressed_size=frame.nbytes) == frame.byteswap().tobytes()
    # repeated as far away as a match can point, and one byte further
    far = np.frombuffer(np.random.default_rng(seed).bytes(65534 + ny % 4) * 2, "u1").reshape(2, -1)
    assert lz4.decompress(wire.encode("lz4", far), uncompressed_size=far.nbytes) == far.tobytes()
    valid, parts = decoded("lz4", frame, [lz4.compress(frame.tobytes(), store_size=False)])
    assert valid.all()
    assert parts == [frame.tobytes()]


def test_zstd_within_bounds() -> None:
    """Other levels and checksums are read; a bomb, half a frame, and bytes behind it are refused."""
    frame = np.random.default_rng(5).poisson(1, (40, 50)).astype("u2")
    option = zstd.CompressionParameter
    good = [zstd.compress(frame, level=19), zstd.compress(frame, options={option.checksum_flag: 1, option.content_size_flag: 0})]
    wide = zstd.compress(bytes(1 << 27), options={option.window_log: 27, option.content_size_flag: 0})
    bad = [zstd.compress(bytes(10**8)), wide, good[0][:-1], good[0] + b"x", good[0] + good[1], b"", zstd.compress(b""), b"junk" * 5]
    valid, parts = decoded("zstd", frame, good + bad)
    assert valid.tolist() == [True] * 2 + [False] * len(bad)
    assert parts[:2] == [frame.tobytes()] * 2


def test_a_codec_whose_library_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    wire._zstd.module.cache_clear()
    try:
        with pytest.raises(NotInstalledError, match=r"libstream\[detectors\]"):
            wire.check("zstd", (41, 41), "u2")
    finally:
        wire._zstd.module.cache_clear()


@pytest.mark.parametrize(("codec", "filter_id"), [("bslz4/2", 32008), ("lz4f", 32004)])
@pytest.mark.parametrize("shape", [(256, 256), (37, 53), (1, 5)])
def test_hdf5_reads_the_payload_as_a_chunk(codec: str, filter_id: int, shape: tuple[int, int]) -> None:
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("hdf5plugin")
    frame = np.random.default_rng(1).poisson(0.7, shape).astype("u2")
    options = (0, 2) if filter_id == 32008 else ()
    with h5py.File(io.BytesIO(), "w") as file:
        data = file.create_dataset("d", shape, "u2", chunks=shape, compression=filter_id, compression_opts=options)
        data.id.write_direct_chunk((0, 0), wire.encode(codec, frame))
        np.testing.assert_array_equal(data[...], frame)


@pytest.mark.parametrize(("code", "depth", "chips"), MERLIN)
def test_merlin_is_what_the_published_layout_says(code: str, depth: int, chips: str) -> None:
    for frame in writer.random_frames(np.random.default_rng(2), 2, code, depth, chips):
        assert wire.encode(f"merlin/{code}/{depth}/{chips}", frame) == writer.encode(frame, code, depth, chips)


# -- what cannot be --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "shape", "dtype", "says"),
    [
        ("zip", (4, 4), "u2", "unknown codec 'zip'; known are raw<"),
        ("raw", (4, 4), "u2", "unknown codec"),
        ("bslz4/3", (4, 4), "u2", "unknown codec"),
        ("bslz4/2<", (4, 4), "u2", "unknown codec"),
        ("lz4<", (4, 4), "u2", "unknown codec"),
        ("merlin/U16", (4, 4), "u2", "unknown codec"),
        ("raw<\n", (4, 4), "u2", "unknown codec"),
        ("x" * 10_000, (4, 4), "u2", "unknown codec 'x{40}'"),
        ("bslz4/4", (3, 3), "u2", "18 bytes, no whole number of elements"),
        ("raw<", (4,), "u2", "two axes"),
        ("raw<", (0, 4), "u2", "two axes"),
        ("raw<", (-4, 4), "u2", "two axes"),
        ("raw<", (4.0, 4), "u2", "two axes"),
        ("raw<", (4, 4), "S4", "pixels are booleans, integers"),
        ("raw<", (4, 4), "O", "pixels are booleans, integers"),
        ("raw<", (4, 4), "nonsense", "no dtype of pixels"),
        ("raw<", (4, 4), "V5", "pixels are booleans, integers"),
        ("raw>", (4, 4), "f16", "big-endian numbers of 16 bytes"),
        ("merlin/U16/0/1x1", (4, 4), "u4", "pixels are uint16, not uint32"),
        ("merlin/U17/0/1x1", (4, 4), "u2", "unknown pixel code"),
        ("merlin/R64/7/1x1", (256, 256), "u1", "counter depth 7"),
        ("merlin/R64/12/4x1", (256, 1024), "u2", "cannot be put together"),
        ("merlin/R64/12/2x2", (256, 256), "u2", "do not fit"),
    ],
)
def test_combinations_that_cannot_be(codec: str, shape: Any, dtype: str, says: str) -> None:
    wire.check("raw<", (4, 4), "u2")  # a plan that is kept does not answer for what only looks like it
    for call in (wire.check, wire.warm_up):
        with pytest.raises(CodecError, match=says):
            call(codec, shape, dtype)


def test_counts_that_a_counter_cannot_hold() -> None:
    for depth, dtype in ((1, "u1"), (6, "u1"), (12, "u2"), (24, "u4")):
        frame = np.zeros((2, 256), dtype)
        frame[1, 3] = 1 << depth
        with pytest.raises(CodecError, match=f"got {1 << depth}"):
            wire.encode(f"merlin/R64/{depth}/1x1", frame)
    with pytest.raises(CodecError, match="0 or 1"):
        wire.encode("merlin/U01/0/1x1", np.full((2, 2), 2, "u1"))


@pytest.mark.parametrize(
    ("codec", "shape"), [("raw<", (2, 256)), ("bslz4/2", (2, 256)), ("lz4", (2, 256)), ("merlin/R64/12/1x1", (2, 256))]
)
def test_places_that_do_not_exist(codec: str, shape: tuple[int, int]) -> None:
    frame = np.arange(512, dtype="u2").reshape(shape)
    blob = np.frombuffer(wire.encode(codec, frame), "u1")
    out, zero = np.zeros(frame.nbytes, "u1"), [0]
    # where payloads lie is said by a decoder that reads the wire: no reason to fail the run
    n = blob.size
    for at, size in ((-1, n), (1, n), (0, -1), (0, n + 1), (2**62, 2**62), (n + 1, 0), (-(2**63), 2**63 - 1)):
        assert wire.decode(codec, shape, "u2", blob, [at], [size], out, zero).tolist() == [False]
    assert wire.decode(codec, shape, "u2", blob, zero, [blob.size], out, zero).tolist() == [True]
    assert wire.decode(codec, shape, "u2", blob, [], [], out, []).tolist() == []
    # where they go is said by the caller
    for to in (-1, 1, 2**62):
        with pytest.raises(UsageError, match="do not lie inside of out"):
            wire.decode(codec, shape, "u2", blob, zero, [blob.size], out, [to])
    for bad in (out.view("u2"), out.reshape(2, -1), out[::2]):
        with pytest.raises(UsageError, match="out is"):
            wire.decode(codec, shape, "u2", blob, zero, [blob.size], bad, zero)
    for bad in (blob.view("i1"), blob.reshape(1, -1), np.repeat(blob, 2)[::2]):
        with pytest.raises(UsageError, match="src is"):
            wire.decode(codec, shape, "u2", bad, zero, [blob.size], out, zero)
    for at, size, to in (([0, 0], [1], [0]), ([0], [1], [0, 0]), ([[0]], [[1]], [[0]])):
        with pytest.raises(UsageError, match=r"expected \(n,\)"):
            wire.decode(codec, shape, "u2", blob, at, size, out, to)
    out.setflags(write=False)
    with pytest.raises(UsageError, match="writeable"):
        wire.decode(codec, shape, "u2", blob, zero, [blob.size], out, zero)
    for rows in ((0, 3), (-1, 1), (2, 1)):
        with pytest.raises(UsageError, match="are not in frames"):
            wire.decode(codec, shape, "u2", blob, zero, [blob.size], out, zero, rows)


def test_warm_up_needs_no_payload() -> None:
    for codec, dtype in (("raw>", "u2"), ("bslz4/4>", "u2"), ("lz4f", "f4"), ("merlin/R64/6/1x1", "u1"), ("merlin/U32/0/2x2", "u4")):
        wire.warm_up(codec, (4, 256), dtype)


# -- compiled code and its twins ------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 400), st.sampled_from([1, 2, 3, 4, 8]))
def test_encoders_do_what_plain_python_does(seed: int, n: int, item: int) -> None:
    rng = np.random.default_rng(seed)
    raw = pixels(rng, n * item, np.dtype("u1")).copy()
    for encode, args in (
        (_encode.encode_bslz4, (item, int(rng.choice([8, 64, 128])) * item)),
        (_encode.encode_lz4, (0,)),
        (_encode.encode_lz4, (300,)),
    ):
        size = _encode.bound(raw.size) + 100 + 40 * (raw.size // 8 + 1)
        plain, compiled = np.zeros(size, "u1"), np.zeros(size, "u1")
        with np.errstate(over="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            m = encode(raw, *args, plain)
        assert encode.cached(raw, *args, compiled) == m
        assert plain[:m].tobytes() == compiled[:m].tobytes()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MERLIN), st.data())
def test_readers_do_what_plain_python_does(seed: int, kind: tuple[str, int, str], data: st.DataObject) -> None:
    """Plain NumPy stops at a byte out of bounds: an assignment of unequal lengths is an error."""
    code, depth, chips = kind
    rng = np.random.default_rng(seed)
    frames = writer.random_frames(rng, 2, code, depth, chips, 2)
    blobs = [writer.encode(f, code, depth, chips) for f in frames]
    rows = sorted(data.draw(st.tuples(*[st.integers(0, frames.shape[1])] * 2)))
    outs = []
    for plain in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if plain:
                patch.setattr(_wire.copy_parts, "cached", _wire.copy_parts.func, raising=False)
                for reader in _wire.READ_RAW.values():
                    patch.setattr(reader, "cached", reader.func, raising=False)
            with np.errstate(over="ignore"):
                valid, parts = decoded(f"merlin/{code}/{depth}/{chips}", frames[0], blobs, (rows[0], rows[1]))
        assert valid.all()
        outs.append(parts)
    assert outs[0] == outs[1] == [f[rows[0] : rows[1]].tobytes() for f in frames]


def test_a_batch_runs_without_the_lock_of_python() -> None:
    for kernel in (_wire.copy_parts, _wire.swap_parts, k.decode_parts, *_wire.READ_RAW.values()):
        assert kernel.cached.targetoptions["nogil"]
