"""Ends all sockets and event streams of a process that stops, evenly over the time there is."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gateway.metrics import Metrics
from gateway.ws import frames, protocol
from planwire_client.core.frames import CloseCode

if TYPE_CHECKING:
    from gateway.ws.session_socket import SessionSocket

STREAMS_POLL_S = 0.05
"""Interval between checks whether the last event stream has ended."""


async def close_all(sockets: set[SessionSocket], metrics: Metrics, over_s: float) -> None:
    """Say bye on each of `sockets` and close it, one after the other; then wait for the event streams.

    A browser comes back within a second of its own close, so the reconnects are spread as the closes are.

    Args:
        sockets: the open sockets; those that end leave it.
        metrics: count what is drained, and tell how many event streams are open.
        over_s: seconds there are.
    """
    started = time.monotonic()
    back_ms = round(min(1.0, over_s / 10) * 1000)
    bye = frames.text(protocol.bye(back_ms), False)
    closing_s = over_s - back_ms / 1000
    for index, socket in enumerate(leaving := list(sockets)):
        wait_s = started + closing_s * index / len(leaving) - time.monotonic()
        if wait_s > 0.005:
            await asyncio.sleep(wait_s)
        if socket in sockets:
            metrics.drained += 1
            socket.write(bye)
            socket.close(CloseCode.GOING_AWAY, "going away")
    # Event streams are no sockets: they see the drain themselves and end within it, each at a time of its own.
    while metrics.streams and time.monotonic() < started + over_s:  # noqa: ASYNC110 - once in a life
        await asyncio.sleep(STREAMS_POLL_S)
