"""The data files of a recording of a stream (.lsr): blocks of messages as they came, with checksums. Buffers only, no files.

The format is documented in docs/reference/recording-format.md. All numbers are little-endian, everything lies at multiples of 8.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from libstream.codecs._raw import load64
from libstream.errors import CodecError
from libstream.kernels.jit import kernel

_Arr = np.ndarray[Any, Any]

VERSION = 1
FILE_HEAD, BLOCK_HEAD = 64, 64
FILE_MAGIC, BLOCK_MAGIC = b"LSRFILE1", b"LSRBLOCK"
MAX_TABLES = 256 * 1024 * 1024
"""Most bytes of the tables of a block: more is damage (a block of the ring has at most some 100,000 parts)."""
_FILE = struct.Struct("<8sII16sqIIQQ")
_BLOCK = struct.Struct("<8sIIIIQqQQQ")
_SCAN = 4 * 1024 * 1024

MESSAGE, OFFSET, LENGTH, SUM = range(4)
"""Columns of a block's table: number of the message in the block, first byte of the part in the data, bytes, checksum."""

_P1, _P2, _P3 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_P4, _P5 = np.uint64(0x85EBCA77C2B2AE63), np.uint64(0x27D4EB2F165667C5)
_START1, _START4 = np.uint64(0x60EA27EEADC0B5D6), np.uint64(0x61C8864E7A143579)  # P1 + P2 and -P1, modulo 2**64
_S1, _S7, _S11, _S12, _S18, _S23, _S27, _S29 = (np.uint64(i) for i in (1, 7, 11, 12, 18, 23, 27, 29))
_S31, _S32, _S33, _S37, _S41, _S46, _S52, _S53, _S57, _S63 = (np.uint64(i) for i in (31, 32, 33, 37, 41, 46, 52, 53, 57, 63))
_ZERO = np.uint64(0)


@kernel
def _round(acc, value):  # type: ignore[no-untyped-def]
    acc = acc + value * _P2
    return ((acc << _S31) | (acc >> _S33)) * _P1


@kernel
def _join(acc, lane):  # type: ignore[no-untyped-def]
    return (acc ^ _round(_ZERO, lane)) * _P1 + _P4


@kernel
def _xxh64(data, at, size, out):  # type: ignore[no-untyped-def]
    """XXH64 with seed 0 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md) of data[at[i] : at[i] + size[i]]."""
    for i in range(at.size):
        p, n = at[i], size[i]
        end = p + n
        if n >= 32:
            a, b, c, d = _START1, _P2, _ZERO, _START4
            while end - p >= 32:
                a = _round(a, load64(data, p))
                b = _round(b, load64(data, p + 8))
                c = _round(c, load64(data, p + 16))
                d = _round(d, load64(data, p + 24))
                p += 32
            h = ((a << _S1) | (a >> _S63)) + ((b << _S7) | (b >> _S57)) + ((c << _S12) | (c >> _S52)) + ((d << _S18) | (d >> _S46))
            h = _join(_join(_join(_join(h, a), b), c), d)
        else:
            h = _P5
        h += np.uint64(n)
        while end - p >= 8:
            h ^= _round(_ZERO, load64(data, p))
            h = ((h << _S27) | (h >> _S37)) * _P1 + _P4
            p += 8
        if end - p >= 4:
            word = np.uint64(data[p]) | (np.uint64(data[p + 1]) << np.uint64(8)) | (np.uint64(data[p + 2]) << np.uint64(16))
            h ^= (word | (np.uint64(data[p + 3]) << np.uint64(24))) * _P1
            h = ((h << _S23) | (h >> _S41)) * _P2 + _P3
            p += 4
        while p < end:
            h ^= np.uint64(data[p]) * _P5
            h = ((h << _S11) | (h >> _S53)) * _P1
            p += 1
        h ^= h >> _S33
        h *= _P2
        h ^= h >> _S29
        h *= _P3
        out[i] = h ^ (h >> _S32)


