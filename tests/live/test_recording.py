"""A recording of a stream is opened like a file: every frame in its place, what is not there is missing, what is damaged is corrupt."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libstream as ls
from libstream import registry
from libstream.codecs import lsr
from libstream.errors import FormatError, ShapeError, SourceChangedError, UsageError
from libstream.live.record import Recorder, data_files
from libstream.model.order import ScanOrder
from libstream.model.partial import CORRUPT, MISSING
from libstream.model.shape import DataShape
from libstream.model.source import SourceId, SourceMeta
from tests.live.fake import FakeEncoder, FakeKind

DATA = np.random.default_rng(0).poisson(5, (5, 6, 8, 4)).astype(np.uint16)


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda group, name: FakeKind if (group, name) == ("detectors", "fake") else load(group, name))


Messages = list[tuple[bytes, ...]]


def messages_of(
    data: np.ndarray, run: int = 1, sectors: int = 1, numbers: Sequence[int] | None = None, channels: tuple[str, ...] = ("frames",)
) -> Messages:
    """Header, frames (in the order of `numbers`), end; data: (*scan, y, x), or (*scan, channel, y, x)."""
    encoder = FakeEncoder(sectors)
    n_sig = 2 + (len(channels) > 1)
    nav, sig = data.shape[:-n_sig], data.shape[-2:]
    encoder_meta = SourceMeta(SourceId("", "", 0), DataShape(nav, sig), data.dtype, channels=channels)
    out = [o.parts for o in encoder.begin(encoder_meta, run)]
    flat = data.reshape(-1, len(channels), *sig)
    for k in range(len(flat)) if numbers is None else numbers:
        out += [o.parts for o in encoder.frame(k, dict(zip(channels, flat[k], strict=True)))]
    return [tuple(map(bytes, m)) for m in [*out, *(o.parts for o in encoder.end())]]


def recorded(folder: Path, messages: Messages, url: str = "fake://here", per_block: int = 7, **how: Any) -> Path:
    """Record messages."""
    with Recorder(folder, url, "fake", **how) as recorder:
        for first in range(0, len(messages), per_block):
            block, rows = bytearray(), []
            for number, parts in enumerate(messages[first : first + per_block]):
                for part in parts:
                    rows.append((number, len(block), len(part)))
                    block += part
            recorder.put(np.frombuffer(bytes(block), np.uint8), np.array(rows), len(rows), None, 0, lambda: None)
    assert recorder.error is None
    return folder


def says(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize("age_s", [0, 3600])
def test_same_bits(tmp_path: Path, age_s: int) -> None:
    folder = recorded(tmp_path / "raw", messages_of(DATA))
    for path in data_files(folder):
        then = path.stat().st_mtime - age_s  # old files are mapped to make the index
        os.utime(path, (then, then))
    source = ls.open(folder)
    assert source.shape == DATA.shape
    assert source.dtype == DATA.dtype
    assert source.meta.id.kind == "recording"
    assert source.meta.vendor == {"voltage": 80}
    np.testing.assert_array_equal(source[...], DATA)
    result = ls.run(source, [ls.udfs.Sum(), ls.udfs.FrameTotals()])
    assert result.complete
    np.testing.assert_array_equal(result["sum"]["sum"], DATA.sum(axis=(0, 1)))
    np.testing.assert_array_equal(result["frame_totals"]["total"], DATA.sum(axis=(2, 3)))


def test_any_of_its_files_stands_for_it(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "raw", messages_of(DATA))
    for name in ("recording.json", "messages-0001.lsr"):
        np.testing.assert_array_equal(ls.open(folder / name)[...], DATA)
    np.testing.assert_array_equal(ls.open(folder, format="recording")[...], DATA)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_what_is_not_there_is_missing_and_what_is_damaged_is_corrupt(tmp_path: Path, executor: str) -> None:
    numbers = [k for k in range(30) if k not in (3, 17, 29)]
    messages = messages_of(DATA, numbers=numbers[::-1])
    bad = messages_of(np.zeros((5, 6, 7, 4), np.uint16))[6]  # frame 5, of another shape
    messages = [*messages[:2], bad, *messages[2:-1], messages[10], messages[-1]]  # the first of two frames 5 counts
    folder = recorded(tmp_path / "raw", messages)
    _damage(folder, DATA.reshape(30, -1)[20].tobytes())
    source = ls.open(folder)
    assert "3 of 30 frames are not in the recording; they count as missing" in source.meta.notes
    result = ls.run(source, ls.udfs.FrameTotals(), executor=executor)
    status = result.coverage.status.reshape(-1)
    assert np.flatnonzero(status == MISSING).tolist() == [3, 17, 29]
    assert np.flatnonzero(status == CORRUPT).tolist() == [5, 20]
    good = result.valid
    np.testing.assert_array_equal(result["total"][good], DATA.sum(axis=(2, 3))[good])
    assert good.sum() == 25


def _damage(folder: Path, pixels: bytes) -> None:
    for path in data_files(folder):
        raw = bytearray(path.read_bytes())
        if (at := raw.find(pixels)) >= 0:
            raw[at + 5] ^= 0x40
            path.write_bytes(raw)
            return
    raise AssertionError("these pixels are not in the recording")


def test_damage_in_large_frames_is_seen_when_they_are_read(tmp_path: Path) -> None:
    data = np.random.default_rng(1).poisson(5, (6, 64, 64)).astype(np.uint16)
    folder = recorded(tmp_path / "raw", messages_of(data))
    _damage(folder, data[4].tobytes())
    result = ls.run(ls.open(folder), ls.udfs.FrameTotals())
    assert result.coverage.status.tolist() == [1, 1, 1, 1, CORRUPT, 1]


def test_a_later_good_frame_counts_where_the_first_is_damaged(tmp_path: Path) -> None:
    messages = messages_of(DATA)
    folder = recorded(tmp_path / "raw", [*messages[:5], messages[4], *messages[5:]])
    _damage(folder, messages[4][1])
    np.testing.assert_array_equal(ls.open(folder)[...], DATA)


def test_damaged_headers_cost_their_messages(tmp_path: Path) -> None:
    messages = messages_of(DATA)
    folder = recorded(tmp_path / "raw", messages)
    _damage(folder, messages[4][0])
    source = ls.open(folder)
    assert any("1 messages are damaged" in n for n in source.meta.notes)
    assert np.flatnonzero(ls.run(source, ls.udfs.FrameTotals()).valid.reshape(-1) == 0).tolist() == [3]


@pytest.mark.parametrize("sectors", [2, 4])
def test_sectors(tmp_path: Path, sectors: int) -> None:
    messages = messages_of(DATA, sectors=sectors)
    lost = messages.pop(1 + 9 * sectors)
    assert b'"k": 9' in lost[0]
    folder = recorded(tmp_path / "raw", messages, url=f"fake://here?sectors={sectors}")
    source = ls.open(folder)
    result = ls.run(source, ls.udfs.FrameTotals())
    assert np.flatnonzero(result.coverage.status == MISSING).tolist() == [9]
    np.testing.assert_array_equal(result["total"][result.valid], DATA.sum(axis=(2, 3))[result.valid])
    np.testing.assert_array_equal(source[3, 2, 3:7], DATA[3, 2, 3:7])


def test_bands_of_rows(tmp_path: Path) -> None:
    from libstream.model.shape import Region, Span

    source = ls.open(recorded(tmp_path / "raw", messages_of(DATA, sectors=2), url="fake://here?sectors=2"))
    reader = source.opener.open_reader("frames")
    out = np.empty((7, 3, 4), np.uint16)
    assert reader.read_into(out, Span(10, 17), Region((2, 0), (3, 4))) is None
    np.testing.assert_array_equal(out, DATA.reshape(30, 8, 4)[10:17, 2:5])
    for span, region in (
        (Span(25, 31), Region((0, 0), (8, 4))),
        (Span(0, 1), Region((0, 1), (8, 3))),
        (Span(0, 1), Region((1, 0), (8, 4))),
    ):
        with pytest.raises(UsageError, match="is not in 30 frames of shape"):
            reader.read_into(np.empty((len(span), *region.shape), np.uint16), span, region)
    with pytest.raises(UsageError, match="expected C-contiguous"):
        reader.read_into(np.empty((1, 8, 4), np.float32), Span(0, 1), Region((0, 0), (8, 4)))
    reader.close()


def test_channels(tmp_path: Path) -> None:
    two = np.stack([DATA, DATA * 2], axis=2)
    source = ls.open(recorded(tmp_path / "raw", messages_of(two, channels=("low", "high"))))
    assert source.meta.channels == ("low", "high")
    np.testing.assert_array_equal(source.channel("high")[...], DATA * 2)
    np.testing.assert_array_equal(source[...], DATA)
    with pytest.raises(UsageError, match="no channel 'middle'"):
        source.base.opener.open_reader("middle")


@pytest.mark.parametrize(
    "how",
    [
        {"order": "serpentine"},
        {"flyback": 2},
        {"order": "serpentine", "flyback": 1, "frames_per_position": 2},
        {"positions": [(4 - k % 5, k // 5) for k in range(30)]},
    ],
)
def test_scan_orders_are_those_of_live_runs(tmp_path: Path, how: dict[str, Any]) -> None:
    order = ScanOrder.of((5, 6), **how)
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 1000, (order.n_frames, 8, 4)).astype(np.uint16)
    source = ls.open(recorded(tmp_path / "raw", messages_of(frames)), scan=(5, 6), **how)
    expected = frames[order.numbers()].reshape(*order.nav, 8, 4)
    assert source.shape == expected.shape
    np.testing.assert_array_equal(source[...], expected)
    totals = ls.run(source, ls.udfs.FrameTotals())
    assert totals.complete
    np.testing.assert_array_equal(totals["total"], expected.sum(axis=(-2, -1)))
    with pytest.raises(ShapeError, match=f"has {order.n_frames} frames, but the scan"):
        ls.open(
            tmp_path / "raw",
            scan=(7, 11),
            **{k: v for k, v in how.items() if k != "positions"},
            positions=[5] if "positions" in how else None,
        )


def test_scan_and_sync_as_for_any_file(tmp_path: Path) -> None:
    numbers = [k for k in range(30) if k != 3]
    folder = recorded(tmp_path / "raw", messages_of(DATA.reshape(30, 8, 4), numbers=numbers))
    assert ls.open(folder).shape == (30, 8, 4)
    source = ls.open(folder, scan=(4, 7), sync_offset=1)
    result = ls.run(source, ls.udfs.FrameTotals())
    assert np.flatnonzero(result.coverage.status == MISSING).tolist() == [2]
    expected = DATA.reshape(30, 32).sum(axis=1)[1:29].reshape(4, 7)
    np.testing.assert_array_equal(result["total"][result.valid], expected[result.valid])
    with pytest.raises(UsageError, match="need the shape of the scan"):
        ls.open(recorded(tmp_path / "b", [(says(t="begin", run=1, n=2, scan=None),), messages_of(DATA)[1]]), order="serpentine")


def test_several_runs(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "raw", messages_of(DATA, 7) + messages_of(DATA + 1, 8, numbers=range(10)) + messages_of(DATA + 2, 7))
    with pytest.raises(
        UsageError, match=r"holds 3 runs, say which one: run=7 \(#1\): 30 frames of 30; run=8 \(#2\): 10 frames of 30; run=7"
    ):
        ls.open(folder)
    np.testing.assert_array_equal(ls.open(folder, run=8)[0], DATA[0] + 1)
    np.testing.assert_array_equal(ls.open(folder, run="#3")[...], DATA + 2)
    with pytest.raises(UsageError, match="holds 2 runs 7, say which one by its place"):
        ls.open(folder, run=7)
    with pytest.raises(UsageError, match="holds no run 9"):
        ls.open(folder, run=9)


def test_frames_before_any_header_and_messages_of_nobody(tmp_path: Path) -> None:
    stale = messages_of(DATA, 5)[1:4]
    folder = recorded(tmp_path / "raw", [*stale, (b"\x00garbage",), (), *messages_of(DATA)])
    source = ls.open(folder)
    np.testing.assert_array_equal(source[...], DATA)
    assert "1 messages were not understood" in source.meta.notes
    assert "3 frames belong to runs whose header was not recorded" in source.meta.notes
    with pytest.raises(FormatError, match="no run in this recording"):
        ls.open(recorded(tmp_path / "b", stale))
    with pytest.raises(FormatError, match="run 1 holds no frame"):
        ls.open(recorded(tmp_path / "c", messages_of(DATA)[:1]))


def test_a_decoder_with_a_bug_costs_its_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.live import fake

    folder = recorded(tmp_path / "raw", messages_of(DATA))
    feed = fake.FakeDecoder.feed

    def buggy(self: Any, parts: Any) -> Any:
        if b'"k": 7,' in bytes(parts[0]):
            raise ZeroDivisionError("a bug")
        return feed(self, parts)

    monkeypatch.setattr(fake.FakeDecoder, "feed", buggy)
    source = ls.open(folder)
    assert "1 messages made the decoder of the detector fail, which is a bug in it" in source.meta.notes
    assert np.flatnonzero(~ls.run(source, ls.udfs.FrameTotals()).valid).tolist() == [7]


def test_a_run_of_unknown_length(tmp_path: Path) -> None:
    messages = [(says(t="begin", run=1, n=None, scan=None),), *messages_of(DATA)[1:21]]
    source = ls.open(recorded(tmp_path / "raw", messages), scan=(4, 5))
    np.testing.assert_array_equal(source[...], DATA.reshape(30, 8, 4)[:20].reshape(4, 5, 8, 4))


def test_encodings_that_nobody_knows_are_corrupt(tmp_path: Path) -> None:
    messages = messages_of(DATA)
    messages[4] = (says(t="f", run=1, k=3, shape=[8, 4], dtype="uint16", codec="brotli"), messages[4][1])
    result = ls.run(ls.open(recorded(tmp_path / "raw", messages)), ls.udfs.FrameTotals())
    assert np.flatnonzero(result.coverage.status == CORRUPT).tolist() == [3]


def test_cut_off_and_continued(tmp_path: Path) -> None:
    messages = messages_of(DATA)
    folder = recorded(tmp_path / "raw", messages[:20])
    path = data_files(folder)[0]
    os.truncate(path, path.stat().st_size - 30)
    source = ls.open(folder)
    assert any("messages-0001.lsr: bytes" in n and "its end was not finished" in n for n in source.meta.notes)
    assert any("the end of the run was not recorded" in n for n in source.meta.notes)
    recorded(folder, messages[19:])
    np.testing.assert_array_equal(ls.open(folder)[...], DATA)


def test_the_index_is_made_once_and_noticed_to_be_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = recorded(tmp_path / "raw", messages_of(DATA, 1))
    first = ls.open(folder)
    index = folder / "index.lsx"
    kept = index.read_bytes()
    fed: list[int] = []
    real = FakeKind.decoder
    from tests.live import fake

    monkeypatch.setattr(fake.FakeDecoder, "feed", lambda self, parts: fed.append(1) or iter(()))
    again = ls.open(folder)
    np.testing.assert_array_equal(again[...], DATA)
    assert fed == []
    assert again.meta == first.meta
    monkeypatch.undo()
    monkeypatch.setattr(registry, "load", lambda group, name, load=registry.load: FakeKind if name == "fake" else load(group, name))
    assert real is FakeKind.decoder
    for bad in (kept[:-8], kept[:30], b"", kept[:100] + b"?" + kept[101:], kept[:-20] + b"\xff" + kept[-19:]):
        index.write_bytes(bad)
        np.testing.assert_array_equal(ls.open(folder)[...], DATA)
        assert index.read_bytes() == kept
    recorded(folder, messages_of(DATA + 1, 2))
    np.testing.assert_array_equal(ls.open(folder, run=2)[...], DATA + 1)


def test_read_only_folders_are_opened_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from libstream.io_backends.files import _lsr_index

    folder = recorded(tmp_path / "raw", messages_of(DATA))

    def refuse(*args: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(_lsr_index.os, "replace", refuse)
    source = ls.open(folder)
    assert not [p for p in folder.iterdir() if p.name.startswith("index")]
    other = pickle.loads(pickle.dumps(source.base.opener))  # the table goes along
    reader = other.open_reader("frames")
    out = np.empty((30, 8, 4), np.uint16)
    from libstream.model.shape import Region, Span

    assert reader.read_into(out, Span(0, 30), Region.whole((8, 4))) is None
    reader.close()
    np.testing.assert_array_equal(out.reshape(DATA.shape), DATA)


def test_other_processes_take_the_index_from_the_folder(tmp_path: Path) -> None:
    data = np.zeros((200, 2, 2), np.uint8)
    folder = recorded(tmp_path / "raw", messages_of(data))
    opener = ls.open(folder).base.opener
    raw = pickle.dumps(opener)
    assert len(raw) < 3000
    np.testing.assert_array_equal(pickle.loads(raw).rows, opener.rows)
    recorded(folder, messages_of(data, 2))
    with pytest.raises(SourceChangedError, match="written anew"):
        pickle.loads(raw)


def test_a_file_that_goes_away_or_shrinks(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "raw", messages_of(DATA))
    source = ls.open(folder)
    path = data_files(folder)[0]
    os.truncate(path, 700)
    with pytest.raises(SourceChangedError, match="was shortened"):
        _ = source[0]
    path.unlink()
    with pytest.raises(SourceChangedError, match="cannot be opened any more"):
        _ = source[0]


def test_no_recordings(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is a folder; pass one of the files"):
        ls.open(tmp_path)
    with pytest.raises(FormatError, match="not a file of format npy"):
        ls.open(tmp_path, format="npy")
    folder = recorded(tmp_path / "raw", messages_of(DATA))
    data_files(folder)[0].unlink()
    with pytest.raises(FormatError, match="no messages in this recording"):
        ls.open(folder)
    (folder / "recording.json").write_text('{"libstream_recording": 1}')
    with pytest.raises(FormatError, match="no description of a recording"):
        ls.open(folder)
    shutil.rmtree(folder)
    assert lsr.BLOCK_HEAD == 64
