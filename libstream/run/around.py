"""Begin and end of a run, for UDFs that have effects outside of their outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from libstream.contracts.udf import UDF
from libstream.errors import LibstreamError, UDFError
from libstream.run.collect import Collector


@contextmanager
def around(udfs: Mapping[str, UDF], collector: Collector) -> Iterator[None]:
    """Call `begin_run` of each UDF, and at the end `end_run` of those that began.

    When the block raises (or is left early) they are told that there is no result, and its error is the one that is seen.
    """
    udfs = {k: u for k, u in udfs.items() if type(u).begin_run is not UDF.begin_run or type(u).end_run is not UDF.end_run}
    begun: list[str] = []
    try:
        for key, udf in udfs.items():
            begun.append(key)
            _call(key, "begin_run", udf.begin_run)
        yield
    except BaseException:
        _undo(udfs, begun, collector)
        raise
    while begun:
        key = begun[0]
        try:
            results, coverage = collector.merged(key)
            _call(key, "end_run", functools.partial(udfs[key].end_run, results, coverage))
        except BaseException:
            _undo(udfs, begun, collector)
            raise
        begun.pop(0)


def _undo(udfs: Mapping[str, UDF], begun: list[str], collector: Collector) -> None:
    for key in begun:
        try:
            udfs[key].end_run(None, collector.merged(key)[1])
        except Exception:  # noqa: BLE001  the error that ended the run is on its way; a second one would hide it
            continue


def _call(key: str, name: str, func: Callable[[], None]) -> None:
    try:
        func()
    except LibstreamError:
        raise
    except Exception as exc:
        raise UDFError(f"UDF {key}: {name} raised {type(exc).__name__}: {exc}", udf=key, where=name) from exc
