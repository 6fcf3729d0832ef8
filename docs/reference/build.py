"""Write the reference from docstrings, parameters and parsers: `make docs`. The tests compare what is committed with it."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_origin

HERE = Path(__file__).resolve().parent
HEAD = "<!-- Written by docs/reference/build.py from the docstrings: change those, then `make docs`. -->\n\n"

VERBS = {
    "Open": ("open",),
    "Run": ("run", "run_iter", "start", "map", "on", "arun", "arun_iter"),
    "A run that goes on": ("Job",),
    "In notebooks": ("live_view",),
    "Results": ("Result", "Coverage", "Ragged", "load_result"),
    "Where it runs": ("executor", "shutdown"),
    "What goes in": ("Corrections", "Quantity", "Array"),
    "Writing a UDF": ("UDF", "param", "nav", "sig", "single", "ragged", "Output", "PerPosition", "kernel", "frame_of"),
}
MADE_BY_THE_ENGINE = ("Job", "Result", "Coverage", "Ragged", "UDF", "Output")
PLAIN = (bool, int, float, complex, str, bytes, tuple, type(None))
METHODS_OF = ("Job", "Result", "Coverage", "Ragged", "UDF", "Corrections", "Quantity", "Array")


BLOCK = re.compile(r"(Args|Raises|Returns|Outputs?|Hooks)\b[^:]*:")
ITEM = re.compile(r"([\w*]+(?:, \w+)*): (\S.*)")
NEXT_ITEM = re.compile(r"(?<=[.;]) (?=[a-z_]\w*(?:, [a-z_]\w*)*: )")


def ends(out: list[str]) -> bool:
    """Whether the last line ends a sentence, so that `word:` after it is no part of one."""
    return not out or not out[-1] or out[-1].endswith((".", ":", ")"))


def markdown(doc: str | None) -> str:
    """A docstring as Markdown: blocks such as `Args:`, and rows `name: text`, become lists, with what belongs to an item behind it."""
    out: list[str] = []
    item: int | None = None  # indentation of the items of the list that goes on
    in_block = False
    for line in inspect.cleandoc(doc or "").splitlines():
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if not text:
            out.append("")
            item = None
        elif BLOCK.fullmatch(text):
            out += ["", f"**{text.removesuffix(':')}**", ""]
            item, in_block = None, True
        elif item is not None and (indent > item or not out[-1].endswith((".", ";", ":", ")"))):
            out[-1] += f" {text}"
        elif (m := ITEM.fullmatch(text)) and (in_block or (m[1][0].islower() and ends(out))):
            if item is None and out and out[-1]:
                out.append("")
            item = indent
            out.append(f"- `{m[1]}`: {m[2]}")
        else:
            if item is not None:
                out.append("")
            item, in_block = None, in_block and indent > 0
            out.append(f"- {text}" if in_block else line)
    rows: list[str] = []
    for line in out:
        first, *more = NEXT_ITEM.split(line) if line.startswith("- `") else [line]
        rows += [first, *(f"- `{name}`: {text}" for name, _, text in (m.partition(": ") for m in more))]
    return "\n".join(rows).strip() + "\n"


def signature(thing: Any, name: str) -> str:
    """`name(arguments) -> what`, one argument a line where it is long."""
    parts: list[str] = []
    starred = False
    sig = inspect.signature(thing)
    for p in sig.parameters.values():
        if p.name in ("self", "cls"):
            continue
        if p.kind is p.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred = starred or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        kind = f": {p.annotation}" if p.annotation is not p.empty else ""
        default = (
            ""
            if p.default is p.empty
            else "..."
            if not isinstance(p.default, PLAIN)
            else f" = {p.default!r}"
            if kind
            else f"={p.default!r}"
        )
        parts.append(f"{stars}{p.name}{kind}{' = ...' if default == '...' else default}")
    returns = f" -> {sig.return_annotation}" if sig.return_annotation is not sig.empty else ""
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) > 110:
        line = f"{name}(\n" + "".join(f"    {p},\n" for p in parts) + f"){returns}"
    return line


def members(cls: type, name: str) -> str:
    """Public methods and properties of a class that have docstrings, in the order of the source."""
    out = []
    for key, value in vars(cls).items():
        if key.startswith("_"):
            continue
        func = getattr(value, "__func__", value)
        if isinstance(value, property):
            out.append(f"#### `{name}.{key}`\n\n{markdown(value.__doc__)}")
        elif inspect.isfunction(func) and func.__doc__:
            out.append(f"#### `{name}.{key}`\n\n```text\n{signature(func, key)}\n```\n\n{markdown(func.__doc__)}")
    return "\n".join(out)


def api() -> str:
    """The names of `libstream`."""
    import libstream as ls

    out = [f"{HEAD}# Python: `import libstream as ls`\n"]
    for title, names in VERBS.items():
        out.append(f"## {title}\n")
        for name in names:
            value = getattr(ls, name)
            out.append(f"### `ls.{name}`\n")
            if name == "PerPosition":
                out.append(
                    "Annotation of a parameter that is an array of the scan's shape (+ extra): [Write a UDF](../how-to/write-a-udf.md).\n"
                )
                continue
            if name not in MADE_BY_THE_ENGINE:
                out.append(f"```text\n{signature(value, f'ls.{name}')}\n```\n")
            out.append(markdown(value.__doc__))
            if name in METHODS_OF:
                out.append(members(value, name))
    return "\n".join(out)


def _default(field: Any) -> str:
    if field.default is not MISSING:
        return f"`{field.default!r}`"
    return "required" if field.default_factory is MISSING else f"`{field.default_factory()!r}`"


def _limits(field: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [f"{signs[k]} {v:g}" for k, v in field.metadata.items() if k in signs]
    choices = field.metadata.get("choices")
    return ", ".join(map(str, choices)) if choices else " and ".join(found)


def _type(field: Any) -> str:
    return str(field.type).replace("|", "\\|")


def _unit(field: Any) -> str:
    return str(field.metadata.get("json_schema_extra", {}).get("unit", ""))


def _title(field: Any) -> str:
    words = (field.metadata.get("title", ""), field.metadata.get("description", ""))
    return ": ".join(w.replace("|", "\\|") for w in words if w)


TABLE = "| {} | type | default | allowed | unit | |\n|---|---|---|---|---|---|"


def udfs() -> str:
    """Built-in UDFs with their parameters."""
    from libstream import registry

    out = [
        f"{HEAD}# Built-in UDFs: `ls.udfs`\n",
        "Parameters are keyword-only. A `Quantity` is a number of px, or a text with a unit (`12 mrad`) where the source is calibrated.\n",
    ]
    for plugin in registry.plugins("udfs"):
        if plugin.distribution not in ("", "libstream"):
            continue
        cls = registry.load("udfs", plugin.name)
        out += [f"## `{plugin.name}`\n", markdown(cls.__doc__)]
        rows = [f"| `{f.name}` | {_type(f)} | {_default(f)} | {_limits(f)} | {_unit(f)} | {_title(f)} |" for f in fields(cls)]
        if rows:
            out += [TABLE.format("parameter"), *rows, ""]
    return "\n".join(out)


def formats() -> str:
    """Formats with their options."""
    from libstream import registry

    out = [
        f"{HEAD}# Formats\n",
        "`ls.open` recognises files by content. Options are keyword arguments of `ls.open`, and `-O name=value` on the command line.\n",
    ]
    for plugin in registry.plugins("formats"):
        if plugin.distribution not in ("", "libstream"):
            continue
        cls = registry.load("formats", plugin.name)
        suffixes = ", ".join(f"`{s}`" for s in cls.suffixes)
        out += [
            f"## `{plugin.name}`{': ' + suffixes if suffixes else ''}\n",
            markdown(cls.__doc__),
            markdown(cls.options.__doc__ if fields(cls.options) else ""),
        ]
        rows = [f"| `{f.name}` | {_type(f)} | {_default(f)} | {_limits(f)} | {_unit(f)} | {_title(f)} |" for f in fields(cls.options)]
        if rows:
            out += [TABLE.format("option"), *rows, ""]
    return "\n".join(out)


def cli() -> str:
    """Commands with their arguments, read from the parsers: the text of -h differs between versions of Python."""
    from libstream import registry
    from libstream.cli.main import commands

    out = [
        f"{HEAD}# Command line: `libstream`\n",
        "Exit codes: 0 done; 1 the run failed (one line on stderr; `--debug` shows the traceback); 2 wrong usage; 130 interrupted.\n",
    ]
    for name in commands():
        command = registry.load("commands", name)
        parser = argparse.ArgumentParser(prog=f"libstream {name}", add_help=False)
        command.configure(parser)
        out += [f"## `libstream {name}`\n", f"{command.summary[0].upper()}{command.summary[1:]}.\n"]
        rows = []
        for action in parser._actions:
            if action.help == argparse.SUPPRESS:
                continue
            value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
            value = " ".join(value) if isinstance(value, tuple) else value
            if action.choices is not None and not action.metavar:
                value = "{" + ",".join(map(str, action.choices)) + "}"
            shown = ", ".join(action.option_strings) + (f" {value}" if action.nargs != 0 else "") if action.option_strings else value
            rows.append(f"| `{shown.strip()}` | {(action.help or '').replace('|', chr(92) + '|')} |")
        out += ["| argument | |", "|---|---|", *rows, ""]
        if command.examples:
            out += ["```text", textwrap.dedent(command.examples), "```", ""]
    return "\n".join(out)


def errors() -> str:
    """Error classes."""
    from libstream import errors as module

    out = [
        f"{HEAD}# Errors: `ls.errors`\n",
        "A message says what happened, where, what was expected, what was found, and what to do next.\n",
    ]
    for name, cls in vars(module).items():
        if inspect.isclass(cls) and issubclass(cls, module.LibstreamError):
            bases = ", ".join(f"`{b.__name__}`" for b in cls.__bases__)
            out += [f"## `{name}`\n", f"Is a {bases}.\n", markdown(cls.__doc__)]
    return "\n".join(out)


def ext() -> str:
    """The plug-in author's door."""
    from libstream import ext as module

    first = ("FileFormat", "FrameSource", "FrameReader", "Opener", "Partition", "Executor", "Traits", "Work", "CancelFlag", "Sink")
    names = [*first, *(n for n in module.__all__ if n not in first)]
    elsewhere = {n for group in VERBS.values() for n in group}
    out = [
        f"{HEAD}# For plug-in authors: `libstream.ext`\n",
        "Everything that a plug-in may import. What users need too is in [Python](api.md), errors are in [Errors](errors.md).\n",
    ]
    for name in names:
        value = getattr(module, name)
        if name in elsewhere or (inspect.isclass(value) and issubclass(value, Exception)):
            continue
        out.append(f"## `{name}`\n")
        if inspect.ismodule(value):
            out.append(markdown(value.__doc__))
            for part, func in vars(value).items():
                if inspect.isfunction(func) and func.__module__ == value.__name__ and not part.startswith("_"):
                    out += [f"#### `{name}.{part}`\n", f"```text\n{signature(func, part)}\n```\n", markdown(func.__doc__)]
        elif inspect.isclass(value):
            out += [markdown(value.__doc__), members(value, name)]
        elif callable(value) and get_origin(value) is None:
            shown = getattr(value, "func", value)
            out += [f"```text\n{signature(shown, name)}\n```\n", markdown(value.__doc__ or shown.__doc__)]
        else:
            out.append(f"`{value!r}`\n")
    return "\n".join(out)


