"""A server for a test, on a free port, with a scan to open."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse

from libstream.jobs.catalog import Catalog
from libstream.jobs.keep import Keep
from libstream.jobs.session import Session
from libstream.web_gui.server import Options, Server
from tests.web.client import TOKEN, Page

FRAMES = np.random.default_rng(2).poisson(5, (16, 20, 24, 24)).astype(np.uint16)


class Served:
    """A running server and its address."""

    def __init__(self, server: Server, link: str, folder: Path) -> None:
        self.server, self.session, self.link, self.folder = server, server.session, link, folder
        self.url = f"{server.scheme}://127.0.0.1:{server.port}"
        self.scan = str(folder / "scan.npy")

    async def ask(self, path: str, method: str = "GET", *, token: str | None = TOKEN, json: Any = None, **more: Any) -> HTTPResponse:
        """One request; errors are answers, too."""
        from json import dumps

        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if json is not None:
            headers.setdefault("Content-Type", "application/json")
            more["body"] = dumps(json)
        elif method in ("POST", "PUT", "PATCH"):
            more.setdefault("body", "")
        request = HTTPRequest(self.url + path, method, headers=headers, follow_redirects=False, allow_nonstandard_methods=True, **more)
        return await AsyncHTTPClient().fetch(request, raise_error=False)


@contextlib.asynccontextmanager
async def served(folder: Path, **options: Any) -> AsyncIterator[Served]:
    """A server whose root is `folder`, with scan.npy in it (FRAMES)."""
    folder.mkdir(exist_ok=True)
    if not (folder / "scan.npy").exists():
        np.save(folder / "scan.npy", FRAMES)
    own = options.pop("own", None)
    session = Session(catalog=Catalog(own), keep=Keep(folder.parent / "state"), out=folder.parent / "out")
    server = Server(session, Options(**{"token": TOKEN, "roots": (folder,), "own_udfs": own, **options}))
    link = await server.start()
    try:
        yield Served(server, link, folder)
    finally:
        ended = await server.stop()
        while Page.opened:
            await Page.opened.pop().close()
        assert ended
        AsyncHTTPClient().close()
