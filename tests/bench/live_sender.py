"""A detector for the live benchmark: messages made beforehand, sent by plain pyzmq. `python -m tests.bench.live_sender KIND FRAMES`

KIND: v1 (DECTRIS, 256 x 256 uint16 of few counts, bitshuffle-LZ4, bound) or sectors (4D Camera, 576 x 576, connects; ports in
LIBSTREAM_BENCH_PORTS). Says its ports first; then each line on stdin, "RATE" (frames/s, 0 = as fast as they are taken), sends one run and
is answered with the seconds it took and the file of the times at which each frame was handed over (monotonic clock, ns).
"""

from __future__ import annotations

import http.server
import json
import os
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np
import zmq

from libstream import registry
from libstream.contracts.stream import StreamUrl
from libstream.model.shape import DataShape
from libstream.model.source import SourceId, SourceMeta

_API = {"x_pixels_in_detector": 256, "y_pixels_in_detector": 256, "bit_depth_image": 16, "bit_depth_readout": 16}


def frames_of(kind: str) -> Any:
    """Different frames of a kind, (n, y, x)."""
    rng = np.random.default_rng(2)
    return rng.poisson(0.3, (64, 256, 256)).astype(np.uint16) if kind == "v1" else rng.poisson(0.3, (16, 576, 576)).astype(np.uint16)


class Api(http.server.BaseHTTPRequestHandler):
    """As much of a control unit as a peer asks for."""

    def do_GET(self) -> None:
        """Value of a setting."""
        name = self.path.rstrip("/").rpartition("/")[2]
        self._say({"value": _API.get(name, 0), "value_type": "int", "access_mode": "r"})

    def do_PUT(self) -> None:
        """Settings are taken."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._say([])

    def _say(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Silence."""


def main() -> None:
    """Send until stdin ends."""
    kind, n = sys.argv[1], int(sys.argv[2])
    context = zmq.Context()
    sockets = []
    said: dict[str, Any] = {}
    if kind == "v1":
        socket = context.socket(zmq.PUSH)
        said["port"] = socket.bind_to_random_port("tcp://127.0.0.1")
        sockets.append(socket)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said["api"] = server.server_address[1]
        url = f"dectris://127.0.0.1:{said['port']}?encoding=bs16-lz4<&hash=0"
    else:
        ports = [int(p) for p in os.environ["LIBSTREAM_BENCH_PORTS"].split(",")]
        for port in ports:
            socket = context.socket(zmq.PUSH)
            socket.connect(f"tcp://127.0.0.1:{port}")
            sockets.append(socket)
        url = f"sectors://127.0.0.1:{ports[0]}-{ports[-2]}?info={ports[-1]}"
    given = frames_of(kind)
    shape = (n // 64, 64) if n % 64 == 0 else (n,)
    meta = SourceMeta(SourceId("bench", "bench", 0), DataShape(shape, given.shape[1:]), given.dtype)
    _, encoder = registry.load("detectors", StreamUrl.parse(url).scheme)().sender(StreamUrl.parse(url))
    print(json.dumps(said), flush=True)
    for run, line in enumerate(sys.stdin, 1):
        rate = float(line)
        begin = [_ready(o) for o in encoder.begin(meta, run)]
        body = _messages(encoder, given, n)
        end = [_ready(o) for o in encoder.end()]
        sent = np.zeros(n, np.int64)
        began = time.monotonic()
        for lane, parts in begin:
            sockets[lane].send_multipart(parts)
        for i, frame in enumerate(body):
            if rate:
                wait = began + i / rate - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
            sent[i] = time.monotonic_ns()
            for lane, parts in frame:
                sockets[lane].send_multipart(parts, copy=False)
        for lane, parts in end:
            sockets[lane].send_multipart(parts)
        with tempfile.NamedTemporaryFile(delete=False, suffix=".npy") as file:
            np.save(file, sent)
        print(json.dumps({"seconds": time.monotonic() - began, "sent": file.name}), flush=True)
    for socket in sockets:
        socket.close(0)
    context.term()


def _ready(out: Any) -> tuple[int, list[bytes]]:
    return out.lane, [bytes(p) for p in out.parts]


def _messages(encoder: Any, given: Any, n: int) -> list[list[tuple[int, list[Any]]]]:
    """Messages of n frames; the pixels of equal frames are one object."""
    blobs: dict[bytes, bytes] = {}
    out = []
    for i in range(n):
        frame = [_ready(o) for o in encoder.frame(i, {"frames": given[i % len(given)]})]
        out.append([(lane, [blobs.setdefault(p, p) if len(p) > 1000 else p for p in parts]) for lane, parts in frame])
    return out


if __name__ == "__main__":
    main()
