"""Bad input to the engine: one clear error each, which says what, where, what was expected, what was found, what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import (
    CorruptFileError,
    FormatError,
    LibstreamError,
    ParameterError,
    ShapeError,
    SourceChangedError,
    UDFError,
    UsageError,
)

ROOT = Path(__file__).parents[2]
FRAMES = np.ones((4, 5, 6, 7), "u2")
LOCK = threading.Lock()


class Good(ls.UDF):
    size: float = ls.param(1.0, gt=0)

    def outputs(self) -> dict[str, ls.Output]:
        return {"value": ls.nav("f8"), "image": ls.sig("f8")}

    def process_frame(self, frame: Any, out: Any) -> None:
        out.value[...] = frame.sum()
        out.image += frame


def udf(frame: Any = None, outputs: Any = None, base: type = Good, **more: Any) -> ls.UDF:
    """A UDF with another hook or other outputs."""
    body = {"__module__": __name__, **more}
    if frame is not None:
        body["process_frame"] = frame
    if outputs is not None:
        body["outputs"] = lambda self: outputs
    return type("Bad", (base,), body)()  # type: ignore[no-any-return]


def frame_raises(self: Any, frame: Any, out: Any) -> None:
    raise ValueError("boo")


def frame_writes_a_row(self: Any, frame: Any, out: Any) -> None:
    out.value[...] = frame[0]


def frame_locks(self: Any, frame: Any, out: Any) -> None:
    with LOCK:
        out.value[...] = 1


def tile_writes_all(self: Any, tile: Any, out: Any) -> None:
    out.value[...] = np.zeros((99, 1))


class Finish(Good):
    def finish(self, results: Any, coverage: Any) -> dict[str, Any]:
        return {"value": np.zeros(3)}


class Overflow(ls.UDF):
    def outputs(self) -> dict[str, ls.Output]:
        return {"total": ls.single("u1")}

    def process_tile(self, tile: Any, out: Any) -> None:
        out.total[...] = 200


class KernelShape(Good):
    @ls.kernel
    def process_frame(frame, value, image):
        image[:] = frame[:3]


def in_parts(frames: Any) -> Any:
    from libstream.testing.sources import ScriptedSource, cut_at

    return ScriptedSource(frames, cut_at([5] * 3))


# call, class of the error, all that its message must contain
CASES: dict[str, tuple[Callable[[], Any], type[BaseException], list[str]]] = {
    "roi of wrong shape": (
        lambda: ls.run(FRAMES, Good(), roi=np.ones((4, 4), bool)), ShapeError, ["(4, 4)", "(4, 5)", "pass a bool array"],
    ),
    "roi transposed": (lambda: ls.run(FRAMES, Good(), roi=np.ones((5, 4), bool)), ShapeError, ["it is transposed", "(y, x)"]),
    "roi outside": (lambda: ls.run(FRAMES, Good(), roi=[(1, 2), (9, 0)]), ShapeError, ["(9, 0)", "outside of the scan (4, 5)"]),
    "no frames": (lambda: ls.run(np.zeros((0, 4, 4)), Good()), ShapeError, ["has no frames", "(0 | 4, 4)"]),
    "no pixels": (lambda: ls.run(np.zeros((3, 4, 0)), Good()), ShapeError, ["has no pixels", "(3 | 4, 0)"]),
    "no such file": (lambda: ls.run("nothing.mib", Good()), FileNotFoundError, ["nothing.mib: no such file"]),
    "an object that is no data": (lambda: ls.run(object(), Good()), UsageError, ["dtype object", "expected numbers"]),
    "dtype without numbers": (lambda: ls.run(np.zeros((2, 3, 3), "M8[s]"), Good()), UsageError, ["datetime64[s]", "expected numbers"]),
    "nothing to run": (lambda: ls.run(FRAMES, []), UsageError, ["pass at least one UDF"]),
    "a class, not an instance": (lambda: ls.run(FRAMES, Good), UsageError, ["good: pass an instance, Good(), not the class"]),  # type: ignore[arg-type]
    "no UDF": (lambda: ls.run(FRAMES, [np.sum]), UsageError, ["is not a UDF"]),  # type: ignore[list-item]
    "a key that is no name": (lambda: ls.run(FRAMES, {"a b": Good()}), UsageError, ["Python name", "'a b'"]),
    "no such executor": (lambda: ls.run(FRAMES, Good(), executor="treads"), UsageError, ["'treads'", "did you mean threads?"]),
    "an object that is no executor": (lambda: ls.run(FRAMES, Good(), executor=3), UsageError, ["executor must be a name", "got 3"]),  # type: ignore[arg-type]
    "a parameter out of its limits": (lambda: ls.run(FRAMES, Good(size=-1)), ParameterError, ["Good: size", "got -1", "(allowed: > 0)"]),
    "corrections of another kind": (lambda: ls.run(FRAMES, Good(), corrections=np.ones(3)), UsageError, ["ls.Corrections(", "got ndarray"]),  # type: ignore[arg-type]
    "corrections of another shape": (
        lambda: ls.run(FRAMES, Good(), corrections=ls.Corrections(dark=np.zeros((7, 6)))), ShapeError,
        ["dark has shape (7, 6)", "the frame has (6, 7)"],
    ),
    "no such channel": (lambda: ls.run(FRAMES, ls.on("haadf", Good())), UsageError, ["no channel 'haadf'", "it has frames"]),
    "a UDF that raises": (lambda: ls.run(FRAMES, udf(frame_raises)), UDFError, ["UDF bad", "ValueError: boo", "at scan position (0, 0)"]),
    "a value of wrong shape": (
        lambda: ls.run(FRAMES, udf(frame_writes_a_row)), UDFError, ["could not broadcast", "(7,)", "(1,)", "at scan position"],
    ),
    "a kernel that writes a wrong shape": (
        lambda: ls.run(FRAMES, KernelShape()), UDFError, ["could not broadcast", "(3,7)", "(6,7)", "scan positions"],
    ),
    "outputs that raise": (
        lambda: ls.run(FRAMES, type("Bad", (Good,), {"outputs": lambda self: 1 / 0, "__module__": __name__})()), UDFError,
        ["outputs() of Bad raised ZeroDivisionError"],
    ),
    "outputs that are none": (
        lambda: ls.run(FRAMES, udf(outputs=[1])), UsageError, ["outputs() of Bad must return a dict of outputs, got [1]"],
    ),
    "an output that is an array": (lambda: ls.run(FRAMES, udf(outputs={"v": np.ones(3)})), UsageError, ["'v' must be made with nav, sig"]),
    "an output that is no name": (lambda: ls.run(FRAMES, udf(outputs={"v v": ls.nav("f8")})), UsageError, ["Python name", "'v v'"]),
    "an output without memory": (
        lambda: ls.run(FRAMES, udf(outputs={"v": ls.nav("f8", (10**7, 10**7))})), UsageError, ["output 'v'", "GB, free are", "reduce it"],
    ),
    "a merge that is not there": (
        lambda: ls.run(FRAMES, udf(outputs={"v": ls.single("f8", merge="custom")})), UsageError,
        ["merge='custom'", "no merge(self, into, part)"],
    ),
    "finish of wrong shape": (lambda: ls.run(FRAMES, Finish()), UDFError, ["finish returned value of shape (3,)", "expected (4, 5)"]),
    "a sum that overflows": (
        lambda: ls.run(in_parts(FRAMES), Overflow()), UDFError, ["output total overflows its dtype uint8", "declare a wider dtype"],
    ),
    "a cast that loses": (
        lambda: ls.run(FRAMES.astype("u4"), udf(dtype="u2")), UsageError, ["dtype uint16", "frames are uint32", "ask for a float dtype"],
    ),
    "a UDF that cannot be sent": (
        lambda: ls.run(FRAMES, udf(frame_locks, marker=LOCK), executor="processes"), UsageError,
        ["bad (Bad) cannot be sent to another process", "lock", "executor='threads'"],
    ),
    "an index outside": (lambda: ls.open(FRAMES)[7], ShapeError, ["index 7 does not fit data of shape (4, 5 | 6, 7)"]),
    "a scan of another size": (lambda: ls.open(FRAMES, scan=(3, 5)), ShapeError, ["15 positions", "20 frames", "pass scan=(4, 5)"]),
    "a result that nobody writes": (lambda: ls.run(FRAMES, Good()).save("a.xlsx"), FormatError, ["'.xlsx'", ".h5"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_clear_error(case: str) -> None:
    call, kind, parts = CASES[case]
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert "\n" not in message, f"one line: {message}"
    assert isinstance(caught.value, (LibstreamError, FileNotFoundError))


def test_errors_of_a_run_leave_the_engine_usable() -> None:
    for executor in ("inline", "threads", "processes"):
        with pytest.raises(UDFError):
            ls.run(FRAMES, udf(frame_raises, dry_run=False), executor=executor)
        assert ls.run(FRAMES, Good(), executor=executor).complete


def test_nothing_of_an_error_is_swallowed() -> None:
    """A UDF that fails in one of many places fails the run, on every executor, and its exception is the cause."""

    def at_one(self: Any, frame: Any, out: Any, at: Any) -> None:
        if at.coords == (3, 3):
            raise KeyError("here")
        out.value[...] = 1

    for executor in ("inline", "threads", "processes"):
        with pytest.raises(UDFError, match=r"KeyError: 'here', at scan position \(3, 3\)") as caught:
            ls.run(in_parts(FRAMES), udf(at_one), executor=executor)
        assert "KeyError" in repr(caught.value.__cause__) or "KeyError" in caught.value.remote_traceback


# -- files -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    path = tmp_path / "scan.npy"
    np.save(path, np.random.default_rng(0).integers(0, 99, (32, 32, 16, 16)).astype("u2"))
    return path


def old(path: Path) -> None:
    """Written long ago: such files are mapped into memory."""
    os.utime(path, (1e9, 1e9))


def test_a_truncated_file(npy: Path) -> None:
    size = npy.stat().st_size
    os.truncate(npy, size - 1000)
    with pytest.raises(CorruptFileError) as caught:
        ls.open(npy)
    assert str(npy) in str(caught.value)
    assert "opy" in str(caught.value), "it says what to do"


def harmed(npy: Path, how: str) -> str:
    """Change a file; returns what the error has to say, as a pattern."""
    if how == "shortened":
        os.truncate(npy, 1000)
        return "shortened|ends at byte"  # seen before a partition is read, or while it is
    if how == "deleted":
        npy.unlink()
        return "is gone"
    if how == "replaced":
        other = npy.with_suffix(".new")
        other.write_bytes(npy.read_bytes())
        os.utime(other, ns=(npy.stat().st_atime_ns, npy.stat().st_mtime_ns))
        os.replace(other, npy)
        return "replaced by another file"
    with open(npy, "r+b") as f:
        f.seek(4000)
        f.write(b"changed")
    return "written to"


class Slow(Good):
    def process_frame(self, frame: Any, out: Any) -> None:
        super().process_frame(frame, out)
        threading.Event().wait(0.001)


class Compiled(Good):
    @ls.kernel
    def process_frame(frame, value, image):
        for y in range(frame.shape[0]):
            for x in range(frame.shape[1]):
                value[0] += frame[y, x]


@pytest.mark.parametrize("how", ["shortened", "deleted", "replaced", "written to"])
@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_a_file_that_changes_during_the_run(npy: Path, how: str, executor: str) -> None:
    says = []

    def progress(p: Any) -> None:
        if not says:
            says.append(harmed(npy, how))

    with pytest.raises(SourceChangedError) as caught:
        ls.run(ls.open(npy), Slow(), executor=executor, progress=progress)
    message = str(caught.value)
    assert str(npy) in message
    assert re.search(says[0], message), message
    assert "after it was opened: expected" in message
    assert "got" in message
    assert "\n" not in message


@pytest.mark.parametrize("how", ["shortened", "deleted", "replaced", "written to"])
@pytest.mark.parametrize("kind", ["raw", "hdf5"])
def test_files_of_other_formats_that_change_during_the_run(tmp_path: Path, kind: str, how: str) -> None:
    frames = np.random.default_rng(0).integers(0, 99, (32, 32, 16, 16)).astype("u2")
    path = tmp_path / f"scan.{kind}"
    if kind == "raw":
        path.write_bytes(frames.tobytes())
        source = ls.open(path, format="raw", dtype="u2", frame=(16, 16), scan=(32, 32))
    else:
        import h5py

        with h5py.File(path, "w") as f:
            f.create_dataset("frames", data=frames, chunks=(1, 32, 16, 16), compression="gzip")
        source = ls.open(path)
    says = []

    def progress(p: Any) -> None:
        if not says:
            says.append(harmed(path, how))

    with pytest.raises(SourceChangedError) as caught:
        ls.run(source, Slow(), executor="threads", progress=progress)
    assert str(path) in str(caught.value)
    assert re.search(says[0], str(caught.value)), str(caught.value)


@pytest.mark.parametrize("how", ["shortened", "deleted", "written to"])
def test_a_mapped_file_that_changes_between_partitions(npy: Path, how: str) -> None:
    """Compiled code reads settled files in place; the check before each partition comes before the touch that would kill."""
    np.save(npy, np.zeros((1024, 64, 64), "u2"))  # eight partitions and more
    old(npy)
    source = ls.open(npy)
    assert "in place, from the mapped file" in ls.api.explain(source, Compiled(), executor="inline")
    results = ls.run_iter(source, Compiled(), executor="inline")
    next(results)
    says = harmed(npy, how)
    with pytest.raises(SourceChangedError, match=says):
        list(results)


def test_a_file_that_changed_before_the_run(npy: Path) -> None:
    source = ls.open(npy)
    says = harmed(npy, "shortened")
    with pytest.raises(SourceChangedError, match=says):
        ls.run(source, Good())


def test_what_was_computed_before_the_file_was_lost_is_kept(npy: Path) -> None:
    done = []

    def progress(p: Any) -> None:
        if not done:
            harmed(npy, "deleted")
        done.append(p.n_done)

    job = ls.start(ls.open(npy), Slow(), executor="threads", progress=progress)
    with pytest.raises(SourceChangedError):
        job.wait(60)
    snapshot = job.snapshot()
    assert snapshot is not None
    assert snapshot.valid.sum() == done[-1] > 0
    assert not snapshot.complete


# -- saving ----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_leaves_no_half_written_result(tmp_path: Path) -> None:
    """The size of files is limited, so that writing fails as on a full disk."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import resource, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        import numpy as np
        import libstream as ls
        from tests.system.test_bad_input import Good
        result = ls.run(np.random.default_rng(0).random((64, 64, 64, 64)), Good(), executor="inline")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        try:
            result.save({str(tmp_path / "out.h5")!r})
        except ls.errors.SaveError as exc:
            print("told:", exc)
        """)
    )
    done = subprocess.run([sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "told:" in done.stdout, done.stdout + done.stderr
    assert "out.h5" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["script.py"], "nothing half-written is left"
