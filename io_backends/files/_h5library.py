"""Frames read by HDF5 itself: virtual datasets, external storage, checksums, filters that are not undone here."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from libstream.io_backends.files._h5open import H5Dataset, need_filters, opened

_Arr = np.ndarray[Any, Any]
_DAMAGE = (OSError, RuntimeError, ValueError)  # what h5py raises for chunks that cannot be decoded


class LibraryPart:
    """Reads one dataset through h5py. All threads of a process wait for HDF5's one lock."""

    def __init__(self, dataset: H5Dataset, sig_dims: int, every: tuple[int, int]) -> None:
        self.dataset = dataset
        self.every = every
        self.nav = dataset.shape[:-sig_dims]
        need_filters(dataset)
        self._context = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._dset = stack.enter_context(opened(dataset.file.path))[dataset.name]
            self._context = stack.pop_all()

    def close(self) -> None:
        """Close the file."""
        self._context.close()

    def read(self, first: int, out: _Arr, rows: slice) -> _Arr | None:
        """Frames from `first` on into `out` (n, rows, columns). Returns False for those that HDF5 cannot decode."""
        try:
            self._read(first, out, rows)
        except _DAMAGE:  # somewhere in it: find out where
            return self._one_by_one(first, out, rows)
        return None

    def _one_by_one(self, first: int, out: _Arr, rows: slice) -> _Arr:
        good = np.ones(len(out), bool)
        for i in range(len(out)):
            try:
                self._read(first + i, out[i : i + 1], rows)
            except _DAMAGE:
                good[i] = False
        return good

    def _read(self, first: int, out: _Arr, rows: slice) -> None:
        offset, step = self.every
        if step > 1:  # a channel: its frames do not follow each other
            for i in range(len(out)):
                where = np.unravel_index(offset + step * (first + i), self.nav)
                out[i] = self._dset[(*(int(w) for w in where), rows)].reshape(out.shape[1:])
            return
        done = 0
        for box in boxes(first, first + len(out), self.nav):
            data = self._dset[(*box, rows)]
            n = math.prod(data.shape[: len(self.nav)]) if self.nav else 1
            out[done : done + n] = data.reshape(n, *out.shape[1:])
            done += n


def boxes(start: int, stop: int, nav: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cut a range of flat positions of an array of shape `nav` into boxes, in order."""
    if not nav:
        if start < stop:
            yield ()
        return
    step = math.prod(nav[1:])
    while start < stop:
        row, rest = divmod(start, step)
        if rest or stop - start < step:  # part of a row
            end = min(stop, (row + 1) * step)
            for box in boxes(rest, rest + end - start, nav[1:]):
                yield (slice(row, row + 1), *box)
            start = end
        else:
            last = stop // step
            yield (slice(row, last), *(slice(0, n) for n in nav[1:]))
            start = last * step
