"""A server of its own process, measurements for it, and a browser's page that watches what goes wrong."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

import libstream as ls
from libstream.cli._mib import MibWriter

TOKEN = "browser-test-token-0123456789"
SCAN, FRAME = (20, 24), (64, 64)
CENTRE, RADIUS = (30.5, 33.0), 9.0
SCAN_VIEW = "[...libstream.regions.places][0].tile.view"
"""The view of the first scan image, as an expression."""


def pattern() -> np.ndarray[Any, Any]:
    """Frames (20, 24, 64, 64): a bright disk, and a ring around it whose brightness depends on the position."""
    rng = np.random.default_rng(3)
    r = np.hypot(*(np.indices(FRAME) - np.array(CENTRE)[:, None, None]))
    y, x = np.indices(SCAN)
    ring = 8 * np.exp(-(((r - 20) / 4) ** 2))
    rate = 1.0 + 30.0 * (r < RADIUS) + ring * (1 + 0.7 * np.sin(y / 3) * np.cos(x / 4))[..., None, None]
    return rng.poisson(rate).astype(np.uint16)


def expected(server: Serve, params: dict[str, Any], **more: Any) -> np.ndarray[Any, Any]:
    """What `ls.run` makes of these parameters."""
    source = ls.open(server.folder / "data" / "scan.mib")
    given = {k: v for k, v in params.items() if v is not None and k != "mask"}
    from libstream.udfs.virtual import VirtualDetector

    return np.asarray(ls.run(source, {"a": VirtualDetector(**given)}, **more)["a"]["intensity"])


def write_mib(path: Path, frames: np.ndarray[Any, Any]) -> None:
    """A scan as a Merlin file, with its .hdr."""
    with MibWriter(path, frames.shape[:2], frames.shape[2:]) as out:
        for frame in frames.reshape(-1, *frames.shape[2:]):
            out.write(frame)


class Serve:
    """`libstream serve` in a process of its own."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder, self.args, self.port = folder, args, 0
        (folder / "token").write_text(TOKEN)
        (folder / "detectors.toml").touch()
        self.start()

    def start(self) -> None:
        """Start, on the port it had before; waits for the link."""
        command = [
            sys.executable,
            "-m",
            "libstream",
            "serve",
            "--no-browser",
            "--port",
            str(self.port),
            "--token-file",
            "token",
            "-o",
            "out",
        ]
        env = {**os.environ, "LIBSTREAM_STATE_DIR": str(self.folder / "state"), "LIBSTREAM_DETECTORS": str(self.folder / "detectors.toml")}
        self.process = subprocess.Popen(
            [*command, *self.args], cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.link = self.process.stdout.readline().strip()
        found = re.match(r"http://127\.0\.0\.1:(\d+)/", self.link)
        assert found, self.process.stderr.read()
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()

    def ask(self, path: str, data: Any = None, *, headers: dict[str, str] | None = None, token: str | None = TOKEN) -> bytes:
        """One request (POST where there are data)."""
        head = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        body = None if data is None else json.dumps(data).encode()
        if body is not None:
            head["Content-Type"] = "application/json"
        with urllib.request.urlopen(urllib.request.Request(self.url + path, body, head), timeout=30) as answer:
            return bytes(answer.read())

    def command(self, name: str, **args: Any) -> Any:
        """A command, as a script gives it; what it says, None where it was refused (nothing open)."""
        try:
            return json.loads(self.ask(f"api/cmd/{name}", args))["result"]
        except urllib.error.HTTPError as exc:
            with exc:
                return None

    def status(self) -> dict[str, Any]:
        """State and stat."""
        return dict(json.loads(self.ask("api/status")))

    def result(self, analysis: str, output: str) -> np.ndarray[Any, Any]:
        """A result as an array."""
        return np.asarray(np.load(io.BytesIO(self.ask(f"api/results/{analysis}/{output}.npy"))))

    def refused(self, path: str, **more: Any) -> int:
        """The status of a request that fails."""
        try:
            self.ask(path, **more)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code
        raise AssertionError(f"{path} was answered")


class Window:
    """One page with its own session; keeps what went wrong in it."""

    def __init__(self, browser: Any, serve: Serve, shots: Path, *, width: int = 1280, height: int = 800) -> None:
        self.serve, self.shots = serve, shots
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.wrong: list[str] = []
        self.hosts: set[str] = set()
        self.allowed: list[str] = []
        self.clicks = 0
        self.began: float | None = None
        self.closed = False
        self.page.on(
            "console",
            lambda m: self.wrong.append(f"{m.type}: {m.text} ({m.location.get('url', '')})") if m.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda e: self.wrong.append(f"{e}\n{e.stack}"))
        self.page.on("request", lambda r: self.hosts.add(urlparse(r.url).netloc) if r.url.startswith(("http", "ws")) else None)

    def open(self) -> Window:
        """Go in by the link; waits until the state is there."""
        self.page.goto(self.serve.link)
        self.page.wait_for_url(self.serve.url)  # the link leads there, without the token
        self.until("window.libstream?.store.state && window.libstream.udfList.size > 0")
        return self

    def in_control(self) -> Window:
        """Take control from whoever has it."""
        self.js("libstream.do('take_control')")
        self.until("libstream.store.mayChange")
        return self

    def close(self) -> None:
        """Close it, and complain about everything that went wrong: errors, violated policies, requests to other hosts."""
        if self.closed:
            return
        self.closed = True
        self.context.close()
        wrong = [w for w in self.wrong if not any(a in w for a in self.allowed)]
        assert not wrong, wrong
        assert self.hosts <= {f"127.0.0.1:{self.serve.port}"}, self.hosts

    def shot(self, name: str) -> None:
        """A picture of what is shown, for people to look at."""
        self.shots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.shots / f"{name}.png")

    def scenario(self, name: str) -> None:
        """Write down how many clicks and seconds it took from the first click to here, beside the pictures."""
        assert self.began is not None
        self.shots.mkdir(parents=True, exist_ok=True)
        with (self.shots / "scenarios.txt").open("a", encoding="utf-8") as file:
            file.write(f"{name}: {self.clicks} clicks, {time.monotonic() - self.began:.1f} s\n")

    # -- what tests do often ----------------------------------------------------------------------------------------------

    def click(self, role: str, name: str | re.Pattern[str], *, exact: bool = True, double: bool = False) -> None:
        """Click, and count it."""
        self.clicks += 1
        self.began = self.began or time.monotonic()
        found = self.page.get_by_role(role, name=name, exact=exact).first
        found.dblclick() if double else found.click()

    def state(self) -> dict[str, Any]:
        """The state as the page knows it."""
        return dict(json.loads(self.page.evaluate("JSON.stringify(libstream.store.state)")))

    def js(self, expression: str) -> Any:
        """The value of an expression."""
        return self.page.evaluate(expression)

    def until(self, expression: str, timeout_s: float = 30.0) -> None:
        """Wait until an expression is true in the page. (Playwright's own waiting evaluates text, which the page's policy forbids.)"""
        end = time.monotonic() + timeout_s
        while not self.page.evaluate(f"() => Boolean({expression})"):
            assert time.monotonic() < end, f"not true within {timeout_s} s: {expression}"
            self.page.wait_for_timeout(30)

    def settled(self) -> None:
        """Wait until everything that was asked for was computed and shown."""
        self.until(
            "libstream.store.state.run.state !== 'running' && Object.values(libstream.store.state.analyses).every("
            "a => a.shown_gen >= a.gen && a.state !== 'idle') && libstream.store.drafts.size === 0",
            90.0,  # kernels may have to be compiled first
        )

    def array(self, topic: str) -> np.ndarray[Any, Any]:
        """The exact values of a topic as the page has them."""
        self.until(f"libstream.link.array({topic!r})?.header?.exact")
        held = self.js(
            f"(() => {{ const a = libstream.link.array({topic!r}); return [a.shape, Array.from(a.values, v => v === v ? v : null)] }})()"
        )
        return np.array([np.nan if v is None else v for v in held[1]], float).reshape(held[0])

    def open_file(self, name: str) -> None:
        """Through the dialog, by double click."""
        self.click("button", "File…")
        self.page.get_by_role("dialog", name="Open a file").wait_for()
        self.clicks += 1
        self.page.get_by_role("option", name=re.compile(f"^{re.escape(name)}")).dblclick()
        self.until("libstream.store.source?.sig && libstream.store.source.state === 'ready'")
        self.page.get_by_role("dialog").wait_for(state="detached")

    def knob(self, name: str) -> Any:
        """A handle, by its accessible name."""
        return self.page.get_by_role("slider", name=name, exact=True).first

    def point(self, view: str, y: float, x: float) -> tuple[float, float]:
        """Where a point of an image is in the window: (x, y). view: expression for an ImageView."""
        text = f"const b = {view}.root.getBoundingClientRect(), p = {view}.toScreen({y}, {x}); return [b.left + p[1], b.top + p[0]]"
        found = self.js(f"(() => {{ {text} }})()")
        return float(found[0]), float(found[1])

    def draw(self, view: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag from one point (y, x) of an image to another."""
        mouse = self.page.mouse
        mouse.move(*self.point(view, *start))
        mouse.down()
        mouse.move(*self.point(view, *end), steps=4)
        mouse.up()

    def drag(self, knob: Any, dx: float, dy: float, steps: int = 6) -> None:
        """Drag a handle by so many pixels of the screen."""
        box = knob.locator(".body").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        mouse = self.page.mouse
        mouse.move(x, y)
        mouse.down()
        mouse.move(x + dx, y + dy, steps=steps)
        mouse.up()


def wait_for(what: Any, timeout_s: float = 20.0) -> Any:
    """Call `what` until it gives something true; its value."""
    end = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found
