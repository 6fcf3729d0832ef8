"""How far a run is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from libstream.cli.command import duration, size, tell

LINE_EVERY_S = 5.0
"""Seconds between plain lines: often enough to see life in a log, seldom enough not to fill it."""
_BAR = "{desc} {percentage:3.0f}% |{bar}| {n:,} of {total:,} frames{postfix}, {remaining} left"
_READY = "{desc}: getting ready"
"""Before it is known how many frames there are: tqdm has no number then that could be formatted."""


class Progress:
    """Frames, frames/s, GB/s and time left of one or of several runs, to stderr.

    label: text in front. total: frames to expect (more can be announced by `expect`). frame_bytes: size of a frame.
    tty: draw a bar (default: where stderr is a terminal). Several threads may call `update` and `expect`.
    """

    def __init__(self, label: str, total: int = 0, frame_bytes: float = 0, *, tty: bool | None = None, quiet: bool = False,
                 stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self.label, self.total, self.done = label, total, 0
        self._n_bytes, self._frame_bytes, self._clock, self._quiet = 0.0, float(frame_bytes), clock, quiet
        self._stream = stream if stream is not None else sys.stderr
        self._tty = self._stream.isatty() if tty is None else tty
        self._start = self._last_line = clock()
        self._first: tuple[float, int] | None = None  # when the first frames were done: what is before it is preparation
        self._lock = threading.Lock()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._tty and not self._quiet:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.total, desc=self.label, unit=" frames", file=self._stream, leave=False, dynamic_ncols=True,
                bar_format=_BAR if self.total else _READY,
            )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @property
    def seconds(self) -> float:
        """Time since the start [s]."""
        return self._clock() - self._start

    def expect(self, frames: int) -> None:
        """Announce `frames` more."""
        with self._lock:
            self.total += frames
            if self._bar is not None:
                self._bar.total, self._bar.bar_format = self.total, _BAR

    def update(self, frames: int, frame_bytes: float | None = None) -> None:
        """`frames` more are done, each of `frame_bytes`."""
        with self._lock:
            self.done += frames
            self._n_bytes += frames * (self._frame_bytes if frame_bytes is None else frame_bytes)
            now = self._clock()
            if self._first is None:
                self._first = (now, self.done)
            if self._bar is not None:
                self._bar.set_postfix_str(self._rates(), refresh=False)
                self._bar.update(frames)
            elif not self._quiet and now - self._last_line >= LINE_EVERY_S:
                self._last_line = now
                tell(self.line())

    def message(self, text: str) -> None:
        """Print a line to stderr without tearing the bar."""
        if self._bar is not None:
            from tqdm import tqdm

            tqdm.write(text, file=self._stream)
        else:
            tell(text)

    def _rates(self) -> str:
        seconds = max(self.seconds, 1e-9)
        rate = f"{self.done / seconds:,.0f} frames/s"
        return f"{rate}, {self._n_bytes / seconds / 1e9:.2f} GB/s" if self._n_bytes else rate

    @property
    def seconds_left(self) -> float | None:
        """Expected time to the end by the rate since the first frames came [s]; None where nothing can be said."""
        if self._first is None or self.done >= self.total or self.done == self._first[1]:
            return None
        return (self._clock() - self._first[0]) * (self.total - self.done) / (self.done - self._first[1])

    def line(self) -> str:
        """The present state in one line."""
        parts = [f"{self.label}: {self.done:,} of {self.total:,} frames"]
        if self.total:
            parts[0] += f" ({100 * self.done / self.total:.0f} %)"
        if self.done:
            parts.append(self._rates())
            if (left := self.seconds_left) is not None:
                parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def summary(self) -> str:
        """What was done, for the last line: frames, time, rate."""
        seconds = max(self.seconds, 1e-9)
        text = f"{self.done:,} frames in {duration(seconds)}"
        return f"{text} ({size(self._n_bytes)}, {self._n_bytes / seconds / 1e9:.2f} GB/s)" if self._n_bytes else text
