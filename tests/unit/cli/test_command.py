"""Words: sizes, times, JSON, messages of the library in the words of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libstream.cli.command import as_options, duration, jsonable, n_of, nearest, one_line, size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8 frames: pass scan=(2, 4) if they are a scan", "8 frames: pass --scan 2,4 if they are a scan"),
        ("pass scan=(8,)", "pass --scan 8"),
        ("scan=(3, 3) has 9 positions", "--scan 3,3 has 9 positions"),
        ("or sync_offset=0 to open it", "or --sync-offset 0 to open it"),
        ("took /a/b; dataset= chooses another: /c", "took /a/b; --dataset chooses another: /c"),
        ("give pixel='0.9 mrad', or", "give --pixel '0.9 mrad', or"),
        ("or run with executor='threads'", "or run with --executor threads"),
        ("pass format='raw', dtype= and frame=", "pass --format raw, --dtype and --frame"),
        (
            "e.g. ls.open(path, format='raw', frame=(256, 256)) or scan=(2, 2)",
            "e.g. ls.open(path, format='raw', frame=(256, 256)) or --scan 2,2",
        ),
        ("rotation_deg=12.5", "--rotation 12.5"),
        ("nothing to change; microscan=(2, 2)", "nothing to change; microscan=(2, 2)"),
    ],
)
def test_messages_in_the_words_of_the_command_line(text: str, expected: str) -> None:
    assert as_options(text) == expected


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (537e6, "537 MB"), (2.147e9, "2.15 GB"), (3e13, "30 TB")]
)
def test_size(n_bytes: float, text: str) -> None:
    assert size(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.02, "20 ms"), (0.0996, "0.1 s"), (9.94, "9.9 s"), (42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts() -> None:
    assert [n_of(n, "file") for n in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]


def test_nearest() -> None:
    assert nearest("virtualdetector", ["Sum", "VirtualDetector"]) == " (did you mean VirtualDetector?)"
    assert nearest("xyz", ["Sum"]) == ""


def test_json_is_strict() -> None:
    value: dict[Any, Any] = {
        "nan": float("nan"), "inf": np.inf, "array": np.array([[1, 2]]), "scalar": np.float32(0.5), "complex": 1 + 2j, "path": Path("a"),
        3: (True, None, np.bool_(False)), "deep": {"x": [np.nan]},
    }  # fmt: skip
    expected = {
        "nan": None, "inf": None, "array": [[1, 2]], "scalar": 0.5, "complex": [1.0, 2.0], "path": "a", "3": [True, None, False],
        "deep": {"x": [None]},
    }  # fmt: skip
    assert json.loads(json.dumps(jsonable(value), allow_nan=False)) == expected


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (ValueError(), "ValueError"),
        (KeyError("a key"), "a key"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied"),
        (OSError("plain"), "plain"),
    ],
)
def test_one_line(exc: BaseException, text: str) -> None:
    assert one_line(exc) == text
