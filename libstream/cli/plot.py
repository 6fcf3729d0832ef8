"""`--plot`: every result of a run in one picture, drawn with matplotlib's object interface (no window, no global state)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from libstream.cli import _panels
from libstream.errors import NotInstalledError, SaveError, UsageError
from libstream.model.result import Result

MAX_PANELS = 40
"""More panels than this are not drawn: they would be too small to see."""
_WIDTH, _FURNITURE = 3.1, 0.85  # inches: of a plot, and of what stands around it


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
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [p for key in result for name in result[key] for p in _panels.panels_of(result, key, name)]
    left_out = len(panels) - MAX_PANELS
    panels = panels[:MAX_PANELS]
    if not panels:
        panels = [_panels.NOTHING]
    columns = min(len(panels), 1 + math.isqrt(len(panels) - 1))
    rows = math.ceil(len(panels) / columns)
    heights = [_WIDTH * max(p.aspect for p in panels[r * columns : (r + 1) * columns]) + _FURNITURE for r in range(rows)]
    fig = Figure(figsize=((_WIDTH + _FURNITURE + 0.8) * columns, sum(heights) + 0.5), dpi=110)
    FigureCanvasAgg(fig)
    fig.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06))
    grid = fig.add_gridspec(rows, columns, height_ratios=heights)
    for number, panel in enumerate(panels):
        panel.draw(fig.add_subplot(grid[divmod(number, columns)]))
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
        with np.errstate(all="ignore"):  # infinities and the like are drawn as well as they can be
            figure(result, title).savefig(aside)
        aside.replace(path)
    except OSError as exc:
        raise SaveError(f"{path}: the picture could not be written: {exc.strerror or exc}") from exc
    finally:
        aside.unlink(missing_ok=True)
    return path
