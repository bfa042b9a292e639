"""Whose a subscription is: it moves to the tenant of its strongest name, and ends where it is."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import bodies
from tests.support.cases import load, post_stripe, run_cases, send
from tests.support.stripe_bodies import body as stripe_subscription
from tests.support.system import System, ago, event

PRO, BASIC = [("pri_pro_live", 2)], [("pri_basic_live", 2)]
MOVED = "subscription.moved"
ORDERS = list(itertools.permutations(range(3)))


@pytest.fixture
async def system(store_url: str, tmp_path: Path) -> AsyncIterator[System]:
    async with run_cases(store_url, tmp_path) as system:
        yield system


async def shown(system: System, tenant: str) -> tuple[str, str] | None:
    """Plan and status of a tenant; None without a state."""
    state = await system.state(f"tenant:{tenant}")
    return None if state is None else (state["plan"]["key"], state["status"])


async def plan(system: System, tenant: str) -> str | None:
    found = await shown(system, tenant)
    return None if found is None else found[0]


async def moves(system: System, tenant: str) -> list[str]:
    """The reasons of the moves in a tenant's history."""
    return [entry["reason"] for entry in await system.processed(f"tenant:{tenant}") if entry["type"] == MOVED]


def paid(subscription_id: str | None, tenant: str, customer: str = "ctm_1", kind: str = "completed") -> bytes:
    """A paid transaction that names a tenant."""
    data: dict[str, Any] = {"id": "txn_1", "subscription_id": subscription_id, "customer_id": customer}
    data |= {"custom_data": {"tenant_id": tenant}, "status": kind}
    return json.dumps(bodies.envelope(data, event_type=f"transaction.{kind}", occurred_at=ago(30))).encode()


def stripe(kind: str, number: int, data: dict[str, Any], age_s: int) -> dict[str, Any]:
    """A Stripe event `age_s` seconds old."""

    created = int(time.time()) - age_s
    return {"id": f"evt_{number}", "object": "event", "type": kind, "created": created, "livemode": True} | {
        "data": {"object": data}
    }


def sold(subscription_id: str, tenant: str | None, price: str = "price_pro_live", **fields: Any) -> dict[str, Any]:
    """A Stripe subscription."""
    made = stripe_subscription(
        id=subscription_id, metadata={} if tenant is None else {"tenant_id": tenant}, customer="cus_1", **fields
    )
    made["items"]["data"][0]["price"] = {"id": price}
    return made


