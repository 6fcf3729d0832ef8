"""Settings of the executor slurm: what is wrong is named, with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from libstream.config import slurm_config
from libstream.errors import UsageError
from libstream.executors._slurm_config import SlurmConfig, load_config
from libstream.executors._slurm_jobs import hint, last_words, words
from libstream.executors.slurm import SlurmExecutor

GOOD = """
partition = "short"
nodes = 3
cores = 8
processes = 4
memory = "64 GB"
walltime = "2-01:30:00"
prologue = ["module load x"]
death_timeout_s = 30
tls = false
path_map = { "/here" = "/there" }
"""


def written(folder: Path, text: str) -> Path:
    (folder / "cluster.toml").write_text(text)
    return folder / "cluster.toml"


def test_a_file_is_read_and_the_call_comes_on_top(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD))
    assert (config.partition, config.nodes, config.cores, config.walltime, config.tls) == ("short", 3, 8, "2-01:30:00", False)
    assert (config.prologue, config.path_map, config.death_timeout_s) == (("module load x",), {"/here": "/there"}, 30.0)
    ex = SlurmExecutor(tmp_path / "cluster.toml", nodes=5, account="abc")
    assert (ex.config.nodes, ex.config.account, ex.config.partition) == (5, "abc", "short")
    assert ex.traits.n_workers == 5 * 4 * 2
    assert SlurmExecutor(address=str(tmp_path / "cluster.toml")).config == config


def test_one_process_for_each_core_unless_told() -> None:
    assert SlurmConfig(cores=8).n_processes == 8
    assert SlurmConfig(cores=8, processes=3).n_threads == 6
    assert SlurmConfig(cores=8, nodes=2).n_threads == 16


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("partion = 'x'", r"cluster\.toml: there is no setting 'partion' \(did you mean partition\?\); known are nodes, cores, "),
        ("nodes = 0", r"cluster\.toml: nodes must be >= 1, got 0"),
        ("nodes = '4'", r"cluster\.toml: nodes = '4' is not a whole number"),
        ("nodes = true", r"nodes = True is not a whole number"),
        ("tls = 1", r"tls = 1 is not true or false"),
        ("cores = 4\nprocesses = 8", r"processes must be <= cores \(4\), got 8"),
        ("walltime = '1 hour'", r"walltime = '1 hour' is not understood; write for example '01:30:00'"),
        ("walltime = 90", r"walltime = 90 is not a text"),
        ("memory = 'much'", r"memory = 'much' is not understood; write for example '64 GB'"),
        ("prologue = 'module load x'", r"prologue = 'module load x' is not a list of texts"),
        ("directives = [1]", r"directives = \[1\] is not a list of texts"),
        ('directives = ["-q x\\nrm -rf /"]', "has a line break in it"),
        ('partition = "x\\nrm -rf /"', "has a line break in it"),
        ("path_map = ['/a']", r"path_map = \['/a'\] is not a table of texts"),
        ("idle_s = 'long'", "idle_s = 'long' is not a number of seconds"),
        ("nodes = ", r"cluster\.toml is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_config(written(tmp_path, text))


def test_what_the_call_gets_wrong_is_named_as_the_call() -> None:
    with pytest.raises(UsageError, match=r"executor 'slurm': there is no setting 'workers'"):
        SlurmExecutor(cores=1, workers=4)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the settings for Slurm cannot be read: .*nothing\.toml: No such file"):
        SlurmExecutor(tmp_path / "nothing.toml")


def test_without_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LIBSTREAM_SLURM_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="not told how many cores of a node to ask for: write `cores = 32` into a file"):
        SlurmExecutor()


def test_the_user_has_a_file_for_all_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LIBSTREAM_SLURM_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert slurm_config() is None
    (tmp_path / "libstream").mkdir()
    (tmp_path / "libstream/slurm.toml").write_text("cores = 2")
    assert SlurmExecutor().config.cores == 2
    monkeypatch.setenv("LIBSTREAM_SLURM_CONFIG", str(written(tmp_path, "cores = 3")))
    assert SlurmExecutor().config.cores == 3
    monkeypatch.setenv("LIBSTREAM_SLURM_CONFIG", str(tmp_path / "gone.toml"))
    with pytest.raises(UsageError, match=r"gone\.toml"):
        SlurmExecutor()


def test_what_slurm_says_is_one_line() -> None:
    said = "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Invalid partition name specified\n"
    assert words("sbatch", said) == "invalid partition specified: x; Batch job submission failed: Invalid partition name specified"


@pytest.mark.parametrize(
    ("said", "todo"),
    [
        ("Invalid partition name specified", "sinfo -s"),
        ("Invalid account or account/partition combination specified", "set account="),
        ("Invalid qos specification", "--qos"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "walltime="),
        ("Requested node configuration is not available", "cores="),
        ("Unable to contact slurm controller (connect failure)", "sinfo"),
        ("something new", "--dry-run"),
    ],
)
def test_what_to_do_about_it(said: str, todo: str) -> None:
    assert todo in hint(said)


def test_the_last_words_of_a_job_leave_out_those_of_dask(tmp_path: Path) -> None:
    log: Any = tmp_path / "job.err"
    assert last_words(log) == ""
    log.write_text("2026-01-01 - distributed.nanny - INFO - Start\nbash: module: command not found\n\nexit\n")
    assert last_words(log) == "bash: module: command not found / exit"
