"""How often a provider may be asked: a token bucket, and the pause it asks for when it is too much.

Providers count the calls of a whole account, so processes share one bucket in the store (`SharedBudget`). `Budget` is
the same within one process, for those that may not write to the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from sync.billing.providers.base import ProviderUnavailable
from sync.store.command_pipeline import Batch, Script
from sync.store.store import Store

BURST = 20
"""How many calls may be made at once after a quiet time."""

RESERVE = 5
"""How many calls' worth background work leaves to webhooks and people."""

_TAKE = Script.load("sync.billing.storage", "token_bucket")


class RateLimiter(Protocol):
    """What an API client asks before it asks the provider. Who would wait longer than its patience is refused."""

    async def acquire(self, patience_s: float, *, background: bool = False) -> None:
        """Return when one call may be made.

        Raises:
            ProviderUnavailable: that would take longer than `patience_s`, or `close` was called lately.
            StoreError: the budget is kept in the store, which is unreachable or failing.
        """
        ...

    async def pause(self, seconds: float, *, throttled: bool = False) -> None:
        """Let nobody ask for so long: the provider is away, or (`throttled`) said itself for how long.

        Raises:
            StoreError: as above.
        """
        ...

    async def resume(self) -> None:
        """Let everybody ask again: the provider has answered. What it said itself of how long stands.

        Raises:
            StoreError: as above.
        """
        ...


class LocalRateLimiter:
    """Calls per second of this process, with a burst."""

    def __init__(self, rate_per_s: float, burst: int = BURST, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()
        self._away_until = self._throttled_until = 0.0

    async def acquire(self, patience_s: float, *, background: bool = False) -> None:
        """Return when one call may be made."""
        now = self._clock()
        closed_s = max(self._away_until, self._throttled_until) - now
        if closed_s > 0:
            raise _closed(closed_s)
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        wait_s = max(0.0, (_wanted(self._burst, background) - self._tokens) / self._rate)
        if wait_s > patience_s:
            raise _used_up(wait_s)
        # Taken before the wait: whoever comes next waits behind it.
        self._tokens -= 1
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    async def pause(self, seconds: float, *, throttled: bool = False) -> None:
        """Let nobody ask for so long."""
        until = self._clock() + seconds
        if throttled:
            self._throttled_until = max(self._throttled_until, until)
        else:
            self._away_until = max(self._away_until, until)

    async def resume(self) -> None:
        """Let everybody ask again, unless the provider itself said when."""
        self._away_until = 0.0


class RedisRateLimiter:
    """Calls per second of all processes together, for one provider's environment."""

    def __init__(self, store: Store, provider: str, environment: str, rate_per_s: float, burst: int = BURST) -> None:
        self._store = store
        head = store.keys.head(f"budget/{environment}/{provider}")
        self._keys = f"{head}:tokens", f"{head}:away", f"{head}:throttled"
        self._rate = rate_per_s
        self._burst = burst
        self._may_be_closed = True

    async def acquire(self, patience_s: float, *, background: bool = False) -> None:
        """Return when one call may be made."""
        batch = Batch(self._store)
        wanted = _wanted(self._burst, background)
        batch.script(_TAKE, self._keys, str(self._rate), self._burst, wanted, int(patience_s * 1_000_000))
        ((what, us),) = await batch.run()
        seconds = int(us) / 1_000_000
        if what == b"closed":
            raise _closed(seconds)
        if what == b"used_up":
            raise _used_up(seconds)
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def pause(self, seconds: float, *, throttled: bool = False) -> None:
        """Let nobody ask for so long, in any process."""
        _, away, told = self._keys
        key, milliseconds = told if throttled else away, max(1, int(seconds * 1000))
        self._may_be_closed = True
        batch = Batch(self._store)
        batch.command("SET", key, "1", "PX", milliseconds, "NX")
        batch.command("PEXPIRE", key, milliseconds, "GT")
        await batch.run()

    async def resume(self) -> None:
        """Let every process ask again, unless the provider itself said when."""
        if not self._may_be_closed:
            return  # another process that closed it opens it, or time does: answers need no round trip each
        self._may_be_closed = False
        batch = Batch(self._store)
        batch.command("DEL", self._keys[1])
        await batch.run()


def _wanted(burst: int, background: bool) -> int:
    """How many tokens there must be to take one."""
    return 1 + (min(RESERVE, burst - 1) if background else 0)


def _closed(seconds: float) -> ProviderUnavailable:
    # However patient: whoever can wait for minutes comes again, and the others have no time to lose.
    return ProviderUnavailable(f"not asked for another {seconds:.1f} s after it failed", seconds)


def _used_up(seconds: float) -> ProviderUnavailable:
    return ProviderUnavailable(f"the rate budget is used up for another {seconds:.1f} s", seconds)
