"""Laws that every UDF has to obey. Inherit `UDFLaws`, name the UDF, run pytest.

class TestCenterOfMass(UDFLaws):
    udf = CenterOfMass(radius=6)

Which frames a worker gets, in which tiles, in what order results arrive and how they are merged must not change what is
computed: integers and per-frame values have the same bits, sums of floats agree to 1e-12.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, ClassVar

import numpy as np

from libstream.contracts.params import make, schema, to_json
from libstream.contracts.source import FrameSource, Partition
from libstream.contracts.udf import UDF
from libstream.kernels.jit import Kernel
from libstream.model.array import Array
from libstream.model.partial import DROPPED
from libstream.model.quantity import Quantity
from libstream.model.ragged import Ragged
from libstream.testing._bench import KEY, Bench, differ
from libstream.testing.sources import ScriptedSource, Step, cut_at, late

_Arr = np.ndarray[Any, Any]
CUTS = ((64,), (3, 14, 47))


class UDFLaws:
    """Tests of one UDF. Set `udf`; the rest has defaults.

    udf: the UDF to test, an instance (or a class without required parameters, or a property that returns one).
    frames: array (*nav, *sig) to run it on, or None for random frames (8, 8 | 16, 16) of each dtype in `dtypes`.
    dtypes: dtypes of frames to try.
    n_sig: axes of a frame.
    rtol: agreement of float sums between different cuts, relative to the largest value of the array.
    rtol_finish: the same after `finish`, which may subtract large numbers.
    rtol_twin: agreement of compiled code with the plain function, for floats.
    bitwise: False where per-frame floats depend on how many frames come together (a matrix product).
    twin_frames: frames that the plain function of a kernel is tried on; it is slow.
    json_parameters: False where a parameter cannot be written as text (a function).
    """

    udf: ClassVar[Any]
    frames: ClassVar[Any] = None
    dtypes: ClassVar[Sequence[Any]] = ("uint16",)
    n_sig: ClassVar[int] = 2
    rtol: ClassVar[float] = 1e-12
    rtol_finish: ClassVar[float] = 1e-9
    rtol_twin: ClassVar[float] = 1e-9
    bitwise: ClassVar[bool] = True
    twin_frames: ClassVar[int] = 4
    json_parameters: ClassVar[bool] = True

    # -- what an author may override ---------------------------------------------------------------------------------

    def make_frames(self, dtype: np.dtype[Any]) -> _Arr:
        """Frames (*nav, *sig) of this dtype."""
        if self.frames is not None:
            return np.asarray(self.frames).astype(dtype)
        return random_frames((8, 8), (16, 16)[: self.n_sig], dtype)

    def source(self, frames: _Arr, *script: Step, **options: Any) -> FrameSource:
        """A source over the frames. Override to give it axes or a centre: `replace` its `meta`."""
        return ScriptedSource(frames, *script, n_sig=self.n_sig, **options)

    # -- inside ------------------------------------------------------------------------------------------------------

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run a test that takes `dtype` for each dtype."""
        if "dtype" in metafunc.fixturenames:
            given = [np.asarray(self.frames).dtype] if self.frames is not None else self.dtypes
            metafunc.parametrize("dtype", [np.dtype(d) for d in given], ids=str)

    def _udf(self) -> UDF:
        udf = self.udf
        return udf() if isinstance(udf, type) else udf

    def _bench(self, dtype: np.dtype[Any], layout: str = "view", roi: Any = None, invalid: Any = None, **tiling: Any) -> Bench:
        held = type(self).__dict__.get("_benches")
        if held is None:
            held = {}
            type(self)._benches = held  # type: ignore[attr-defined]
        at = (dtype.str, layout, tuple(sorted(tiling.items())), None if roi is None else roi.tobytes(), invalid is not None)
        if at not in held:
            source = self.source(self.make_frames(dtype), layout=layout, invalid=invalid)
            held[at] = Bench(self._udf(), source, roi=roi, **tiling)
        return held[at]

    def _same(self, bench: Bench, expected: Mapping[str, Any], got: Mapping[str, Any], *, bits: bool = False, banded: bool = False) -> None:
        """Compare merged arrays. bits: the same tree of merges, so floats too. banded: sums along a frame may be in another order."""
        wrong = []
        for name, value in expected.items():
            o = bench.outputs[name]
            per_frame = o.kind == "ragged" or (o.kind == "nav" and self.bitwise and not banded)
            exact = bits or per_frame or o.merge in ("max", "min")
            wrong.append(differ(f"{name}", value, got[name], 0.0 if exact else self.rtol))
        assert not any(wrong), "; ".join(w for w in wrong if w)

    def _same_results(self, bench: Bench, expected: Any, got: Any) -> None:
        wrong = [differ(name, value, got[KEY][name], self.rtol_finish) for name, value in expected[KEY].items()]
        assert not any(wrong), "after finish: " + "; ".join(w for w in wrong if w)
        assert np.array_equal(expected.coverage.status, got.coverage.status), "the coverage differs"

    # -- cuts and merges -----------------------------------------------------------------------------------------------

    def test_outputs_are_as_declared(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        result = bench.result(bench.cut([]))
        assert result.complete, str(result.coverage)
        shape = bench.bound.source.meta.shape
        for name, o in bench.outputs.items():
            assert (name in result[KEY]) == (not o.private), f"{name}: private outputs are not in the result, the others are"
            if name in result[KEY]:
                value = result[KEY][name]
                assert value.dtype == o.dtype, f"{name} is {value.dtype}, declared {o.dtype}"
                expected = shape.nav if isinstance(value, Ragged) else o.shape(shape)
                assert (value.nav if isinstance(value, Ragged) else value.shape) == expected, f"{name}: shape differs from {expected}"

    def test_cuts_agree(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        whole = bench.cut([])
        rng = np.random.default_rng(3)
        cuts = [tuple(max(1, s * bench.n // 64) for s in cut) for cut in CUTS]
        cuts += [tuple(np.diff([0, *np.sort(rng.choice(np.arange(1, bench.n), min(5, bench.n - 1), replace=False))])) for _ in range(3)]
        cuts.append((1,) * min(bench.n, 8))
        for cut in cuts:
            parts = bench.cut([int(s) for s in cut])
            self._same(bench, bench.merged(whole), bench.merged(parts))
            self._same_results(bench, bench.result(whole), bench.result(parts))

    def test_the_order_of_arrival_does_not_matter(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        parts = bench.cut([bench.n // 9 or 1] * 8)
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(len(parts))
            self._same(bench, bench.merged(parts), bench.merged([parts[i] for i in order]), bits=True)

    def test_nested_merges_agree(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        parts = bench.cut([bench.n // 9 or 1] * 8)
        combine = bench.work.combine
        pairs = [combine(parts[i], parts[i + 1]) for i in range(0, len(parts) - 1, 2)] + parts[len(parts) - len(parts) % 2 :]
        self._same(bench, bench.merged(parts), bench.merged(pairs[::-1]), bits=True)
        for fold in (_left_fold, _right_fold):
            # a nesting that the fixed tree never uses: an associative merge does not notice
            one = fold(combine, parts)
            declared = bench.outputs
            wrong = [
                differ(name, value, one.reduced[KEY, name], 0.0 if declared[name].merge in ("max", "min") else self.rtol)
                for name, value in bench.merged(parts).items() if declared[name].kind in ("sig", "single")
            ]  # fmt: skip
            assert not any(wrong), "; ".join(w for w in wrong if w)

    def test_a_partition_without_frames_changes_nothing(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        parts = bench.cut([bench.n // 2])
        nothing = np.zeros((0, 2), np.int64)
        lost = bench.partial(Partition(len(parts), nothing, (np.zeros(0, np.int64), np.zeros(0, np.uint8))))
        self._same(bench, bench.merged(parts), bench.merged([lost, *parts]), bits=True)

    # -- tiles ---------------------------------------------------------------------------------------------------------

    def test_tiles_of_any_depth_agree(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        for depth in (1, 3, bench.n):
            other = self._bench(dtype, depth=depth)
            self._same(bench, bench.merged(bench.cut([5])), other.merged(other.cut([5])))

    def test_bands_of_rows_agree(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        if bench.udf.hook_name() != "process_tile" or bench.udf.whole_frames:
            _skip("this UDF always gets whole frames")
        n_rows = bench.bound.source.meta.shape.sig[0]
        for rows in {1, min(5, n_rows), n_rows}:
            other = self._bench(dtype, depth=3, rows=rows)
            self._same(bench, bench.merged(bench.cut([5])), other.merged(other.cut([5])), banded=True)

    def test_the_layout_in_memory_does_not_matter(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        for layout in ("gaps", "buffer"):
            other = self._bench(dtype, layout=layout)
            self._same(bench, bench.merged(bench.cut([5])), other.merged(other.cut([5])))

    def test_a_region_of_interest_gives_the_values_of_the_whole(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        mask = np.random.default_rng(5).random(bench.bound.source.meta.shape.nav) < 0.5
        other = self._bench(dtype, roi=mask)
        whole, part = bench.merged(bench.cut([])), other.merged(other.cut([3]))
        for name, o in bench.outputs.items():
            if o.kind == "nav" and not o.derived:
                wrong = differ(name, whole[name][mask], part[name][mask], 0.0 if self.bitwise else self.rtol)
                assert not wrong, wrong
                _holds_fill(name, part[name][~mask], o.fill_value)
            if o.kind == "ragged" and not o.derived:
                assert all(np.array_equal(whole[name][p], part[name][p]) for p in map(tuple, np.argwhere(mask))), f"{name} differs"
                assert part[name].counts[~mask].sum() == 0, f"{name} has records at positions that were not processed"

    def test_corrupt_frames_are_left_out(self, dtype: np.dtype[Any]) -> None:
        nav = self._bench(dtype).bound.source.meta.shape.nav
        bad = np.random.default_rng(6).random(nav) < 0.3
        bench, other = self._bench(dtype, roi=~bad), self._bench(dtype, layout="buffer", invalid=bad)
        self._same(bench, bench.merged(bench.cut([])), other.merged(other.cut([])))

    def test_what_was_not_seen_holds_the_fill(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        half = bench.cut([bench.n // 2])[0]
        merged = bench.merged([half])
        result = bench.result([half])
        assert result.coverage.counts["unseen"] == bench.n - bench.n // 2
        for name, o in bench.outputs.items():
            if o.kind == "nav" and not o.derived:
                _holds_fill(name, merged[name][~result.valid], o.fill_value)
        for name, value in bench.merged([]).items():
            if not isinstance(value, Ragged):
                _holds_fill(name, value, bench.outputs[name].fill_value)
        lost = np.arange(bench.n, dtype=np.int64), np.full(bench.n, DROPPED, np.uint8)
        bench.result([bench.partial(Partition(0, np.zeros((0, 2), np.int64), lost))])  # `finish` has to stand it

    # -- kernels -------------------------------------------------------------------------------------------------------

    def test_the_kernel_equals_its_plain_function(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        if not isinstance(bench.udf.hook(), Kernel):
            _skip("the hook is plain Python")
        n = min(self.twin_frames, bench.n)
        source = bench.bound.source
        flat = self.make_frames(dtype).reshape(-1, *source.meta.shape.sig)[:n]
        part = bench.cut([n])[0]
        expected = bench.twin(flat.astype(bench.udf.meta.dtype))
        compiled = {name: value for (_, name), value in (*part.placed.items(), *part.reduced.items())}
        rtol = max(self.rtol_twin, 1e-5 if dtype == np.float32 else 0.0)
        wrong = [differ(name, value, compiled[name], rtol) for name, value in expected.items()]
        assert not any(wrong), "compiled code differs from the plain function: " + "; ".join(w for w in wrong if w)

    def test_the_kernel_stays_inside_its_arrays(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        if not isinstance(bench.udf.hook(), Kernel):
            _skip("the hook is plain Python")
        flat = self.make_frames(dtype).reshape(-1, *bench.bound.source.meta.shape.sig)[: self.twin_frames]
        bench.call.run_checked(np.ascontiguousarray(flat, bench.udf.meta.dtype))

    # -- executors and processes ---------------------------------------------------------------------------------------

    def test_threads_give_the_same_bits(self, dtype: np.dtype[Any]) -> None:
        from libstream.api import run

        frames = self.make_frames(dtype)
        script = cut_at([3, 14] + [8] * 100)
        here = run(self.source(frames, script), {KEY: self._udf()}, executor="inline")
        there = run(self.source(frames, script, late(0.0)), {KEY: self._udf()}, executor="threads")
        wrong = [differ(name, value, there[KEY][name], 0.0) for name, value in here[KEY].items()]
        assert not any(wrong), "; ".join(w for w in wrong if w)

    def test_it_can_be_sent_to_another_process(self, dtype: np.dtype[Any]) -> None:
        import cloudpickle

        udf = self._udf()
        again = cloudpickle.loads(cloudpickle.dumps(udf))
        assert again == udf, f"{again} came out of a pickle of {udf}"
        bench = self._bench(dtype)
        work = cloudpickle.loads(cloudpickle.dumps(bench.work))
        work.setup()
        there = [work.process(Partition(0, bench.bound.plan.runs), _flag())]
        self._same(bench, bench.merged(bench.cut([])), bench.merged(there), bits=True)

    # -- finish and parameters -----------------------------------------------------------------------------------------

    def test_finish_is_pure(self, dtype: np.dtype[Any]) -> None:
        bench = self._bench(dtype)
        collector = bench.collected(bench.cut([bench.n // 2]))
        before, coverage = collector.merged(KEY)
        given = collector.merged(KEY)[0]
        first = {k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in bench.udf.finish(given, coverage).items()}
        wrong = [differ(name, value, given[name], 0.0) for name, value in before.items()]
        assert not any(wrong), "finish changed its input: " + "; ".join(w for w in wrong if w)
        second = bench.udf.finish(given, coverage)
        wrong = [differ(name, value, np.asarray(second[name]) if isinstance(value, np.ndarray) else second[name], 0.0)
                 for name, value in first.items()]  # fmt: skip
        assert not any(wrong), "finish gave something else the second time: " + "; ".join(w for w in wrong if w)

    def test_parameters_are_kept_as_text(self) -> None:
        if not self.json_parameters:
            _skip("a parameter of this UDF cannot be written as text")
        udf = self._udf()
        cls = type(udf)
        described = schema(cls)["properties"] if fields(cls) else {}  # type: ignore[arg-type]
        for f in fields(cls):  # type: ignore[arg-type]
            assert f.name in described, f"{f.name} is not in the schema that forms and the command line are made of"
            if f.default is not MISSING and f.default is not None:
                assert "default" in described[f.name], f"{f.name} has no default there"
        values = udf.parameters()
        stored = json.loads(json.dumps({k: _stored(v) for k, v in values.items()}))
        assert make(cls, stored) == make(cls, values), "parameters are not the same after JSON"
        texts = {k: str(v) if isinstance(v, (int, float, Quantity)) else v for k, v in values.items()}
        assert make(cls, texts) == make(cls, values), "parameters are not the same when given as texts"


# -- helpers -----------------------------------------------------------------------------------------------------------


def random_frames(nav: tuple[int, ...], sig: tuple[int, ...], dtype: Any, seed: int = 1) -> _Arr:
    """Frames (*nav, *sig): few counts in most, the dtype's whole range in some, one frame all zero, one all at the largest value."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    shape = (*nav, *sig)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        out = rng.poisson(2.0, shape).astype(dtype)
        bright = rng.random(nav) < 0.25
        out[bright] = rng.integers(info.min, min(int(info.max), 2**40), (int(bright.sum()), *sig), dtype, endpoint=True)
        flat = out.reshape(-1, *sig)
        flat[0], flat[-1] = 0, min(int(info.max), 2**40)
        return out
    if dtype.kind == "b":
        return rng.random(shape) < 0.3
    values = rng.normal(10.0, 30.0, shape)
    return (values + 1j * rng.normal(0.0, 30.0, shape) if dtype.kind == "c" else values).astype(dtype)


def _left_fold(combine: Any, parts: Sequence[Any]) -> Any:
    out = parts[0]
    for p in parts[1:]:
        out = combine(out, p)
    return out


def _right_fold(combine: Any, parts: Sequence[Any]) -> Any:
    out = parts[-1]
    for p in reversed(parts[:-1]):
        out = combine(p, out)
    return out


def _holds_fill(name: str, values: _Arr, fill: Any) -> None:
    wrong = differ(f"{name} (not processed)", np.full(values.shape, fill, values.dtype), values, 0.0)
    assert not wrong, wrong


def _stored(value: Any) -> Any:
    if isinstance(value, (Array, np.ndarray)):
        return np.asarray(value).tolist()
    return to_json(value)


def _flag() -> Any:
    from libstream.contracts.executor import CancelFlag

    return CancelFlag()


def _skip(why: str) -> None:
    import pytest

    pytest.skip(why)
