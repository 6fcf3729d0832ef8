"""Receiving from ZeroMQ sockets in compiled code without the GIL, through libzmq's own functions.

pyzmq's extension module is linked with libzmq; looking a name up in that module finds the function in the very library that made
the sockets. Their addresses are arguments of the loop, so that its machine code can be kept in the cache. The twin of the loop in
Python is `_zmq_plain.PlainLoop`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import types
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libstream.ext import Kernel
from libstream.io_backends.streams._zmq_plain import BURST, LINGER_MS, LONGEST_S, STEP_MS, Taken

_Arr = np.ndarray[Any, Any]

_FUNCTIONS = (
    "zmq_msg_init", "zmq_msg_recv", "zmq_msg_data", "zmq_msg_size", "zmq_msg_more", "zmq_msg_close",
    "zmq_poll", "zmq_errno", "zmq_stopwatch_intermediate",
)  # fmt: skip
_MSG = 64
"""Bytes of a zmq_msg_t, fixed by zmq.h."""
_LONGEST_US = round(1e6 * LONGEST_S)

LANE, PARTS, BYTES, WHOLE, UNDERWAY, TOO_BIG, MESSAGES, ROWS, USED, FULL, DROPPED, ERROR, SOURCE, N_STATE = range(14)
"""Slots of the state: the socket whose turn it is; parts and bytes held; whether they are a whole message, part of one that is
underway, of one that is thrown away; what a call did; digest of this file."""


call_int: Any = None
call_recv: Any = None
call_poll: Any = None
call_word: Any = None
copy: Any = None
digest = 0


def _take(api, clock, sockets, items_at, held_at, state, stop, into_at, room, table, lanes, wait_us, max_bytes):  # type: ignore[no-untyped-def]
    """The loop; the names just above are given by `_kernel`.

    api: int64, addresses of `_FUNCTIONS`, then EAGAIN and EINTR. clock: a stopwatch of libzmq. sockets: int64 (n,), addresses.
    items_at: of n zmq_pollitem_t. held_at: of len(table) + 1 zmq_msg_t, of which state[PARTS] hold something.
    into_at, room: address and size of the buffer. Everything else as in `PlainLoop.receive`.
    """
    msg_init, msg_recv, msg_data, msg_size, msg_more, msg_close = api[0], api[1], api[2], api[3], api[4], api[5]
    poll, last_error, elapsed, eagain, eintr = api[6], api[7], api[8], api[9], api[10]
    lane, parts, size, whole, underway, too_big = state[0], state[1], state[2], state[3], state[4], state[5]
    most = table.shape[0]
    limit = most
    n, rows, used, full, dropped, error, silent, first = 0, 0, 0, 0, 0, 0, 0, -1
    start = call_word(elapsed, (clock,))
    if whole != 0 and (size > max_bytes or parts > most):  # other limits than when it came
        for p in range(parts):
            call_int(msg_close, (held_at + p * _MSG,))
        parts, size, whole, dropped = 0, 0, 0, 1
    while full == 0 and rows < limit and error == 0:
        took = 0
        for _ in range(sockets.size):
            for _ in range(BURST):
                if rows >= limit:
                    break
                if whole == 0:
                    there = False
                    while True:
                        m = held_at + parts * _MSG
                        call_int(msg_init, (m,))
                        if call_recv(msg_recv, (m, sockets[lane], 1)) < 0:  # 1 = ZMQ_DONTWAIT
                            why = call_int(last_error, ())
                            call_int(msg_close, (m,))
                            if why == eintr:
                                continue
                            if why != eagain:
                                error = why
                            break
                        underway = 1
                        more = call_int(msg_more, (m,))
                        if too_big != 0:
                            call_int(msg_close, (m,))
                        else:
                            size += call_word(msg_size, (m,))
                            parts += 1
                            if size > max_bytes or parts > most:
                                for p in range(parts):
                                    call_int(msg_close, (held_at + p * _MSG,))
                                parts, size, too_big = 0, 0, 1
                        if more == 0:
                            underway, there = 0, True
                            break
                    if not there:
                        break
                    whole = 1 - too_big
                took += 1
                if too_big != 0:
                    too_big = 0
                    dropped += 1
                    continue
                if size > room - used:
                    full = 1
                    break
                if parts > limit - rows:
                    limit = rows  # it is held for the next table
                    break
                for p in range(parts):
                    m = held_at + p * _MSG
                    k = call_word(msg_size, (m,))
                    copy(into_at + used, call_word(msg_data, (m,)), k)
                    call_int(msg_close, (m,))
                    table[rows, 0], table[rows, 1], table[rows, 2] = n, used, k
                    rows += 1
                    used += k
                lanes[n] = lane
                n += 1
                parts, size, whole = 0, 0, 0
            if full != 0 or rows >= limit or underway != 0 or error != 0:
                break
            lane = (lane + 1) % sockets.size
        now = call_word(elapsed, (clock,)) - start
        if first < 0 and (took > 0 or dropped > 0):
            first = now
        if first < 0:
            if stop[0] != 0 or now >= wait_us:
                break
            rest = call_poll(poll, (items_at, sockets.size, min(STEP_MS, max(1, (wait_us - now) // 1000))))
        else:
            silent = 0 if took > 0 else silent + 1
            if now - first > _LONGEST_US or silent > LINGER_MS:
                break
            rest = 0 if took > 0 else call_poll(poll, (items_at, sockets.size, 1))
        if rest < 0:
            why = call_int(last_error, ())
            if why == eintr:  # a signal: its handler shall run
                break
            error = why
    if sockets.size > 0 and whole == 0 and underway == 0:  # a small table must not always end in the same turn
        lane = (lane + 1) % sockets.size
    state[0], state[1], state[2], state[3], state[4], state[5] = lane, parts, size, whole, underway, too_big
    state[6], state[7], state[8], state[9], state[10], state[11], state[12] = n, rows, used, full, dropped, error, digest


def _kernel() -> Any:
    """The compiled loop, made once per process from the cache."""
    global _compiled
    if _compiled is None:
        names = {
            "call_int": _caller(32, 64),
            "call_recv": _caller(32, 64, 64, 32),
            "call_poll": _caller(32, 64, 32, 64),
            "call_word": _caller(64, 64),
            "copy": _copier(),
            "digest": zlib.crc32(Path(__file__).read_bytes()),  # that of a kernel does not see what its intrinsics do
        }
        func = types.FunctionType(_take.__code__, {**_take.__globals__, **names}, "_take")
        _compiled = Kernel(func).cached
    return _compiled


_compiled: Any = None


def _caller(result: int, *bits: int) -> Any:
    """An intrinsic `f(address, arguments) -> int64` that calls a C function at an address; sizes of integers and pointers in bits."""
    import numba
    from llvmlite import ir
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic
    def call(tc: Any, address: Any, args: Any) -> Any:
        def gen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            kinds = [ir.IntType(b) for b in bits[: len(sig.args[1])]]
            func = builder.inttoptr(values[0], ir.FunctionType(ir.IntType(result), kinds).as_pointer())
            given = []
            for kind, have, value in zip(kinds, sig.args[1], cgutils.unpack_tuple(builder, values[1]), strict=True):
                wide = context.cast(builder, value, have, numba.int64)
                given.append(builder.trunc(wide, kind) if kind.width < 64 else wide)
            got = builder.call(func, given)
            return builder.sext(got, ir.IntType(64)) if result < 64 else got

        return numba.int64(numba.int64, args), gen

    return call


def _copier() -> Any:
    """An intrinsic `copy(to, from, n)` of addresses: memcpy."""
    import numba
    from llvmlite import ir
    from numba.core import cgutils
    from numba.extending import intrinsic

    @intrinsic
    def copy(tc: Any, to: Any, source: Any, n: Any) -> Any:
        def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            byte = ir.IntType(8).as_pointer()
            cgutils.raw_memcpy(builder, builder.inttoptr(args[0], byte), builder.inttoptr(args[1], byte), args[2], 1)
            return context.get_dummy_value()

        return numba.void(numba.int64, numba.int64, numba.int64), gen

    return copy


class NativeLoop:
    """Takes messages from `sockets` in turn, like `PlainLoop`; see there.

    Raises OSError where libzmq's functions cannot be reached from here.
    """

    def __init__(self, extension: str, sockets: Sequence[Any], stop: _Arr) -> None:
        if os.name == "nt" or struct.calcsize("P") != 8:
            raise OSError(errno.ENOTSUP, "the compiled loop knows libzmq's structures of 64-bit POSIX systems only")
        self._lib = ctypes.CDLL(extension)
        try:
            functions = [ctypes.cast(getattr(self._lib, name), ctypes.c_void_p).value or 0 for name in _FUNCTIONS]
            begin = self._lib.zmq_stopwatch_start
            self._end, self._close = self._lib.zmq_stopwatch_stop, self._lib.zmq_msg_close
        except AttributeError as exc:
            raise OSError(errno.ENOTSUP, f"{extension} shows no functions of libzmq: {exc}") from exc
        self._api = np.array([*functions, errno.EAGAIN, errno.EINTR], np.int64)
        self._sockets = np.array([s.underlying for s in sockets], np.int64)
        # zmq_pollitem_t: void *socket; int fd; short events, revents
        self._items = np.array([[s, int.from_bytes(struct.pack("=ihh", 0, 1, 0), "little")] for s in self._sockets], np.int64)
        self._state, self._stop = np.zeros(N_STATE, np.int64), stop
        self._held = np.zeros((1025, _MSG), np.uint8)
        self._take = _kernel()
        begin.restype = ctypes.c_void_p
        self._end.argtypes = self._close.argtypes = [ctypes.c_void_p]
        self._clock = int(begin() or 0)
        self._warm_up()

    def _warm_up(self) -> None:
        """Compile, or load, before the first message: a call without sockets that returns at once."""
        nothing, none = np.zeros((1, 3), np.int64), np.zeros(0, np.int64)
        args = (self._api, self._clock, none, 0, 0, np.zeros(N_STATE, np.int64), np.ones(1, np.int64), 0, 0, nothing, none, 0, 0)
        self._take(*args)

    def release(self) -> None:
        """Let go of a held message, before the sockets are closed; the loop cannot be used any more."""
        for p in range(int(self._state[PARTS])):
            self._close(self._held.ctypes.data + p * _MSG)
        self._state[:] = 0
        if self._clock:
            self._end(self._clock)
            self._clock = 0

    def receive(self, into: _Arr, table: _Arr, lanes: _Arr, timeout_s: float, max_bytes: int) -> Taken:
        if len(table) >= len(self._held):
            if self._state[PARTS]:  # a held message cannot move: take it first
                table = table[: len(self._held) - 1]
            else:
                self._held = np.zeros((len(table) + 1, _MSG), np.uint8)
        at = self._items.ctypes.data, self._held.ctypes.data
        wait_us = int(1e6 * min(timeout_s, 1e6))
        state = self._state
        self._take(
            self._api, self._clock, self._sockets, *at, state, self._stop, into.ctypes.data, into.size, table, lanes, wait_us, max_bytes
        )
        _, _, _, _, _, _, n, rows, used, full, dropped, error, _ = state.tolist()
        return Taken(n, rows, used, bool(full), dropped, error)
