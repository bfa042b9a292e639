"""Rate limits of API clients: a token bucket, and the pause that a provider asks for.

Providers count the calls of a whole account, so processes share one bucket in the store (`RedisRateLimiter`).
`LocalRateLimiter` limits one process. A dry run uses it, since a dry run writes nothing to the store.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from sync.billing.providers.base import ProviderUnavailable
from sync.store.command_pipeline import CommandPipeline, Script, run_commands
from sync.store.store import Store

BURST = 20
"""Maximum calls at once after a quiet time."""

RESERVE = 5
"""Tokens that background calls leave to webhooks and people."""

_TAKE = Script.load("sync.billing.storage", "token_bucket")


class _TokenBucket(ABC):
    """Calls per second, with a burst."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate = rate_per_s
        self._burst = burst

    @abstractmethod
    async def _take(self, wanted: int, max_wait_s: float) -> tuple[str, float]:
        """Take one token if the bucket will hold `wanted` tokens within `max_wait_s`. Return (status, seconds).

        `taken`: seconds until the call may begin. `used_up` and `closed` (paused): seconds until a token is available.
        """

    async def acquire(self, max_wait_s: float, *, background: bool = False) -> None:
        """Return when one call may be made."""
        wanted = 1 + (min(RESERVE, self._burst - 1) if background else 0)
        what, seconds = await self._take(wanted, max_wait_s)
        if what == "closed":
            # Fail at once, whatever `max_wait_s` is: callers can retry, and some are in a hurry.
            raise ProviderUnavailable(f"not asked for another {seconds:.1f} s after it failed", seconds)
        if what == "used_up":
            raise ProviderUnavailable(f"the rate budget is used up for another {seconds:.1f} s", seconds)
        if seconds > 0:
            await asyncio.sleep(seconds)


class LocalRateLimiter(_TokenBucket):
    """Limits the calls of this process."""

    def __init__(self, rate_per_s: float, burst: int = BURST, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(rate_per_s, burst)
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()
        self._paused_until = {"away": 0.0, "throttled": 0.0}

    async def _take(self, wanted: int, max_wait_s: float) -> tuple[str, float]:
        now = self._clock()
        paused_s = max(self._paused_until.values()) - now
        if paused_s > 0:
            return "closed", paused_s
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        wait_s = max(0.0, (wanted - self._tokens) / self._rate)
        if wait_s > max_wait_s:
            return "used_up", wait_s
        # Taken before the wait, so that the next caller waits behind this one.
        self._tokens -= 1
        return "taken", wait_s

    async def pause(self, seconds: float, *, throttled: bool = False) -> None:
        """Pause all calls."""
        why = "throttled" if throttled else "away"
        self._paused_until[why] = max(self._paused_until[why], self._clock() + seconds)

    async def resume(self) -> None:
        """End the pause, unless the provider asked for it."""
        self._paused_until["away"] = 0.0


class RedisRateLimiter(_TokenBucket):
    """Limits the calls of all processes together, for one provider's environment."""

    def __init__(self, store: Store, provider: str, environment: str, rate_per_s: float, burst: int = BURST) -> None:
        super().__init__(rate_per_s, burst)
        self._store = store
        names = ("tokens", "away", "throttled")
        self._keys = [store.keys.budget(environment, provider, name) for name in names]
        self._may_be_paused = True

    async def _take(self, wanted: int, max_wait_s: float) -> tuple[str, float]:
        batch = CommandPipeline(self._store)
        batch.script(_TAKE, self._keys, str(self._rate), self._burst, wanted, int(max_wait_s * 1_000_000))
        ((what, us),) = await batch.run()
        return what.decode(), int(us) / 1_000_000

    async def pause(self, seconds: float, *, throttled: bool = False) -> None:
        """Pause the calls of all processes."""
        _, away, asked_for = self._keys
        key, milliseconds = asked_for if throttled else away, max(1, int(seconds * 1000))
        self._may_be_paused = True
        await run_commands(
            self._store, ("SET", key, "1", "PX", milliseconds, "NX"), ("PEXPIRE", key, milliseconds, "GT")
        )

    async def resume(self) -> None:
        """End the pause of all processes, unless the provider asked for it."""
        if self._may_be_paused:  # another process's pause is ended by that process or expires: no round trip per answer
            self._may_be_paused = False
            await run_commands(self._store, ("DEL", self._keys[1]))
