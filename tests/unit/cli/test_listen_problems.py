"""`libstream listen` tells each thing that goes wrong while it waits, also after the source has forgotten the first ones."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from libstream.cli import listen


class Troubled:
    """A source that has one more problem each time it is asked, and keeps the last three."""

    def __init__(self, n: int) -> None:
        self.n, self.seen = n, deque(["an old one"], maxlen=3)

    def wait(self, timeout_s: float) -> Any:
        self.n -= 1
        self.seen.append(f"problem {self.n}")
        return None if self.n else "acquisition"

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(self.seen)

    def status(self) -> dict[str, Any]:
        return {}


def test_each_problem_is_told_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen.LiveLine, "show", lambda *_: None)
    assert listen._next(Troubled(9)) == "acquisition"  # type: ignore[arg-type]
    told = [line.rsplit(": ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert told == [f"problem {n}" for n in range(8, -1, -1)]
