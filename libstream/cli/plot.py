"""`--plot`: every result of a run in one picture, drawn with matplotlib's object interface (no window, no global state)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from libstream.cli import _panels
from libstream.errors import NotInstalledError, SaveError, UsageError
from libstream.model.result import Result

MAX_PANELS = 40
"""More panels than this are not drawn: they would be too small to see."""


def check_available(path: str | Path) -> None:
    """Raise before a run what `draw` would raise after it: matplotlib missing, an ending that it cannot write."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as exc:
        raise NotInstalledError("--plot needs matplotlib, which is not installed: pip install libstream[plot]") from exc
    known = FigureCanvasAgg.get_supported_filetypes()
    ending = Path(path).suffix.lstrip(".").lower()
    if ending not in known:
        raise UsageError(f"--plot {path}: nobody can write .{ending} pictures; endings that work: {', '.join(sorted(known))}")


def figure(result: Result, title: str = "") -> Any:
    """A matplotlib Figure with a panel for each output of `result`.

    Scan maps with axes, scale bar and robust contrast; frames (logarithmic where the range asks for it); pairs (y, x) as
    direction and length in a colour wheel; complex ones as amplitude and phase; profiles as lines; histograms as bars; ragged
    outputs as number of records. Positions that were not processed are grey.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [p for key in result for name in result[key] for p in _panels.panels_of(result, key, name)]
    left_out = len(panels) - MAX_PANELS
    panels = panels[:MAX_PANELS]
    columns = min(len(panels), 1 + math.isqrt(max(len(panels) - 1, 0))) or 1
    rows = max(1, math.ceil(len(panels) / columns))
    fig = Figure(figsize=(4.6 * columns, 3.9 * rows + 0.5), dpi=110, layout="constrained")
    FigureCanvasAgg(fig)
    fig.get_layout_engine().set(w_pad=0.12, h_pad=0.06)
    for number, panel in enumerate(panels):
        panel.draw(fig.add_subplot(rows, columns, number + 1))
    lines = [title] if title else []
    if not result.complete:
        lines.append(f"incomplete: {result.coverage}")
    if left_out > 0:
        lines.append(f"{left_out} more not drawn")
    if lines:
        fig.suptitle("\n".join(lines), fontsize=10)
    return fig


def draw(result: Result, path: str | Path, title: str = "") -> Path:
    """Write the picture of `result` to `path` (.png, .pdf, .svg, ...; aside, then renamed). Raises SaveError."""
    path = Path(path)
    check_available(path)
    aside = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        figure(result, title).savefig(aside)
        aside.replace(path)
    except OSError as exc:
        raise SaveError(f"{path}: the picture could not be written: {exc.strerror or exc}") from exc
    finally:
        aside.unlink(missing_ok=True)
    return path
