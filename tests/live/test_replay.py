"""Any source as a detector, and faults of which every one is accounted for."""

from __future__ import annotations

import itertools
import json
import threading
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import libstream as ls
from libstream import registry
from libstream.errors import FormatError, UsageError
from libstream.live.faults import Faults, ReplayAccount
from libstream.live.record import Recorder
from libstream.live.replay import is_recording_of, replay
from tests.live.fake import LINES, FakeKind, Line

DATA = np.random.default_rng(0).poisson(5, (5, 6, 32, 16)).astype(np.uint16)


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda group, name: FakeKind if (group, name) == ("detectors", "fake") else load(group, name))


def sent(data: Any = DATA, query: str = "", **how: Any) -> tuple[ReplayAccount, list[tuple[bytes, ...]]]:
    """The account of a replay, and the messages that went out."""
    host = uuid.uuid4().hex
    account = replay(ls.open(data) if isinstance(data, np.ndarray) else data, f"fake://{host}{query}", **how)
    line = LINES.pop(host)
    return account, [line.get()[0] for _ in range(line.qsize())]


def numbers(messages: list[tuple[bytes, ...]], run: int | None = None) -> list[int]:
    """Numbers of the frames, in the order of sending."""
    said = [json.loads(m[0]) for m in messages]
    return [s["k"] for s in said if s["t"] == "f" and run in (None, s["run"])]


def test_every_frame_in_order() -> None:
    account, messages = sent()
    assert [json.loads(m[0])["t"] for m in (messages[0], messages[-1])] == ["begin", "end"]
    assert numbers(messages) == list(range(30))
    pixels = np.stack([np.frombuffer(m[1], np.uint16).reshape(32, 16) for m in messages[1:-1]])
    np.testing.assert_array_equal(pixels.reshape(DATA.shape), DATA)
    (run,) = account.runs
    assert (run.run, run.n_frames, run.sent, run.n_messages, run.ended, run.n_not_sent) == (1, 30, 30, 32, True, 0)
    assert run.n_bytes == sum(len(p) for m in messages for p in m)
    assert not account.died
    assert not account.cancelled


def test_runs_follow_each_other() -> None:
    account, messages = sent(run=7, repeat=3, pause_s=0.001)
    assert [r.run for r in account.runs] == [7, 8, 9]
    assert [numbers(messages, r) for r in (7, 8, 9)] == [list(range(30))] * 3


def test_little_memory_is_enough() -> None:
    account, messages = sent(np.tile(DATA, (10, 1, 1, 1)), ahead_bytes=1)
    assert numbers(messages) == list(range(300))
    assert account.n_frames == 300


FRACTION = st.sampled_from([0.0, 0.1, 0.5, 1.0])


