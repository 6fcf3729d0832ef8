"""The server: one process, one event loop, nothing heavy on it. Imported only when a server is started."""

from __future__ import annotations

import asyncio
import platform
import re
import ssl
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tornado.httpserver
import tornado.netutil
import tornado.web

from libstream.errors import LibstreamError, UsageError
from libstream.jobs.session import Session
from libstream.web_gui import requests
from libstream.web_gui.auth import LOOPBACK, Auth, Control, Names
from libstream.web_gui.browse import Roots
from libstream.web_gui.commands import Context
from libstream.web_gui.state import SharedState
from libstream.web_gui.topics import Hub
from libstream.web_gui.viewer import Viewer

MAX_BODY = 16 << 20
THREADS = 8
STATE_S = 0.04
"""Least time between two patches of the state: a detector that is dragged changes it at every move."""
STAT_S = 0.25
LAG_S = 0.05
SWITCH_S = 0.001


@dataclass(frozen=True)
class Options:
    """How a server is started. port 0: any free one. host: where it listens."""

    token: str
    host: str = "127.0.0.1"
    port: int = 0
    roots: tuple[Path, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    certfile: Path | None = None
    keyfile: Path | None = None
    own_udfs: Path | None = None
    version: str = ""
    threads: int = 0


class Server:
    """Everything that handlers share. Used by the event loop, except `wake`."""

    def __init__(self, session: Session, options: Options) -> None:
        self.options, self.session = options, session
        self.auth = Auth(options.token)
        self.scheme = "https" if options.certfile is not None else "http"
        self.names = Names(known_names(options), self.scheme, options.allow_hosts)
        self.any_address = not is_loopback(options.host)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="libstream-web")
        self.roots, self.control = Roots(options.roots or (Path.cwd(),)), Control()
        self.hub = Hub(session, self.pool, self.wake)
        self.context = Context(session, self.hub, self.roots, self.control)
        self.state = SharedState()
        self.viewers: dict[Viewer, None] = {}
        self.clients: dict[str, tuple[str, str, int]] = {}
        self.lag_s = 0.0
        self.started = time.time_ns() // 1_000_000
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._http: tornado.httpserver.HTTPServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._woken = False
        self._wake_lock = threading.Lock()
        self._looked = 0.0
        self._later: asyncio.TimerHandle | None = None
        self.making: dict[tuple[Any, ...], asyncio.Future[bytes]] = {}  # messages that a thread is making just now
        self._count = 0
        self._wanted: set[tuple[str, str | None]] = set()
        self._stopped = False

    # -- life ----------------------------------------------------------------------------------------------------------

    def application(self) -> tornado.web.Application:
        """Routes and settings."""
        return tornado.web.Application(
            [(r"/ws", Viewer, {"server": self}), *requests.routes(self)],
            websocket_max_message_size=MAX_BODY, compress_response=False, serve_traceback=False, log_function=lambda handler: None,
        )  # fmt: skip

    def attach(self) -> None:
        """Begin to look at the session; on the event loop."""
        self._loop = asyncio.get_running_loop()
        self.session.listen(self.wake)
        self._tasks = [asyncio.create_task(self._stats()), asyncio.create_task(self._lag())]
        self._look()

    async def start(self) -> str:
        """Listen; returns the link with the token. Raises OSError where the port is taken, UsageError for a bad certificate."""
        options = self.options
        tls = None
        if options.certfile is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            try:
                tls.load_cert_chain(options.certfile, options.keyfile)
            except (OSError, ssl.SSLError) as exc:
                raise UsageError(f"--certfile {options.certfile}, --keyfile {options.keyfile}: {exc}") from exc
        try:
            sockets = tornado.netutil.bind_sockets(options.port, options.host)
        except OSError as exc:
            raise OSError(f"cannot listen on {options.host}, port {options.port}: {exc.strerror or exc}") from exc
        self.port = sockets[0].getsockname()[1]
        self._http = tornado.httpserver.HTTPServer(
            self.application(), ssl_options=tls, max_body_size=MAX_BODY, max_header_size=64 << 10, idle_connection_timeout=120,
        )  # fmt: skip
        self._http.add_sockets(sockets)
        self.attach()
        host = options.host if not self.any_address or ":" in options.host or options.host not in ("", "0.0.0.0") else platform.node()
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/?token={options.token}"

    async def stop(self) -> bool:
        """End everything; False where a UDF could not be stopped."""
        if self._stopped:
            return True
        self._stopped = True
        if self._http is not None:
            self._http.stop()
        for viewer in list(self.viewers):
            viewer.say_bye("shutdown")
        for _ in range(20):  # until they were told; those that do not read are not waited for
            if not self.viewers:
                break
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        if self._later is not None:
            self._later.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="libstream-web-end") as closer:  # threads of the pool may wait for the session
            ended = await loop.run_in_executor(closer, self.session.close)
        if self._http is not None:
            await asyncio.wait_for(self._http.close_all_connections(), 2.0)
        self._loop = None
        self.pool.shutdown(wait=True, cancel_futures=True)
        return bool(ended)

    # -- looking at the session ----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something changed; from any thread."""
        with self._wake_lock:
            loop = self._loop
            if self._woken or loop is None:
                return
            self._woken = True
        try:
            loop.call_soon_threadsafe(self._look)
        except RuntimeError:  # the loop has just been closed
            return

    def _look(self) -> None:
        with self._wake_lock:
            self._woken = False
        now = time.monotonic()
        if now - self._looked >= STATE_S:
            self._looked = now
            self.refresh()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(STATE_S, self._look_later)
        for viewer in self.viewers:
            viewer.poke()

    def _look_later(self) -> None:
        self._later = None
        self._look()

    def refresh(self) -> None:
        """Make a new state of everything, and let the viewers know."""
        if self.state.update(self.view()):
            for viewer in self.viewers:
                viewer.poke()

    def view(self) -> dict[str, Any]:
        """The whole state."""
        o = self.options
        holder = self.clients.get(self.control.holder or "")
        viewers = {self.clients[v.client][0]: self.clients[v.client] for v in self.viewers if v.client in self.clients}
        return {
            "server": {
                "version": o.version, "host": platform.node(), "started": self.started, "roots": self.roots.json(),
                "out": str(self.session.out), "own_udfs": None if o.own_udfs is None else str(o.own_udfs), "threads": o.threads,
            },
            **self.session.view(),
            "control": None if self.control.holder is None else {
                "viewer": holder[0] if holder else "script", "name": holder[1] if holder else "a script",
                "since": holder[2] if holder else self.started,
            },
            "viewers": {k: {"id": i, "name": n, "since": t} for k, (i, n, t) in viewers.items()},
        }  # fmt: skip

    def stat(self, viewer: Viewer | None = None) -> dict[str, Any]:
        """What changes all the time."""
        link = None
        if viewer is not None:
            link = {"bytes_per_s": viewer.link.bytes_per_s, "rtt_ms": viewer.link.rtt_s * 1e3, "level": viewer.link.level}
        server = {"lag_ms": self.lag_s * 1e3, "viewers": len(self.viewers), "rss_bytes": rss_bytes()}
        return {"type": "stat", "now": time.time_ns() // 1_000_000, **self.session.progress(), "link": link, "server": server}

    # -- viewers -------------------------------------------------------------------------------------------------------

    def joined(self, viewer: Viewer, name: str | None) -> str:
        """A page said hello; returns its id. One that comes back keeps the one it had."""
        known = self.clients.get(viewer.client)
        if known is None:
            self._count += 1
            known = (f"v{self._count}", name or f"viewer {self._count}", time.time_ns() // 1_000_000)
            self.clients[viewer.client] = known
            while len(self.clients) > 1000:  # pages that were closed long ago
                here = {v.client for v in self.viewers}
                old = next((c for c in self.clients if c not in here and c != self.control.holder), None)
                if old is None:
                    break
                del self.clients[old]
        self.viewers[viewer] = None
        self.control.back(viewer.client)
        self.control.may(viewer.client)  # the first one is in control
        self.refresh()
        return known[0]

    def left(self, viewer: Viewer) -> None:
        """A page is gone."""
        if self.viewers.pop(viewer, 0) is None and all(v.client != viewer.client for v in self.viewers):
            self.control.left(viewer.client)
        self.wanted()
        if not self._stopped:
            self.refresh()

    def wanted(self) -> None:
        """Compute means and maxima that some page shows, and no others."""
        found = {
            (s.key.topic[6:], s.key.channel) for v in self.viewers for s in v.subs.values() if s.key.topic in ("frame/mean", "frame/max")
        }
        if found != self._wanted and not self._stopped:
            self._wanted = found
            self.session.want_frames(found)

    async def call(self, func: Callable[..., Any], *args: Any) -> Any:
        """Do something in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, lambda: func(*args))

    # -- clocks --------------------------------------------------------------------------------------------------------

    async def _stats(self) -> None:
        n = 0
        while True:
            await asyncio.sleep(STAT_S)
            n += 1
            if self.control.tidy():
                self.refresh()
            if n % 4 and not self.session.runner.running:
                continue
            base = self.stat() if self.viewers else {}
            for viewer in list(self.viewers):
                viewer.tick(base)

    async def _lag(self) -> None:
        """How late the loop comes: the worst of the last second."""
        worst, since = 0.0, time.monotonic()
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_S)
            now = time.monotonic()
            worst = max(worst, now - before - LAG_S)
            self.lag_s = max(self.lag_s, worst)
            if now - since >= 1.0:
                self.lag_s, worst, since = worst, 0.0, now


def is_loopback(host: str) -> bool:
    """True for addresses that only this machine reaches."""
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127\.\d+\.\d+\.\d+", host))


def known_names(options: Options) -> Iterable[str]:
    """Names under which this server may be asked for."""
    own = [] if is_loopback(options.host) else [platform.node(), options.host, f"[{options.host}]"]
    return [*LOOPBACK, *own, *([options.host] if options.host else [])]


def rss_bytes() -> int | None:
    """Memory of this process, where the system says it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return None


async def run(
    session: Session,
    options: Options,
    ready: Callable[[str], None],
    *,
    first: tuple[str, dict[str, Any]] | None,
    restore: bool,
    browser: bool,
) -> bool:
    """Serve until Ctrl-C or SIGTERM, the second of which leaves at once; False where a UDF could not be stopped.

    first: a source to open, and options for it.
    restore: open what was open last, where `first` is None. ready: called with the link.
    """
    import signal

    # a UDF in plain Python keeps the interpreter for so long before the loop gets its turn; the usual 5 ms add up, one for each worker
    sys.setswitchinterval(SWITCH_S)
    server = Server(session, options)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        link = await server.start()

        def asked() -> None:
            stop.set()
            for name in ("SIGINT", "SIGTERM"):  # whoever asks again need not wait
                loop.remove_signal_handler(getattr(signal, name))
                signal.signal(getattr(signal, name), signal.SIG_DFL)

        for name in ("SIGINT", "SIGTERM"):
            try:
                loop.add_signal_handler(getattr(signal, name), asked)
            except (NotImplementedError, RuntimeError):  # Windows: Ctrl-C raises KeyboardInterrupt
                continue
        ready(link)
        opening = first if first is not None else session.records.last() if restore else None
        if opening is not None:
            server.pool.submit(_open, server, *opening, first is not None)
        if browser:
            server.pool.submit(webbrowser.open, link)
        await stop.wait()
    finally:
        ended = await server.stop()
    return ended


def _open(server: Server, uri: str, options: dict[str, Any], asked: bool) -> None:
    session = server.session
    try:
        if not asked and "://" not in uri:
            server.roots.resolve(uri, "what was open last")
        session.open(uri, options)
    except (LibstreamError, OSError) as exc:
        session.say("error" if asked else "info", str(exc))
    except Exception as exc:  # noqa: BLE001  a thread of the pool has nobody else to tell
        session.say("error", f"{uri}: unexpected {type(exc).__name__}: {exc}")
