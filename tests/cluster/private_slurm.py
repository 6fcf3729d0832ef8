"""A private Slurm of one node: munged, slurmctld and slurmd as processes, in a folder, listening on the loopback only.

Needs Debian's slurmctld, slurmd, slurm-client and munge, no systemd, nothing in /etc, and no root. By hand:

    python -m tests.cluster.private_slurm bash          # a shell in which sbatch, squeue and the others speak to it
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo", "scontrol")
PACKAGES = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
UP_S = 30.0


def missing() -> str:
    """Why it cannot be started here, "" where it can."""
    absent = [p for p in PROGRAMS if found(p) is None]
    return f"Slurm is not installed here ({', '.join(absent)} not found): {PACKAGES}" if absent else ""


def found(program: str) -> str | None:
    """Where a program is; daemons are in /usr/sbin, which is not on everybody's PATH."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class PrivateSlurm:
    """Runs while the block runs; `env` is what its commands need (SLURM_CONF)."""

    def __init__(self, folder: Path, cpus: int = 4) -> None:
        self.folder, self.cpus = folder, cpus
        self.env = dict(os.environ)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> PrivateSlurm:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, *command: str) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=20.0).stdout

    def jobs(self, *states: str) -> list[str]:
        """Numbers of the jobs in these states; of all that wait or run, where none is given."""
        chosen = [f"--states={','.join(states)}"] if states else []
        return self.run("squeue", "--noheader", "--format=%i", *chosen).split()

    def close(self) -> None:
        """Cancel what runs, end the daemons."""
        if "slurmctld" in self._running:
            self.run("scancel", f"--user={os.getuid()}")
            deadline = time.monotonic() + 10.0
            while self.jobs() and time.monotonic() < deadline:
                time.sleep(0.1)
        for process in reversed(self._running.values()):
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # munge refuses keys and sockets in folders that others could write
        for name in ("state", "spool"):
            (folder / name).mkdir()
        self._munge()
        host = socket.gethostname().split(".")[0]
        (folder / "slurm.conf").write_text(self._configuration(host))
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        self.env["SLURM_CONF"] = str(folder / "slurm.conf")
        self._daemon("slurmctld", "-D", "-c", "-i", up=lambda: "UP" in self.run("scontrol", "ping"))
        self._daemon("slurmd", "-D", "-N", host, up=lambda: self.run("sinfo", "-h", "-o", "%T").strip() == "idle")

    def _munge(self) -> None:
        key, sock = self.folder / "munge.key", self.folder / "munge.socket"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = [f"--{what}-file={self.folder}/munged.{what}" for what in ("pid", "log", "seed")]
        files += [f"--key-file={key}", f"--socket={sock}"]
        self._daemon("munged", "--foreground", "--force", "--num-threads=2", *files, up=sock.exists)

    def _daemon(self, name: str, *arguments: str, up: Callable[[], bool]) -> None:
        program = found(name)
        assert program is not None, missing()
        with (self.folder / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                [program, *arguments], stdout=out, stderr=out, env=self.env, start_new_session=True, preexec_fn=_end_with_parent
            )
        self._running[name] = process
        deadline = time.monotonic() + UP_S
        while not up():
            if process.poll() is not None or time.monotonic() > deadline:
                logs = (self.folder / f"{name}.{kind}" for kind in ("out", "log"))
                said = "".join(log.read_text(errors="replace")[-1500:] for log in logs if log.exists())
                raise RuntimeError(f"{name} did not come up ({process.poll()}): {said}")
            time.sleep(0.05)

    def _configuration(self, host: str) -> str:
        folder, user = self.folder, pwd.getpwuid(os.getuid()).pw_name
        memory = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20 * 0.9)
        # more CPUs than there are, so that several jobs run beside each other
        return f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
ReturnToService=2
InactiveLimit=0
KillWait=2
MinJobAge=300
Waittime=0
OverTimeLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={self.cpus} RealMemory={memory} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def _end_with_parent() -> None:
    """In the child: no daemon stays when the tests are killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def main(command: list[str]) -> int:
    """Run a command with a Slurm of its own."""
    if why := missing():
        print(why, file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="private-slurm-") as folder, PrivateSlurm(Path(folder) / "slurm") as slurm:
        return subprocess.run(command or ["bash"], env=slurm.env).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
