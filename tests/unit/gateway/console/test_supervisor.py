"""A console task that fails runs again, after a pause that grows."""

from __future__ import annotations

import asyncio

import pytest

from gateway.console.supervisor import supervise


async def test_a_job_that_fails_or_returns_runs_again_until_cancelled() -> None:
    runs: list[int] = []
    enough = asyncio.Event()

    async def job() -> None:
        runs.append(len(runs))
        if len(runs) == 4:
            enough.set()
            await asyncio.sleep(3600)
        if len(runs) % 2:
            raise RuntimeError("unforeseen")

    task = asyncio.create_task(supervise("job", job, retry_min_s=0.001, retry_max_s=0.002))
    await asyncio.wait_for(enough.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runs == [0, 1, 2, 3]
