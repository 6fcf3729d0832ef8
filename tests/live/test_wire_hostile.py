"""Hostile payloads: refused or decoded, never a byte out of bounds."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libstream.codecs import wire
from tests.live.payloads import CODECS, decoded, hostile_frame, mutate


@settings(max_examples=150)
@given(st.integers(0, 2**32 - 1), st.sampled_from(CODECS))
def test_hostile_payloads_are_refused_or_decoded(seed: int, kind: tuple[str, tuple[int, int], str]) -> None:
    codec, shape, dtype = kind
    rng = np.random.default_rng(seed)
    frames = [hostile_frame(rng, shape, dtype) for _ in range(12)]
    blobs = [wire.encode(codec, f) for f in frames]
    bad = [mutate(rng, b) if i % 3 else b for i, b in enumerate(blobs)]
    rows = (int(rng.integers(0, shape[0])), shape[0])
    for part in (None, rows):
        valid, parts = decoded(codec, frames[0], bad, part, seed % 100)
        for i, frame in enumerate(frames):
            if bad[i] == blobs[i]:
                assert valid[i]
                assert parts[i] == (frame if part is None else frame[rows[0] :]).tobytes()


_GUARD_PAGES = '''
"""Payloads right before (or after) an unreadable page, decoded right before (or after) an unwritable one."""
import ctypes, mmap, sys
import numpy as np
from libstream.codecs import wire
from tests.live.payloads import CODECS, hostile_frame, mutate

libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE

def guarded(n):
    pages = (n + PAGE - 1) // PAGE + 2
    m = mmap.mmap(-1, pages * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(m))
    for page in (0, pages - 1):
        assert libc.mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, 0) == 0
    return np.frombuffer(m, np.uint8)[PAGE : (pages - 1) * PAGE]

rng = np.random.default_rng(int(sys.argv[1]))
room, target = guarded(256 * 1024), guarded(64 * 1024)
seen = set()
for trial in range(int(sys.argv[2])):
    codec, shape, dtype = CODECS[trial % len(CODECS)]
    frame = hostile_frame(rng, shape, dtype)
    blob = np.frombuffer(mutate(rng, wire.encode(codec, frame)), "u1")
    src = room[room.size - blob.size :] if trial % 2 else room[: blob.size]
    src[:] = blob
    out = target[target.size - frame.nbytes :] if trial % 2 else target[: frame.nbytes]
    seen.add(bool(wire.decode(codec, shape, dtype, src, [0], [blob.size], out, [0])[0]))
assert seen == {True, False}, seen
print("survived")
'''


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_nothing_is_touched_out_of_bounds() -> None:
    done = subprocess.run([sys.executable, "-c", _GUARD_PAGES, "1", "4000"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    assert done.stdout.strip() == "survived"