def sums(data: _Arr, at: _Arr, size: _Arr) -> _Arr:
    """XXH64 (seed 0) of the parts data[at[i] : at[i] + size[i]] of a uint8 array, uint64 (n,). One call, without the GIL.

    Raises CodecError for a part that is not inside of `data`.
    """
    at, size = np.ascontiguousarray(at, np.int64), np.ascontiguousarray(size, np.int64)
    if at.size and (int(at.min()) < 0 or int(size.min()) < 0 or bool((at > data.size - size).any())):
        raise CodecError(f"a part lies outside of the {data.size} bytes of its block")
    view = data.view()
    view.setflags(write=False)  # one type for the compiler
    out = np.empty(at.size, np.uint64)
    _xxh64.cached(view, at, size, out)
    return out


def sum_of(data: Any) -> int:
    """XXH64 (seed 0) of a bytes-like object."""
    array = np.frombuffer(data, np.uint8)
    return int(sums(array, np.zeros(1, np.int64), np.array([array.size]))[0])


def warm_up() -> None:
    """Compile the checksum, or load it from the user's cache."""
    sum_of(b"")


# -- the start of a file -------------------------------------------------------------------------------------------------


class FileHead(NamedTuple):
    """number: of the file, from 1. session: of the connection that it was recorded in, from 1. ident: 16 bytes of the recording."""

    number: int
    session: int
    ident: bytes
    t_ns: int


def pack_file_head(head: FileHead) -> bytes:
    """The first 64 bytes of a file."""
    raw = _FILE.pack(FILE_MAGIC, VERSION, head.number, head.ident, head.t_ns, head.session, 0, 0, 0)
    return raw[:-8] + struct.pack("<Q", sum_of(raw[:-8]))


def parse_file_head(raw: bytes) -> FileHead:
    """Raises CodecError saying what is wrong."""
    if len(raw) < FILE_HEAD:
        raise CodecError(f"ends within its header ({len(raw)} of {FILE_HEAD} bytes)")
    magic, version, number, ident, t_ns, session, _, _, check = _FILE.unpack(raw[:FILE_HEAD])
    if magic[:7] != FILE_MAGIC[:7]:
        raise CodecError(f"starts with {magic!r}, expected {FILE_MAGIC!r}")
    if version != VERSION:
        raise CodecError(f"is of version {version}, this libstream reads version {VERSION}; install a newer one")
    if check != sum_of(raw[: FILE_HEAD - 8]):
        raise CodecError("its header is damaged (the checksum differs)")
    return FileHead(number, session, ident, t_ns)


