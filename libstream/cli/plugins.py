"""`libstream plugins`: what is installed, and what keeps a part of it from working."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from libstream import registry
from libstream.cli.command import OK, Command, one_line, say, say_json
from libstream.errors import LibstreamError

GROUPS: tuple[registry.Group, ...] = ("udfs", "formats", "detectors", "executors", "sinks", "commands")

_EXAMPLES = """\
  libstream plugins                  all of them, one line each
  libstream plugins udfs             UDFs only, with their parameters
  libstream plugins --json           for programs: with the schema of each UDF's parameters"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", nargs="?", choices=GROUPS, help="show this group only; UDFs then with their parameters")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _rows(group: registry.Group, *, schemas: bool) -> list[dict[str, Any]]:
    rows = []
    for plugin in registry.plugins(group):
        row: dict[str, Any] = {"name": plugin.name, "value": plugin.value, "package": plugin.distribution, "status": "ok", "summary": ""}
        try:
            loaded = registry.load(group, plugin.name)
            row["summary"] = getattr(loaded, "summary", "") if group == "commands" else _first_line(loaded)
            if group == "udfs" and schemas:
                from libstream.contracts.params import schema

                row["parameters"] = schema(loaded)
        except LibstreamError as exc:
            row["status"] = one_line(exc)
        except Exception as exc:  # noqa: BLE001  a broken plug-in is what this command is to show
            row["status"] = f"cannot be loaded: {type(exc).__name__}: {one_line(exc)}"
        rows.append(row)
    return rows


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _limits(described: dict[str, Any]) -> str:
    options = described.get("anyOf", [described])
    kinds = " or ".join(str(o.get("format") or o.get("type", "value")) for o in options if o.get("type") != "null")
    choices = described.get("enum")
    limits = [f"{sign} {described[k]:g}" for k, sign in _SIGNS.items() if k in described]
    default = f"default {described['default']}" if described.get("default") is not None else ""
    what = ", ".join(map(str, choices)) if choices else kinds
    return ", ".join(part for part in (f"{what} {described.get('unit', '')}".strip(), " and ".join(limits), default) if part)


_SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _run(args: argparse.Namespace) -> int:
    groups = (args.group,) if args.group else GROUPS
    found = {group: _rows(group, schemas=bool(args.json or args.group == "udfs")) for group in groups}
    if args.json:
        say_json(found)
        return OK
    for group, rows in found.items():
        if not rows:
            continue
        say(f"{group}:")
        width = max(len(row["name"]) for row in rows)
        for row in rows:
            foreign = "" if row["package"] in ("libstream", "") else f" [{row['package']}]"
            say(f"  {row['name']:<{width}}  {row['summary'] if row['status'] == 'ok' else row['status']}{foreign}")
            required = row.get("parameters", {}).get("required", [])
            for name, described in row.get("parameters", {}).get("properties", {}).items():
                title = described.get("description") or described.get("title") or ""
                note = f"  {title}" if title and title.lower() != name.replace("_", " ") else ""
                say(f"      {name}: {_limits(described)}{' (required)' if name in required else ''}{note}")
    return OK


COMMAND = Command("list installed UDFs, formats, executors, commands", _configure, _run, _EXAMPLES)
