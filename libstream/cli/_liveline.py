"""How a live run stands: one line that is drawn over on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

from libstream.cli.command import size, tell
from libstream.cli.progress import LINE_EVERY_S

_RATE_S = 1.0
"""Rates are means over about this time."""


class LiveLine:
    """Frames that came in and were processed, their rates, how full the memory is, and what is not as it should be."""

    def __init__(self, label: str, *, tty: bool | None = None, stream: TextIO | None = None) -> None:
        self.label = label
        self._stream = stream if stream is not None else sys.stderr
        self._tty = self._stream.isatty() if tty is None else tty
        self._shown = ""
        self._next = time.monotonic() + (0.0 if self._tty else LINE_EVERY_S)
        self._at, self._before = time.monotonic(), (0, 0)
        self._rates = (0.0, 0.0)

    def __enter__(self) -> LiveLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._clear()

    def message(self, text: str) -> None:
        """A line of its own."""
        self._clear()
        tell(text)

    def show(self, status: Mapping[str, Any], progress: Any, acquisition: Any = None) -> None:
        """Draw how it stands."""
        text = self.text(status, progress, acquisition)
        if self._tty or progress is not None:
            self.draw(text)

    def draw(self, text: str) -> None:
        """Draw a line as it is: over the last one on a terminal, now and then elsewhere."""
        if self._tty:
            self._clear()
            self._stream.write(text)
            self._stream.flush()
            self._shown = text
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            tell(text)

    def text(self, status: Mapping[str, Any], progress: Any, acquisition: Any = None) -> str:
        """The line."""
        if acquisition is None or progress is None:
            return f"{self.label}: {status['state']}, {status['messages']:,} messages so far"
        done, arrived, n = progress.n_done, acquisition.n_arrived, progress.n_total
        now = time.monotonic()
        if now - self._at >= _RATE_S:
            a, b = self._before
            self._rates = ((arrived - a) / (now - self._at), (done - b) / (now - self._at))
            self._at, self._before = now, (arrived, done)
        c = acquisition.counts
        odd = [f"{v:,} {k}" for k, v in (("dropped", c.dropped), ("duplicate", c.duplicate), ("late", c.late), ("surplus", c.surplus),
                                         ("foreign", c.foreign), ("not understood", c.malformed)) if v]  # fmt: skip
        parts = [
            f"{self.label}: {arrived:,} of {n:,} frames in ({self._rates[0]:,.0f}/s)", f"{done:,} processed ({self._rates[1]:,.0f}/s)",
            f"memory {100 * status['fill']:.0f} %" + (", FULL: the detector waits" if status["blocked"] else ""), *odd,
        ]  # fmt: skip
        if status["recorded_bytes"]:
            parts.append(f"recorded {size(status['recorded_bytes'])}")
        if status["recording_error"]:
            parts.append(f"RECORDING STOPPED: {status['recording_error']}")
        return ", ".join(parts)

    def _clear(self) -> None:
        if self._shown:
            self._stream.write("\r" + " " * len(self._shown) + "\r")
            self._stream.flush()
            self._shown = ""
