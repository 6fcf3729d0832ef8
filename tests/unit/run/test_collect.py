"""The growing result: rows at their places, coverage, snapshots that later merges do not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import UDFError
from libstream.model.partial import CORRUPT, DROPPED, PROCESSED, Partial, RaggedPart
from libstream.model.shape import DataShape
from libstream.model.source import SourceId, SourceMeta
from libstream.run.collect import Collector

NAV, SIG = (4, 5), (2, 3)
META = SourceMeta(SourceId("a", "memory", 0), DataShape(NAV, SIG), np.dtype("u2"))


class Kinds(ls.UDF):
    how: str = ""

    def outputs(self) -> dict[str, ls.Output]:
        return {
            "value": ls.nav("f4"),
            "pair": ls.nav("u2", (2,)),
            "flag": ls.nav("?"),
            "image": ls.sig("i8"),
            "scratch": ls.single("f8", private=True),
            "events": ls.ragged("i4"),
            "mean": ls.nav("f8", derived=True),
        }

    def process_frame(self, frame: Any, out: Any) -> None: ...

    def finish(self, results: dict[str, Any], coverage: Any) -> dict[str, Any]:
        out: dict[str, Any] = {"mean": results["value"] / 2}
        if self.how == "raises":
            raise ZeroDivisionError("oh")
        if self.how == "unknown":
            out["other"] = np.zeros(3)
        if self.how == "shape":
            out["mean"] = np.zeros(3)
        if self.how == "dtype":
            out["mean"] = np.zeros(NAV, "c16")
        if self.how == "missing":
            del out["mean"]
        return out


def collector(how: str = "", mask: Any = None, missing: Any = None) -> Collector:
    udf = Kinds(how=how)
    return Collector({"k": udf}, {"k": META}, NAV, mask, np.zeros(20, bool) if missing is None else missing)


def partial(number: int, positions: list[int], bad: tuple[int, ...] = (), code: int = CORRUPT) -> Partial:
    where = np.array(positions, np.int64)
    status = np.where(np.isin(where, bad), code, PROCESSED).astype(np.uint8)
    rows = where[status == PROCESSED]
    counts = rows % 3
    placed = {
        ("k", "value"): rows.astype("f4"),
        ("k", "pair"): np.stack([rows, rows + 1], 1).astype("u2"),
        ("k", "flag"): rows % 2 == 1,
        ("k", "events"): RaggedPart(np.repeat(rows, counts).astype("i4"), counts),
    }
    reduced = {("k", "image"): np.full(SIG, len(rows)), ("k", "scratch"): np.array(1.0)}
    return Partial(number, 1, where, status, placed, reduced, {"udf:k": 0.5})


def result(c: Collector, version: int = 1) -> Any:
    return c.result(3, version, {"a": 1}, {}, False)


def test_rows_are_placed_and_the_rest_holds_the_fill() -> None:
    c = collector()
    c.add(partial(1, [7, 8, 9, 12]))
    c.add(partial(0, [3, 4, 5], bad=(4,)))
    r = result(c)["k"]
    seen = [3, 5, 7, 8, 9, 12]
    value = r["value"].reshape(-1)
    assert value[seen].tolist() == seen
    assert np.isnan(np.delete(value, seen)).all()
    assert r["pair"].reshape(-1, 2)[seen].tolist() == [[i, i + 1] for i in seen]
    assert (np.delete(r["pair"].reshape(-1, 2), seen, 0) == 65535).all()
    assert np.flatnonzero(r["flag"]).tolist() == [3, 5, 7, 9]
    assert (r["image"] == 6).all()
    assert r["mean"].reshape(-1)[7] == 3.5
    assert list(r) == ["value", "pair", "flag", "image", "events", "mean"], "private outputs are not in the result"
    assert {i: e.tolist() for i, e in enumerate(r["events"]) if len(e)} == {5: [5, 5], 7: [7], 8: [8, 8]}
    assert [v.dtype for v in r.values()] == ["f4", "u2", "?", "i8", "i4", "f8"]


def test_coverage_and_progress() -> None:
    mask = np.ones(NAV, bool)
    mask[0] = False
    missing = np.zeros(20, bool)
    missing[19] = True
    c = collector(mask=mask, missing=missing)
    c.add(partial(0, [5, 6, 7], bad=(6,)))
    c.add(partial(1, [8, 9], bad=(8, 9), code=DROPPED))
    counts = result(c).coverage.counts
    assert counts == {"processed": 2, "corrupt": 1, "dropped": 2, "missing": 1, "excluded": 5, "unseen": 9, "announced": 15}
    assert (c.n_processed, c.n_tried) == (2, 5)
    assert c.seconds["udf:k"] == 1.0
    assert c.seconds["merge"] > 0.0


def test_a_position_is_processed_once() -> None:
    c = collector()
    c.add(partial(0, [3, 4]))
    with pytest.raises(ValueError, match="partition 1: positions were processed twice"):
        c.add(partial(1, [4, 5]))
    c.add(partial(2, [6], bad=(6,)))
    c.add(partial(3, [6]))  # a frame that was corrupt may come again
    assert result(c).valid.sum() == 3


def test_nothing_seen_is_the_fill_not_zero() -> None:
    c = collector()
    for parts in ([], [partial(0, [1, 2], bad=(1, 2))]):
        for p in parts:
            c.add(p)
        r = result(c)["k"]
        assert (r["image"] == np.iinfo("i8").max).all()
        assert np.isnan(r["value"]).all()
        assert len(r["events"].values) == 0


def test_snapshots_are_copies() -> None:
    c = collector()
    c.add(partial(0, [0, 1]))
    first = result(c)
    before = {n: np.array(v.values if isinstance(v, ls.Ragged) else v) for n, v in first["k"].items()}
    status = first.coverage.status.copy()
    c.add(partial(1, [2, 3]))
    second = result(c, 2)
    assert second["value"].reshape(-1)[2] == 2.0
    for n, v in first["k"].items():
        assert np.array_equal(np.asarray(v.values if isinstance(v, ls.Ragged) else v), before[n], equal_nan=before[n].dtype.kind == "f"), n
        if not isinstance(v, ls.Ragged):
            assert not v.flags.writeable
            assert not np.shares_memory(v, second["k"][n])
    assert np.array_equal(first.coverage.status, status)


def test_changed_rows_and_nothing_changed() -> None:
    c = collector()
    assert not c.changed
    c.add(partial(0, [6, 7]))
    assert c.changed
    assert result(c).changed["k", "value"] == (1, 2), "rows of the first scan axis, half-open"
    assert not c.changed
    c.add(partial(1, [12]))
    c.add(partial(2, [4]))
    assert result(c).changed["k", "value"] == (0, 3)
    assert result(c).changed == {}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", "UDF k: finish raised ZeroDivisionError: oh"),
        ("unknown", "UDF k: finish returned 'other', which outputs.. does not declare; it declares value, pair"),
        ("shape", r"UDF k: finish returned mean of shape \(3,\), expected \(4, 5\)"),
        ("dtype", "UDF k: finish returned mean of dtype complex128, declared is float64"),
        ("missing", "UDF k: finish did not return mean, declared as derived"),
    ],
)
def test_finish_that_fails(how: str, says: str) -> None:
    with pytest.raises(UDFError, match=says) as caught:
        result(collector(how))
    assert (caught.value.udf, caught.value.where) == ("k", "finish")


def test_versions_and_record() -> None:
    r = result(collector(), 7)
    assert (r.generation, r.version, r.final, r.complete, r.run) == (3, 7, False, False, {"a": 1})
