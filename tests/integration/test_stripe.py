"""Stripe that is asked: its API over real HTTP, and what the services, reconcile and timers do with the answers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from planwire_client import tenant_reference
from sync import bootstrap
from sync.billing.api import routes as billing_routes
from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.entitlements.scheduled_changes import ChangeRequest, plan_change
from sync.billing.domain.facts.instructions import ScheduledPlanChange
from sync.billing.domain.facts.model import FETCHED, Facts, Item
from sync.billing.domain.outcome import ChangeRejected
from sync.billing.providers.base import ListedSubscription, ProviderRejected, ProviderUnavailable
from sync.billing.providers.rate_limit import LocalRateLimiter, RedisRateLimiter
from sync.billing.providers.stripe.client import StripeClient
from sync.billing.providers.stripe.webhooks import PRORATIONS, StripeWebhooks as Adapter
from sync.billing.services.background.catch_up import CatchUp
from sync.billing.services.reproject import Refresh
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.tenants import facts_of
from sync.core import instants
from sync.http.endpoint import Caller
from sync.settings import SyncSettings
from sync.store.store import Store
from sync.worker import Worker
from tests.support.cases import post_stripe, run_cases
from tests.support.inbox import take_up
from tests.support.services import fire_now
from tests.support.stripe import KEY, PRICES, Stripe, account, catalog
from tests.support.wait import until

SECRET = "whsec_live"
HOUR_NS = 3_600 * 10**9
ITEMS_MORE = 11


@pytest.fixture
async def stripe() -> AsyncIterator[Stripe]:
    async with account() as stripe:
        yield stripe


@pytest.fixture
async def api(stripe: Stripe) -> AsyncIterator[StripeClient]:
    api = stripe.api()
    yield api
    await api.aclose()


@pytest.fixture
def services(store: Store, api: StripeClient, tmp_path: Path) -> BillingServices:
    return BillingServices(store, CatalogWatcher(catalog(tmp_path)), {"stripe": Adapter()}, {("stripe", "live"): api})


async def state(store: Store, topic: str = "tenant:acme") -> Any:
    return orjson.loads((await store.read(topic)).state)


def planned(services: BillingServices, facts: Facts, request: ChangeRequest) -> ScheduledPlanChange:
    return plan_change(facts, request, services.setting("live"), {"stripe": PRORATIONS})


async def receive(services: BillingServices, event: dict[str, Any]) -> str:
    return (await services.ingest.receive(services.adapters["stripe"], orjson.dumps(event), "live")).outcome


class TestFetch:
    """One subscription, as it is now."""

    async def test_a_subscription_with_all_of_its_items(self, stripe: Stripe, api: StripeClient) -> None:
        subscription_id = stripe.add()
        for index in range(14):
            stripe.add_item(subscription_id, f"price_{index}")
        stripe.page_max = 6
        before = time.time_ns()
        event = await api.fetch(subscription_id, 5)
        assert (event.type, event.subscription_id) == (FETCHED, subscription_id)
        assert event.names[0].value == {"tenant_id": "acme"}
        assert before <= event.order.occurred_ns <= time.time_ns()
        assert event.subscription is not None
        assert len(event.subscription.items) == 15
        assert len(stripe.asked) == 4

    async def test_what_is_not_there_or_not_allowed(self, stripe: Stripe, api: StripeClient) -> None:
        with pytest.raises(ProviderRejected, match="not_found"):
            await api.fetch("sub_none", 5)
        other = stripe.api(key="sk_live_wrong")
        with pytest.raises(ProviderRejected, match="Invalid API Key"):
            await other.fetch(stripe.add(), 5)
        await other.aclose()

    async def test_questions_that_wait_are_asked_once(self, stripe: Stripe, api: StripeClient) -> None:
        subscription_id = stripe.add()
        held = asyncio.Event()

        async def hold(path: str) -> None:
            await held.wait()

        stripe.before_answer = hold
        first = asyncio.create_task(api.fetch(subscription_id, 5))
        await until(lambda: stripe.asked)
        later = [asyncio.create_task(api.fetch(subscription_id, 5)) for _ in range(5)]
        await asyncio.sleep(0)
        stripe.subscriptions[subscription_id]["status"] = "past_due"
        held.set()
        # What was asked after the change never gets the answer to what was asked before it.
        assert {(await task).subscription.status for task in later} == {"past_due"}  # type: ignore[union-attr]
        await first
        assert len(stripe.asked) == 2

    async def test_it_waits_as_long_as_it_is_told(self, stripe: Stripe) -> None:
        subscription_id = stripe.add()
        api = stripe.api(LocalRateLimiter(1_000, 1_000))
        stripe.throttled, stripe.retry_after = 1, "60"
        with pytest.raises(ProviderUnavailable, match="asked too often") as raised:
            await api.fetch(subscription_id, 5)
        assert raised.value.retry_s == 60
        with pytest.raises(ProviderUnavailable, match=r"another (60\.0|5\d\.\d) s"):
            await api.fetch(subscription_id, 5)
        assert len(stripe.asked) == 1
        await api.aclose()

    async def test_an_answer_on_its_way_does_not_end_the_wait(self, stripe: Stripe, api: StripeClient) -> None:
        slow, other = stripe.add(), stripe.add()
        held = asyncio.Event()

        async def hold(path: str) -> None:
            if path.endswith(slow):
                await held.wait()

        stripe.before_answer = hold
        task = asyncio.create_task(api.fetch(slow, 5))
        await until(lambda: stripe.asked)
        stripe.throttled, stripe.retry_after = 1, "60"
        with pytest.raises(ProviderUnavailable):
            await api.fetch(other, 5)
        held.set()
        await task
        with pytest.raises(ProviderUnavailable, match="not asked for another"):
            await api.fetch(other, 5)

    async def test_away_is_told_and_asked_again_later(
        self, stripe: Stripe, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sync.billing.providers.api_client.AWAY_S", 60.0)
        subscription_id = stripe.add()
        api, other = (stripe.api(RedisRateLimiter(store, "stripe", "live", 1_000)) for _ in range(2))
        stripe.failing = 1
        with pytest.raises(ProviderUnavailable, match="answered 500"):
            await api.fetch(subscription_id, 5)
        with pytest.raises(ProviderUnavailable, match="not asked for another"):
            await other.fetch(subscription_id, 5)
        await store.redis.delete("pw:{budget/live/stripe}:away")
        assert (await api.fetch(subscription_id, 5)).subscription_id == subscription_id
        await api.aclose()
        await other.aclose()


class TestChanges:
    """Items replaced, and previewed."""

    async def test_a_plan_stays_one_item(self, stripe: Stripe, api: StripeClient) -> None:
        subscription_id = stripe.add(quantity=3)
        stripe.add_item(subscription_id, "price_audit")
        stripe.add_item(subscription_id, "price_gone")
        items = stripe.subscriptions[subscription_id]["items"]["data"]
        ids = [item["id"] for item in items]
        wanted = [Item("price_basic", 3), Item("price_audit", 2)]
        event = await api.change_items(subscription_id, wanted, "do_not_bill", 5)
        assert event.subscription is not None
        assert event.subscription.items == tuple(wanted)
        assert [item["id"] for item in items] == ids[:2]

    async def test_what_comes_without_anything_going_is_added(self, stripe: Stripe, api: StripeClient) -> None:
        subscription_id = stripe.add()
        wanted = [Item("price_pro", 1), Item("price_audit", 1)]
        await api.change_items(subscription_id, wanted, "prorated_immediately", 5)
        assert len(stripe.subscriptions[subscription_id]["items"]["data"]) == 2
        asked = len(stripe.asked)
        # Told once more, after an answer that was lost: nothing is charged twice.
        await api.change_items(subscription_id, wanted, "prorated_immediately", 5)
        assert stripe.asked[asked:] == [f"GET /v1/subscriptions/{subscription_id}"]

    async def test_bills_are_those_that_are_made_also_of_a_connected_account(
        self, stripe: Stripe, api: StripeClient
    ) -> None:
        subscription_id, other = stripe.add(), stripe.add()
        for whose, reason, made_s in (
            (subscription_id, "subscription_update", 100),
            (subscription_id, "subscription_cycle", 200),
            (subscription_id, "subscription_create", 200),
            (subscription_id, "subscription_update", 300),
            (other, "subscription_update", 300),
        ):
            stripe.bill(whose, [], reason, made_s)
        for event in stripe.billed[6:8]:
            event["data"]["object"]["status"] = "draft"
        bills = await api.bills(f"acct_1/{subscription_id}", 150 * 10**9, 5)
        assert [(bill.subscription_id, bill.reason) for bill in bills] == [(f"acct_1/{subscription_id}", "renewal")]
        assert stripe.asked[-1].startswith("GET /v1/invoices?")
        assert stripe.asked[-1].endswith(" of acct_1")

    async def test_refusals(self, stripe: Stripe, api: StripeClient) -> None:
        subscription_id = stripe.add()
        with pytest.raises(ProviderRejected, match="billing_mode_unsupported"):
            await api.change_items(subscription_id, [Item("price_basic", 1)], "full_immediately", 5)
        assert stripe.asked == []
        stripe.refusals.append({"type": "card_error", "code": "card_declined", "message": "declined"})
        with pytest.raises(ProviderRejected, match="card_declined"):
            await api.change_items(subscription_id, [Item("price_basic", 1)], "prorated_immediately", 5)

    async def test_a_preview_changes_nothing(self, stripe: Stripe, api: StripeClient) -> None:
        subscription_id = stripe.add()
        found: Any = await api.preview_items(subscription_id, [Item("price_basic", 2)], "do_not_bill", 5)
        item = stripe.subscriptions[subscription_id]["items"]["data"][0]
        assert found.document["asked"] == {
            "subscription": subscription_id,
            "subscription_details[proration_behavior]": "none",
            "subscription_details[items][0][id]": item["id"],
            "subscription_details[items][0][price]": "price_basic",
            "subscription_details[items][0][quantity]": "2",
        }
        assert item["price"]["id"] == "price_pro"
        found = await api.preview_items(subscription_id, [Item("price_pro", 1)], "do_not_bill", 5)
        assert found.document["asked"] == {"subscription": subscription_id}


class TestLists:
    """Events and subscriptions, page by page."""

    async def test_events_are_read_on_the_oldest_first(self, stripe: Stripe, api: StripeClient) -> None:
        stripe.page_max = 3
        now = int(time.time())
        subscription_id = stripe.add()
        stripe.happened.clear()
        for index in range(8):
            stripe.happen("updated", subscription_id, now - 100 + index)
        seen: list[str] = []
        more, after = True, ""
        while more:
            page, more = await api.events(after, (now - 98) * 10**9, 5)
            seen += [told.event_id for told in page]
            after = seen[-1]
        assert seen == [f"evt_{index:06d}" for index in range(3, 9)]
        assert await api.events(after, 0, 5) == ([], False)
        # A place that Stripe has forgotten: the instant counts.
        page, more = await api.events("evt_forgotten", (now - 94) * 10**9, 5)
        assert ([told.event_id for told in page], more) == (["evt_000007", "evt_000008"], False)

    async def test_what_no_webhook_brought_is_caught_up_with(
        self, stripe: Stripe, services: BillingServices, store: Store
    ) -> None:
        stripe.add(tenant="acme", status="trialing")
        catch_up = CatchUp(services, "stripe", "live", services.clients["stripe", "live"])
        assert await catch_up.run(settle_s=-5) == 1
        record = await take_up(services.environment("live").inbox)
        assert (await services.ingest.resume(record, "live")).outcome == "applied"
        assert (await state(store))["status"] == "trialing"
        assert await catch_up.run(settle_s=-5) == 0

    async def test_events_of_a_test_clock_hold_up_no_real_events(
        self, stripe: Stripe, services: BillingServices
    ) -> None:
        stripe.page_max = 2
        ahead = stripe.add(tenant="ahead")
        stripe.happened.clear()
        for months in range(1, 5):
            stripe.happen("updated", ahead, int(time.time()) + months * 30 * 86_400)
        stripe.happen("updated", ahead, int(time.time()) - 100)
        catch_up = CatchUp(services, "stripe", "live", services.clients["stripe", "live"])
        assert await catch_up.run() == 5

    async def test_all_subscriptions(self, stripe: Stripe, api: StripeClient) -> None:
        stripe.page_max = 3
        made = [stripe.add(tenant=f"t{index}", status="canceled" if index % 2 else "active") for index in range(7)]
        stripe.subscriptions[made[2]]["items"]["data"][0]["quantity"] = -1
        for index in range(12):
            stripe.add_item(made[3], f"price_{index}")
        found: list[ListedSubscription] = []
        after = ""
        while not found or after:
            page = await api.subscriptions(after, 5)
            found += page.entries
            after = page.following
        assert [entry.subscription_id for entry in found] == made[::-1]
        broken = found[4]
        assert (broken.event, "quantity" in broken.problem) == (None, True)
        many, first = found[3].event, found[0].event
        assert many is not None
        assert many.subscription is not None
        assert first is not None
        assert len(many.subscription.items) == 13
        parsed: Any = Adapter().parse(found[0].body, "live")
        assert (parsed.event_id, parsed.subscription) == (found[0].event_id, first.subscription)


@asynccontextmanager
async def door_of(store: Store, settings: SyncSettings) -> AsyncIterator[tuple[httpx2.AsyncClient, BillingServices]]:
    """The webhooks' door, made of settings as the web process makes it."""
    services = await bootstrap.build_services(store, settings)
    app = Starlette(routes=billing_routes.routes(services, settings))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://door") as http:
        yield http, services
    await services.aclose()