@settings(deadline=None, max_examples=40)
@given(
    faults=st.fixed_dictionaries(dict.fromkeys(("loss", "duplicate", "reorder", "late", "corrupt", "truncate"), FRACTION)),
    window=st.integers(1, 40), sectors=st.sampled_from([1, 2, 4]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_the_account_says_what_arrived(faults: dict[str, float], window: int, sectors: int, seed: int) -> None:
    load = registry.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda group, name: FakeKind if (group, name) == ("detectors", "fake") else load(group, name))
        account, messages = sent(query=f"?sectors={sectors}", seed=seed, window=window, **faults)
        again, same = sent(query=f"?sectors={sectors}", seed=seed, window=window, **faults)
    (run,) = account.runs
    assert same == messages
    assert again.runs == account.runs
    expected = Counter(dict.fromkeys(range(30), sectors))
    expected.subtract(run.lost)
    expected.update(run.duplicated)
    assert +expected == Counter(numbers(messages))
    assert len(run.lost) + len(run.corrupted) + len(run.truncated) + run.sent == 30 * sectors
    end = next(i for i, m in enumerate(messages) if json.loads(m[0])["t"] == "end")
    late = Counter(numbers(messages[end:]))
    assert set(late) == set(run.late)
    if not faults["reorder"]:
        before = numbers(messages[:end])
        assert before == sorted(before)


def test_pixels_are_damaged_only_where_it_says_so() -> None:
    _, good = sent()
    account, messages = sent(corrupt=0.3, truncate=0.3, seed=3)
    (run,) = account.runs
    assert run.corrupted
    assert run.truncated
    for whole, message in zip(good, messages, strict=True):
        number = json.loads(message[0]).get("k")
        if number in run.corrupted:
            assert len(message[1]) == len(whole[1])
            assert message[1] != whole[1]
        elif number in run.truncated:
            assert len(message[1]) < len(whole[1])
        else:
            assert message == whole


def test_reordering_stays_within_its_window() -> None:
    account, messages = sent(np.tile(DATA, (10, 1, 1, 1)), reorder=0.3, window=5, seed=1)
    order = numbers(messages)
    assert order != sorted(order)
    assert max(abs(k - i) for i, k in enumerate(order)) <= 5
    assert set(account.runs[0].reordered) >= {b for a, b in itertools.pairwise(order) if b < a}


def test_delayed_messages_come_later() -> None:
    account, messages = sent(delay=0.2, delay_s=0.02, rate=1000, seed=2)
    assert account.runs[0].delayed
    assert Counter(numbers(messages)) == Counter(range(30))
    assert numbers(messages) != list(range(30))


def test_another_client_takes_its_share() -> None:
    account, messages = sent(every=3)
    assert numbers(messages) == [k for k in range(30) if k % 3 != 2]
    assert account.runs[0].skipped == list(range(2, 30, 3))


def test_no_header_no_end() -> None:
    account, messages = sent(no_header=True, no_end=True)
    assert {json.loads(m[0])["t"] for m in messages} == {"f"}
    assert not account.runs[0].ended


def test_dies() -> None:
    account, messages = sent(die_at=12, repeat=2)
    assert account.died
    assert numbers(messages) == list(range(12))
    assert [r.n_not_sent for r in account.runs] == [18]


def test_the_next_run_begins_too_early() -> None:
    account, messages = sent(new_run_at=10)
    assert [(r.run, r.sent, r.n_not_sent, r.ended) for r in account.runs] == [(1, 10, 20, False), (2, 30, 0, True)]
    assert numbers(messages, 1) == list(range(10))
    assert numbers(messages, 2) == list(range(30))


def test_frames_of_a_run_without_header() -> None:
    account, messages = sent(foreign_at=25)
    assert account.runs[0].foreign == [25, 26, 27, 28, 29]
    assert numbers(messages, 1) == list(range(25))


def test_more_frames_than_announced_and_of_another_shape() -> None:
    account, messages = sent(extra=4, wrong_shape=0.2, seed=5)
    (run,) = account.runs
    assert run.extra == [30, 31, 32, 33]
    assert run.wrong_shape
    for m in messages[1:-1]:
        said = json.loads(m[0])
        assert said["shape"] == [31 if said["k"] in run.wrong_shape else 32, 16]


def test_frames_that_the_source_has_not_got_are_absent() -> None:
    from libstream.testing.sources import ScriptedSource

    bad = np.zeros(30, bool)
    bad[[3, 4]] = True
    source = ScriptedSource(DATA, invalid=bad, scan=(5, 7), sync_offset=-2)
    account, messages = sent(source)
    assert account.runs[0].absent == [0, 1, 5, 6, 32, 33, 34]
    assert numbers(messages) == [k for k in range(35) if k not in account.runs[0].absent]


def test_rate_is_kept() -> None:
    account, _ = sent(np.tile(DATA, (10, 1, 1, 1)), rate=2000)
    assert account.seconds >= 299 / 2000 - 0.002  # never faster; slower where the computer is


def test_stalls_until_cancelled_and_says_what_was_not_sent() -> None:
    stop, seen = threading.Event(), []

    def progress(state: Any) -> None:
        seen.append(state.frames)
        if state.frames >= 9:
            stop.set()

    account, messages = sent(stall_at=9, cancel=stop, progress=progress)
    assert account.cancelled
    assert numbers(messages) == list(range(9))
    assert account.runs[0].n_not_sent == 21
    assert seen[-1] == 9


def test_can_be_stopped_while_nobody_receives() -> None:
    stop = threading.Event()
    host = uuid.uuid4().hex
    line = Line(host, room=4)
    account = replay(ls.open(DATA), f"fake://{host}", cancel=stop, progress=lambda s: stop.set() if s.waiting else None)
    assert account.cancelled
    assert line.queue.qsize() == 4
    with pytest.raises(TimeoutError, match=r"nobody took a message for 0\.06 s"):
        replay(ls.open(DATA), f"fake://{host}", patience_s=0.06)
    LINES.pop(host)


def test_a_failing_source_ends_the_replay() -> None:
    source = ls.open(DATA)

    class Broken:
        def open_reader(self, channel: str) -> Any:
            raise OSError("the disk is gone")

    source.opener = Broken()
    with pytest.raises(OSError, match="the disk is gone"):
        sent(source)


def raw_recording(folder: Path, messages: list[tuple[bytes, ...]]) -> Path:
    """A recording of these messages, two in a block."""
    with Recorder(folder, "fake://here", "fake", reserve_bytes=0) as recorder:
        for pair in zip(messages[::2], messages[1::2], strict=True):
            parts = [(m, p) for m, message in enumerate(pair) for p in message]
            starts = np.cumsum([0, *(len(p) for _, p in parts)])
            table = np.array([(m, at, len(p)) for (m, p), at in zip(parts, starts, strict=False)])
            recorder.put(np.frombuffer(b"".join(p for _, p in parts), np.uint8), table, len(table), None, 0, lambda: None)
    return folder


def test_a_recording_is_sent_message_by_message(tmp_path: Path) -> None:
    _, messages = sent()
    messages = [(b"announcement",), (b"\xff", b"", b"x"), *messages]
    folder = raw_recording(tmp_path / "raw", messages)
    account, again = sent(folder, repeat=2, pause_s=0.001)
    assert again == messages * 2
    assert [(r.run, r.n_frames, r.sent, r.n_messages, r.ended) for r in account.runs] == [(1, 30, 30, 34, True)] * 2
    assert account.n_bytes == 2 * sum(len(p) for m in messages for p in m)
    account, lossy = sent(str(folder), loss=0.3, every=5, no_end=True, seed=4)
    (run,) = account.runs
    assert run.lost
    assert run.skipped == [4, 9, 14, 19, 24, 29]
    assert numbers(lossy[2:]) == [k for k in range(30) if k not in run.lost and k not in run.skipped]
    for fault in ({"extra": 1}, {"wrong_shape": 0.1}, {"new_run_at": 3}, {"foreign_at": 3}):
        with pytest.raises(UsageError, match="needs frames that are encoded anew"):
            sent(folder, **fault)


def test_recordings_of_other_detectors_and_what_is_no_recording(tmp_path: Path) -> None:
    folder = raw_recording(tmp_path / "raw", sent()[1])
    with pytest.raises(UsageError, match="is a recording of fake, its messages cannot be sent as libstream"):
        replay(folder, "libstream://127.0.0.1:1")
    with pytest.raises(FormatError, match="a recording is a folder"):
        replay(tmp_path, "fake://x")
    assert is_recording_of(folder, "fake://x")
    assert is_recording_of(str(folder), "fake://x")
    assert not is_recording_of(folder, "merlin://x")
    assert not is_recording_of(tmp_path, "fake://x")
    assert not is_recording_of(DATA, "fake://x")
    # the verb opens what is not sent as it is
    np.save(tmp_path / "a.npy", DATA)
    host = uuid.uuid4().hex
    assert ls.replay(tmp_path / "a.npy", f"fake://{host}").runs[0].sent == 30
    LINES.pop(host)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"loss": 1.5}, "loss is a fraction"),
        ({"rate": 0}, "rate is a number"),
        ({"repeat": 0}, "repeat is the number of runs"),
        ({"los": 0.1}, "no fault 'los'; it knows loss"),
        ({"every": 1}, "every is 2 or more"),
        ({"window": 0}, "window is a number"),
        ({"die_at": -1}, "die_at is a number of frames"),
        ({"delay_s": -1}, "times in seconds"),
    ],
)
def test_refuses(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        sent(**given)


def test_account_in_words() -> None:
    account, _ = sent(loss=0.5, every=2, seed=1)
    assert "lost" in str(account)
    assert "15 skipped" in str(account)
    assert str(ReplayAccount()) == "nothing was sent"
    assert Faults(loss=0.1).per_message
    assert not Faults(every=3).per_message
