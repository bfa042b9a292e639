"""Polar that is asked: its API over real HTTP, and what the services do with its webhooks and answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.facts.model import FETCHED, Item, NamePlace
from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.providers.base import ListedSubscription, ProviderEvent, ProviderRejected, ProviderUnavailable
from sync.billing.providers.polar.client import PolarClient
from sync.billing.providers.polar.webhooks import STATE, PolarWebhooks
from sync.billing.providers.rate_limit import LocalRateLimiter
from sync.billing.services.background.backfill import Backfill, Report
from sync.billing.services.background.catch_up import CatchUp
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.tenants import facts_of
from sync.core import instants
from sync.store.store import Store
from tests.support.polar import Polar, catalog, endpoint, organization
from tests.support.polar_bodies import PRICES, PRODUCTS, at, customer, envelope, full_state, order, state, subscription


@pytest.fixture
async def polar() -> AsyncIterator[Polar]:
    async with organization() as polar:
        yield polar


@pytest.fixture
async def api(polar: Polar) -> AsyncIterator[PolarClient]:
    api = polar.api()
    yield api
    await api.aclose()


@pytest.fixture
def services(store: Store, api: PolarClient, tmp_path: Path) -> BillingServices:
    return made(store, tmp_path, {("polar", "live"): api})


def made(store: Store, directory: Path, clients: Any) -> BillingServices:
    return BillingServices(store, CatalogWatcher(catalog(directory)), {"polar": PolarWebhooks()}, clients)


async def receive(services: BillingServices, body: bytes, event_id: str) -> EventResult:
    return await services.ingest.receive(services.adapters["polar"], body, "live", event_id)


async def processed(services: BillingServices) -> None:
    """Process what is in the inbox."""
    inbox = services.environment("live").inbox
    for due in await inbox.claim(100):
        if (record := await inbox.begin(due)) is not None:
            await services.ingest.resume(record, "live")


async def facts(store: Store, topic: str = "tenant:acme") -> Any:
    return facts_of(await store.read(topic))


async def requested(store: Store) -> list[bytes]:
    """The topics whose comparison is requested."""
    found: Any = await store.redis.zrange(store.keys.reconcile, 0, -1)
    return list(found)


class TestFetch:
    async def test_a_subscription_as_it_is_now(self, polar: Polar, api: PolarClient) -> None:
        subscription_id = polar.add(seats=3)
        event = await api.fetch(subscription_id, 5)
        assert (event.type, event.subscription_id) == (FETCHED, subscription_id)
        assert event.subscription is not None
        assert event.subscription.items == (Item(PRICES["pro"], 3),)
        assert event.names[0].value == {"tenant_id": "acme"}

    async def test_what_is_not_there_or_not_allowed(self, polar: Polar, api: PolarClient) -> None:
        with pytest.raises(ProviderRejected, match="not_found"):
            await api.fetch("4a1d7c5e-0000-4000-8000-000000000000", 5)
        other = polar.api(key="polar_oat_wrong")
        with pytest.raises(ProviderRejected, match="Unauthorized"):
            await other.fetch(polar.add(), 5)
        await other.aclose()

    async def test_the_names_of_a_customer(self, polar: Polar, api: PolarClient) -> None:
        polar.add(customer=(buyer := customer(external_id="org_7", metadata={"tenant_id": "acme"})))
        assert await api.customer_names(buyer["id"], 5) == (
            NamePlace("customer.metadata", {"tenant_id": "acme"}),
            NamePlace("customer.external_id", "org_7"),
        )

    async def test_it_waits_as_long_as_it_is_told(self, polar: Polar) -> None:
        subscription_id = polar.add()
        api = polar.api(LocalRateLimiter(1_000, 1_000))
        polar.throttled, polar.retry_after = 1, "60"
        with pytest.raises(ProviderUnavailable, match="asked too often") as raised:
            await api.fetch(subscription_id, 5)
        assert raised.value.retry_s == 60
        with pytest.raises(ProviderUnavailable, match="not asked for another"):
            await api.fetch(subscription_id, 5)
        await api.aclose()

    async def test_failing_is_away(self, polar: Polar, api: PolarClient) -> None:
        polar.failing = 1
        with pytest.raises(ProviderUnavailable, match="not JSON"):
            await api.fetch(polar.add(), 5)


class TestChanges:
    async def test_another_product_and_another_number_of_seats(self, polar: Polar, api: PolarClient) -> None:
        subscription_id = polar.add(seats=3)
        event = await api.change_items(subscription_id, [Item(PRODUCTS["basic"], 5)], "prorated_immediately", 5)
        assert event.subscription is not None
        assert event.subscription.items == (Item(PRICES["basic"], 5),)
        assert [sorted(body) for body in polar.bodies] == [["product_id"], ["seats"]]
        # Asked once more, after an answer that was lost: nothing is charged twice.
        await api.change_items(subscription_id, [Item(PRICES["basic"], 5)], "prorated_immediately", 5)
        assert len(polar.bodies) == 2

    @pytest.mark.parametrize(
        ("items", "mode", "code"),
        [
            ([Item(PRODUCTS["pro"], 1), Item(PRODUCTS["audit"], 1)], "prorated_immediately", "items_unsupported"),
            ([Item(PRODUCTS["basic"], 1)], "do_not_bill", "billing_mode_unsupported"),
            ([Item(PRODUCTS["pro"], 2)], "prorated_immediately", "quantity_unsupported"),
            ([Item("no product", 1)], "prorated_immediately", "RequestValidationError"),
        ],
    )
    async def test_refusals(self, polar: Polar, api: PolarClient, items: list[Item], mode: str, code: str) -> None:
        with pytest.raises(ProviderRejected, match=code):
            await api.change_items(polar.add(), items, mode, 5)

    async def test_a_busy_subscription_is_tried_again(self, polar: Polar, api: PolarClient) -> None:
        polar.refusals = [(409, "SubscriptionLocked"), (402, "PaymentFailed")]
        subscription_id, wanted = polar.add(), [Item(PRODUCTS["basic"], 1)]
        with pytest.raises(ProviderUnavailable, match="busy"):
            await api.change_items(subscription_id, wanted, "prorated_immediately", 5)
        with pytest.raises(ProviderRejected, match="PaymentFailed"):
            await api.change_items(subscription_id, wanted, "prorated_immediately", 5)

    async def test_no_preview(self, api: PolarClient) -> None:
        with pytest.raises(ProviderRejected, match="preview_unsupported"):
            await api.preview_items("any", [Item(PRODUCTS["basic"], 1)], "prorated_immediately", 5)


class TestList:
    async def test_every_page_and_a_run_that_goes_on_within_one(self, polar: Polar, api: PolarClient) -> None:
        polar.page_max = 3
        ids = [polar.add(tenant=f"t{index}", started_at=at(100 - index)) for index in range(7)]
        polar.subscriptions[ids[3]]["seats"] = -1
        found: list[ListedSubscription] = []
        after = ""
        while not found or after:
            page = await api.subscriptions(after, 5)
            assert page.total == 7
            found += page.entries
            after = page.following
        assert [entry.subscription_id for entry in found] == ids
        assert (found[3].event, "no whole number" in found[3].problem) == (None, True)
        for index, entry in enumerate(found[:-1]):
            page = await api.subscriptions(entry.after, 5)
            rest = page.entries or (await api.subscriptions(page.following, 5)).entries
            assert rest[0].subscription_id == ids[index + 1]
        with pytest.raises(ProviderRejected, match="cursor_invalid"):
            await api.subscriptions("sub_of_another_build", 5)

    async def test_a_backfill_that_was_stopped_goes_on(
        self, polar: Polar, services: BillingServices, store: Store
    ) -> None:
        polar.page_max = 3
        for index in range(7):
            polar.add(tenant=f"t{index}", started_at=at(100 - index), seats=index + 1)
        polar.change(polar.add("unknown", "no-such-product", started_at=at(1)), prices=[])

        async def run(limit: int | None = None) -> Report:
            return await Backfill(services, "polar", "live", Quiet()).run(limit=limit)

        first = await run(4)
        assert (first.seen, first.complete) == (4, False)
        second = await run()
        assert (second.seen, second.complete, second.resumed, len(second.parked)) == (8, True, True, 1)
        (entry,) = (await facts(store, "tenant:t6")).subscriptions.values()
        assert entry.subscription.items == (Item(PRICES["pro"], 7),)
        assert (await run()).taken == 0


class TestDeliveries:
    """What Polar tried to send is what the catch-up reads."""

    async def test_every_page_the_oldest_first(self, polar: Polar, api: PolarClient) -> None:
        polar.page_max = 3
        bodies = [envelope(subscription(f"t{index}"), ago_s=100 - index) for index in range(7)]
        ids = [polar.deliver(body, 100 - index) for index, body in enumerate(bodies)]
        found: list[ProviderEvent] = []
        after, more = "", True
        while more:
            page, more = await api.events(after, instants.parse(at(3600)), 5)
            found += page
            after = page[-1].after
        assert [(entry.event_id, entry.body) for entry in found] == list(zip(ids, bodies, strict=True))
        assert await api.events(after, 0, 5) == ([], False)
        late = polar.deliver(bodies[0], 1)
        assert [entry.event_id for entry in (await api.events(after, 0, 5))[0]] == [late]
        with pytest.raises(ProviderRejected, match="cursor_invalid"):
            await api.events("evt_of_another_provider", 0, 5)

    async def test_only_what_was_sent_to_us_and_is_kept(self, polar: Polar, api: PolarClient) -> None:
        others = [endpoint("https://example.com/polar"), endpoint(format="discord"), endpoint("https://[")]
        polar.endpoints += others
        for other in others:
            polar.deliver(envelope(subscription()), to=other["id"])
        ours = polar.deliver(envelope(subscription()))
        polar.deliver(envelope(subscription()), payload=None)
        polar.deliver(envelope(subscription()), 100 * 86_400)
        assert [entry.event_id for entry in (await api.events("", 0, 5))[0]] == [ours]
        polar.endpoints = others
        assert await api.events("", 0, 5) == ((), False)

    async def test_the_catch_up_brings_what_was_missed_once(
        self, polar: Polar, services: BillingServices, store: Store
    ) -> None:
        """A customer's state is split here, too; a second endpoint of ours brings the same under another id."""
        data, other = polar.subscriptions[polar.add(seats=2)], polar.subscriptions[polar.add("globex", "basic")]
        polar.deliver(envelope(data, "subscription.created"), 200)
        received = polar.deliver(envelope(state(data["customer"], data), STATE), 150)
        await receive(services, envelope(state(data["customer"], data), STATE), received)
        polar.deliver(envelope(state(other["customer"], other), STATE), 100)
        polar.deliver(envelope(data), 10)
        catch_up = CatchUp(services, "polar", "live", services.clients["polar", "live"])
        # The first event, and the two that the second state is split into; the last one's webhook may still arrive.
        assert (await catch_up.run(), await catch_up.run()) == (3, 0)
        await processed(services)
        assert b'"basic"' in (await store.read("tenant:globex")).state
        assert (await catch_up.run(5), await catch_up.run(5)) == (1, 0)


