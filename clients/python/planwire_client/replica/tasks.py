"""What the tasks of a connection have in common: waiting for an event or a time, and cancels from elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection

from planwire_client.core.frames import Inbound, write

T = TypeVar("T")


async def woken(event: asyncio.Event, at: float) -> None:
    """Return when `event` is set from now on, or when the monotonic clock says `at`."""
    event.clear()
    wait_s = at - time.monotonic()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if wait_s == float("inf") else max(0.0, wait_s)):
            await event.wait()


async def uncancelled(work: Callable[..., Coroutine[Any, Any, T]], *given: object) -> T:
    """Return the result of `work`.

    Raises:
        RuntimeError: `work` raised a CancelledError that nobody asked for; as such it would end a task unseen.
    """
    try:
        return await work(*given)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("cancelled from inside") from error


async def send(socket: ClientConnection, frame: Inbound) -> None:
    """Send a frame."""
    await socket.send(write(frame).decode())
