"""Results, runs and sources as HTML for notebooks: tables with small pictures, no scripts, every text escaped. Pure.

Styles are written at each element and pictures as data, since notebooks that are not trusted, and pages made of notebooks, drop
style sheets and SVG elements. Colours are such that light and dark notebooks both show them.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from libstream.model import picture
from libstream.model.display import display_of
from libstream.model.ragged import Ragged

if TYPE_CHECKING:
    from libstream.model.output import Output
    from libstream.model.result import Outputs, Result
    from libstream.model.source import SourceMeta

_Arr = np.ndarray[Any, Any]

SIZE = 96
"""Longer side of a small picture in px; arrays are averaged down to about as many values."""
LARGE = 512
ROWS_MAX = 40
"""Outputs that are listed, and vendor metadata; the rest is counted."""
TEXT_MAX = 300
EXACT_MAX = 20_000_000
"""Values of an array up to which its range is that of all of them, and not of some."""

_LINE = "border-bottom:1px solid rgba(128,128,128,.3)"
_CELL = f"padding:4px 12px 4px 0;text-align:left;vertical-align:middle;{_LINE}"
_DIM = "opacity:.65"
_BADGES = {"good": "#2b7a3d", "warn": "#a35a00", "bad": "#b3261e"}


# -- words ---------------------------------------------------------------------------------------------------------------


def text(value: Any, most: int = TEXT_MAX) -> str:
    """Any text as HTML: escaped, on one line, cut where it is very long."""
    plain = " ".join(str(value).split())
    return escape(plain if len(plain) <= most else f"{plain[: most - 1]}…", quote=True)


def number(value: Any) -> str:
    """A number for people: five digits, and thousands apart."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_)):
        return f"{int(value):,}".replace(",", " ")
    return f"{complex(value):.5g}".strip("()") if isinstance(value, (complex, np.complexfloating)) else f"{float(value):.5g}"


def _sizes(shape: Iterable[int]) -> str:
    return " × ".join(str(int(n)) for n in shape) or "one value"


def _badge(words: Any, kind: str) -> str:
    return f'<span style="background:{_BADGES[kind]};color:#fff;border-radius:3px;padding:0 6px">{text(words)}</span>'


def _dim(words: Any) -> str:
    return f'<span style="{_DIM}">{text(words)}</span>' if str(words) else ""


def _row(cells: Iterable[str], tag: str = "td") -> str:
    return f'<tr style="background:none">{"".join(f"<{tag} style={chr(34)}{_CELL}{chr(34)}>{c}</{tag}>" for c in cells)}</tr>'


def _table(rows: Iterable[str]) -> str:
    return f'<table style="border-collapse:collapse;margin:4px 0;font-variant-numeric:tabular-nums">{"".join(rows)}</table>'


# -- pictures ------------------------------------------------------------------------------------------------------------


def _image(data: bytes, kind: str, title: str, size: tuple[int, int] | None = None) -> str:
    shown = "" if size is None else f"width:{size[1]}px;height:{size[0]}px;image-rendering:pixelated;"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img src="{source}" alt="{text(title)}" title="{text(title)}" style="{shown}max-width:none;margin:0;display:block">'


def planar(name: str, data: Any, declared: Output | None, outputs: Outputs, valid: _Arr | None) -> tuple[_Arr, str, str] | None:
    """(values, display, note) of an output that can be shown as an image, NaN where nothing was seen; None where it cannot.

    display: "image", "vector" (values (h, w, 2) as (y, x)) or "complex". note: which plane it is, where there are several.
    """
    if isinstance(data, Ragged):
        counts = data.counts
        if counts.ndim < 2 or not counts.size:
            return None
        note = "records a position" if counts.ndim == 2 else "records a position, first plane"
        return counts.reshape(-1, *counts.shape[-2:])[0], "image", note
    array = np.asarray(data)
    display, planes, _, _, last = _display(array, declared, outputs)
    if display not in ("image", "vector", "complex"):
        return None
    if (
        declared is not None
        and declared.kind == "nav"
        and valid is not None
        and not valid.all()
        and array.shape[: valid.ndim] == valid.shape
    ):
        array = np.where(valid.reshape(valid.shape + (1,) * (array.ndim - valid.ndim)), array, np.nan)
    if planes:
        n = 3 if display == "vector" else 2
        array = array.reshape(*array.shape[:2], -1)[..., 0] if last else array.reshape(-1, *array.shape[-n:])[0]
    return array, display, f"first of {number(planes)} planes" if planes > 1 else ""


