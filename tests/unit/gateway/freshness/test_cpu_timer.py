"""A metered coroutine does what it would do alone, and only its own work counts."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.freshness.cpu_timer import CpuTimer


def burn(seconds: float) -> float:
    """Work for at least that long; return for how long it was."""
    began = time.thread_time()
    while time.thread_time() < began + seconds:
        pass
    return time.thread_time() - began


async def test_its_own_work_counts_before_and_after_a_wait() -> None:
    burned = 0.0

    async def work() -> str:
        nonlocal burned
        burned += burn(0.02)
        await asyncio.sleep(0)
        burned += burn(0.02)
        return "dropped"

    began = time.thread_time()
    metered = await CpuTimer(work())
    assert 0.04 <= burned <= metered <= time.thread_time() - began


async def test_neither_waiting_nor_the_work_of_others_counts() -> None:
    let_go = asyncio.Event()

    async def wait() -> None:
        await let_go.wait()

    async def other() -> float:
        burned = burn(0.05)
        let_go.set()
        return burned

    began = time.thread_time()
    task = asyncio.create_task(other())
    metered = await CpuTimer(wait())
    assert metered <= time.thread_time() - began - await task


async def test_what_it_raises_is_raised() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        await CpuTimer(fail())


async def test_it_can_be_cancelled_and_may_finish_all_the_same() -> None:
    seen: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")

    async def run() -> float:
        return await CpuTimer(stubborn())

    began = time.thread_time()
    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    assert 0 < await task <= time.thread_time() - began
    assert seen == ["cancelled"]


async def test_it_can_be_given_up() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("left")

    metered = CpuTimer(work())
    metered.send(None)
    metered.close()
    assert seen == ["left"]
