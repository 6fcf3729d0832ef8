"""What a Slurm job of libstream is: settings from a TOML file and from the call, checked before anything is submitted."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from libstream.ext import UsageError

_WALLTIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}")
_MEMORY = re.compile(r"\d+(\.\d+)? *[kMGT]i?B?")


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """One job is one node: `nodes` of them are submitted, each starts `processes` workers of `cores // processes` threads.

    Lengths of time are in seconds unless they are Slurm's own (`walltime`).
    """

    nodes: int = 1
    """Jobs to submit."""
    cores: int = 0
    """Cores of a node to ask for."""
    processes: int = 0
    """Python processes on a node (default: one for each core). Compiled UDFs are as fast with fewer, and take less memory."""
    memory: str = ""
    """Memory of a node to ask for, "64 GB" (default: the partition's)."""
    walltime: str = "00:30:00"
    """Longest time of a job, "01:30:00"."""
    partition: str = ""
    account: str = ""
    directives: tuple[str, ...] = ()
    """Further options of sbatch, "--constraint=cpu"."""
    prologue: tuple[str, ...] = ()
    """Lines of shell that run on the node before the workers start: "module load apptainer", "source env/bin/activate"."""
    python: str = ""
    """How Python is called on the nodes, "apptainer exec env.sif python3" (default: the Python that runs this, at the same path)."""
    interface: str = ""
    """Network over which workers and scheduler speak, "ib0" (default: that of the host's name)."""
    scheduler_interface: str = ""
    """The same network under its name on this computer, where that is another one."""
    port: int = 0
    """Port of the scheduler on this computer (default: any)."""
    tls: bool = True
    """Keys are made for each run, and only who has them can connect: all users of a cluster can reach its computers."""
    log_directory: str = "slurm-logs"
    """Where jobs write what they say; a folder that this computer and the nodes share."""
    local_directory: str = ""
    """Folder on the nodes for temporary files."""
    death_timeout_s: float = 120.0
    """Jobs end by themselves when the scheduler cannot be reached for so long; also the time that workers have to start."""
    retries: int = 3
    """A node whose job is lost is asked for again so often."""
    queue_wait_s: float = 0.0
    """Longest time in the queue without any node (default: no limit)."""
    idle_s: float = 120.0
    """Nodes are given back after so long without work; the next run submits anew."""
    poll_s: float = 5.0
    """How often squeue is asked."""
    path_map: Mapping[str, str] = field(default_factory=dict)
    """Beginnings of paths here and on the nodes, where these see the same files under other names."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if self.processes > self.cores > 0:
            raise UsageError(f"processes must be <= cores ({self.cores}), got {self.processes}")
        for name, form, example in (("walltime", _WALLTIME, "01:30:00"), ("memory", _MEMORY, "64 GB")):
            value = getattr(self, name)
            if (value or name == "walltime") and not form.fullmatch(value):
                raise UsageError(f"{name} = {value!r} is not understood; write for example {example!r}")

    @property
    def n_processes(self) -> int:
        """Python processes on a node."""
        return self.processes or self.cores

    @property
    def n_threads(self) -> int:
        """Partitions that all nodes together process at once."""
        return self.nodes * self.n_processes * (self.cores // self.n_processes)

    @property
    def logs(self) -> Path:
        """`log_directory`, complete."""
        return Path(os.path.expandvars(self.log_directory)).expanduser().absolute()

    def with_settings(self, given: Mapping[str, Any], where: str) -> SlurmConfig:
        """This with `given` on top. Raises UsageError that begins with `where`."""
        known = {f.name: f for f in fields(self)}
        found = {}
        for name, value in given.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise UsageError(f"{where}: there is no setting {name!r}{hint}; known are {', '.join(known)}")
            found[name] = _typed(value, str(known[name].type), f"{where}: {name}")
        try:
            return replace(self, **found)
        except UsageError as exc:
            raise UsageError(f"{where}: {exc}") from None

    def complete(self) -> SlurmConfig:
        """This, where everything that is needed is there. Raises UsageError."""
        if not self.cores:
            raise UsageError(
                "Slurm is not told how many cores of a node to ask for: write `cores = 32` into a file and name it with --slurm-config "
                "(config= in Python), or in LIBSTREAM_SLURM_CONFIG; `libstream plugins executors` and docs/how-to/use-a-cluster.md say more"
            )
        return self


_LEAST = {
    "nodes": 1, "cores": 0, "processes": 0, "port": 0, "retries": 0, "death_timeout_s": 1.0, "queue_wait_s": 0.0, "idle_s": 1.0,
    "poll_s": 0.05,
}  # fmt: skip
_WORD = {"int": "a whole number", "float": "a number of seconds", "str": "a text", "bool": "true or false"}


def _typed(value: Any, kind: str, where: str) -> Any:
    if kind.startswith("tuple"):
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise UsageError(f'{where} = {value!r} is not a list of texts; write ["...", "..."]')
        if any("\n" in v for v in value):
            raise UsageError(f"{where}: {value!r} has a line break in it; write one text for each line")
        return tuple(value)
    if kind.startswith("Mapping"):
        if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in (*value, *value.values())):
            raise UsageError(f'{where} = {value!r} is not a table of texts; write {{ "/name/here" = "/name/there" }}')
        return dict(value)
    wanted = {"int": int, "float": (int, float), "str": (str, os.PathLike), "bool": bool}[kind]
    if not isinstance(value, wanted) or (kind != "bool" and isinstance(value, bool)):  # type: ignore[arg-type]
        raise UsageError(f"{where} = {value!r} is not {_WORD[kind]}")
    if kind == "str":
        text = os.fspath(value)
        if "\n" in text:
            raise UsageError(f"{where} = {text!r} has a line break in it")
        return text
    return float(value) if kind == "float" else value


def load_config(path: str | Path) -> SlurmConfig:
    """Settings from a TOML file. Raises UsageError naming file and setting."""
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{path} is not valid TOML: {exc}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"the settings for Slurm cannot be read: {path}: {getattr(exc, 'strerror', None) or exc}") from exc
    return SlurmConfig().with_settings(found, str(path))
