"""The command `libstream`: finds the command, runs it, and turns errors into one line and an exit code.

Exit codes: 0 done; 1 the run failed; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from libstream import registry
from libstream.cli.command import FAILED, INTERRUPTED, OK, WRONG_USAGE, Parser, nearest, one_line, say, tell
from libstream.errors import CancelledError, LibstreamError, UsageError

_HEAD = """\
usage: libstream COMMAND ...

User-defined functions over the frames of pixelated detectors, in one pass.

commands:
"""
_TAIL = """
examples:
  libstream demo                                          try it without any data
  libstream info scan.mib                                 shape, dtype, axes, metadata
  libstream run scan.mib --udf VirtualDetector -p inner=30 -p outer=80 -o adf.h5 --plot adf.png
  libstream COMMAND -h                                    options and examples of a command

options:
  -h, --help   this text
  --version    version of libstream
  --debug      show tracebacks, run kernels once with bounds checks
"""


def commands() -> list[str]:
    """Names of all commands, the built-in ones in the order in which a user meets them; none is imported."""
    found = [p.name for p in registry.plugins("commands")]
    first = [
        n for n in ("demo", "info", "run", "listen", "record", "replay", "export", "rerun", "new-udf", "plugins", "warmup") if n in found
    ]
    return [*first, *(n for n in found if n not in first)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: sys.argv[1:]) and return the exit code. Never raises, never leaves a traceback."""
    args = [str(a) for a in (sys.argv[1:] if argv is None else argv)]
    debug = "--debug" in args
    with _settings(debug):
        try:
            return _dispatch(args)
        except SystemExit as exc:  # argparse after -h
            return exc.code if isinstance(exc.code, int) else OK
        except (KeyboardInterrupt, CancelledError):
            tell("libstream: interrupted")
            return INTERRUPTED
        except Exception as exc:  # noqa: BLE001  the last one to see it
            report(exc, debug=debug)
            return WRONG_USAGE if isinstance(exc, UsageError) else FAILED


def report(exc: BaseException, *, debug: bool, about: str = "") -> None:
    """One line on stderr for an error, after its traceback with `debug`."""
    if debug:
        tell("".join(traceback.format_exception(exc)).rstrip())
        if remote := getattr(exc, "remote_traceback", ""):
            tell(f"In the worker:\n{remote.rstrip()}")
    text = one_line(exc)
    if not isinstance(exc, (LibstreamError, OSError, MemoryError)):
        text = f"unexpected {type(exc).__name__}: {text} (a fault of libstream or of a plug-in; --debug shows where)"
    elif isinstance(exc, MemoryError):
        text = f"not enough memory: {text}"
    tell(f"libstream: error: {about}{': ' if about else ''}{text}")


def _dispatch(args: list[str]) -> int:
    position = next((i for i, a in enumerate(args) if not a.startswith("-")), len(args))
    for option in args[:position]:
        if option == "--version":
            import libstream

            say(f"libstream {libstream.__version__}")
            return OK
        if option in ("-h", "--help"):
            say(_help(), end="")
            return OK
        if option != "--debug":
            raise UsageError(f"unknown option {option}{nearest(option, ['--help', '--version', '--debug'])}; see `libstream -h`")
    if position == len(args):
        say(_help(), end="")
        return OK
    name, found = args[position], commands()
    if name not in found:
        raise UsageError(f"no command {name!r}{nearest(name, found)}; there are: {', '.join(found)}")
    command = registry.load("commands", name)
    parser = Parser(
        prog=f"libstream {name}",
        description=command.summary,
        epilog=f"examples:\n{command.examples}" if getattr(command, "examples", "") else None,
    )
    command.configure(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks, run kernels once with bounds checks")
    code: int = command.run(parser.parse_args(args[position + 1 :]))
    return code


def _help() -> str:
    rows = []
    for name in commands():
        try:
            summary = registry.load("commands", name).summary
        except Exception as exc:  # noqa: BLE001  a broken plug-in must not hide the other commands
            summary = f"(cannot be loaded: {one_line(exc)})"
        rows.append(f"  {name:<10} {summary}\n")
    return _HEAD + "".join(rows) + _TAIL


@contextlib.contextmanager
def _settings(debug: bool) -> Iterator[None]:
    """Warnings in one line; SIGTERM (a cluster's end of time) works like Ctrl-C; kernels are checked with `debug`."""
    before = os.environ.get("LIBSTREAM_DEBUG")
    if debug:
        os.environ["LIBSTREAM_DEBUG"] = "1"
    handler = None
    if threading.current_thread() is threading.main_thread():
        handler = signal.signal(signal.SIGTERM, _terminate)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell(f"libstream: warning: {' '.join(str(message).split())}")
        try:
            yield
        finally:
            if handler is not None:
                signal.signal(signal.SIGTERM, handler)
            if debug and before is None:
                del os.environ["LIBSTREAM_DEBUG"]
            elif before is not None:
                os.environ["LIBSTREAM_DEBUG"] = before


def _terminate(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
