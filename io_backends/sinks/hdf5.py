"""The result file: HDF5, laid out so that NeXus viewers open it, and read back bit for bit.

    /                                  NXroot: libstream_format = 1, libstream_run = provenance (JSON), libstream_result (JSON)
    /results                           NXentry
    /results/<key>                     NXprocess: libstream_outputs = declarations, axes and order (JSON)
    /results/<key>/<output>            NXdata: `data` (signal), its axes with units, `valid`; a ragged output has `values`
                                       and `offsets`, and `counts` as the signal
    /coverage                          NXdata: `status` with its legend, `valid`
    /params/<key>/<name>               array parameters

Names that HDF5 does not allow ("/", ".") are percent-encoded. There are no pickles, and no links to other files are followed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np

from libstream.ext import Axis, Coverage, DataShape, FormatError, LibstreamError, Output, Outputs, Ragged, Result, SaveError
from libstream.io_backends.sinks._aside import written_aside
from libstream.io_backends.sinks._json import (
    axis_from_json,
    axis_to_json,
    dtype_from_json,
    dtype_to_json,
    output_from_json,
    output_to_json,
    plain,
)

_Arr = np.ndarray[Any, Any]

FORMAT = 1
"""Raised when a file can no longer be read by the version before."""
STATUS = ("unseen", "processed", "corrupt", "dropped", "missing", "excluded")
"""Meaning of the codes in `/coverage/status`: the index is the code."""
_OVERHEAD = 16_384  # bytes of HDF5's own tables, measured for one UDF with two outputs: 9 to 12 kB

_MOST_DEFLATED = 1100  # gzip shrinks at most 1032 times; a result file that somebody repacked is read too


class Hdf5ResultSink:
    """Result files that keep everything: arrays, declarations, coverage, provenance."""

    name: ClassVar[str] = "hdf5"
    suffixes: ClassVar[tuple[str, ...]] = (".h5", ".hdf5", ".nxs")

    def save(self, result: Result, path: Path) -> None:
        """Write `result` to `path`; an older result file of that name is replaced, any other file is refused.

        Raises SaveError: no space, no permission, no such folder, an output of Python objects. Nothing half-written stays.
        """
        import h5py

        path = Path(path)
        _refuse_foreign(path)
        with written_aside(path, _n_bytes(result)) as file:
            try:
                with h5py.File(file, "w") as h5:
                    _write(h5, result)
            except (TypeError, ValueError, KeyError, RuntimeError, OSError) as exc:
                if isinstance(exc, SaveError) or file.failure is not None:
                    raise
                raise SaveError(f"cannot save {path}: {exc}") from exc

    def check(self, path: Path) -> None:
        """Raise SaveError where `save` would refuse `path`: no such folder, or a file that is no result."""
        path = Path(path)
        if not path.absolute().parent.is_dir():
            raise SaveError(f"cannot save {path}: there is no folder {path.parent}")
        _refuse_foreign(path)

    def load(self, path: Path) -> Result:
        """Read a result file. Raises FormatError where it is none, is damaged, or comes from a newer libstream."""
        import h5py

        path = Path(path)
        if not path.is_file():
            raise FormatError(f"{path}: no such file, so no result can be loaded")
        try:
            with h5py.File(path, "r") as h5:
                _check_format(h5, path)
                return _read(h5)
        except FormatError:
            raise
        except (LibstreamError, OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, MemoryError, OverflowError) as exc:
            if not h5py.is_hdf5(path):
                raise FormatError(f"{path} is no HDF5 file, so it is no result of libstream; open data files with libstream.open") from exc
            raise FormatError(f"{path}: this result file is damaged or incomplete ({exc}); copy it again or make it anew") from exc


# -- writing -----------------------------------------------------------------------------------------------------------


def _write(h5: Any, result: Result) -> None:
    head = {
        "generation": result.generation,
        "version": result.version,
        "final": result.final,
        "order": list(result.udfs),
        "params": list(result.params),
        "changed": [[*names, *rows] for names, rows in result.changed.items()],
    }
    h5.attrs.update({"NX_class": "NXroot", "creator": "libstream", "libstream_format": FORMAT})
    # NaN and Infinity are kept as Python writes them: a provenance is to come back as it was
    h5.attrs["libstream_run"] = json.dumps(dict(result.run), default=plain)
    h5.attrs["libstream_result"] = json.dumps(head)
    valid = _write_coverage(h5, result.coverage)
    entry = _group(h5, "results", "NXentry")
    for key, outputs in result.udfs.items():
        _write_outputs(entry, key, outputs, valid)
    params = _group(h5, "params", "NXcollection")
    for name, array in result.params.items():
        key, _, field = name.rpartition("/")
        holder = params if not key else _group(params, _h5_name(key), "NXcollection")
        _put(holder, _h5_name(field), np.asarray(array))
    _set_default(h5, "results" if result.udfs else "coverage")
    if result.udfs:
        _set_default(entry, _h5_name(next((k for k, v in result.udfs.items() if len(v)), next(iter(result.udfs)))))


def _write_coverage(h5: Any, coverage: Coverage) -> Any:
    group = _group(h5, "coverage", "NXdata")
    status = _put(group, "status", np.asarray(coverage.status))
    legend = {name: code for code, name in enumerate(STATUS)}
    status.attrs.update({"legend": json.dumps(legend), "long_name": "status of each scan position"})
    status.attrs.update({"flag_values": np.arange(len(STATUS), dtype=np.uint8), "flag_meanings": " ".join(STATUS)})
    for name, count in coverage.counts.items():
        group.attrs[f"n_{name}"] = count
    group.attrs["signal"] = "status"
    return _put(group, "valid", np.asarray(coverage.valid))


def _write_outputs(entry: Any, key: str, outputs: Outputs, valid: Any) -> None:
    group = _group(entry, _h5_name(key), "NXprocess")
    arrays: dict[str, Any] = {}
    for name, data in outputs.items():
        declared = outputs.declared.get(name)
        values = data.values if isinstance(data, Ragged) else np.asarray(data)
        arrays[name] = {"kind": "ragged" if isinstance(data, Ragged) else "array", "dtype": dtype_to_json(values.dtype)}
        if isinstance(data, Ragged):
            arrays[name]["nav"] = list(data.nav)
        _write_nxdata(_group(group, _h5_name(name), "NXdata"), name, data, declared, outputs, valid)
    about = {
        "key": outputs.key,
        "nav": list(outputs.shape.nav),
        "sig": list(outputs.shape.sig),
        "axes": [axis_to_json(a) for a in outputs.axes],
        "declared": {name: output_to_json(o) for name, o in outputs.declared.items()},
        "arrays": arrays,
    }
    group.attrs["libstream_outputs"] = json.dumps(about)
    if arrays:
        _set_default(group, _h5_name(next(iter(arrays))))


def _write_nxdata(group: Any, name: str, data: Any, declared: Output | None, outputs: Outputs, valid: Any) -> None:
    if isinstance(data, Ragged):
        _put(group, "values", data.values)
        _put(group, "offsets", data.offsets)
        signal, shown = "counts", data.counts
    else:
        signal, shown = "data", np.asarray(data)
    dset = _put(group, signal, shown)
    group.attrs["signal"] = signal
    group.attrs["title"] = (declared.title if declared is not None else "") or name
    dset.attrs["long_name"] = group.attrs["title"]
    if declared is not None and declared.unit:
        (group["values"] if isinstance(data, Ragged) else dset).attrs["units"] = declared.unit
    nav = isinstance(data, Ragged) or (declared is not None and declared.kind == "nav")
    if nav and shown.shape[: valid.ndim] == valid.shape:
        group["valid"] = valid  # the same dataset under a second name
    _write_axes(group, _axes_of(shown.shape, declared, outputs, ragged=isinstance(data, Ragged)))


def _axes_of(shape: tuple[int, ...], declared: Output | None, outputs: Outputs, *, ragged: bool) -> list[Axis | None]:
    """The axis of each dimension; None where nothing is known of it."""
    n_nav = len(outputs.shape.nav)
    kind = "nav" if ragged else declared.kind if declared is not None else ""
    base = {"nav": outputs.axes[:n_nav], "sig": outputs.axes[n_nav:]}.get(kind, ())
    axes: list[Axis | None] = list(base[: len(shape)])
    axes += [None] * (len(shape) - len(axes))
    named = () if ragged or declared is None else declared.axes
    first = len(shape) - len(named)  # an output names its last dimensions, or all of them
    for i, label in enumerate(named, first):
        if i >= 0 and label and axes[i] is None:
            axes[i] = Axis(label, shape[i], unit="")
    return [a if a is not None and a.size == n else None for a, n in zip(axes, shape, strict=True)]


def _write_axes(group: Any, axes: list[Axis | None]) -> None:
    names: list[str] = []
    for i, axis in enumerate(axes):
        if axis is None:
            names.append(".")  # NeXus: a dimension without an axis
            continue
        name = re.sub(r"[^A-Za-z0-9_]+", "_", axis.name).strip("_") or "axis"  # what NeXus allows
        while name in group:
            name += "_axis"
        dset = group.create_dataset(name, data=axis.offset + axis.step * np.arange(axis.size))
        dset.attrs["long_name"] = axis.name
        if axis.unit:
            dset.attrs["units"] = axis.unit
        group.attrs[f"{name}_indices"] = i
        names.append(name)
    if any(n != "." for n in names):
        group.attrs["axes"] = names


def _put(group: Any, name: str, array: _Arr) -> Any:
    """Store an array as HDF5's own type, or, where HDF5 has none (text, dates), as the bytes of each item."""
    import h5py

    if array.dtype.hasobject:
        raise SaveError(f"{group.name}/{name} holds Python objects ({array.dtype}); a result file takes numbers and records only")
    try:
        kept = h5py.h5t.py_create(array.dtype, logical=True).dtype == array.dtype
    except (TypeError, ValueError):
        kept = False
    if not kept:
        array = np.frombuffer(array.tobytes(), np.uint8).reshape(*array.shape, array.dtype.itemsize)
    return group.create_dataset(name, data=array)