class TestMoved:
    """Scenario 51."""

    async def test_s51_a_moved_subscription_is_its_new_tenant_s_and_ends_there(self, system: System) -> None:
        """The case of the reports, in order: tabs of both tenants see each step."""
        created, updated, canceled = load("4-moved-subscription")
        async with system.tab("tenant:f4old") as old, system.tab("tenant:f4new") as new:
            assert (await send(system, created)).json()["outcome"] == "applied"
            await old.until(lambda tab: tab.plan == "pro")
            assert (await send(system, updated)).json()["outcome"] == "applied"
            await new.until(lambda tab: tab.plan == "pro")
            await old.until(lambda tab: tab.plan == "free")
            assert (await send(system, canceled)).json()["outcome"] == "applied"
            await new.until(lambda tab: tab.plan == "free")
            await old.fence()
            assert (old.plan, old.state["status"]) == ("free", "none")
            assert new.state["status"] == "canceled"
            assert "f4new" not in json.dumps(old.frames)
            assert "f4old" not in json.dumps(new.frames)
        assert await moves(system, "f4old") == ["sub_f4 moved to tenant:f4new"]
        assert await moves(system, "f4new") == ["sub_f4 moved here from tenant:f4old"]
        assert await system.parked() == []

    async def test_s51_every_order_of_arrival_ends_the_same(self, system: System) -> None:
        ends = set()
        for number, order in enumerate(itertools.permutations(range(4))):
            here, there = f"old{number}", f"new{number}"
            fields: dict[str, Any] = {"id": f"sub_{number}", "customer_id": f"ctm_{number}"}
            history = [
                event(ago(50), tenant=here, items=BASIC, kind="subscription.created", **fields),
                event(ago(40), tenant=there, items=PRO, **fields),
                event(ago(30), tenant=there, items=PRO, status="past_due", **fields),
                event(ago(20), tenant=there, items=BASIC, **fields),
            ]
            await system.tell([history[index] for index in order])
            old, new = await shown(system, here), await shown(system, there)
            # A tenant that only a late event names is never touched.
            ends.add((old in (None, ("free", "none")), new))
        assert ends == {(True, ("basic", "active"))}
        assert await system.parked() == []

    @pytest.mark.parametrize("order", ORDERS)
    async def test_s51_stripe_moves_too_in_any_order(self, system: System, order: tuple[int, ...]) -> None:
        history = [
            stripe("customer.subscription.created", 1, sold("sub_s", "there"), 50),
            stripe("customer.subscription.updated", 2, sold("sub_s", "here"), 40),
            stripe("customer.subscription.deleted", 3, sold("sub_s", "here", status="canceled"), 30),
        ]
        for index in order:
            assert (await post_stripe(system, history[index])).json()["outcome"] in ("applied", "refused")
        assert await shown(system, "here") == ("free", "canceled")
        assert await shown(system, "there") in (None, ("free", "none"))

    @pytest.mark.parametrize("order", ORDERS)
    async def test_s51_stripe_moves_within_one_second_by_what_the_events_say(
        self, system: System, order: tuple[int, ...]
    ) -> None:
        """The ids tell no order: the creation is the first, and what changed the metadata is the last."""
        history = [
            stripe("customer.subscription.created", 9, sold("sub_s", "first"), 50),
            stripe("customer.subscription.updated", 5, sold("sub_s", "first"), 50),
            stripe("customer.subscription.updated", 1, sold("sub_s", "last"), 50),
        ]
        for event_, previous in zip(history, ({}, {"quantity": 1}, {"metadata": {"tenant_id": "first"}}), strict=True):
            event_["created"] = history[0]["created"]
            event_["data"]["previous_attributes"] = previous
        for index in order:
            assert (await post_stripe(system, history[index])).status_code == 200
        assert await shown(system, "last") == ("pro", "active")
        assert await shown(system, "first") in (None, ("free", "none"))

    async def test_s51_it_moves_with_its_scheduled_change_and_back_again(self, system: System) -> None:
        fields: dict[str, Any] = {"id": "sub_1", "customer_id": "ctm_1"}
        period = {"starts_at": ago(86_400), "ends_at": ago(-86_400)}
        await system.apply(event(ago(50), tenant="here", items=PRO, current_billing_period=period, **fields))
        change = {"plan": "basic", "effective_at": ago(-3_600)}
        await system.ask("POST", "/v1/tenants/here/scheduled-change", change)
        await system.apply(event(ago(40), tenant="there", items=PRO, current_billing_period=period, **fields))
        assert (await system.state("tenant:there"))["scheduled"]["plan"] == "basic"
        assert "scheduled" not in await system.state("tenant:here")
        await system.apply(event(ago(30), tenant="here", items=PRO, current_billing_period=period, **fields))
        assert (await system.state("tenant:here"))["scheduled"]["plan"] == "basic"
        assert await shown(system, "there") == ("free", "none")
        assert len(await moves(system, "here")) == len(await moves(system, "there")) == 2

    async def test_s51_an_end_moves_nothing_whoever_it_names(self, system: System) -> None:
        """The end of a held subscription names a stranger, an erased tenant, nobody, and something that is no name."""
        await system.apply(event(ago(90), tenant="gone", items=PRO, id="sub_gone", customer_id="ctm_gone"))
        await system.ask("DELETE", "/v1/tenants/gone", {"reason": "asked for"})
        for number, named in enumerate(("stranger", "gone", None, "undefined")):
            fields: dict[str, Any] = {"id": f"sub_{number}", "customer_id": f"ctm_{number}", "items": PRO}
            await system.apply(event(ago(50), tenant=f"t{number}", **fields))
            async with system.tab(f"tenant:t{number}") as tab:
                await tab.until(lambda tab: tab.plan == "pro")
                await system.apply(event(ago(40), tenant=named, status="canceled", **fields))
                await tab.until(lambda tab: tab.plan == "free")
                assert tab.state["status"] == "canceled"
        assert await shown(system, "stranger") is None

    async def test_s51_other_subscriptions_of_both_tenants_stay(self, system: System) -> None:
        await system.apply(event(ago(60), tenant="here", items=BASIC, id="sub_stays", customer_id="ctm_1"))
        await system.apply(event(ago(60), tenant="there", items=BASIC, id="sub_there", customer_id="ctm_1"))
        await system.apply(event(ago(50), tenant="here", items=PRO, id="sub_goes", customer_id="ctm_1"))
        await system.apply(event(ago(40), tenant="there", items=PRO, id="sub_goes", customer_id="ctm_1"))
        assert (await plan(system, "here"), await plan(system, "there")) == ("basic", "pro")


