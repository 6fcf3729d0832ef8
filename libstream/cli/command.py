"""What a command of the command line is, and the small things that all of them share."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from libstream.errors import UsageError

OK, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""


@dataclass(frozen=True)
class Command:
    """One command, found by its entry point in the group `libstream.commands`.

    summary: one line for `libstream -h`. configure: adds arguments to the command's parser.
    run: does the work and returns the exit code; raises errors of libstream.errors. examples: lines shown by -h.
    """

    summary: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    examples: str = ""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are `UsageError`s of one line, with the nearest option where one was misspelt."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing the usage and leaving."""
        unknown = message.removeprefix("unrecognized arguments: ") if message.startswith("unrecognized") else ""
        for word in unknown.split():
            near = difflib.get_close_matches(word.split("=")[0], self._option_string_actions, n=1) if word[0] == "-" else []
            if near:
                message += f" (did you mean {near[0]}?)"
                break
        raise UsageError(f"{message}; see `{self.prog} -h`")


def nearest(word: str, known: Any) -> str:
    """ " (did you mean X?)" for the known word nearest to `word`, or ""."""
    lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1)
    return f" (did you mean {lower[near[0]]}?)" if near else ""


def say(text: str = "", *, end: str = "\n") -> None:
    """Print to stdout. A reader that went away (`libstream ... | head`) silences what follows; the work goes on."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        _silence(sys.stdout)


def tell(text: str) -> None:
    """Print a line to stderr: progress, notes, warnings, errors."""
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        _silence(sys.stderr)


def _silence(stream: Any) -> None:
    """Point the stream's file at the null device, so that later prints and the flush at exit do not fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def say_json(value: Any) -> None:
    """Print `value` as JSON (NaN and infinities as null, arrays as lists)."""
    say(json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False))


def jsonable(value: Any) -> Any:
    """`value` with only what strict JSON knows."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, complex):
        return [jsonable(value.real), jsonable(value.imag)]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def one_line(exc: BaseException) -> str:
    """The message of an exception in one line, for the user."""
    if isinstance(exc, OSError) and exc.filename and exc.strerror:
        text = f"{exc.filename}: {exc.strerror}"
    elif isinstance(exc, KeyError) and exc.args:
        text = str(exc.args[0])
    else:
        text = str(exc)
    return as_options(" ".join(text.split())) or type(exc).__name__


_FLAGS = {
    name: f"--{name.replace('_', '-')}"
    for name in ("format", "scan", "frame", "dtype", "dataset", "channel", "sync_offset", "scan_step", "pixel", "centre", "executor", "roi")
} | {"rotation_deg": "--rotation"}
_CALL = re.compile(r"\bls\.\w+\([^()]*(?:\([^()]*\)[^()]*)*\)")
_ARGUMENT = re.compile(rf"(?<![\w.\[-])({'|'.join(_FLAGS)})=(?:\(([\d,. ]+)\)|'([^']*)'|([-\w./]*\w))?")


def as_options(text: str) -> str:
    """A message of the library in the words of the command line: "pass scan=(2, 4)" becomes "pass --scan 2,4". Calls stay."""

    def flag(match: re.Match[str]) -> str:
        numbers, quoted, word = match[2], match[3], match[4]
        if numbers is not None:
            value = ",".join(part.strip() for part in numbers.split(",") if part.strip())
        else:
            value = f"'{quoted}'" if quoted is not None and not quoted.isalnum() else quoted if quoted is not None else word
        return f"{_FLAGS[match[1]]} {value}" if value else _FLAGS[match[1]]

    out, done = [], 0
    for call in _CALL.finditer(text):
        out += [_ARGUMENT.sub(flag, text[done : call.start()]), call[0]]
        done = call.end()
    return "".join([*out, _ARGUMENT.sub(flag, text[done:])])


def n_of(count: int, what: str) -> str:
    """ "1 file", "3 files"."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def size(n_bytes: float) -> str:
    """Bytes for humans: "2.1 GB" (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds for humans: "33 ms", "4.2 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
