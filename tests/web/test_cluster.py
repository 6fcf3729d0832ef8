"""The part `cluster` of the stat message: there while something with a cluster is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from libstream import api, executing
from libstream.jobs import session as sessions
from libstream.jobs import sources
from libstream.jobs.session import Session

HEALTH = {"v": 1, "state": "running", "address": "tcp://10.0.0.1:8786", "nodes": []}


class Cluster:
    """As much of an executor as is asked."""

    name = "dask"

    def __init__(self) -> None:
        self.health: dict[str, Any] | None = None

    def cluster(self) -> dict[str, Any] | None:
        return self.health

    def close(self) -> None:
        """Nothing to close."""


def test_only_while_a_cluster_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(out=tmp_path, executor="dask://10.0.0.1:8786")
    try:
        assert "cluster" not in session.progress(), "the executor was not used yet, and is not started for this"
        assert "dask://10.0.0.1:8786" not in executing._shared
        ex = Cluster()
        monkeypatch.setitem(executing._shared, "dask://10.0.0.1:8786", ex)
        assert "cluster" not in session.progress()
        ex.health = HEALTH
        assert session.progress()["cluster"] == HEALTH
    finally:
        session.close()


def test_threads_have_none(tmp_path: Path) -> None:
    session = Session(out=tmp_path)
    try:
        api.run([[[[1]]]], api.registry.load("udfs", "Sum")())
        assert "cluster" not in session.progress()
    finally:
        session.close()


def test_a_routed_source_speaks_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Follows:
        dealt = Cluster()

        def stat(self, results: Any) -> tuple[dict[str, Any], None]:
            return {}, None

        def close(self) -> None:
            """Nothing to close."""

    Follows.dealt.health = {**HEALTH, "address": "the router"}
    session = Session(out=tmp_path)
    try:
        monkeypatch.setattr(session, "follow", Follows())
        assert session.progress()["cluster"]["address"] == "the router"
    finally:
        session.follow = None
        session.close()
    assert sessions.Follow.dealt is not None


@pytest.mark.parametrize(
    ("uri", "executor", "routed"),
    [
        ("dectris://eiger:9999", "threads", False), ("dectris://eiger:9999", "dask", False), ("dectris://eiger:9999", "dask://h:1", True),
        ("sectors://0.0.0.0:6001", "slurm", True), ("router://h:1", "dask", True),
    ],
)  # fmt: skip
def test_frames_go_by_a_router_to_workers_elsewhere(uri: str, executor: str, routed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(api, "connect", lambda uri, **options: given.update(options))
    sources.connect(uri, {}, executor)
    assert given == ({"executor": executor} if routed else {})
