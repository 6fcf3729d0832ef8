"""bitshuffle-LZ4 and LZ4 against the packages that write them, against plain Python, and against hostile blobs."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.codecs import _kernels as k
from libstream.codecs.bslz4 import (
    BSLZ4,
    LZ4_BARE,
    LZ4_FRAMED,
    STORED,
    decode_bslz4,
    decode_lz4,
    decode_lz4_block,
    decode_parts,
    default_block,
)
from libstream.errors import CodecError, UsageError

bitshuffle = pytest.importorskip("bitshuffle")
lz4 = pytest.importorskip("lz4.block")


def encode_bslz4(array: np.ndarray, block_bytes: int = 8192) -> bytes:
    """With the bitshuffle package; its last 0 to 7 elements are stored as they are."""
    packed = bitshuffle.compress_lz4(np.ascontiguousarray(array).reshape(-1), block_bytes // array.itemsize).tobytes()
    return struct.pack(">QI", array.nbytes, block_bytes) + packed


def encode_lz4(raw: bytes, block: int) -> bytes:
    """HDF5's framing around blocks of the lz4 package; blocks that do not shrink are stored."""
    out = struct.pack(">QI", len(raw), block)
    for i in range(0, len(raw), block):
        part = raw[i : i + block]
        small = lz4.compress(part, store_size=False)
        if len(small) >= len(part):
            small = part
        out += struct.pack(">I", len(small)) + small
    return out


# small counts and empty planes, noise, runs with periods of every length: all branches of the decoder
def contents(n_bytes: int) -> st.SearchStrategy[bytes]:
    noise = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).bytes(n_bytes))
    sparse = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).poisson(0.1, n_bytes).astype("u1").tobytes())
    runs = st.binary(min_size=1, max_size=40).map(lambda unit: (unit * (n_bytes // len(unit) + 1))[:n_bytes])
    mixed = st.tuples(runs, noise, st.integers(0, n_bytes)).map(lambda t: t[0][: t[2]] + t[1][t[2] :])
    return st.one_of(st.just(bytes(n_bytes)), noise, sparse, runs, mixed)


DTYPES = ["u1", "u2", "u4", "u8", "f4", "f8", "i2", "c16", "S3", "V12"]


@st.composite
def arrays(draw: st.DrawFn, max_items: int = 6000) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    n = draw(st.one_of(st.integers(0, 40), st.integers(0, max_items)))
    return np.frombuffer(draw(contents(n * dtype.itemsize)), dtype)


blocks = st.sampled_from([0, 1, 2, 3, 16])


def block_of(array: np.ndarray, choice: int) -> int:
    return default_block(array.itemsize) if choice == 0 else 128 * choice * array.itemsize


@given(arrays(), blocks)
def test_bslz4_comes_back(array: np.ndarray, choice: int) -> None:
    out = np.empty_like(array)
    decode_bslz4(encode_bslz4(array, block_of(array, choice)), out)
    assert out.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f8"])
def test_header_of_zeros(dtype: str) -> None:
    """Some senders leave the header empty: the size is known from the announcement, the block is the default one."""
    array = np.arange(9999).astype(dtype)
    blob = encode_bslz4(array, default_block(array.itemsize))
    out = np.empty_like(array)
    decode_bslz4(bytes(12) + blob[12:], out)
    np.testing.assert_array_equal(out, array)


def test_elements_need_not_be_pixels() -> None:
    """bs8 and bs32 on 16-bit pixels, into an array that is not aligned for the elements."""
    array = np.random.default_rng(0).poisson(3, 5000).astype("u2")
    for wide in ("u1", "u4"):
        buffer = np.empty(2 * 5001, "u1")[2:].view("u2") if wide == "u4" else np.empty(5000, "u2")
        decode_bslz4(encode_bslz4(array.view(wide)), buffer, np.dtype(wide).itemsize)
        np.testing.assert_array_equal(buffer, array)


@given(arrays(), st.sampled_from([7, 64, 1000, 1 << 30]))
def test_framed_lz4_comes_back(array: np.ndarray, block: int) -> None:
    out = np.empty_like(array)
    decode_lz4(encode_lz4(array.tobytes(), block), out)
    assert out.tobytes() == array.tobytes()


@given(arrays())
def test_bare_lz4_comes_back(array: np.ndarray) -> None:
    out = np.empty_like(array)
    decode_lz4_block(lz4.compress(array.tobytes(), store_size=False), out)
    assert out.tobytes() == array.tobytes()


def test_default_blocks_are_those_of_bitshuffle() -> None:
    for item in (1, 2, 3, 4, 8, 12, 16):
        array = np.frombuffer(np.random.default_rng(item).bytes(9000 * item), f"V{item}")
        blob = struct.pack(">QI", array.nbytes, 0) + bitshuffle.compress_lz4(array, 0).tobytes()
        out = np.empty_like(array)
        decode_bslz4(blob, out)
        assert out.tobytes() == array.tobytes()


@given(st.data())
def test_parts(data: st.DataObject) -> None:
    """Any part of any blob equals that part of the whole."""
    kind = data.draw(st.sampled_from([STORED, BSLZ4, LZ4_FRAMED, LZ4_BARE]))
    dtype = np.dtype(data.draw(st.sampled_from(["u1", "u2", "u4"])))
    size = data.draw(st.integers(0, 1500))
    n = data.draw(st.integers(0, 4))
    frames = [np.frombuffer(data.draw(contents(size * dtype.itemsize)), dtype) for _ in range(n)]
    encode = {
        STORED: lambda a: a.tobytes(),
        BSLZ4: lambda a: encode_bslz4(a, 256 * dtype.itemsize),
        LZ4_FRAMED: lambda a: encode_lz4(a.tobytes(), 300),
        LZ4_BARE: lambda a: lz4.compress(a.tobytes(), store_size=False),
    }[kind]
    blobs = [encode(f) for f in frames]
    gap = data.draw(st.integers(0, 5))
    src = np.frombuffer(b"\xaa" * gap + (b"\xaa" * gap).join(blobs) + b"\xaa", "u1")
    at = gap + np.cumsum([0] + [len(b) + gap for b in blobs])[:n]
    ends = [sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size)))) for _ in range(n)]
    first, last = (np.array([e[i] for e in ends], int) * dtype.itemsize for i in (0, 1))
    to = np.cumsum([0, *(last - first)])
    out = np.full(int(to[-1]), 0xEE, "u1")
    sizes, item = np.array([len(b) for b in blobs], int), dtype.itemsize
    good = decode_parts(src, at, sizes, out, to[:n], kind=kind, item=item, total=size * item, first=first, last=last)
    assert good.all()
    assert good.shape == (n,)
    for i, frame in enumerate(frames):
        assert out[to[i] : to[i + 1]].tobytes() == frame.tobytes()[first[i] : last[i]]


