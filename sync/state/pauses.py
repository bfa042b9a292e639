"""How long one piece of work may keep the event loop: long work in a coroutine pauses every few milliseconds."""

from __future__ import annotations

import asyncio
import time

TURN_S = 0.005
"""How long work goes on until others have their turn."""


class Pauses:
    """The pauses of one piece of work, which begins now."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def due(self) -> None:
        """Let others have their turn, if the last pause was longer than TURN_S ago."""
        if time.perf_counter() - self._since > TURN_S:
            await asyncio.sleep(0)
            self._since = time.perf_counter()
