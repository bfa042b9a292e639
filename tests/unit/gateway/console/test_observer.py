"""A console task that fails runs again, after a pause that grows."""

from __future__ import annotations

import asyncio

import pytest

from gateway.console import observer
from gateway.console.observer import supervise


async def test_a_job_that_fails_or_returns_runs_again_until_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observer, "RETRY_MIN_S", 0.001)
    monkeypatch.setattr(observer, "RETRY_MAX_S", 0.002)
    runs: list[int] = []
    enough = asyncio.Event()

    async def job() -> None:
        runs.append(len(runs))
        if len(runs) == 4:
            enough.set()
            await asyncio.sleep(3600)
        if len(runs) % 2:
            raise RuntimeError("unforeseen")

    task = asyncio.create_task(supervise("job", job))
    await asyncio.wait_for(enough.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runs == [0, 1, 2, 3]
