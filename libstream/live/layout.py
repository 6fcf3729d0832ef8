"""How the frames of a run come: in which channels and sectors, of which shapes and dtypes."""

from __future__ import annotations

from dataclasses import dataclass

from libstream.codecs import wire
from libstream.contracts.stream import FramePart, RunHeader


@dataclass(frozen=True)
class Layout:
    """Pieces of a frame: `channels` names, `sectors` of each from the top; shape and dtype of one sector by channel."""

    channels: tuple[str, ...]
    sectors: int
    shapes: tuple[tuple[int, int], ...]
    dtypes: tuple[str, ...]

    @property
    def pieces(self) -> int:
        """Parts that make a frame whole."""
        return len(self.channels) * self.sectors

    def frame_shape(self, channel: int) -> tuple[int, int]:
        """Shape (y, x) of a whole frame."""
        y, x = self.shapes[channel]
        return y * self.sectors, x

    @classmethod
    def of(cls, header: RunHeader, first: list[FramePart], sectors: int) -> Layout:
        """By the parts of the first message. Raises CodecError where they cannot be decoded."""
        for part in first:
            wire.check(part.codec, part.shape, part.dtype)
        n = max(len(header.channels), 1 + max(part.channel for part in first))
        if len(set(header.channels)) == len(header.channels) == n:
            names = tuple(header.channels)
        else:
            names = ("frames",) if n == 1 else tuple(f"channel_{i + 1}" for i in range(n))
        by_channel = {part.channel: part for part in reversed(first)}
        parts = [by_channel.get(c, first[0]) for c in range(n)]
        return cls(names, sectors, tuple(tuple(p.shape) for p in parts), tuple(p.dtype for p in parts))  # type: ignore[misc]
