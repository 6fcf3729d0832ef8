"""Everything that the page does, by HTTP, for scripts. Imported only by the server."""

from __future__ import annotations

import asyncio
import io
import json
import math
import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from libstream.errors import LibstreamError, UsageError
from libstream.model.ragged import Ragged
from libstream.web_gui import commands, openapi, pictures
from libstream.web_gui.gate import STATIC, Checked, Nothing, Page, Static
from libstream.web_gui.topics import Key

if TYPE_CHECKING:
    from libstream.web_gui.server import Server

SCRIPT = "script"
"""Who is in control where requests come without a page."""
STATUS = {"usage": 400, "control": 409, "failed": 422, "fault": 500}
WAIT_MOST_S = 60.0


class Missing(LibstreamError):
    """There is no such thing: 404."""


class Api(Checked):
    """A request of a script."""

    def body(self) -> dict[str, Any]:
        """The JSON object in the body. Raises UsageError."""
        if not self.request.body:
            return {}
        if not self.request.headers.get("Content-Type", "").startswith("application/json"):
            raise UsageError("bodies are JSON: send Content-Type: application/json")
        try:
            data = json.loads(self.request.body)
        except (ValueError, RecursionError) as exc:
            raise UsageError(f"the body is not JSON: {exc}") from None
        if not isinstance(data, dict):
            raise UsageError("the body is a JSON object")
        return data

    def answer(self, value: Any, status: int = 200) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(value, allow_nan=False))

    def file(self, data: bytes, kind: str, name: str) -> None:
        """Answer with a file."""
        self.set_header("Content-Type", kind)
        self.set_header("Content-Disposition", f'attachment; filename="{re.sub(r"[^A-Za-z0-9_.+-]", "_", name)}"')
        self.finish(data)

    async def do(self, name: str, args: dict[str, Any]) -> Any:
        """A command, as a script."""
        server = self.server
        if name == "take_control":
            server.control.take(SCRIPT, for_s=server.control.API_S)
            server.refresh()
            return None
        if name == "release_control":
            server.control.release(SCRIPT)
            server.refresh()
            return None
        commands.checked(name, args)
        result = await server.call(lambda: commands.run(server.context, name, args, SCRIPT, for_s=server.control.API_S))
        server.refresh()
        return result

    def _handle_request_exception(self, e: BaseException) -> None:
        if isinstance(e, (LibstreamError, OSError, commands.NotInControl)) and not self._finished:
            status = 404 if isinstance(e, Missing) else STATUS[commands.kind_of(e)]
            self.clear()
            self.set_status(status)
            self.write_error(status, exc_info=(type(e), e, None))
            return
        super()._handle_request_exception(e)


class Status(Api):
    """api/status"""

    def get(self) -> None:
        """State and what changes all the time."""
        self.server.refresh()
        self.answer({"state": self.server.state.value, "stat": self.server.stat()})


class Ask(Api):
    """api/udfs, api/formats, api/files, api/probe: commands that only look."""

    async def get(self, name: str) -> None:
        """The answer of the command."""
        args = {k: self.get_query_argument(k) for k in self.request.query_arguments}
        self.answer(await self.do(name, args))


class Cmd(Api):
    """api/cmd/<name>"""

    async def post(self, name: str) -> None:
        """Any command."""
        if name not in commands.COMMANDS and name not in ("take_control", "release_control"):
            raise Missing(f"there is no command {name!r}")
        self.answer({"result": await self.do(name, self.body())})


class Source(Api):
    """api/source"""

    def get(self) -> None:
        """What is open."""
        self.server.refresh()
        self.answer({"source": self.server.state.value["source"], "live": self.server.state.value["live"]})

    async def put(self) -> None:
        """Open."""
        await self.do("open", self.body())
        self.get()

    async def delete(self) -> None:
        """Close."""
        await self.do("close", {})
        self.get()


