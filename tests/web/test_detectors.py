"""Detectors of the settings file, and what a detector says before anybody connects."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from libstream import config
from libstream.errors import UsageError
from libstream.jobs import detectors

GOOD = """
[eiger]
url = "dectris://10.0.0.1:9999?api=80"
title = "Eiger, left column"
scan = [256, 256]
scan_step = "0.4 nm"

[other]
url = "libstream://127.0.0.1:9876?curve=secret.key"
"""


def test_detectors_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBSTREAM_DETECTORS", str(tmp_path / "detectors.toml"))
    (tmp_path / "detectors.toml").write_text(GOOD)
    found, wrong = detectors.configured()
    assert wrong == ""
    assert found[0].json() == {
        "name": "eiger", "title": "Eiger, left column", "url": "dectris://10.0.0.1:9999",
        "options": {"scan": [256, 256], "scan_step": "0.4 nm"},
    }  # fmt: skip
    assert found[1].json()["url"] == "libstream://127.0.0.1:9876", "keys are not told to pages"
    assert detectors.by_name("other").url.endswith("?curve=secret.key")
    with pytest.raises(UsageError, match="no configured detector 'x'; there are: eiger, other"):
        detectors.by_name("x")
    (tmp_path / "detectors.toml").write_text("")  # read anew each time
    assert detectors.configured() == ([], "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a\n", "detectors.toml"),
        ("a = 3\n", r"\[a\]: a detector is a table with a url"),
        ('[a]\nurl = "http://x"\n', "does not begin with one of .*dectris://"),
        ('[a]\nurl = "dectris://x:1"\ntitle = 3\n', "title is a text"),
        (None, "No such file"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_and_the_rest_is_there(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "detectors.toml"
    if text is not None:
        path.write_text(text)
    found, wrong = detectors.configured(path)
    assert found == []
    assert re.search(words, wrong), wrong
    if text is not None and "[a\n" not in text:
        path.write_text(GOOD + text)
        assert [d.name for d in detectors.configured(path)[0]] == ["eiger", "other"]


def test_the_folder_of_settings_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIBSTREAM_DETECTORS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config.detectors_file() is None
    assert detectors.configured() == ([], "")
    (tmp_path / "libstream").mkdir()
    (tmp_path / "libstream" / "detectors.toml").write_text(GOOD)
    assert len(detectors.configured()[0]) == 2


def test_what_cannot_be_asked_says_why() -> None:
    assert detectors.announced("libstream://127.0.0.1:9") == {}, "it has no control port"
    assert "error" in detectors.announced("dectris://127.0.0.1:9?api=9")
    assert "error" in detectors.announced("nonsense")


@pytest.mark.parametrize(
    ("says", "frames"),
    [
        ({"nimages": 256, "ntrigger": 4}, 1024),
        ({"nimages": 7}, 7),
        ({"numframestoacquire": 65536}, 65536),
        ({"nimages": 0}, None),
        ({}, None),
    ],
)
def test_frames_that_a_detector_announces(says: dict[str, object], frames: int | None) -> None:
    assert detectors._frames(says) == frames
