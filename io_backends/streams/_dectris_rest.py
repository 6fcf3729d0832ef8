"""The REST interface of DECTRIS detectors (SIMPLON): settings, arm, trigger, disarm, status. Beside the stream, over HTTP.

Paths are /<module>/api/<version>/<task>/<name>, module detector or stream, task config, status or command; values are JSON
{"value": ...}. Requests are short-lived: nothing is kept open between them, so that a restarted detector is found again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from libstream.ext import UsageError

VERSION = "1.8.0"
"""The version of the API that is spoken where a detector does not say its own."""
STREAM_SETTINGS = {
    "stream_mode": "mode",
    "stream_format": "format",
    "header_detail": "header_detail",
    "header_appendix": "header_appendix",
    "image_appendix": "image_appendix",
}
"""Settings of `arm` that belong to the stream, and what they are called there; all others are the detector's."""
# a change of these resets or limits others, so they go first
_FIRST = ("stream_format", "stream_mode", "trigger_mode", "roi_mode")
_MOST = 1 << 20
_SAYS = (
    "nimages",
    "ntrigger",
    "trigger_mode",
    "frame_time",
    "count_time",
    "x_pixels_in_detector",
    "y_pixels_in_detector",
    "bit_depth_image",
)


class DectrisController:
    """Commands to a detector (a `Controller`).

    Args:
        host, port: of the REST interface, usually port 80.
        timeout_s: for one request. A trigger is not waited for any longer either: some detectors answer it when the last image is taken.
    """

    def __init__(self, host: str, port: int = 80, *, timeout_s: float = 5.0) -> None:
        self.host, self.port, self.timeout_s = host, port, timeout_s
        self._versions: dict[str, str] = {}

    def arm(self, **settings: Any) -> int | None:
        """Apply settings, then arm. Returns the number of the series that will come.

        settings: names of the detector's configuration (`trigger_mode="exts"`, `ntrigger=`, `nimages=`, `frame_time=` and `count_time=`
        in s, `compression=`, `roi_mode=`, ...) or of the stream's: stream_mode, stream_format ("cbor" or "legacy"), header_detail,
        header_appendix, image_appendix. None leaves a setting as it is. They are applied in the order given, modes first.
        """
        wanted = {k: v for k, v in settings.items() if v is not None}
        for name in (*(n for n in _FIRST if n in wanted), *(n for n in wanted if n not in _FIRST)):
            if name in STREAM_SETTINGS:
                self._put("stream", "config", STREAM_SETTINGS[name], wanted[name])
            else:
                self._put("detector", "config", name, wanted[name])
        reply = self._put("detector", "command", "arm")
        number = reply.get("sequence id") if isinstance(reply, dict) else None
        return number if type(number) is int else None

    def trigger(self) -> None:
        """Start the armed acquisition (trigger modes ints and inte; the others wait for a signal at the detector)."""
        self._put("detector", "command", "trigger", patient=False)

    def disarm(self) -> None:
        """End the series after the image that is being taken."""
        self._put("detector", "command", "disarm")

    def abort(self) -> None:
        """End the series at once; images that the detector still holds are lost."""
        self._put("detector", "command", "abort")

    def initialize(self) -> None:
        """Bring the detector to its initial state: needed once after it was switched on, takes up to a minute."""
        self._put("detector", "command", "initialize", timeout_s=max(self.timeout_s, 90.0))

    def status(self) -> Mapping[str, Any]:
        """State and the settings that describe the next series; what this detector does not know is left out."""
        found: dict[str, Any] = {"api_version": self._version("detector")}
        asked = [("detector", "status", "state", "state"), ("stream", "status", "state", "stream_state")]
        asked += [("stream", "config", name, setting) for setting, name in list(STREAM_SETTINGS.items())[:3]]
        asked += [("detector", "config", name, name) for name in _SAYS]
        for module, task, name, as_ in asked:
            try:
                reply = self._request("GET", module, task, name)
            except UsageError:
                continue
            if isinstance(reply, dict) and "value" in reply:
                found[as_] = reply["value"]
        return found

    def get(self, name: str) -> Any:
        """A value of the configuration. Raises UsageError for one that the detector does not know."""
        reply = self._request("GET", "stream" if name in STREAM_SETTINGS else "detector", "config", STREAM_SETTINGS.get(name, name))
        return reply.get("value") if isinstance(reply, dict) else reply

    def close(self) -> None:
        """Nothing is kept open."""

    # -- requests --------------------------------------------------------------------------------------------------------

    def _put(self, module: str, task: str, name: str, value: Any = None, **how: Any) -> Any:
        return self._request("PUT", module, task, name, value, **how)

    def _request(
        self, method: str, module: str, task: str, name: str, value: Any = None, *, patient: bool = True, timeout_s: float | None = None
    ) -> Any:  # fmt: skip
        path = f"/{module}/api/{self._version(module)}/{task}/{quote(name, safe='')}"
        try:
            body = None if value is None else json.dumps({"value": value}, allow_nan=False).encode()
        except (TypeError, ValueError):
            raise UsageError(f"{name}={value!r} cannot be written as JSON; a setting is a number, a text, True or False") from None
        status, reply = self._http(method, path, body, patient, timeout_s)
        if status >= 400:
            what = f"{name}={value!r}" if task == "config" and method == "PUT" else f"{method} {path}"
            raise UsageError(f"the detector at {self.host}:{self.port} refused {what}: HTTP {status}, {_words(reply)}")
        return _parsed(reply)

    def _version(self, module: str) -> str:
        """Version of a module's API; asked once."""
        if module not in self._versions:
            status, reply = self._http("GET", f"/{module}/api/version/", None)
            found = _parsed(reply) if status < 400 else None
            text = found.get("value") if isinstance(found, dict) else None
            self._versions[module] = text if isinstance(text, str) and 0 < len(text) < 40 and "/" not in text else VERSION
        return self._versions[module]

    def _http(self, method: str, path: str, body: bytes | None, patient: bool = True, timeout_s: float | None = None) -> tuple[int, bytes]:
        import http.client

        timeout_s = timeout_s or self.timeout_s
        where = f"the detector's REST interface at http://{self.host}:{self.port}"
        try:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
            connection.connect()
        except (OSError, ValueError, http.client.HTTPException) as exc:  # the last two: a name that cannot be that of a host
            self._versions.clear()
            raise OSError(
                f"cannot reach {where}: {exc}. Is the detector's computer on, is the address right (dectris://HOST:9999?api=PORT), does a "
                "firewall stand between? Without ?api= libstream only listens"
            ) from exc
        try:
            connection.request(
                method, path, body=body or b"", headers={"Content-Type": "application/json; charset=utf-8", "Connection": "close"}
            )
            response = connection.getresponse()
            return response.status, response.read(_MOST)
        except TimeoutError as exc:
            if not patient:
                return 200, b""
            raise OSError(
                f"{where} did not answer {method} {path} within {timeout_s:g} s. Is the detector busy, or does it need `initialize`?"
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise OSError(f"{where} answered {method} {path} with something else than HTTP: {exc!r}. Is this port the detector's?") from exc
        finally:
            connection.close()


def _parsed(reply: bytes) -> Any:
    try:
        return json.loads(reply) if reply.strip() else None
    except (ValueError, RecursionError):
        return None


def _words(reply: bytes) -> str:
    text = " ".join(reply[:2000].decode("utf-8", "replace").split())
    return repr(text[:300]) if text else "no reason given"
