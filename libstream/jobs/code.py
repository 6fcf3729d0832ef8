"""What is shown, as a Python script or a notebook that computes it again: made from the same parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from libstream.errors import UsageError
from libstream.jobs.analysis import Analysis, bare
from libstream.jobs.saving import safe
from libstream.jobs.session import Session
from libstream.model.array import Array
from libstream.model.quantity import Quantity


def generate(session: Session, kind: str) -> dict[str, str]:
    """{"name", "text"} of a script (kind "python") or a Jupyter notebook ("notebook"). Raises UsageError."""
    if kind not in ("python", "notebook"):
        raise UsageError(f"kind is python or notebook, got {kind!r:.40}")
    with session.lock:
        opened, analyses = session.opened, session.analyses.shown()
        roi, corrections, live = session.roi, session.corrections, session.follow is not None
    if opened is None:
        raise UsageError("nothing is open")
    cells = _cells(opened[0], opened[1], analyses, roi, corrections, live)
    stem = safe(opened[0].rsplit("/", 1)[-1].split("?")[0].rsplit(".", 1)[0])
    if kind == "python":
        return {"name": f"{stem}.py", "text": "\n\n".join(cells) + "\n"}
    shown = [cell.replace("\nprint(result)", "\nresult") for cell in cells]  # a notebook shows what its last line is, with pictures
    return {"name": f"{stem}.ipynb", "text": json.dumps(_notebook(shown), indent=1) + "\n"}


def _cells(uri: str, options: Mapping[str, Any], analyses: list[Analysis], roi: Any, corrections: Any, live: bool) -> list[str]:
    imports = ["import numpy as np", "", "import libstream as ls"]
    own = sorted({a.name.partition(":")[0] for a in analyses if ":" in a.name})
    given = "".join(f", {k}={tuple(v) if isinstance(v, list) else v!r}" for k, v in options.items())
    if live:
        opening = [f"live = ls.connect({uri!r}{given})", "scan = live.wait()  # the next acquisition"]
    else:
        opening = [f"scan = ls.open({uri!r}{given})"]
    cells = ["\n".join(imports)]
    if own:
        lines = ["import importlib.util", "", "", "def module(path):", '    """A UDF of one\'s own, from its file."""']
        lines += ["    spec = importlib.util.spec_from_file_location(path.rsplit('/', 1)[-1][:-3], path)"]
        lines += ["    found = importlib.util.module_from_spec(spec)", "    spec.loader.exec_module(found)", "    return found"]
        cells.append("\n".join(lines))
    cells.append("\n".join(opening))
    setup: list[str] = []
    call = ""
    if roi is not None:
        setup += _roi_lines(roi)
        call += ", roi=roi"
    shown, made = corrections
    if made is not None and shown["on"]:
        setup += _corrections_lines(shown, made)
        call += ", corrections=corrections"
    if setup:
        cells.append("\n".join(setup))
    udfs = [f"    {a.id!r}: {_wrapped(a)}," for a in analyses]
    cells.append("\n".join(["udfs = {", *udfs, "}"]))
    cells.append(f"result = ls.run(scan, udfs{call})\nprint(result)")
    outputs = [f"# result[{a.id!r}][{o.name!r}]: {a.title}, {o.title or o.name}" for a in analyses for o in a.outputs]
    cells.append("\n".join([*outputs, 'result.save("result.h5")']))
    return cells


def _wrapped(a: Analysis) -> str:
    cls = type(a.udf)
    if ":" in a.name:
        import inspect

        call = f"module({inspect.getfile(cls)!r}).{cls.__name__}"
    else:
        call = f"ls.udfs.{cls.__name__}"
    default = {f: getattr(v, "default", None) for f, v in cls.__dataclass_fields__.items()}  # type: ignore[attr-defined]
    params = [f"{n}={_literal(v)}" for n, v in a.udf.parameters().items() if not _same(v, default.get(n))]
    text = f"{call}({', '.join(params)})"
    return text if a.channel is None else f"ls.on({a.channel!r}, {text})"


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, (Array, np.ndarray)) or isinstance(default, (Array, np.ndarray)):
        return value is default
    return bool(bare(value) == bare(default)) and isinstance(value, bool) == isinstance(default, bool)


def _literal(value: Any) -> str:
    if isinstance(value, Quantity):
        return repr(value.value if value.unit == "px" else str(value))
    if isinstance(value, (Array, np.ndarray)):
        return _array(np.asarray(value))
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_literal(v) for v in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, np.generic):
        return repr(value.item())
    return repr(value)


def _array(array: np.ndarray[Any, Any]) -> str:
    """An expression for an array: runs of True for masks, else base64, so that a script stands alone."""
    import base64
    import zlib

    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
    imports = "__import__('zlib').decompress(__import__('base64').b64decode"
    return f"np.frombuffer({imports}({packed!r})), {array.dtype.str!r}).reshape({array.shape})"


def _roi_lines(roi: Mapping[str, Any]) -> list[str]:
    lines = ["ny, nx = scan.meta.shape.nav[-2:]", "y, x = np.mgrid[:ny, :nx]"]
    if roi["kind"] == "rectangle":
        expression = f"(y >= {roi['y0']!r}) & (y < {roi['y1']!r}) & (x >= {roi['x0']!r}) & (x < {roi['x1']!r})"
    elif roi["kind"] == "ellipse":
        (cy, cx), (ry, rx) = roi["centre"], roi["radii"]
        expression = f"((y - {cy!r}) / {ry!r}) ** 2 + ((x - {cx!r}) / {rx!r}) ** 2 < 1"
    else:
        from libstream.jobs.arrays import array_of

        if roi["kind"] == "mask":
            return [f"roi = {_array(array_of(roi['array'], 'roi').astype(bool))}"]
        lines += ["roi = np.zeros((ny, nx), bool)", f"corners = {[list(p) for p in roi['points']]!r}"]
        lines += ["for (ya, xa), (yb, xb) in zip(corners, [*corners[1:], corners[0]]):", "    if ya != yb:"]
        lines += ["        roi ^= ((ya > y) != (yb > y)) & (x < (xb - xa) * (y - ya) / (yb - ya) + xa)"]
        return [*lines, "roi = np.broadcast_to(roi, scan.meta.shape.nav)"]
    return [*lines, f"roi = np.broadcast_to({expression}, scan.meta.shape.nav)"]


def _corrections_lines(shown: Mapping[str, Any], made: Any) -> list[str]:
    parts = []
    for name in ("dark", "gain", "excluded"):
        array = getattr(made, name)
        if array is None:
            continue
        path = shown.get(name)
        simple = isinstance(path, str) and path.endswith(".npy")
        parts.append(f"    {name}={f'np.load({path!r})' if simple else _array(array)},")
    return ["corrections = ls.Corrections(", *parts, ")"]


def _notebook(cells: list[str]) -> dict[str, Any]:
    return {
        "cells": [
            {"cell_type": "code", "execution_count": None, "id": f"cell-{i}", "metadata": {}, "outputs": [],
             "source": [line + "\n" for line in cell.split("\n")[:-1]] + [cell.split("\n")[-1]]}
            for i, cell in enumerate(cells)
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"},
        },
        "nbformat": 4, "nbformat_minor": 5,
    }  # fmt: skip
