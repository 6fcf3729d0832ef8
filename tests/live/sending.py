"""A detector that sends from a thread of the test, over real sockets."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import libstream as ls
from libstream.live.replay import replay

PROTOCOLS = {
    "dectris-v1": ("dectris://127.0.0.1:{port}", "dectris://127.0.0.1:{port}"),
    "dectris-v2": ("dectris://127.0.0.1:{port}?version=2", "dectris://127.0.0.1:{port}"),
    "merlin": ("merlin://127.0.0.1:{port}", "merlin://127.0.0.1:{port}"),
    "own": ("libstream://127.0.0.1:{port}", "libstream://127.0.0.1:{port}"),
    "sectors": ("sectors://127.0.0.1:{ports}?info={info}", "sectors://127.0.0.1:{ports}?info={info}"),
}
"""Addresses of the sending and of the receiving side."""
BINDS = {"dectris-v1", "dectris-v2", "merlin"}
"""Protocols in which the detector binds."""


class Sender:
    """A replay in a thread. account: what was done, after `join`."""

    def __init__(self, source: Any, url: str, options: dict[str, Any]) -> None:
        self.account: Any = None
        self.error: BaseException | None = None
        self.cancel = threading.Event()
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._send, args=(source, url, options), name="test-sender", daemon=True)
        self.address = ""
        self._thread.start()

    def _send(self, source: Any, url: str, options: dict[str, Any]) -> None:
        try:
            self.account = replay(source, url, cancel=self.cancel, patience_s=30, opened=self._open, **options)
        except BaseException as exc:  # raised again in `join`
            self.error = exc
            self._opened.set()

    def _open(self, address: str) -> None:
        self.address = address
        self._opened.set()

    def wait_open(self) -> None:
        """Until the sockets are there."""
        assert self._opened.wait(20)
        if self.error is not None:
            raise self.error

    def join(self) -> Any:
        """Wait for its end; its account."""
        self._thread.join(30)
        assert not self._thread.is_alive(), "the sender hangs"
        if self.error is not None:
            raise self.error
        return self.account

    def stop(self) -> None:
        """End at once."""
        self.cancel.set()
        self._thread.join(30)


def free_ports(n: int) -> list[int]:
    """Ports in a row that nobody uses just now."""
    import socket

    for first in range(20000 + (id(n) * 7919 + threading.get_ident()) % 20000, 60000, n):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + n):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return list(range(first, first + n))
    raise OSError("no free ports")


@contextlib.contextmanager
def detector(protocol: str, source: Any, *, live: dict[str, Any] | None = None, **options: Any) -> Iterator[tuple[ls.LiveSource, Sender]]:
    """A live source connected to a sender of `source`. options: of `replay`; live: of `ls.connect`."""
    ports = free_ports(5)
    words = {"port": ports[0], "ports": f"{ports[0]}-{ports[3]}", "info": ports[4]}
    send, receive = (text.format(**words) for text in PROTOCOLS[protocol])
    given = {"ring_bytes": (64 if protocol != "sectors" else 512) << 20, **(live or {})}
    with contextlib.ExitStack() as stack:
        if protocol in BINDS:
            sender = Sender(source, send, options)
            stack.callback(sender.stop)
            sender.wait_open()
            source_ = stack.enter_context(ls.connect(receive, **given))
        else:
            source_ = stack.enter_context(ls.connect(receive, **given))
            sender = Sender(source, send, options)
            stack.callback(sender.stop)
        yield source_, sender
