"""A small simulated detector control unit: its state, and the REST interface of a DECTRIS detector. See `_simplon_send`.

Times and voltages are not simulated; parameters that nobody asks for are missing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

import numpy as np

from libstream.ext import SourceMeta
from libstream.io_backends.streams import _dectris_meta as m

_Arr = np.ndarray[Any, Any]

VERSION = "1.8.0"
_READ_ONLY = {
    "bit_depth_image",
    "bit_depth_readout",
    "description",
    "detector_number",
    "eiger_fw_version",
    "sensor_material",
    "software_version",
}
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "trigger_mode": ("exte", "exts", "inte", "ints"),
    "compression": ("lz4", "bslz4", "none"),
    "mode": ("enabled", "disabled"),
    "format": ("legacy", "cbor"),
    "header_detail": ("all", "basic", "none"),
}
_COMMANDS = ("abort", "arm", "cancel", "check_connection", "disarm", "hv_reset", "initialize", "trigger")
_STREAM = {"mode": "enabled", "format": "legacy", "header_detail": "basic", "header_appendix": "", "image_appendix": ""}
_WRITER = {"mode": "disabled", "compression_enabled": True, "image_nr_start": 1, "name_pattern": "series_$id", "nimages_per_file": 1000}
_EXTRA = {
    "roi_y_size": 0,
    "roi_bit_depth": 16,
    "mask_to_zero": False,
    "test_image_mode": "",
    "trigger_start_delay": 0.0,
    "counting_mode": "normal",
}
_MOST = 1 << 20
# a client may arm again before the end message of its last series is out
_ARM_WAITS_S = 5.0


class SimulatedDcu:
    """State of the unit: configuration, what is armed, triggers. All methods may be called from any thread.

    armed: a series was armed and its header is still to come. sending: its messages go out. live: nobody has ended it.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.config: dict[str, dict[str, Any]] = {
            "detector": {},
            "stream": dict(_STREAM),
            "filewriter": dict(_WRITER),
            "monitor": {"mode": "disabled"},
        }
        self.series = self.triggers = 0
        self.armed = self.sending = self.live = self.closed = False
        self._made: dict[str, Any] = {}

    @property
    def state(self) -> str:
        """As the detector's status says it."""
        return "idle" if not self.live else "ready" if self.armed else "acquire"

    def describe(self, meta: SourceMeta) -> None:
        """Be the detector that recorded this source. Settings that clients have made stay."""
        with self.changed:
            self.config["detector"] = {**_EXTRA, **m.detector_config(meta), **self._made}

    def command(self, name: str) -> Any:
        """Carry out a command. Raises ValueError where the unit refuses."""
        with self.changed:
            if name == "arm":
                return self._arm()
            if name == "trigger":
                if not self.live:
                    raise ValueError("there is nothing to trigger: arm first")
                self.triggers += 1
            elif name in ("disarm", "cancel", "abort", "initialize"):
                self.live = False
            self.changed.notify_all()
            return {"sequence id": self.series} if name in ("disarm", "cancel", "abort") else {}

    def _arm(self) -> Any:
        if not self.changed.wait_for(lambda: not (self.armed or self.sending) or self.closed, _ARM_WAITS_S) or self.closed:
            raise ValueError(f"series {self.series} is not over: disarm first")
        self.series += 1
        self.armed = self.live = True
        self.triggers = 0
        self.changed.notify_all()
        return {"sequence id": self.series}

    def wait_armed(self, timeout_s: float) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """Wait until somebody arms: number of the series, configuration of the detector and of the stream; None after `timeout_s`."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.armed or self.closed, timeout_s) or self.closed:
                return None
            self.armed, self.sending = False, True
            return self.series, dict(self.config["detector"]), dict(self.config["stream"])

    def wait_trigger(self, n: int, timeout_s: float) -> bool | None:
        """Wait for the n-th trigger (from 1) of the series; False where the series was ended, None after `timeout_s`."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.triggers >= n or not self.live or self.closed, timeout_s):
                return None
            return self.live and not self.closed

    def over(self) -> None:
        """The end of the series is out. Nothing where the next one is armed already."""
        with self.changed:
            if self.sending:
                self.sending = self.live = False
                self.changed.notify_all()

    def close(self) -> None:
        """Wake up everybody who waits."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def set(self, module: str, name: str, value: Any) -> list[str]:
        """Change a setting; names of what changed. KeyError for an unknown one, ValueError for a value that is refused."""
        with self.changed:
            old = self.config[module][name]
            if module == "detector" and (name in _READ_ONLY or name.endswith("pixels_in_detector")):
                raise ValueError(f"{name} is read-only")
            if name in _ALLOWED and value not in _ALLOWED[name]:
                raise ValueError(f"{name} is one of {', '.join(_ALLOWED[name])}, got {str(value)[:100]!r}")
            if name in ("nimages", "ntrigger") and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is a whole number of at least 1, got {str(value)[:100]!r}")
            if (
                _kind(value) != _kind(old)
                and {_kind(value), _kind(old)} != {"float", "uint"}
                and name not in ("header_appendix", "image_appendix")
            ):
                raise ValueError(f"{name} is of type {_kind(old)}, got {_kind(value)}")
            self.config[module][name] = value = float(value) if type(old) is float else value
            if module == "detector":
                self._made[name] = value
            return [name]

    def describe_value(self, module: str, name: str) -> dict[str, Any]:
        """A setting as the interface tells it. KeyError for an unknown one."""
        with self.changed:
            value = self.config[module][name]
        read_only = module == "detector" and (name in _READ_ONLY or name.endswith("pixels_in_detector"))
        told = {"access_mode": "r" if read_only else "rw", "value": value, "value_type": _kind(value)}
        return told | ({"allowed_values": list(_ALLOWED[name])} if name in _ALLOWED else {})


def _kind(value: Any) -> str:
    names = {bool: "bool", int: "uint", float: "float", str: "string"}
    return names.get(type(value), "list" if isinstance(value, list) else "object")


class Handler(BaseHTTPRequestHandler):
    """GET and PUT of /<module>/api/<version>/<task>/<name>."""

    timeout = 2
    dcu: SimulatedDcu

    def do_GET(self) -> None:
        """Values."""
        self._answer(self._get)

    def do_PUT(self) -> None:
        """Settings and commands."""
        self._answer(self._put)

    def _answer(self, act: Callable[[list[str], Any], Any]) -> None:
        status, reply = 200, None
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 <= length <= _MOST:
                raise ValueError(f"a body of {length} bytes")
            body = self.rfile.read(length)
            words = [w for w in self.path.partition("?")[0].split("/") if w]
            if len(words) < 3 or words[1] != "api" or words[0] not in self.dcu.config:
                raise KeyError(self.path)
            reply = act(words, json.loads(body) if body.strip() else None)
        except KeyError as exc:
            status, reply = 404, f"there is no {exc.args[0]}"
        except (ValueError, RecursionError) as exc:
            status, reply = 400, str(exc)
        data = b"" if reply is None else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8" if data else "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _get(self, words: list[str], _: Any) -> Any:
        module, _, version, *rest = words
        if version == "version":
            return {"value": VERSION, "value_type": "string"}
        task, name = (*rest, "", "")[:2]
        if task == "config" and name == "keys":
            return list(self.dcu.config[module])
        if task == "config" and not name:
            return {key: self.dcu.describe_value(module, key) for key in list(self.dcu.config[module])}
        if task == "config":
            return self.dcu.describe_value(module, name)
        if task == "status" and name == "state":
            state = self.dcu.state if module == "detector" else "ready"
            return {"value": state, "value_type": "string", "access_mode": "r", "state": "normal"}
        if task == "command" and name == "keys" and module == "detector":
            return list(_COMMANDS)
        raise KeyError("/".join(words))

    def _put(self, words: list[str], body: Any) -> Any:
        module, _, _, *rest = words
        task, name = (*rest, "", "")[:2]
        if task == "config":
            if not isinstance(body, dict) or "value" not in body:
                raise ValueError('expected {"value": ...}')
            return self.dcu.set(module, name, body["value"])
        if task == "command" and module == "detector" and name in _COMMANDS:
            return self.dcu.command(name)
        if task == "command" and name in ("initialize", "clear"):
            return None
        raise KeyError("/".join(words))

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no news."""


class Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news either."""
