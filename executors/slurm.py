"""Nodes of a Slurm cluster: jobs submitted by dask-jobqueue, in which workers of Dask connect to this computer."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from libstream.executors._slurm_config import SlurmConfig, load_config
from libstream.executors._slurm_jobs import cancel_all, job_arguments, job_class, jobqueue
from libstream.executors._slurm_watch import Watch
from libstream.executors.dask import DEATHS, DaskExecutor
from libstream.ext import (
    CancelFlag,
    CancelledError,
    Consumer,
    Consumers,
    NotInstalledError,
    Partial,
    Partition,
    Traits,
    UsageError,
    Work,
    WorkerLostError,
    slurm_config_default,
)

HEARTBEAT_S = 0.05
"""While the jobs wait in the queue, the loop is called this often, so that a cancel is seen."""
_log = logging.getLogger("libstream")


class SlurmExecutor(DaskExecutor):
    """Partitions as tasks of Dask distributed, on nodes that Slurm gives.

    config: a TOML file of settings (default: the file that LIBSTREAM_SLURM_CONFIG names, else slurm.toml in the user's folder of settings);
    address: the same, from "slurm://cluster.toml". settings: of `SlurmConfig`, on top of those of the file: nodes=4, partition="short".
    say: called with each line about the jobs (default: the logger "libstream"; what is in trouble or waits is a warning).
    security: `distributed.Security` with keys of your own. snapshot_s, combine_bytes: see `DaskExecutor`.

    The scheduler runs in this process, workers connect to it. Jobs are submitted by the first run, kept for the next ones, given back
    after `idle_s` without work, and cancelled by `close`, by the end of the program, and by themselves when it dies.

    Raises UsageError for settings that cannot be, and with Slurm's words where it refuses the jobs; NotInstalledError without the extra
    [slurm].
    """

    name: ClassVar[str] = "slurm"

    def __init__(
        self, config: str | Path | None = None, *, address: str | None = None, say: Callable[[str], None] | None = None,
        snapshot_s: float = 0.5, combine_bytes: int = 64 << 10, security: Any = None, **settings: Any,
    ) -> None:  # fmt: skip
        file = config or address or slurm_config_default()
        found = load_config(file) if file else SlurmConfig()
        self.config = found.with_settings(settings, "executor 'slurm'").complete()
        super().__init__(
            1, path_map=self.config.path_map, snapshot_s=snapshot_s, combine_bytes=combine_bytes, wait_s=math.inf, security=security
        )
        self._told = say
        self._watch: Watch | None = None
        self._keys: Path | None = None

    @property
    def traits(self) -> Traits:
        """See `Traits`. Known without asking Slurm."""
        return Traits(n_workers=self.config.n_threads)

    @property
    def client(self) -> Any:
        """The `distributed.Client`. Submits the jobs where they are not; does not wait for them."""
        return self._connected()

    @property
    def is_local(self) -> bool:
        """See `KeepsConsumers`: only a Slurm for tests has its nodes on this computer."""
        return self.config.interface == "lo"

    def imap(self, work: Work, partitions: Iterable[Partition], *, in_flight: int, cancel: CancelFlag) -> Iterator[Partial | None]:
        """See `Executor.imap`. Begins as soon as one node is there; the others join."""
        with self._lock:
            if self._watch is not None and self._watch.lost is not None:
                self._drop()  # another run, another try
        self._connected()
        watch = self._watch
        if watch is None:
            raise WorkerLostError("the executor was closed while a run began")
        with watch.busy():
            while not watch.connected and watch.lost is None:
                if cancel:
                    raise CancelledError("cancelled while the jobs waited in Slurm's queue")
                yield None
                watch.wait(HEARTBEAT_S)
            if watch.lost is None:
                with contextlib.closing(super().imap(work, partitions, in_flight=in_flight, cancel=cancel)) as run:  # type: ignore[type-var]
                    for partial in run:
                        yield partial
                        if watch.lost is not None and not watch.connected:
                            break
                    else:
                        return
            raise watch.lost

    def keep(self, consumer: Consumer) -> Consumers:
        """See `KeepsConsumers`. Returns when all nodes are there: who waits for consumers does not wait in Slurm's queue."""
        self._connected()
        watch = self._watch
        with watch.busy() if watch is not None else contextlib.nullcontext():
            while watch is not None and self._watch is watch and watch.waits:
                watch.wait(HEARTBEAT_S)
            return super().keep(consumer)

    def job_script(self) -> str:
        """The script of the first job, as sbatch would get it. A scheduler is started for it, nothing is submitted.

        The port of the scheduler, the name of the jobs and the keys are those of this call: each run makes its own.
        """
        self._import()
        there = self.config.logs.exists()
        try:
            with self._lock:
                cluster = self._cluster_called(_new_name())
                try:
                    ((name, spec),) = cluster.new_worker_spec().items()
                    script: str = spec["cls"](cluster.scheduler_address, name=name, **spec["options"]).job_script()
                finally:
                    cluster.close()
                    self._forget_keys()
        finally:
            if not there:
                with contextlib.suppress(OSError):
                    self.config.logs.rmdir()
        return script

    # -- inside ----------------------------------------------------------------------------------------------------

    def _connected(self) -> Any:
        self._import()
        watch = self._watch
        if watch is not None and watch.lost is not None:
            raise watch.lost
        return super()._connected()

    def _heal(self, n_workers: int) -> None:
        """Nothing: the watch does it."""

    def _import(self) -> Any:
        try:
            return jobqueue()
        except ImportError as exc:
            raise NotInstalledError(
                f"executor 'slurm' needs {exc.name}, which is not installed: pip install libstream[slurm]", name=exc.name
            ) from exc

    def _connect(self, distributed: Any) -> Any:
        name = _new_name()
        watch = self._watch = Watch(self.config, name, self._say, lambda: self._give_back(watch))
        try:
            self._cluster = self._cluster_called(name, watch)
            watch.start(self._cluster)
            return distributed.Client(self._cluster, set_as_default=False)
        except BaseException:
            self._drop()
            raise

    def _cluster_called(self, name: str, watch: Watch | None = None) -> Any:
        import dask

        config = self.config
        security = self._security or self._secured()
        interface = config.scheduler_interface or config.interface
        scheduler = {"dashboard_address": "127.0.0.1:0", "dashboard": False, "port": config.port}
        if interface:
            scheduler["interface"] = interface
        # as for workers of this computer, see DaskExecutor
        settings = {
            "distributed.scheduler.allowed-failures": DEATHS - 1,
            "distributed.scheduler.worker-saturation": 1.0,
            "distributed.scheduler.work-stealing": False,
        }
        with dask.config.set(settings):
            try:
                return self._import().SLURMCluster(
                    n_workers=0, name=name, job_cls=job_class(), silence_logs=50, security=security, scheduler_options=scheduler,
                    watch=watch, **job_arguments(config, name),
                )  # fmt: skip
            except RuntimeError as exc:
                asked = f"interface = {interface!r}" if interface else f"port = {config.port}"
                raise UsageError(f"Dask's scheduler does not start on this computer with {asked}: {exc}") from exc
            except OSError as exc:
                raise type(exc)(f"log_directory = {config.log_directory!r} cannot be used: {exc}") from exc

    def _secured(self) -> Any:
        """Keys made for these jobs, in files that only this user can read; those of Dask's configuration where it names some."""
        from distributed import Security

        security = Security()
        if security.tls_ca_file is not None:
            return security
        if not self.config.tls:
            return None
        try:
            made = Security.temporary()
        except ImportError as exc:
            raise NotInstalledError(
                f"executor 'slurm' needs {exc.name}, which is not installed: pip install libstream[slurm]; or say tls = false, in a "
                "network in which you trust everybody", name=exc.name,
            ) from exc  # fmt: skip
        self.config.logs.mkdir(parents=True, exist_ok=True)
        self._keys = Path(tempfile.mkdtemp(prefix=".keys-", dir=self.config.logs))  # of mode 0700
        found = made.get_tls_config_for_role("scheduler")
        files = {what: str(self._keys / f"{what}.pem") for what in ("ca_file", "cert", "key")}
        for what, file in files.items():
            Path(file).write_text(found[what])
        of_roles = {f"tls_{role}_{what}": files[what] for role in ("scheduler", "worker", "client") for what in ("cert", "key")}
        return Security(require_encryption=True, tls_ca_file=files["ca_file"], **of_roles)

    def _give_back(self, watch: Watch) -> None:
        with self._lock:
            if self._watch is watch and not watch.n_busy:
                self._drop()

    def _drop(self) -> None:
        """Nothing is left in Slurm: the jobs are cancelled by name first, which one more Ctrl-C does not stop."""
        watch, self._watch = self._watch, None
        answers = False
        if watch is not None:
            watch.stop()
            answers = self._cancel(watch)
        try:
            super()._drop()
        finally:
            if watch is not None:
                if answers:
                    self._cancel(watch)  # one that was just being submitted
                watch.join()
                if watch.n_nodes and answers:
                    self._say(f"Slurm: gave back {watch.n_nodes} node{'s' * (watch.n_nodes > 1)}", False)
            self._forget_keys()

    def _cancel(self, watch: Watch) -> bool:
        """Whether Slurm answers; where not, nothing more is tried: each call would take its time."""
        for job in watch.jobs:
            job.over = True
        try:
            if watch.jobs:
                cancel_all(watch.name)
        except (OSError, ValueError) as exc:
            after = f"{self.config.death_timeout_s:g} s"
            _log.warning("scancel --name=%s failed (%s); see whether the jobs end by themselves after %s", watch.name, exc, after)
            return False
        return True

    def _forget_keys(self) -> None:
        keys, self._keys = self._keys, None
        if keys is not None:
            shutil.rmtree(keys, ignore_errors=True)

    def _say(self, text: str, trouble: bool) -> None:
        if self._told is not None:
            self._told(text)
        else:
            _log.log(logging.WARNING if trouble else logging.INFO, "%s", text)


def _new_name() -> str:
    return f"libstream-{secrets.token_hex(3)}"
