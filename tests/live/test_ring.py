"""The memory of a live source: blocks are used again only when nobody needs what is in them."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libstream.errors import LibstreamError, UsageError
from libstream.live import ring as ring_module
from libstream.live.ring import MIB, Ring


@given(st.integers(0, 2**32 - 1))
def test_a_block_is_never_taken_while_it_is_kept_and_the_order_is_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ring = Ring(6 * 64, 64)
    keep: dict[int, int] = {}  # by block: reasons
    wanted: dict[int, set[tuple[int, int]]] = {}
    full: list[int] = []  # in the order in which they were filled
    filling: int | None = None
    unused = 6
    for _ in range(80):
        what = rng.choice(["take", "hold", "let go", "want", "no longer", "retire"])
        if what == "take":
            if filling is not None:
                full.append(filling)
            over = [b for b in full if not keep.get(b) and not wanted.get(b)]
            merged = [b for b in full if not keep.get(b)]
            filling = ring.take()
            if over:
                assert filling == over[-1]
            elif unused:
                unused -= 1
                assert filling not in full
            else:
                assert filling == (merged[0] if merged else None)
            if filling is not None:
                full = [b for b in full if b != filling]
                wanted[filling] = set()
        elif what == "retire":
            ring.retire()
            if filling is not None:
                full.append(filling)
            filling = None
        elif what == "hold" and filling is not None:
            offsets = filling * 64 + rng.integers(0, 64, rng.integers(0, 4))
            ring.hold(offsets, 1)
            keep[filling] = keep.get(filling, 0) + len(offsets)
        elif what == "let go" and any(keep.values()):
            block = int(rng.choice([b for b, k in keep.items() if k]))
            ring.hold(np.array([block * 64 + 63]), -1)
            keep[block] -= 1
        elif what == "want" and filling is not None:
            mark = (filling, int(ring.epoch[filling]))
            if mark not in wanted[filling]:
                ring.want(*mark, 1)
                wanted[filling].add(mark)
        elif what == "no longer" and any(wanted.values()):
            block = int(rng.choice([b for b, w in wanted.items() if w]))
            ring.want(*wanted[block].pop(), -1)
        assert ring.keep.tolist() == [keep.get(b, 0) for b in range(6)]
        assert ring.wanted.tolist() == [len(wanted.get(b, ())) for b in range(6)]
        assert ring.fill == sum(k > 0 for k in keep.values()) / 6


def test_a_run_that_is_over_cannot_speak_for_a_block_that_was_taken_again() -> None:
    ring = Ring(4 * 64, 64)
    block = ring.take()
    assert block is not None
    old = int(ring.epoch[block])
    ring.want(block, old, 1)
    ring.retire()
    for _ in range(3):
        ring.pin(ring.take() or 0, 1)
    assert ring.take() == block
    ring.want(block, old, -1)
    assert ring.wanted[block] == 0
    assert ring.held(np.array([block * 64]), np.array([old])).tolist() == [False]
    assert ring.held(np.array([block * 64]), np.array([old + 1])).tolist() == [True]


def test_sizes() -> None:
    assert Ring(4 * MIB).block_bytes == MIB
    assert Ring(256 * MIB).block_bytes == 4 * MIB
    assert Ring(4 * MIB + 5, 1000).n_bytes == (4 * MIB + 5) // 1000 * 1000
    with pytest.raises(UsageError, match=f"ring_bytes={3 * MIB} holds 3 messages .* give ring_bytes={4 * MIB} or more"):
        Ring(3 * MIB)
    with pytest.raises(UsageError, match="messages of 3221225472 bytes are not possible"):
        Ring(20 << 30, 3 << 30)


READ = """
import pickle, sys
shared = pickle.loads(bytes.fromhex(sys.argv[1]))
memory = shared.map()
assert not memory.flags.writeable
print(int(memory[70]), len(memory))
"""


def in_another_process(shared: Any) -> str:
    done = subprocess.run([sys.executable, "-c", READ, pickle.dumps(shared).hex()], capture_output=True, text=True, timeout=60)
    return done.stdout.strip() or done.stderr


@pytest.fixture(params=["memory", "file"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ring in anonymous memory, and in a file where the system has no such memory."""
    if request.param == "file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif not hasattr(os, "memfd_create"):
        pytest.skip("this system has no anonymous memory files")
    return str(request.param)


def test_other_processes_map_it(how: str) -> None:
    ring = Ring(4 * 4096, 4096)
    ring.data[70] = 123
    assert in_another_process(ring.shared) == f"123 {4 * 4096}"
    assert ring.shared.map()[70] == 123


def ring_files() -> list[str]:
    """Memory of rings that this process has open."""
    found = []
    for fd in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):  # the one of this listing
            found.append(os.readlink(fd))
    return [target for target in found if "libstream-ring" in target]


def test_it_goes_with_its_last_user(how: str) -> None:
    before = len(ring_files())
    ring = Ring(4 * 4096, 4096)
    shared, path = ring.shared, ring.shared.path
    data = ring.data[:10]
    del ring
    data[3] = 9
    assert len(ring_files()) > before or not os.path.isdir("/proc/self/fd")
    assert os.path.exists(path)
    del data
    gc.collect()
    assert not os.path.exists(path) or how == "memory"
    assert len(ring_files()) <= before
    with pytest.raises(LibstreamError, match=r"cannot reach the memory of the live source .* is the source closed\?"):
        shared.map()


def test_memory_is_free_although_an_idle_worker_maps_it() -> None:
    ring = Ring(4 * MIB)
    ring.data[:] = 1
    mapped = ring.shared.map()
    assert mapped[-1] == 1
    del ring
    gc.collect()
    assert mapped[-1] == 0  # given back to the system; no signal


def test_an_allocation_that_fails_leaves_nothing(how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(ring_module.tempfile, "tempdir", str(tmp_path))
    opened: list[int] = []
    truncate = os.ftruncate

    def full(fd: int, n: int) -> None:
        if n:
            opened.append(fd)
            raise OSError(28, "No space left on device")
        truncate(fd, n)

    monkeypatch.setattr(os, "ftruncate", full)
    with pytest.raises(OSError, match="No space left"):
        Ring(4 * 4096, 4096)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(opened[0])
    assert list(tmp_path.iterdir()) == []
