"""Comparisons that browsers cause: at growing intervals if nothing is found, soon again if the provider is away."""

from __future__ import annotations

from typing import Any

import pytest

from sync.billing.domain.facts.model import Event
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from sync.billing.services.context import COMPARISON_PAUSE_S
from sync.billing.services.tenants.comparisons import RETRY_MAX_S, RETRY_MIN_S, SAME_S, Comparisons
from sync.core import instants
from sync.process.supervisor import Supervisor
from sync.store.isolation import is_away
from tests.support.bodies import subscription
from tests.support.paddle import price_id
from tests.support.services import TOPIC, Billing, PaddleApi


class Provider(PaddleApi):
    """A provider's API with a subscription to `plan`."""

    def __init__(self, services: Billing) -> None:
        super().__init__(services)
        self.plan = "basic"
        self.background: list[bool] = []

    async def fetch(self, subscription_id: str, max_wait_s: float, *, background: bool = False) -> Event:
        """Return the subscription."""
        self.background.append(background)
        now = instants.text(self.services.now_ns())
        self.body = subscription(items=[(price_id(self.plan), 1)], updated_at=now)
        return await super().fetch(subscription_id, max_wait_s)


@pytest.fixture
def provider(services: Billing) -> Provider:
    return Provider(services)


async def ask(services: Billing) -> float:
    """Have a browser's expect ask, and work on it; return when the tenant is compared again, -1 if that is never."""
    comparisons = Comparisons(services, Supervisor(1, is_away))
    await services.store.request(services.store.keys.reconcile, [TOPIC])
    for queue in (comparisons.requests, comparisons.repeated):
        for due in await queue.claim(1):
            await comparisons.compare("live", queue, due)
    redis: Any = services.store.redis
    keys = (services.store.keys.reconcile, services.store.keys.repeated)
    found = [at for key in keys for _, at in await redis.zrange(key, 0, 0, withscores=True)]
    return round((min(found) - services.now_us) / 1e6, 1) if found else -1


async def test_a_tenant_whose_pages_ask_again_and_again_is_compared_less_often(
    services: Billing, provider: Provider
) -> None:
    await services.receive(plan="basic")
    pauses = []
    for _ in range(4):
        assert await ask(services) == -1
        pauses.append(await ask(services))
        services.clock.advance(pauses[-1] + 0.1)
    assert pauses == [each * COMPARISON_PAUSE_S for each in (1, 2, 4, 4)]
    provider.plan = "pro"
    services.clock.advance(SAME_S)
    await ask(services)
    assert (await services.plan(), await ask(services)) == ("pro", COMPARISON_PAUSE_S)


async def test_repeated_comparisons_wait_behind_all_others(services: Billing, provider: Provider) -> None:
    """In a queue of their own, and in the background of the rate limit."""
    await services.receive(plan="basic")
    await ask(services)
    services.clock.advance(COMPARISON_PAUSE_S + 0.1)
    provider.background.clear()
    await ask(services)
    assert provider.background == [True]
    comparisons = Comparisons(services, Supervisor(1, is_away))
    await services.store.request(services.store.keys.reconcile, [TOPIC])
    (due,) = await comparisons.requests.claim(1)
    await comparisons.compare("live", comparisons.requests, due)
    assert (await comparisons.requests.claim(1), len(await comparisons.repeated.claim(1))) == ([], 1)
    services.clock.advance(SAME_S + 1)
    provider.background.clear()
    await ask(services)
    assert provider.background == [False]


@pytest.mark.parametrize(
    ("failure", "pause_s"),
    [
        (ProviderUnavailable("no answer"), RETRY_MIN_S),
        (ProviderUnavailable("throttled", 7), 7),
        (ProviderUnavailable("throttled", 3600), RETRY_MAX_S),
        (ProviderRejected("forbidden", "the key may not"), -1),
    ],
)
async def test_while_the_provider_is_away_it_is_asked_again_soon(
    services: Billing, provider: Provider, failure: Exception, pause_s: float
) -> None:
    """A page waits for 30 s. What the provider rejects, it rejects again."""
    await services.receive(plan="basic")
    provider.failure = failure
    assert await ask(services) == pause_s


async def test_a_tenant_without_subscriptions_costs_no_call(services: Billing, provider: Provider) -> None:
    for _ in range(3):
        assert await ask(services) == -1
        services.clock.advance(COMPARISON_PAUSE_S + 0.1)
    assert provider.asked == []