def _group(parent: Any, name: str, nx_class: str) -> Any:
    group = parent.require_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _set_default(group: Any, name: str) -> None:
    group.attrs["default"] = name


def _h5_name(name: str) -> str:
    """`name` as one link of an HDF5 path; different names stay different."""
    if not name.strip("."):  # "", ".", "..": names with a meaning of their own
        return "%" + "%".join(f"{ord(c):02X}" for c in name)
    return "".join(quote(c, safe="") if c in "/%\0" else c for c in name)


def _sizes(result: Result) -> Iterator[int]:
    yield 3 * result.coverage.status.size
    for outputs in result.udfs.values():
        yield _OVERHEAD
        for data in outputs.values():
            yield data.values.nbytes + 2 * data.offsets.nbytes if isinstance(data, Ragged) else np.asarray(data).nbytes
            yield 8 * sum(a.size for a in outputs.axes)
    for array in result.params.values():
        yield np.asarray(array).nbytes


def _n_bytes(result: Result) -> int:
    return _OVERHEAD + sum(_sizes(result))


def _refuse_foreign(path: Path) -> None:
    """Measured data are often .h5 too: only results are replaced."""
    import h5py

    if not path.is_file() or os.path.getsize(path) == 0:
        return
    try:
        with h5py.File(path, "r") as h5:
            ours = "libstream_format" in h5.attrs
    except (OSError, RuntimeError):
        ours = False
    if not ours:
        raise SaveError(f"cannot save {path}: a file of that name exists and is no result of libstream; choose another name or delete it")