def test_parts_out_of_place_are_refused() -> None:
    src, out = np.zeros(10, "u1"), np.zeros(10, "u1")
    kw = {"kind": STORED, "item": 1, "total": 5}
    for at, size, to, first, last in [
        (6, 5, 0, 0, 5),
        (-1, 5, 0, 0, 5),
        (0, 5, 6, 0, 5),
        (0, 5, 0, 3, 2),
        (0, 5, 0, 0, 6),
        (0, 5, -1, 0, 5),
        (0, -1, 0, 0, 5),
        (2**62, 2**62, 0, 0, 5),
        (0, 5, 2**62, 0, 5),
    ]:
        with pytest.raises(UsageError, match="lies outside"):
            decode_parts(src, np.array([at]), np.array([size]), out, np.array([to]), first=np.array([first]), last=np.array([last]), **kw)
    with pytest.raises(UsageError, match="an element of 4 bytes"):
        decode_parts(
            src, np.array([0]), np.array([5]), out, np.array([2]), kind=BSLZ4, item=4, total=8, first=np.array([0]), last=np.array([8])
        )


def test_errors_say_what_is_wrong() -> None:
    array = np.random.default_rng(0).poisson(5, 4000).astype("u2")
    blob = encode_bslz4(array)
    out = np.empty_like(array)
    for bad, why in [
        (blob[:5], "ends too early"),
        (blob[:-9], "ends too early"),
        (b"", "ends too early"),
        (struct.pack(">QI", 8002, 8192) + blob[12:], "announces another size"),
        (struct.pack(">QI", 8000, 8194) + blob[12:], "block size does not fit"),
        (struct.pack(">QII", 8000, 8192, 3) + b"\x00\x00\x00" + blob[30:], r"(points before|fewer bytes)"),
    ]:
        with pytest.raises(CodecError, match=why):
            decode_bslz4(bad, out)
    with pytest.raises(CodecError, match=r"is no bitshuffle-LZ4 of 4000 bytes \(\(2000,\) uint16\)"):
        decode_bslz4(blob, out[:2000])
    with pytest.raises(CodecError, match="longer than the block"):
        decode_lz4_block(lz4.compress(bytes(100), store_size=False), np.empty(50, "u1"))
    with pytest.raises(CodecError, match="points before"):
        decode_lz4_block(b"\x10a\x05\x00\x00", np.empty(50, "u1"))
    with pytest.raises(UsageError, match="C-contiguous and writeable"):
        decode_bslz4(blob, np.empty((20, 400), "u2")[:, :200])


