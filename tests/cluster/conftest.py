"""What pyzmq starts once for a whole process is there before the first test, so that no test seems to leave it behind."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def zero_copy_thread() -> None:
    """Messages that are sent from where they are belong to a thread of pyzmq until they are gone."""
    import zmq

    context = zmq.Context()
    a, b = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    a.bind("inproc://warm")
    b.connect("inproc://warm")
    a.send(bytes(1 << 17), copy=False)
    b.recv()
    a.close()
    b.close()
    context.term()