# -- reading -----------------------------------------------------------------------------------------------------------


def _check_format(h5: Any, path: Path) -> None:
    if "libstream_format" not in h5.attrs:
        raise FormatError(f"{path} is an HDF5 file but no result of libstream (no libstream_format); open data files with libstream.open")
    found = h5.attrs["libstream_format"]
    if not isinstance(found, (int, np.integer)) or found < 1:
        raise FormatError(f"{path}: libstream_format is {found!r}, expected {FORMAT}; the file is damaged")
    if found > FORMAT:
        raise FormatError(f"{path} was written by a newer libstream: format {found}, this one reads up to {FORMAT}; update libstream")


def _read(h5: Any) -> Result:
    head = json.loads(h5.attrs["libstream_result"])
    params = {}
    for name in head["params"]:
        key, _, field = name.rpartition("/")
        params[name] = _take(h5, "params", *([_h5_name(key)] if key else []), _h5_name(field))
    return Result(
        udfs={key: _read_outputs(h5, key) for key in head["order"]},
        coverage=Coverage(_take(h5, "coverage", "status")),
        generation=head["generation"],
        version=head["version"],
        run=json.loads(h5.attrs["libstream_run"]),
        params=params,
        final=head["final"],
        changed={(key, output): (start, stop) for key, output, start, stop in head["changed"]},
    )


