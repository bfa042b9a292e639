"""Polar through the real door: its signature, its events in any order, and its customers' states, at connected tabs."""

from __future__ import annotations

import itertools
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sync.billing.providers.polar.webhooks import STATE
from tests.support.polar import organization
from tests.support.polar_bodies import (
    PRODUCTS,
    SANDBOX_SECRET,
    SECRET,
    at,
    customer,
    envelope,
    full_state,
    order,
    price,
    refund,
    signed,
    state,
    subscription,
)
from tests.support.polar_shop import BY_PRICE, SOLD, asking, post, shop, shown
from tests.support.system import Tab
from tests.support.wait import until


def will(tab: Tab, action: object) -> bool:
    """Whether the tab shows that Polar will do this by itself; None: nothing."""
    return bool(tab.state.get("scheduled", {}).get("action") == action)


class TestS84Signature:
    async def test_s84_only_what_polar_signed_counts(self, store_url: str, tmp_path: Path) -> None:
        async with shop(store_url, tmp_path) as system, system.tab() as tab:
            body = envelope(subscription(seats=3), "subscription.created")
            assert (await post(system, body, "", "whsec_of_somebody_else"))["code"] == "signature_invalid"
            assert (await post(system, body, at_s=1_700_000_000))["code"] == "signature_expired"
            assert (await post(system, body, version="v1a"))["code"] == "signature_malformed"
            headers = signed(body)
            del headers["webhook-id"]
            answer = await system.http.post("/webhooks/polar", content=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (400, "signature_malformed")
            event_id = str(uuid.uuid4())
            assert (await post(system, body, event_id, "whsec_of_yesterday", SECRET))["outcome"] == "applied"
            await shown(tab, "pro", status="active")
            assert tab.state["limits"]["seats"] == 3
            assert tab.cause["event_id"] == event_id
            assert (await post(system, body, event_id))["outcome"] == "duplicate"

    async def test_s84_the_secret_names_the_environment(self, store_url: str, tmp_path: Path) -> None:
        sold = SOLD.replace("polar.live", "polar.sandbox")
        async with shop(store_url, tmp_path, sold) as system, system.tab("sandbox/tenant:acme") as tab:
            assert (await post(system, envelope(subscription()), "", SANDBOX_SECRET))["outcome"] == "applied"
            await shown(tab, "pro")


class TestS85Subscriptions:
    async def test_s85_the_life_of_a_subscription(self, store_url: str, tmp_path: Path) -> None:
        """Each event is what Polar sends in that case; each is followed by the customer's state, as at Polar."""
        ends = at(-20 * 86_400)
        life: list[tuple[str, dict[str, Any], tuple[str, str, object]]] = [
            ("created", {"status": "trialing", "trial_end": ends}, ("pro", "trialing", None)),
            ("active", {"status": "active"}, ("pro", "active", None)),
            ("canceled", {"cancel_at_period_end": True, "ends_at": ends}, ("pro", "active", "cancel")),
            ("uncanceled", {"cancel_at_period_end": False, "ends_at": None}, ("pro", "active", None)),
            ("updated", {"pause_at_period_end": True}, ("pro", "active", "pause")),
            (
                "paused",
                {"status": "paused", "pause_at_period_end": False, "resumes_at": ends},
                ("free", "paused", "resume"),
            ),
            ("resumed", {"status": "active", "resumes_at": None}, ("pro", "active", None)),
            ("past_due", {"status": "past_due"}, ("pro", "past_due", None)),
            ("active", {"status": "active"}, ("pro", "active", None)),
            ("revoked", {"status": "canceled", "ended_at": at()}, ("free", "canceled", None)),
        ]
        async with shop(store_url, tmp_path) as system, system.tab() as tab:
            data = subscription(seats=2)
            for kind, changes, (plan, status, scheduled) in life:
                data = {**data, **changes, "modified_at": at()}
                await post(system, envelope(data, f"subscription.{kind}"))
                live = [data] if data["status"] in ("active", "trialing") else []
                await post(system, envelope(state(data["customer"], *live), STATE))
                await shown(tab, plan, status=status)
                await tab.until(partial(will, action=scheduled))
            await tab.fence()
            assert len(tab.shown) <= 1 + len(life), "the states make no versions of their own"
            assert await system.parked() == []

    async def test_s85_every_order_of_arrival_ends_the_same(self, store_url: str, tmp_path: Path) -> None:
        made = subscription("x", seats=1, modified_at=at(40))
        upgraded = {**made, "seats": 6, "modified_at": at(30)}
        failed = {**upgraded, "status": "past_due", "modified_at": at(20)}
        async with shop(store_url, tmp_path) as system:
            for number, places in enumerate(itertools.permutations(range(4))):
                tenant, id = f"t{number}", str(uuid.uuid4())
                named = {"id": id, "metadata": {"tenant_id": tenant}}
                bodies = [
                    envelope({**made, **named}, "subscription.created", 39),
                    envelope({**upgraded, **named}, "subscription.updated", 29),
                    envelope(state(made["customer"], {**upgraded, **named}), STATE, 25),
                    envelope({**failed, **named}, "subscription.past_due", 19),
                ]
                for place in (*places, places[0]):
                    await post(system, bodies[place])
                found = await system.state(f"tenant:{tenant}")
                assert (found["status"], found["plan"]["key"], found["limits"]["seats"]) == ("past_due", "pro", 6)

    async def test_s85_the_order_or_the_customer_names_the_tenant(self, store_url: str, tmp_path: Path) -> None:
        async with shop(store_url, tmp_path) as system, system.tab() as tab, system.tab("tenant:auth0%7C7") as other:
            data = subscription(None)
            assert (await post(system, envelope(data)))["outcome"] == "parked"
            await post(system, envelope(order(data), "order.paid"))
            await shown(tab, "pro")
            buyer = customer("other", external_id="auth0|7")
            await post(system, envelope(subscription(None, "basic", id=str(uuid.uuid4()), customer=buyer)))
            await shown(other, "basic")

    async def test_s85_a_catalog_of_prices(self, store_url: str, tmp_path: Path) -> None:
        async with shop(store_url, tmp_path, BY_PRICE) as system, system.tab() as tab:
            await post(system, envelope(subscription(seats=2)))
            await shown(tab, "pro")

    async def test_s85_an_unknown_product_is_parked_with_its_name(self, store_url: str, tmp_path: Path) -> None:
        """Not with its price's: Polar does not show the ids of prices."""

        async def released() -> bool:
            return not await system.parked()

        async with shop(store_url, tmp_path) as system:
            await post(system, envelope(subscription(product="no-such", prices=[price("of-no-such")])))
            (parked,) = await system.parked()
            assert parked["reason"].startswith("unknown product no-such in live")
            assert parked["unknown_products"] == ["no-such"]
            system.catalog.write_text(f'{SOLD}\n[ignore]\nproducts.polar.live = ["no-such"]\n')
            async with system.working():
                await until(released, 20)


class TestS86CustomerState:
    """Whoever listens to `customer.state_changed` alone sees every change too."""

    @pytest.mark.parametrize("sold", [SOLD, BY_PRICE])
    async def test_s86_states_alone_give_and_take_the_plan(self, store_url: str, tmp_path: Path, sold: str) -> None:
        async with (
            organization() as polar,
            shop(store_url, tmp_path, sold, **asking(polar)) as system,
            system.tab() as tab,
            system.working(),
        ):
            data = polar.subscriptions[polar.add(seats=4)]
            buyer = data["customer"]
            await post(system, envelope(state(buyer, data), STATE))
            await shown(tab, "pro", status="active")
            assert tab.state["limits"]["seats"] == 4
            polar.change(data["id"], status="past_due")
            await post(system, envelope(state(buyer), STATE))
            await shown(tab, "pro", status="past_due")
            polar.change(data["id"], status="active")
            await post(system, envelope(state(buyer, data), STATE))
            await shown(tab, "pro", status="active")
            polar.change(data["id"], status="canceled", ended_at=at())
            await post(system, envelope(state(buyer), STATE))
            await shown(tab, "free", status="canceled")

    async def test_s86_a_state_without_an_api_key(self, store_url: str, tmp_path: Path) -> None:
        """Products are enough: a state shows no prices. What is missing in it is not taken for canceled."""
        async with shop(store_url, tmp_path) as system, system.tab() as tab:
            buyer = customer(external_id="acme")
            await post(system, envelope(full_state(buyer, subscription(None, units=5)), STATE))
            await shown(tab, "pro")
            assert tab.state["limits"]["seats"] == 5
            await post(system, envelope(state(buyer), STATE))
            await tab.fence()
            assert tab.plan == "pro"

    async def test_s86_a_state_without_quantities_waits_for_what_it_hints_at(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """Without an API key a subscription's own event says it; the states of what is known park nothing."""
        async with shop(store_url, tmp_path) as system, system.tab() as tab:
            data = subscription(seats=5)
            body = envelope(state(data["customer"], data), STATE)
            assert (await post(system, body))["outcome"] == "parked"
            (parked,) = await system.parked()
            assert "set PLANWIRE_POLAR_API_KEYS=live:KEY" in parked["reason"]
            await post(system, envelope(data, "subscription.created"))
            await shown(tab, "pro")
            assert tab.state["limits"]["seats"] == 5
            assert await system.parked() == []
            assert (await post(system, body))["outcome"] == "ignored"
            assert await system.parked() == []

    async def test_s86_two_subscriptions_of_one_customer(self, store_url: str, tmp_path: Path) -> None:
        async with organization() as polar, shop(store_url, tmp_path, **asking(polar)) as system:
            first = polar.subscriptions[polar.add("acme", customer=(buyer := customer()))]
            second = polar.subscriptions[polar.add("globex", "basic", customer=buyer)]
            event_id = str(uuid.uuid4())
            assert (await post(system, envelope(state(buyer, first, second), STATE), event_id))["outcome"] == "applied"
            assert (await system.state("tenant:acme"))["plan"]["key"] == "pro"
            assert (await system.state("tenant:globex"))["plan"]["key"] == "basic"
            again = await post(system, envelope(state(buyer, first, second), STATE), event_id)
            assert again["outcome"] == "duplicate"


class TestS92Purchases:
    """An order without a subscription; `order.refunded` shows the sum of its refunds."""

    SOLD = (
        SOLD
        + f"""
[plans.lifetime]
name = "Lifetime"
rank = 40
purchase = true
products.polar.live = ["{PRODUCTS["audit"]}"]
"""
    )

    def bodies(self, tenant: str) -> list[bytes]:
        """An order that is bought, refunded in part, and refunded as a whole; then the refund of the rest fails."""
        who = customer(tenant)
        order_id, made = str(uuid.uuid4()), at(40)
        bought = order(tenant=tenant, id=order_id, product_id=PRODUCTS["audit"], created_at=made)
        bought |= {"customer": who, "customer_id": who["id"], "items": []}
        part = {"status": "partially_refunded", "refunded_amount": 1000, "refunded_tax_amount": 200}
        whole = {"status": "refunded", "refunded_amount": 2900, "refunded_tax_amount": 580}
        return [
            envelope(bought, "order.paid", 39),
            envelope({**bought, **part, "modified_at": at(30)}, "order.refunded", 29),
            envelope({**bought, **whole, "modified_at": at(20)}, "order.refunded", 19),
            envelope(refund(bought, status="failed", modified_at=at(10)), "refund.updated", 9),
        ]

    async def test_s92_a_purchase_is_granted_until_all_of_it_goes_back(self, store_url: str, tmp_path: Path) -> None:
        async with shop(store_url, tmp_path, self.SOLD) as system, system.tab() as tab:
            bought, part, whole, failed = self.bodies("acme")
            assert (await post(system, bought))["outcome"] == "applied"
            await shown(tab, "lifetime", status="active")
            await post(system, part)
            await tab.fence()
            assert tab.plan == "lifetime"
            await post(system, whole)
            await shown(tab, "free", status="canceled")
            await post(system, failed)
            await shown(tab, "lifetime", status="active")
            assert (await post(system, whole))["outcome"] == "refused"
            assert await system.parked() == []

    @pytest.mark.parametrize(("count", "end"), [(3, ("free", "canceled")), (4, ("lifetime", "active"))])
    async def test_s92_in_any_order(self, store_url: str, tmp_path: Path, count: int, end: tuple[str, str]) -> None:
        async with shop(store_url, tmp_path, self.SOLD) as system:
            for number, places in enumerate(itertools.permutations(range(count))):
                bodies = self.bodies(f"t{number}")
                for place in (*places, places[0]):
                    await post(system, bodies[place])
                found = await system.state(f"tenant:t{number}")
                assert (found["plan"]["key"], found["status"]) == end
            assert await system.parked() == []

    async def test_s92_a_product_that_is_not_sold_so_is_parked_with_the_reason(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with shop(store_url, tmp_path) as system:
            await post(system, self.bodies("acme")[0])
            (parked,) = await system.parked()
            assert PRODUCTS["audit"] in parked["reason"]


async def test_s87_reconcile_and_the_timer_ask_polar(store_url: str, tmp_path: Path) -> None:
    async with organization() as polar, shop(store_url, tmp_path, **asking(polar)) as system, system.tab() as tab:
        data = polar.subscriptions[polar.add(seats=2)]
        await post(system, envelope(data))
        await shown(tab, "pro")
        polar.change(data["id"], seats=9)
        await system.ask("POST", "/v1/tenants/acme/reconcile")
        await tab.until(lambda tab: tab.state["limits"]["seats"] == 9)
        ends = at(-1.5)
        polar.change(data["id"], cancel_at_period_end=True, ends_at=ends, current_period_end=ends)
        await post(system, envelope(data, "subscription.canceled"))
        await tab.until(partial(will, action="cancel"))
        async with system.working():
            polar.change(data["id"], status="canceled", ended_at=ends)
            await shown(tab, "free", status="canceled")
        await until(lambda: len(polar.asked) >= 3)
