"""Detector corrections as values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from libstream.errors import ShapeError, UsageError
from libstream.model.array import digest_of

_F8 = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Corrections:
    """Dark, gain and excluded pixels: `corrected = (raw - dark) * gain`, then repair.

    dark, gain: arrays of the frame's shape, or None.
    excluded: bool array of the frame's shape, or None; each True pixel is replaced by the mean of its
        good neighbours (the 8 around it, then the 24, ... until one is good).
    """

    dark: np.ndarray[Any, Any] | None = None
    gain: np.ndarray[Any, Any] | None = None
    excluded: np.ndarray[Any, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("dark", "gain"):
            if (value := getattr(self, name)) is not None:
                array = np.array(value, dtype=np.float64, order="C")  # a copy: the caller's array stays writeable, and its own
                if not np.isfinite(array).all():
                    raise UsageError(f"corrections: {name} holds values that are not finite; exclude such pixels instead")
                array.setflags(write=False)
                object.__setattr__(self, name, array)
        if self.excluded is not None:
            excluded = np.array(self.excluded, dtype=bool)
            excluded.setflags(write=False)
            object.__setattr__(self, "excluded", excluded)

    def __bool__(self) -> bool:
        return self.dark is not None or self.gain is not None or self.excluded is not None

    def check(self, sig: tuple[int, ...]) -> None:
        """Raise `ShapeError` unless every array has the frame's shape `sig`."""
        for name in ("dark", "gain", "excluded"):
            value = getattr(self, name)
            if value is not None and value.shape != tuple(sig):
                raise ShapeError(f"corrections: {name} has shape {value.shape}, the frame has {tuple(sig)}")
        if self.excluded is not None and self.excluded.all():
            raise UsageError("corrections: all pixels are excluded, none is left to repair them from")

    @cached_property
    def digest(self) -> str:
        """Hex digest of the contents."""
        parts = [(n, getattr(self, n)) for n in ("dark", "gain", "excluded")]
        return digest_of([(n, v) for n, v in parts if v is not None])

    @cached_property
    def repair(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Repair table: flat indices of bad pixels (b,), offsets (b + 1,), flat indices of their good neighbours."""
        if self.excluded is None:
            empty = np.zeros(0, np.int64)
            return empty, np.zeros(1, np.int64), empty
        shape = self.excluded.shape
        bad = np.argwhere(self.excluded)
        good_of: list[np.ndarray[Any, Any]] = []
        for pixel in bad:
            reach = 1
            while True:
                window = tuple(slice(max(0, p - reach), p + reach + 1) for p in pixel)
                good = np.argwhere(~self.excluded[window])
                if len(good):
                    start = np.array([w.start for w in window])
                    good_of.append(np.ravel_multi_index(tuple((good + start).T), shape))
                    break
                reach += 1
        counts = np.array([len(g) for g in good_of], np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        flat_bad = np.asarray(np.ravel_multi_index(tuple(bad.T), shape), np.int64)
        good_all = np.concatenate(good_of).astype(np.int64) if good_of else np.zeros(0, np.int64)
        return flat_bad, offsets, good_all

    def apply(self, frames: np.ndarray[Any, Any]) -> _F8:
        """Corrected copy of frames (..., *sig) in float64: the plain twin of the compiled path."""
        out = np.array(frames, dtype=np.float64)
        if self.dark is not None:
            out -= self.dark
        if self.gain is not None:
            out *= self.gain
        if self.excluded is not None:
            n_sig = self.excluded.ndim
            flat = out.reshape(*out.shape[: out.ndim - n_sig], -1)
            bad, offsets, good = self.repair
            for b, lo, hi in zip(bad, offsets[:-1], offsets[1:], strict=True):
                flat[..., b] = flat[..., good[lo:hi]].mean(axis=-1)
        return out

    def fold(self, mask: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], Any]:
        """(mask', offset) such that `sum(mask * corrected) == sum(mask' * raw) - offset` for each frame.

        mask: array of the frame's shape (real or complex). The weight of an excluded pixel goes to its good
        neighbours in equal parts, then gain is multiplied in, and dark gives the offset.
        """
        weights = np.array(mask, dtype=np.result_type(np.asarray(mask).dtype, np.float64))
        flat = weights.reshape(-1)
        bad, offsets, good = self.repair
        for b, lo, hi in zip(bad, offsets[:-1], offsets[1:], strict=True):
            flat[good[lo:hi]] += flat[b] / (hi - lo)
            flat[b] = 0
        if self.gain is not None:
            weights *= self.gain
        offset = (weights * self.dark).sum() if self.dark is not None else weights.dtype.type(0)
        return weights, offset
