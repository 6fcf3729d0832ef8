"""The executor slurm with programs that only pretend to be Slurm's: what it makes of what they say. No job ever runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.errors import CancelledError, NotInstalledError, UsageError, WorkerLostError
from tests import links

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Slurm does not exist for Windows"),
    pytest.mark.leaves("files", "of Dask's event loop"),
]
LIMIT_S = 60.0
FRAMES = np.ones((2, 2, 4, 4), "u2")
SBATCH = """#!/bin/sh
while ! mkdir "$D/lock" 2>/dev/null; do sleep 0.01; done
n=$(($(ls "$D/scripts" | wc -l) + 1))
if [ -f "$D/refuse" ] && [ "$n" -gt "$(cat "$D/taken")" ]; then rmdir "$D/lock"; cat "$D/refuse" >&2; exit 1; fi
echo "$n|PENDING||Priority" >> "$D/queue"
cp "$1" "$D/script.$n"; mv "$D/script.$n" "$D/scripts/$n.sh"; rmdir "$D/lock"  # the tests wait for it
echo "Submitted batch job $n"
"""
SQUEUE = """#!/bin/sh
if [ -f "$D/mute" ]; then cat "$D/mute" >&2; exit 1; fi
cat "$D/queue"
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "$D/cancelled"
"""


class Fake:
    """The programs, and what they say."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines = folder, list[str]()
        for name in ("bin", "scripts", "logs"):
            (folder / name).mkdir(parents=True)
        for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        self.queue(*())

    def queue(self, *rows: str) -> None:
        """What squeue shows: "1|RUNNING|node|reason"."""
        new = self.folder / "queue.new"
        new.write_text("".join(f"{row}\n" for row in rows))
        new.replace(self.folder / "queue")

    def refuses(self, words: str, taken: int = 0) -> None:
        """sbatch takes so many jobs and no more."""
        (self.folder / "taken").write_text(str(taken))
        (self.folder / "refuse").write_text(words)

    @property
    def scripts(self) -> list[str]:
        """What was submitted."""
        return [p.read_text() for p in sorted((self.folder / "scripts").iterdir())]

    def executor(self, **settings: Any) -> Any:
        """An executor whose lines are kept."""
        given = {"cores": 1, "interface": "lo", "poll_s": 0.1, "log_directory": str(self.folder / "logs"), "tls": False}
        return ls.executor("slurm", say=self.lines.append, **{**given, **settings})

    def said(self, text: str) -> Callable[[], bool]:
        """Whether a line has it."""
        return lambda: any(text in line for line in self.lines)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake(tmp_path / "fake")
    monkeypatch.setenv("PATH", f"{made.folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("D", str(made.folder))
    return made


def wait_until(condition: Callable[[], bool], what: object) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT_S:g} s: {what}"
        time.sleep(0.01)


def run(ex: Any) -> Any:
    return ls.start(FRAMES, ls.udfs.Sum(), executor=ex)


def test_no_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings: dict[str, Any] = {"cores": 1, "interface": "lo", "log_directory": tmp_path / "logs", "tls": False}
    says = r"sbatch is not found: .* Run it on a computer of the cluster"
    with ls.executor("slurm", **settings) as ex, pytest.raises(UsageError, match=says):
        ls.run(FRAMES, ls.udfs.Sum(), executor=ex)


def test_a_refused_job(fake: Fake) -> None:
    fake.refuses("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n")
    with fake.executor(nodes=2, account="nobody", memory="2 GB") as ex:
        says = (
            r"sbatch refused the job: Batch job submission failed: Invalid account .* specified\. "
            r"Asked for were account = 'nobody', cores = 1, memory = '2 GB', walltime = '00:30:00'; .*sacctmgr"
        )
        with pytest.raises(UsageError, match=says):
            ls.run(FRAMES, ls.udfs.Sum(), executor=ex)


def test_some_jobs_are_refused(fake: Fake) -> None:
    fake.refuses("sbatch: error: QOSMaxSubmitJobPerUserLimit\n", taken=2)
    with fake.executor(nodes=3) as ex:
        job = run(ex)
        wait_until(fake.said("waiting for 2 nodes: 2 pending (Priority)"), fake.lines)
        assert fake.said("sbatch took no job (QOSMaxSubmitJobPerUserLimit); going on without it")()
        assert fake.said("submitted 2 jobs (")()
        job.cancel()


