"""A writer of Merlin .mib files (single chip, 16 bit) with their .hdr, for the demo: not the code that reads them."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

_OFFSET = 384
_COUNTER_MAX = 4095  # of the 12 bit counter whose values a U16 frame holds


class MibWriter:
    """Writes frames (y, x) one after another to `path`, as a scan (y, x); the .hdr beside it is written at the end.

    Pixels above 4095 are stored as 4095, as a 12 bit counter would. A context manager; leaving it by an exception removes the file.
    """

    def __init__(self, path: Path, scan: tuple[int, int], frame: tuple[int, int], exposure_s: float = 1e-3) -> None:
        self.path, self._scan, self._frame, self._exposure_s = path, scan, frame, exposure_s
        self._file: BinaryIO | None = None
        self._number = 0

    def __enter__(self) -> MibWriter:
        self._file = self.path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None:
            self.path.with_suffix(".hdr").write_bytes(self._acquisition_header())
        else:
            self.path.unlink(missing_ok=True)

    def write(self, frame: np.ndarray[Any, Any]) -> None:
        """Append a frame. Raises ValueError where its shape is not that of the others."""
        if frame.shape != self._frame:
            raise ValueError(f"frame {self._number} has shape {frame.shape}, this file holds frames of {self._frame}")
        if self._file is None:
            raise ValueError("the writer is not open: use it in a with statement")
        self._number += 1
        self._file.write(self._frame_header())
        self._file.write(np.minimum(frame, _COUNTER_MAX).astype(">u2").tobytes())

    def _frame_header(self) -> bytes:
        height, width = self._frame
        ms = int(self._number * self._exposure_s * 1e6)
        stamp = f"2024-01-01 {ms // 3_600_000_000:02d}:{ms // 60_000_000 % 60:02d}:{ms // 1_000_000 % 60:02d}.{ms % 1_000_000:06d}"
        thresholds = ",".join(["1.000000E+1", "5.110000E+2", *["0.000000E+0"] * 6])
        dacs = ",".join(["3RX", *["000"] * 27])
        text = (
            f"MQ1,{self._number:06d},{_OFFSET:05d},01,{width:04d},{height:04d},U16,   1x1,01,{stamp},{self._exposure_s:.6f},0,0,0,"
            f"{thresholds},{dacs},MQ1A,{stamp.replace(' ', 'T')}000Z,{int(self._exposure_s * 1e9)}ns,12,"
        )
        return text.encode("ascii").ljust(_OFFSET, b"\0")

    def _acquisition_header(self) -> bytes:
        rows = [
            "HDR,\t",
            "Time and Date Stamp (day, mnth, yr, hr, min, s):\t01/01/2024 00:00:00",
            "Chip ID:\tsimulated, - , - , - ",
            "Chip Type (Medipix 3.0, Medipix 3.1, Medipix 3RX):\tMedipix 3RX",
            "Assembly Size (NX1, 2X2):\t   1x1",
            "Counter Depth (number):\t12",
            f"Frames in Acquisition (Number):\t{self._number}",
            f"Frames per Trigger (Number):\t{self._scan[1]}",
            "Readout System:\tlibstream demo",
            f"ScanX:\t{self._scan[1]}",
            f"ScanY:\t{self._scan[0]}",
            "End\t",
        ]
        return "\r\n".join(rows).encode("latin-1").ljust(2048)
