"""Purchases and refunds that no webhook brings, or that the store has lost: the providers' lists have them."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sync.billing.services.background.backfill import Backfill, Report
from sync.bootstrap import open_backfill
from sync.settings import SyncSettings
from tests.integration.test_backfill import Screen, command
from tests.scenarios.test_demo_shop import SHOP
from tests.scenarios.test_items import seen
from tests.scenarios.test_provider_calls import returns
from tests.scenarios.test_purchases import SOLD, adjustment, none_parked, tell, transaction
from tests.scenarios.test_stripe_purchases import charge, dispute, invoice, lines, session, tell as tell_stripe
from tests.support.cases import run_cases
from tests.support.paddle_account import PaddleAccount, paddle_account
from tests.support.polar import Polar, organization
from tests.support.polar_bodies import PRODUCTS, SECRET, at, order
from tests.support.polar_shop import asking
from tests.support.stripe import KEY, Stripe, account
from tests.support.system import System, ago, event, of_sync, run_system, selling
from tests.support.wait import until

LIFE, AUDIT = "pri_lifetime_live", "pri_audit_live"
REVOKING = SOLD.replace("[policy]\n", '[policy]\nrefund = "revoke"\n')
RECURRING = {"price": {"id": "pri_pro_live", "billing_cycle": {"interval": "month", "frequency": 1}}, "quantity": 1}
SETUP = {"price": {"id": AUDIT, "billing_cycle": None}, "quantity": 1}
POLAR_SOLD = SOLD.replace('name = "Lifetime"\n', f'name = "Lifetime"\nproducts.polar.live = ["{PRODUCTS["pro"]}"]\n')


async def fill(system: System, provider: str, **options: Any) -> Report:
    """Run a backfill on the system's store."""
    settings = SyncSettings.from_env(of_sync(system.environ))
    async with open_backfill(settings, provider, "live", dry_run=bool(options.get("dry_run"))) as services:
        return await Backfill(services, provider, "live", Screen()).run(**options)


async def lose(system: System) -> None:
    """Lose everything that the store has."""
    await system.store.redis.flushdb()


async def plans(system: System, *tenants: str) -> list[tuple[str, str]]:
    """Plan and status of tenants."""
    states = [await system.state(f"tenant:{tenant}") for tenant in tenants]
    return [(state["plan"]["key"], state["status"]) if state else ("", "") for state in states]


def paid(tenant: str, *prices: str, **fields: Any) -> dict[str, Any]:
    return transaction(3000, *prices, tenant=tenant, **fields)


def own(tenant: str, **fields: Any) -> dict[str, Any]:
    """The event of a tenant's Pro subscription."""
    body: dict[str, Any] = json.loads(event(ago(5000), tenant=tenant, items=[("pri_pro_live", 2)], **fields))
    return body


@asynccontextmanager
async def paddle(store_url: str, directory: Path, catalog: str = SOLD) -> AsyncIterator[tuple[PaddleAccount, System]]:
    async with (
        paddle_account() as shop,
        run_cases(store_url, directory, catalog=catalog, **shop.settings) as system,
    ):
        yield shop, system


@asynccontextmanager
async def stripe(store_url: str, directory: Path, catalog: str = SOLD) -> AsyncIterator[tuple[Stripe, System]]:
    async with account() as shop:
        keys = {"STRIPE_API_KEYS": f"live:{KEY}", "STRIPE_API_URL": shop.url, "STRIPE_API_RATE_PER_S": "1000"}
        async with run_cases(store_url, directory, catalog=catalog, **keys) as system:
            yield shop, system


@asynccontextmanager
async def polar(store_url: str, directory: Path, **settings: str) -> AsyncIterator[tuple[Polar, System]]:
    async with organization() as shop:
        keys = {"POLAR_SECRETS": f"live:{SECRET}", **asking(shop), **settings}
        async with run_cases(store_url, directory, catalog=POLAR_SOLD, **keys) as system:
            yield shop, system


