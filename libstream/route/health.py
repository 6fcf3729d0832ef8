"""How a router and its consumers are: one dictionary, served as JSON and for Prometheus. Its shape: docs/reference/router.md."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.request import urlopen

from libstream.errors import UsageError

if TYPE_CHECKING:
    from libstream.route.hub import Hub

VERSION = 1
TIMEOUT_S = 2.0
_NODE = {
    "libstream_frames_total": ("counter", "frames", "Frames received (router) or processed (consumer)."),
    "libstream_bytes_total": ("counter", "bytes", "Bytes of frames as they came."),
    "libstream_frames_per_second": ("gauge", "frames_per_s", "The same over the last second."),
    "libstream_bytes_per_second": ("gauge", "bytes_per_s", "The same over the last second."),
    "libstream_fill_ratio": ("gauge", "fill", "Part of the memory for frames that is in use."),
    "libstream_ring_bytes": ("gauge", "ring_bytes", "Memory for frames."),
    "libstream_blocks": ("gauge", "blocks", "Blocks that are held."),
    "libstream_seen_seconds": ("gauge", "seen_s", "Seconds since it was last heard."),
}
_WHOLE = {
    "libstream_blocks_given_total": ("counter", "blocks_given", "Blocks dealt out."),
    "libstream_blocks_kept": ("gauge", "blocks_kept", "Blocks that wait for their merge."),
    "libstream_blocks_again_total": ("counter", "blocks_again", "Blocks dealt out once more."),
    "libstream_consumers": ("gauge", "consumers", "Consumers that are connected."),
    "libstream_consumers_lost_total": ("counter", "consumers_lost", "Consumers that were given up."),
}


def of_hub(hub: Hub, now: float) -> dict[str, Any]:
    """The dictionary of a router. Called by its thread."""
    serving = hub.serving
    newest = next(reversed(serving.runs.values()), None)
    problems = [*(p for s in hub.sources for p in s.problems), *hub.problems]
    return {
        "v": VERSION,
        "state": hub.sources[0].state,
        "address": hub.address,
        "clients": len(serving.clients),
        "run": None if newest is None else str(newest.run),
        "announced": 0 if newest is None else newest.meta.shape.n_positions,
        "arrived": 0 if newest is None else newest.n_arrived,
        "blocks_given": serving.n_given,
        "blocks_kept": sum(len(p.kept) for p in serving.passes),
        "blocks_again": serving.n_again,
        "consumers": len(hub.sessions),
        "consumers_lost": hub.n_lost,
        "problems": [p[:2000] for p in problems[-50:]],
        "nodes": hub.nodes(now),
    }


def of_consumer(node: Mapping[str, Any]) -> dict[str, Any]:
    """The dictionary of a consumer alone."""
    return {
        "v": VERSION, "state": node["state"], "address": "", "clients": 0, "run": None, "announced": 0, "arrived": 0, "blocks_given": 0,
        "blocks_kept": 0, "blocks_again": 0, "consumers": 1, "consumers_lost": 0,
        "problems": [node["last_error"]] if node["last_error"] else [], "nodes": [dict(node)],
    }  # fmt: skip


def prometheus(health: Mapping[str, Any]) -> str:
    """The dictionary in Prometheus' text format, version 0.0.4."""
    lines = ["# HELP libstream_up It answers.", "# TYPE libstream_up gauge", "libstream_up 1"]
    for name, (kind, key, text) in _WHOLE.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {health[key]}"]
    for name, (kind, key, text) in _NODE.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for node in health["nodes"]:
            lines.append(f'{name}{{node="{_label(node["name"])}",role="{node["role"]}"}} {node[key]}')
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def fetch(url: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """The dictionary of the router or consumer at `url`, such as "http://127.0.0.1:9881". Raises OSError where nobody answers."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is no address of a health port; one looks like http://127.0.0.1:9881")
    where = url.rstrip("/")
    try:
        with urlopen(where if where.endswith("/health") else f"{where}/health", timeout=timeout_s) as reply:
            found = json.loads(reply.read(16 << 20))
    except (URLError, ValueError) as exc:
        raise OSError(f"{url} gives no health of a router ({exc}); is `libstream route --health` running there?") from None
    if not isinstance(found, dict) or not isinstance(found.get("nodes"), list):
        raise OSError(f"{url} answers, but not with the health of a router")
    return found


class HealthServer:
    """Serves the dictionary at `GET /health` and `GET /metrics`. address: "127.0.0.1:9881", port 0 for a free one. Raises OSError."""

    def __init__(self, address: str, health: Callable[[], Mapping[str, Any]]) -> None:
        host, port = _where(address)

        class Handler(BaseHTTPRequestHandler):
            """Answers one request."""

            timeout = 10
            server_version, sys_version = "libstream", ""

            def do_GET(self) -> None:
                """/health and /metrics."""
                path = self.path.partition("?")[0]
                if path == "/health":
                    self._answer(200, "application/json", json.dumps(health()))
                elif path == "/metrics":
                    self._answer(200, "text/plain; version=0.0.4; charset=utf-8", prometheus(health()))
                else:
                    self._answer(404, "text/plain; charset=utf-8", "there are /health and /metrics\n")

            def _answer(self, code: int, kind: str, text: str) -> None:
                body = text.encode()
                with contextlib.suppress(OSError):  # who asked has gone
                    self.send_response(code)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.send_header("X-Content-Type-Options", "nosniff")
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            """One thread for each request, at most a few at once matter."""

            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Say nothing: a stranger's broken connection is not ours to report."""

        try:
            self._server = Server((host, port), Handler)
        except OSError as exc:
            raise OSError(exc.errno, f"cannot serve health at {host}:{port}: {exc.strerror}; take another --health, or none") from None
        at = self._server.server_address
        self.url = f"http://{at[0]!s}:{at[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="libstream-health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


def _where(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--health {address!r}: expected PORT or HOST:PORT, such as 9881 or 127.0.0.1:9881")
    return host or "127.0.0.1", int(port)