def _display(array: _Arr, declared: Output | None, outputs: Outputs) -> tuple[Any, ...]:
    n = {"nav": len(outputs.shape.nav), "sig": len(outputs.shape.sig)}.get(declared.kind, 0) if declared is not None else array.ndim
    from libstream.model.source import Axis

    axes = [Axis("", int(s)) for s in array.shape]
    return display_of(array.dtype, array.shape, tuple(axes[:n]), tuple(axes[n:]))


def drawn(values: _Arr, display: str, *, frame: bool, most: int) -> tuple[bytes, tuple[int, int]]:
    """(PNG, (height, width) of its values) of what `planar` gives. frame: an image of the frame, in grey on a logarithmic scale."""
    small = picture.shrunk(np.asarray(values), most)
    if display == "complex":
        return picture.wheel(small.real, small.imag), small.shape[:2]
    if display == "vector":
        return picture.wheel(small[..., 1], -small[..., 0]), small.shape[:2]  # y is downwards on the screen
    return picture.png(small, map="gray" if frame else "viridis", log=frame), small.shape


def _small(name: str, data: Any, declared: Output | None, outputs: Outputs, valid: _Arr | None) -> str:
    """The small picture of an output, or nothing."""
    found = planar(name, data, declared, outputs, valid)
    if found is not None:
        values, display, note = found
        png, (h, w) = drawn(values, display, frame=declared is not None and declared.kind == "sig", most=SIZE)
        k = SIZE / max(h, w)
        words = {"vector": "colour: direction; brightness: size", "complex": "colour: phase; brightness: amplitude"}.get(display, "")
        size = (max(1, round(h * k)), max(1, round(w * k)))
        return _image(png, "png", "; ".join(w for w in (f"{name}", words, note) if w), size)
    if isinstance(data, Ragged):
        return _lines([data.counts.reshape(-1)], f"{name}: records a position") if data.counts.size > 1 else ""
    array = np.asarray(data)
    display = _display(array, declared, outputs)[0]
    if display == "line" and array.size > 1:
        return _lines([array], name)
    if display == "complex-line" and array.size > 1:
        return _lines([np.abs(array)], f"{name}: amplitude")
    if display == "lines":
        return _lines([array[:, i] for i in range(array.shape[1])], name)
    return ""


def _lines(values: list[_Arr], title: str) -> str:
    return _image(picture.lines(values, 150, 60).encode(), "svg+xml", title)


def obvious(result: Result) -> bytes | None:
    """PNG of the only output that is an image; None where there are several, or none."""
    found = [(o.declared.get(n), p) for o, n, p in _images(result)]
    if len(found) != 1:
        return None
    declared, (values, display, _) = found[0]
    png, (h, w) = drawn(values, display, frame=declared is not None and declared.kind == "sig", most=LARGE)
    k = 256 // max(h, w)
    if k < 2:
        return png
    large = np.repeat(np.repeat(picture.shrunk(np.asarray(values), LARGE), k, axis=0), k, axis=1)
    return drawn(large, display, frame=declared is not None and declared.kind == "sig", most=LARGE)[0]


def _images(result: Result) -> list[tuple[Outputs, str, tuple[_Arr, str, str]]]:
    out = []
    for outputs in result.udfs.values():
        for name, data in outputs.items():
            found = planar(name, data, outputs.declared.get(name), outputs, result.valid)
            if found is not None:
                out.append((outputs, name, found))
    return out


# -- results -------------------------------------------------------------------------------------------------------------


