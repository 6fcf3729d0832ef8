"""A router over a detector in memory, consumers in threads of the test, and a client: what the tests of routing share."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import libstream as ls
from libstream.contracts.dealt import UnknownRunError
from libstream.contracts.executor import CancelFlag, Traits
from libstream.errors import CancelledError
from libstream.route import consumer as consumer_module
from libstream.route.consumer import RouteConsumer, _Serving
from libstream.route.hub import Hub
from libstream.route.source import RoutedSource
from libstream.testing.detectors import Wire, memory_source
from tests.live.failing import FRAMES, LIMIT_S, SCAN, UDFS, N, check

FRAME_BYTES = FRAMES[0].nbytes
ANYWHERE = "tcp://127.0.0.1:0"


class Killed(BaseException):
    """The consumer is gone, without a word."""


class Mortal(_Serving):
    """A consumer that can be killed (its connections break) or frozen (they stand, and nothing is said)."""

    killed = frozen = False

    def _turn(self) -> None:
        while self.frozen and not self.stopped() and not self.killed:
            time.sleep(0.005)
        if self.killed:
            raise Killed
        super()._turn()


class ThreadConsumers:
    """An executor whose consumers are threads of this process.

    before: called before each partition that a consumer processes, with its index and the partition.
    """

    name: ClassVar[str] = "thread-consumers"
    is_local = True

    def __init__(self, n: int = 2, before: Any = None) -> None:
        self.n, self.before = n, before
        self.traits = Traits(n_workers=n)
        self.running: list[Mortal] = []
        self._threads: list[threading.Thread] = []
        self._works: dict[str, tuple[Any, CancelFlag]] = {}
        self._stop = threading.Event()

    def keep(self, consumer: RouteConsumer) -> ThreadConsumers:
        self._consumer = consumer
        for _ in range(self.n):
            self.another()
        return self

    def another(self) -> Mortal:
        """One more consumer."""
        made = Mortal(self._consumer, self._work_of(len(self.running)), 1, self._stop.is_set)
        self.running.append(made)

        def serve() -> None:
            with contextlib.suppress(Killed):
                made.run()

        self._threads.append(threading.Thread(target=serve, name="test-consumer", daemon=True))
        self._threads[-1].start()
        return made

    def _work_of(self, index: int) -> Any:
        def find(token: str) -> tuple[Any, CancelFlag]:
            until = time.monotonic() + 0.3
            while token not in self._works:
                if time.monotonic() > until:
                    raise UnknownRunError("nobody told of this run")
                time.sleep(0.002)
            work, flag = self._works[token]
            if self.before is None:
                return work, flag

            def process(partition: Any, cancel: Any) -> Any:
                self.before(index, partition)
                return work.process(partition, cancel)

            return SimpleNamespace(process=process, combine=work.combine), flag

        return find

    def status(self) -> dict[str, Any]:
        return {"workers": self.n, "started": len(self.running), "error": ""}

    def imap(self, work: Any, partitions: Any, *, in_flight: int, cancel: CancelFlag) -> Iterator[Any]:
        work.setup()
        flag = CancelFlag()
        self._works[partitions.token] = work, flag
        try:
            partitions.begin()
            while True:
                found = partitions.results(0.02)
                if cancel:
                    raise CancelledError("cancelled")
                if found is None:
                    return
                yield from found or (None,)
        finally:
            flag.set()
            self._works.pop(partitions.token, None)

    def close(self) -> None:
        self._stop.set()
        for one in self.running:
            one.frozen = False
        for thread in self._threads:
            thread.join(10)


class Routed:
    """All of it. wire: the detector's end. hub, live, executor: router, client and consumers."""

    def __init__(self, wire: Wire, hub: Hub, live: RoutedSource, executor: ThreadConsumers) -> None:
        self.wire, self.hub, self.live, self.executor = wire, hub, live, executor

    def taken(self) -> Any:
        found = self.live.wait(LIMIT_S)
        assert found is not None, self.live.problems
        return found

    def start(self, acquisition: Any, udfs: Any = None) -> ls.api.Job:
        return ls.start(acquisition, udfs or UDFS, executor=self.executor)

    def run(self, acquisition: Any) -> ls.Result:
        return self.start(acquisition).wait(LIMIT_S)

    def whole(self, run: int) -> None:
        """An acquisition as it should be."""
        self.wire.header(run, N)
        self.wire.frames(run, FRAMES)
        self.wire.end(run)
        acquisition = self.taken()
        while acquisition.run != run:
            acquisition = self.taken()
        result = self.run(acquisition)
        check(result, range(N), received=N)
        assert result.run["acquisition"]["state"] == acquisition.wait(LIMIT_S) == "done"


@contextlib.contextmanager
def routed(n: int = 2, *, frames: int = 4, wire: Wire | None = None, before: Any = None, following: int | None = 1000, hub: Any = None,
           client: Any = None, **source: Any) -> Iterator[Routed]:  # fmt: skip
    """A scan of `SCAN` in blocks of `frames` frames over `n` consumers; afterwards the next acquisition is whole.

    hub, client, source: options of `Hub`, `RoutedSource` and the detector.
    """
    wire = wire or Wire()
    executor = ThreadConsumers(n, before)
    with contextlib.ExitStack() as stack:
        stack.callback(executor.close)
        inner = memory_source(wire, **{"scan": SCAN, **source})
        router = Hub([inner], ANYWHERE, **{"lost_s": 1.0, "block_bytes": frames * FRAME_BYTES, **(hub or {})})
        stack.callback(router.close)
        router.start()
        live = RoutedSource("memory://", router.address, executor, results=ANYWHERE, **{"consumers": n, "wait_s": 10.0, **(client or {})})
        made = Routed(wire, router, live, executor)
        del live
        stack.callback(lambda: made.live.close() if hasattr(made, "live") else None)
        yield made
        if following is not None:
            made.whole(following)


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Consumers speak more often than they need, so that tests of who is lost are short."""
    kept = consumer_module.BEAT_S
    consumer_module.BEAT_S = 0.05
    try:
        yield
    finally:
        consumer_module.BEAT_S = kept
