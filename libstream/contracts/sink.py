"""Where results go."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol


class Sink(Protocol):
    """One kind of result file."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def save(self, result: Any, path: Path) -> None:
        """Write a `Result` aside, then rename. Raises SaveError; never leaves a half-written file."""

    def load(self, path: Path) -> Any:
        """Read back what `save` wrote, as a `Result`. Raises FormatError."""

    def check(self, path: Path) -> None:
        """Raise SaveError where `save` would refuse `path`, before a run: no such folder, or a file that is no result."""
