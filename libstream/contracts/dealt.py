"""Partitions whose frames do not pass through the program that merges them: a router deals them out to consumers on other computers.

A source gives `Dealt` partitions, an executor that can keep consumers running takes them (`KeepsConsumers`). Neither knows the other's
sockets: the executor starts `Consumer.run` once in each of its workers, brings the work of a run to them in its own way, and passes
on the partial results that the source has received.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from libstream.contracts.executor import CancelFlag, Work
from libstream.errors import LibstreamError
from libstream.model.partial import Partial


class UnknownRunError(LibstreamError):
    """This worker was not told of a run, or not any more: others take its frames."""


WorkOf = Callable[[str], tuple[Work, CancelFlag]]
"""The work of the run with this token, set up, and the flag that stops it. Raises UnknownRunError where nobody told of it."""


class Consumer(Protocol):
    """What runs in a worker, hours long: takes frames from the router, runs the tile loop, sends partial results. Picklable."""

    def run(self, work_of: WorkOf, n_threads: int, stopped: Callable[[], bool]) -> None:
        """Serve runs until the client says goodbye, is silent for long, or `stopped()`. Never raises for what comes from outside."""


class Consumers(Protocol):
    """Consumers kept running by an executor, one in each worker."""

    def close(self) -> None:
        """End them. Idempotent."""

    def status(self) -> Mapping[str, Any]:
        """ "workers" (how many there are, or will be), "started" (how many have a consumer), "error" (why there are none, or "")."""


@runtime_checkable
class KeepsConsumers(Protocol):
    """An executor whose workers can be consumers."""

    @property
    def is_local(self) -> bool:
        """True where the workers run on this computer, so that they reach addresses of the loopback interface."""

    def keep(self, consumer: Consumer) -> Consumers:
        """Run `consumer` in every worker, also in those that join, or start again, later."""


@runtime_checkable
class Dealt(Protocol):
    """Partitions that are dealt out elsewhere; what `FrameSource.partitions` returns for a source behind a router.

    token: name of this pass, under which the executor gives the work to its workers before it calls `begin`.
    """

    token: str

    def begin(self) -> None:
        """The workers have the work: frames may be dealt out."""

    def results(self, timeout_s: float) -> list[Partial] | None:
        """Partial results that have come in; [] after `timeout_s` seconds, None when the pass is over. Raises what a worker raised."""

    def wake(self) -> None:
        """Deal out nothing more."""
