"""Divides long work in a coroutine into turns of a few milliseconds, so that other tasks can run in between."""

from __future__ import annotations

import asyncio
import time

TURN_S = 0.005
"""Length of one turn."""


class Pauses:
    """The turns of one piece of work. The first turn begins when the object is made."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def due(self) -> None:
        """Yield to other tasks if the current turn has lasted longer than TURN_S."""
        if time.perf_counter() - self._since > TURN_S:
            await asyncio.sleep(0)
            self._since = time.perf_counter()
