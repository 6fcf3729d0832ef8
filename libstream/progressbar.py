"""A progress bar for scripts and notebooks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from libstream.run.job import Progress

EVERY_S = 0.2
"""Least time between two updates of a bar in a notebook: each one is a message to the browser, and is kept with the notebook."""


class Bar:
    """A bar for where the code runs: one that is updated in place in a notebook, tqdm's elsewhere; starts anew with each generation."""

    def __init__(self) -> None:
        self._shown: Callable[[Progress], None] = _NotebookBar() if in_notebook() else _TerminalBar()

    def __call__(self, p: Progress) -> None:
        self._shown(p)


def in_notebook() -> bool:
    """True in the kernel of a notebook: what is displayed there goes to a browser, and not to a terminal."""
    ipython = sys.modules.get("IPython")  # not imported: then nothing runs in it
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class _TerminalBar:
    """Frames, frames/s and GB/s by tqdm."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._generation = -1

    def __call__(self, p: Progress) -> None:
        from tqdm import tqdm

        if p.generation != self._generation or self._bar is None:
            self._generation = p.generation
            self._bar = tqdm(total=p.n_total, unit=" frames")
        self._bar.update(p.n_done - self._bar.n)
        self._bar.set_postfix_str(f"{p.bytes_per_s / 1e9:.2f} GB/s", refresh=False)
        if p.n_done >= p.n_total:
            self._bar.close()
            self._bar = None


class _NotebookBar:
    """One output of the cell that made it, updated in place from whatever thread; needs no widgets, and the last state is saved."""

    def __init__(self) -> None:
        from IPython.display import display

        self._shown = display(_Shown(None), display_id=True)
        self._due = 0.0

    def __call__(self, p: Progress) -> None:
        now = time.monotonic()
        if now < self._due and p.n_done < p.n_total:
            return
        self._due = now + EVERY_S
        self._shown.update(_Shown(p))


class _Shown:
    """One state of a bar."""

    def __init__(self, p: Progress | None) -> None:
        self._p = p

    def __repr__(self) -> str:
        from libstream.model.html import number

        p = self._p
        if p is None or not p.n_total:
            return "starting"
        left = f", {_time(p.seconds_left)} left" if 0 < p.n_done < p.n_total else ""
        again = f", generation {p.generation}" if p.generation else ""
        rate = f", {number(round(p.frames_per_s))} frames/s, {p.bytes_per_s / 1e9:.2f} GB/s" if p.n_done else ""
        return (
            f"{100 * p.n_done // p.n_total} %: {number(p.n_done)} of {number(p.n_total)} positions in {_time(p.seconds)}{rate}{left}{again}"
        )

    def _repr_html_(self) -> str:
        from libstream.model.html import bar_html

        p = self._p
        return bar_html(p.n_done / p.n_total if p is not None and p.n_total else 0.0, repr(self))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
