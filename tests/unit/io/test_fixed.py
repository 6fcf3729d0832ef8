"""Frames of fixed size: every layout, every way of reading gives what was written."""

from __future__ import annotations

import os
import pickle
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.errors import CorruptFileError, FormatError, SourceChangedError, UsageError
from libstream.ext import Region, Span
from libstream.io_backends.files import _identity, _openfile
from libstream.io_backends.files._fixed import ChannelLayouts, FixedLayout
from libstream.io_backends.files._identity import fingerprint, local_path, mount_kind, source_id, stat_file, whole_frames

_Arr = np.ndarray[Any, Any]
OLD = 1_500_000_000


def write(path: Path, frames: _Arr, *, offset: int = 0, before: int = 0, after: int = 0, settled: bool = True) -> None:
    """`frames` as they lie in memory, with filling that no reader may return."""
    with path.open("wb") as f:
        f.write(b"\xa5" * offset)
        for i, frame in enumerate(frames):
            f.write(b"\xb6" * before + frame.tobytes() + (b"\xc7" * after if i < len(frames) - 1 else b""))
    if settled:
        os.utime(path, (OLD, OLD))


def layout_of(path: Path, frames: _Arr, *, offset: int = 0, before: int = 0, after: int = 0, **more: Any) -> FixedLayout:
    stride = before + frames[0].nbytes + after
    file = replace(stat_file(str(path)), n_frames=len(frames), offset=offset)
    return FixedLayout((file,), more.pop("sig", frames.shape[1:]), frames.dtype, stride, before, **more)


def direct_here() -> bool:
    """Whether the folder for temporary files can be read past the system's cache."""
    with tempfile.NamedTemporaryFile() as f:
        try:
            os.close(os.open(f.name, os.O_RDONLY | getattr(os, "O_DIRECT", 0)))
        except OSError:
            return False
    return hasattr(os, "O_DIRECT")


DIRECT = direct_here()


def read(layout: FixedLayout, a: int, b: int, top: int, bottom: int) -> _Arr:
    reader = layout.open_reader("frames")
    out = np.full((b - a, bottom - top, *layout.sig[1:]), 77, layout.out_dtype)
    try:
        assert reader.read_into(out, Span(a, b), Region((top, *(0,) * (len(layout.sig) - 1)), out.shape[1:])) is None
    finally:
        reader.close()
    return out


@given(data=st.data())
def test_any_layout_any_cut(data: st.DataObject) -> None:
    draw = data.draw
    dtype = np.dtype(draw(st.sampled_from(["u1", "<u2", ">u2", "<i4", ">u4", "<f4", ">f4", ">f8", "<u8", ">c8", "bool", ">f2", "i1"])))
    sig = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=2)))
    stored = tuple(n + draw(st.integers(0, 2)) for n in sig)
    n = draw(st.integers(1, 12))
    offset, before = draw(st.integers(0, 13)), draw(st.integers(0, 13))
    after = draw(st.one_of(st.integers(0, 13), st.just(20_000)))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=2)))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    frames = rng.integers(0, 256, (n, *stored, dtype.itemsize), np.uint8).view(dtype)[..., 0]
    if dtype.kind == "b":  # bytes other than 0 and 1 are written, too
        frames = rng.integers(0, 4, (n, *stored), np.uint8).view(bool)
    if dtype.kind in "fc":
        frames = rng.integers(-500, 500, (n, *stored)).astype(dtype)
    cut = frames[(slice(None), *(slice(0, s) for s in sig))]
    expected = (cut.view(np.uint8) != 0 if dtype.kind == "b" else cut).astype(dtype.newbyteorder("="))
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i, (a, b) in enumerate(zip([0, *cuts], [*cuts, n], strict=True)):
            path = Path(folder) / f"{i}.raw"
            write(path, frames[a:b], offset=offset, before=before, after=after, settled=draw(st.booleans()))
            files.append(replace(stat_file(str(path)), n_frames=b - a, offset=offset))
        stride = before + frames[0].nbytes + after
        layout = pickle.loads(pickle.dumps(FixedLayout(tuple(files), sig, dtype, stride, before, stored)))
        assert layout.n_frames == n
        a = draw(st.integers(0, n))
        b = draw(st.integers(a, n))
        top = draw(st.integers(0, sig[0]))
        bottom = draw(st.integers(top, sig[0]))
        np.testing.assert_array_equal(read(layout, a, b, top, bottom), expected[a:b, top:bottom])
        reader = layout.open_reader("frames")
        view = reader.view()
        if view is not None:
            assert len(files) == 1
            assert dtype.isnative
            assert view.flags.aligned
            assert not view.flags.writeable
            np.testing.assert_array_equal(view, expected)
            del view
        reader.close()
        for io in ("read", "direct"):
            other = pickle.loads(pickle.dumps(layout.with_io(io)))
            if io == "direct" and not DIRECT:
                continue
            np.testing.assert_array_equal(read(other, a, b, top, bottom), expected[a:b, top:bottom])
            reader = other.open_reader("frames")
            assert reader.view() is None
            reader.close()


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("after", [0, 7, 40_000])
@pytest.mark.parametrize(("dtype", "sig"), [("<u2", (64, 65)), (">u2", (64, 65)), ("u1", (20, 20)), (">f4", (65, 66))])
def test_more_frames_than_one_call_takes(tmp_path: Path, dtype: str, sig: tuple[int, int], after: int, settled: bool) -> None:
    n = 1100 if after < 100 else 60
    frames = np.random.default_rng(2).integers(0, 250, (n, *sig)).astype(dtype)
    path = tmp_path / "a.raw"
    write(path, frames, offset=384, before=16, after=after, settled=settled)
    layout = layout_of(path, frames, offset=384, before=16, after=after)
    np.testing.assert_array_equal(read(layout, 0, n, 0, sig[0]), frames)
    np.testing.assert_array_equal(read(layout, 3, n - 1, 5, 18), frames[3 : n - 1, 5:18])