class Analyses(Api):
    """api/analyses"""

    def get(self) -> None:
        """All of them."""
        self.server.refresh()
        state = self.server.state.value
        self.answer({"analyses": [state["analyses"][k] for k in state["order"]]})

    async def post(self) -> None:
        """Add one."""
        found = await self.do("add", self.body())
        self.answer(self.server.state.value["analyses"][found["id"]], 201)


class Analysis(Api):
    """api/analyses/<id>"""

    def get(self, id: str) -> None:
        """One analysis."""
        self.server.refresh()
        found = self.server.state.value["analyses"].get(id)
        if found is None:
            raise Missing(f"there is no analysis {id!r}")
        self.answer(found)

    async def patch(self, id: str) -> None:
        """Change it."""
        body = self.body()
        for key, name in (("title", "rename"), ("channel", "channel"), ("params", "set")):
            if key in body:
                await self.do(name, {"id": id, key: body.pop(key)})
        if body:
            raise UsageError(f"an analysis has params, title and channel, not {', '.join(body)}")
        self.get(id)

    async def delete(self, id: str) -> None:
        """Remove it."""
        await self.do("remove", {"id": id})
        self.set_status(204)


class Run(Api):
    """api/run"""

    async def get(self) -> None:
        """How far it is; with ?wait= when it is done."""
        try:
            wait = min(WAIT_MOST_S, float(self.get_query_argument("wait", "0")))
        except ValueError:
            raise UsageError("wait is a number of seconds") from None
        server, end = self.server, time.monotonic() + (wait if math.isfinite(wait) else 0)
        while time.monotonic() < end and (server.session.runner.running or server.session.pending):
            await asyncio.sleep(0.02)
        server.refresh()
        self.answer({"run": server.state.value["run"], "stat": server.stat()})

    async def post(self) -> None:
        """Run all, or some, anew."""
        await self.do("run", self.body())
        await self.get()

    async def delete(self) -> None:
        """Stop."""
        await self.do("cancel", {})
        await self.get()


class ResultFile(Api):
    """api/results.h5"""

    async def get(self) -> None:
        """All results with provenance."""
        from libstream.jobs.saving import as_hdf5

        data = await self.server.call(lambda: as_hdf5(self.server.session.records.result()))
        self.file(data, "application/x-hdf5", "results.h5")


class ResultArray(Api):
    """api/results/<id>/<output>.npy, .npz, .png, .tif"""

    async def get(self, id: str, output: str, ending: str) -> None:
        """One result."""
        store = self.server.session.store
        held = store.get(f"a/{id}/{output}") or store.get(f"r/{id}/{output}")
        if held is None:
            raise Missing(f"there is no result {output!r} of {id!r}")
        self.set_header("X-Libstream-Gen", str(held.gen))
        self.set_header("X-Libstream-Complete", "1" if held.final and (held.seen is None or bool(held.seen.all())) else "0")
        name = f"{id}-{output}.{ending}"
        if isinstance(held.array, Ragged):
            if ending not in ("npy", "npz"):
                raise UsageError("ragged results are given as .npz")
            data = await self.server.call(_npz, held.array)
            self.file(data, "application/octet-stream", f"{id}-{output}.npz")
            return
        if ending == "npz":
            raise UsageError("arrays are given as .npy")
        array = held.array
        if held.info.planes and ending != "npy":
            plane = _number(self.get_query_argument("plane", "0"), "plane")
            if not 0 <= plane < held.info.planes:
                raise UsageError(f"there are {held.info.planes} planes")
            array = held.info.plane(array, int(plane))
        await _picture(self, array, held.seen, ending, name)


class FrameArray(Api):
    """api/frame.npy, .png, .tif"""

    async def get(self, ending: str) -> None:
        """One frame."""
        text = self.get_query_argument("at", None)
        try:
            at = None if text is None else [int(v) for v in text.split(",")]
        except ValueError:
            raise UsageError(f"at is a scan position y,x, got {text!r:.40}") from None
        channel = self.get_query_argument("channel", None)
        array = await self.server.call(self.server.session.frame, commands.position(at), channel)
        await _picture(self, array, None, ending, f"frame.{ending}")


