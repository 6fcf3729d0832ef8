"""Messages at their time, with the faults that were asked for, onto a wire."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from libstream.contracts.stream import Outgoing, Transport
from libstream.errors import LibstreamError
from libstream.live.faults import Faults, ReplayAccount, RunAccount, Sieve

_STEP_S = 0.05
_BATCH_S = 0.001
"""Frames that are due within this time go out together: sleeping is not more exact than that."""
_TELL_S = 0.05


@dataclass(frozen=True)
class Sending:
    """How far a replay is. frames: of the present run, sent or left out; waiting: nobody takes messages just now."""

    run: int | str
    frames: int
    n_frames: int
    n_bytes: int
    waiting: bool


# -- what is to be sent --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Begin:
    """A run of `n_frames` begins."""

    run: int | str
    n_frames: int
    number: int


@dataclass(frozen=True)
class Leave:
    """The run is left for good, `n` of its frames are not sent."""

    n: int


@dataclass(frozen=True)
class Note:
    """A frame that is not sent, or is not what it should be. what: the list of the account."""

    what: str
    frame: int


@dataclass(frozen=True)
class Message:
    """kind: "" for one that carries a frame, "header", "end", or the list of the account that it belongs to."""

    kind: str
    message: Outgoing
    n_bytes: int


Item = Begin | Leave | Note | Message


def message(kind: str, out: Outgoing) -> Message:
    """A message with parts of its own: encoders may use their buffers again."""
    parts = tuple(p if isinstance(p, bytes) else bytes(p) for p in out.parts)
    return Message(kind, out._replace(parts=parts), sum(map(len, parts)))


class Ahead:
    """Makes messages in a thread of its own, before they are needed, up to `n_bytes` of them.

    fill: none is handed out before as many as possible are ready.
    """

    def __init__(self, stream: Iterable[Item], n_bytes: int, cancel: threading.Event, *, fill: bool) -> None:
        self._stream, self._room, self._cancel, self._fill = iter(stream), max(1, n_bytes), cancel, fill
        self._held: deque[Item] = deque()
        self._bytes = 0
        self._over = self._stopped = self._full_once = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._make, name="libstream-replay-encode", daemon=True)

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(5.0)

    def __iter__(self) -> Iterator[Item]:
        with self._changed:
            while self._fill and not (self._over or self._full_once or self._cancel.is_set()):
                self._changed.wait(_STEP_S)
        while True:
            with self._changed:
                while not self._held and not self._over and not self._cancel.is_set():
                    self._changed.wait(_STEP_S)
                items, self._held, self._bytes = self._held, deque(), 0
                self._changed.notify_all()
                if not items:
                    if self._error is not None:
                        raise self._error
                    return
            yield from items

    def _make(self) -> None:
        try:
            batch: list[Item] = []
            size = 0
            for item in self._stream:
                batch.append(item)
                size += item.n_bytes if isinstance(item, Message) else 0
                if size < 1 << 20 and len(batch) < 64:
                    continue
                if not self._pass_on(batch, size):
                    return
                batch, size = [], 0
            self._pass_on(batch, size)
        except BaseException as exc:  # noqa: BLE001  raised where the messages are taken
            self._error = exc
        finally:
            close = getattr(self._stream, "close", None)
            if close is not None:
                close()
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _pass_on(self, batch: list[Item], size: int) -> bool:
        with self._changed:
            self._held.extend(batch)
            self._bytes += size
            self._changed.notify_all()
            while self._bytes >= self._room and not self._stopped:
                self._full_once = True
                self._changed.notify_all()
                self._changed.wait()
            return not self._stopped


class Over(LibstreamError):
    """Nothing more is sent: cancelled, or the connection was closed on purpose."""


class Sender:
    """Sends messages at their time, with the faults that were asked for."""

    def __init__(
        self, transport: Transport, account: ReplayAccount, faults: Faults, rate: float | None, seed: int,
        progress: Callable[[Sending], None] | None, cancel: threading.Event, patience_s: float, pause_s: float,
    ) -> None:  # fmt: skip
        self.transport, self.account, self.faults, self.rate, self.seed = transport, account, faults, rate, seed
        self.progress, self.cancel, self.patience_s, self.pause_s = progress, cancel, patience_s, pause_s
        self._run = RunAccount("", 0)  # what is sent before a run begins; not in the account
        self._begun = False
        self._sieve: Sieve | None = None
        self._frame = -1
        self._frames = 0
        self._due = self._told = 0.0
        self._stalled = False

    def take(self, item: Item) -> None:
        """The next thing to do. Raises Over where nothing more is to be done."""
        if isinstance(item, Message):
            self._take_message(item)
        elif isinstance(item, Begin):
            self._begin(item)
        elif isinstance(item, Leave):
            self._run.n_not_sent += item.n
            self._flush()
        else:
            self._next_frame(item.frame)
            getattr(self._run, item.what).append(item.frame)

    def finish(self) -> None:
        """All messages were taken."""
        if self.cancel.is_set():
            self._stop()
        self._leave()
        if self._run.run == "" and not self._run.n_messages and self._run in self.account.runs:
            self.account.runs.remove(self._run)
        self._tell(False, last=True)

    def _begin(self, item: Begin) -> None:
        self._leave()
        if self._begun and (self._run.run != "" or self._frames) and self.pause_s and self.cancel.wait(self.pause_s):
            self._stop()
        self._begun = self._begun or item.run != ""
        before, self._run = self._run, RunAccount(item.run, item.n_frames)
        if before.run == "" and not self._frames and before in self.account.runs:
            # a recording that begins with a header, as it should, or with announcements of its first run
            self.account.runs.remove(before)
            self._run.n_messages, self._run.n_bytes = before.n_messages, before.n_bytes
        self.account.runs.append(self._run)
        self._sieve = Sieve(self.faults, item.number, self._run) if self.faults.per_message else None
        self._frame, self._frames = -1, 0
        self._due = time.monotonic()

    def _leave(self) -> None:
        self._flush()
        self._late()

    def _take_message(self, item: Message) -> None:
        run = self._run
        number = item.message.number
        if item.kind == "header":
            if not self.faults.no_header:
                self._send(item.message)
            return
        if number is None:
            if item.kind == "end":
                self._flush()
                run.ended = not self.faults.no_end
                if self.faults.no_end:
                    return
            self._send(item.message)
            return
        self._next_frame(number)
        if item.kind:
            getattr(run, item.kind).append(number)
            self._send(item.message)
        elif self._sieve is None:
            run.sent += 1
            self._send(item.message)
        else:
            for out in self._sieve.give(item.message):
                self._send(out)

    def _next_frame(self, number: int) -> None:
        """Before the first message of a frame: its time, and what is to happen at it."""
        if number == self._frame:
            return
        self._frame = number
        run = self._run
        if self.faults.die_at is not None and self._frames >= self.faults.die_at:
            run.n_not_sent += max(0, run.n_frames - self._frames)
            self.account.died = True
            raise Over("the connection was closed on purpose")
        if self.faults.stall_at is not None and self._frames >= self.faults.stall_at and not self._stalled:
            self._stalled = True
            self._wait(self.faults.stall_s)
        self._frames += 1
        if self.rate is None:
            if self.cancel.is_set():
                self._stop()
        else:
            self._pace(self.rate)
        self._tell(False)

    def _pace(self, rate: float) -> None:
        now = time.monotonic()
        if self._due - now > _BATCH_S or self.cancel.is_set():
            self._wait(self._due - now)
        elif now - self._due > 1.0:
            self._due = now  # the receiver was slow for long: what was missed is not made up in one burst
        self._due += 1.0 / rate

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 or self.cancel.is_set():
            if self.cancel.wait(min(left, _STEP_S)):
                self._stop()
            if self._sieve is not None:
                for out in self._sieve.due():
                    self._send(out)
            self._tell(False)

    def _flush(self) -> None:
        """What is held back goes out before the end of the run."""
        if self._sieve is not None:
            for out in self._sieve.rest():
                self._send(out)

    def _late(self) -> None:
        if self._sieve is not None:
            for out in self._sieve.late():
                self._send(out)

    def _send(self, out: Outgoing) -> None:
        begun = 0.0
        while not self.transport.send(out.parts, _STEP_S, out.lane):
            now = time.monotonic()
            begun = begun or now
            if self.cancel.is_set():
                self._stop()
            if now - begun > self.patience_s:
                raise TimeoutError(f"{self.transport.address}: nobody took a message for {self.patience_s:g} s; is the receiver running?")
            self._tell(True)
        if begun and self.rate is not None:
            self._due = max(self._due, time.monotonic())  # time without a receiver is not made up
        self._run.n_messages += 1
        self._run.n_bytes += sum(map(len, out.parts))

    def _stop(self) -> None:
        self.account.cancelled = True
        self._run.n_not_sent += max(0, self._run.n_frames - self._frames)
        raise Over("cancelled")

    def _tell(self, waiting: bool, *, last: bool = False) -> None:
        if self.progress is None:
            return
        now = time.monotonic()
        if last or now - self._told >= _TELL_S:
            self._told = now
            self.progress(Sending(self._run.run, self._frames, self._run.n_frames, self.account.n_bytes, waiting))