def test_the_queue_is_told(fake: Fake) -> None:
    """Waiting, why, starting; a controller that does not answer is no reason to stop."""
    with fake.executor(nodes=3) as ex:
        job = run(ex)
        wait_until(fake.said("waiting for 3 nodes: 3 pending (Priority)"), fake.lines)
        fake.queue("1|PENDING||Resources", "2|PENDING||Priority", "3|RUNNING|c1|None")
        wait_until(fake.said("waiting for 3 nodes: 2 pending (Resources, Priority), 1 starting"), fake.lines)
        (fake.folder / "mute").write_text("squeue: error: Unable to contact slurm controller\n")
        wait_until(fake.said("squeue does not answer (Unable to contact slurm controller); the jobs go on"), fake.lines)
        fake.queue("1|PENDING||PartitionTimeLimit", "2|RUNNING|c2|None", "3|RUNNING|c1|None")
        (fake.folder / "mute").unlink()
        wait_until(
            fake.said("1 pending (PartitionTimeLimit), which cannot start as asked: see cores, memory, walltime, 2 starting"), fake.lines
        )
        job.cancel()
        with pytest.raises(CancelledError):
            job.wait(LIMIT_S)
        assert sum("squeue does not answer" in line for line in fake.lines) == 1
    name = re.search(r"#SBATCH -J (libstream-\w+)", fake.scripts[0])
    assert name is not None
    assert f"--name={name[1]} --user={os.getuid()}" in (fake.folder / "cancelled").read_text()


def test_jobs_that_end_before_any_worker_was_there(fake: Fake) -> None:
    """Two of them, then it is over, with what the job has written. The next run is another try."""
    with fake.executor(nodes=1, retries=9) as ex:
        job = run(ex)
        wait_until(lambda: len(fake.scripts) == 1, "the first job")
        fake.queue("1|FAILED|c1|NonZeroExitCode")
        wait_until(lambda: len(fake.scripts) == 2, "the second one")
        assert fake.said("job 1 on c1 was lost (FAILED) before its workers were connected; what it had is computed again")()
        name = re.search(r"libstream-\w+", fake.scripts[0])
        assert name is not None
        (fake.folder / "logs" / f"{name[0]}-2.err").write_text("bash: line 7: module: command not found\n")
        fake.queue("2|FAILED|c1|NonZeroExitCode")
        with pytest.raises(
            WorkerLostError, match=r"no Slurm job is left: job 2 on c1 .*logs/libstream-\w+-\*; .* module: command not found"
        ):
            job.wait(LIMIT_S)
        assert len(fake.scripts) == 2
        again = run(ex)
        wait_until(lambda: len(fake.scripts) == 3, "the next run")
        again.cancel()


def test_the_time_limit(fake: Fake) -> None:
    with fake.executor(nodes=1, walltime="00:05:00") as ex:
        job = run(ex)
        wait_until(lambda: len(fake.scripts) == 1, "the job")
        fake.queue("1|TIMEOUT|c1|TimeLimit")
        with pytest.raises(WorkerLostError, match=r"job 1 on c1 reached its time limit \(walltime = '00:05:00': set a longer one\)"):
            job.wait(LIMIT_S)
    assert len(fake.scripts) == 1, "it is not asked for again"


def test_a_long_queue(fake: Fake) -> None:
    with (
        fake.executor(queue_wait_s=0.3) as ex,
        pytest.raises(OSError, match=r"no node after queue_wait_s = 0\.3 s: waiting for 1 node: 1 pending"),
    ):
        run(ex).wait(LIMIT_S)


def alike(script: str) -> str:
    """Without what each run makes anew."""
    return re.sub(r"libstream-[0-9a-f]{6}(-\d)?|(?<=127\.0\.0\.1:)\d+|(?<=\.keys-)\w+", "*", script)


