"""The leak judge passes figures that level off, and finds figures that grow with every connection."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.faults.leaks import LAPS, POOL, Left, grown, slope

START = Left(50_000, 18, 14, 0, 0, 0, 2, 5)
SITTINGS = 3000


def looks(bytes_a_sitting: float, **more: int) -> list[tuple[int, Left]]:
    """A run that fills its caches, has an allocator's noise, and leaks; `more` is added from the tenth lap on."""
    chance = random.Random(1)
    found = []
    for lap in range(1, LAPS + 1):
        caches_kib = 4000 * (1 - 0.5**lap)
        leaked_kib = bytes_a_sitting * lap * SITTINGS / 1024
        left = replace(START, memory_kib=int(START.memory_kib + caches_kib + leaked_kib + chance.uniform(-150, 150)))
        if lap >= 10:
            left = replace(left, **{name: getattr(left, name) + by for name, by in more.items()})
        found.append((lap * SITTINGS, left))
    return found


def test_an_allocator_that_levels_off_is_no_leak() -> None:
    assert grown(looks(0)) == []


def test_an_object_left_by_every_sitting_is() -> None:
    (said,) = grown(looks(100))
    assert said.startswith("memory_kib: by ")
    assert 70 < slope(looks(100)[LAPS // 2 :]) * 1024 < 130


@pytest.mark.parametrize("name", ["tasks", "sockets", "topics", "streams", "channels"])
def test_nothing_else_may_be_more(name: str) -> None:
    assert grown(looks(0, **{name: 1})) != []


def test_the_pool_may_have_opened_another_connection_and_no_more() -> None:
    assert grown(looks(0, **POOL)) == []
    assert len(grown(looks(0, **{name: by + 1 for name, by in POOL.items()}))) == len(POOL)
