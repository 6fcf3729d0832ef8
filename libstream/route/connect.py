"""A detector, a router and consumers from one call of `connect`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np

from libstream.contracts.dealt import KeepsConsumers
from libstream.contracts.stream import StreamUrl
from libstream.errors import UsageError
from libstream.model.source import SourceMeta
from libstream.route.consumer import RING_BYTES
from libstream.route.source import CONSUMERS_S, RoutedSource
from libstream.route.spawn import SpawnedRouter

PORT = 9880
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


@dataclass(frozen=True)
class Cluster:
    """How router, consumers and client reach each other.

    listen: where the router waits for consumers and clients; results: where this program waits for consumers. Both as consumers write
    them, "tcp://host:port"; port 0 finds a free one. Consumers on other computers need addresses of this computer that they can reach.
    curve: {"secret", "server"}: key file of this user, and public key of the router. health: [HOST:]PORT of the router's health.
    consumers: how many have to be connected before `connect` returns. consumer_bytes: memory for
    frames of each. consumer_health: [HOST:]PORT at which each serves its health ("0": a free port), "" for none. wait_s: longest wait
    for them, and longest time without any. timeout_s, block_timeout_s: as for `route`. source: which detector of a router with several.
    """

    listen: str = "tcp://127.0.0.1:0"
    results: str = "tcp://127.0.0.1:0"
    health: str | None = None
    curve: Mapping[str, Any] | None = None
    consumers: int | None = None
    consumer_bytes: int = RING_BYTES
    consumer_health: str = ""
    wait_s: float = CONSUMERS_S
    timeout_s: float | None = None
    block_timeout_s: float | None = None
    source: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Cluster:
        """Raises UsageError for what it does not know."""
        known = [f.name for f in fields(cls)]
        for name in given or {}:
            if name not in known:
                raise UsageError(f"cluster: unknown option {name!r}; there are {', '.join(known)}")
        return cls(**(given or {}))


def connect_routed(
    url: StreamUrl, executor: Any, how: Cluster, received: Mapping[str, Any], options: Mapping[str, Any],
    describe: Callable[[SourceMeta], SourceMeta],
) -> RoutedSource:  # fmt: skip
    """A source behind the router at `url`, or behind one that is started for the detector at `url`.

    received: what `connect` was given about the stream; options: of the detector. Raises UsageError, OSError, LibstreamError.
    """
    if not isinstance(executor, KeepsConsumers):
        name = getattr(executor, "name", type(executor).__name__)
        raise UsageError(f"executor {name!r} has no workers that can take frames from a router; 'dask' has")
    given: dict[str, Any] = {
        "results": how.results,
        "source": how.source,
        "curve": how.curve,
        "ring_bytes": how.consumer_bytes,
        "consumer_health": how.consumer_health,
        "wait_s": how.wait_s,
    }
    given |= {"consumers": how.consumers, "describe": describe}
    given |= {"silent_s": how.timeout_s} if how.timeout_s is not None else {}
    remote = not executor.is_local
    if remote and urlsplit(how.results).hostname in _LOOPBACK:
        raise _unreachable("results", how.results)
    if url.scheme == "router":
        odd = [k for k, v in received.items() if v not in (None, "raster", 0, 1, "block")]
        if odd or options:
            raise UsageError(f"{url.text}: {', '.join([*odd, *options])} is said where the router is started, `libstream route`")
        host = f"tcp://{url.host}:{url.ports[0] if url.ports else PORT}"
        return RoutedSource(url.text, host, executor, **given)
    if how.curve is not None:
        raise UsageError("keys need a router of its own: start `libstream route --curve-secret ...` and connect to router://host:port")
    if remote and urlsplit(how.listen).hostname in _LOOPBACK:
        raise _unreachable("listen", how.listen)
    files: list[str] = []
    router = SpawnedRouter(_arguments(url, how, received, options, files), files)
    try:
        return RoutedSource(url.text, _reachable(router.address, how.listen), executor, owned=router, **given)
    except BaseException:
        router.close()
        raise


def _unreachable(name: str, address: str) -> UsageError:
    return UsageError(
        f"{name}={address!r} is for this computer only, but the workers run on others: give an address of this computer that they can "
        f"reach, such as cluster={{'listen': 'tcp://10.0.0.5:9880', 'results': 'tcp://10.0.0.5:9882'}}, in a network that you trust"
    )


def _reachable(bound: str, asked: str) -> str:
    """The bound address, with the host that consumers were to use."""
    host = urlsplit(asked).hostname
    return bound if host in (None, "0.0.0.0", "*") else f"{bound.rpartition('//')[0]}//{host}:{bound.rpartition(':')[2]}"


def _arguments(url: StreamUrl, how: Cluster, received: Mapping[str, Any], options: Mapping[str, Any], files: list[str]) -> list[str]:
    """Of `libstream route`. files: gets the names of those that were made for it."""
    text = url.text
    if options:
        text += ("&" if "?" in text else "?") + urlencode(
            {k: int(v) if isinstance(v, bool) else ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in options.items()}
        )
    out = [text, "--listen", how.listen]
    words = {
        "memory": received["ring_bytes"], "policy": received["policy"], "max-message-bytes": received["max_message_bytes"],
        "order": received["order"], "flyback": received["flyback"], "frames-per-position": received["frames_per_position"],
        "record": received["record"], "health": how.health, "stall-timeout": received["stall_timeout_s"], "timeout": how.timeout_s,
        "block-timeout": how.block_timeout_s, "scan": None if received["scan"] is None else ",".join(map(str, received["scan"])),
    }  # fmt: skip
    for name, value in words.items():
        if value is not None:
            out += [f"--{name}", str(value)]
    if received["positions"] is not None:
        fd, path = tempfile.mkstemp(prefix="libstream-positions-", suffix=".npy")
        with contextlib.closing(os.fdopen(fd, "wb")) as file:
            np.save(file, np.asarray(received["positions"]))
        files.append(path)
        out += ["--positions", path]
    return out