def _read_outputs(h5: Any, key: str) -> Outputs:
    at = ("results", _h5_name(key))
    about: Mapping[str, Any] = json.loads(_open(h5, *at).attrs["libstream_outputs"])
    arrays: dict[str, Any] = {}
    for name, how in about["arrays"].items():
        where = (*at, _h5_name(name))
        dtype = dtype_from_json(how["dtype"])
        if how["kind"] == "ragged":
            arrays[name] = Ragged(_take(h5, *where, "values", dtype=dtype), _take(h5, *where, "offsets"), tuple(how["nav"]))
        else:
            arrays[name] = _take(h5, *where, "data", dtype=dtype)
    return Outputs(
        key=about["key"],
        arrays=arrays,
        declared={name: output_from_json(o) for name, o in about["declared"].items()},
        shape=DataShape(tuple(about["nav"]), tuple(about["sig"])),
        axes=tuple(axis_from_json(a) for a in about["axes"]),
    )


def _open(h5: Any, *path: str) -> Any:
    """Follow `path` without leaving the file: a result from somewhere else must not make us read other files."""
    import h5py

    node = h5
    for name in path:
        if not isinstance(node.get(name, getlink=True), h5py.HardLink):
            raise FormatError(f"{h5.filename}: {'/'.join(path)} is a link to elsewhere, which a result file never holds")
        node = node[name]
    return node


def _take(h5: Any, *path: str, dtype: np.dtype[Any] | None = None) -> _Arr:
    dset = _open(h5, *path)
    if dset.is_virtual or dset.external or dset.dtype.hasobject:
        raise FormatError(f"{h5.filename}: {dset.name} is no plain dataset, so this is no result that libstream wrote")
    unwritten = dset.chunks is None and dset.id.get_storage_size() < dset.nbytes
    if unwritten or dset.nbytes > _MOST_DEFLATED * h5.id.get_filesize():
        raise FormatError(f"{h5.filename}: {dset.name} claims {dset.nbytes} bytes that the file cannot hold; it is damaged")
    array: _Arr = np.empty(dset.shape, dset.dtype)
    if dset.size:
        dset.read_direct(array)
    if dtype is None or array.dtype == dtype:
        return array
    if array.dtype == np.uint8 and array.shape[-1:] == (dtype.itemsize,):
        shape = array.shape[:-1]
        return np.frombuffer(array.tobytes(), dtype).reshape(shape).copy() if array.size else np.zeros(shape, dtype)
    raise FormatError(f"{h5.filename}: {dset.name} is {array.dtype}, its declaration says {dtype}; the file is damaged")
