"""One-time purchases at Stripe: checkout sessions in payment mode, refunded charges, disputes."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.test_doors import OTHER
from tests.scenarios.test_items import seen, stripe_event
from tests.scenarios.test_provider_calls import returns
from tests.scenarios.test_purchases import SOLD
from tests.support.cases import post_stripe, run_cases
from tests.support.stripe import KEY, Stripe, account
from tests.support.system import System


def lines(*prices: str) -> dict[str, Any]:
    """The line items of a session, as Stripe shows them on request."""
    data = [{"id": f"li_{price}", "price": {"id": price, "type": "one_time"}, "quantity": 1} for price in prices]
    return {"object": "list", "has_more": False, "data": data}


def happened(kind: str, ago_s: int, body: dict[str, Any]) -> dict[str, Any]:
    created = int(time.time()) - ago_s
    event_id = f"evt_{kind}_{body['id']}_{ago_s}".replace(".", "_")
    head = {"id": event_id, "object": "event", "type": kind, "created": created, "livemode": True}
    return {**head, "data": {"object": body}}


def session(tenant: str | None = "acme", *, kind: str = "checkout.session.completed", **fields: Any) -> dict[str, Any]:
    """A checkout session in payment mode, of 19.00 USD, 300 seconds ago."""
    body = {
        "id": f"cs_live_{tenant}",
        "object": "checkout.session",
        "livemode": True,
        "mode": "payment",
        "status": "complete",
        "payment_status": "paid",
        "payment_intent": f"pi_{tenant}",
        "subscription": None,
        "invoice": None,
        "customer": f"cus_{tenant}",
        "client_reference_id": tenant,
        "metadata": {},
        "amount_total": 1900,
        "currency": "usd",
        "created": int(time.time()) - 310,
        **fields,
    }
    return happened(kind, 300, body)


def invoice(tenant: str | None = "acme", **fields: Any) -> dict[str, Any]:
    """A paid invoice without a subscription, as newer API versions show it."""
    prices = fields.pop("prices", ["price_lifetime_live"])
    details = [{"price": price, "product": "prod_life"} for price in prices]
    body = {
        "id": f"in_{tenant}",
        "object": "invoice",
        "customer": f"cus_{tenant}",
        "metadata": {"tenant_id": tenant} if tenant else {},
        "parent": None,
        "amount_paid": 1900,
        "currency": "usd",
        "lines": {"data": [{"pricing": {"price_details": each}, "quantity": 1} for each in details], "has_more": False},
        **fields,
    }
    return happened("invoice.paid", 290, body)


def charge(ago_s: int, back: int, tenant: str = "acme", **fields: Any) -> dict[str, Any]:
    """The refunded charge of a tenant's session: `back` of 1900 in all."""
    body = {
        "id": f"ch_{tenant}",
        "object": "charge",
        "payment_intent": f"pi_{tenant}",
        "customer": f"cus_{tenant}",
        "amount": 1900,
        "amount_refunded": back,
        "refunded": back == 1900,
        "currency": "usd",
        "description": None,
        **fields,
    }
    return happened("charge.refunded", ago_s, body)


def dispute(ago_s: int, status: str, tenant: str = "acme", what: str = "created") -> dict[str, Any]:
    body = {
        "id": f"dp_{tenant}",
        "object": "dispute",
        "charge": f"ch_{tenant}",
        "payment_intent": f"pi_{tenant}",
        "amount": 1900,
        "currency": "usd",
        "status": status,
        "created": int(time.time()) - 200,
    }
    return happened(f"charge.dispute.{what}", ago_s, body)


async def tell(system: System, bodies: Sequence[dict[str, Any]]) -> list[str]:
    """The outcomes of Stripe's webhooks in this order."""
    return [str((await post_stripe(system, body)).json()["outcome"]) for body in bodies]


@asynccontextmanager
async def selling(store_url: str, directory: Path) -> AsyncIterator[tuple[Stripe, System]]:
    """A system that can ask Stripe."""
    async with account() as shop:
        keys = {"STRIPE_API_KEYS": f"live:{KEY}", "STRIPE_API_URL": shop.url, "STRIPE_API_RATE_PER_S": "1000"}
        async with run_cases(store_url, directory, catalog=SOLD, **keys) as system:
            yield shop, system


