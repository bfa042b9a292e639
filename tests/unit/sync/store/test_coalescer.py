"""Loads that travel together: everybody gets their own answer, and nobody waits for somebody who is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sync.store.coalescer import LOADS_MAX, Coalescer
from sync.store.models import StoreError


class Road:
    """Keeps each trip until it is let go."""

    def __init__(self) -> None:
        self.trips: list[list[int]] = []
        self.gates: list[asyncio.Event] = []
        self.error: Exception | None = None
        self.coalescer = Coalescer(self.send)

    async def send(self, loads: Sequence[int]) -> list[int | Exception]:
        self.trips.append(list(loads))
        gate = asyncio.Event()
        self.gates.append(gate)
        await gate.wait()
        if self.error is not None:
            raise self.error
        return [StoreError(str(load)) if load < 0 else load * 10 for load in loads]

    def ask(self, *loads: int) -> list[asyncio.Task[int]]:
        return [asyncio.ensure_future(self.coalescer.submit(load)) for load in loads]

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def road() -> Road:
    return Road()


async def finish(road: Road, *tasks: asyncio.Task[int]) -> list[int | BaseException]:
    """Let every trip go until all are answered."""
    done = 0
    while not all(task.done() for task in tasks):
        await road.turn()
        for gate in road.gates[done:]:
            gate.set()
        done = len(road.gates)
        await road.turn()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_comes_while_one_is_under_way_rides_with_the_next(road: Road) -> None:
    tasks = road.ask(1)
    await road.turn()
    tasks += road.ask(2, 3, 4)
    await road.turn()
    assert road.trips == [[1]]
    assert await finish(road, *tasks) == [10, 20, 30, 40]
    assert road.trips == [[1], [2, 3, 4]]
    assert await finish(road, *road.ask(5)) == [50]
    assert road.trips[2:] == [[5]]


async def test_a_trip_has_no_more_loads_than_it_may(road: Road) -> None:
    tasks = road.ask(*range(LOADS_MAX + 3))
    assert await finish(road, *tasks) == [load * 10 for load in range(LOADS_MAX + 3)]
    assert [len(trip) for trip in road.trips] == [1, LOADS_MAX, 2]


async def test_an_answer_that_is_an_error_is_its_asker_s_alone(road: Road) -> None:
    tasks = road.ask(1, 2, -3, 4)
    one, two, three, four = await finish(road, *tasks)
    assert (one, two, four) == (10, 20, 40)
    assert isinstance(three, StoreError)


async def test_a_trip_that_fails_fails_for_all_aboard_and_the_next_goes_on(road: Road) -> None:
    tasks = road.ask(1, 2, 3)
    await road.turn()
    road.gates[0].set()
    await road.turn()
    road.error = StoreError("away")
    road.gates[1].set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert found == [10, road.error, road.error]
    road.error = None
    assert await finish(road, *road.ask(4)) == [40]


async def test_an_error_nobody_foresaw_goes_to_the_driver_and_lets_the_others_off(road: Road) -> None:
    tasks = road.ask(1, 2, 3)
    await road.turn()
    road.gates[0].set()
    await road.turn()
    road.error = ZeroDivisionError()
    road.gates[1].set()
    _, two, three = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(two, ZeroDivisionError)
    assert isinstance(three, StoreError)
    road.error = None
    assert await finish(road, *road.ask(4)) == [40]


async def test_a_driver_that_is_cancelled_leaves_its_riders_told_and_the_road_free(road: Road) -> None:
    tasks = road.ask(1, 2, 3)
    await road.turn()
    road.gates[0].set()
    await road.turn()
    tasks += road.ask(4)
    await road.turn()
    assert road.trips == [[1], [2, 3]]
    tasks[1].cancel()
    one, two, three, four = await finish(road, *tasks)
    assert (one, four) == (10, 40)
    assert isinstance(two, asyncio.CancelledError)
    assert isinstance(three, StoreError)


async def test_who_is_cancelled_while_waiting_is_not_sent(road: Road) -> None:
    tasks = road.ask(1, 2, 3)
    await road.turn()
    tasks[1].cancel()
    one, two, three = await finish(road, *tasks)
    assert (one, three) == (10, 30)
    assert isinstance(two, asyncio.CancelledError)
    assert road.trips == [[1], [3]]


async def test_who_is_cancelled_just_as_it_is_to_drive_hands_over(road: Road) -> None:
    tasks = road.ask(1, 2, 3)
    await road.turn()
    road.gates[0].set()
    await asyncio.sleep(0)
    # The first has handed over, and the second has not moved yet.
    assert road.trips == [[1]]
    tasks[1].cancel()
    found = await finish(road, *tasks)
    assert (found[0], found[2]) == (10, 30)
    assert road.trips == [[1], [3]]
    assert await finish(road, *road.ask(4)) == [40]
