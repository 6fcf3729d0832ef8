"""Any dataset of any HDF5 file: .h5, .hdf5, .nxs (NeXus), .hspy, .emd, ...

The default is the dataset that the file's NeXus `default` attributes lead to, where that is a stack of frames; otherwise the one with
most values. Axes and units are taken from NeXus, HyperSpy and EMD descriptions. Chunks are decoded by libstream where it can, in
all workers at once; HDF5 itself, with its one lock, reads only what is left.

Frames whose chunks were never written, are damaged, or lie behind the end of the file are reported as corrupt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from libstream.ext import DataShape, FrameSource, SourceMeta, UsageError, bslz4, param
from libstream.io_backends.files._h5find import axes_of, choose
from libstream.io_backends.files._h5open import describe_all, has_signature, opened
from libstream.io_backends.files._h5read import opener_of
from libstream.io_backends.files._identity import local_path, source_id


@dataclass(frozen=True)
class Hdf5Options:
    """dataset: path in the file, such as "/entry/data/data", or of a NeXus group; None = where the file's NeXus `default` leads to,
        if that is a stack of frames, else the dataset with most values.
    sig_dims: axes of a frame, the last ones of the dataset: 2 for images, 1 for spectra.
    """

    dataset: str | None = param(None, title="Dataset")
    sig_dims: int = param(2, ge=1, le=2, title="Axes of a frame")


class Hdf5Format:
    """HDF5 files: the last axes of a dataset are the frame, the others the scan; notes name the other datasets.

    Frames whose chunks were never written, are damaged, or lie behind the end of the file are reported as corrupt.
    """

    name: ClassVar[str] = "hdf5"
    suffixes: ClassVar[tuple[str, ...]] = (".h5", ".hdf5", ".nxs", ".hspy", ".emd", ".nx5", ".hdf", ".he5")
    options: ClassVar[type] = Hdf5Options

    def probe(self, head: bytes, path: str) -> float:
        """Certain that it is HDF5, and leaves room for formats that know more about the file."""
        return 0.5 if has_signature(head) else 0.0

    def warm_up(self) -> None:
        """Compile the decoders of compressed chunks."""
        bslz4.warm_up()

    def open(self, uri: str, options: Hdf5Options) -> FrameSource:
        """Open one dataset. Raises FormatError where there is none that holds frames, NotInstalledError for a missing filter."""
        path = local_path(uri)
        if options.sig_dims not in (1, 2):
            raise UsageError(f"{path}: sig_dims is the number of axes of a frame, 1 or 2, got {options.sig_dims}")
        with opened(path) as h5:
            dset, notes = choose(h5, path, options.dataset, options.sig_dims)
            parts = describe_all(h5, dset)
            stored_shape, dtype = tuple(dset.shape), parts[0].dtype
            axes, more = axes_of(dset, options.sig_dims)
            vendor: dict[str, Any] = {"dataset": dset.name}
            if getattr(h5, "swmr_mode", False):
                more += ("the file is being written: frames that come later are not seen",)
        opener = opener_of(parts, options.sig_dims)
        shape = DataShape(stored_shape[: -options.sig_dims], stored_shape[-options.sig_dims :])
        files = [path, *dict.fromkeys(f.path for part in parts for f in (part.file, *part.others) if f.path != path)]
        meta = SourceMeta(
            id=source_id(uri, self.name, files),
            shape=shape,
            dtype=dtype.newbyteorder("="),
            axes=axes,
            vendor=vendor,
            notes=(*notes, *more),
        )
        return FrameSource(meta, opener)
