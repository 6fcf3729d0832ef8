"""Chromium, if it is there; a server with a few measurements; windows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser.serving import Serve, Window, pattern, write_mib

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install libstream[test]")
    if not Path(CHROMIUM).is_file():
        pytest.skip("no Chromium: install Debian's package chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measurements: scan.mib (20 x 24 positions, frames of 64 x 64), and files that are none."""
    root = tmp_path_factory.mktemp("gui")
    data = root / "data"
    (data / "yesterday").mkdir(parents=True)
    write_mib(data / "scan.mib", pattern())
    frames = pattern()
    np.save(data / "yesterday" / "old.npy", frames[:12, :12])
    np.save(data / "line.npy", frames[0])
    np.save(data / "frame.npy", frames[0, 0])
    np.save(data / "series.npy", frames[:12, :5].reshape(3, 4, 5, *frames.shape[2:]))
    np.save(data / "mask.npy", np.eye(64, dtype=np.uint8))
    (data / "notes.txt").write_text("tilt 3 degrees\n")
    return root


@pytest.fixture
def serve(folder: Path, tmp_path: Path) -> Iterator[Callable[..., Serve]]:
    """Start servers; each test has its own, with the same measurements as its root."""
    started: list[Serve] = []

    def start(*args: str) -> Serve:
        (tmp_path / "data").symlink_to(folder / "data")
        started.append(Serve(tmp_path, "--root", str(folder / "data"), *args))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="package")
def server(browser: Any, folder: Path) -> Iterator[Serve]:
    """One server for tests that do not end it; `shared` empties it before each of them."""
    home = folder / "shared"
    home.mkdir()
    (home / "data").symlink_to(folder / "data")
    made = Serve(home, "--root", str(folder / "data"), "--fresh")
    yield made
    made.stop()


@pytest.fixture
def shared(server: Serve) -> Serve:
    """The server, with nothing open and no analyses."""
    for command, args in (
        ("take_control", {}),
        ("roi", {"shape": None}),
        ("corrections", {"excluded": None, "dark": None, "gain": None}),
        ("auto", {"on": True}),
        ("layout", {"layout": {}}),
    ):
        server.command(command, **args)
    for name in server.status()["state"]["order"]:
        server.command("remove", id=name)
    for pin in server.status()["state"]["pins"]:
        server.command("unpin", id=pin)
    if server.status()["state"]["source"] is not None:
        server.command("close")
    return server


@pytest.fixture
def window(browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Window]]:
    """Open windows on a server."""
    opened: list[Window] = []
    shots = Path(os.environ.get("LIBSTREAM_SHOTS") or tmp_path / "shots")

    def make(server: Serve, **size: int) -> Window:
        opened.append(Window(browser, server, shots, **size))
        return opened[-1].open()

    yield make
    failed = getattr(request.node, "failed", False)
    for w in opened:
        if failed:
            w.shot(f"failed-{request.node.name}")
        w.close()


@pytest.fixture
def adf(shared: Serve, window: Callable[..., Window]) -> Window:
    """A window with scan.mib and one ring."""
    w = window(shared).in_control()
    w.js(f"libstream.do('open', {{uri: '{shared.folder}/data/scan.mib'}})")
    w.until("libstream.store.source?.state === 'ready'")
    w.js("libstream.do('add', {udf: 'VirtualDetector', id: 'adf', title: 'Ring', params: {shape: 'annulus', inner: 12, outer: 26}})")
    w.until("libstream.store.state.order.length === 1")
    w.settled()
    return w


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember that a test failed, for the picture of it."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" and report.failed:
        item.failed = True  # type: ignore[attr-defined]
