"""Runs the kernel of a UDF over frames in memory, with every cut in the test's hand: a second, plain engine of forty lines.

`ls.run` has its own choice of tiles; here the test says where partitions, tiles and bands of rows end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from libstream.contracts.params import validated
from libstream.contracts.udf import UDF, field_of
from libstream.model.corrections import Corrections
from libstream.model.partial import CORRUPT, EXCLUDED, PROCESSED, Coverage
from libstream.model.quantity import Quantity
from libstream.model.ragged import Ragged
from libstream.model.shape import DataShape
from libstream.model.source import Axis, RunMeta, SourceId, SourceMeta


def meta_of(data: np.ndarray, **more: Any) -> SourceMeta:
    """Description of frames `data` (*nav, ny, nx)."""
    shape = DataShape(data.shape[:-2], data.shape[-2:])
    return SourceMeta(SourceId("memory", "memory", data.nbytes), shape, data.dtype, **more)


def bound(udf: UDF, meta: SourceMeta, corrections: Corrections | None = None) -> UDF:
    """`udf` bound to a source, lengths in px."""
    udf = validated(udf)
    lengths = {f.name: getattr(udf, f.name) for f in fields(udf)}
    lengths = {n: v.in_pixels(meta.sig_axes) for n, v in lengths.items() if isinstance(v, Quantity)}
    run = RunMeta(meta.shape, meta.dtype, meta.axes, meta.dtype, None, corrections, meta.shape.n_positions, meta.centre, meta.rotation_deg)
    return replace(udf, **lengths).bound_to(run)


def drive(
    udf: UDF,
    data: np.ndarray,
    *,
    seen: np.ndarray | None = None,
    corrupt: Sequence[int] = (),
    bands: Sequence[int] = (),
    depth: int = 3,
    gap: bool = True,
    corrections: Corrections | None = None,
    **meta: Any,
) -> dict[str, Any]:
    """All outputs of `udf` over `data` (*nav, ny, nx), private ones too.

    seen: bool array of the scan's shape, the region of interest. corrupt: flat positions whose frames are lost.
    bands: rows at which frames are cut into tiles; depth: most frames in a tile; gap: leave room between frames.
    corrections: for UDFs that fold them into their constants.
    (Each dtype, and tiles with and without gaps, are compiled apart: tests that try many cuts keep to few of them.)
    """
    described = meta_of(data, **meta)
    nav, sig, n = described.shape.nav, described.shape.sig, described.shape.n_positions
    udf = bound(udf, described, corrections)
    outputs = dict(udf.outputs())
    padded = np.zeros((n, sig[0] + gap, sig[1]), data.dtype)
    padded[:, : sig[0]] = data.reshape(n, *sig)
    frames = padded[:, : sig[0]]
    frames.setflags(write=False)
    status = np.full(n, PROCESSED, np.uint8)
    status[[] if seen is None else ~seen.reshape(-1)] = EXCLUDED
    status[list(corrupt)] = CORRUPT
    arrays: dict[str, Any] = {}
    for name, o in outputs.items():
        if o.derived or o.kind == "ragged":
            continue
        arrays[name] = np.full((n, *(o.extra or (1,))) if o.kind == "nav" else o.shape(described.shape), o.init_value, o.dtype)
    records: dict[str, list[np.ndarray]] = {name: [] for name, o in outputs.items() if o.kind == "ragged" and not o.derived}

    good = np.flatnonzero(status == PROCESSED)
    for at in np.split(good, np.flatnonzero(np.diff(good) != 1) + 1):
        for start in range(0, len(at), depth):
            rows = slice(int(at[start]), int(at[min(start + depth, len(at)) - 1]) + 1)
            for y0, y1 in zip([0, *bands], [*bands, sig[0]], strict=True):
                if udf.hook_name() == "process_tile":
                    _call(udf, outputs, frames[rows, y0:y1], arrays, rows, y0)
                else:
                    for i in range(rows.start, rows.stop):
                        _frame(udf, outputs, frames[i], arrays, records, i)
    merged: dict[str, Any] = {}
    for name, o in outputs.items():
        if o.kind == "ragged" and name in records:
            filled = dict(zip(good.tolist(), records[name], strict=True))
            empty = np.zeros((0, *o.extra), o.dtype)
            parts = [filled.get(i, empty) for i in range(n)]
            merged[name] = Ragged(np.concatenate([empty, *parts]), np.cumsum([0, *map(len, parts)]), nav)
        elif o.kind == "nav" and name in arrays:
            merged[name] = arrays[name].reshape((*nav, *o.extra))
            merged[name].reshape(n, -1)[status != PROCESSED] = o.fill_value
        elif name in arrays:
            merged[name] = arrays[name]
    derived = dict(udf.finish(dict(merged), Coverage(status.reshape(nav))))
    for name, value in derived.items():
        assert value.shape == outputs[name].shape(described.shape), name
        assert value.dtype == outputs[name].dtype, name
    assert not {name for name, o in outputs.items() if o.derived} - set(derived)
    return {**merged, **derived}


def _values(udf: UDF, names: Sequence[str], known: dict[str, Any]) -> list[Any]:
    out = []
    for name in names:
        value = known[name] if name in known else getattr(udf, name)
        if name not in known:
            assert field_of(type(udf), name) is not None or name in dir(type(udf)), name
            if isinstance(value, np.ndarray):
                value = np.ascontiguousarray(value)
                value.setflags(write=False)
        out.append(value)
    return out


def _names(udf: UDF) -> list[str]:
    code = udf.hook().func.__code__
    return list(code.co_varnames[1 : code.co_argcount])


def _call(udf: UDF, outputs: dict[str, Any], tile: np.ndarray, arrays: dict[str, Any], rows: slice, row0: int) -> None:
    cut = {n: a[rows] if outputs[n].kind == "nav" else a for n, a in arrays.items()}
    known = {**cut, "row0": row0, "index": np.arange(rows.start, rows.stop)}
    udf.hook().cached(tile, *_values(udf, _names(udf), known))


def _frame(udf: UDF, outputs: dict[str, Any], frame: np.ndarray, arrays: dict[str, Any], records: dict[str, Any], i: int) -> None:
    known: dict[str, Any] = {n: a[i] if outputs[n].kind == "nav" else a for n, a in arrays.items()}
    known["index"] = i
    if not records:
        udf.hook().cached(frame, *_values(udf, _names(udf), known))
        return
    (name,) = records
    room = 0  # too little on purpose: the kernel has to say what it needs
    while True:
        arena = np.zeros((room, *outputs[name].extra), outputs[name].dtype)
        wanted = int(udf.hook().cached(frame, *_values(udf, _names(udf), {**known, name: arena})))
        if wanted <= room:
            records[name].append(arena[:wanted])
            return
        assert room == 0 or wanted > room
        room = wanted


def calibrated(shape: tuple[int, ...], steps: Sequence[tuple[float, str]]) -> tuple[Axis, ...]:
    """Axes of `shape` with (step, unit) each."""
    return tuple(Axis(f"axis{i}", s, step, 0.0, unit) for i, (s, (step, unit)) in enumerate(zip(shape, steps, strict=True)))
