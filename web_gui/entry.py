"""The entry point `libstream.servers: web`: from plain arguments to a server. Imports Tornado when it is used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from libstream.errors import UsageError
from libstream.jobs.catalog import Catalog
from libstream.jobs.keep import Keep
from libstream.jobs.session import Session
from libstream.web_gui.auth import checked_token, new_token


def web(
    *,
    source: str | None = None,
    source_options: Mapping[str, Any] | None = None,
    token: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    roots: tuple[Path, ...] = (),
    allow_hosts: tuple[str, ...] = (),
    certfile: Path | None = None,
    keyfile: Path | None = None,
    insecure: bool = False,
    own_udfs: Path | None = None,
    out: Path | None = None,
    state: Path | None = None,
    version: str = "",
    threads: int = 0,
    executor: str = "threads",
    restore: bool = True,
    browser: bool = True,
) -> Callable[[Callable[[str], None]], Awaitable[bool]]:
    """A function that serves, given one that is told the link; its result is False where a UDF could not be stopped.

    source_options: as for `ls.open` or `ls.connect`. token: None for a random one. state: folder for setups and what was open last,
    None = nowhere. The other arguments are those of
    `libstream serve`. Raises UsageError for what cannot work, before anything is started.
    """
    from libstream.web_gui.server import Options, is_loopback, run

    if keyfile is not None and certfile is None:
        raise UsageError("--keyfile needs --certfile")
    options = Options(
        token=new_token() if token is None else checked_token(token), host=host, port=port, roots=roots, allow_hosts=allow_hosts,
        certfile=certfile, keyfile=keyfile, own_udfs=own_udfs, version=version, threads=threads,
    )  # fmt: skip
    if not is_loopback(host) and certfile is None and not insecure:
        raise UsageError(
            f"--host {host}: others could read along. Give --certfile and --keyfile, or leave --host out and reach this machine by an "
            "SSH tunnel; --insecure listens without encryption all the same"
        )
    catalog = Catalog(own_udfs)
    first = None if source is None else (source, dict(source_options or {}))

    async def serve(ready: Callable[[str], None]) -> bool:
        session = Session(catalog=catalog, keep=None if state is None else Keep(state), out=out, executor=executor)
        try:
            return await run(session, options, ready, first=first, restore=restore, browser=browser)
        except BaseException:
            session.close()
            raise

    return serve
