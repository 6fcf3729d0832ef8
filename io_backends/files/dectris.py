"""Series of DECTRIS detectors (ARINA, ELA, QUADRO, EIGER2, PILATUS4): the master .h5, whose frames lie in linked data files.

Both formats of the FileWriter are read: "legacy" (`/entry/data/data_000001`, ... link to datasets (n, y, x)) and "v2024.2"
(`/entry/data/data`, (n, channels, y, x), a virtual dataset over the data files; each threshold is a channel here). All files of a
series are one source; frames are decoded without HDF5. See https://github.com/dectris/documentation, filewriter.

Masked pixels (`pixel_mask` > 0: gaps between modules, dead or hot ones) hold the largest value of their dtype once the detector has
applied its mask, 65535 or 4294967295, and would spoil every sum. What is done about them is the user's choice: as stored by default,
with a note; `use_pixel_mask=True` reads them as 0, "not counted"; and `meta.vendor["excluded"]` (bool, the frame's shape) can be given
to `corrections=ls.Corrections(excluded=...)`, which puts the mean of their neighbours in their place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from libstream.ext import (
    CorruptFileError,
    DataShape,
    FormatError,
    FrameReader,
    FrameSource,
    Opener,
    Region,
    SourceMeta,
    Span,
    UsageError,
    param,
)
from libstream.io_backends.files._h5open import H5Dataset, describe, has_signature, opened, sources_in_order
from libstream.io_backends.files._h5read import n_frames, opener_of
from libstream.io_backends.files._identity import local_path, source_id

_Arr = np.ndarray[Any, Any]
_NUMBERED = re.compile(r"data_\d{6}")
_DATA, _DETECTOR = "entry/data", "entry/instrument/detector"
_MARKS = (b"data_000001", b"detectorSpecific", b"DECTRIS")  # names in the tables at the head of a master


@dataclass(frozen=True)
class DectrisOptions:
    """use_pixel_mask: read masked pixels as 0 instead of the largest value of the dtype.

    allow_truncated: where a data file is missing or damaged, use the frames before it.
    """

    use_pixel_mask: bool = param(False, title="Masked pixels count 0")
    allow_truncated: bool = param(False, title="Accept missing data files")


@dataclass(frozen=True, eq=False)
class DectrisOpener:
    """Opens readers of each channel (an `Opener`). masks: flat indices of pixels that are read as 0, by channel."""

    channels: tuple[tuple[str, Opener], ...]
    masks: tuple[_Arr, ...]

    def open_reader(self, channel: str) -> FrameReader:
        """Open a reader of `channel`. Raises UsageError naming the channels there are."""
        for (name, opener), mask in zip(self.channels, self.masks, strict=True):
            if name == channel:
                reader = opener.open_reader(channel)
                return _MaskedReader(reader, mask) if mask.size else reader
        raise UsageError(f"no channel {channel!r}; there are {', '.join(repr(n) for n, _ in self.channels)}")


class _MaskedReader(FrameReader):
    """Sets pixels to 0 after reading."""

    def __init__(self, reader: FrameReader, mask: _Arr) -> None:
        self.reader, self.mask = reader, mask

    def read_into(self, out: _Arr, frames: Span, region: Region) -> _Arr | None:
        """See `FrameReader`."""
        valid = self.reader.read_into(out, frames, region)
        first = region.origin[0] * region.shape[-1]
        lo, hi = np.searchsorted(self.mask, (first, first + region.shape[0] * region.shape[-1]))
        if lo < hi and len(out):
            out.reshape(len(out), -1)[:, self.mask[lo:hi] - first] = 0
        return valid

    def view(self) -> None:
        """The file holds other values."""
        return None

    def check(self) -> None:
        """See `FrameReader`."""
        self.reader.check()

    def close(self) -> None:
        """See `FrameReader`."""
        self.reader.close()


class DectrisSource(FrameSource):
    """A series; each channel has its own pixel mask and threshold energy."""

    per_channel: dict[str, SourceMeta]

    def channel_meta(self, name: str) -> SourceMeta:
        """Description of channel `name`."""
        return self.per_channel[name]


class DectrisFormat:
    """Series of DECTRIS detectors: the master file, with all its data files as one source and each threshold as a channel.

    Masked pixels hold the largest value of the dtype and spoil sums: `use_pixel_mask=True` reads them as 0, or
    `corrections=ls.Corrections(excluded=scan.meta.vendor["excluded"])` puts the mean of their neighbours in their place.
    """

    name: ClassVar[str] = "dectris"
    suffixes: ClassVar[tuple[str, ...]] = (".h5",)
    options: ClassVar[type] = DectrisOptions

    def probe(self, head: bytes, path: str) -> float:
        """Sure where the file has the groups of a master; opened only where its name or its head promise that."""
        if not has_signature(head) or not (path.lower().endswith("_master.h5") or any(mark in head for mark in _MARKS)):
            return 0.0
        try:
            with opened(path) as h5:
                return 0.9 if _is_master(h5) else 0.0
        except (FormatError, OSError):
            return 0.0

    def open(self, uri: str, options: DectrisOptions) -> FrameSource:
        """Open a series. Raises FormatError or CorruptFileError naming the data file that is missing or damaged."""
        path = local_path(uri)
        with opened(path) as h5:
            if not _is_master(h5):
                raise FormatError(f"{path}: is no DECTRIS master file (no /entry/data/data_000001); pass format='hdf5' to open it as HDF5")
            detector = h5.get(_DETECTOR)
            names = _channels(h5)
            parts, notes = _parts(h5, path, options.allow_truncated)
            masks = {n: _mask(detector, n, parts[0]) for n in names}
            vendor = _vendor(h5)
            notes += _announced(detector, sum(n_frames(p, 2, len(names)) for p in parts))
        shape = DataShape((sum(n_frames(p, 2, len(names)) for p in parts),), parts[0].shape[-2:])
        dtype = parts[0].dtype.newbyteorder("=")
        files = [path, *(p.file.path for p in parts if p.file.path != path)]
        metas = {}
        for name in names:
            mask = masks[name]
            meta = SourceMeta(
                id=source_id(uri, self.name, list(dict.fromkeys(files))),
                shape=shape,
                dtype=dtype,
                channels=tuple(names),
                vendor=vendor if mask is None else {**vendor, "pixel_mask": mask, "excluded": mask != 0},
                notes=(*notes, *_mask_note(mask, vendor, dtype, options.use_pixel_mask)),
            )
            metas[name] = meta
        openers = tuple((name, opener_of(tuple(parts), 2, (i, len(names)))) for i, name in enumerate(names))
        used = tuple(_indices(masks[name] if options.use_pixel_mask else None) for name in names)
        source = DectrisSource(metas[names[0]], DectrisOpener(openers, used))
        source.per_channel = metas
        return source


def _is_master(h5: Any) -> bool:
    import h5py

    data = h5.get(_DATA)
    if not isinstance(data, h5py.Group) or not isinstance(h5.get(_DETECTOR), h5py.Group):
        return False
    return any(_NUMBERED.fullmatch(n) for n in data) or (isinstance(data.get("data"), h5py.Dataset) and data["data"].ndim in (3, 4))


def _channels(h5: Any) -> list[str]:
    """Names of the thresholds, in the order of the channel axis; legacy files have one."""
    data = h5[_DATA]
    if any(_NUMBERED.fullmatch(n) for n in data) or data["data"].ndim == 3:
        return ["frames"]
    n = data["data"].shape[1]
    given = data["channel"][()] if "channel" in data else []
    names = [v.decode() if isinstance(v, bytes) else str(v) for v in np.asarray(given).reshape(-1)]
    return names if len(names) == n and len(set(names)) == n else [f"threshold_{i + 1}" for i in range(n)]


# -- data files --------------------------------------------------------------------------------------------------------


def _parts(h5: Any, path: str, allow_truncated: bool) -> tuple[list[H5Dataset], tuple[str, ...]]:
    parts: list[H5Dataset] = []
    expected: int | None = None
    try:
        for part, first, last in _datasets(h5, path):
            if parts and (part.shape[1:], part.dtype) != (parts[0].shape[1:], parts[0].dtype):
                raise FormatError(
                    f"{part.where} has frames {part.shape[1:]} {part.dtype}, those of {parts[0].where} are {parts[0].shape[1:]} "
                    f"{parts[0].dtype}. Is it a file of another series?"
                )
            if expected is not None and first is not None and first != expected:
                raise CorruptFileError(
                    f"{part.where} begins with image {first}, expected {expected}: a data file is missing, or of another series"
                )
            expected = last + 1 if last is not None and first is not None and last - first + 1 == part.shape[0] else None
            parts.append(part)
    except FormatError as exc:
        if not allow_truncated or not parts:
            raise
        return parts, (f"incomplete, the frames up to here are used: {exc}",)
    if not parts:
        raise FormatError(f"{path}: links to no data. Was the series stopped before the first image?")
    return parts, ()


def _datasets(h5: Any, path: str) -> Iterator[tuple[H5Dataset, int | None, int | None]]:
    """Datasets in order, with the numbers of their first and last image where they say so."""
    import h5py

    data = h5[_DATA]
    numbered = sorted(n for n in data if _NUMBERED.fullmatch(n))
    if not numbered:
        yield from _virtual(h5, data["data"], path)
        return
    for name in numbered:
        link = data.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            target = _locate(path, link.filename, name)
            with opened(target) as other:
                if not isinstance(other.get(link.path), h5py.Dataset):
                    raise CorruptFileError(f"{target}: has no dataset {link.path}, to which {path} links. Copy the file again.")
                yield _described(other, other[link.path])
        else:
            yield _described(h5, data[name])


def _virtual(h5: Any, dset: Any, path: str) -> Iterator[tuple[H5Dataset, int | None, int | None]]:
    """Parts of the one dataset of a master in format v2024.2."""
    order = sources_in_order(dset)
    if order is None:  # all images are in the master, or HDF5 has to put them together
        yield describe(h5, dset), None, None
        return
    for i, (linked, inner, n) in enumerate(order):
        target = path if linked == "." else _locate(path, linked, f"data_{i + 1:06d}")
        with opened(target) as other:
            part = describe(other, other[inner]) if inner in other else None
        if part is None or part.shape != (n, *dset.shape[1:]):
            found = "no such dataset" if part is None else f"shape {part.shape}"
            raise CorruptFileError(f"{target}:{inner} has {found}, expected {(n, *dset.shape[1:])}. Is it a file of another series?")
        yield part, None, None


def _described(h5: Any, dset: Any) -> tuple[H5Dataset, int | None, int | None]:
    part = describe(h5, dset)
    if len(part.shape) != 3:
        raise FormatError(f"{part.where} has shape {part.shape}, expected (frames, y, x)")
    first, last = (dset.attrs.get(f"image_nr_{end}") for end in ("low", "high"))
    return part, None if first is None else int(first), None if last is None else int(last)


def _locate(path: str, linked: str, name: str) -> str:
    """The data file: where the link says, beside the master, or beside it under the master's own name (a renamed series)."""
    folder, master = os.path.split(path)
    stem = re.sub(r"_master$", "", os.path.splitext(master)[0])
    places = [os.path.join(folder, linked), os.path.join(folder, os.path.basename(linked)), os.path.join(folder, f"{stem}_{name}.h5")]
    for place in places:
        if os.path.isfile(place):
            return place
    raise FormatError(
        f"{path}: the data file {linked} is missing (looked for {', '.join(dict.fromkeys(places))}). "
        "Copy it next to the master, or pass allow_truncated=True to use the frames before it."
    )


