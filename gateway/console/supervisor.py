"""Runs the console's tasks apart from the push: a task that fails is restarted, and the push goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger("gateway.console")

RETRY_MIN_S, RETRY_MAX_S = 0.5, 60.0
"""Seconds before a failed task is restarted. The pause doubles each time, from the first value up to the second."""


async def supervise(
    name: str,
    job: Callable[[], Awaitable[None]],
    *,
    retry_min_s: float = RETRY_MIN_S,
    retry_max_s: float = RETRY_MAX_S,
) -> None:
    """Run `job` again and again until cancelled, also after it raises.

    Args:
        name: the task's name in the log.
        job: called for each run.
        retry_min_s: seconds until the second run. Each further pause is twice as long.
        retry_max_s: maximum pause. After a run that was longer than this the pause is `retry_min_s` again.
    """
    pause_s = retry_min_s
    while True:
        began = time.monotonic()
        try:
            await job()
        except Exception as error:
            # An unforeseen failure of the console must not affect the tabs.
            log.error("console_task_failed", task=name, retry_s=pause_s, exc_info=error)
        if time.monotonic() - began > retry_max_s:
            pause_s = retry_min_s
        await asyncio.sleep(pause_s)
        pause_s = min(retry_max_s, 2 * pause_s)