class TestPurchases:
    """Scenario 75."""

    async def test_s77_stripe_is_asked_for_what_a_session_sells(self, store_url: str, tmp_path: Path) -> None:
        async with selling(store_url, tmp_path) as (shop, system), system.tab() as tab:
            body = session()
            shop.sessions["cs_live_acme"] = {**body["data"]["object"], "line_items": lines("price_lifetime_live")}
            assert await tell(system, [body, body]) == ["applied", "duplicate"]
            assert await seen(tab) == ("lifetime", "active")
            assert len(shop.asked) == 1

    async def test_s77_without_an_api_key_a_session_without_items_is_parked(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system, system.tab("tenant:shown") as tab:
            whole = session("shown", line_items=lines("price_lifetime_live"))
            later = session("later", payment_status="unpaid", line_items=lines("price_lifetime_live"))
            assert await tell(system, [session(), whole, later]) == ["parked", "applied", "ignored"]
            assert await seen(tab) == ("lifetime", "active")
            (parked,) = await system.parked()
            assert parked["reason"].endswith("carries no items: set PLANWIRE_STRIPE_API_KEYS=live:KEY")

    async def test_s77_a_payment_that_takes_days_counts_when_it_is_made(self, store_url: str, tmp_path: Path) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system, system.tab() as tab:
            items = lines("price_lifetime_live")
            paid = session(kind="checkout.session.async_payment_succeeded", line_items=items)
            assert await tell(system, [session(payment_status="unpaid", line_items=items), paid]) == [
                "ignored",
                "applied",
            ]
            assert await seen(tab) == ("lifetime", "active")

    async def test_s77_other_things_that_are_sold_are_other_business(self, store_url: str, tmp_path: Path) -> None:
        async with selling(store_url, tmp_path) as (shop, system):
            body = session(None)
            shop.sessions["cs_live_None"] = {**body["data"]["object"], "line_items": lines("price_book")}
            assert await tell(system, [body]) == ["ignored"]
            assert await system.parked() == []

    async def test_s77_a_paid_invoice_without_a_subscription_is_a_purchase(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system, system.tab() as tab:
            of_subscription = invoice("other", parent={"type": "subscription_details", "subscription_details": {}})
            of_subscription["data"]["object"]["parent"]["subscription_details"]["subscription"] = "sub_1"
            bodies = [invoice(), of_subscription, invoice(None, prices=["price_advice"])]
            assert await tell(system, bodies) == ["applied", "ignored", "ignored"]
            assert await seen(tab) == ("lifetime", "active")

    async def test_s77_a_checkout_and_its_invoice_are_one_purchase_in_either_order(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system:
            for tenant, order in (("first", 1), ("last", -1)):
                bought = session(tenant, line_items=lines("price_audit_live"), invoice=f"in_{tenant}")
                bodies = [bought, invoice(tenant, prices=["price_audit_live"])]
                async with system.tab(f"tenant:{tenant}") as tab:
                    assert await tell(system, bodies[::order]) == ["applied", "applied"]
                    await tab.fence()
                    assert tab.state["limits"]["exports"] == 100
                    await tell(system, [charge(100, 1900, tenant)])
                    await tab.fence()
                    assert "audit" not in tab.state["features"]

    async def test_s77_a_connected_account_s_session_is_asked_for_there(self, store_url: str, tmp_path: Path) -> None:
        async with account() as shop:
            keys = {"STRIPE_API_KEYS": f"live:{KEY}", "STRIPE_API_URL": shop.url, "STRIPE_CONNECT_ACCOUNTS": OTHER}
            async with run_cases(store_url, tmp_path, catalog=SOLD, **keys) as system, system.tab() as tab:
                body = session(invoice="in_acme")
                shop.sessions["cs_live_acme"] = {**body["data"]["object"], "line_items": lines("price_audit_live")}
                shop.connected["cs_live_acme"] = OTHER
                bodies = [body, invoice(prices=["price_audit_live"])]
                assert await tell(system, [each | {"account": OTHER} for each in bodies]) == ["applied"] * 2
                await tab.until(lambda tab: tab.state is not None and "audit" in tab.state["features"])
                assert tab.state["limits"]["exports"] == 100
                assert await tell(system, [charge(100, 1900) | {"account": OTHER}]) == ["applied"]
                await tab.fence()
                assert "audit" not in tab.state["features"]
                assert [asked.rpartition(" of ")[2] for asked in shop.asked] == [OTHER] * len(shop.asked)

    async def test_s77_the_success_page_names_the_checkout(self, store_url: str, tmp_path: Path) -> None:
        """Without a webhook; that comes later and changes nothing."""
        async with (
            selling(store_url, tmp_path) as (shop, system),
            system.working(checkout_pause_s=0.2),
            system.tab() as tab,
        ):
            body = session()
            shop.sessions["cs_live_acme"] = {**body["data"]["object"], "line_items": lines("price_lifetime_live")}
            await returns(tab, "cs_live_acme")
            await tab.until(lambda tab: tab.plan == "lifetime", timeout_s=10)
            version = tab.version
            await tell(system, [body])
            assert await seen(tab) == ("lifetime", "active")
            assert tab.version == version


class TestRefunds:
    """Scenario 76."""

    async def test_s78_stripe_s_refunds_count_in_any_order(self, store_url: str, tmp_path: Path) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system:
            for number, order in enumerate(itertools.permutations(range(3))):
                tenant = f"t{number}"
                bought = session(tenant, line_items=lines("price_lifetime_live"))
                # Both refunds in one second: the greater sum is the newer.
                bodies = [bought, charge(100, 500, tenant), charge(100, 1900, tenant)]
                bodies[2]["id"] += "_all"
                async with system.tab(f"tenant:{tenant}") as tab:
                    await tell(system, [bodies[index] for index in order])
                    assert await seen(tab) == ("free", "canceled")
            assert await system.parked() == []

    @pytest.mark.parametrize(
        ("status", "expected"),
        [("lost", ("free", "canceled")), ("won", ("lifetime", "active")), ("warning_closed", ("lifetime", "active"))],
    )
    async def test_s78_a_dispute_counts_until_it_is_won(
        self, status: str, expected: tuple[str, str], store_url: str, tmp_path: Path
    ) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system, system.tab() as tab:
            opened = "warning_needs_response" if status.startswith("warning") else "needs_response"
            bought = session(line_items=lines("price_lifetime_live"))
            await tell(system, [bought, dispute(100, opened)])
            assert await seen(tab) == (expected if status.startswith("warning") else ("free", "canceled"))
            await tell(system, [dispute(50, status, what="closed")])
            assert await seen(tab) == expected

    @pytest.mark.parametrize(("policy", "expected"), [("keep", ("pro", "active")), ("revoke", ("free", "unpaid"))])
    async def test_s78_the_policy_decides_about_stripe_s_subscriptions(
        self, policy: str, expected: tuple[str, str], store_url: str, tmp_path: Path
    ) -> None:
        """Of a customer with one subscription, in either order."""
        catalog = SOLD.replace("[policy]\n", f'[policy]\nrefund = "{policy}"\n')
        async with run_cases(store_url, tmp_path, catalog=catalog) as system:
            for tenant, is_late in (("early", False), ("late", True)):
                back = charge(20, 1900, tenant, invoice="in_1")
                bodies = [stripe_event("active", 60, tenant=tenant), back]
                async with system.tab(f"tenant:{tenant}") as tab:
                    await tell(system, bodies[::-1] if is_late else bodies)
                    assert await seen(tab) == (("pro", "active") if is_late and policy == "keep" else expected)
            assert await system.parked() == []
            (noted,) = [
                entry["reason"]
                for entry in await system.processed("tenant:early")
                if entry["type"] == "charge.refunded"
            ]
            assert noted.startswith("" if policy == "revoke" else "refund of 1900 USD: the subscription goes on")

    async def test_s78_a_part_is_noted_and_a_subscription_s_charge_waits_for_nothing(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system, system.tab() as tab:
            bought = session(line_items=lines("price_lifetime_live"))
            renewal = charge(60, 1900, "other", description="Subscription update")
            assert await tell(system, [bought, charge(100, 500), renewal]) == ["applied", "applied", "ignored"]
            assert await seen(tab) == ("lifetime", "active")
            noted = [entry["reason"] for entry in await system.processed() if entry["type"] == "charge.refunded"]
            assert noted == ["refund of 500 USD: a part of what was paid"]
            assert await system.parked() == []