# -- hostile blobs -----------------------------------------------------------------------------------------------------


@st.composite
def hostile(draw: st.DrawFn) -> tuple[int, bytes, int, int]:
    """(kind, blob, item, total): a good blob with bytes changed, inserted, removed, or mere noise."""
    kind = draw(st.sampled_from([BSLZ4, LZ4_FRAMED, LZ4_BARE]))
    item = draw(st.sampled_from([1, 2, 4]))
    n = draw(st.integers(0, 200))
    array = np.frombuffer(draw(contents(n * item)), f"u{item}")
    block = 64 * item
    blob = {
        BSLZ4: lambda: encode_bslz4(array, block),
        LZ4_FRAMED: lambda: encode_lz4(array.tobytes(), 100),
        LZ4_BARE: lambda: lz4.compress(array.tobytes(), store_size=False),
    }[kind]()
    edited = bytearray(blob)
    for _ in range(draw(st.integers(0, 4))):
        where = draw(st.integers(0, len(edited)))
        what = draw(st.sampled_from(["set", "insert", "cut", "drop"]))
        if what == "set" and where < len(edited):
            edited[where] = draw(st.sampled_from([0, 1, 15, 16, 127, 240, 255, draw(st.integers(0, 255))]))
        elif what == "insert":
            edited[where:where] = draw(st.binary(max_size=8))
        elif what == "cut":
            del edited[where:]
        elif what == "drop":
            del edited[where : where + draw(st.integers(1, 8))]
    if kind != LZ4_BARE and draw(st.booleans()):
        edited[:8] = bytes(8)  # no size of its own
    announced = draw(st.one_of(st.just(n), st.integers(0, n)))
    return kind, bytes(edited), item, announced * item


def run(how: object, kind: int, blob: bytes, item: int, first: int, last: int, total: int) -> tuple[int, bytes]:
    out = np.zeros(last - first, "u1")
    one, status = np.zeros(1, int), np.full(1, 255, "u1")
    src = np.frombuffer(blob, "u1")
    how(src, one, one + len(blob), kind, item, default_block(item), total, one + first, one + last, out, one, status)  # type: ignore[operator]
    return int(status[0]), out.tobytes() if status[0] == 0 else b""


