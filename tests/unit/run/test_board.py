"""The board keeps the newest result; readers pull, nobody waits for them."""

from __future__ import annotations

import threading
import time

import numpy as np

from libstream.model.partial import Coverage
from libstream.model.result import Result
from libstream.run.board import Board


def result(version: int) -> Result:
    return Result({}, Coverage(np.zeros(3, np.uint8)), version=version)


def test_versions() -> None:
    board = Board()
    assert (board.version, board.next_version(), board.get()) == (0, 1, None)
    board.publish(result(board.next_version()))
    assert (board.version, board.next_version()) == (1, 2)
    newest = board.get()
    assert newest is not None
    assert newest.version == 1


def test_older_results_are_skipped() -> None:
    board = Board()
    for version in (1, 2, 3):
        board.publish(result(version))
    got = board.wait(0, 0.0)
    assert got is not None
    assert got.version == 3
    assert board.wait(3, 0.0) is None


def test_a_reader_is_woken_by_a_publication_and_by_the_end() -> None:
    board = Board()
    for wake in (lambda: board.publish(result(1)), board.wake):
        got: list[Result | None] = []
        seen = board.version
        reader = threading.Thread(target=lambda s=seen, g=got: g.append(board.wait(s, 20.0)))
        reader.start()
        time.sleep(0.05)
        begun = time.monotonic()
        wake()
        reader.join()
        assert time.monotonic() - begun < 5.0
        assert [None if r is None else r.version for r in got] == ([1] if seen == 0 else [None])