class TestGuess:
    """Scenario 52."""

    async def test_s52_a_checkout_s_name_moves_what_was_guessed(self, system: System) -> None:
        """The case of the reports: neither tenant keeps the other's plan."""
        first, second, session, deleted = load("2-customer-fallback-leaks")
        async with system.tab("tenant:f2a") as a, system.tab("tenant:f2b") as b:
            await send(system, first)
            await a.until(lambda tab: tab.plan == "basic")
            await send(system, second)
            assert (await send(system, session)).json()["outcome"] == "applied"
            await b.until(lambda tab: tab.plan == "pro")
            await a.until(lambda tab: tab.plan == "basic")
            await send(system, deleted)
            await b.until(lambda tab: tab.plan == "free")
            await a.fence()
            assert a.plan == "basic"

    @pytest.mark.parametrize("order", ORDERS)
    async def test_s52_whatever_comes_first_each_tenant_has_its_own(
        self, system: System, order: tuple[int, ...]
    ) -> None:
        """The unnamed subscription, its transaction and its end, after the other tenant's purchase. Paddle."""
        fields: dict[str, Any] = {"id": "sub_b", "customer_id": "ctm_1", "items": PRO}
        await system.apply(event(ago(90), tenant="a", items=BASIC, id="sub_a", customer_id="ctm_1"))
        history = [event(ago(50), tenant=None, **fields), paid("sub_b", "b")]
        history.append(event(ago(20), tenant=None, status="canceled", **fields))
        await system.tell([history[index] for index in order])
        assert await shown(system, "a") == ("basic", "active")
        assert await shown(system, "b") == ("free", "canceled")
        assert await system.parked() == []

    async def test_s52_metadata_that_is_added_later_moves_a_guess(self, system: System) -> None:
        """As the documentation of the backfill tells people to do it."""
        await post_stripe(
            system, stripe("customer.subscription.created", 1, sold("sub_a", "a", "price_basic_live"), 90)
        )
        await post_stripe(system, stripe("customer.subscription.created", 2, sold("sub_b", None), 50))
        assert await plan(system, "a") == "pro"
        await post_stripe(system, stripe("customer.subscription.updated", 3, sold("sub_b", "b"), 40))
        assert (await plan(system, "a"), await plan(system, "b")) == ("basic", "pro")

    async def test_s52_a_customer_pays_for_where_its_subscriptions_are(self, system: System) -> None:
        """Its subscription moved to another tenant, or to another customer: the old tenant is not guessed any more."""
        await system.apply(event(ago(90), tenant="a", items=PRO, id="sub_1", customer_id="ctm_1"))
        await system.apply(event(ago(80), tenant="b", items=PRO, id="sub_1", customer_id="ctm_1"))
        await system.apply(event(ago(70), tenant=None, items=BASIC, id="sub_2", customer_id="ctm_1"))
        assert len((await system.ask("GET", "/v1/tenants/b/status"))["store"]["subscriptions"]) == 2
        await system.apply(event(ago(60), tenant="c", items=PRO, id="sub_3", customer_id="ctm_3"))
        await system.apply(event(ago(50), tenant="c", items=PRO, id="sub_3", customer_id="ctm_4"))
        assert await system.outcome(event(ago(40), tenant=None, items=PRO, id="sub_4", customer_id="ctm_3")) == "parked"


class TestAmbiguous:
    """Scenario 53."""

    async def test_s53_an_ambiguous_guess_waits_until_it_is_named(self, system: System) -> None:
        await system.apply(event(ago(90), tenant="a", items=BASIC, id="sub_a", customer_id="ctm_1"))
        await system.apply(event(ago(80), tenant="b", items=BASIC, id="sub_b", customer_id="ctm_1"))
        async with system.tab("tenant:b") as tab:
            await tab.until(lambda tab: tab.plan == "basic")
            fields: dict[str, Any] = {"id": "sub_x", "customer_id": "ctm_1", "items": PRO}
            assert await system.outcome(event(ago(50), tenant=None, **fields)) == "parked"
            (waiting,) = await system.parked()
            assert "its customer ctm_1 pays for a and b" in waiting["reason"]
            assert (await plan(system, "a"), await plan(system, "b")) == ("basic", "basic")
            await system.outcome(paid("sub_x", "b"))
            await tab.until(lambda tab: tab.plan == "pro")
        assert await system.parked() == []
        assert await plan(system, "a") == "basic"

    async def test_s53_a_checkout_paid_a_moment_ago_for_another_tenant_makes_it_ambiguous(self, system: System) -> None:
        """Paddle sends the paid transaction before the subscription, without its id."""
        await system.apply(event(ago(90), tenant="a", items=BASIC, id="sub_a", customer_id="ctm_1"))
        assert await system.outcome(paid(None, "b", kind="paid")) == "ignored"
        fields: dict[str, Any] = {"id": "sub_x", "customer_id": "ctm_1", "items": PRO}
        assert await system.outcome(event(ago(50), tenant=None, **fields)) == "parked"
        await system.outcome(paid("sub_x", "b"))
        assert (await plan(system, "a"), await plan(system, "b")) == ("basic", "pro")
        assert await system.parked() == []

    async def test_s53_a_stripe_customer_of_two_tenants(self, system: System) -> None:
        sessions = [{"object": "checkout.session", "customer": "cus_1", "client_reference_id": "b", "mode": "setup"}]
        await post_stripe(
            system, stripe("customer.subscription.created", 1, sold("sub_a", "a", "price_basic_live"), 90)
        )
        await post_stripe(system, stripe("checkout.session.completed", 2, sessions[0], 60))
        unnamed = await post_stripe(system, stripe("customer.subscription.created", 3, sold("sub_x", None), 50))
        assert unnamed.json()["outcome"] == "parked"
        await post_stripe(system, stripe("customer.subscription.updated", 4, sold("sub_x", "b"), 40))
        assert (await plan(system, "a"), await plan(system, "b")) == ("basic", "pro")
        assert await system.parked() == []
