"""`libstream serve`: the page on which a measurement is watched and worked through."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import libstream
from libstream import api, config, registry
from libstream.cli._openargs import add_open_arguments, open_options
from libstream.cli.command import OK, Command, say, tell
from libstream.errors import UsageError

_EXAMPLES = """\
  libstream serve                                 opens a page in the browser; what was open last is opened again
  libstream serve scan.mib --root /data           a file, and a folder whose files the page may open
  libstream serve dectris://eiger:9999 --scan 256,256 --udfs my-udfs/
  ssh -L 8123:localhost:8123 em-pc libstream serve --port 8123 --no-browser      from elsewhere: open the link it prints

Only this machine is listened to unless --host says otherwise. The link holds a token: whoever has it may use the page, and with it
the rights of the user that runs libstream. Put a token of your own into a file (--token-file) or the variable LIBSTREAM_TOKEN."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="a file, or the address of a detector")
    net = parser.add_argument_group("where it listens")
    net.add_argument("--host", default="127.0.0.1", metavar="NAME", help="address to listen on (default: 127.0.0.1, this machine only)")
    net.add_argument("--port", type=_port, default=0, metavar="N", help="port (default: a free one)")
    net.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="name under which a proxy asks; may be repeated")
    net.add_argument("--certfile", type=Path, metavar="FILE", help="certificate for https (PEM)")
    net.add_argument("--keyfile", type=Path, metavar="FILE", help="its key (PEM), where it is not in the same file")
    net.add_argument("--insecure", action="store_true", help="listen to other machines without encryption")
    who = parser.add_argument_group("who may come in")
    who.add_argument("--token-file", type=Path, metavar="FILE", help="file whose first line is the token")
    who.add_argument("--token", metavar="TEXT", help="the token (others on this machine can see it in the list of processes)")
    what = parser.add_argument_group("what it may use")
    what.add_argument(
        "--root", dest="roots", type=Path, action="append", default=[], metavar="DIR",
        help="folder whose files the page may open; may be repeated (default: the current folder)",
    )  # fmt: skip
    what.add_argument("--udfs", type=Path, metavar="DIR", help="folder with UDFs of your own (.py files, read again when they are saved)")
    what.add_argument("-o", dest="out", type=Path, default=Path("libstream-results"), metavar="DIR", help="folder for results")
    what.add_argument("--executor", default="threads", metavar="NAME", help="where UDFs run: threads (default), processes, ...")
    add_open_arguments(parser)
    parser.add_argument("--no-browser", action="store_true", help="only print the link")
    parser.add_argument("--fresh", action="store_true", help="do not open what was open last")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _token(args: argparse.Namespace) -> str | None:
    if args.token is not None and args.token_file is not None:
        raise UsageError("--token and --token-file were both given; one is enough")
    if args.token_file is not None:
        lines = args.token_file.read_text(encoding="utf-8").splitlines()
        return lines[0] if lines else ""
    return args.token if args.token is not None else os.environ.get("LIBSTREAM_TOKEN")


def _run(args: argparse.Namespace) -> int:
    source: str | None = args.source
    if source is None and open_options(args):
        raise UsageError("options for opening were given, and no SOURCE")
    if args.executor.partition("://")[0] not in [p.name for p in registry.plugins("executors")]:
        raise UsageError(f"no executor {args.executor!r}; installed are {', '.join(p.name for p in registry.plugins('executors'))}")
    roots: list[Path] = list(args.roots)
    if source is not None and "://" not in source:
        path = Path(source).resolve()
        if not path.exists():
            raise FileNotFoundError(f"{source}: no such file")
        source = str(path)
        roots.append(path.parent)
    made = registry.load("servers", "web")(
        source=source, source_options=open_options(args), executor=args.executor, token=_token(args), host=args.host, port=args.port,
        roots=tuple(roots or [Path.cwd()]),
        allow_hosts=tuple(args.allow_host), certfile=args.certfile, keyfile=args.keyfile, insecure=args.insecure, own_udfs=args.udfs,
        out=args.out, state=config.state_dir(), version=libstream.__version__, threads=config.n_workers(), restore=not args.fresh,
        browser=not args.no_browser,
    )  # fmt: skip
    try:
        ended: Any = asyncio.run(made(say))
    except KeyboardInterrupt:  # where signals cannot be handled by the loop
        ended = True
    if not ended:
        tell("libstream: a UDF did not end within 2 s of being asked to; it is left behind, results that were there are kept")
        sys.stdout.flush()
        api.shutdown(at_once=True)
        os._exit(OK)
    api.shutdown()
    return OK


COMMAND = Command("open a page in the browser: watch a detector or work through a file", _configure, _run, _EXAMPLES)
