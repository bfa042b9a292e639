"""Runs the console's tasks apart from the push: one that fails is started again, and nothing else notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger("gateway.console")

RETRY_MIN_S, RETRY_MAX_S = 0.5, 60.0
"""How long a failed task is left alone: twice as long each time, from the first to the second."""


async def supervise(
    name: str,
    job: Callable[[], Awaitable[None]],
    *,
    retry_min_s: float = RETRY_MIN_S,
    retry_max_s: float = RETRY_MAX_S,
) -> None:
    """Run `job` again and again until cancelled, whatever it raises.

    Args:
        name: of the task, for the log.
        job: is called for each run.
        retry_min_s, retry_max_s: seconds until the next run; a job that ran for longer than the second starts anew.
    """
    pause_s = retry_min_s
    while True:
        began = time.monotonic()
        try:
            await job()
        except Exception as error:
            # A console that fails in a way nobody foresaw must not take the tabs along.
            log.error("console_task_failed", task=name, retry_s=pause_s, exc_info=error)
        if time.monotonic() - began > retry_max_s:
            pause_s = retry_min_s
        await asyncio.sleep(pause_s)
        pause_s = min(retry_max_s, 2 * pause_s)
