"""Comparisons that browsers cause: at growing intervals if nothing is found, soon again if the provider is away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.domain.facts.model import Event, NamePlace
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from sync.billing.providers.paddle.webhooks import fetched
from sync.billing.services.context import COMPARISON_PAUSE_S
from sync.billing.services.tenants.comparisons import RETRY_MAX_S, RETRY_MIN_S, SAME_S, Comparisons
from sync.core import instants
from sync.process.supervisor import Supervisor
from sync.store.isolation import is_away
from tests.support.bodies import subscription
from tests.support.paddle import price_id
from tests.support.services import TOPIC, Billing, billing


class Provider:
    """A provider's API: its subscription's plan, or `failure`."""

    checkout_prefix = ""

    def __init__(self) -> None:
        self.services: Billing | None = None
        self.plan = "basic"
        self.failure: Exception | None = None
        self.asked = 0
        self.background: list[bool] = []

    async def customer_names(
        self, customer_id: str, max_wait_s: float, *, background: bool = False
    ) -> tuple[NamePlace, ...]:
        """Return nothing."""
        return ()

    async def fetch(self, subscription_id: str, max_wait_s: float, *, background: bool = False) -> Event:
        """Return the subscription."""
        assert self.services is not None
        self.asked += 1
        self.background.append(background)
        if self.failure is not None:
            raise self.failure
        now_ns = self.services.now_ns()
        body = subscription(items=[(price_id(self.plan), 1)], updated_at=instants.text(now_ns))
        return fetched(body, "live", now_ns)


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def services(provider: Provider) -> Iterator[Billing]:
    with billing(CatalogWatcher(EXAMPLE), clients={("paddle", "live"): provider}) as services:
        provider.services = services
        yield services


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
    assert provider.asked == 0