# -- what the master says ----------------------------------------------------------------------------------------------


def _announced(detector: Any, found: int) -> tuple[str, ...]:
    specific = detector.get("detectorSpecific", {})
    numbers = [specific[n][()] if n in specific else None for n in ("nimages", "ntrigger")]
    if any(n is None or np.size(n) != 1 for n in numbers):
        return ()
    images, triggers = (int(np.asarray(n).reshape(-1)[0]) for n in numbers)
    if found in (images * triggers, triggers):  # with external enable, nimages plays no part
        return ()
    return (f"the master announces {triggers} x {images} images, the data files hold {found}: the series was stopped early",)


def _mask(detector: Any, channel: str, part: H5Dataset) -> _Arr | None:
    """Pixel mask of a channel, uint32 (y, x), None where there is none that fits."""
    import h5py

    for place in (f"{channel}_channel/pixel_mask", "detectorSpecific/pixel_mask", "pixel_mask"):
        found = detector.get(place)
        if isinstance(found, h5py.Dataset) and found.shape == part.shape[-2:] and found.dtype.kind in "iu":
            mask: _Arr = found[()].astype(np.uint32)
            mask.setflags(write=False)
            return mask
    return None


def _indices(mask: _Arr | None) -> _Arr:
    return np.zeros(0, np.int64) if mask is None else np.flatnonzero(mask)