@settings(max_examples=150)
@given(hostile(), st.data())
def test_compiled_code_does_what_plain_python_does(case: tuple[int, bytes, int, int], data: st.DataObject) -> None:
    """The twin stops at the first byte out of bounds (IndexError, or ValueError by NumPy), so this also shows that there is none."""
    kind, blob, item, total = case
    a, b = sorted(data.draw(st.tuples(st.integers(0, total // item), st.integers(0, total // item))))
    for first, last in ((0, total), (a * item, b * item)):
        plain = run(k.decode_parts, kind, blob, item, first, last, total)
        compiled = run(k.decode_parts.cached, kind, blob, item, first, last, total)
        assert compiled == plain


def test_twins_of_raw_moves_check_bounds() -> None:
    a = np.arange(40, dtype="u1")
    for call in (
        lambda i: k.get8(a, i + 31),
        lambda i: k.load64(a, i + 24),
        lambda i: k.store64(a, i + 24, np.uint64(0)),
        lambda i: k.splat32(a, i, np.uint64(0)),
        lambda i: k.copy32(a, i, a, 0),
        lambda i: k.copy32(a, 0, a, i),
    ):
        call(8)
        for i in (-32, 9):
            with pytest.raises(IndexError):
                call(i)


_GUARD = '''
"""Decodes mutated blobs that end right before an unreadable page, into arrays that end right before an unwritable one."""
import ctypes, mmap, sys
import numpy as np
from libstream.codecs import _kernels as k
from libstream.codecs.bslz4 import BSLZ4, LZ4_BARE, LZ4_FRAMED, default_block
from tests.unit.codecs.test_bslz4 import encode_bslz4, encode_lz4, lz4

libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE

def guarded(n):
    pages = (n + PAGE - 1) // PAGE + 2
    m = mmap.mmap(-1, pages * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(m))
    for page in (0, pages - 1):
        assert libc.mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, 0) == 0
    a = np.frombuffer(m, np.uint8)
    return a[(pages - 1) * PAGE - n : (pages - 1) * PAGE], a[PAGE : PAGE + n]

rng = np.random.default_rng(int(sys.argv[1]))
one, status = np.zeros(1, int), np.zeros(1, "u1")
seen = set()
room = guarded(64 * 1024)
target = guarded(8 * 1024)
for trial in range(int(sys.argv[2])):
    item = int(rng.choice([1, 2, 4]))
    n = int(rng.integers(0, 8192 // item))
    array = rng.poisson(rng.choice([0.02, 1, 300]), n).astype(f"u{item}")
    kind = int(rng.choice([BSLZ4, LZ4_FRAMED, LZ4_BARE]))
    blob = {BSLZ4: lambda: encode_bslz4(array, 512 * item), LZ4_FRAMED: lambda: encode_lz4(array.tobytes(), 1000),
            LZ4_BARE: lambda: lz4.compress(array.tobytes(), store_size=False)}[kind]()
    blob = np.frombuffer(blob, "u1").copy()
    for _ in range(int(rng.integers(0, 4))):
        if blob.size:
            blob[rng.integers(0, min(blob.size, 10 ** rng.integers(1, 5)))] = rng.choice([0, 255, 240, 15, rng.integers(0, 256)])
    blob = blob[: rng.integers(0, blob.size + 1)] if rng.random() < 0.2 else blob
    if rng.random() < 0.3:
        array = array[: rng.integers(0, array.size + 1)]  # another size than was announced
        if kind != LZ4_BARE:
            blob[:8] = 0
    side = trial % 2
    src = room[side][-blob.size or room[side].size :] if side == 0 else room[side][: blob.size]
    src[:] = blob
    out = target[side][target[side].size - array.nbytes :] if side == 0 else target[side][: array.nbytes]
    frozen = src.view(); frozen.setflags(write=False)
    total = array.nbytes
    k.decode_parts.cached(frozen, one, one + blob.size, kind, item, default_block(item), total, one, one + total, out, one, status)
    seen.add(int(status[0]))
assert seen >= {0, 1, 2, 3, 4}, seen
print("survived")
'''


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_nothing_is_touched_out_of_bounds() -> None:
    """The compiled code itself, next to pages whose first touch would kill the process."""
    done = subprocess.run([sys.executable, "-c", _GUARD, "1", "1500"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    assert done.stdout.strip() == "survived"


def test_the_gil_is_free_while_decoding() -> None:
    blob = lz4.compress(bytes(100_000_000), store_size=False)
    out = np.ones(100_000_000, "u1")
    decode_lz4_block(lz4.compress(b"a", store_size=False), out[:1])  # compiled before
    thread = threading.Thread(target=decode_lz4_block, args=(blob, out))
    turns = 0
    thread.start()
    while thread.is_alive():
        turns += 1
    thread.join()
    assert not out.any()
    assert turns > 1000  # a handful where the decoder holds the GIL


@given(hnp.arrays(np.uint8, st.integers(0, 30).map(lambda n: 64 * n)))
def test_unshuffle_is_the_transposition_of_bits(block: np.ndarray) -> None:
    for item in (1, 2, 3, 4, 8):
        n = block.size // item // 8 * 8
        shuffled = block[: n * item]
        bits = np.unpackbits(shuffled.reshape(8 * item, -1), axis=1, bitorder="little") if n else np.zeros((8 * item, 0), "u1")
        expected = np.packbits(bits.T, axis=1, bitorder="little").tobytes()
        out = np.empty(n * item, "u1")
        for how in (k.unshuffle, k.unshuffle.cached):
            out[:] = 0
            how(shuffled.copy(), item, np.empty(n * item, "u1"), out)
            assert out.tobytes() == expected
