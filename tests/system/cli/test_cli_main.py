"""Finding commands, help, exit codes, errors without tracebacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import libstream
from libstream import registry
from libstream.cli import main as main_module
from libstream.cli.command import Command
from libstream.errors import FormatError, UsageError


def test_help_and_version(cli: Any) -> None:
    for words in ((), ("-h",), ("--help",), ("--debug",)):
        said = cli(*words)
        assert said.code == 0
        assert "libstream demo" in said.out
        assert "cannot be loaded" not in said.out
    assert cli("--version").out == f"libstream {libstream.__version__}\n"


@pytest.mark.parametrize("command", main_module.commands())
def test_every_command_has_help_with_examples(cli: Any, command: str) -> None:
    said = cli(command, "-h")
    assert said.code == 0
    assert f"usage: libstream {command}" in said.out
    assert f"examples:\n  libstream {command}" in said.out


def test_all_commands_are_there() -> None:
    assert {"demo", "info", "run", "export", "rerun", "new-udf", "plugins", "warmup"} <= set(main_module.commands())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["inof"], "no command 'inof' (did you mean info?)"),
        (["xyzzy"], "no command 'xyzzy'; there are: demo, info"),
        (["--verison"], "unknown option --verison (did you mean --version?)"),
        (["run"], "the following arguments are required: FILE"),
        (["run", "x", "--pluto", "3"], "unrecognized arguments: --pluto 3 (did you mean --plot?)"),
        (["info", "x", "--scan", "3,b"], "argument --scan: '3,b' is not a shape"),
    ],
)
def test_wrong_usage(cli: Any, words: list[str], says: str) -> None:
    said = cli(*words)
    assert said.code == 2
    assert says in said.error
    assert said.out == ""


def _command(raised: BaseException) -> Command:
    def run(args: Any) -> int:
        raise raised

    return Command("x", lambda parser: None, run)


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (UsageError("wrong\nusage"), 2, "libstream: error: wrong usage\n"),
        (FormatError("bad file"), 1, "libstream: error: bad file\n"),
        (FileNotFoundError(2, "No such file or directory", "x.mib"), 1, "libstream: error: x.mib: No such file or directory\n"),
        (MemoryError("8 TB"), 1, "libstream: error: not enough memory: 8 TB\n"),
        (
            KeyError("no key 'x'"),
            1,
            "libstream: error: unexpected KeyError: no key 'x' (a fault of libstream or of a plug-in; --debug shows where)\n",
        ),
        (KeyboardInterrupt(), 130, "libstream: interrupted\n"),
    ],
)
def test_errors_are_one_line(cli: Any, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, says: str) -> None:
    monkeypatch.setattr(registry, "load", lambda group, name: _command(raised))
    said = cli("info")
    assert (said.code, said.err, said.out) == (code, says, "")
    if not isinstance(raised, KeyboardInterrupt):
        for words in (("info", "--debug"), ("--debug", "info")):
            said = cli(*words)
            assert said.code == code
            assert "Traceback (most recent call last)" in said.err
            assert said.err.endswith(says)


def test_debug_runs_kernels_checked_and_only_then(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from libstream import config

    monkeypatch.delenv("LIBSTREAM_DEBUG", raising=False)
    seen = []
    monkeypatch.setattr(registry, "load", lambda group, name: Command("x", lambda p: None, lambda a: seen.append(config.debug()) or 0))
    cli("info", "--debug")
    cli("info")
    assert seen == [True, False]


def test_warnings_are_one_line(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def run(args: Any) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("two\nlines", stacklevel=1)
        return 0

    monkeypatch.setattr(registry, "load", lambda group, name: Command("x", lambda p: None, run))
    assert cli("info").err == "libstream: warning: two lines\n"


def test_a_broken_plug_in_does_not_hide_the_others(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.load

    def load(group: Any, name: str) -> Any:
        if name == "export":
            raise ImportError("no module named seaborn")
        return real(group, name)

    monkeypatch.setattr(registry, "load", load)
    said = cli("-h")
    assert "export     (cannot be loaded: no module named seaborn)" in said.out
    assert "run UDFs over files" in said.out


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    script = "import subprocess, sys; from libstream.cli.main import main; sys.exit(main(['info', 'scan.npy', '--json']))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")


def test_a_command_imports_nothing_heavy() -> None:
    script = (
        "import sys; from libstream.cli.main import main; main(['plugins']); main(['-h']);"
        "print(sorted({'numba', 'h5py', 'matplotlib', 'dask', 'zmq', 'tornado', 'loky'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "[]\n"


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "libstream", "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("libstream ")
