"""`libstream plugins`, `new-udf`, `warmup`, `demo`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.cli import demo, warmup
from libstream.cli._mib import MibWriter
from libstream.cli.newudf import names
from libstream.errors import UsageError


def test_plugins(cli: Any) -> None:
    said = cli("plugins")
    assert said.code == 0
    for word in ("udfs:", "formats:", "executors:", "sinks:", "commands:", "VirtualDetector", "threads", "mib", "hdf5"):
        assert word in said.out
    said = cli("plugins", "udfs")
    assert "inner: " in said.out
    assert "executors:" not in said.out


def test_plugins_json(cli: Any) -> None:
    found = cli("plugins", "--json").json
    rows = {row["name"]: row for row in found["udfs"]}
    assert rows["VirtualDetector"]["status"] == "ok"
    assert "inner" in rows["VirtualDetector"]["parameters"]["properties"]
    assert {"inline", "threads", "processes"} <= {row["name"] for row in found["executors"]}


# -- new-udf -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Brightest", ("brightest", "Brightest")), ("brightest", ("brightest", "Brightest")), ("my_udf", ("my_udf", "MyUdf")),
        ("my-udf", ("my_udf", "MyUdf")), ("MyUDF2", ("my_udf2", "MyUDF2")), ("CBED", ("cbed", "CBED")), ("bright.py", ("bright", "Bright")),
    ],
)  # fmt: skip
def test_names(given: str, expected: tuple[str, str]) -> None:
    assert names(given) == expected


@pytest.mark.parametrize("given", ["", "2fast", "a b!", "../x", "random", "numpy", "Class", "über-udf"])
def test_names_that_python_cannot_have(given: str) -> None:
    with pytest.raises(UsageError):
        names(given)


@pytest.mark.parametrize("kernel", [False, True])
def test_new_udf_passes_its_own_test(cli: Any, folder: Path, data: np.ndarray, kernel: bool) -> None:
    said = cli("new-udf", "Brightest", *(["--kernel"] if kernel else []))
    assert said.code == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_brightest.py"],
        capture_output=True, text=True, timeout=240, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert cli("run", "scan.npy", "--udf", "brightest.py:Brightest", "-p", "threshold=7", "-o", "o.h5").code == 0
    result = ls.load_result("o.h5")
    np.testing.assert_array_equal(result["peak"], data.max(axis=(2, 3)))
    np.testing.assert_array_equal(result["above"], (data > 7).sum(axis=(2, 3)))
    before = Path("brightest.py").read_bytes()
    said = cli("new-udf", "brightest")
    assert said.code == 2
    assert "is not overwritten" in said.error
    assert Path("brightest.py").read_bytes() == before


def test_new_udf_in_a_folder(cli: Any, folder: Path) -> None:
    assert cli("new-udf", "Other", "--dir", "sub/folder").code == 0
    assert sorted(p.name for p in Path("sub/folder").iterdir()) == ["other.py", "test_other.py"]


# -- warmup ------------------------------------------------------------------------------------------------------------


def test_warmup_of_one(cli: Any) -> None:
    said = cli("warmup", "Max", "--dtype", "uint8")
    assert said.code == 0
    assert said.err.startswith("1 of 1: Max: ")
    assert said.out.startswith("1 UDF ready for uint8 in ")


def test_warmup_in_processes(cli: Any) -> None:
    said = cli("warmup", "Record", "FrameMap", "--jobs", "2")
    assert said.code == 0
    assert "Record: left out: it writes files" in said.err
    assert said.out.startswith("0 UDFs ready")


def test_warmup_of_all_takes_or_explains_each(monkeypatch: pytest.MonkeyPatch) -> None:
    from libstream import registry

    tried = []
    monkeypatch.setattr(warmup.api, "run", lambda data, udfs, **options: tried.append((data.dtype.name, data.flags.c_contiguous)))
    for plugin in registry.plugins("udfs"):
        tried.clear()
        done = warmup.warm(plugin.name, ("uint8", "float32"))
        assert not done.failed
        assert done.skipped or {d for d, _ in tried} == {"uint8", "float32"}
    assert warmup.warm("Record", ("uint8",)).skipped
    assert not warmup.warm("VirtualDetector", ("uint8",)).skipped


def test_warmup_of_nothing(cli: Any) -> None:
    assert "no udf called 'Summ'" in cli("warmup", "Summ").error


def test_a_udf_that_fails_does_not_keep_the_others_cold(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(data: Any, udfs: Any, **options: Any) -> None:
        if type(udfs["warmup"]).__name__ == "Max":
            raise RuntimeError("no compiler")

    monkeypatch.setattr(warmup.api, "run", run)
    said = cli("warmup", "Max", "Sum", "--jobs", "1")
    assert said.code == 1
    assert "1 of 2: Max: RuntimeError: no compiler" in said.err
    assert "1 UDF ready" in said.out


# -- demo --------------------------------------------------------------------------------------------------------------


def test_demo(cli: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.webbrowser, "open", lambda link: pytest.fail("a browser was opened"))
    said = cli("demo", "--headless", "--size", "6")
    assert said.code == 0, said.err
    out = folder / "demo-output"
    assert {"live.h5", "live.png", "scan.hdr", "scan.mib"} <= {p.name for p in out.iterdir()}
    result = ls.load_result(out / "live.h5")
    assert result.complete
    assert result.ledger["received"] == 36
    frames = ls.open(out / "scan.mib")[...]
    assert frames.shape == (6, 6, 256, 256)
    np.testing.assert_array_equal(result["sum"]["sum"], frames.sum(axis=(0, 1)))
    assert "36 frames sent, 0 lost on purpose" in said.out
    assert "equal, bit for bit, in every value" in said.out


def test_the_demo_shows_a_page_until_ctrl_c(folder: Path) -> None:
    import signal
    import urllib.request

    command = [sys.executable, "-u", "-m", "libstream", "demo", "--size", "4"]
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        link = next(line for line in process.stdout if "watch it at" in line).split()[-1]
        with urllib.request.urlopen(link, timeout=30) as page:
            assert page.status == 200
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 0
    assert "ended" in rest


def test_demo_with_a_detector_that_loses_frames(cli: Any, folder: Path) -> None:
    said = cli("demo", "--headless", "--size", "8", "--loss", "0.2")
    assert said.code == 0, said.err
    result = ls.load_result(folder / "demo-output" / "live.h5")
    lost = result.ledger["missing"]
    assert lost > 0
    assert f"{lost} lost on purpose" in said.out
    assert f"at the {64 - lost} positions that arrived" in said.out


def test_the_demo_says_when_live_and_offline_differ(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_differences", lambda live, offline: ["sum/sum"])
    said = cli("demo", "--headless", "--size", "2")
    assert said.code == 1
    assert "sum/sum" in said.err


def test_the_commands_that_the_demo_suggests_work(cli: Any, folder: Path) -> None:
    import shlex

    said = cli("demo", "--headless", "--size", "4")
    tips = [line.partition("#")[0].strip() for line in said.out.partition("what to try next:")[2].splitlines()]
    tips = [shlex.split(tip)[1:] for tip in tips if tip.startswith("libstream ")]
    assert [tip[0] for tip in tips] == ["replay", "listen", "run", "rerun", "new-udf", "plugins"]
    replay, listen, *others = tips
    with subprocess.Popen(
        [sys.executable, "-m", "libstream", *replay], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as detector:
        done = cli(*listen)
        detector.communicate(timeout=60)
    assert done.code == 0, done.err
    for tip in others:
        done = cli(*tip)
        assert done.code == 0, (tip, done.err)


def test_mib_writer_and_reader_agree(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 6000, (6, 256, 256)).astype(np.uint16)
    with MibWriter(tmp_path / "x.mib", (2, 3), (256, 256)) as writer:
        for frame in frames:
            writer.write(frame)
    source = ls.open(tmp_path / "x.mib")
    assert source.shape == (2, 3, 256, 256)
    np.testing.assert_array_equal(source[...].reshape(6, 256, 256), np.minimum(frames, 4095))
    with pytest.raises(ValueError, match="shape"), MibWriter(tmp_path / "y.mib", (1, 1), (256, 256)) as writer:
        writer.write(frames[0, 1:])
    assert not (tmp_path / "y.mib").exists()


# -- code in files -----------------------------------------------------------------------------------------------------


def test_a_kernel_that_another_program_compiled(folder: Path, data: np.ndarray) -> None:
    """numba's cache keeps names of modules; here the module has another name in each of the two programs, and in the workers none."""
    subprocess.run([sys.executable, "-m", "libstream", "new-udf", "Swift", "--kernel"], check=True, capture_output=True, timeout=60)
    env = {**os.environ, "LIBSTREAM_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(folder)}
    script = "import numpy as np, libstream as ls, swift; ls.run(ls.open('scan.npy'), swift.Swift())"
    subprocess.run([sys.executable, "-c", script], check=True, env=env, timeout=120)
    done = subprocess.run(
        [sys.executable, "-m", "libstream", "run", "scan.npy", "--udf", "swift.py", "-o", "o.h5", "--executor", "processes"],
        capture_output=True, text=True, env=env, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(ls.load_result("o.h5")["peak"], data.max(axis=(2, 3)))
