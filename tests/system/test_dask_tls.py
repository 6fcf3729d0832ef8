"""TLS between client, scheduler and workers: certificates named in Dask's configuration, or a Security object; nobody else gets in."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream.executors.dask import DaskExecutor

pytestmark = [
    pytest.mark.leaves("files", "connections to a cluster that lives on"),
    pytest.mark.leaves("threads", "of the worker that lives on"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl, which is not installed"),
]


def certificate(folder: Path, name: str) -> dict[str, str]:
    """A certificate that is its own authority, and its key."""
    made = {"cert": str(folder / f"{name}.pem"), "key": str(folder / f"{name}-key.pem")}
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    done = subprocess.run(
        [*command, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", made["cert"], "-keyout", made["key"]],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


def settings(ours: dict[str, str], authority: str) -> dict[str, Any]:
    """Dask's configuration, as in docs/how-to/use-a-cluster.md."""
    who = {f"distributed.comm.tls.{part}.{k}": v for part in ("scheduler", "worker", "client") for k, v in ours.items()}
    return {"distributed.comm.require-encryption": True, "distributed.comm.tls.ca-file": authority, **who}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def ours(folder: Path) -> dict[str, str]:
    return certificate(folder, "ours")


@pytest.fixture(scope="module")
def address(ours: dict[str, str]) -> Iterator[str]:
    """Of a scheduler with a worker, which speak TLS only."""
    import dask
    import distributed

    with dask.config.set(settings(ours, ours["cert"])):
        cluster = distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", silence_logs=50, protocol="tls"
        )
    yield cluster.scheduler_address
    cluster.close()


def works(ex: Any) -> bool:
    return bool(ls.run(np.ones((4, 4, 4, 4), "u2"), ls.udfs.Sum(), executor=ex)["sum"]["sum"].max() == 16)


def test_certificates_of_the_configuration(address: str, ours: dict[str, str]) -> None:
    import dask

    assert address.startswith("tls://")
    with dask.config.set(settings(ours, ours["cert"])), ls.executor(f"dask://{address}") as ex:
        assert works(ex)


def test_a_security_object(address: str, ours: dict[str, str]) -> None:
    import distributed

    security = distributed.Security(
        tls_ca_file=ours["cert"], tls_client_cert=ours["cert"], tls_client_key=ours["key"], require_encryption=True
    )
    with ls.executor(f"dask://{address}", security=security) as ex:
        assert works(ex)


def test_workers_started_here(ours: dict[str, str]) -> None:
    """Where the configuration asks for encryption, those of executor="dask" have it too."""
    import dask

    with dask.config.set(settings(ours, ours["cert"])):
        ex = DaskExecutor(workers=1)
        try:
            assert works(ex)
            assert ex._connected().scheduler.address.startswith("tls://")
        finally:
            ex.close()


@pytest.mark.parametrize("who", ["without encryption", "without a certificate", "with a certificate of another authority"])
def test_nobody_else_gets_in(address: str, ours: dict[str, str], folder: Path, who: str) -> None:
    import distributed

    if who == "without encryption":
        security, address = None, address.replace("tls://", "tcp://")
    elif who == "without a certificate":
        security = distributed.Security(tls_ca_file=ours["cert"])
    else:
        theirs = certificate(folder, "theirs")
        security = distributed.Security(tls_ca_file=ours["cert"], tls_client_cert=theirs["cert"], tls_client_key=theirs["key"])
    with (
        pytest.raises(
            OSError,
            match=rf"the Dask scheduler at {address} does not answer" + (".* Certificates are named" if address.startswith("tls") else ""),
        ),
        ls.executor(f"dask://{address}", security=security) as ex,
    ):
        works(ex)
