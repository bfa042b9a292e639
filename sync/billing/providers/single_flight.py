"""Single flight: fetches of one subscription run one at a time, and callers share a request that has not begun yet.

All API clients use it; each brings the call itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from sync.billing.domain.model import Event
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable, RateLimiter
from sync.store.keyed_lock import KeyedLock

Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Ask:
    """A request that has not begun yet, and the answer that its callers wait for."""

    answer: asyncio.Future[Event] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class SingleFlight:
    """The fetches of one provider's environment, within its rate limit."""

    def __init__(self, rate_limiter: RateLimiter) -> None:
        self._rate_limiter = rate_limiter
        self._turns = KeyedLock()
        self._asks: dict[str, _Ask] = {}

    async def fetch(
        self, subscription_id: str, patience_s: float, background: bool, call: Callable[[], Awaitable[Event]]
    ) -> Event:
        """Return what `call` answers of the subscription, by a request begun after this call.

        Callers share a request only until it begins, so that the answer is never older than any of their questions.
        At most one request per subscription runs at a time.

        Raises:
            ProviderUnavailable: not within `patience_s`.
            ProviderRejected: it is not there (`not_found`), or the key does not suffice.
        """
        waiting = self._asks.get(subscription_id)
        if waiting is not None:
            return await within(patience_s, asyncio.shield(waiting.answer))
        return await within(patience_s, self._lead(subscription_id, patience_s, background, call))

    async def _lead(
        self, subscription_id: str, patience_s: float, background: bool, call: Callable[[], Awaitable[Event]]
    ) -> Event:
        ask = self._asks[subscription_id] = _Ask()
        try:
            async with self._turns.of(subscription_id):
                await self._rate_limiter.acquire(patience_s, background=background)
                del self._asks[subscription_id]
                event = await call()
        except (ProviderUnavailable, ProviderRejected) as error:
            ask.answer.set_exception(error)
            raise
        else:
            ask.answer.set_result(event)
            return event
        finally:
            if self._asks.get(subscription_id) is ask:
                del self._asks[subscription_id]
            if not ask.answer.done():
                ask.answer.set_exception(ProviderUnavailable("the caller whose request was shared gave up"))
            # Mark the exception as retrieved: there may be no other caller.
            ask.answer.exception()


async def within(patience_s: float, answer: Awaitable[Answer]) -> Answer:
    """Return the answer.

    Raises:
        ProviderUnavailable: it does not come within `patience_s`.
    """
    try:
        async with asyncio.timeout(patience_s):
            return await answer
    except TimeoutError:
        raise ProviderUnavailable(f"no answer within {patience_s:g} s") from None