@pytest.mark.parametrize("limit", [1, 4096, 100_001])
def test_reads_that_return_less_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    frames = np.random.default_rng(3).integers(0, 60_000, (5 if limit == 1 else 40, 64, 70)).astype("u2")
    path = tmp_path / "a.raw"
    write(path, frames, after=9, settled=False)
    full = os.preadv

    def short(fd: int, buffers: Any, offset: int) -> int:
        first = memoryview(buffers[0])
        return full(fd, [first[:limit]], offset)

    monkeypatch.setattr(os, "preadv", short)
    np.testing.assert_array_equal(read(layout_of(path, frames, after=9), 0, len(frames), 0, 64), frames)


def test_without_preadv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(3).integers(0, 60_000, (9, 64, 70)).astype("u2")
    write(tmp_path / "a.raw", frames, after=9, settled=False)
    layout = layout_of(tmp_path / "a.raw", frames, after=9)
    monkeypatch.delattr(os, "preadv")
    np.testing.assert_array_equal(read(layout, 1, 9, 3, 60), frames[1:, 3:60])


class Nibbles:
    """Two pixels a byte; a frame whose first byte is 255 is corrupt."""

    by_rows = True

    def decode(self, raw: _Arr, out: _Arr) -> _Arr | None:
        pixels = np.stack([raw >> 4, raw & 15], axis=-1)
        out[...] = pixels.reshape(out.shape)
        good = raw[:, 0] != 255
        return None if good.all() else good


class WholeNibbles(Nibbles):
    """The same, unable to decode parts of frames."""

    by_rows = False


@pytest.mark.parametrize("decoder", [Nibbles(), WholeNibbles()])
def test_decoded_frames_and_bands(tmp_path: Path, decoder: Nibbles) -> None:
    raw = np.random.default_rng(4).integers(0, 255, (30, 16, 8)).astype(np.uint8)
    write(tmp_path / "a.raw", raw, offset=3, before=5, after=2)
    pixels = np.stack([raw >> 4, raw & 15], axis=-1).reshape(30, 16, 16)
    file = replace(stat_file(str(tmp_path / "a.raw")), n_frames=30, offset=3)
    layout = FixedLayout((file,), (16, 16), np.dtype("u1"), 5 + 128 + 2, 5, decoder=decoder, stored_bytes=128)
    np.testing.assert_array_equal(read(layout, 0, 30, 0, 16), pixels)
    np.testing.assert_array_equal(read(layout, 4, 29, 3, 9), pixels[4:29, 3:9])
    reader = layout.open_reader("frames")
    assert reader.view() is None
    reader.close()


