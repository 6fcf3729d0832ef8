"""Router, consumers and client with keys: the same result; whoever has no key, or another one, gets nothing; what cannot start says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from libstream.errors import UsageError
from libstream.io_backends.streams._zmq_route import RouteSockets
from tests import links
from tests.cluster.routing import routed
from tests.live.sending import free_ports


def keys(folder: Path, name: str) -> dict[str, str]:
    """A pair of key files."""
    from zmq.auth import create_certificates

    folder.mkdir(exist_ok=True)
    public, secret = create_certificates(str(folder), name)
    return {"public": str(public), "secret": str(secret)}


@pytest.fixture
def sides(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of the router, which lets in one client; of this client."""
    router, mine = keys(tmp_path / "router", "router"), keys(tmp_path / "me", "me")
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "me.key").write_bytes(Path(mine["public"]).read_bytes())
    return (
        {"secret": router["secret"], "clients": str(tmp_path / "clients")},
        {"secret": mine["secret"], "server": router["public"]},
    )


def test_with_the_right_keys(sides: tuple[dict[str, Any], dict[str, Any]]) -> None:
    router, mine = sides
    with routed(hub={"curve": router}, client={"curve": mine}, following=7):
        pass  # `routed` sends an acquisition and checks its result


@pytest.mark.parametrize("who", ["no keys", "keys that are not in the list", "the public key of another router"])
def test_nobody_else_gets_in(
    sides: tuple[dict[str, Any], dict[str, Any]], who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libstream.route.source.CONNECT_S", 1.0)
    router, mine = sides
    other = keys(tmp_path / "other", "other")
    given: dict[str, Any] = {
        "no keys": {},
        "keys that are not in the list": {"curve": {**mine, "secret": other["secret"]}},
        "the public key of another router": {"curve": {**mine, "server": other["public"]}},
    }[who]
    with pytest.raises(OSError, match=r"router"), routed(hub={"curve": router}, client={**given, "wait_s": 1.0}, following=None):
        pytest.fail("it was let in")


def test_what_cannot_start_says_so_and_does_not_hang(sides: tuple[dict[str, Any], dict[str, Any]]) -> None:
    port = free_ports(1)[0]
    first = RouteSockets()
    first.bind(f"tcp://127.0.0.1:{port}")
    second = RouteSockets()
    with pytest.raises(OSError, match=str(port)):
        second.bind(f"tcp://127.0.0.1:{port}", curve=sides[0])
    second.close()  # hung where a socket was left open
    first.close()


def test_a_router_whose_keys_are_missing_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "libstream", "route", "libstream://127.0.0.1:0", "--listen", "tcp://127.0.0.1:0", "--curve-secret"]
    done = subprocess.run([*command, str(tmp_path / "none")], capture_output=True, text=True, timeout=60, cwd=links.ROOT)
    assert done.returncode != 0
    assert "curve: secret is neither a key" in done.stderr
    assert UsageError.__name__ not in done.stderr, "a sentence, no traceback"
