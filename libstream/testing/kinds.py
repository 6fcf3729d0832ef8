"""Tests that every kind of detector has to pass. Inherit `DetectorTests`, name the class and two addresses, run pytest.

class TestMyDetector(DetectorTests):
    kind = MyDetector
    addresses = ("mine://127.0.0.1:{port}", "mine://127.0.0.1:{port}")
"""

from __future__ import annotations

import contextlib
import socket
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from libstream import registry
from libstream.codecs import wire
from libstream.contracts.stream import FramePart, RunHeader, StreamUrl
from libstream.errors import WireError
from libstream.live.ledger import imbalance
from libstream.model.shape import DataShape
from libstream.model.source import SourceId, SourceMeta

_Arr = np.ndarray[Any, Any]
_SMALL = 1 << 16


class DetectorTests:
    """Hooks: `kind`, `addresses`, and where they differ the attributes below.

    kind: the class under test. addresses: of the sending and the receiving side, with {port}, {port2} ... {port5} for free ports in a row.
    detector_binds: the sending side binds, and so begins. shape: scan and frame that the protocol can carry; dtypes: of pixels.
    sectors: parts of a frame. ordered: frames always arrive in their order (one TCP connection).
    mutations: damaged messages that are tried.
    """

    kind: ClassVar[Any]
    addresses: ClassVar[tuple[str, str]]
    detector_binds: ClassVar[bool] = True
    shape: ClassVar[tuple[int, int, int, int]] = (4, 6, 32, 48)
    dtypes: ClassVar[tuple[str, ...]] = ("uint16",)
    sectors: ClassVar[int] = 1
    ordered: ClassVar[bool] = False
    mutations: ClassVar[int] = 1500

    # -- the tests ----------------------------------------------------------------------------------------------------

    def test_what_is_encoded_is_decoded(self) -> None:
        """Header, numbers, shapes, dtypes and every pixel."""
        for dtype in self.dtypes:
            frames = self._frames(dtype)
            decoder = self._decoder()
            headers, found = self._fed(decoder, self._messages(frames))
            assert len(headers) == 1, f"{len(headers)} headers for one run"
            n = frames.shape[0] * frames.shape[1]
            assert headers[0].n_frames in (n, None)
            flat = frames.reshape(n, *frames.shape[2:])
            assert sorted(found) == [(i, s) for i in range(n) for s in range(self.sectors)]
            for (i, s), pixels in found.items():
                expected = np.split(flat[i], self.sectors)[s]
                assert pixels.dtype == expected.dtype
                np.testing.assert_array_equal(pixels, expected, err_msg=f"frame {i}, sector {s}")

    def test_a_second_run_follows_on_the_same_decoder(self) -> None:
        """Runs have different names, and frames carry theirs."""
        frames = self._frames(self.dtypes[0])
        decoder, names = self._decoder(), []
        for run in (1, 2):
            headers, _ = self._fed(decoder, self._messages(frames, run))
            names.append(headers[0].run)
        assert names[0] != names[1]

    def test_a_message_cut_off_anywhere_is_a_wire_error(self) -> None:
        """WireError or nothing else, and the next good run is understood."""
        frames = self._frames(self.dtypes[0])[:1, :2]
        messages = self._messages(frames)
        decoder = self._decoder()
        for parts in messages:
            for k, part in enumerate(parts):
                for cut in {*range(min(len(part), 200)), *range(200, len(part), max(1, len(part) // 20))}:
                    self._survives(decoder, [*parts[:k], part[:cut]])
        self._understands(decoder, frames)

    def test_damaged_and_random_messages_are_wire_errors(self) -> None:
        """No other exception, no memory that the wire asks for, and the next good run is understood."""
        frames = self._frames(self.dtypes[0])[:1, :3]
        messages = self._messages(frames)
        decoder, rng = self._decoder(), np.random.default_rng(11)
        tracemalloc.start()
        try:
            for i in range(self.mutations):
                parts = [bytearray(p) for p in messages[int(rng.integers(len(messages)))]]
                if i % 10 == 0:
                    parts = [bytearray(rng.bytes(int(rng.integers(0, 300)))) for _ in range(int(rng.integers(1, 5)))]
                for _ in range(int(rng.integers(1, 6))):
                    part = parts[int(rng.integers(len(parts)))]
                    if len(part):
                        part[int(rng.integers(min(len(part), 400)))] = int(rng.integers(256))
                if i % 7 == 0 and len(parts) > 1:
                    parts.pop(int(rng.integers(len(parts))))
                self._survives(decoder, [bytes(p) for p in parts])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 256 << 20, f"damaged messages made the decoder allocate {peak:,} bytes"
        self._understands(decoder, frames)

    def test_live_is_offline(self) -> None:
        """Over real sockets, bit for bit, every frame accounted for, two runs on one connection."""
        import libstream as ls

        frames = self._frames(self.dtypes[0])
        expected = ls.run(frames, [ls.udfs.Sum(), ls.udfs.FrameTotals()])
        with self._live(frames, repeat=2) as live:
            for _ in range(2):
                acquisition = live.wait(30)
                assert acquisition is not None, live.problems
                result = ls.run(acquisition, [ls.udfs.Sum(), ls.udfs.FrameTotals()])
                assert result.complete, (result.ledger, result.run["acquisition"], live.problems)
                assert imbalance(result.ledger) == ""
                for key in expected:
                    for name in expected[key]:
                        np.testing.assert_array_equal(result[key][name], expected[key][name])

    def test_lost_frames_are_holes(self) -> None:
        """What is not sent is missing, and nothing else."""
        import libstream as ls

        frames = self._frames(self.dtypes[0])
        with self._live(frames, loss=0.2, seed=4) as live:
            acquisition = live.wait(30)
            assert acquisition is not None, live.problems
            result = ls.run(acquisition, ls.udfs.FrameTotals())
            assert imbalance(result.ledger) == ""
            seen = result.valid
            expected = frames.sum(axis=(2, 3), dtype=result["total"].dtype)
            assert 0 < seen.sum() < seen.size
            np.testing.assert_array_equal(result["total"][seen], expected[seen])
            assert result.ledger["missing"] == seen.size - seen.sum()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _frames(self, dtype: str) -> _Arr:
        n = self.shape[0] * self.shape[1]
        frames = np.random.default_rng(3).poisson(0.5, self.shape).astype(dtype)
        frames[..., 0, 0] = np.arange(n).reshape(self.shape[:2])
        return frames

    def _urls(self) -> tuple[str, str]:
        ports = _free_ports(5)
        words = {"port": ports[0], **{f"port{i + 1}": p for i, p in enumerate(ports)}}
        send, receive = (text.format(**words) for text in self.addresses)
        return send, receive

    def _decoder(self) -> Any:
        return self.kind().decoder(StreamUrl.parse(self._urls()[1]))

    def _messages(self, frames: _Arr, run: int = 1) -> list[list[bytes]]:
        meta = SourceMeta(SourceId("test", "test", frames.nbytes), DataShape(frames.shape[:2], frames.shape[2:]), frames.dtype)
        transport, encoder = self.kind().sender(StreamUrl.parse(self._urls()[0]))
        flat = frames.reshape(-1, *frames.shape[2:])
        out = [*encoder.begin(meta, run)]
        for i, frame in enumerate(flat):
            out += encoder.frame(i, {meta.channels[0]: frame})
        out += encoder.end()
        transport.close()
        return [[bytes(p) for p in o.parts] for o in out]

    def _fed(self, decoder: Any, messages: Iterable[list[bytes]]) -> tuple[list[RunHeader], dict[tuple[int, int], _Arr]]:
        headers, found = [], {}
        for parts in messages:
            views = [memoryview(p) for p in parts]
            for event in decoder.feed(views):
                if isinstance(event, RunHeader):
                    headers.append(event)
                elif isinstance(event, FramePart):
                    assert headers, "a frame before its header"
                    assert event.run == headers[-1].run
                    found[event.number, event.sector] = _decoded(event, parts)
        return headers, found

    def _survives(self, decoder: Any, parts: list[bytes]) -> None:
        views = [memoryview(p) for p in parts]
        try:
            for event in decoder.feed(views):
                if isinstance(event, FramePart):
                    assert isinstance(event.number, int)
                    assert 0 <= event.start <= event.stop <= len(parts[event.part])
        except WireError:
            pass

    def _understands(self, decoder: Any, frames: _Arr) -> None:
        headers, found = self._fed(decoder, self._messages(frames, 77))
        assert len(headers) >= 1
        assert len(found) == frames.shape[0] * frames.shape[1] * self.sectors

    @contextlib.contextmanager
    def _live(self, frames: _Arr, **options: Any) -> Iterator[Any]:
        import libstream as ls
        from libstream.live.replay import replay

        send, receive = self._urls()
        name = StreamUrl.parse(send).scheme
        if name not in [p.name for p in registry.plugins("detectors")]:
            registry.register("detectors", name, self.kind)
        opened, stop = threading.Event(), threading.Event()
        failed: list[BaseException] = []

        def go() -> None:
            try:
                replay(ls.open(frames), send, opened=lambda _: opened.set(), cancel=stop, patience_s=30, **options)
            except BaseException as exc:  # noqa: BLE001  raised again in the thread of the test
                failed.append(exc)
            opened.set()

        thread = threading.Thread(target=go, name="detector-tests", daemon=True)
        if self.detector_binds:
            thread.start()
            assert opened.wait(30)
        try:
            with ls.connect(receive, scan=frames.shape[:2], ring_bytes=256 << 20, stall_timeout_s=2.0) as live:
                if not self.detector_binds:
                    thread.start()
                yield live
        finally:
            stop.set()
            thread.join(30)
        if failed:
            raise failed[0]


def _decoded(event: FramePart, parts: list[bytes]) -> _Arr:
    out = np.zeros(event.shape, event.dtype)
    src = np.frombuffer(parts[event.part], np.uint8)
    at, size = np.array([event.start]), np.array([event.stop - event.start])
    valid = wire.decode(event.codec, event.shape, event.dtype, src, at, size, out.reshape(-1).view(np.uint8), np.zeros(1, np.int64))
    assert valid.all(), f"frame {event.number} cannot be decoded as {event.codec}"
    return out


def _free_ports(n: int) -> list[int]:
    for first in np.random.default_rng().integers(20000, 60000, 200).tolist():
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + n):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return list(range(first, first + n))
    raise OSError("no free ports")