def test_corrupt_frames_are_reported_where_they_are(tmp_path: Path) -> None:
    raw = np.zeros((7, 4, 4), np.uint8)
    raw[[2, 5], 0, 0] = 255
    files = []
    for i, (a, b) in enumerate([(0, 3), (3, 7)]):
        write(tmp_path / f"{i}.raw", raw[a:b])
        files.append(replace(stat_file(str(tmp_path / f"{i}.raw")), n_frames=b - a))
    layout = FixedLayout(tuple(files), (4, 8), np.dtype("u1"), 16, decoder=Nibbles(), stored_bytes=16)
    reader = layout.open_reader("frames")
    valid = reader.read_into(np.empty((6, 4, 8), np.uint8), Span(1, 7), Region.whole((4, 8)))
    assert valid is not None
    assert valid.tolist() == [True, False, True, True, False, True]
    assert reader.read_into(np.empty((2, 4, 8), np.uint8), Span(3, 5), Region.whole((4, 8))) is None
    reader.close()


def test_many_files_keep_few_open(tmp_path: Path) -> None:
    frames = np.random.default_rng(5).integers(0, 200, (100, 4, 5)).astype("u2")
    files = []
    for i, frame in enumerate(frames):
        write(tmp_path / f"{i}.raw", frame[np.newaxis])
        files.append(replace(stat_file(str(tmp_path / f"{i}.raw")), n_frames=1))
    layout = FixedLayout(tuple(files), (4, 5), np.dtype("u2"), 40)
    reader = layout.open_reader("frames")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    out = np.empty((100, 4, 5), np.uint16)
    reader.read_into(out, Span(0, 100), Region.whole((4, 5)))
    np.testing.assert_array_equal(out, frames)
    if before:
        assert len(os.listdir("/proc/self/fd")) - before <= 64
    reader.check()
    (tmp_path / "99.raw").unlink()
    with pytest.raises(SourceChangedError, match=r"99\.raw: is gone"):
        reader.check()
    reader.close()


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_a_file_shortened_while_it_is_read_says_what_is_missing(tmp_path: Path, dtype: str, settled: bool) -> None:
    frames = np.ones((8, 64, 64), dtype)
    path = tmp_path / "a.raw"
    write(path, frames, settled=settled)
    reader = layout_of(path, frames).open_reader("frames")
    os.truncate(path, 5 * 8192 + 100)
    out = np.full((2, 64, 64), 9, np.uint16)
    with pytest.raises(SourceChangedError, match=r"a\.raw.*expected.*got.*Wait"):
        reader.read_into(out, Span(5, 7), Region.whole((64, 64)))
    reader.close()


def test_calls_that_cannot_work(tmp_path: Path) -> None:
    frames = np.ones((4, 6, 7), "u2")
    write(tmp_path / "a.raw", frames)
    reader = layout_of(tmp_path / "a.raw", frames).open_reader("frames")
    whole = Region.whole((6, 7))
    for out, span, region in [
        (np.empty((2, 6, 7), "u2"), Span(3, 5), whole),
        (np.empty((2, 6, 7), "u4"), Span(0, 2), whole),
        (np.empty((2, 6, 7), ">u2"), Span(0, 2), whole),
        (np.empty((2, 6, 14), "u2")[..., ::2], Span(0, 2), whole),
        (np.empty((2, 3, 7), "u2"), Span(0, 2), Region((4, 0), (3, 7))),
        (np.empty((2, 3, 6), "u2"), Span(0, 2), Region((0, 0), (3, 6))),
        (np.empty((2, 3, 7), "u2"), Span(0, 2), whole),
    ]:
        with pytest.raises(UsageError):
            reader.read_into(out, span, region)
    reader.close()
    with pytest.raises(UsageError, match="closed"):
        reader.read_into(np.empty((1, 6, 7), "u2"), Span(0, 1), whole)
    with pytest.raises(UsageError, match="does not hold"):
        layout_of(tmp_path / "a.raw", frames, sig=(7, 7), stored=(6, 7))


def test_channels_are_layouts_by_name(tmp_path: Path) -> None:
    frames = np.arange(8 * 6, dtype="u2").reshape(8, 2, 3)
    write(tmp_path / "a.raw", frames)
    file = stat_file(str(tmp_path / "a.raw"))
    both = ChannelLayouts(
        tuple((f"t{i}", FixedLayout((replace(file, n_frames=4, offset=12 * i),), (2, 3), np.dtype("u2"), 24)) for i in range(2))
    )
    for i in range(2):
        reader = pickle.loads(pickle.dumps(both)).open_reader(f"t{i}")
        out = np.empty((4, 2, 3), "u2")
        reader.read_into(out, Span(0, 4), Region.whole((2, 3)))
        np.testing.assert_array_equal(out, frames[i::2])
        reader.close()
    with pytest.raises(UsageError, match="'t0', 't1'"):
        both.open_reader("t2")


