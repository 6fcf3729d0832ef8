"""Messages to disk as they came: what is written can be read, whatever stopped the writer."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.codecs import lsr
from libstream.errors import CodecError, FormatError, SaveError, UsageError
from libstream.live import record
from libstream.live.record import Recorder, data_files, read_about
from libstream.live.replay import raw_messages

MASK = (1 << 64) - 1


def xxh64(data: bytes) -> int:
    """The algorithm of the specification, in whole numbers of Python: the twin of the compiled one."""
    p1, p2, p3, p4, p5 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5

    def rot(x: int, r: int) -> int:
        return ((x << r) | (x >> (64 - r))) & MASK

    def step(acc: int, lane: int) -> int:
        return rot((acc + lane * p2) & MASK, 31) * p1 & MASK

    n, at = len(data), 0
    if n >= 32:
        acc = [(p1 + p2) & MASK, p2, 0, -p1 & MASK]
        while at + 32 <= n:
            acc = [step(a, v) for a, v in zip(acc, struct.unpack_from("<4Q", data, at), strict=True)]
            at += 32
        h = sum(rot(a, r) for a, r in zip(acc, (1, 7, 12, 18), strict=True)) & MASK
        for a in acc:
            h = ((h ^ step(0, a)) * p1 + p4) & MASK
    else:
        h = p5
    h = (h + n) & MASK
    while at + 8 <= n:
        h = (rot(h ^ step(0, struct.unpack_from("<Q", data, at)[0]), 27) * p1 + p4) & MASK
        at += 8
    if at + 4 <= n:
        h = (rot(h ^ (struct.unpack_from("<I", data, at)[0] * p1 & MASK), 23) * p2 + p3) & MASK
        at += 4
    for byte in data[at:]:
        h = rot(h ^ (byte * p5 & MASK), 11) * p1 & MASK
    h = (h ^ (h >> 33)) * p2 & MASK
    h = (h ^ (h >> 29)) * p3 & MASK
    return h ^ (h >> 32)


def test_checksum_is_xxh64() -> None:
    # from the test program of the reference implementation and its documentation
    assert [lsr.sum_of(b) for b in (b"", b"a", b"abc")] == [0xEF46DB3751D8E999, 0xD24EC4F1A98C6E5B, 0x44BC2CF5AD770999]
    assert lsr.sum_of(b"Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1


@settings(deadline=None)
@given(data=st.binary(max_size=300), cut=st.tuples(st.integers(0, 20), st.integers(0, 20)))
def test_checksum_equals_its_twin(data: bytes, cut: tuple[int, int]) -> None:
    at = min(cut[0], len(data))
    size = max(0, len(data) - at - cut[1])
    got = lsr.sums(np.frombuffer(data, np.uint8), np.array([at, 0]), np.array([size, len(data)]))
    assert got.tolist() == [xxh64(data[at : at + size]), xxh64(data)]


def test_checksum_of_what_is_not_there() -> None:
    with pytest.raises(CodecError, match="outside of the 4 bytes"):
        lsr.sums(np.zeros(4, np.uint8), np.array([1]), np.array([4]))


# -- the recorder --------------------------------------------------------------------------------------------------------

Messages = list[tuple[bytes, ...]]


def blocks_of(messages: Messages, per_block: int, gap: int = 5) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Messages as a ring holds them: (block, table, rows), with gaps between the parts and spare rows in the table."""
    for first in range(0, len(messages), per_block):
        block, rows = bytearray(b"\xee" * 3), []
        for number, parts in enumerate(messages[first : first + per_block]):
            for part in parts:
                rows.append((number, len(block), len(part)))
                block += part + b"\xee" * gap
        table = np.full((len(rows) + 7, 3), -1, np.int64)
        table[: len(rows)] = rows
        yield np.frombuffer(bytes(block), np.uint8), table, len(rows)


