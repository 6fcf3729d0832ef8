"""The files that are measured: made once, deterministic, kept in a folder that git ignores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.spec import Data
from tests.writers import mib

_Arr = np.ndarray[Any, Any]

GAP_BYTES = 10 * 10**9
"""Size of the file for the memory job: it has no blocks on disk, holes are read as zeros."""

AGE_S = 3600
"""How old the files pretend to be."""


class Files:
    """Files below `folder`, made when they are first asked for. `n_bytes`: of the uint16 scan; the others are smaller or equal."""

    def __init__(self, folder: Path, n_bytes: int, say: Callable[[str], None]) -> None:
        self.folder, self.n_bytes, self._say = folder, n_bytes, say
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str) -> Data:
        """One of "uint16", "uint8", "uint32", "float32", "mib", "dectris", "npy", "holes"."""
        if name in ("mib", "dectris"):
            return self._mib() if name == "mib" else self._dectris()
        if name == "npy":
            return self._npy()
        if name == "holes":
            return self._holes()
        return self._raw(name)

    # -- one function for each -----------------------------------------------------------------------------------------

    def _raw(self, dtype: str) -> Data:
        frame = (256, 256)
        share = self.n_bytes if dtype == "uint16" else self.n_bytes // 2
        scan = _scan(share, frame, np.dtype(dtype).itemsize)
        data = Data(dtype, "raw", str(self.folder / f"{dtype}-{scan[0]}x{scan[1]}.raw"), dtype, scan, frame)

        def write(path: Path) -> None:
            with path.open("wb") as f:
                for block in frames(scan, frame, np.dtype(dtype)):
                    f.write(block)

        return self._made(data, write)

    def _npy(self) -> Data:
        scan, frame = (64, 64) if self.n_bytes >= 2**27 else (8, 8), (128, 128)
        data = Data("npy", "npy", str(self.folder / f"drag-{scan[0]}x{scan[1]}.npy"), "uint16", scan, frame)

        def write(path: Path) -> None:
            with path.open("wb") as f:
                np.save(f, np.concatenate(list(frames(scan, frame, np.dtype("uint16")))).reshape(*scan, *frame))

        return self._made(data, write)

    def _mib(self) -> Data:
        frame = (512, 512)
        scan = _scan(self.n_bytes // 2, frame, 2)
        path = self.folder / f"quad-{scan[0]}x{scan[1]}.mib"
        data = Data("mib", "mib", str(path), "uint16", scan, frame)

        def write(aside: Path) -> None:
            with aside.open("wb") as f:
                first = 1
                for block in frames(scan, frame, np.dtype("uint16")):
                    f.writelines(mib.records(np.minimum(block, 4095), "R64", 12, "2x2", first=first))
                    first += len(block)
            path.with_suffix(".hdr").write_bytes(mib.hdr(scan[0] * scan[1], 12, "2x2", per_trigger=scan[1], scan=scan))

        return self._made(data, write)

    def _dectris(self) -> Data:
        frame = (256, 256)
        scan = _scan(self.n_bytes // 2, frame, 2)
        path = self.folder / f"dectris-{scan[0]}x{scan[1]}_master.h5"
        data = Data("dectris", "dectris", str(path), "uint16", scan, frame, "/entry/data/data_000001")

        def write(aside: Path) -> None:
            import h5py
            import hdf5plugin

            n = scan[0] * scan[1]
            part = path.with_name(path.name.replace("_master", "_data_000001"))
            with h5py.File(part, "w") as h5:
                stored = h5.create_dataset("entry/data/data", (n, *frame), "uint16", chunks=(1, *frame), **hdf5plugin.Bitshuffle())
                at = 0
                for block in frames(scan, frame, np.dtype("uint16")):
                    stored[at : at + len(block)] = block
                    at += len(block)
                stored.attrs["image_nr_low"], stored.attrs["image_nr_high"] = 1, n
            with h5py.File(aside, "w") as h5:
                entry = h5.create_group("entry")
                entry.attrs["NX_class"] = "NXentry"
                group = entry.create_group("data")
                group.attrs["NX_class"] = "NXdata"
                group["data_000001"] = h5py.ExternalLink(part.name, "entry/data/data")
                specific = entry.create_group("instrument/detector/detectorSpecific")
                specific["nimages"], specific["ntrigger"] = scan[1], scan[0]
                specific["x_pixels_in_detector"], specific["y_pixels_in_detector"] = frame[1], frame[0]
                entry["instrument/detector/description"] = "DECTRIS simulated"

        return self._made(data, write)

    def _holes(self) -> Data:
        frame = (256, 256)
        size = min(GAP_BYTES, 5 * self.n_bytes)
        scan = _scan(size, frame, 2)
        data = Data("holes", "raw", str(self.folder / f"holes-{scan[0]}x{scan[1]}.raw"), "uint16", scan, frame)
        return self._made(data, lambda path: (path.touch(), os.truncate(path, data.n_bytes))[0])

    def _made(self, data: Data, write: Callable[[Path], None]) -> Data:
        path = Path(data.path)
        if not path.exists():
            self._say(f"making {path.name}, {data.n_bytes / 1e9:.2f} GB of frames")
            aside = path.with_name(path.name + ".part")
            write(aside)
            aside.replace(path)
            # files that were written just now are not mapped, as they may still grow
            for part in path.parent.glob(path.stem.replace("_master", "") + "*"):
                os.utime(part, (time.time(), time.time() - AGE_S))
        return data


def _scan(n_bytes: int, frame: tuple[int, int], itemsize: int) -> tuple[int, int]:
    """The largest scan (y, x) with sides that are powers of two whose frames fit into `n_bytes`, and at least (4, 4)."""
    n = max(16, int(n_bytes / (frame[0] * frame[1] * itemsize) + 0.5))
    bits = n.bit_length() - 1
    return 1 << bits // 2, 1 << -(-bits // 2)


def frames(scan: tuple[int, int], frame: tuple[int, int], dtype: np.dtype[Any]) -> Iterator[_Arr]:
    """Blocks of frames (n, y, x), one scan row each: a bright disk on a background, Poisson counts, moved with the position."""
    rng = np.random.default_rng(5)
    y, x = np.ogrid[: frame[0], : frame[1]]
    r = np.hypot(y - (frame[0] - 1) / 2, x - (frame[1] - 1) / 2) / frame[1]
    expected = 1.5 * np.exp(-((r / 0.35) ** 2)) + 24.0 * (r < 0.2)
    noisy = rng.poisson(expected, (64, *frame)).astype(dtype)
    shifts = rng.integers(-6, 7, (scan[0] * scan[1], 2))
    pick = rng.integers(0, len(noisy), scan[0] * scan[1])
    for first in range(0, scan[0] * scan[1], scan[1]):
        yield np.stack([np.roll(noisy[pick[p]], shifts[p], (0, 1)) for p in range(first, first + scan[1])])
