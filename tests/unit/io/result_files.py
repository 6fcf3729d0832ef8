"""Results made by hand, and their exact comparison, for tests of result files."""

from __future__ import annotations

import numpy as np

from libstream.ext import Axis, Coverage, DataShape, Output, Outputs, Ragged, Result, nav, ragged, sig, single
from libstream.io_backends.sinks.hdf5 import Hdf5ResultSink

SINK = Hdf5ResultSink()
RECORD = np.dtype({"names": ["y", "hit", "z"], "formats": ["<u2", "?", "<c8"], "offsets": [8, 2, 16], "itemsize": 32})


def coverage(shape: tuple[int, ...]) -> Coverage:
    return Coverage((np.arange(int(np.prod(shape))) % 6).astype(np.uint8).reshape(shape))


def bits(array: np.ndarray) -> bytes:
    """Content without the padding between the fields of a record, which no NumPy operation promises to keep."""
    if array.dtype.names:
        return b"".join(bits(np.ascontiguousarray(array[n])) for n in array.dtype.names)
    if array.dtype.kind in "fc" and array.dtype.itemsize in (16, 32) and array.dtype.char in "gG":
        return repr(array.tolist()).encode()  # long doubles have 6 bytes of padding
    return array.tobytes()


def assert_same_array(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert bits(a) == bits(b)


def assert_same(a: Result, b: Result) -> None:
    """Field by field: arrays by their bits, the rest by ==."""
    assert list(a.udfs) == list(b.udfs)
    for key, ours in a.udfs.items():
        theirs = b.udfs[key]
        assert (ours.key, ours.shape, ours.axes, list(ours)) == (theirs.key, theirs.shape, theirs.axes, list(theirs))
        assert set(ours.declared) == set(theirs.declared)
        for name, output in ours.declared.items():
            other = theirs.declared[name]
            assert {k: v for k, v in vars(output).items() if k not in ("fill", "init")} == {
                k: v for k, v in vars(other).items() if k not in ("fill", "init")
            }
            for field in ("fill", "init"):
                x, y = getattr(output, field), getattr(other, field)
                assert type(x) is type(y)
                assert x is None or bits(np.asarray(x)) == bits(np.asarray(y))
        for name, data in ours.items():
            if isinstance(data, Ragged):
                assert isinstance(theirs[name], Ragged)
                assert data.nav == theirs[name].nav
                assert_same_array(data.offsets, theirs[name].offsets)
                assert_same_array(data.values, theirs[name].values)
            else:
                assert_same_array(np.asarray(data), theirs[name])
    assert_same_array(a.coverage.status, b.coverage.status)
    assert set(a.params) == set(b.params)
    for name, array in a.params.items():
        assert_same_array(np.asarray(array), b.params[name])
    assert (a.generation, a.version, a.final, dict(a.run), dict(a.changed)) == (
        b.generation,
        b.version,
        b.final,
        dict(b.run),
        dict(b.changed),
    )


def example_result(**changes: object) -> Result:
    shape = DataShape((2, 3), (4, 5))
    axes = (Axis("y", 2, 0.4, 1.0, "nm"), Axis("x", 3, 0.4, -1.0, "nm"), Axis("ky", 4, 0.9, 0.0, "mrad"), Axis("kx", 5))
    rng = np.random.default_rng(0)
    adf = Outputs("adf", {"intensity": rng.random((2, 3))}, {"intensity": nav("float64", unit="e", title="ADF signal")}, shape, axes)
    declared: dict[str, Output] = {
        "com": nav("complex64", fill=np.complex64(complex("nan"))),
        "seen": nav(bool, (2,), fill=True, axes=("which",)),
        "sum": sig("uint64", partial_dtype="uint32", init=np.uint64(7)),
        "low": sig("float32", merge="min", init=float("inf")),
        "n": single("int64", title="frames"),
        "peaks": ragged(RECORD, unit="px"),
        "scratch": sig("float32", private=True),
    }
    values = np.zeros(4, RECORD)
    values["y"], values["hit"], values["z"] = np.arange(4), [True, False, True, True], np.arange(4) * 1j
    arrays = {
        "com": (rng.random((2, 3)) + 1j * np.nan).astype("complex64"),
        "seen": rng.random((2, 3, 2)) > 0.5,
        "sum": rng.integers(0, 2**63, (4, 5), dtype=np.uint64),
        "low": rng.random((4, 5), dtype=np.float32),
        "n": np.array(6, np.int64),
        "peaks": Ragged(values, np.array([0, 0, 1, 1, 3, 4, 4]), (2, 3)),
        "extra": np.arange(3),  # from finish(), without a declaration
    }
    other = Outputs("other", arrays, declared, shape, axes)
    fields = {
        "udfs": {"adf": adf, "other": other},
        "coverage": coverage((2, 3)),
        "generation": 3,
        "version": 12,
        "run": {"udfs": {"adf": {"inner": 30.0}}, "µ": "Ångström", "nan": None, "packages": [["numpy", "2"]]},
        "params": {"adf/mask": rng.random((4, 5)), "other/table": np.zeros(0, "<u2")},
        "changed": {("adf", "intensity"): (0, 2)},
    }
    return Result(**{**fields, **changes})  # type: ignore[arg-type]
