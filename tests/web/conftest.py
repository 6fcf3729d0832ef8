"""A session without a server, its scan and its folder of UDFs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from libstream.jobs.catalog import Catalog
from libstream.jobs.keep import Keep
from libstream.jobs.session import Session
from tests.web.sessions import FRAMES, OWN


@pytest.fixture
def scan(tmp_path: Path) -> str:
    np.save(tmp_path / "scan.npy", FRAMES)
    return str(tmp_path / "scan.npy")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "udfs"
    folder.mkdir()
    (folder / "mine.py").write_text(OWN.replace("FACTOR", "1"))
    return folder


@pytest.fixture
def session(tmp_path: Path, own: Path) -> Iterator[Session]:
    s = Session(catalog=Catalog(own), keep=Keep(tmp_path / "state"), out=tmp_path / "out")
    yield s
    assert s.close()
