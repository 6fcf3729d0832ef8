"""Partitions reach executors once each, in order; only those that may have to be waited for take a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from libstream.executors._feed import Feed, Given, feed_of
from libstream.ext import Partition, Planned


def some(n: int) -> Iterator[Partition]:
    return (Partition(i, np.array([[10 * i, 10 * i + 10]])) for i in range(n))


def all_of(feed: Feed | Given) -> list[int]:
    taken = []
    while not feed.ended:
        partition = feed.poll(2)
        if partition is None:
            feed.wait(1.0)
        else:
            taken.append(partition.number)
    assert feed.poll(2) is None
    return taken


@pytest.mark.parametrize("n", [0, 1, 2, 7])
@pytest.mark.parametrize("known", [True, False])
def test_each_once_in_order(n: int, known: bool) -> None:
    feed = feed_of(Planned(some(n)) if known else some(n))
    try:
        assert all_of(feed) == list(range(n))
    finally:
        feed.stop()


def test_known_partitions_take_no_thread() -> None:
    before = threading.active_count()
    feed = feed_of(Planned(some(3)))
    assert threading.active_count() == before
    assert isinstance(feed, Given)


def test_partitions_are_taken_when_they_are_asked_for() -> None:
    taken = []

    def slow() -> Iterator[Partition]:
        for p in some(100):
            taken.append(p.number)
            yield p

    feed = feed_of(Planned(slow()))
    feed.poll(5)
    assert len(taken) <= 3  # a scan of a million partitions is not listed beforehand


def test_an_error_of_the_source_comes_to_the_one_who_asks() -> None:
    def broken() -> Iterator[Partition]:
        yield from some(1)
        raise OSError("gone")

    feed = feed_of(Planned(broken()))
    with pytest.raises(OSError, match="gone"):
        all_of(feed)
