"""XML of instruments, read without letting it do harm."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from xml.parsers import expat

from libstream.ext import CorruptFileError

_MAX_BYTES = 4 * 1024 * 1024
_MAX_DEPTH = 64


def read_xml(path: str) -> ET.Element:
    """Root of an XML file of at most 4 MiB. Refuses document types and entities, which can read files or fill the memory."""
    with open(path, "rb") as f:
        data = f.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise CorruptFileError(f"{path}: is larger than {_MAX_BYTES} bytes, expected a short XML file of metadata")

    def refuse(*args: object) -> None:
        raise CorruptFileError(f"{path}: declares a document type (<!DOCTYPE ...>), which instruments do not write; it is not read")

    depth = 0

    def enter(name: str, attributes: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise CorruptFileError(f"{path}: nests more than {_MAX_DEPTH} elements, expected a short XML file of metadata")

    def leave(name: str) -> None:
        nonlocal depth
        depth -= 1

    guard = expat.ParserCreate()
    guard.StartElementHandler = enter
    guard.EndElementHandler = leave
    guard.StartDoctypeDeclHandler = refuse
    guard.EntityDeclHandler = refuse
    try:
        guard.Parse(data, True)
        return ET.fromstring(data)
    except (expat.ExpatError, ET.ParseError, ValueError, LookupError) as exc:
        raise CorruptFileError(f"{path}: is no valid XML ({exc}). Truncated copy? Copy it again.") from exc


def flatten(root: ET.Element) -> dict[str, str]:
    """Texts and attributes by path: {"scan_parameters[acquire]/scan_size": "0.6", "raw_file@filename": ...}; repeated names get #2, #3."""
    out: dict[str, str] = {}

    def walk(element: ET.Element, prefix: str) -> None:
        for key, value in element.attrib.items():
            if key not in ("mode", "roi_idx"):
                put(f"{prefix}@{key}" if prefix else key, value)
        text = (element.text or "").strip()
        if text:
            put(prefix, text)
        for child in element:
            mark = child.get("mode") or child.get("roi_idx")
            name = f"{child.tag}[{mark}]" if mark is not None else child.tag
            walk(child, f"{prefix}/{name}" if prefix else name)

    def put(key: str, value: str) -> None:
        n, free = 2, key
        while free in out:
            free, n = f"{key}#{n}", n + 1
        out[free] = value

    walk(root, "")
    return out