async def deliver(door: httpx2.AsyncClient, body: bytes, skew_s: int = 0) -> httpx2.Response:
    at = int(time.time()) - skew_s
    mark = hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return await door.post("/webhooks/stripe", content=body, headers={"Stripe-Signature": f"t={at},v1={mark}"})


class TestHints:
    """With an API key an event of Stripe says where to look, not what is there."""

    async def test_a_thin_event_is_parked_until_there_is_a_key(
        self, stripe: Stripe, store: Store, tmp_path: Path
    ) -> None:
        subscription_id = stripe.add(quantity=4)
        environ = {
            "PLANWIRE_STRIPE_SECRETS": f"live:{SECRET}",
            "PLANWIRE_CATALOG": str(catalog(tmp_path)),
            "PLANWIRE_STRIPE_TOLERANCE_S": "1000",
        }
        async with door_of(store, SyncSettings.from_env(environ)) as (door, services):
            answer = (await deliver(door, stripe.thin(subscription_id), skew_s=900)).json()
            assert answer["outcome"] == "parked"
            assert "set PLANWIRE_STRIPE_API_KEYS=live:KEY" in answer["reason"]
            assert (await deliver(door, stripe.thin(subscription_id), skew_s=1100)).status_code == 403
        environ |= {"PLANWIRE_STRIPE_API_KEYS": f"live:{KEY}", "PLANWIRE_STRIPE_API_URL": stripe.url}
        settings = SyncSettings.from_env(environ)
        async with door_of(store, settings) as (door, services):
            worker = Worker(services, settings.environments, poll_s=0.02)
            task = asyncio.create_task(worker.run())
            found = await until(lambda: state(store))
            worker.stop()
            await task
            assert (found["plan"]["key"], found["limits"]["seats"]) == ("pro", 4)
            stripe.change(subscription_id, status="past_due")
            answer = (await deliver(door, stripe.thin(subscription_id, "evt_thin_2"))).json()
            assert answer["outcome"] == "applied"
            assert (await state(store))["status"] == "past_due"
            assert (await deliver(door, stripe.thin(subscription_id, "evt_thin_2"))).json()["outcome"] == "duplicate"

    async def test_the_fetched_body_is_what_is_applied(
        self, stripe: Stripe, services: BillingServices, store: Store
    ) -> None:
        subscription_id = stripe.add(quantity=2)
        created = stripe.happened[0]
        stripe.subscriptions[subscription_id]["items"]["data"][0]["quantity"] = 9
        assert await receive(services, created) == "applied"
        assert (await state(store))["limits"]["seats"] == 9
        version = (await store.read("tenant:acme")).version
        # The same second, an older body, whatever it says: nothing goes back.
        late = {**created, "id": "evt_late"}
        await receive(services, late)
        assert (await state(store))["limits"]["seats"] == 9
        assert (await store.read("tenant:acme")).version >= version

    async def test_a_fetch_begun_before_a_newer_commit_does_not_overwrite_it(
        self, stripe: Stripe, services: BillingServices, store: Store, tmp_path: Path
    ) -> None:
        subscription_id = stripe.add(quantity=2)
        event = stripe.happened[0]
        answered, let_go = asyncio.Event(), asyncio.Event()

        async def hold(path: str) -> None:
            if not answered.is_set():
                answered.set()
                await let_go.wait()

        stripe.before_answer = hold
        slow = asyncio.create_task(receive(services, event))
        await answered.wait()
        stripe.subscriptions[subscription_id]["items"]["data"][0]["quantity"] = 7
        newer = stripe.happen("updated", subscription_id, created=event["created"])
        other = stripe.api()
        quick = BillingServices(
            store, CatalogWatcher(tmp_path / "stripe.toml"), services.adapters, {("stripe", "live"): other}
        )
        assert await receive(quick, newer) == "applied"
        let_go.set()
        await slow
        assert (await state(store))["limits"]["seats"] == 7
        await other.aclose()

    async def test_an_event_with_more_items_than_it_shows(
        self, stripe: Stripe, services: BillingServices, store: Store
    ) -> None:
        subscription_id = stripe.add(price="price_basic")
        for _ in range(ITEMS_MORE):
            stripe.add_item(subscription_id, "price_audit")
        event = stripe.happen("updated", subscription_id)
        assert event["data"]["object"]["items"]["has_more"]
        assert await receive(services, event) == "applied"
        assert (await state(store))["features"]["audit"]