def recorded(folder: Path, messages: Messages, per_block: int = 3, lanes: bool = False, **how: Any) -> Recorder:
    """Record messages; returns the closed recorder."""
    done = []
    with Recorder(folder, "fake://here", "fake", **how) as recorder:
        for block, table, rows in blocks_of(messages, per_block):
            n = int(table[rows - 1, 0]) + 1
            recorder.put(block, table, rows, np.arange(n) % 4 if lanes else None, 7, lambda: done.append(1))
            table[:] = 99  # used again at once
    assert len(done) == -(-len(messages) // per_block)
    return recorder


def some(n: int, seed: int = 0) -> Messages:
    """Messages of one to four parts of 0 to 200 bytes."""
    rng = np.random.default_rng(seed)
    return [tuple(rng.bytes(int(rng.integers(0, 200))) for _ in range(int(rng.integers(1, 5)))) for _ in range(n)]


def test_messages_come_back_as_they_were(tmp_path: Path) -> None:
    messages = some(100)
    recorder = recorded(tmp_path / "raw", messages, lanes=True, options={"sectors": 4})
    assert recorder.error is None
    assert recorder.n_messages == 100
    assert recorder.n_bytes == sum(p.stat().st_size for p in data_files(tmp_path / "raw"))
    assert [(s, p) for s, p, _ in raw_messages(tmp_path / "raw")] == [(1, m) for m in messages]
    assert [lane for *_, lane in raw_messages(tmp_path / "raw")] == [i % 3 for i in range(99)] + [0]
    about = read_about(tmp_path / "raw")
    assert (about["url"], about["detector"], about["options"]) == ("fake://here", "fake", {"sectors": 4})
    (session,) = about["sessions"]
    assert session["n_messages"] == 100
    assert session["n_bytes"] == recorder.n_bytes
    assert {"started", "stopped", "host", "libstream"} <= set(session)


def test_files_stay_small(tmp_path: Path) -> None:
    messages = some(200)
    recorded(tmp_path, messages, file_bytes=4096)
    files = data_files(tmp_path)
    assert [p.name for p in files] == [f"messages-{i + 1:04d}.lsr" for i in range(len(files))]
    assert len(files) > 5
    assert max(p.stat().st_size for p in files) < 4096 + 3 * 4 * 300 + 1000
    assert [p for _, p, _ in raw_messages(tmp_path)] == messages


@settings(deadline=None, max_examples=30)
@given(keep=st.floats(0, 1), seed=st.integers(0, 50))
def test_a_file_that_ends_anywhere_gives_all_messages_before(tmp_path_factory: pytest.TempPathFactory, keep: float, seed: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    messages = some(20, seed)
    recorded(folder, messages)
    (path,) = data_files(folder)
    whole = path.read_bytes()
    size = round(keep * len(whole))
    os.truncate(path, size)
    got = [p for _, p, _ in raw_messages(folder)]
    assert got == messages[: len(got)]
    # nothing that is whole is left out: the end of each message in the file, from a walk over the whole one
    ends = []
    for block in lsr.blocks(lambda at, n: whole[at : at + n], len(whole)):
        assert isinstance(block, lsr.Block)
        for number in range(block.n_messages):
            rows = block.table[block.table[:, lsr.MESSAGE] == number]
            ends.append(block.data + max(int(r[lsr.OFFSET] + r[lsr.LENGTH]) for r in rows))
    assert len(got) == sum(end <= size for end in ends)
    damage = [d for d in lsr.blocks(lambda at, n: whole[:size][at : at + n], size) if isinstance(d, lsr.Damage)]
    if len(got) < 20 and size > lsr.FILE_HEAD and not any(end == size for end in ends):
        assert all(d.tail for d in damage)


@settings(deadline=None, max_examples=30)
@given(place=st.floats(0, 0.999), seed=st.integers(0, 50))
def test_a_flipped_bit_costs_a_message_or_a_block(tmp_path_factory: pytest.TempPathFactory, place: float, seed: int) -> None:
    folder = tmp_path_factory.mktemp("bit")
    messages = some(30, seed)
    recorded(folder, messages)
    (path,) = data_files(folder)
    raw = bytearray(path.read_bytes())
    at = lsr.FILE_HEAD + int(place * (len(raw) - lsr.FILE_HEAD))
    raw[at] ^= 0x10
    path.write_bytes(raw)
    got = [p for _, p, _ in raw_messages(folder)]
    assert all(p in messages for p in got)
    assert len(got) >= 27


def test_other_files_are_refused(tmp_path: Path) -> None:
    recorded(tmp_path, some(3))
    (path,) = data_files(tmp_path)
    raw = bytearray(path.read_bytes())
    for change, says in ((0, "starts with"), (9, "is of version"), (20, "its header is damaged")):
        bad = bytearray(raw)
        bad[change] ^= 1
        path.write_bytes(bad)
        with pytest.raises(FormatError, match=says):
            list(raw_messages(tmp_path))


def test_a_recording_goes_on_in_a_new_file(tmp_path: Path) -> None:
    recorded(tmp_path, some(10))
    os.truncate(tmp_path / "messages-0001.lsr", 1500)
    before = [p for _, p, _ in raw_messages(tmp_path)]
    assert 0 < len(before) < 10
    recorded(tmp_path, some(5, seed=9))
    assert [p.name for p in data_files(tmp_path)] == ["messages-0001.lsr", "messages-0002.lsr"]
    assert list(raw_messages(tmp_path)) == [(1, m, 0) for m in before] + [(2, m, 0) for m in some(5, seed=9)]
    assert [s["first_file"] for s in read_about(tmp_path)["sessions"]] == [1, 2]


def test_goes_on_after_being_killed_at_once(tmp_path: Path) -> None:
    recorded(tmp_path, some(3))
    (tmp_path / "messages-0002.lsr").write_bytes(b"LSRF")
    recorded(tmp_path, some(2, seed=1))
    assert [p for _, p, _ in raw_messages(tmp_path)] == some(3) + some(2, seed=1)


def test_what_it_does_not_go_on_with(tmp_path: Path) -> None:
    recorded(tmp_path / "a", some(3))
    recorded(tmp_path / "b", some(3))
    with pytest.raises(UsageError, match="holds a recording of fake://here"):
        Recorder(tmp_path / "a", "merlin://here", "merlin")
    with pytest.raises(UsageError, match="options"):
        Recorder(tmp_path / "a", "fake://here", "fake", options={"sectors": 4})
    (tmp_path / "a" / "messages-0002.lsr").write_bytes((tmp_path / "b" / "messages-0001.lsr").read_bytes())
    with pytest.raises(UsageError, match="belongs to another recording"):
        Recorder(tmp_path / "a", "fake://here", "fake")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"is not empty \(thesis.tex\) and holds no recording"):
        Recorder(tmp_path / "c", "fake://here", "fake")
    (tmp_path / "c" / record.ABOUT).write_text('{"libstream_recording": 2}')
    with pytest.raises(FormatError, match="of a version"):
        Recorder(tmp_path / "c", "fake://here", "fake")
    for text in ("", "[" * 100_000, '{"libstream_recording": 1}', json.dumps({"libstream_recording": 1, "id": 5, "detector": 1})):
        (tmp_path / "c" / record.ABOUT).write_text(text)
        with pytest.raises(FormatError, match="damaged"):
            read_about(tmp_path / "c")


def test_two_recorders_do_not_share_a_folder(tmp_path: Path) -> None:
    with Recorder(tmp_path, "fake://here", "fake"), pytest.raises(UsageError, match="something is being recorded into it"):
        Recorder(tmp_path, "fake://here", "fake")
    Recorder(tmp_path, "fake://here", "fake").close()


def test_refused_where_it_cannot_fit(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=r"needs about 1000000000.0 GB, .* GB are free on this disk, of which .* stay free. Make room"):
        Recorder(tmp_path / "raw", "fake://here", "fake", needed_bytes=10**18)
    with pytest.raises(SaveError, match="there is no room for a recording"):
        Recorder(tmp_path / "raw", "fake://here", "fake", reserve_bytes=10**18)
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be recorded into"):
        Recorder(tmp_path / "file", "fake://here", "fake")


def test_stops_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = record.shutil.disk_usage(tmp_path)
    left = [3 << 30, 3 << 30, 1 << 29]
    monkeypatch.setattr(record, "_CHECK_BYTES", 0)
    monkeypatch.setattr(record.shutil, "disk_usage", lambda path: real._replace(free=left.pop(0) if len(left) > 1 else left[0]))
    recorder = recorded(tmp_path, some(9))
    assert recorder.error is not None
    assert "0.5 GB are left on the disk, of which 1.1 GB stay free" in recorder.error
    assert recorder.n_messages == 3
    assert [p for _, p, _ in raw_messages(tmp_path)] == some(9)[:3]
    assert read_about(tmp_path)["sessions"][0]["error"] == recorder.error


def test_a_full_disk_ends_the_recording_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.writev, []

    def writev(fd: int, parts: Any) -> int:
        calls.append(1)
        if len(calls) == 3:  # after the file's header and a block
            os.write(fd, bytes(parts[0])[:50])
            raise OSError(28, os.strerror(28))
        return real(fd, parts)

    monkeypatch.setattr(record.os, "writev", writev)
    recorder = recorded(tmp_path, some(9))
    assert recorder.error is not None
    assert "the disk is full" in recorder.error
    assert [p for _, p, _ in raw_messages(tmp_path)] == some(9)[:3]


def test_a_table_that_does_not_fit_its_block_keeps_no_memory(tmp_path: Path) -> None:
    done: list[int] = []
    with Recorder(tmp_path, "fake://here", "fake", reserve_bytes=0) as recorder:
        for _ in range(2):
            recorder.put(np.zeros(10, np.uint8), np.array([[0, 5, 10]]), 1, None, 0, lambda: done.append(1))
    assert done == [1, 1]
    assert "nothing more is recorded: CodecError: a part lies outside of the 5 bytes" in str(recorder.error)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record.os, "writev", lambda fd, parts: os.write(fd, bytes(parts[0])[:37]))
    recorded(tmp_path, some(20))
    monkeypatch.undo()
    assert [p for _, p, _ in raw_messages(tmp_path)] == some(20)


