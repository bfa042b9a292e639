"""Unit tests stand on the store in memory and on a clock that stands until they move it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sync.store.store import Store
from tests.support.memory_store import START_US, Clock, memory_store


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.set(START_US)
    return clock


@pytest.fixture
def store(clock: Clock) -> Iterator[Store]:
    with memory_store(clock) as store:
        yield store
