"""Feed the executor, merge what comes back, publish. The one loop, for stored and live sources alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

from libstream.contracts.executor import CancelFlag, Executor, Work
from libstream.contracts.source import HandsOut, Partition
from libstream.run.collect import Collector


def run_loop(
    executor: Executor,
    work: Work,
    partitions: Iterable[Partition],
    collector: Collector,
    cancel: CancelFlag,
    publish: Callable[[], None],
    progress: Callable[[Collector], None],
    tick_s: float,
) -> Iterator[None]:
    """Run `partitions` through `executor` into `collector`; yields after each publication.

    `publish` is called at the first partial result, then at most every `tick_s` seconds, more rarely where publishing
    itself takes long (at most a tenth of the time goes there), and never when nothing changed or `tick_s` is infinite (nobody
    looks before the end). Its time is CPU time of this thread: waiting for the interpreter, which workers and a server hold, is no
    work that the run loses. The final publication is the caller's. Exceptions of the executor are raised; what was merged
    stays in the collector.
    """
    in_flight = executor.traits.n_workers
    due = 0.0 if math.isfinite(tick_s) else math.inf
    merged = partitions.merged if isinstance(partitions, HandsOut) else None
    for partial in executor.imap(work, partitions, in_flight=in_flight, cancel=cancel):
        if partial is not None:
            collector.add(partial)
            if merged is not None:
                merged(partial)
            progress(collector)
        now = time.monotonic()
        if now >= due and collector.changed:
            before = time.thread_time()
            publish()
            due = now + max(tick_s, 10 * (time.thread_time() - before))
            yield
