"""The modules of the page that a view in a notebook needs, as one module: no build step, no Node. Pure.

It relies on what tests/browser/test_modules.py checks: imports are of names, relative, one a line; top-level names are unique.
"""

from __future__ import annotations

import functools
import json
import posixpath
import re
from pathlib import Path

from libstream.errors import LibstreamError

STATIC = Path(__file__).parent / "static"
ENTRY = "jupyter/widget.js"
_IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "(\.{1,2}/[^"]+)";\n', re.M)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let) )", re.M)


@functools.cache
def module() -> str:
    """One ES module whose default export has `render`, styles included."""
    parts: list[str] = []
    done: set[str] = set()
    _add(ENTRY, (), done, parts)
    return f"const LIBSTREAM_CSS = {json.dumps(styles())};\n" + "".join(parts)


def modules(entry: str = ENTRY) -> list[str]:
    """Paths of the modules that `entry` needs, itself included, each after those that it imports."""
    done: set[str] = set()
    order: list[str] = []
    _add(entry, (), done, [], order)
    return order


def _add(path: str, importers: tuple[str, ...], done: set[str], parts: list[str], order: list[str] | None = None) -> None:
    """Append a module after those that it imports. Circles are fine: only functions use what comes from further down."""
    if path in done or path in importers:
        return
    text = (STATIC / path).read_text(encoding="utf-8")
    for _, target in _IMPORT.findall(text):
        _add(posixpath.normpath(posixpath.join(posixpath.dirname(path), target)), (*importers, path), done, parts, order)
    done.add(path)
    body = _EXPORT.sub("", _IMPORT.sub("", text))
    if re.search(r"^import ", body, re.M):
        raise LibstreamError(f'{path} has an import that cannot be bundled: only `import {{ a, b }} from "./beside.js";` can')
    parts.append(f"// {path}\n{body}\n")
    if order is not None:
        order.append(path)


def styles() -> str:
    """The page's styles for a shadow tree: what it says of the page and of `body` goes to the host and to the view's root."""
    page = (STATIC / "app.css").read_text(encoding="utf-8")
    page = re.sub(r"^html, body \{[^}]*\}\n", "", page, flags=re.M)
    page = re.sub(r":root(\[[^\]]*\])", r":host(\1)", page).replace(":root", ":host")
    page = re.sub(r"(^|[,}] ?)body(?=[ .{])", r"\1.libstream", page, flags=re.M)
    return page + (STATIC / "jupyter/notebook.css").read_text(encoding="utf-8")