def values_of(data: Any, valid: _Arr | None = None) -> str:
    """What is in an array, in words: its range, or the value where there is one."""
    if isinstance(data, Ragged):
        counts = data.counts
        each = f", {number(counts.min())} to {number(counts.max())} a position" if counts.size else ""
        return f"{number(len(data.values))} records{each}"
    array = np.asarray(data)
    if array.dtype.names:
        return "fields " + ", ".join(map(str, array.dtype.names))
    if not array.size:
        return "empty"
    if array.dtype.kind not in "biufc":
        return ""
    if valid is not None and not valid.all() and array.shape[: valid.ndim] == valid.shape:
        array = array[valid]
        if not array.size:
            return "nothing seen yet"
    if array.dtype.kind == "b":
        return f"{number(int(array.sum()))} of {number(array.size)} true" if array.ndim else str(bool(array))
    if array.ndim == 0:
        return number(array[()])
    some = array.reshape(-1)[:: max(1, -(-array.size // EXACT_MAX))]
    with np.errstate(over="ignore"):
        some = np.abs(some) if some.dtype.kind == "c" else some
    good = some[np.isfinite(some)]
    about = "≈ " if some.size < array.size else ""
    size = "amplitude " if array.dtype.kind == "c" else ""
    not_finite = some.size - good.size
    rest = f" ({about}{number(not_finite)} not finite)" if not_finite else ""
    if not good.size:
        return f"none is finite ({number(array.size)} values)"
    lo, hi = good.min(), good.max()
    return f"{size}{about}{number(lo)}{'' if lo == hi else f' to {number(hi)}'}{rest}"


def _output_rows(outputs: Outputs, valid: _Arr | None, room: int) -> list[str]:
    rows = []
    for name, data in list(outputs.items())[:room]:
        declared = outputs.declared.get(name)
        title = declared.title if declared is not None and declared.title.lower() != name.lower() else ""
        nav = valid if declared is not None and declared.kind == "nav" else None
        shape = data.nav if isinstance(data, Ragged) else np.shape(data)
        rows.append(
            _row(
                [
                    _small(name, data, declared, outputs, valid),
                    f"<b>{text(name)}</b>{'<br>' + _dim(title) if title else ''}",
                    text(_sizes(shape)) + (" positions" if isinstance(data, Ragged) else ""),
                    text(data.dtype if isinstance(data, Ragged) or hasattr(data, "dtype") else type(data).__name__, 60),
                    text(declared.unit if declared is not None else "", 40),
                    text(values_of(data, nav)),
                ]
            )
        )
    return rows


_HEAD = _row((f'<span style="{_DIM}">{h}</span>' for h in ("", "output", "shape", "dtype", "unit", "values")), "th")


def outputs_html(outputs: Outputs) -> str:
    """Outputs of one UDF."""
    return _table([_HEAD, *_output_rows(outputs, None, ROWS_MAX), _more(len(outputs) - ROWS_MAX)])


def _more(n: int) -> str:
    return _wide(_dim(f"and {n} more")) if n > 0 else ""


def _wide(cell: str) -> str:
    return f'<tr style="background:none"><td colspan="6" style="{_CELL}">{cell}</td></tr>'


def _udf_words(record: Any) -> str:
    """ "VirtualDetector, inner = 0 px, outer = 10 px", of what the provenance says."""
    if not isinstance(record, Mapping):
        return ""
    params = record.get("params")
    given = [f"{k} = {v}" for k, v in params.items() if v is not None and v != ""] if isinstance(params, Mapping) else []
    return ", ".join([str(record.get("name", "")), *given])


def result_html(result: Result) -> str:
    """A result: what it is of, what is missing, and a row with a picture for each output."""
    run = result.run
    state = _badge("complete", "good") if result.complete else _badge("incomplete" if result.final else "goes on", "warn")
    facts = [str(result.coverage)]
    source = run.get("source")
    if isinstance(source, Mapping) and source.get("uri"):
        facts.append(str(source["uri"]))
    times = run.get("times")
    if isinstance(times, Mapping) and isinstance(times.get("seconds"), (int, float)):
        facts.append(f"{times['seconds']:.3g} s")
    if result.generation:
        facts.append(f"generation {result.generation}")
    out = [f"<div><b>Result</b> {state} {_dim(' · '.join(facts))}</div>"]
    out += [f"<div>{_badge(f'{key} stopped', 'bad')} {text(message, 2000)}</div>" for key, message in result.failures.items()]
    out.append(_ledger(result.ledger))
    udfs = run.get("udfs")
    rows, room = [_HEAD], ROWS_MAX
    for key, outputs in result.udfs.items():
        words = _udf_words(udfs.get(key) if isinstance(udfs, Mapping) else None)
        if room > 0:
            rows.append(
                f'<tr style="background:none"><td colspan="6" style="{_CELL};padding-top:8px"><b>{text(key)}</b> {_dim(words)}</td></tr>'
            )
        rows += _output_rows(outputs, result.valid, max(0, room))
        room -= len(outputs)
    return f"<div>{''.join(out)}{_table([*rows, _more(-room)])}</div>"


def _ledger(ledger: Mapping[str, int]) -> str:
    """What became of frames, where some were lost: these are never hidden."""
    lost = [f"{k} {number(ledger[k])}" for k in ("dropped", "missing", "corrupt", "gone") if ledger.get(k)]
    if not ledger:
        return ""
    rest = ", ".join(f"{k} {number(v)}" for k, v in ledger.items() if isinstance(v, (int, np.integer)) and v)
    return f"<div>{_badge(', '.join(lost), 'warn') if lost else ''} {_dim('ledger: ' + rest)}</div>"


# -- runs and sources ----------------------------------------------------------------------------------------------------


def job_html(state: str, part: float, words: str, error: str, newest: Result | None) -> str:
    """A run as it is now. part: 0 to 1."""
    kind = {"done": "good", "failed": "bad"}.get(state, "warn")
    failed = f"<div>{_badge('error', 'bad')} {text(error, 2000)}</div>" if error else ""
    shown = result_html(newest) if newest is not None else ""
    return f"<div><div><b>Job</b> {_badge(state, kind)} {_dim(words)}</div>{_bar(part)}{failed}{shown}</div>"


def bar_html(part: float, words: str) -> str:
    """A progress bar with words below it. part: 0 to 1."""
    return f"<div>{_bar(part)}{_dim(words)}</div>"


def _bar(part: float) -> str:
    share = max(0.0, min(100.0, 100 * part)) if math.isfinite(part) else 0.0
    return (
        '<div style="height:6px;width:240px;background:rgba(128,128,128,.3);border-radius:3px;margin:4px 0">'
        f'<div style="height:6px;width:{share:.1f}%;background:#2f7fd6;border-radius:3px"></div></div>'
    )


def facts_html(title: str, sub: str, facts: Iterable[tuple[str, Any]]) -> str:
    """A heading and rows of name and value."""
    rows = [_row([f'<span style="{_DIM}">{text(k)}</span>', text(v, 1000)]) for k, v in facts if str(v)]
    return f"<div><div><b>{text(title)}</b> {_dim(sub)}</div>{_table(rows)}</div>"


def axis_words(axis: Any) -> str:
    """ "256 × 0.4 nm", or the number of pixels."""
    if not axis.calibrated:
        return f"{axis.name or 'axis'}: {axis.size}"
    return f"{axis.name or 'axis'}: {axis.size} × {abs(axis.step):.5g} {axis.unit}"


def source_html(meta: SourceMeta, channel: str, more: Iterable[tuple[str, Any]] = ()) -> str:
    """A source: shape, axes, size, what was assumed; what the vendor wrote, folded."""
    n = meta.n_bytes
    size = f"{n / 1e9:.3g} GB" if n >= 1e8 else f"{n / 1e6:.3g} MB"
    facts: list[tuple[str, Any]] = [
        ("scan", ", ".join(axis_words(a) for a in meta.nav_axes) or "one frame"),
        ("frame", ", ".join(axis_words(a) for a in meta.sig_axes)),
        ("values", f"{meta.dtype}, {size}, {number(meta.n_frames)} frames"),
        ("channels", ", ".join(f"{c} (used)" if c == channel else c for c in meta.channels) if len(meta.channels) > 1 else ""),
        ("centre", "" if meta.centre is None else ", ".join(f"{c:.5g}" for c in meta.centre) + " px"),
        ("rotation", "" if meta.rotation_deg is None else f"{meta.rotation_deg:.5g}°"),
        ("first position", f"holds frame {meta.sync_offset}" if meta.sync_offset else ""),
        *more,
        *(("note", note) for note in meta.notes),
    ]
    head = facts_html(f"{meta.id.kind} source", meta.id.uri, facts)
    vendor = list(meta.vendor.items())
    if not vendor:
        return head
    rows = [_row([f'<span style="{_DIM}">{text(k, 80)}</span>', text(v)]) for k, v in vendor[:ROWS_MAX]]
    left = f"<div>{_dim(f'and {len(vendor) - ROWS_MAX} more')}</div>" if len(vendor) > ROWS_MAX else ""
    return f"{head}<details><summary>{len(vendor)} entries of the vendor</summary>{_table(rows)}{left}</details>"