class TestCustomerState:
    """A state says what is live; what has become of the rest, only Polar can say."""

    async def test_it_alone_gives_the_plan(self, store: Store, tmp_path: Path) -> None:
        services = made(store, tmp_path, {})
        body = envelope(full_state(customer(external_id="acme"), subscription(None, seats=4)), STATE)
        result = await receive(services, body, "msg_1")
        assert (result.outcome, result.topic) == (Outcome.APPLIED, "tenant:acme")
        assert (await receive(services, body, "msg_1")).outcome is Outcome.DUPLICATE
        (entry,) = (await facts(store)).subscriptions.values()
        assert entry.subscription.items == (Item(PRODUCTS["pro"], 4),)

    async def test_with_an_api_key_the_whole_subscription_is_fetched(
        self, polar: Polar, services: BillingServices, store: Store
    ) -> None:
        subscription_id = polar.add(seats=4)
        data = polar.subscriptions[subscription_id]
        await receive(services, envelope(state(data["customer"], data), STATE), "msg_1")
        (entry,) = (await facts(store)).subscriptions.values()
        assert entry.subscription.items == (Item(PRICES["pro"], 4),)
        assert await requested(store) == []

    async def test_what_is_no_longer_live_is_compared(
        self, polar: Polar, services: BillingServices, store: Store
    ) -> None:
        data = polar.subscriptions[polar.add()]
        await receive(services, envelope(data), "msg_1")
        other = envelope(state(customer("globex")), STATE)
        await receive(services, other, "msg_2")
        assert await requested(store) == []
        polar.change(data["id"], status="canceled")
        await receive(services, envelope(state(data["customer"]), STATE), "msg_3")
        assert await requested(store) == [b"tenant:acme"]
        await services.reconciliation.reconcile("live", "tenant:acme", "test")
        assert b'"free"' in (await store.read("tenant:acme")).state

    async def test_an_older_state_requests_nothing(self, polar: Polar, services: BillingServices, store: Store) -> None:
        data = polar.subscriptions[polar.add()]
        await receive(services, envelope(data), "msg_1")
        await receive(services, envelope(state(data["customer"]), STATE, ago_s=900), "msg_2")
        assert await requested(store) == []


async def test_the_order_of_a_checkout_names_the_tenant(store: Store, tmp_path: Path) -> None:
    services = made(store, tmp_path, {})
    data = subscription(None)
    assert (await receive(services, envelope(data), "msg_1")).outcome is Outcome.PARKED
    await receive(services, envelope(order(data), "order.paid"), "msg_2")
    assert b'"pro"' in (await store.read("tenant:acme")).state


class Quiet:
    """A screen that shows nothing."""

    def begin(self, seen: int, total: int | None) -> None: ...

    def advance(self) -> None: ...

    def wait(self, seconds: float, reason: str) -> None: ...
