"""What a UDF is given."""

from __future__ import annotations

from typing import Any

import numpy as np

from libstream.model.shape import Region

_Arr = np.ndarray[Any, Any]


class Aux:
    """Per-position parameters of one call: `aux.<name>`, rows for the frames of the call."""

    def __init__(self, values: dict[str, _Arr]) -> None:
        self.__dict__.update(values)


class Tile:
    """Some frames, or the same rows of some frames. Valid during the call only.

    data: (n, *region.shape), read-only, native byte order, C order within a frame (frames may have gaps between them).
    index: int64 (n,), flat scan positions. coords: int64 (n, n_nav_axes), positions along the scan axes.
    region: rows of the frame that `data` holds. aux: per-position parameters.
    Frames that are corrupt or lost are never in a tile; they are counted in the coverage.
    """

    __slots__ = ("_nav", "aux", "data", "index", "region")

    def __init__(self, data: _Arr, index: _Arr, region: Region, nav: tuple[int, ...], aux: Aux) -> None:
        self.data, self.index, self.region, self._nav, self.aux = data, index, region, nav, aux

    @property
    def coords(self) -> _Arr:
        """Positions along the scan axes, int64 (n, n_nav_axes)."""
        if not self._nav:
            return np.zeros((len(self.index), 0), np.int64)
        return np.stack(np.unravel_index(self.index, self._nav), axis=-1).astype(np.int64)

    def __len__(self) -> int:
        return len(self.data)


class At:
    """Where one frame is. index: flat scan position; coords: tuple along the scan axes; aux: per-position parameters."""

    __slots__ = ("_nav", "aux", "index")

    def __init__(self, index: int, nav: tuple[int, ...], aux: Aux) -> None:
        self.index, self._nav, self.aux = index, nav, aux

    @property
    def coords(self) -> tuple[int, ...]:
        """Position along the scan axes."""
        return tuple(int(i) for i in np.unravel_index(self.index, self._nav)) if self._nav else ()
