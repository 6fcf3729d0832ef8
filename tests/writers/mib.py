"""Merlin .mib and .hdr files from the layout as published, pixel by pixel: shares nothing with the reader."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

_Arr = np.ndarray[Any, Any]

DTYPES = {"U01": "u1", "U08": "u1", "U16": "u2", "U32": "u4", "U64": "u8"}
RAW_DTYPES = {1: "u1", 6: "u1", 12: "u2", 24: "u4"}
CHIPS = {"1x1": 1, "2x2": 4, "2x2G": 4}
DACS = "3RX,011,511,000,000,000,000,000,000,175,010,200,125,100,100,093,100,099,030,128,004,255,140,128,191,179,511,511"


def stored_rows(frame: _Arr, layout: str) -> _Arr:
    """Rows as the chips deliver them, side by side: (chip rows, chips * 256)."""
    if layout == "1x1":
        return frame
    gap = 2 if layout == "2x2G" else 0
    h, w = (frame.shape[0] - gap) // 2, (frame.shape[1] - gap) // 2
    chip = {
        1: frame[:h, :w],
        2: frame[:h, w + gap :],
        3: np.rot90(frame[h + gap :, :w], 2),
        4: np.rot90(frame[h + gap :, w + gap :], 2),
    }
    return np.concatenate([chip[4], chip[3], chip[2], chip[1]], axis=1)


def raw_plane(rows: _Arr, depth: int) -> bytes:
    """Rows in groups of 8 bytes, pixels reversed in each group."""
    if depth == 1:
        weights = 2 ** np.arange(64, dtype=np.uint64)  # pixel i is bit i of a big-endian word
        return (rows.reshape(-1, 64) * weights).sum(axis=1, dtype=np.uint64).astype(">u8").tobytes()
    if depth == 6:
        return rows.reshape(-1, 8)[:, ::-1].astype("u1").tobytes()
    return rows.reshape(-1, 4)[:, ::-1].astype(">u2").tobytes()


def encode(frame: _Arr, code: str, depth: int = 12, layout: str = "1x1") -> bytes:
    """Stored bytes of one frame."""
    if code != "R64":
        return frame.astype(">" + DTYPES[code]).tobytes()
    rows = stored_rows(frame, layout)
    if depth == 24:
        return raw_plane(rows >> 12, 12) + raw_plane(rows & 0xFFF, 12)
    return raw_plane(rows, depth)


def frame_header(
    number: int,
    shape: tuple[int, int],
    code: str,
    depth: int = 12,
    layout: str = "1x1",
    *,
    size: int | None = None,
    counter: int = 0,
    colour: int = 0,
    exposure: int | None = None,
    extension: bool = True,
    thresholds: bool = True,
) -> bytes:
    """Header of one frame. shape: (y, x) of the frame; exposure: which one, for the time stamp (default: number)."""
    chips = CHIPS.get(layout, 1)
    size = size if size is not None else (384 if chips == 1 else 768)
    height, width = shape
    if code == "R64":
        gap = 2 if layout == "2x2G" else 0
        height = (height - gap) // (1 if chips == 1 else 2)
        width = 256 * chips * (2 if depth == 24 else 1)
    t = exposure if exposure is not None else number
    stamp = f"{t // 1000 % 60:02d}.{t % 1000:03d}000"
    text = f"MQ1,{number:06d},{size:05d},{chips:02d},{width:04d},{height:04d},{code},{layout:>6},{(1 << chips) - 1:02X},"
    text += f"2020-05-18 16:51:{stamp},0.001000,{counter},{colour},2,"
    if thresholds:
        text += "1.200000E+1,5.110000E+2" + 6 * ",0.000000E+0" + ","
        text += ",".join([DACS] * chips) + "," if size >= 384 else ""
    else:
        text += ","
    if extension:
        text += f"MQ1A,2020-05-18T14:51:{stamp}000Z,1000000ns,{depth},"
    data = text.encode()
    assert len(data) <= size, f"header of {len(data)} bytes in {size}"
    return data.ljust(size, b"\0")


def hdr(
    n_frames: int,
    depth: int = 12,
    layout: str = "1x1",
    *,
    per_trigger: int = 1,
    scan: tuple[int, int] | None = None,
    counters: str = "Counter 0",
) -> bytes:
    """Acquisition header. scan: (y, x)."""
    lines = [
        "HDR,\t",
        "Time and Date Stamp (day, mnth, yr, hr, min, s):\t18/05/2020 16:51:49",
        "Chip ID:\tW529_F5, - , - , - ",
        f"Assembly Size (NX1, 2X2):\t{layout:>6}",
        "Chip Mode  (SPM, CSM, CM, CSCM):\tSPM",
        f"Counter Depth (number):\t{depth}",
        f"Active Counters:\t{counters}",
        "Dead Time File:\tDummy (C:\\<NUL>\\)",
        f"Frames in Acquisition (Number):\t{n_frames}",
        f"Frames per Trigger (Number):\t{per_trigger}",
        "Trigger Start (Positive, Negative, Internal):\tRising Edge",
        "Sensor Bias (V):\t120 V",
    ]
    if scan is not None:
        lines += [f"ScanX:\t{scan[1]}", f"ScanY:\t{scan[0]}"]
    return ("\r\n".join([*lines, "End\t"])).encode("latin-1").ljust(2048, b" ")


def records(frames: _Arr, code: str, depth: int = 12, layout: str = "1x1", *, first: int = 1, **header: Any) -> list[bytes]:
    """Header and pixels of each frame."""
    shape = frames.shape[1:]
    return [frame_header(first + i, shape, code, depth, layout, **header) + encode(f, code, depth, layout) for i, f in enumerate(frames)]


def write(
    folder: Path,
    frames: _Arr,
    code: str,
    depth: int = 12,
    layout: str = "1x1",
    *,
    name: str = "scan",
    header: dict[str, Any] | None = None,
    **acquisition: Any,
) -> Path:
    """name.mib and name.hdr in `folder`; returns the path of the .mib file."""
    path = folder / f"{name}.mib"
    path.write_bytes(b"".join(records(frames, code, depth, layout, **(header or {}))))
    (folder / f"{name}.hdr").write_bytes(hdr(len(frames), depth, layout, **acquisition))
    return path


def write_set(
    folder: Path,
    frames: _Arr,
    code: str,
    cuts: Sequence[int],
    depth: int = 12,
    layout: str = "1x1",
    *,
    name: str = "scan",
    restart: bool = False,
    **acquisition: Any,
) -> list[Path]:
    """One scan in several files, name1.mib, name2.mib, ..., of frames [0, cuts[0]), [cuts[0], cuts[1]), ..., and name.hdr."""
    ends = [0, *cuts, len(frames)]
    paths = []
    for i, (a, b) in enumerate(pairwise(ends)):
        paths.append(folder / f"{name}{i + 1}.mib")
        paths[-1].write_bytes(b"".join(records(frames[a:b], code, depth, layout, first=1 if restart else a + 1)))
    (folder / f"{name}.hdr").write_bytes(hdr(len(frames), depth, layout, **acquisition))
    return paths


def random_frames(rng: np.random.Generator, n: int, code: str, depth: int = 12, layout: str = "1x1", rows: int = 256) -> _Arr:
    """Frames that use all bits; chips with `rows` rows. Pixels in the gap between chips are 0."""
    dtype = np.dtype(RAW_DTYPES[depth] if code == "R64" else DTYPES[code])
    side = 1 if CHIPS[layout] == 1 else 2
    gap = 2 if layout == "2x2G" else 0
    shape = (n, side * rows + gap, side * 256 + gap)
    bits = depth if code == "R64" else 1 if code == "U01" else 8 * dtype.itemsize
    frames = (
        rng.integers(0, 2**bits, shape, dtype=np.uint64).astype(dtype) if bits < 64 else rng.integers(0, 2**64 - 1, shape, dtype=np.uint64)
    )
    if gap:
        frames[:, rows : rows + gap, :] = 0
        frames[:, :, 256 : 256 + gap] = 0
    return frames