class TopicValue(Api):
    """api/topics/<topic>.npy, .tif: what is shown under a topic, as numbers with NaN where not seen."""

    async def get(self, topic: str, ending: str) -> None:
        """Its values."""
        hub = self.server.hub
        view = hub.view(Key(topic, channel=self.get_query_argument("channel", None)))
        if view is None:
            raise Missing(f"there is nothing under {topic!r}")
        values = await self.server.call(hub.values, view)
        await _picture(self, values.array, None, ending, f"{topic.replace('/', '-')}.{ending}")


class Thumb(Api):
    """api/history/<id>/thumb.png"""

    def get(self, id: str) -> None:
        """A small grey picture."""
        entry = self.server.session.history.get(id)
        if entry is None or entry.thumb is None:
            raise Missing(f"there is no picture of {id!r}")
        self.set_header("Content-Type", "image/png")
        self.finish(pictures.grey(entry.thumb))


class OpenApi(Api):
    """api/openapi.json"""

    def get(self) -> None:
        """The description of all this."""
        self.answer(openapi.describe(self.server.options.version))


async def _picture(handler: Api, array: np.ndarray[Any, Any], seen: Any, ending: str, name: str) -> None:
    server = handler.server
    if ending == "npy":
        handler.file(await server.call(_npy, array), "application/octet-stream", name)
        return
    if array.dtype.kind == "c":
        array = np.abs(array)
    if ending in ("tif", "tiff"):
        handler.file(await server.call(pictures.tiff, array, f"libstream {name}"), "image/tiff", name)
        return
    lo, hi = (handler.get_query_argument(k, None) for k in ("lo", "hi"))
    limits: dict[str, Any] = {k: _number(v, k) for k, v in (("lo", lo), ("hi", hi)) if v is not None}
    colours = handler.get_query_argument("map", "viridis")
    data = await server.call(lambda: pictures.png(_masked(array, seen), map=colours, **limits))
    handler.set_header("Content-Type", "image/png")
    handler.finish(data)


def _masked(array: np.ndarray[Any, Any], seen: Any) -> np.ndarray[Any, Any]:
    values = array.astype(np.float64)
    if seen is not None and seen.shape == values.shape:
        values[~seen] = np.nan
    return values


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _npz(ragged: Ragged) -> bytes:
    out = io.BytesIO()
    np.savez(out, values=ragged.values, offsets=ragged.offsets, nav=np.array(ragged.nav))
    return out.getvalue()


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{what} is a number, got {text!r:.40}")
    return value


def routes(server: Server) -> list[Any]:
    """All routes but the WebSocket's."""
    s = {"server": server}
    return [
        (r"/", Page, s),
        (r"/static/(.*)", Static, {**s, "path": str(STATIC)}),
        (r"/api/status", Status, s),
        (r"/api/(udfs|formats|files|probe)", Ask, s),
        (r"/api/cmd/([a-z_]+)", Cmd, s),
        (r"/api/source", Source, s),
        (r"/api/analyses", Analyses, s),
        (r"/api/analyses/(\w+)", Analysis, s),
        (r"/api/run", Run, s),
        (r"/api/results\.h5", ResultFile, s),
        (r"/api/results/(\w+)/(\w+)\.(npy|npz|png|tiff?)", ResultArray, s),
        (r"/api/frame\.(npy|png|tiff?)", FrameArray, s),
        (r"/api/topics/(.{1,400})\.(npy|tiff?)", TopicValue, s),
        (r"/api/history/(\w+)/thumb\.png", Thumb, s),
        (r"/api/openapi\.json", OpenApi, s),
        (r"/.*", Nothing, s),
    ]
