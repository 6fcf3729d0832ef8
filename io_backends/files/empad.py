"""EMPAD (Cornell / Thermo Fisher): a .raw file of float32 frames and an .xml file that describes it."""

from __future__ import annotations

import ast
import itertools
import math
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from libstream.ext import Axis, CorruptFileError, DataShape, FormatError, FrameSource, SourceMeta, param
from libstream.io_backends.files._fixed import FixedLayout
from libstream.io_backends.files._identity import local_path, source_id, stat_file, whole_frames
from libstream.io_backends.files._xml import flatten, read_xml

_SIG = (128, 128)
# two rows of 128 floats of detector metadata follow the 128 rows of pixels
_STRIDE = 130 * 128 * 4
_NAMED = re.compile(r"scan_x(\d+)_y(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class EmpadOptions:
    """allow_truncated: use the frames that are there, as a stack, where the file contradicts its .xml or ends within a frame."""

    allow_truncated: bool = param(False, title="Accept another number of frames than announced")


class EmpadFormat:
    """EMPAD series and scans, opened by their .xml or their .raw."""

    name: ClassVar[str] = "empad"
    suffixes: ClassVar[tuple[str, ...]] = (".xml", ".raw")
    options: ClassVar[type] = EmpadOptions

    def probe(self, head: bytes, path: str) -> float:
        """Sure of an .xml that names a raw file, and of a .raw that such an .xml beside it names."""
        if path.lower().endswith(".xml"):
            return 0.95 if _is_empad(head) else 0.0
        if path.lower().endswith(".raw"):
            return 0.9 if _companion(local_path(path)) is not None else 0.0
        return 0.0

    def open(self, uri: str, options: EmpadOptions) -> FrameSource:
        """Open an acquisition. Raises FormatError naming the missing one of the two files, CorruptFileError for wrong counts."""
        path = local_path(uri)
        if path.lower().endswith(".xml"):
            stat_file(path)
            xml, root = path, read_xml(path)
            raw = _raw_beside(path, root)
        else:
            stat_file(path)
            found = _companion(path)
            if found is None:
                expected = os.path.splitext(path)[0] + ".xml"
                raise FormatError(f"{path}: no .xml beside it describes this file, expected {expected}. Put it there, or use format='raw'.")
            xml, raw, root = found, path, read_xml(found)
        file = stat_file(raw)
        n = whole_frames(file, offset=0, stride=_STRIDE, last=_STRIDE, allow_truncated=options.allow_truncated)
        scan, mode, notes = _scan(root, raw, xml, n, options.allow_truncated)
        layout = FixedLayout((replace(file, n_frames=n),), _SIG, np.dtype("<f4"), _STRIDE)
        axes, more = _axes(root, scan, mode)
        meta = SourceMeta(
            id=source_id(uri, self.name, [xml, raw]),
            shape=DataShape(scan, _SIG),
            dtype=layout.out_dtype,
            axes=axes,
            n_frames=n,
            vendor=flatten(root),
            notes=(*notes, *more),
        )
        return FrameSource(meta, layout)


def _is_empad(head: bytes) -> bool:
    return b"<raw_file" in head and b"filename=" in head


def _companion(raw: str) -> str | None:
    """The .xml beside `raw` that describes it: of the same name, or one of the first 256 that names it."""
    folder, name = os.path.split(raw)
    stem = os.path.splitext(name)[0]
    candidates = [stem + ".xml", stem + ".XML"]
    try:
        with os.scandir(folder) as entries:
            found = itertools.islice((e.name for e in entries if e.name.lower().endswith(".xml")), 256)
            candidates += sorted(found)
    except OSError:
        return None
    for candidate in candidates:
        path = os.path.join(folder, candidate)
        try:
            with open(path, "rb") as f:
                head = f.read(64 * 1024)
        except OSError:
            continue
        if _is_empad(head) and (candidate in candidates[:2] or b'"' + name.encode() + b'"' in head):
            return path
    return None


def _raw_beside(xml: str, root: ET.Element) -> str:
    element = root.find("raw_file")
    given = element.get("filename") if element is not None else None
    if not given:
        raise FormatError(f"{xml}: names no raw file (<raw_file filename=...>). Is it the .xml of an EMPAD acquisition?")
    # the path of the acquisition computer is of no use here, and must not lead anywhere
    named = os.path.join(os.path.dirname(xml), re.split(r"[/\\]", given)[-1])
    same = os.path.splitext(xml)[0] + ".raw"
    for raw in (named, same):
        if os.path.isfile(raw):
            return raw
    raise FormatError(f"{xml}: describes an acquisition, but its data are not here: expected {named}. Copy that file beside the .xml.")


def _number(element: ET.Element | None, tag: str) -> float | None:
    text = element.findtext(tag) if element is not None else None
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _scan(root: ET.Element, raw: str, xml: str, n: int, lenient: bool) -> tuple[tuple[int, ...], ET.Element | None, list[str]]:
    """(shape of the scan, the scan parameters that hold, notes). The .xml has several; the one that fits the file's size is right."""
    claims: list[tuple[str, tuple[int, ...], ET.Element | None]] = []
    modes = {e.get("mode", ""): e for e in root.findall("scan_parameters")}

    def claim(where: str, y: float | None, x: float | None, mode: ET.Element | None) -> None:
        if y is not None and x is not None and y >= 1 and x >= 1:
            claims.append((where, (int(y), int(x)), mode))

    for name in ("acquire", "search"):
        given = modes.get(name)
        claim(f"scan_parameters of mode {name!r}", _number(given, "scan_resolution_y"), _number(given, "scan_resolution_x"), given)
    claim("pix_y, pix_x", _number(root, "pix_y"), _number(root, "pix_x"), None)
    series = [_number(e, "series_count") for e in modes.values()] + [_number(root, "count")]
    claims += [("series_count", (int(c),), None) for c in series if c is not None and c >= 1]
    # users scan with the "search" parameters too; the name that the software gives the raw file then tells
    if (match := _NAMED.search(os.path.basename(raw))) is not None:
        named = (int(match[2]), int(match[1]))
        claims.insert(0, ("name of the raw file", named, next((m for _, s, m in claims if s == named), None)))
    if (root.findtext("type") or "").strip() == "series":
        claims.sort(key=lambda c: len(c[1]))
    for i, (where, shape, mode) in enumerate(claims):
        if math.prod(shape) == n:
            notes = [f"shape of the scan {shape} from the {where}; the {claims[0][0]} says {claims[0][1]}"] if i else []
            return (shape if shape != (1,) else ()), mode, notes
    if not claims:
        return ((n,) if n != 1 else ()), None, [f"{os.path.basename(xml)} does not say the shape of the scan; pass scan=(y, x)"]
    where, shape, mode = claims[0]
    if lenient:
        return (n,), mode, [f"{n} frames, but the {where} says {shape}; pass scan=(y, x)"]
    raise CorruptFileError(
        f"{raw}: holds {n} frames, but {os.path.basename(xml)} announces {shape} = {math.prod(shape)} ({where}). "
        "Truncated copy? Copy it again, or pass allow_truncated=True to use the frames that are there as a stack."
    )


def _axes(root: ET.Element, scan: tuple[int, ...], mode: ET.Element | None) -> tuple[tuple[Axis, ...], list[str]]:
    iom = root.find("iom_measurements")
    steps: tuple[float | None, ...] = (None,) * len(scan)
    notes = []
    view = iom.find("full_scan_field_of_view") if iom is not None else None
    width, factor = _number(view, "x"), _number(view, "scale_factor") or 1.0
    size = _number(mode, "scan_size") or 1.0
    legacy = iom.findtext("optics.get_full_scan_field_of_view") if iom is not None else None
    if len(scan) == 2 and width is not None:
        # the field is that of the longer side, and is recorded multiplied by the factor
        steps = (width / factor * size / max(scan) * 1e9,) * 2
    elif len(scan) == 2 and legacy is not None:
        try:
            x, y = (float(v) for v in ast.literal_eval(legacy.strip()))
            steps = (y / scan[0] * 1e9, x / scan[1] * 1e9)
            notes.append("the scan step comes from the microscope's full field of view; check it, or pass scan_step=")
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
    angle, inverse = _number(iom, "calibrated_diffraction_angle"), _number(iom, "calibrated_pixelsize")
    pixel, unit = (angle * 1e3, "mrad") if angle else (inverse * 1e9, "1/nm") if inverse else (None, "px")
    names = {0: (), 1: ("frame",), 2: ("y", "x")}[len(scan)]
    axes = [_axis(a, n, s, "nm") for a, n, s in zip(names, scan, steps, strict=True)]
    return (*axes, *(_axis(a, 128, pixel, unit) for a in ("ky", "kx"))), notes


def _axis(name: str, size: int, step: float | None, unit: str) -> Axis:
    return Axis(name, size, step, 0.0, unit) if step is not None and step > 0 and math.isfinite(step) else Axis(name, size)