@pytest.mark.parametrize("tls", [False, True])
def test_the_dry_run_is_what_is_submitted(fake: Fake, tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {
        "partition": "gpu", "account": "abc", "cores": 4, "processes": 2, "memory": "8 GiB", "walltime": "01:00:00", "tls": tls,
        "directives": ["--constraint=cpu"], "prologue": ["module load apptainer"], "python": "apptainer exec env.sif python3",
    }  # fmt: skip
    with fake.executor(**settings) as ex:
        dry = ex.job_script()
        assert fake.scripts == []
        job = run(ex)
        wait_until(lambda: len(fake.scripts) == 1, "the job")
        job.cancel()
    assert alike(fake.scripts[0]) == alike(dry)
    for line in ("-p gpu", "-A abc", "-n 1", "--cpus-per-task=4", "--mem=8G", "-t 01:00:00", "--constraint=cpu"):
        assert f"#SBATCH {line}\n" in dry
    assert "\nmodule load apptainer\n" in dry
    command = dry.strip().splitlines()[-1]
    assert command.startswith("apptainer exec env.sif python3 -m distributed.cli.dask_worker t")
    assert "--nthreads 2 --memory-limit 0 --nworkers 2 --nanny --death-timeout 120" in command
    assert (" tls://127.0.0.1:" in command and " --tls-key " in command) == tls
    assert list((fake.folder / "logs").glob(".keys-*")) == [], "keys do not outlive the run"


def test_keys_are_for_the_user_alone(fake: Fake) -> None:
    with fake.executor(tls=True) as ex:
        job = run(ex)
        wait_until(lambda: len(fake.scripts) == 1, "the job")
        (folder,) = (fake.folder / "logs").glob(".keys-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        job.cancel()


def test_keys_of_ones_own(fake: Fake, tmp_path: Path) -> None:
    from distributed import Security

    made = Security.temporary().get_tls_config_for_role("scheduler")
    for what in ("ca_file", "cert", "key"):
        (tmp_path / what).write_text(made[what])
    files = {f"tls_{role}_{what}": str(tmp_path / what) for role in ("scheduler", "worker", "client") for what in ("cert", "key")}
    own = Security(require_encryption=True, tls_ca_file=str(tmp_path / "ca_file"), **files)
    with fake.executor(security=own) as ex:
        script = ex.job_script()
    assert f"--protocol tls:// --tls-ca-file {tmp_path}/ca_file --tls-cert {tmp_path}/cert --tls-key {tmp_path}/key" in script


def test_the_import_leaves_ctrl_c_alone() -> None:
    """dask-jobqueue sets a handler of its own when it is imported, and cannot be imported in a thread for that reason."""
    code = (
        "import signal, threading\nfrom libstream.executors._slurm_jobs import jobqueue\n"
        "found = []\nt = threading.Thread(target=lambda: found.append(jobqueue()))\nt.start(); t.join()\n"
        "assert found[0].SLURMCluster\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler, 'changed'\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, cwd=links.ROOT)
    assert done.returncode == 0, done.stderr


def test_without_dask_jobqueue() -> None:
    code = (
        "import sys; sys.modules['dask_jobqueue'] = None; import libstream as ls\nwith ls.executor('slurm', cores=1) as ex: ex.job_script()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, cwd=links.ROOT)
    says = "executor 'slurm' needs dask_jobqueue, which is not installed: pip install libstream[slurm]"
    assert f"{NotInstalledError.__name__}: {says}" in done.stderr


# -- the command line --------------------------------------------------------------------------------------------------


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    np.save(folder / "scan.npy", FRAMES)
    (folder / "c.toml").write_text(f"cores = 1\ninterface = 'lo'\nlog_directory = '{folder / 'cli-logs'}'\n")
    line = [sys.executable, "-m", "libstream", "run", "scan.npy", "--udf", "Sum", *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)


def test_the_command_line_shows_the_job(fake: Fake, tmp_path: Path) -> None:
    done = command(tmp_path, "--executor", "slurm", "--slurm-config", "c.toml", "--nodes", "4", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/usr/bin/env bash\n")
    assert done.stdout.endswith("\n")
    assert "nothing was submitted. A run submits this 4 times" in done.stderr
    assert fake.scripts == []
    assert not (tmp_path / "cli-logs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--nodes", "2"), "--nodes: only --executor slurm takes this; the executor is threads"),
        (("--executor", "processes", "--dry-run"), "--dry-run: only --executor slurm takes this; the executor is processes"),
        (("--executor", "slurm", "--workers", "2"), "--workers: say --nodes with --executor slurm"),
        (("--executor", "slurm", "--slurm-config", "none.toml"), "the settings for Slurm cannot be read: none.toml: No such file"),
        (("--executor", "slurm://none.toml"), "the settings for Slurm cannot be read: none.toml: No such file"),
    ],
)
def test_wrong_usage(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    done = command(tmp_path, *words)
    assert done.returncode == 2
    assert f"libstream: error: {says}" in done.stderr