def _mask_note(mask: _Arr | None, vendor: dict[str, Any], dtype: np.dtype[Any], used: bool) -> tuple[str, ...]:
    n = len(_indices(mask))
    if not n:
        return ()
    if used:
        return (f"{n} masked pixels are read as 0",)
    value = np.iinfo(dtype).max if dtype.kind in "iu" else "the largest value"
    applied = vendor.get("detector", {}).get("pixel_mask_applied", 1)
    state = f"hold {value}" if applied else "are not reliable"
    return (f"{n} masked pixels {state}: use_pixel_mask=True reads them as 0, Corrections(excluded=meta.vendor['excluded']) repairs them",)


def _vendor(h5: Any) -> dict[str, Any]:
    """Single values of the detector, the beam and the sample, by group; units follow in the name."""
    import h5py

    out: dict[str, Any] = {}
    for where in (_DETECTOR, f"{_DETECTOR}/detectorSpecific", "entry/instrument/beam"):
        group = h5.get(where)
        if not isinstance(group, h5py.Group):
            continue
        values = out.setdefault(where.rsplit("/", 1)[1], {})
        for name, item in group.items():
            if isinstance(item, h5py.Dataset) and item.size == 1 and not item.dtype.names:
                value = np.reshape(item[()], -1)[0]
                unit = item.attrs.get("units", "")
                unit = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
                plain = value.decode("utf-8", "replace") if isinstance(value, bytes) else value.item() if hasattr(value, "item") else value
                values[f"{name} [{unit}]" if unit else name] = plain
    return out