def test_counting_frames(tmp_path: Path) -> None:
    def count(size: int, **given: Any) -> int:
        path = tmp_path / "a.raw"
        with path.open("wb") as f:
            f.truncate(size)
        return whole_frames(stat_file(str(path)), **{"offset": 10, "stride": 120, "last": 100, **given})

    assert count(10 + 120 * 3) == 3
    assert count(10 + 120 * 2 + 100) == 3
    assert count(10 + 120 * 3, announced=2) == 2
    assert count(10 + 120 * 3 + 50, allow_truncated=True) == 3
    assert count(10 + 120 * 3, announced=9, allow_truncated=True) == 3
    assert count(1 << 42, stride=1 << 40, last=1 << 40, offset=0) == 4
    with pytest.raises(CorruptFileError, match="is empty"):
        count(0)
    with pytest.raises(CorruptFileError, match="too short"):
        count(109)
    with pytest.raises(CorruptFileError, match=r"3 frames and 50 bytes.*allow_truncated=True to use the 3"):
        count(10 + 120 * 3 + 50)
    with pytest.raises(CorruptFileError, match=r"announces 9 frames.*3 whole ones.*allow_truncated"):
        count(10 + 120 * 3, announced=9)


def test_only_regular_files(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="a folder"):
        stat_file(str(tmp_path))
    with pytest.raises(FormatError, match="cannot be opened"):
        stat_file(str(tmp_path / "none"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="not a regular file"):
        stat_file(str(tmp_path / "pipe"))


def test_fingerprint_sees_head_tail_middle_and_size(tmp_path: Path) -> None:
    data = np.random.default_rng(6).integers(0, 256, 3_000_000, np.uint8)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")

    def of(*parts: _Arr) -> str:
        for path, part in zip((a, b), parts, strict=False):
            part.tofile(path)
        return fingerprint([a, b][: len(parts)])

    whole = of(data)
    assert len(whole) == 64
    assert of(data) == whole
    seen = 0
    for place in [0, 65_535, len(data) - 1, len(data) - 65_536, *range(100_000, 2_900_000, 100_000)]:
        other = data.copy()
        other[place] ^= 1
        seen += of(other) != whole
    assert seen >= 4  # those at the ends for sure; of those between about one in ten
    middle = data.copy()
    middle[65_536 : 65_536 + 4096] ^= 1
    assert of(middle) != whole
    assert of(data[:-1]) != whole
    assert of(data[:1000], data[1000:]) != of(data[:1001], data[1001:])
    assert of(np.zeros(0, np.uint8)) == of(np.zeros(0, np.uint8)) != of(np.zeros(1, np.uint8))
    assert source_id("x", "raw", [a]).n_bytes == 1


def test_where_files_may_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = ["/dev/sda / ext4 rw 0 0", "srv:/x /data nfs4 rw 0 0", "y /data/my\\040disk xfs rw 0 0", "s /home/me/remote fuse.sshfs rw 0 0"]
    for path, kind in [
        ("/tmp/a", "ext4"), ("/data/a", "nfs4"), ("/database/a", "ext4"), ("/data/my disk/a", "xfs"), ("/home/me/remote/a", "fuse.sshfs"),
        ("/data", "nfs4"),
    ]:  # fmt: skip
        assert mount_kind(path, mounts) == kind
    assert mount_kind("/data/a", [*mounts, "t /data tmpfs rw 0 0"]) == "tmpfs"
    assert [_identity._is_remote(k) for k in ("ext4", "nfs4", "fuse.sshfs", "fuseblk", "cifs", "lustre")] == [
        False,
        True,
        True,
        False,
        True,
        True,
    ]
    frames = np.ones((4, 6, 7), "u2")
    write(tmp_path / "a.raw", frames)
    layout = layout_of(tmp_path / "a.raw", frames)
    monkeypatch.setattr(_identity, "_on_network", lambda path: True)
    reader = layout.open_reader("frames")
    assert reader.view() is None
    np.testing.assert_array_equal(read(layout, 0, 4, 0, 6), frames)
    reader.close()


def test_local_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert local_path("/a/b.raw") == "/a/b.raw"
    assert local_path("file:///a/b%20c.raw") == "/a/b c.raw"
    assert local_path("~/b.raw") == "/somewhere/b.raw"


def test_scratch_isaligned() -> None:
    for size in (1, 4096, 2_000_001):
        assert _openfile.aligned(size).ctypes.data % 4096 == 0
        assert _openfile.aligned(size).size == size