class TestReconcile:
    """What Planwire shows of Stripe's subscriptions is compared, repaired and changed at Stripe."""

    async def test_drift_is_found_and_repaired(self, stripe: Stripe, services: BillingServices, store: Store) -> None:
        subscription_id = stripe.add(quantity=2)
        await receive(services, stripe.happened[0])
        stripe.subscriptions[subscription_id]["status"] = "canceled"
        report = await services.reconciliation.reconcile("live", "tenant:acme", "asked")
        assert [(drift.kind, drift.there) for drift in report.drift] == [("differs", {"status": "canceled"})]
        assert (await state(store))["status"] == "canceled"
        version = (await store.read("tenant:acme")).version
        report = await services.reconciliation.reconcile("live", "tenant:acme", "asked")
        # Comparing often makes no versions, though Stripe stamps no entities.
        assert (report.drift, (await store.read("tenant:acme")).version) == ([], version)
        del stripe.subscriptions[subscription_id]
        report = await services.reconciliation.reconcile("live", "tenant:acme", "asked")
        assert [drift.kind for drift in report.drift] == ["unknown_there"]

    async def test_a_tenant_whose_facts_are_lost_is_rebuilt(
        self, stripe: Stripe, services: BillingServices, store: Store
    ) -> None:
        stripe.page_max = 2
        for index in range(5):
            stripe.add(tenant=f"t{index}")
        await services.reconciliation.reconcile("live", "tenant:t0", "asked")
        assert (await state(store, "tenant:t0"))["plan"]["key"] == "pro"

    async def test_a_signed_reference_counts_wherever_it_is_read(
        self, stripe: Stripe, services: BillingServices, store: Store
    ) -> None:
        """In a comparison, and after the facts are lost and the secret is rotated: the link keeps what was verified."""
        signing = replace(services, tenant_secrets=[b"s" * 32])
        own = stripe.add("acme", PRICES["basic"], created=int(time.time()) - 100)
        other = stripe.add("acme", PRICES["pro"], status="past_due")
        for event in stripe.happened:
            assert await receive(signing, event) == "applied"
        assert ((await state(store))["plan"]["key"], (await state(store))["status"]) == ("basic", "active")
        stripe.change(other, metadata={"tenant_id": tenant_reference("s" * 32, "acme")})
        await signing.reconciliation.reconcile("live", "tenant:acme", "asked")
        assert ((await state(store))["plan"]["key"], (await state(store))["status"]) == ("pro", "past_due")
        await store.redis.delete(store.keys.snap("tenant:acme"))
        await replace(services, tenant_secrets=[b"n" * 32]).reconciliation.reconcile("live", "tenant:acme", "lost")
        facts = facts_of(await store.read("tenant:acme"))
        assert {key: entry.is_vouched for key, entry in facts.subscriptions.items()} == {
            f"stripe:{own}": False,
            f"stripe:{other}": True,
        }
        assert ((await state(store))["plan"]["key"], (await state(store))["status"]) == ("pro", "past_due")

    async def test_its_preview_is_shown_and_compared_only_where_it_tells_of_the_subscription(
        self, stripe: Stripe, services: BillingServices
    ) -> None:
        async def let_in(request: Request) -> Caller:
            return Caller("support", lambda scope, topic: None)

        stripe.add()
        await receive(services, stripe.happened[0])
        routes = billing_routes.routes(services, SyncSettings.from_env({}), let_in)
        transport = httpx2.ASGITransport(app=Starlette(routes=routes))
        async with httpx2.AsyncClient(transport=transport, base_url="http://door") as http:
            path, body = "/v1/tenants/acme/preview", {"plan": "basic"}
            answer = (await http.post(path, json={**body, "ask_provider": True})).json()
            assert (answer["provider"]["object"], "provider_differs" in answer) == ("invoice", False)
            shown = {"status": "active", "items": {"data": [{"price": {"id": PRICES["pro"]}, "quantity": 1}]}}
            answer = (await http.post(path, json={**body, "provider_preview": shown})).json()
            assert [entry["path"] for entry in answer["provider_differs"]] == ["items"]
            assert (await http.post(path, json={**body, "provider_preview": {}})).status_code == 422

    async def test_a_change_that_stripe_cannot_bill_is_not_held(
        self, stripe: Stripe, services: BillingServices, store: Store
    ) -> None:
        stripe.add()
        await receive(services, stripe.happened[0])
        facts = facts_of(await store.read("tenant:acme"))
        wish = ChangeRequest("basic", billing_mode="full_next_billing_period")
        with pytest.raises(ChangeRejected, match="billing_mode_unsupported"):
            planned(services, facts, wish)

    async def test_a_held_change_is_made_at_its_time(
        self, stripe: Stripe, api: StripeClient, store: Store, tmp_path: Path
    ) -> None:
        ahead_ns = 0
        services = BillingServices(
            store,
            CatalogWatcher(catalog(tmp_path)),
            {"stripe": Adapter()},
            {("stripe", "live"): api},
            now_ns=lambda: time.time_ns() + ahead_ns,
        )
        subscription_id = stripe.add(quantity=2)
        await receive(services, stripe.happened[0])

        def change(facts: Facts) -> Facts:
            wish = ChangeRequest("basic", effective_ns=time.time_ns() + HOUR_NS)
            return replace(facts, scheduled_changes=(planned(services, facts, wish),))

        await services.reprojection.refresh("live", "tenant:acme", Refresh({"source": "app"}, change=change))
        assert (await state(store))["plan"]["key"] == "pro"
        ahead_ns = 2 * HOUR_NS
        await fire_now(services)
        items = stripe.subscriptions[subscription_id]["items"]["data"]
        assert [(item["price"]["id"], item["quantity"]) for item in items] == [(PRICES["basic"], 2)]
        shown = await state(store)
        assert (shown["plan"]["key"], "scheduled" in shown) == ("basic", False)


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        ({"plan": "pro"}, {"[0][price]": "price_pro_live", "[0][quantity]": "2"}),
        ({"plan": "pro", "quantity": 4}, {"[0][price]": "price_pro_live", "[0][quantity]": "4"}),
        ({"plan": "basic", "quantity": 5}, {"[0][quantity]": "5"}),
        (
            {"items": [{"price_id": "price_basic_live", "quantity": 2}, {"price_id": "price_audit_live"}]},
            {"[0][price]": "price_audit_live", "[0][quantity]": "1"},
        ),
    ],
)
async def test_a_backend_is_shown_the_invoice_that_stripe_previews(
    store_url: str, tmp_path: Path, stripe: Stripe, change: dict[str, Any], sent: dict[str, str]
) -> None:
    keys = {"STRIPE_API_KEYS": f"live:{KEY}", "STRIPE_API_URL": stripe.url, "STRIPE_API_RATE_PER_S": "1000"}
    async with run_cases(store_url, tmp_path, **keys) as system:
        subscription_id = stripe.add("acme", "price_basic_live", 2)
        assert (await post_stripe(system, stripe.happened[0])).json()["outcome"] == "applied"
        before = await system.read("tenant:acme")
        found = await system.ask("POST", "/v1/tenants/acme/preview", {**change, "ask_provider": True})
        assert (found["provider"]["object"], found["provider"]["subscription"]) == ("invoice", subscription_id)
        assert "provider_differs" not in found
        named = {
            name.removeprefix("subscription_details[items]"): value
            for name, value in found["provider"]["asked"].items()
        }
        named.pop("[0][id]", None)
        assert named == {
            **sent,
            "subscription": subscription_id,
            "subscription_details[proration_behavior]": "always_invoice",
            "subscription_details[proration_date]": str(instants.parse(found["money"]["at"]) // 10**9),
        }
        assert await system.read("tenant:acme") == before
        refused = await system.http.post(
            "/v1/tenants/acme/preview",
            json={**change, "ask_provider": True, "billing_mode": "full_immediately"},
            headers=system.key,
        )
        assert (refused.status_code, refused.json()["code"]) == (409, "provider_refused")
        stripe.subscriptions.clear()
        gone = await system.http.post(
            "/v1/tenants/acme/preview", json={**change, "ask_provider": True}, headers=system.key
        )
        assert (gone.status_code, gone.json()["code"]) == (409, "provider_refused")