def test_the_receiver_never_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, real = threading.Event(), os.writev
    recorder = Recorder(tmp_path, "fake://here", "fake")

    def writev(fd: int, parts: Any) -> int:
        assert gate.wait(20)
        return real(fd, parts)

    monkeypatch.setattr(record.os, "writev", writev)
    done: list[int] = []
    for block, table, rows in blocks_of(some(30), 3):
        recorder.put(block, table, rows, None, 0, lambda: done.append(1))
    assert done == []  # nothing is let go before it is written
    recorder.close(timeout_s=0.05)
    assert "did not store everything within 0.05 s" in str(recorder.error)
    recorder.put(block, table, rows, None, 0, lambda: done.append(2))
    assert done == [2]  # after the end a block is let go at once
    gate.set()
    recorder.close()
    assert done == [2] + [1] * 10
    assert [p for _, p, _ in raw_messages(tmp_path)] == some(30)


def test_memory_is_written_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = os.writev, []

    def writev(fd: int, parts: Any) -> int:
        seen.extend(np.frombuffer(p, np.uint8) for p in parts if len(p) > 1000)
        return real(fd, parts)

    monkeypatch.setattr(record.os, "writev", writev)
    ring = np.random.default_rng(0).integers(0, 255, 100_000, dtype=np.uint8)
    with Recorder(tmp_path, "fake://here", "fake") as recorder:
        recorder.put(ring, np.array([[0, 100, 90_000]]), 1, None, 0, lambda: None)
    assert any(np.shares_memory(ring, s) and len(s) == 90_000 for s in seen)
