"""A detector for the page, in libstream's own protocol at a steady rate. `python -m tests.bench.gui_feed URL SIDE PER_MESSAGE HZ`

The scan has SIDE x SIDE positions with frames of 128 x 128 uint16; HZ messages of PER_MESSAGE frames a second, run after run, until
stdin ends.
"""

from __future__ import annotations

import sys
import threading
import time

import cbor2
import numpy as np
import zmq

FRAME = (128, 128)


def frames() -> list[bytes]:
    """64 frames: a disk that wanders, and noise."""
    rng = np.random.default_rng(1)
    y, x = np.indices(FRAME)
    out = []
    for k in range(64):
        r = np.hypot(y - 63.5 - 4 * np.sin(k / 10), x - 63.5 - 4 * np.cos(k / 10))
        out.append(rng.poisson(0.5 + 20 * (r < 18) + 6 * np.exp(-(((r - 40) / 6) ** 2)) * (1 + np.sin(k / 5))).astype("<u2").tobytes())
    return out


def main() -> None:
    """Send until stdin ends."""
    url, side, per, hz = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    given, n = frames(), side * side
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(url)
        run, due = 0, time.monotonic()
        while not over.is_set():
            run += 1
            start = {"v": 1, "type": "start", "run": run, "n_frames": n, "scan": [side, side], "frame": list(FRAME), "dtype": "uint16"}
            _send(socket, over, [cbor2.dumps(start)])
            for first in range(0, n, per):
                numbers = list(range(first, min(n, first + per)))
                head = cbor2.dumps({"type": "frames", "run": run, "number": numbers, "codec": "raw<"})
                # what varies from row to row is a jump in the list of frames, so that maps are no stripes
                body = [given[(i * 7 + (i // side) * 3 + i // 5000) % len(given)] for i in numbers]
                if over.wait(max(0.0, due - time.monotonic())) or not _send(socket, over, [head, *body]):
                    return
                due = max(due + 1 / hz, time.monotonic() - 1.0)
            _send(socket, over, [cbor2.dumps({"type": "end", "run": run, "n_parts": n})])


def _send(socket: zmq.Socket[bytes], over: threading.Event, parts: list[bytes]) -> bool:
    """False where nobody takes it before the end."""
    while not over.is_set():
        try:
            socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
            return True
        except zmq.Again:
            time.sleep(0.002)
    return False


if __name__ == "__main__":
    main()
