"""The rate budget: a burst, then a rate; the impatient are refused, and background work leaves a part to others."""

from __future__ import annotations

import pytest

from sync.billing.providers.base import ProviderUnavailable
from sync.billing.providers.rate_limit import BURST, RESERVE, LocalRateLimiter


class Clock:
    """A clock of the test's own."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def taken(rate_limiter: LocalRateLimiter, *, background: bool = False) -> int:
    """How many calls may be made at once."""
    count = 0
    while True:
        try:
            await rate_limiter.acquire(0, background=background)
        except ProviderUnavailable:
            return count
        count += 1


async def test_a_burst_and_then_the_rate(clock: Clock) -> None:
    rate_limiter = LocalRateLimiter(2, clock=clock)
    assert await taken(rate_limiter) == BURST
    clock.now += 1
    assert await taken(rate_limiter) == 2
    clock.now += 1_000
    assert await taken(rate_limiter) == BURST


async def test_background_work_leaves_a_reserve(clock: Clock) -> None:
    rate_limiter = LocalRateLimiter(2, clock=clock)
    assert await taken(rate_limiter, background=True) == BURST - RESERVE
    assert await taken(rate_limiter) == RESERVE


async def test_the_patient_wait_their_turn(clock: Clock) -> None:
    rate_limiter = LocalRateLimiter(100, 1, clock)
    await rate_limiter.acquire(0)
    await rate_limiter.acquire(0.011)
    with pytest.raises(ProviderUnavailable, match=r"used up for another 0\.0 s"):
        await rate_limiter.acquire(0.011)
    await rate_limiter.acquire(0.021)


async def test_a_closed_budget_refuses_until_it_is_open(clock: Clock) -> None:
    rate_limiter = LocalRateLimiter(2, clock=clock)
    await rate_limiter.pause(5)
    await rate_limiter.pause(1)
    with pytest.raises(ProviderUnavailable, match=r"another 5\.0 s"):
        await rate_limiter.acquire(60)
    clock.now += 5
    await rate_limiter.acquire(0)
    await rate_limiter.pause(5)
    await rate_limiter.resume()
    await rate_limiter.acquire(0)


async def test_what_the_provider_said_of_how_long_stands(clock: Clock) -> None:
    rate_limiter = LocalRateLimiter(2, clock=clock)
    await rate_limiter.pause(5, throttled=True)
    await rate_limiter.resume()
    with pytest.raises(ProviderUnavailable, match=r"another 5\.0 s") as raised:
        await rate_limiter.acquire(60)
    assert raised.value.retry_s == 5
    clock.now += 5
    await rate_limiter.acquire(0)
