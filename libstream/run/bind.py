"""Everything that is checked before a worker starts: parameters, shapes, dtypes, picklability, one dry run."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from libstream.config import debug
from libstream.contracts.executor import Traits
from libstream.contracts.indexing import memory_available
from libstream.contracts.params import check_limits, validated
from libstream.contracts.source import FrameSource
from libstream.contracts.udf import UDF
from libstream.errors import LibstreamError, ShapeError, UDFError, UsageError
from libstream.kernels.jit import Kernel
from libstream.model.corrections import Corrections
from libstream.model.output import Output
from libstream.model.partial import PROCESSED, Coverage
from libstream.model.quantity import Quantity
from libstream.model.shape import Region, Span
from libstream.model.source import RunMeta, SourceMeta
from libstream.plan.plan import Need, RunPlan, make_plan
from libstream.plan.roi import as_mask
from libstream.run.block import Block
from libstream.run.buffers import Buffers
from libstream.run.calls import Call
from libstream.run.collect import Collector
from libstream.run.correct import Converter, input_dtype
from libstream.run.hooked import Hooked
from libstream.run.lanes import Lanes
from libstream.run.work import ChannelWork, Work

_Arr = np.ndarray[Any, Any]


@dataclass(frozen=True)
class OnChannel:
    """A UDF bound to one channel of the source: `ls.on("threshold_2", Sum())`."""

    channel: str
    udf: UDF


@dataclass(frozen=True)
class Bound:
    """A run that passed all checks: what is executed (`work`), how it is cut (`plan`), and what it writes into."""

    source: FrameSource
    udfs: Mapping[str, UDF]
    given: Mapping[str, UDF]
    metas: Mapping[str, SourceMeta]
    plan: RunPlan
    work: Work
    mask: _Arr | None
    corrections: Corrections | None

    def collector(self) -> Collector:
        """An empty result for this run."""
        return Collector(
            self.udfs, self.metas, self.source.meta.shape.nav, self.mask, self.plan.missing, keeps_going=self.source.keeps_going
        )  # fmt: skip


def bind(
    source: FrameSource,
    udfs: Mapping[str, UDF | OnChannel],
    *,
    roi: Any = None,
    corrections: Corrections | None = None,
    traits: Traits,
    order: str = "scan",
) -> Bound:
    """Check and prepare a run. Raises UsageError, ShapeError, ParameterError or UDFError with what, where and the remedy."""
    meta = source.meta
    nav = meta.shape.nav
    mask = as_mask(roi, nav)
    if not udfs:
        raise UsageError("nothing to run: pass at least one UDF")
    channel_of = {k: u.channel if isinstance(u, OnChannel) else source.channel_name for k, u in udfs.items()}
    metas = {}
    for name in dict.fromkeys(channel_of.values()):
        if name not in meta.channels:
            raise UsageError(f"the source has no channel {name!r}; it has {', '.join(meta.channels)}")
        metas[name] = source.channel_meta(name)
    for name, m in metas.items():
        if not m.shape.n_positions or not m.shape.frame_size:
            what = "frames" if not m.shape.n_positions else "pixels"
            raise ShapeError(f"{m.id.uri} has no {what} in channel {name!r}: its shape is {m.shape}; there is nothing to run over")
    if corrections is not None and not isinstance(corrections, Corrections):
        raise UsageError(f"corrections must be ls.Corrections(dark=..., gain=..., excluded=...), got {type(corrections).__name__}")
    if not corrections:
        corrections = None
    if corrections is not None:
        for m in metas.values():
            corrections.check(m.shape.sig)
    given = {k: validated(u.udf if isinstance(u, OnChannel) else u) for k, u in udfs.items()}
    bound: dict[str, UDF] = {}
    converters: dict[str, Converter | None] = {}
    max_frames = meta.shape.n_positions
    for key, udf in given.items():
        bound[key], converters[key] = _bind_one(key, udf, metas[channel_of[key]], mask, corrections, max_frames)
    for key, udf in bound.items():
        _check_outputs(key, udf)

    plan = make_plan(
        nav=nav,
        n_frames=meta.n_frames,
        sync_offset=meta.sync_offset,
        channels={n: (m.shape.sig, m.dtype.itemsize) for n, m in metas.items()},
        needs={n: [_need(k, bound[k]) for k in bound if channel_of[k] == n] for n in metas},
        mask=mask,
        task_factor=traits.frames_per_task_factor,
        order=order,
    )
    channels = []
    for name, m in metas.items():
        mine = _first_the_slow({k: u for k, u in bound.items() if channel_of[k] == name})
        mapped, gapped, why = _view_of(source, name, m, mine)
        plan = replace(plan, reasons=(*plan.reasons, f"reading of {name}: {why}"))
        channels.append(ChannelWork(name, m.shape.sig, m.dtype, plan.tilings[name], mine, {k: converters[k] for k in mine}, mapped, gapped))
    for key, converter in converters.items():
        if converter is not None:
            what = "cast" if converter.corrections is None else "corrected"
            plan = replace(plan, reasons=(*plan.reasons, f"{key}: frames are {what} to {converter.dtype} in cache"))
        elif corrections is not None:
            plan = replace(plan, reasons=(*plan.reasons, f"{key}: corrections are folded into its constants, frames are not touched"))
    work = Work(source.opener, tuple(channels), nav, meta.sync_offset, plan.partition_frames, keeps_going=source.keeps_going)
    out = Bound(source, bound, given, {k: metas[c] for k, c in channel_of.items()}, plan, work, mask, corrections)
    if traits.crosses_process:
        _check_picklable(out)
    work.setup()
    for channel in channels:
        for key, udf in channel.udfs.items():
            kind = (nav, channel.sig, channel.dtype.str, udf.meta.dtype.str, corrections is None)
            if udf.dry_run and (debug() or not _passed.on(udfs[key], kind)):
                _dry_run(out, channel, key, udf)
                _passed.add(udfs[key], kind)
    return out


class _Passed:
    """Which UDF objects passed their dry run, on what kinds of sources: a UDF over many files is tried out once."""

    def __init__(self) -> None:
        self._kinds: dict[int, tuple[weakref.ref[Any], set[Any]]] = {}

    def on(self, udf: Any, kind: Any) -> bool:
        """True where this object passed on a source of this kind."""
        held = self._kinds.get(id(udf))
        return held is not None and held[0]() is udf and kind in held[1]

    def add(self, udf: Any, kind: Any) -> None:
        """It passed."""
        held = self._kinds.get(id(udf))
        if held is None or held[0]() is not udf:
            number, kinds = id(udf), self._kinds

            def forget(ref: weakref.ref[Any]) -> None:
                if number in kinds and kinds[number][0] is ref:
                    del kinds[number]

            held = kinds[number] = (weakref.ref(udf, forget), set())
        held[1].add(kind)


_passed = _Passed()


def _first_the_slow(udfs: dict[str, UDF]) -> dict[str, UDF]:
    """The order in which UDFs see a tile: whoever comes first brings it from memory, and what computes long can hide that."""
    if not all(isinstance(u.hook(), Kernel) for u in udfs.values()):
        return udfs
    return dict(sorted(udfs.items(), key=lambda item: -item[1].tile_cost))


def _bind_one(
    key: str, udf: UDF, meta: SourceMeta, mask: _Arr | None, corrections: Corrections | None, max_frames: int
) -> tuple[UDF, Converter | None]:
    folds = corrections is not None and udf.folds_corrections
    corrected = corrections is not None and not folds
    dtype = input_dtype(meta.dtype, udf.dtype, corrected)
    run_meta = RunMeta(
        meta.shape, dtype, meta.axes, meta.dtype, mask, corrections if folds else None, max_frames, meta.centre, meta.rotation_deg
    )  # fmt: skip
    changes = {name: value.in_pixels(meta.sig_axes) for name, value in udf.parameters().items() if isinstance(value, Quantity)}
    for name, value in changes.items():
        check_limits(udf, name, value)
    bound = replace(udf, **changes) if changes else udf  # type: ignore[type-var]
    converter = None
    if corrected or dtype != meta.dtype:
        converter = Converter(dtype, corrections if corrected else None)
    return bound.bound_to(run_meta), converter


def _check_outputs(key: str, udf: UDF) -> None:
    name = type(udf).__name__
    try:
        outputs = udf.outputs()
    except LibstreamError:
        raise
    except Exception as exc:
        raise UDFError(f"UDF {key}: outputs() of {name} raised {type(exc).__name__}: {exc}", udf=key, where="outputs") from exc
    if not isinstance(outputs, Mapping) or not outputs:
        raise UsageError(f"UDF {key}: outputs() of {name} must return a dict of outputs, got {outputs!r}")
    for out_name, o in outputs.items():
        if not isinstance(o, Output):
            raise UsageError(f"UDF {key}: output {out_name!r} must be made with nav, sig, single or ragged, got {o!r}")
        if not str(out_name).isidentifier() or str(out_name).startswith("_"):
            raise UsageError(f"UDF {key}: an output is called by a Python name without leading underscore, got {out_name!r}")
        n_bytes = 0 if o.kind == "ragged" else math.prod(o.shape(udf.meta.shape)) * o.dtype.itemsize
        if n_bytes > memory_available():
            shape = o.shape(udf.meta.shape)
            raise UsageError(
                f"UDF {key}: output {out_name!r} of shape {shape} and dtype {o.dtype} needs {n_bytes / 1e9:.3g} GB, "
                f"free are {memory_available() / 1e9:.3g} GB; reduce it, or take a part of the data"
            )
        if o.merge == "custom" and type(udf).merge is UDF.merge:
            raise UsageError(f"UDF {key}: output {out_name!r} has merge='custom' and {name} has no merge(self, into, part)")


def _need(key: str, udf: UDF) -> Need:
    kind = udf.hook_name()
    return Need(
        key=key,
        itemsize=udf.meta.dtype.itemsize,
        sums=any(o.kind in ("sig", "single") for o in udf.outputs().values()),
        whole=kind != "process_tile" or udf.whole_frames,
        compiled=isinstance(udf.hook(), Kernel),
        partition=kind == "process_partition",
        depth=udf.tile_frames,
        cost=udf.tile_cost,
        frames=kind == "process_frame" and not isinstance(udf.hook(), Kernel),
    )


def _view_of(source: FrameSource, channel: str, meta: SourceMeta, udfs: Mapping[str, UDF]) -> tuple[bool, bool, str]:
    """(mapped, gapped, why): whether frames are used in place."""
    reader = source.opener.open_reader(channel)
    try:
        view = reader.view()
        if view is None:
            return False, False, "into aligned buffers (the format or the file allows no view)"
        if view.shape[1:] != meta.shape.sig:
            return False, False, "into aligned buffers (the frame was reshaped)"
        gapped = not view.flags.c_contiguous
        if reader.in_memory:
            return True, gapped, "in place, from memory"
        plain = [k for k, u in udfs.items() if not isinstance(u.hook(), Kernel)]
        if plain:
            # a mapped file that is shortened kills the process at the next touch; Python code may hold a tile for seconds
            return False, False, f"into aligned buffers (plain-Python UDF {', '.join(plain)} does not work on mapped memory)"
        return True, gapped, "in place, from the mapped file" + (", with gaps between frames" if gapped else "")
    finally:
        reader.close()


def _check_picklable(bound: Bound) -> None:
    import cloudpickle

    for key, udf in bound.udfs.items():
        try:
            cloudpickle.dumps(udf)
        except Exception as exc:
            raise UsageError(
                f"UDF {key} ({type(udf).__name__}) cannot be sent to another process: {type(exc).__name__}: {exc}. "
                "Parameters and captured globals must be picklable; or run with executor='threads'"
            ) from exc
    try:
        cloudpickle.dumps(bound.work)
    except Exception as exc:
        raise UsageError(
            f"the source {bound.source.meta.id.uri} cannot be opened in another process: {exc}. Use executor='threads'"
        ) from exc


def _dry_run(bound: Bound, channel: ChannelWork, key: str, udf: UDF) -> None:
    """Run the hook once over two frames of ones, merge twice, finish. A hook that fails there is tried on real frames."""
    call: Call = bound.work._made["calls"][key]
    ones = np.ones((2, *channel.sig), udf.meta.dtype)
    try:
        partial = _try(bound, call, ones)
    except UDFError:
        real = _first_frames(bound, channel, udf)
        if real is None:
            raise
        partial = _try(bound, call, real, int(bound.plan.runs[0, 0]))
    placed, reduced = partial
    merger = bound.work._made["merger"]
    keyed = {(key, n): v for n, v in reduced.items()}
    type(merger)({key: (udf, call.outputs)}).reduced(keyed, keyed)
    one = Collector(
        {key: udf}, {key: bound.metas[key]}, bound.source.meta.shape.nav, None, np.zeros(max(1, bound.source.meta.shape.n_positions), bool)
    )
    one.status[:2] = PROCESSED
    for name, value in placed.items():
        if isinstance(value, np.ndarray):
            one.navs[key, name][:2] = value[: len(one.status[:2])]
    if bound.source.meta.shape.n_positions:
        with np.errstate(all="ignore"), contextlib.suppress(FloatingPointError):
            arrays = {n: one._array(key, n, o, keyed) for n, o in one.declared[key].items() if not o.derived}
            one._finished(key, udf, arrays, Coverage(one.status.reshape(bound.source.meta.shape.nav)))


def _try(bound: Bound, call: Call, frames: _Arr, position: int = 0) -> tuple[dict[str, Any], dict[str, _Arr]]:
    frames = np.ascontiguousarray(frames)
    frames.setflags(write=False)
    n = min(len(frames), max(1, call.udf.meta.shape.n_positions))
    state = call.begin(n)
    band = (0, frames.shape[1])
    with np.errstate(all="ignore"):
        if debug():
            call.run_checked(frames[:n])
        block, flag = Block.of(frames[:n], np.arange(position, position + n, dtype=np.int64)), np.zeros(1, np.uint8)
        if call.compiled:
            Lanes({call.key: call}, {call.key: state}, {call.key: None}, frames.shape[1:], n, [band], Buffers()).run(block, flag)
        elif call.kind == "process_frame":
            Hooked(call, state, flag).frames(block.data, block.runs, block.index, block.k)
        else:
            Hooked(call, state, flag).tile(block.data, block.index, block.k, band)
    return call.end(state)


def _first_frames(bound: Bound, channel: ChannelWork, udf: UDF) -> _Arr | None:
    """The first frames of the run as `udf` gets them; None where there is none."""
    if not len(bound.plan.runs):
        return None
    start = int(bound.plan.runs[0, 0]) + bound.work.sync_offset
    raw = np.empty((1, *channel.sig), channel.dtype)
    reader = bound.source.opener.open_reader(channel.channel)
    try:
        valid = reader.read_into(raw, Span(start, start + 1), Region.whole(channel.sig))
    except LibstreamError:
        return None
    finally:
        reader.close()
    if valid is not None and not valid.all():
        return None
    converter = next(c.converters[k] for c in [channel] for k, u in c.udfs.items() if u is udf)
    if converter is None:
        return raw
    out = np.empty(raw.shape, converter.dtype)
    converter.into(raw, np.array([[0, 1]], np.int64), out)
    return out
