"""How a router is, by HTTP: the documented shape, Prometheus' format, nothing else."""

from __future__ import annotations

import re
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from libstream.errors import UsageError
from libstream.route import health
from libstream.route.health import HealthServer
from tests import links
from tests.cluster.routing import routed
from tests.live.failing import until


def ask(url: str, path: str, method: str = "GET") -> tuple[int, str]:
    where = urlsplit(url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=5)
    try:
        connection.request(method, path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def test_health_is_what_the_reference_says() -> None:
    page = (links.ROOT / "docs/reference/router.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([a-z_`, ]+)` \|", page, re.MULTILINE))
    keys = {k.strip("` ") for text in documented for k in text.split(",")}
    with routed() as r:
        r.whole(1)
        server = HealthServer("127.0.0.1:0", r.hub.health)
        try:
            until(lambda: r.hub.health()["arrived"] == 48, "health of the scan")
            found = health.fetch(server.url)
            assert set(found) <= keys
            assert all(set(node) <= keys for node in found["nodes"])
            assert set(found) | set(found["nodes"][0]) | {"name", "role"} >= {"v", "state", "nodes", "frames_per_s", "fill", "last_error"}
            assert (found["run"], found["announced"], found["consumers"], found["clients"]) == ("1", 48, 2, 1)
            assert [n["role"] for n in found["nodes"]] == ["router", "consumer", "consumer"]
            assert found["nodes"][0]["frames"] == 48
            code, text = ask(server.url, "/metrics")
            assert code == 200
            for line in text.splitlines():
                assert re.fullmatch(r'# (HELP|TYPE) libstream_\w+ .+|libstream_\w+(\{node="[^"]+",role="\w+"\})? [\d.e+-]+', line), line
            assert 'libstream_frames_total{node="router",role="router"} 48' in text
            assert "libstream_consumers 2" in text
            assert ask(server.url, "/")[0] == 404
            assert ask(server.url, "/health", "POST")[0] in (400, 501)
        finally:
            server.close()


def test_nobody_answers() -> None:
    with pytest.raises(OSError, match="gives no health"):
        health.fetch("http://127.0.0.1:9", timeout_s=0.5)
    with pytest.raises(UsageError, match="http://"):
        health.fetch("tcp://127.0.0.1:9880")
    with pytest.raises(UsageError, match="HOST:PORT"):
        HealthServer("nowhere", dict)


def test_a_name_cannot_break_a_metric(tmp_path: Path) -> None:
    node = {"name": 'a"b\nc\\', "role": "consumer", "frames": 1, "bytes": 1, "frames_per_s": 0.0, "bytes_per_s": 0.0, "fill": 0.0,
            "ring_bytes": 1, "blocks": 0, "seen_s": 0.0, "state": "idle", "last_error": "", "host": "", "pid": 1}  # fmt: skip
    lines = health.prometheus(health.of_consumer(node)).splitlines()
    assert r'libstream_frames_total{node="a\"b\nc\\",role="consumer"} 1' in lines