# -- blocks --------------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """Some messages. start: byte of the file at which the block begins; data: at which its data begin.

    table: int64 (rows, 4), see MESSAGE; offsets count from the start of the data. lanes: int16 (n_messages,) or None.
    n_messages: messages whose bytes are all there; the table has rows of these only.
    """

    start: int
    data: int
    t_ns: int
    n_messages: int
    table: _Arr
    lanes: _Arr | None

    @property
    def n_bytes(self) -> int:
        """Bytes of the data up to the end of the last part."""
        return int((self.table[:, OFFSET] + self.table[:, LENGTH]).max()) if len(self.table) else 0


class Damage(NamedTuple):
    """Bytes [start, stop) of a file that cannot be read. tail: they are its end, as a killed writer leaves it."""

    start: int
    stop: int
    why: str
    tail: bool


def pack_block(table: _Arr, lanes: _Arr | None, n_messages: int, n_bytes: int, t_ns: int, number: int) -> bytes:
    """Header and tables of a block with `n_bytes` of data; number: of the block in its file, from 0."""
    body = np.ascontiguousarray(table, "<i8").tobytes()
    if lanes is not None:
        raw = np.ascontiguousarray(lanes, "<i2").tobytes()
        body += raw + bytes(-len(raw) % 8)
    n_lanes = 0 if lanes is None else len(lanes)
    fields = (BLOCK_MAGIC, BLOCK_HEAD + len(body), n_messages, len(table), n_lanes, n_bytes, t_ns, number, 0)
    check = sum_of(_BLOCK.pack(*fields, 0) + body)
    return _BLOCK.pack(*fields, check) + body


def blocks(read: Callable[[int, int], bytes], size: int, start: int = FILE_HEAD) -> Iterator[Block | Damage]:
    """Walk the blocks of a file of `size` bytes from byte `start` on, headers and tables only.

    read: (first byte, number of bytes) -> bytes, fewer at the end of the file. What is damaged is passed over.
    """
    at = start
    while at < size:
        found = _block(read, size, at)
        if isinstance(found, tuple) and isinstance(found[0], Block):
            if found[0].n_messages:
                yield found[0]
            if found[1] > size:
                good = found[0].data + found[0].n_bytes if found[0].n_messages else at
                yield Damage(good, size, "the last block was not finished", True)
                return
            at = found[1] + -found[1] % 8
            continue
        following = _next_magic(read, size, at + 8)
        yield Damage(at, following, str(found), following >= size)
        at = following


def _block(read: Callable[[int, int], bytes], size: int, at: int) -> tuple[Block, int] | str:
    """The block at byte `at` and the byte after its data, or why there is none."""
    raw = read(at, BLOCK_HEAD)
    if len(raw) < BLOCK_HEAD:
        return "the header of a block was not finished"
    magic, head, n_messages, n_rows, n_lanes, n_bytes, t_ns, _, _, check = _BLOCK.unpack(raw)
    if magic != BLOCK_MAGIC:
        return "no block begins here"
    lane_bytes = n_lanes * 2 + -n_lanes * 2 % 8
    if head != BLOCK_HEAD + n_rows * 32 + lane_bytes or head > MAX_TABLES or n_lanes not in (0, n_messages) or n_bytes > 1 << 48:
        return "the header of a block is damaged"
    if at + head > size:
        return "the tables of a block were not finished"
    body = read(at + BLOCK_HEAD, head - BLOCK_HEAD)
    if check != sum_of(raw[:-8] + bytes(8) + body):
        return "the tables of a block are damaged"
    table = np.frombuffer(body, "<i8", n_rows * 4).reshape(n_rows, 4)
    lanes = np.frombuffer(body, "<i2", n_lanes, n_rows * 32) if n_lanes else None
    if not _plausible(table, n_messages, n_bytes):
        return "the tables of a block make no sense"
    data = at + head
    stop = data + n_bytes
    whole = n_messages
    if stop > size:  # the writer was stopped here: messages up to the first one that is not whole
        cut = table[data + table[:, OFFSET] + table[:, LENGTH] > size, MESSAGE]
        whole = int(cut.min()) if len(cut) else n_messages
        table = table[table[:, MESSAGE] < whole]
    return Block(at, data, t_ns, whole, table, lanes), stop


def _plausible(table: _Arr, n_messages: int, n_bytes: int) -> bool:
    if not len(table):
        return True
    message, offset, length = table[:, MESSAGE], table[:, OFFSET], table[:, LENGTH]
    rising = message[0] >= 0 and message[-1] < n_messages and bool((np.diff(message) >= 0).all())
    return bool(rising and offset.min() >= 0 and length.min() >= 0 and length.max() <= n_bytes and (offset <= n_bytes - length).all())


def _next_magic(read: Callable[[int, int], bytes], size: int, at: int) -> int:
    """First byte at or after `at`, a multiple of 8, at which a block may begin; `size` where there is none."""
    while at < size:
        piece = read(at, _SCAN + 8)
        found = piece.find(BLOCK_MAGIC)
        while found >= 0 and (at + found) % 8:
            found = piece.find(BLOCK_MAGIC, found + 1)
        if found >= 0:
            return at + found
        if len(piece) < _SCAN + 8:
            return size
        at += _SCAN
    return size
