"""The progress line: numbers, not looks."""

from __future__ import annotations

import io

import pytest

from libstream.cli.progress import LINE_EVERY_S, Progress


class Clock:
    """A clock that is set by hand [s]."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_plain_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("scan.mib", 1000, frame_bytes=1e6, tty=False, clock=clock) as progress:
        for _ in range(10):
            clock.now += LINE_EVERY_S / 5
            progress.update(50)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "scan.mib: 250 of 1,000 frames (25 %), 50 frames/s, 0.05 GB/s, 15 s left",
        "scan.mib: 500 of 1,000 frames (50 %), 50 frames/s, 0.05 GB/s, 10 s left",
    ]
    assert progress.summary() == "500 frames in 10 s (500 MB, 0.05 GB/s)"


def test_quiet_and_unknown_size(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Progress("x", tty=False, quiet=True, clock=clock) as progress:
        clock.now += 60
        progress.update(3)
    assert capsys.readouterr().err == ""
    assert progress.line() == "x: 3 of 0 frames, 0 frames/s"
    assert progress.summary() == "3 frames in 1 min 0 s"


def test_frames_of_several_files_add_up() -> None:
    clock = Clock()
    progress = Progress("2 files", tty=False, clock=clock)
    for frames, size in ((10, 100), (30, 200)):
        progress.expect(frames)
        clock.now += 1
        progress.update(frames, size)
    assert (progress.done, progress.total) == (40, 40)
    assert progress.summary() == "40 frames in 2.0 s (7 kB, 0.00 GB/s)"


def test_bar_on_a_terminal() -> None:
    stream = Terminal()
    with Progress("scan.mib", 1000, frame_bytes=1e6, stream=stream) as progress:
        progress.update(999)
        progress.message("a note")
    text = stream.getvalue()
    assert "scan.mib" in text
    assert "a note\n" in text
    assert "of 1,000 frames, " in text
    assert ", ," not in text


def test_bar_before_the_number_of_frames_is_known() -> None:
    stream = Terminal()
    with Progress("scan.mib", stream=stream) as progress:
        assert "scan.mib: getting ready" in stream.getvalue()
        progress.expect(1000)
        progress.update(999)
        progress.message("a note")  # after which it is drawn again
    assert "of 1,000 frames, " in stream.getvalue()
