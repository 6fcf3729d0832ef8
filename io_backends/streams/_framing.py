"""Cutting a stream of bytes into messages, in the block that they were received to."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

_Arr = np.ndarray[Any, Any]

UNKNOWN = -1
"""`stop` of a message whose end cannot be told from the bytes that are there."""

_CHUNK = 1024 * 1024
"""Bytes asked of the system at a time."""
_PREFIX = 4096
"""More than any prefix has."""


class Framing(Protocol):
    """Cuts a stream of bytes into messages. One object serves one connection after another."""

    def cut(self, data: memoryview) -> tuple[int, int]:
        """Where the next message is: `(start, stop)`.

        data: all bytes that came and belong to no message yet, at least one. It must not be kept.

        - 0 <= start < stop: bytes [start, stop) are the message, which the decoder gets; those before it (a prefix, garbage) are
          thrown away. `stop` may lie beyond `data`: then the rest is waited for, without asking again.
        - (start, UNKNOWN): the end cannot be told yet. Bytes before `start` are thrown away, the others come again with more.
          Something that is garbage for sure must be thrown away: where `max_bytes` of bytes are no message yet and the room is taken,
          all of them are thrown away and counted as one.

        A message of more than the `max_bytes` of `receive` is thrown away and counted, but its length is not believed: bytes up
        to its start (at least one) are thrown away, and `cut` is asked again from there. So a lying length costs no good message,
        where `cut` finds the next start by itself. Must not raise; costs a few microseconds for each message.
        """

    def reset(self) -> None:
        """The connection ended, what comes next is the beginning of another stream."""


class Batch:
    """One call of `receive`: bytes [head, tail) of `into` are there and belong to no message yet.

    need: length of the message at `head`, where it is known. more: bytes that were carried over and did not fit yet.
    """

    def __init__(self, into: _Arr, framing: Framing, carry: memoryview, need: int, most: int, max_bytes: int) -> None:
        self._into, self._view, self._framing = into, memoryview(into), framing
        self._most, self._max_bytes, self._room = most, max_bytes, into.size
        self._more, self.need = carry, need
        self.head = self.tail = self.used = self.dropped = 0
        self._asked = -1  # tail when the framing said UNKNOWN
        self.full = False
        self.rows: list[tuple[int, int, int]] = []
        self._refill()

    def _refill(self) -> None:
        n = min(len(self._more), self._room - self.tail)
        self._view[self.tail : self.tail + n] = self._more[:n]
        self.tail, self._more = self.tail + n, self._more[n:]

    def cut(self) -> bool:
        """Cut what is there into messages; whether there is room for more bytes."""
        while len(self.rows) < self._most:
            if self.need == 0 and self.head < self.tail and self._asked != self.tail:
                start, stop = self._framing.cut(self._view[self.head : self.tail])
                if stop < 0:
                    self.head, self._asked = min(self.head + start, self.tail), self.tail
                elif stop - start > self._max_bytes:
                    self.dropped += 1
                    self.head = min(self.head + max(start, 1), self.tail)
                    continue
                else:
                    self.head, self.need = min(self.head + start, self.tail), max(0, stop - start)
            if 0 < self.need <= self.tail - self.head:
                self.rows.append((len(self.rows), self.head, self.need))
                self.head += self.need
                self.used, self.need = self.head, 0
            elif not self._more and self.tail < self._room and self.need <= self._room - self.head:
                return True
            elif not self._make_room():
                return False
        return False

    def _make_room(self) -> bool:
        """Close the gap of what was thrown away before `head`; False where that does not help."""
        if self.need == 0 and self.tail - self.head >= max(self._max_bytes, _PREFIX):
            self.head, self.dropped = self.tail, self.dropped + 1
            return True
        if self.head == self.used or self.need > self._room - self.used:
            self.full = True
            return False
        n = self.tail - self.head
        self._into[self.used : self.used + n] = self._into[self.head : self.tail]
        self.head, self.tail, self._asked = self.used, self.used + n, -1
        self._refill()
        return True

    def free(self) -> memoryview:
        """Where to receive to, at most a chunk or what the message needs."""
        return self._view[self.tail : self.tail + max(_CHUNK, self.need - (self.tail - self.head))]

    def rest(self) -> memoryview:
        """What is carried over to the next call."""
        return memoryview(b"".join((self._view[self.head : self.tail], self._more)))
