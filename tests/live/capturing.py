"""Recordings of tests: frames for a protocol, a recorder in a thread, a run that is recorded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from libstream.live.capture import Capture, record
from tests.live.sending import BINDS, PROTOCOLS, Sender, free_ports

SCAN = (6, 7)


def frames_for(protocol: str) -> np.ndarray:
    """A data set that the protocol can carry, every frame another one."""
    y, x = (576, 576) if protocol == "sectors" else (256, 256) if protocol == "merlin" else (48, 64)
    out = np.random.default_rng(5).poisson(0.4, (1, y, x)).astype(np.uint16).repeat(42, axis=0)
    out[:, 0, 0] = np.arange(42)
    return out.reshape(*SCAN, y, x)


@contextlib.contextmanager
def recording(url: str, folder: Path, **how: Any) -> Iterator[Callable[[], Capture]]:
    """Records in a thread; gives a function that waits for the end."""
    box: list[Capture] = []
    failed: list[BaseException] = []
    opened = threading.Event()
    cancel = how.setdefault("cancel", threading.Event())

    def body() -> None:
        try:
            box.append(record(url, folder, opened=lambda where: opened.set(), reserve_bytes=0, **how))
        except BaseException as exc:
            failed.append(exc)
            opened.set()

    def wait() -> Capture:
        thread.join(30)
        assert not thread.is_alive(), "the recording hangs"
        if failed:
            raise failed[0]
        return box[0]

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        assert opened.wait(20)
        yield wait
    finally:
        cancel.set()
        thread.join(30)


def record_run(protocol: str, source: Any, folder: Path, *, count: int = 1, **faults: Any) -> tuple[Capture, Any]:
    """Record a replay of `source`; (what was recorded, what was sent)."""
    ports = free_ports(5)
    words = {"port": ports[0], "ports": f"{ports[0]}-{ports[3]}", "info": ports[4]}
    send, receive = (text.format(**words) for text in PROTOCOLS[protocol])
    how: dict[str, Any] = {"count": count, "stall_timeout_s": 1.0}
    if protocol in BINDS:
        sender = Sender(source, send, faults)
        try:
            sender.wait_open()
            with recording(receive, folder, **how) as wait:
                return wait(), sender.join()
        finally:
            sender.stop()
    with recording(receive, folder, **how) as wait:
        sender = Sender(source, send, faults)
        try:
            return wait(), sender.join()
        finally:
            sender.stop()
