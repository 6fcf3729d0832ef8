"""Rules for the page's own files; no browser needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import libstream.web_gui

STATIC = Path(libstream.web_gui.__file__).parent / "static"
MODULES = sorted(STATIC.glob("js/**/*.js"))
IMPORT = re.compile(r'^import \{ [\w, ]+ \} from "(\.{1,2}/[\w/]+\.js)";$')
NAME = re.compile(r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", re.M)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.name)
def test_a_module_is_short_and_imports_names_from_beside_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    assert "eval(" not in text
    assert "new Function" not in text
    assert "innerHTML" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), "an address of another host"
    for line in text.splitlines():
        if line.startswith("import "):
            found = IMPORT.match(line)
            assert found, f"not a named relative import: {line}"
            assert (path.parent / found[1]).resolve() in MODULES, line
        assert not line.startswith("export default")


def test_top_level_names_are_unique() -> None:
    owners: dict[str, list[str]] = {}
    for path in MODULES:
        for name in NAME.findall(path.read_text(encoding="utf-8")):
            owners.setdefault(name, []).append(path.name)
    assert not {n: o for n, o in owners.items() if len(o) > 1}


def test_every_import_exists() -> None:
    for path in MODULES:
        for names, where in re.findall(r'^import \{ ([\w, ]+) \} from "([^"]+)"', path.read_text(encoding="utf-8"), re.M):
            there = (path.parent / where).resolve().read_text(encoding="utf-8")
            for name in names.split(", "):
                assert re.search(rf"^export (async )?(function|class|const) {name}\b", there, re.M), f"{path.name}: {name}"


def test_the_page_has_nothing_inline_and_is_light() -> None:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert "style=" not in html
    assert " on" not in re.sub(r"content=\"[^\"]*\"", "", html).replace(" only", "")
    assert not re.search(r"<script(?![^>]*src=)[^>]*>", html)
    assert not re.search(r"//[a-z]", html)
    css = (STATIC / "app.css").read_text(encoding="utf-8")
    assert "@import" not in css
    assert "url(" not in css
    total = sum(p.stat().st_size for p in STATIC.rglob("*") if p.is_file())
    assert total < 300_000


def test_the_page_fetches_all_modules_at_once() -> None:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    listed = re.findall(r'<link rel="modulepreload" href="static/([^"]+)">', html)
    assert sorted(listed) == sorted(p.relative_to(STATIC).as_posix() for p in MODULES)
