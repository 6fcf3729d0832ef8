"""Any number of records for each scan position."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from libstream.errors import ShapeError


class Ragged:
    """Records in frame order: `values[offsets[i]:offsets[i + 1]]` belong to flat position i.

    values: ndarray (n_records, *extra); offsets: int64 (n_positions + 1,); nav: shape of the scan.
    `r[y, x]` gives the records of one position; `r[y]` or `r[2:4]` those of a part, as a Ragged; iteration goes over
    flat positions. Immutable.
    """

    __slots__ = ("nav", "offsets", "values")

    values: np.ndarray[Any, np.dtype[Any]]
    offsets: np.ndarray[Any, np.dtype[np.int64]]
    nav: tuple[int, ...]

    def __init__(self, values: np.ndarray[Any, Any], offsets: np.ndarray[Any, Any], nav: tuple[int, ...]) -> None:
        offsets = np.asarray(offsets, dtype=np.int64)
        n = math.prod(nav)
        if offsets.shape != (n + 1,) or offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
            raise ShapeError(
                f"ragged data of scan {nav} needs {n + 1} rising offsets from 0 to {len(values)}, "
                f"got {offsets.shape} {offsets[:1]}..{offsets[-1:]}"
            )
        self.values, self.offsets, self.nav = _frozen(values), _frozen(offsets), tuple(nav)

    @property
    def counts(self) -> np.ndarray[Any, Any]:
        """Number of records at each position, int64 array of the scan's shape."""
        return np.diff(self.offsets).reshape(self.nav)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the records."""
        return self.values.dtype

    def at(self, flat: int) -> np.ndarray[Any, Any]:
        """Records of flat position `flat`."""
        return self.values[self.offsets[flat] : self.offsets[flat + 1]]

    def __getitem__(self, index: Any) -> Any:
        picked = np.arange(math.prod(self.nav)).reshape(self.nav)[index]
        if np.ndim(picked) == 0:
            return self.at(int(picked))
        flat = picked.reshape(-1)
        counts = np.diff(self.offsets)[flat]
        values = np.concatenate([self.at(int(i)) for i in flat]) if len(flat) else self.values[:0]
        return Ragged(values, np.concatenate([[0], np.cumsum(counts)]), picked.shape)

    def __len__(self) -> int:
        return math.prod(self.nav)

    def __iter__(self) -> Any:
        return (self.at(i) for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Ragged)
            and self.nav == other.nav
            and self.values.dtype == other.values.dtype
            and np.array_equal(self.offsets, other.offsets)
            and self.values.tobytes() == other.values.tobytes()
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Ragged, (self.values, self.offsets, self.nav))

    def __repr__(self) -> str:
        return f"Ragged(nav={self.nav}, records={len(self.values)}, dtype={self.dtype})"


def _frozen(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    view = np.asarray(array).view()
    view.setflags(write=False)
    return view