def object_of(body: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["data"]["object"]
    return found


def refund(tenant: str, amount: int = 1900, status: str = "succeeded", **fields: Any) -> dict[str, Any]:
    """A refund of Stripe's, as its list shows it."""
    made = object_of(charge(100, amount, tenant))
    return {
        "id": f"re_{tenant}",
        "object": "refund",
        "status": status,
        "amount": amount,
        "currency": "usd",
        "charge": made,
        "payment_intent": made["payment_intent"],
        "created": 1_790_000_000,
        **fields,
    }


def sold(shop: Stripe, tenant: str | None, *prices: str, **fields: Any) -> dict[str, Any]:
    """Have a paid checkout session; return its event."""
    body = session(tenant, **fields)
    shop.sessions[object_of(body)["id"]] = {**object_of(body), "line_items": lines(*prices)}
    return body


class TestS93Backfill:
    """Scenario 93."""

    async def test_s93_a_backfill_gives_purchases_back_and_not_what_went_back(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with paddle(store_url, tmp_path) as (shop, system):
            shop.page_max = 2
            bodies = [
                paid("life", LIFE),
                paid("gone", LIFE),
                paid("part", LIFE),
                adjustment(100, 1900, tenant="gone", id="adj_gone"),
                adjustment(90, 500, tenant="part", id="adj_part"),
                adjustment(80, 1900, tenant="life", id="adj_asked", status="pending_approval"),
                own("both"),
                paid("both", AUDIT),
                paid("other", "pri_book", custom_data=None),
            ]
            shop.has(*bodies)
            tenants = ("life", "gone", "part", "both")
            expected = [("lifetime", "active"), ("free", "canceled"), ("lifetime", "active"), ("pro", "active")]
            await tell(system, bodies)
            assert await plans(system, *tenants) == expected
            await lose(system)
            dry = await fill(system, "paddle", dry_run=True)
            report = await fill(system, "paddle")
            assert await plans(system, *tenants) == expected
            assert (await system.state("tenant:both"))["features"]["audit"]
            assert (report.seen, report.payments, report.parked, report.tenants_made) == (9, 8, {}, 4)
            assert dry.shown() | {"dry_run": 0, "seconds": 0} == report.shown() | {"dry_run": 0, "seconds": 0}
            again = await fill(system, "paddle")
            assert (again.taken, again.drift) == (0, 0)
            assert await tell(system, bodies[:2]) == ["refused", "refused"]  # known already
            assert await plans(system, *tenants) == expected

    async def test_s93_it_continues_where_it_was_stopped(self, store_url: str, tmp_path: Path) -> None:
        async with paddle(store_url, tmp_path) as (shop, system):
            shop.has(own("both"), paid("life", LIFE), paid("gone", LIFE), adjustment(100, 1900, tenant="gone"))
            for _ in range(3):
                assert not (await fill(system, "paddle", limit=1)).complete
            report = await fill(system, "paddle")
            assert (report.complete, report.seen, report.payments) == (True, 4, 3)
            assert await plans(system, "both", "life", "gone") == [
                ("pro", "active"),
                ("lifetime", "active"),
                ("free", "canceled"),
            ]

    async def test_s93_what_cannot_be_used_is_parked_with_the_reason(self, store_url: str, tmp_path: Path) -> None:
        async with paddle(store_url, tmp_path) as (shop, system):
            bodies = [paid("acme", "pri_book"), paid("x", LIFE, custom_data=None, customer_id="ctm_x")]
            shop.has(*bodies, adjustment(60, 1900, tenant="nobody"))
            report = await fill(system, "paddle")
            reasons = sorted(report.parked.values())
            assert reasons[0].startswith("no tenant is known for txn_x")
            assert reasons[1].startswith("refund of 1900 USD for txn_nobody, which is not known yet")
            assert reasons[2].startswith("unknown price pri_book in live")
            assert len(await system.parked()) == 3

    async def test_s93_nothing_is_listed_where_no_purchase_is_sold(self, store_url: str, tmp_path: Path) -> None:
        plain = SOLD.replace("purchase = true\n", "").replace('expires = "365d"\n', "")
        async with paddle(store_url, tmp_path, plain) as (shop, system):
            shop.forbidden = {"transactions", "adjustments"}
            shop.has(own("acme"))
            assert (await fill(system, "paddle")).complete
            assert not [path for path in shop.asked if not path.startswith("/subscriptions")]

    async def test_s93_stripe_s_sessions_invoices_refunds_and_disputes(self, store_url: str, tmp_path: Path) -> None:
        life, audit = "price_lifetime_live", "price_audit_live"
        async with stripe(store_url, tmp_path) as (shop, system):
            shop.page_max = 2
            for tenant in ("life", "gone", "lost", "won", "failed"):
                sold(shop, tenant, life)
            sold(shop, "many", *[f"price_book_{number}" for number in range(14)], audit)
            sold(shop, "open", life, status="open", payment_status="unpaid")
            bought = object_of(invoice("billed"))
            payment = {"status": "paid", "payment": {"type": "payment_intent", "payment_intent": "pi_billed"}}
            shop.paid["/v1/invoices"] = [
                {**bought, "created": 1_790_000_000, "status": "paid", "payments": {"data": [payment]}}
            ]
            shop.paid["/v1/refunds"] = [refund("gone"), refund("failed", status="failed")]
            shop.paid["/v1/disputes"] = [object_of(dispute(90, "lost", "lost")), object_of(dispute(90, "won", "won"))]
            named = shop.add(None, customer="cus_named")
            shop.add_session(named, client_reference_id="named")
            report = await fill(system, "stripe")
            assert await plans(system, "life", "gone", "lost", "won", "failed", "billed") == [
                ("lifetime", "active"),
                ("free", "canceled"),
                ("free", "canceled"),
                ("lifetime", "active"),
                ("lifetime", "active"),
                ("lifetime", "active"),
            ]
            assert (await system.state("tenant:many"))["features"]["audit"]
            assert (await system.read("tenant:open"))["version"] == 0
            # A session names the tenant of the subscription that it has made.
            assert all("cus_named" not in reason for reason in report.parked.values())
            assert await tell_stripe(system, [charge(50, 1900, "billed")]) == ["applied"]
            assert await plans(system, "billed") == [("free", "canceled")]

    async def test_s93_polar_s_orders(self, store_url: str, tmp_path: Path) -> None:
        async with polar(store_url, tmp_path) as (shop, system):
            shop.page_max = 2
            for tenant, back in (("life", 0), ("gone", 2900), ("part", 900)):
                tax = 580 if back == 2900 else 0
                status = {0: "paid", 2900: "refunded", 900: "partially_refunded"}[back]
                fields: dict[str, Any] = {"id": f"order-{tenant}", "refunded_amount": back, "refunded_tax_amount": tax}
                shop.orders.append(order(tenant=tenant, status=status, modified_at=at(), **fields))
            report = await fill(system, "polar")
            assert (report.seen, report.payments, report.parked) == (5, 5, {})
            assert await plans(system, "life", "gone", "part") == [
                ("lifetime", "active"),
                ("free", "canceled"),
                ("lifetime", "active"),
            ]
            assert (await fill(system, "polar")).taken == 0


class TestS93Shop:
    """What `make run` sells: subscriptions and purchases of two applications."""

    @pytest.mark.parametrize("seed", range(3))
    async def test_s93_a_whole_shop_comes_back_as_it_was(self, seed: int, store_url: str, tmp_path: Path) -> None:
        chance = random.Random(seed)
        tenants = [f"t{number}" for number in range(6)]
        async with (
            selling(tmp_path / "seller", SHOP) as seller,
            run_system(store_url, tmp_path, catalog=SHOP, **seller.settings) as system,
        ):
            for tenant in tenants:
                bought = [{"plan": "lifetime"}, {"addon": "course"}, {"plan": "mail"}, {"plan": "pro"}]
                for what in chance.sample(bought, chance.randint(1, 4)):
                    is_once = what != {"plan": "mail"} and what != {"plan": "pro"}
                    await seller.act("buy" if is_once else "upgrade", tenant=tenant, **what)
                    if is_once and (back := chance.choice(["", "refund", "chargeback", "part", "won"])):
                        how = {"amount": 100} if back == "part" else {}
                        kind = {"part": "refund", "won": "chargeback"}.get(back, back)
                        await seller.act(kind, tenant=tenant, **what, **how)
                        if back == "won":
                            await seller.act("chargeback_reverse", tenant=tenant, **what)
            await system.tell(seller.events())
            before = {tenant: await system.state(f"tenant:{tenant}") for tenant in tenants}
            await lose(system)
            async with command(of_sync(system.environ), "paddle", "--json") as cli:
                status, out, errors = await cli.end()
            assert (status, errors) == (0, "")
            assert json.loads(out)["parked"] == []
            assert {tenant: await system.state(f"tenant:{tenant}") for tenant in tenants} == before


class TestS93Shown:
    """Operators see what was bought, until when, and what went back."""

    async def test_s93_operators_see_what_was_bought_and_what_went_back(self, store_url: str, tmp_path: Path) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system:
            life, course = paid("acme", LIFE), paid("acme", AUDIT, id="txn_2")
            pending = adjustment(90, 1900, id="adj_asked", status="pending_approval", transaction_id="txn_2")
            await tell(system, [life, course, adjustment(100, 1900, type="full"), pending])
            second, first = (await system.ask("GET", "/v1/tenants/acme/links"))["links"]
            bought_at = life["data"]["billed_at"]
            assert (first["status"], first["purchase"]) == (
                "canceled",
                {"bought_at": bought_at, "total": 1900, "currency": "USD"},
            )
            (back,) = first["went_back"]
            assert (back["kind"], back["status"], back["amount"], back["full"]) == ("refund", "approved", 1900, True)
            assert (second["status"], second["purchase"]["expires_at"] > ago(-364 * 86_400)) == ("active", True)
            assert [one["status"] for one in second["went_back"]] == ["pending"]


class TestS94Found:
    """Scenario 94."""

    async def test_s94_an_operator_s_comparison_finds_a_purchase_and_a_refund(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with paddle(store_url, tmp_path) as (shop, system), system.tab() as tab:
            mine, life, back = own("acme"), paid("acme", LIFE), adjustment(60, 1900)
            await tell(system, [mine])
            shop.has(mine, life)
            found = await system.ask("POST", "/v1/tenants/acme/reconcile", {})
            assert (found["outcome"], [one["kind"] for one in found["drift"]]) == ("applied", ["unknown_here"])
            assert await seen(tab) == ("lifetime", "active")
            shop.has(back)
            found = await system.ask("POST", "/v1/tenants/acme/reconcile", {})
            assert [(one["kind"], one["there"]) for one in found["drift"]] == [("differs", {"status": "canceled"})]
            assert await seen(tab) == ("pro", "active")
            version = tab.version
            assert (await system.ask("POST", "/v1/tenants/acme/reconcile", {}))["outcome"] == "unchanged"
            assert await tell(system, [life, back]) == ["refused", "refused"]
            assert await seen(tab) == ("pro", "active")
            assert tab.version == version

    async def test_s94_a_tenant_that_the_store_has_lost_is_searched(self, store_url: str, tmp_path: Path) -> None:
        async with paddle(store_url, tmp_path) as (shop, system):
            shop.has(paid("life", LIFE), paid("gone", LIFE), adjustment(100, 1900, tenant="gone"), own("other"))
            for tenant in ("life", "gone"):
                found = await system.ask("POST", f"/v1/tenants/{tenant}/reconcile", {})
                assert found["outcome"] == "applied"
            assert await plans(system, "life", "gone") == [("lifetime", "active"), ("free", "canceled")]
            assert (await system.read("tenant:other"))["version"] == 0

    async def test_s94_stripe_s_customer_is_asked_for(self, store_url: str, tmp_path: Path) -> None:
        async with stripe(store_url, tmp_path) as (shop, system), system.tab() as tab:
            await tell_stripe(system, [sold(shop, "acme", "price_audit_live")])
            sold(shop, "acme", "price_lifetime_live", id="cs_live_2", payment_intent="pi_2")
            assert (await system.ask("POST", "/v1/tenants/acme/reconcile", {}))["outcome"] == "applied"
            assert await seen(tab) == ("lifetime", "active")
            made = object_of(charge(50, 1900, id="ch_2", payment_intent="pi_2"))
            back = {**refund("acme"), "payment_intent": "pi_2", "charge": "ch_2"}
            shop.paid["/v1/charges"] = [{**made, "disputed": True, "refunds": {"data": [back]}}]
            shop.paid["/v1/disputes"] = [{**object_of(dispute(90, "lost")), "charge": "ch_2", "payment_intent": "pi_2"}]
            assert (await system.ask("POST", "/v1/tenants/acme/reconcile", {}))["outcome"] == "applied"
            await tab.until(lambda tab: tab.plan == "free")
            assert tab.state["features"]["audit"]
            assert (await system.ask("POST", "/v1/tenants/acme/reconcile", {}))["outcome"] == "unchanged"

    async def test_s94_a_purchase_of_another_tenant_s_is_not_taken_for_the_customer_s(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with paddle(store_url, tmp_path) as (shop, system):
            mine, theirs = own("acme"), paid("else", LIFE, customer_id="ctm_acme")
            await tell(system, [mine])
            shop.has(mine, theirs)
            await system.ask("POST", "/v1/tenants/acme/reconcile", {})
            assert await plans(system, "acme", "else") == [("pro", "active"), ("lifetime", "active")]

    async def test_s94_the_success_page_of_an_old_checkout_shows_what_went_back_since(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with (
            paddle(store_url, tmp_path) as (shop, system),
            system.working(checkout_pause_s=0.2, comparison_pause_s=0.2),
            system.tab() as tab,
        ):
            shop.has(paid("acme", LIFE), adjustment(60, 1900))
            await returns(tab, "txn_acme")
            await tab.until(lambda tab: tab.state and tab.state["status"] == "canceled", timeout_s=20)
            assert tab.plan == "free"


class TestS95Beside:
    """Scenario 95."""

    async def test_s95_one_time_items_of_a_subscription_s_payment_are_a_purchase(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """A set-up with the first payment, which names nobody; a charge in between; in any order."""
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system:
            for number, turn in enumerate((1, -1)):
                tenant = f"t{number}"
                ids = {"subscription_id": f"sub_{tenant}", "custom_data": None, "customer_id": f"ctm_{tenant}"}
                first = paid(tenant, items=[RECURRING, SETUP], **ids)
                charged = paid(tenant, items=[SETUP], **ids, id=f"txn_{tenant}_2", origin="subscription_charge")
                await tell(system, [own(tenant), first, charged][::turn])
                state = await system.state(f"tenant:{tenant}")
                assert (state["plan"]["key"], state["limits"]["exports"]) == ("pro", 200)
                part = adjustment(60, 1900, tenant=tenant, subscription_id=f"sub_{tenant}", id="adj_part")
                whole = {**part["data"], "id": "adj_2", "type": "full", "transaction_id": f"txn_{tenant}_2"}
                await tell(system, [part, adjustment(50, 1900, **whole, tenant="x")])
                assert (await system.state(f"tenant:{tenant}"))["limits"]["exports"] == 100
                assert await none_parked(system)

    async def test_s95_it_goes_to_the_tenant_that_pays_for_the_subscription(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """Though its customer pays for two."""
        async with paddle(store_url, tmp_path) as (shop, system):
            one, two = own("one", customer_id="ctm_joint"), own("two", customer_id="ctm_joint")
            ids = {"subscription_id": "sub_two", "custom_data": None, "customer_id": "ctm_joint"}
            charged = paid("two", items=[SETUP], **ids, origin="subscription_charge")
            shop.has(one, two, charged)
            await tell(system, [one, two, charged])
            for _ in range(2):
                assert "audit" not in (await system.state("tenant:one"))["features"]
                assert (await system.state("tenant:two"))["features"]["audit"]
                await lose(system)
                assert (await fill(system, "paddle")).parked == {}

    async def test_s95_a_refund_that_fails_gives_it_back(self, store_url: str, tmp_path: Path) -> None:
        """In either order of arrival."""
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system:
            for tenant, turn in (("first", 1), ("last", -1)):
                bought = session(tenant, line_items=lines("price_lifetime_live"))
                back, failed = charge(100, 1900, tenant), charge(50, 1900, tenant)
                failed |= {"type": "refund.failed", "id": f"evt_failed_{tenant}"}
                failed["data"] = {"object": refund(tenant, status="failed", charge=f"ch_{tenant}")}
                await tell_stripe(system, [bought])
                assert await tell_stripe(system, [back, failed][::turn]) == ["applied", "applied"]
                assert await plans(system, tenant) == [("lifetime", "active")]
                again = charge(20, 1900, tenant)
                assert await tell_stripe(system, [again]) == ["applied"]
                assert await plans(system, tenant) == [("free", "canceled")]

    async def test_s95_stripe_is_asked_what_a_disputed_payment_was_for(self, store_url: str, tmp_path: Path) -> None:
        async with stripe(store_url, tmp_path, REVOKING) as (shop, system):
            for tenant in ("sub", "bill"):
                details = {"subscription_details": {"subscription": f"sub_{tenant}"}} if tenant == "sub" else None
                made = {**object_of(invoice(tenant)), "parent": details}
                payment = {"type": "payment_intent", "payment_intent": f"pi_{tenant}"}
                shop.paid.setdefault("/v1/invoice_payments", []).append(
                    {"id": f"inpay_{tenant}", "invoice": made, "payment": payment}
                )
            shop.add("sub", "price_pro_live", id="sub_sub", customer="cus_sub")
            await tell_stripe(system, [shop.happened[-1], invoice("bill")])
            assert await plans(system, "sub", "bill") == [("pro", "active"), ("lifetime", "active")]
            disputes = [dispute(0, "needs_response", tenant) for tenant in ("sub", "bill")]
            assert await tell_stripe(system, disputes) == ["applied", "applied"]
            assert await plans(system, "sub", "bill") == [("free", "unpaid"), ("free", "canceled")]

    async def test_s95_a_refund_of_what_stripe_does_not_know_waits(self, store_url: str, tmp_path: Path) -> None:
        async with stripe(store_url, tmp_path) as (shop, system), system.tab() as tab:
            assert await tell_stripe(system, [charge(100, 1900)]) == ["parked"]
            assert await tell_stripe(system, [sold(shop, "acme", "price_lifetime_live")]) == ["applied"]
            assert await seen(tab) == ("free", "canceled")
            await until(lambda: none_parked(system), 10)
