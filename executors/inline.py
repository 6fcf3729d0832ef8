"""Everything in the calling thread: for debugging (pdb stops at the user's line) and as the reference of all others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from libstream.ext import CancelFlag, CancelledError, Partial, Partition, Traits, Work


class InlineExecutor:
    """Runs partitions one after another in the caller's thread."""

    name: ClassVar[str] = "inline"
    traits = Traits(n_workers=1, crosses_process=False, in_caller=True)

    def imap(self, work: Work, partitions: Iterable[Partition], *, in_flight: int, cancel: CancelFlag) -> Iterator[Partial | None]:
        """See `Executor.imap`."""
        work.setup()
        for partition in partitions:
            if cancel:
                raise CancelledError("cancelled")
            yield work.process(partition, cancel)
        if cancel:  # while the source waited
            raise CancelledError("cancelled")

    def close(self) -> None:
        """Nothing to stop."""
