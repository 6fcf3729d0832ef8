"""Pixels of Merlin / Medipix3 frames: big-endian integers and the raw readout of chips ("R64"), into native integers.

A raw chip row is stored in groups of 8 bytes (one big-endian word of the readout) with the order of pixels reversed in
each group. Read as little-endian words, that is a byte swap; the two lower chips of a quad are mounted upside down, and for
these the order of the groups is reversed instead. So every depth comes down to moving 64-bit words, which compilers
turn into wide vector code: one pass over the stored bytes, in their order, straight into the frame.

Verified on real files: depth 1 (1x1 and 2x2), 12 (2x2). Depth 24 holds two 12-bit planes of the whole detector one after
the other, the more significant first: Medipix3 joins its two 12-bit counters and reads out one counter after the other. For
the quad no second recording confirms this (docs/explanation/merlin.md has the evidence).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from libstream.errors import FormatError, UsageError
from libstream.kernels.jit import kernel

_Arr = np.ndarray[Any, Any]

CHIP = 256
"""Columns of one chip, and its rows where no region of interest was set [px]."""
GAP = 2
"""Width of the cross between the chips of a quad in layout 2x2G [px]: pixels that are not there, 0."""

_INTEGERS = {"U01": np.uint8, "U08": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64}
_RAW = {1: np.uint8, 6: np.uint8, 12: np.uint16, 24: np.uint32}
_RAW_BITS = {1: 1, 6: 8, 12: 16, 24: 32}
"""Stored bits of one raw pixel."""
CODES = (*_INTEGERS, "R64")
"""Codes of pixels in frame headers."""
DEPTHS = tuple(_RAW)
"""Counter depths that raw frames can have [bit]."""

_B8, _B16, _B32 = np.uint64(8), np.uint64(16), np.uint64(32)
_M8, _M16 = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
_LOW8, _LOW32 = np.uint64(0xFF), np.uint64(0xFFFFFFFF)
_TWELVE = np.uint64(12)
_ONES = np.uint64(0x0101010101010101)
_BIT_I = np.uint64(0x8040201008040201)  # byte i keeps bit i
_BIT_7_I = np.uint64(0x0102040810204080)  # byte i keeps bit 7 - i
_FULL = np.uint64(0x7F7F7F7F7F7F7F7F)
_SEVEN = np.uint64(7)


@dataclass(frozen=True)
class Pixels:
    """How the pixels of one frame are stored.

    code: one of CODES. sig: shape (y, x) of the frame as it is handed out.
    depth: counter depth [bit], needed for R64. chips: "1x1", "2x2" or "2x2G"; matters for R64 only.
    """

    code: str
    sig: tuple[int, int]
    depth: int = 0
    chips: str = "1x1"

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise FormatError(f"unknown pixel code {self.code!r}, expected one of {', '.join(CODES)}")
        if self.code != "R64":
            return
        if self.depth not in _RAW:
            raise FormatError(f"raw frames of counter depth {self.depth} are not known, expected one of {', '.join(map(str, _RAW))} bit")
        if self.chips not in ("1x1", "2x2", "2x2G"):
            raise FormatError(
                f"raw frames of the chip arrangement {self.chips!r} cannot be put together (1x1, 2x2 and 2x2G can): the order "
                "of the chips in the raw readout of other assemblies is not documented. Record integers (U08, U16, U32) instead."
            )
        ny, nx = self.sig
        lost = self.gap
        if nx - lost != CHIP * self.across or (ny - lost) % self.across or ny <= lost:
            raise FormatError(f"raw frames of {ny} x {nx} px do not fit the chip arrangement {self.chips}")

    @property
    def across(self) -> int:
        """Chips side by side, and one above the other."""
        return 1 if self.chips == "1x1" else 2

    @property
    def gap(self) -> int:
        """Width of the cross between chips [px]."""
        return GAP if self.chips == "2x2G" else 0

    @property
    def chip_rows(self) -> int:
        """Rows of each chip."""
        return (self.sig[0] - self.gap) // self.across

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of the decoded pixels, native."""
        return np.dtype(_RAW[self.depth] if self.code == "R64" else _INTEGERS[self.code])

    @property
    def n_bytes(self) -> int:
        """Stored bytes of one frame, without its header."""
        if self.code == "R64":
            return self.across**2 * self.chip_rows * CHIP * _RAW_BITS[self.depth] // 8
        return self.sig[0] * self.sig[1] * self.dtype.itemsize

    @property
    def plain(self) -> bool:
        """True where stored bytes are the pixels themselves."""
        return self.code in ("U01", "U08")

    def decode(self, raw: _Arr, out: _Arr, first_row: int = 0) -> None:
        """Decode frames.

        raw: uint8 (n, n_bytes), stored bytes of whole frames; frames may have gaps between them.
        out: C-contiguous (n, rows, nx) of `dtype`; gets rows first_row, first_row + 1, ... of each frame.
        """
        n, rows = len(out), out.shape[1] if out.ndim == 3 else -1
        if raw.dtype != np.uint8 or raw.shape != (n, self.n_bytes) or (n and raw.strides[1] != 1):
            raise UsageError(f"raw is {raw.dtype} {raw.shape}, expected uint8 {(n, self.n_bytes)}, each row contiguous")
        if out.ndim != 3 or out.shape[2] != self.sig[1] or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise UsageError(f"out is {out.dtype} {out.shape}, expected C-contiguous {self.dtype} (n, rows, {self.sig[1]})")
        if first_row < 0 or first_row + rows > self.sig[0]:
            raise UsageError(f"rows {first_row} to {first_row + rows} are not in frames of {self.sig[0]} rows")
        if not out.size:
            return
        if self.code == "R64":
            self._unpack(raw, out, first_row)
            return
        item = self.dtype.itemsize
        row = self.sig[1] * item
        part = raw[:, first_row * row : (first_row + rows) * row]
        if item == 1:
            np.copyto(out.reshape(n, -1), part)
        else:
            words, stride = _flat(part, self.dtype)
            _SWAPS[item].cached(words, stride, out.reshape(n, -1))

    def _unpack(self, raw: _Arr, out: _Arr, first_row: int) -> None:
        words, stride = _flat(raw, np.dtype(np.uint64))
        n_words = CHIP * self.dtype.itemsize // 8
        row = self.across**2 * CHIP * _RAW_BITS[min(self.depth, 12)] // 64
        plane = self.n_bytes // 16 if self.depth == 24 else 0
        unpack, rows = _UNPACK[self.depth].cached, out.shape[1]
        if not self.gap:
            unpack(words, stride, out.view(np.uint64), self._segments(row, n_words), row, plane, self.chip_rows, first_row)
            return
        # rows with the cross in them are no whole number of words: put together without it, a frame at a time, in cache
        last = first_row + rows
        upper = slice(min(first_row, self.chip_rows), min(last, self.chip_rows))
        lower = slice(max(first_row, self.chip_rows + GAP) - GAP, max(last, self.chip_rows + GAP) - GAP)
        joined = np.empty((1, lower.stop - upper.start, 2 * CHIP), self.dtype)
        segments = self._segments(row, n_words)
        out.fill(0)
        for i in range(len(out) if joined.size else 0):
            unpack(words[i * stride :], stride, joined.view(np.uint64), segments, row, plane, self.chip_rows, upper.start)
            for part, shift in ((upper, 0), (lower, GAP)):
                source = joined[0, part.start - upper.start : part.stop - upper.start]
                dest = out[i, part.start + shift - first_row : part.stop + shift - first_row]
                dest[:, :CHIP] = source[:, :CHIP]
                dest[:, CHIP + GAP :] = source[:, CHIP:]

    def _segments(self, row_words: int, n_words: int) -> _Arr:
        """Where the pieces of stored row r go, in stored order, int64 (k, 5).

        Columns: row of the frame for r = 0, step of that row with r (-1: rotated), first word in the stored row, first and last
        word in the row of the frame. Stored rows of a quad are chips 4, 3, 2, 1: 1 and 2 are above, 3 and 4 below and rotated,
        so that chips 4 and 3 together are one row, reversed.
        """
        if self.across == 1:
            return np.array([[0, 1, 0, 0, n_words]], np.int64)
        low, chip = 2 * self.chip_rows - 1, row_words // 4
        return np.array([[low, -1, 0, 0, 2 * n_words], [0, 1, 2 * chip, n_words, 2 * n_words], [0, 1, 3 * chip, 0, n_words]], np.int64)


