"""How often a provider may be asked: a token bucket of this process, and the pause it asks for when it is too much."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sync.billing.providers import ProviderUnavailable

BURST = 20
"""How many calls may be made at once after a quiet time."""

RESERVE = 5
"""How many calls' worth background work leaves to webhooks and people."""


class Budget:
    """Calls per second, with a burst. Who would have to wait longer than its patience is refused at once."""

    def __init__(self, rate_per_s: float, burst: int = BURST, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()
        self._closed_until = 0.0

    async def take(self, patience_s: float, *, background: bool = False) -> None:
        """Return when one call may be made.

        Raises:
            ProviderUnavailable: that would take longer than `patience_s`, or `close` was called lately.
        """
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        wanted = 1 + (min(RESERVE, self._burst - 1) if background else 0)
        wait_s = max(0.0, (wanted - self._tokens) / self._rate)
        if self._closed_until > now:
            # However patient: whoever can wait for minutes comes again, and the others have no time to lose.
            raise ProviderUnavailable(f"not asked for another {self._closed_until - now:.1f} s after it failed")
        if wait_s > patience_s:
            raise ProviderUnavailable(f"the rate budget is used up for another {wait_s:.1f} s")
        # Taken before the wait: whoever comes next waits behind it.
        self._tokens -= 1
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    def close(self, seconds: float) -> None:
        """Let nobody ask for so long: the provider is away, or said that it was too much."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)

    def open(self) -> None:
        """Let everybody ask again: the provider has answered."""
        self._closed_until = 0.0
