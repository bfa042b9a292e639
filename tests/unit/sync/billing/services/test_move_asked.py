"""Whose a subscription is, where the provider can be asked: webhooks, comparisons, searches and the backfill agree."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sync.billing.domain.outcome import Outcome
from sync.billing.providers.base import ListedSubscription, SubscriptionPage
from sync.billing.services.background.backfill_item import BackfillItem
from sync.billing.services.background.dry_run import DryRun
from tests.support.bodies import subscription
from tests.support.paddle import price_id
from tests.support.services import Billing, PaddleApi

DAY = "2026-11-{:02d}T00:00:00.000000Z"


class Provider(PaddleApi):
    """A provider's API with one subscription, as `shows` says."""

    def shows(self, day: int, tenant: str | None, **fields: Any) -> None:
        """From now on the subscription was last changed on this day, and names this tenant."""
        self.body = made(day, tenant, **fields)

    async def subscriptions(self, after: str, max_wait_s: float) -> SubscriptionPage:
        return SubscriptionPage([self.listed()], "")

    def listed(self) -> ListedSubscription:
        return ListedSubscription("sub_1", "listed_1", orjson.dumps(self.body), self.shown())


@pytest.fixture
def provider(services: Billing) -> Provider:
    return Provider(services)


def made(day: int, tenant: str | None, **fields: Any) -> dict[str, Any]:
    return subscription(tenant=tenant, items=[(price_id("pro"), 1)], updated_at=DAY.format(day), **fields)


async def plans(services: Billing) -> dict[str, str]:
    """The plans of the tenants that have a state."""
    found = {}
    for tenant in ("a", "b", "c"):
        snapshot = await services.store.read(f"tenant:{tenant}")
        if snapshot.version:
            found[tenant] = orjson.loads(snapshot.state)["plan"]["key"]
    return found


async def tell(services: Billing, day: int, tenant: str | None, **fields: Any) -> str:
    """The outcome of a webhook of a day."""
    services.clock.advance(1)
    return (await services.receive(**{"tenant": tenant, "updated_at": DAY.format(day), **fields})).outcome


async def test_a_comparison_moves_what_the_provider_names_otherwise_by_now(
    services: Billing, provider: Provider
) -> None:
    """No webhook told it."""
    provider.shows(1, "a")
    await tell(services, 1, "a")
    provider.shows(3, "b")
    services.clock.advance(1)
    await services.reconciliation.reconcile("live", "tenant:a", "audit")
    assert await plans(services) == {"a": "free", "b": "pro"}
    await services.reconciliation.reconcile("live", "tenant:a", "audit")
    await services.reconciliation.reconcile("live", "tenant:b", "audit")
    assert await plans(services) == {"a": "free", "b": "pro"}


async def test_a_late_webhook_does_not_move_it_back(services: Billing, provider: Provider) -> None:
    """The provider's own answer is newer than what the webhook names, and than the webhook before."""
    provider.shows(5, "a")
    await tell(services, 1, "a")
    assert await tell(services, 3, "b") in ("refused", "applied")
    assert await plans(services) == {"a": "pro"}
    services.clients = {}
    assert await tell(services, 4, "b") == "refused"
    assert await plans(services) == {"a": "pro"}


async def test_an_event_without_a_name_has_the_one_that_the_provider_tells(
    services: Billing, provider: Provider
) -> None:
    provider.shows(2, "b")
    assert await tell(services, 1, None) == "applied"
    assert await plans(services) == {"b": "pro"}


async def test_an_end_that_was_fetched_moves_nothing(services: Billing, provider: Provider) -> None:
    provider.shows(1, "a")
    await tell(services, 1, "a")
    provider.shows(3, "b", status="canceled")
    services.clock.advance(1)
    await services.reconciliation.reconcile("live", "tenant:a", "audit")
    assert await plans(services) == {"a": "free"}


async def test_a_search_for_lost_facts_gives_it_to_the_tenant_that_it_names(
    services: Billing, provider: Provider
) -> None:
    provider.shows(1, "a")
    await tell(services, 1, "a")
    provider.shows(3, "b")
    await services.reconciliation.search("live", {"b"}, "lost")
    assert await plans(services) == {"a": "free", "b": "pro"}


@pytest.mark.parametrize("item", [BackfillItem, DryRun])
async def test_a_backfill_moves_it(services: Billing, provider: Provider, item: type[BackfillItem]) -> None:
    provider.shows(1, "a")
    await tell(services, 1, "a")
    provider.shows(3, "b")
    result = await item(services, "paddle", "live").apply(provider.listed())
    assert result.outcome is Outcome.APPLIED
    assert await plans(services) == ({"a": "pro"} if item is DryRun else {"a": "free", "b": "pro"})


async def test_a_timer_completes_a_move(services: Billing, provider: Provider) -> None:
    """Whatever has flipped the link and then stopped."""
    provider.shows(1, "a")
    await tell(services, 1, "a")
    keys = services.store.keys
    redis: Any = services.store.redis
    await redis.set(keys.link("live", "subscription:paddle:sub_1"), "c")
    await redis.hset(keys.names("live", "subscription:paddle:sub_1"), "operator", "c")
    await redis.hset(keys.names("live", "subscription:paddle:sub_1"), "overruled", "a")
    await services.committer.arm_at_once("tenant:a")
    assert await services.fire_due() == 1
    assert await plans(services) == {"a": "free", "c": "pro"}