def _flat(raw: _Arr, dtype: np.dtype[Any]) -> tuple[_Arr, int]:
    """Rows of `raw` as one array of `dtype` words, and the words from row to row; copied only where words are not aligned."""
    n, n_bytes = raw.shape
    stride = raw.strides[0] if n > 1 else n_bytes
    item = dtype.itemsize
    if raw.ctypes.data % item or stride % item or stride < n_bytes:
        raw = np.ascontiguousarray(raw) if not raw.flags.c_contiguous or not raw.flags.aligned else raw.copy()
        stride = n_bytes
    size = (n - 1) * stride + n_bytes
    whole = np.lib.stride_tricks.as_strided(raw[0], (size,), (1,), writeable=False)
    return whole.view(dtype), stride // item


# -- big-endian integers -----------------------------------------------------------------------------------------------


@kernel
def _swap_2(words, stride, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        src, dst = words[i * stride : i * stride + out.shape[1]], out[i]
        for p in range(dst.shape[0]):
            x = src[p]
            dst[p] = (x << np.uint16(8)) | (x >> np.uint16(8))


@kernel
def _swap_4(words, stride, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        src, dst = words[i * stride : i * stride + out.shape[1]], out[i]
        for p in range(dst.shape[0]):
            x = src[p]
            x = ((x & np.uint32(0x00FF00FF)) << np.uint32(8)) | ((x >> np.uint32(8)) & np.uint32(0x00FF00FF))
            dst[p] = (x << np.uint32(16)) | (x >> np.uint32(16))


@kernel
def _swap_8(words, stride, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        src, dst = words[i * stride : i * stride + out.shape[1]], out[i]
        for p in range(dst.shape[0]):
            dst[p] = _bytes_reversed(src[p])


_SWAPS = {2: _swap_2, 4: _swap_4, 8: _swap_8}


@kernel
def _bytes_reversed(x):  # type: ignore[no-untyped-def]
    x = ((x & _M8) << _B8) | ((x >> _B8) & _M8)
    x = ((x & _M16) << _B16) | ((x >> _B16) & _M16)
    return (x << _B32) | (x >> _B32)


# -- raw readout -------------------------------------------------------------------------------------------------------
# A segment is a piece of a stored row that goes to one piece of a row of the frame: `dst`. p, q: word of `words` at which it
# begins, and the same in the less significant plane. They are unsigned: signed indices may count from the end, and the test
# for that in every access keeps loops from being vectorised.


@kernel
def _plain_1(words, p, q, dst):  # type: ignore[no-untyped-def]
    # byte j of the swapped word holds pixels 8 j to 8 j + 7, the first in bit 0
    for g in range(np.uint64(dst.shape[0] >> 3)):
        x = _bytes_reversed(words[p + g])
        eight = dst[8 * g : 8 * g + 8]
        for j in range(eight.shape[0]):
            eight[j] = (((((x >> np.uint64(8 * j)) & _LOW8) * _ONES & _BIT_I) + _FULL) >> _SEVEN) & _ONES


@kernel
def _rotated_1(words, p, q, dst):  # type: ignore[no-untyped-def]
    n = np.uint64(dst.shape[0] >> 3)
    for g in range(n):
        x = words[p + n - np.uint64(1) - g]
        eight = dst[8 * g : 8 * g + 8]
        for j in range(eight.shape[0]):
            eight[j] = (((((x >> np.uint64(8 * j)) & _LOW8) * _ONES & _BIT_7_I) + _FULL) >> _SEVEN) & _ONES


@kernel
def _plain_6_12(words, p, q, dst):  # type: ignore[no-untyped-def]
    for g in range(np.uint64(dst.shape[0])):
        dst[g] = _bytes_reversed(words[p + g])


@kernel
def _rotated_6(words, p, q, dst):  # type: ignore[no-untyped-def]
    n = np.uint64(dst.shape[0])
    for g in range(n):
        dst[n - np.uint64(1) - g] = words[p + g]


@kernel
def _rotated_12(words, p, q, dst):  # type: ignore[no-untyped-def]
    n = np.uint64(dst.shape[0])
    for g in range(n):
        x = words[p + g]
        dst[n - np.uint64(1) - g] = ((x & _M8) << _B8) | ((x >> _B8) & _M8)


@kernel
def _plain_24(words, p, q, dst):  # type: ignore[no-untyped-def]
    for g in range(np.uint64(dst.shape[0] >> 1)):
        h, x = _bytes_reversed(words[p + g]), _bytes_reversed(words[q + g])
        a = ((h & _M16) << _TWELVE) | (x & _M16)  # pixels 0 and 2 of the group
        b = (((h >> _B16) & _M16) << _TWELVE) | ((x >> _B16) & _M16)  # 1 and 3
        dst[2 * g] = (a & _LOW32) | (b << _B32)
        dst[2 * g + 1] = (a >> _B32) | (b & ~_LOW32)


@kernel
def _rotated_24(words, p, q, dst):  # type: ignore[no-untyped-def]
    n = np.uint64(dst.shape[0] >> 1)
    for g in range(n):
        h, x = words[p + n - np.uint64(1) - g], words[q + n - np.uint64(1) - g]
        h = ((h & _M8) << _B8) | ((h >> _B8) & _M8)
        x = ((x & _M8) << _B8) | ((x >> _B8) & _M8)
        a = ((h & _M16) << _TWELVE) | (x & _M16)
        b = (((h >> _B16) & _M16) << _TWELVE) | ((x >> _B16) & _M16)
        dst[2 * g] = (a & _LOW32) | (b << _B32)
        dst[2 * g + 1] = (a >> _B32) | (b & ~_LOW32)


def _unpacker(plain: Any, rotated: Any) -> Any:
    @kernel
    def unpack(words, stride, out, segments, row_words, plane, chip_rows, first_row):  # type: ignore[no-untyped-def]
        # out: (n, rows, words of a frame's row); segments: see Pixels._segments
        rows = out.shape[1]
        # stored rows that reach into [first_row, first_row + rows): all of them unless it is a band
        begin, end = chip_rows, 0
        for s in range(segments.shape[0]):
            y, step = segments[s, 0], segments[s, 1]
            lowest, highest = (first_row - y, first_row + rows - y) if step > 0 else (y - first_row - rows + 1, y - first_row + 1)
            lowest, highest = max(lowest, 0), min(highest, chip_rows)
            if lowest < highest:
                begin, end = min(begin, lowest), max(end, highest)
        for i in range(out.shape[0]):
            for r in range(begin, end):
                for s in range(segments.shape[0]):
                    y = segments[s, 0] + r * segments[s, 1] - first_row
                    if 0 <= y < rows:
                        p = np.uint64(i * stride + r * row_words + segments[s, 2])
                        dst = out[i, y, segments[s, 3] : segments[s, 4]]
                        if segments[s, 1] > 0:
                            plain(words, p, p + np.uint64(plane), dst)
                        else:
                            rotated(words, p, p + np.uint64(plane), dst)

    return unpack


_UNPACK = {
    1: _unpacker(_plain_1, _rotated_1),
    6: _unpacker(_plain_6_12, _rotated_6),
    12: _unpacker(_plain_6_12, _rotated_12),
    24: _unpacker(_plain_24, _rotated_24),
}


# -- headers of frames -------------------------------------------------------------------------------------------------


@kernel
def _check_heads(heads, stride, number, step, good):  # type: ignore[no-untyped-def]
    bad = 0
    for i in range(good.shape[0]):
        p = i * stride
        ok = heads[p] == 77 and heads[p + 1] == 81 and heads[p + 2] == 49 and heads[p + 3] == 44  # "MQ1,"
        if ok and number >= 0:
            found, digits = 0, 0
            while digits < 11 and 48 <= heads[p + 4 + digits] <= 57:
                found = 10 * found + int(heads[p + 4 + digits]) - 48
                digits += 1
            # the field has six digits at least; whether it grows or starts again beyond 999999 is not documented
            ok = digits > 0 and heads[p + 4 + digits] == 44 and (found - number - i * step) % 1000000 == 0
        good[i] = ok
        bad += not ok
    return bad


HEAD_BYTES = 16
"""Bytes of a frame's header that `check_heads` needs."""


def check_heads(raw: _Arr, number: int | None, step: int = 1) -> _Arr | None:
    """Which frames have a header that is whole and carries the number it should.

    raw: uint8 (n, >= HEAD_BYTES), beginning of the frames' records. number: of the first frame, None = any number is right.
    step: from the number of a frame to that of the next. Returns bool (n,), or None where all are good.
    """
    good = np.empty(len(raw), bool)
    if not len(raw):
        return None
    heads, stride = _flat(raw[:, :HEAD_BYTES], np.dtype(np.uint8))
    bad = _check_heads.cached(heads, stride, -1 if number is None else number, step, good)
    return good if bad else None


def warm_up() -> None:
    """Compile the decoders, or load them from the user's cache."""
    kinds = [Pixels(code, (2, 8)) for code in ("U16", "U32", "U64")]
    kinds += [Pixels("R64", (1, CHIP), depth) for depth in DEPTHS]
    for pixels in kinds:
        pixels.decode(np.zeros((1, pixels.n_bytes), np.uint8), np.empty((1, *pixels.sig), pixels.dtype))
    check_heads(np.zeros((1, HEAD_BYTES), np.uint8), None)
