"""Compiled UDFs over a block of frames: one call of the driver for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from libstream.errors import CancelledError
from libstream.kernels import loops
from libstream.kernels.drive import drive_words, driver
from libstream.kernels.jit import finds_frames
from libstream.kernels.loops import CANCELLED, DONE, FAILED, FIRST, INDEX, NEEDS_ROOM, USED, WANTED, Entry, fill_context
from libstream.run.block import Block
from libstream.run.buffers import Buffers
from libstream.run.calls import Call, State
from libstream.run.correct import Converter

_Arr = np.ndarray[Any, Any]

SCATTERED = 4
"""Runs of fewer frames, on average, are gathered to tiles (a random tenth of a scan: 0.6 to 0.7 of the rate of all, 0.3 otherwise)."""


class Lanes:
    """Contexts of the compiled UDFs of one channel over one partition; used by one thread.

    Converters come first, each once: they fill a buffer with the tile that the UDFs after them read.
    """

    def __init__(
        self,
        calls: Mapping[str, Call],
        states: Mapping[str, State],
        converters: Mapping[str, Converter | None],
        sig: tuple[int, ...],
        depth: int,
        bands: list[tuple[int, int]],
        buffers: Buffers,
        entries: Mapping[Any, Entry] | None = None,
    ) -> None:
        """entries: those of the converters, by their keys."""
        self.calls, self.states = list(calls.values()), [states[k] for k in calls]
        self.depth, self.bands, self.buffers = depth, np.array(bands, np.int64), buffers
        # frames that lie apart are copied together for kernels that sum over the scan, or compute much, several frames at a time
        self.gathers = len(bands) == 1 and any(
            c.kind == "process_tile" and (c.udf.tile_cost >= 2.5 or any(o.kind == "sig" for o in c.outputs.values())) for c in self.calls
        )
        self.gathered = np.zeros((0, *sig), np.uint8)
        # others find frames wherever they are
        self.finds = all(converters[c.key] is not None or c.kind == "process_frame" or finds_frames(c.hook) for c in self.calls)
        self.table = np.zeros(depth if self.finds else 0, np.int64)
        used = {c.key: c for k in calls if (c := converters[k]) is not None}
        self.first = len(used)
        self._kept: list[tuple[_Arr, list[_Arr]]] = []
        all_entries = [(entries or {})[key] for key in used] + [c.entry for c in self.calls]
        n = len(all_entries)
        self.addresses = np.array([e.address for e in all_entries], np.int64)
        self.contexts = np.zeros((n, max(e.n_slots for e in all_entries)), np.int64)
        self.sources, self.strides, self.row_strides = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.native = np.ones(n, bool)
        if len(sig) == 2:
            self.contexts[:, loops.ROW_SHAPE] = sig[1]
        made: dict[Any, _Arr] = {}
        for u, filler in enumerate(used.values()):
            made[filler.key] = out = buffers.get(f"convert{filler.key}", (depth, *sig), filler.dtype)
            arrays = list(filler.arrays(out).values())
            self._kept.append((out, arrays))
            fill_context(self.contexts[u], filler.args(sig), arrays)
        for u, key in enumerate(calls, self.first):
            converter = converters[key]
            if converter is not None:
                out = made[converter.key]
                self.native[u] = False
                self.sources[u] = ~out.ctypes.data
                self.strides[u], self.row_strides[u] = out.strides[0], out.strides[1]

    def run(self, block: Block, cancel: _Arr) -> None:
        """Process the frames of `block` (whole rows of the frame, as the bands say)."""
        if not len(block.index):
            return
        data, native = block.data, self.native
        gather = np.array([0, data.ctypes.data, data.strides[0], data.itemsize * math.prod(data.shape[1:]), 0], np.int64)
        seen = data
        if self.finds and len(block.runs) > 1:
            gather[4] = self.table.ctypes.data
        elif self.gathers and SCATTERED * len(block.runs) > len(block.index):
            self.gathered = seen = self.buffers.get("gathered", (self.depth, *data.shape[1:]), data.dtype)
            gather[0] = seen.ctypes.data
        self.sources[native] = ~seen.ctypes.data if seen is not data else seen.ctypes.data
        self.strides[native] = seen.strides[0]
        self.row_strides[native] = seen.strides[1]
        self.row_strides[: self.first] = 0
        index = np.ascontiguousarray(block.index)
        self.contexts[:, INDEX] = index.ctypes.data
        held = [self._fill(i, index) for i in range(len(self.calls))]
        at = np.array([0, -1, 0, 0, 0, 0], np.int64)
        runs = np.ascontiguousarray(block.runs, np.int64)
        words = drive_words(
            self.addresses, self.contexts, self.sources, self.strides, self.row_strides, runs, self.depth, self.bands, cancel,
            int(block.k), gather, at,
        )  # fmt: skip
        while True:
            status = driver()(words.ctypes.data)
            if status == DONE:
                break
            if status == NEEDS_ROOM:
                i = int(at[3]) - self.first
                ctx = self.contexts[at[3]]
                self.states[i].used = int(ctx[USED])
                self.calls[i].make_room(self.states[i], int(ctx[WANTED]), block.k + int(at[4]) + int(ctx[FIRST]))
                held[i] = self._fill(i, index)
            elif status == FAILED:
                raise self._failure(block, index, at, bool(gather[4]))
            elif status == CANCELLED:
                raise CancelledError("cancelled")
            else:
                raise RuntimeError(f"the compiled loop stopped with status {status}; this is a fault of libstream")
        for i, call in enumerate(self.calls):
            if call.ragged:
                self.states[i].used = int(self.contexts[self.first + i, USED])

    def _fill(self, i: int, index: _Arr) -> list[Any]:
        """Write the arguments of call `i`; returns what has to stay alive."""
        call, state, ctx = self.calls[i], self.states[i], self.contexts[self.first + i]
        values = call.kernel_values(state, index)
        fill_context(ctx, call.args, values)
        if call.ragged:
            ctx[USED] = state.used
            ctx[loops.COUNTS] = state.arrays["#counts"].ctypes.data
        return values

    def _failure(self, block: Block, index: _Arr, at: _Arr, scattered: bool) -> Exception:
        a, i, b, u, r, m = at.tolist()
        y0, y1 = self.bands[b].tolist()
        if u < self.first:
            raise RuntimeError("a converter failed; this is a fault of libstream")
        call = self.calls[u - self.first]
        data = block.data[i : i + m] if self.sources[u] >= 0 else self._buffer_of(u)[:m]
        if scattered and self.sources[u] >= 0:
            rows = np.concatenate([np.arange(start, stop) for start, stop in block.runs[a:]])
            data = block.data[rows[rows >= i][:m]]
        return call.failure_in(data[:, y0:y1], index[r : r + m], y0)

    def _buffer_of(self, u: int) -> _Arr:
        buffers = [self.gathered] if self.native[u] else [out for out, _ in self._kept]
        return next(out for out in buffers if out.ctypes.data == ~int(self.sources[u]))
