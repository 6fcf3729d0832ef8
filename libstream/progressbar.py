"""A progress bar for scripts and notebooks."""

from __future__ import annotations

from typing import Any

from libstream.run.job import Progress


class Bar:
    """Shows frames, frames/s and GB/s with tqdm; starts anew with each generation."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._generation = -1

    def __call__(self, p: Progress) -> None:
        from tqdm.auto import tqdm

        if p.generation != self._generation or self._bar is None:
            self._generation = p.generation
            self._bar = tqdm(total=p.n_total, unit=" frames")
        self._bar.update(p.n_done - self._bar.n)
        self._bar.set_postfix_str(f"{p.bytes_per_s / 1e9:.2f} GB/s", refresh=False)
        if p.n_done >= p.n_total:
            self._bar.close()
            self._bar = None