def testing() -> str:
    """Test kits."""
    from libstream import testing as module

    out = [f"{HEAD}# Test kits: `libstream.testing`\n"]
    for name in module.__all__:
        value = getattr(module, name)
        out.append(f"## `{name}`\n")
        if inspect.isclass(value):
            out += [markdown(value.__doc__), *([members(value, name)] if name == "ScriptedSource" else [])]
            tests = [t.removeprefix("test_").replace("_", " ") for t in vars(value) if t.startswith("test_")]
            out += ["Tests:\n", *(f"- {t}" for t in tests), ""] if tests else []
        else:
            out += [f"```text\n{signature(value, name)}\n```\n", markdown(value.__doc__)]
    return "\n".join(out)


PAGES = {"testing.md": testing, "api.md": api, "udfs.md": udfs, "formats.md": formats, "cli.md": cli, "errors.md": errors, "ext.md": ext}


def pages() -> dict[str, str]:
    """Text of each page by its file name."""
    return {
        name: re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in make().splitlines())).strip() + "\n"
        for name, make in PAGES.items()
    }


if __name__ == "__main__":
    for name, text in pages().items():
        changed = not (HERE / name).is_file() or (HERE / name).read_text(encoding="utf-8") != text
        (HERE / name).write_text(text, encoding="utf-8")
        print(f"{name}: {'written' if changed else 'as it was'}", file=sys.stderr)
