"""What a subscription's items and its status give: unknown prices, quantity 0, and a word for each status."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.cases import CATALOG, load, post_stripe, run_cases, send
from tests.support.system import System, Tab, ago, event
from tests.support.wait import until

PERIOD_S = 30 * 86_400


def stripe_event(status: str, ago_s: int, *, tenant: str = "acme", quantity: int = 1, **fields: Any) -> dict[str, Any]:
    """A `customer.subscription.updated` that occurred `ago_s` seconds ago; `items` are (price, quantity) pairs."""
    now_s = int(time.time())
    items = fields.pop("items", [("price_pro_live", quantity)])
    data = {
        "id": fields.pop("id", f"sub_{tenant}"),
        "object": "subscription",
        "status": status,
        "customer": f"cus_{tenant}",
        "metadata": {"tenant_id": tenant},
        "cancel_at": None,
        "cancel_at_period_end": False,
        "trial_end": None,
        "pause_collection": None,
        "items": {
            "object": "list",
            "has_more": False,
            "data": [
                {
                    "id": f"si_{price}",
                    "price": {"id": price},
                    "quantity": number,
                    "current_period_start": now_s - 100,
                    "current_period_end": now_s + PERIOD_S,
                }
                for price, number in items
            ],
        },
        **fields,
    }
    return {
        "id": f"evt_{tenant}_{status}_{ago_s}",
        "object": "event",
        "type": "customer.subscription.updated",
        "created": now_s - ago_s,
        "livemode": True,
        "data": {"object": data},
    }


async def outcome(system: System, body: bytes | dict[str, Any]) -> str:
    """The outcome of a webhook of either provider, which must be answered 200."""
    if isinstance(body, bytes):
        return await system.outcome(body)
    answer = await post_stripe(system, body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["outcome"])


async def seen(tab: Tab) -> tuple[str, str]:
    """The plan and the status that the tab shows once everything committed has reached it."""
    await tab.fence()
    return tab.state["plan"]["key"], tab.state["status"]


class TestUnknownItems:
    """Scenario 61."""

    async def test_s61_a_negotiated_extra_item_is_reported_and_the_known_ones_count(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """The case: five seats of Pro with an unknown item, and a purchase of which nothing is known."""
        first, second = load("7-custom-price")
        async with run_cases(store_url, tmp_path) as system, system.tab("tenant:f7") as tab:
            async with system.tab("tenant:f7b") as other:
                assert (await send(system, first)).json()["outcome"] == "applied"
                assert (await send(system, second)).json()["outcome"] == "parked"
                assert await seen(tab) == ("pro", "active")
                assert tab.state["limits"]["seats"] == 5
                await other.fence()
                assert (other.version, other.state) == (0, None)
            reasons = {entry["event_id"]: entry["reason"] for entry in await system.parked()}
            assert reasons == {
                first["event"]["event_id"]: "unknown price pri_support_plan in live",
                second["event"]["event_id"]: "unknown price pri_01kcustom0000000000000001 in live",
            }

    @pytest.mark.parametrize("provider", ["paddle", "stripe"])
    async def test_s61_a_payment_failure_and_an_end_are_not_parked_with_an_unknown_price(
        self, provider: str, store_url: str, tmp_path: Path
    ) -> None:
        """In every order of arrival. What was granted before the unknown price stays until the subscription ends."""
        prices = {"paddle": ("pri_pro_live", "pri_deal"), "stripe": ("price_pro_live", "price_deal")}[provider]

        def history(tenant: str) -> list[bytes | dict[str, Any]]:
            known, deal = ([(price, 4)] for price in prices)
            steps = [("active", 400, known), ("active", 300, deal), ("past_due", 200, deal), ("active", 100, deal)]
            if provider == "stripe":
                return [stripe_event(status, at, tenant=tenant, items=items) for status, at, items in steps]
            return [event(ago(at), tenant=tenant, status=status, items=items) for status, at, items in steps]

        async with run_cases(store_url, tmp_path) as system:
            async with system.tab() as tab:
                for body, expected in zip(history("acme"), ["active", "active", "past_due", "active"], strict=True):
                    await outcome(system, body)
                    assert await seen(tab) == ("pro", expected)
                    assert tab.state["limits"]["seats"] == 4
                parked = {entry["type"] for entry in await system.parked()}
                assert parked == {"customer.subscription.updated" if provider == "stripe" else "subscription.updated"}
            for number, order in enumerate(itertools.permutations(range(4))):
                tenant = f"t{number}"
                bodies = history(tenant)
                async with system.tab(f"tenant:{tenant}") as tab:
                    for index in order:
                        await outcome(system, bodies[index])
                    assert await seen(tab) == ("pro", "active"), order
                    assert tab.state["limits"]["seats"] == 4
                    ended = (
                        stripe_event("canceled", 50, tenant=tenant, items=[(prices[1], 4)])
                        if provider == "stripe"
                        else event(ago(50), tenant=tenant, status="canceled", items=[(prices[1], 4)])
                    )
                    assert await outcome(system, ended) == "applied"
                    assert await seen(tab) == ("free", "canceled")
            assert [entry["topic"] for entry in await system.parked()] == ["tenant:acme"]

    async def test_s61_a_note_is_one_per_unknown_price_and_goes_when_the_item_goes(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """Later events with the same items add none. A retry before the catalog has the price keeps it."""
        items = [("pri_pro_live", 1), ("pri_extra", 1)]
        async with run_cases(store_url, tmp_path) as system, system.tab() as tab:
            for at in (400, 300, 200):
                assert await outcome(system, event(ago(at), event_id=f"evt_{at}", items=items)) == "applied"
            assert [entry["event_id"] for entry in await system.parked()] == ["evt_400"]
            retried = await system.http.post("/v1/parked/evt_400/retry", headers=system.key)
            assert retried.json()["outcome"] == "parked"
            assert len(await system.parked()) == 1
            assert (await system.state())["plan"]["key"] == "pro"
            assert await outcome(system, event(ago(100), items=[("pri_pro_live", 2)])) == "applied"
            assert await seen(tab) == ("pro", "active")
            assert await system.parked() == []

    async def test_s61_an_unknown_plan_beside_a_known_add_on_keeps_the_plan(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with run_cases(store_url, tmp_path) as system, system.tab() as tab:
            await outcome(system, stripe_event("active", 300, quantity=7))
            await outcome(system, stripe_event("active", 200, items=[("price_deal", 9), ("price_audit_live", 1)]))
            assert await seen(tab) == ("pro", "active")
            assert (tab.state["limits"]["seats"], tab.state["features"]["audit"]) == (7, True)

    async def test_s61_the_note_is_used_and_gone_once_the_catalog_has_the_price(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """By the worker, after an edit of the catalog."""
        async with run_cases(store_url, tmp_path) as system, system.tab() as tab, system.working():
            await outcome(system, event(ago(200), items=[("pri_basic_live", 1), ("pri_extra", 1)]))
            assert await seen(tab) == ("basic", "active")
            system.catalog.write_text(CATALOG.replace('["pri_audit_live"]', '["pri_audit_live", "pri_extra"]'))
            await tab.until(lambda tab: "audit" in tab.state["features"], timeout_s=20)
            await tab.until(lambda tab: tab.state["limits"].get("exports") == 100)

            async def is_done() -> bool:
                return await system.parked() == []

            await until(is_done, 20)

    async def test_s61_a_price_of_the_other_environment_is_named_as_such(self, store_url: str, tmp_path: Path) -> None:
        async with run_cases(store_url, tmp_path) as system:
            assert await outcome(system, event(ago(200), items=[("pri_pro_sbx", 1)])) == "parked"
            assert (
                await outcome(system, stripe_event("active", 100, tenant="b", items=[("price_pro_sbx", 1)])) == "parked"
            )
            assert [entry["reason"] for entry in await system.parked()] == [
                "unknown price pri_pro_sbx in live; the catalog has pri_pro_sbx for sandbox",
                "unknown price price_pro_sbx in live; the catalog has price_pro_sbx for sandbox",
            ]


class TestQuantityZero:
    """Scenario 62."""

    async def test_s62_an_add_on_of_quantity_0_is_not_granted(self, store_url: str, tmp_path: Path) -> None:
        """The case of Stripe; and the same of Paddle, also of a plan."""
        (delivery,) = load("9-quantity-0")
        async with run_cases(store_url, tmp_path) as system, system.tab("tenant:f9") as tab:
            assert (await send(system, delivery)).json()["outcome"] == "applied"
            assert await seen(tab) == ("pro", "active")
            assert tab.state["limits"] == {"seats": 4, "projects": "unlimited"}
            assert "audit" not in tab.state["features"]

    @pytest.mark.parametrize(
        ("items", "plan", "audit"),
        [
            ([("pri_pro_live", 0), ("pri_audit_live", 1)], "free", True),
            ([("pri_pro_live", 0), ("pri_basic_live", 2), ("pri_audit_live", 0)], "basic", False),
            ([("pri_basic_live", 1), ("pri_nobody_knows", 0)], "basic", False),
            ([("pri_pro_live", 0)], "free", False),
        ],
    )
    async def test_s62_no_item_of_quantity_0_counts(
        self, items: Sequence[tuple[str, int]], plan: str, audit: bool, store_url: str, tmp_path: Path
    ) -> None:
        async with run_cases(store_url, tmp_path) as system, system.tab() as tab:
            assert await outcome(system, event(ago(100), items=items)) == "applied"
            assert await seen(tab) == (plan, "active")
            assert ("audit" in tab.state["features"]) is audit
            assert await system.parked() == []


class TestStatuses:
    """Scenario 63."""

    async def test_s63_each_status_has_its_own_word(self, store_url: str, tmp_path: Path) -> None:
        expected = {
            "incomplete": ("free", "incomplete"),
            "incomplete_expired": ("free", "none"),
            "trialing": ("pro", "trialing"),
            "active": ("pro", "active"),
            "past_due": ("pro", "past_due"),
            "unpaid": ("free", "unpaid"),
            "paused": ("free", "paused"),
            "canceled": ("free", "canceled"),
        }
        async with run_cases(store_url, tmp_path) as system:
            for status, shown in expected.items():
                async with system.tab(f"tenant:{status}") as tab:
                    assert await outcome(system, stripe_event(status, 100, tenant=status)) == "applied"
                    assert await seen(tab) == shown

    async def test_s63_somebody_who_is_just_paying_sees_incomplete_and_then_the_plan(
        self, store_url: str, tmp_path: Path
    ) -> None:
        """Also somebody who canceled before, and one whose earlier payment failed."""
        async with run_cases(store_url, tmp_path) as system:
            for before in ("", "canceled", "unpaid", "paused"):
                tenant = f"after-{before or 'nothing'}"
                async with system.tab(f"tenant:{tenant}") as tab:
                    if before:
                        await outcome(system, stripe_event(before, 300, tenant=tenant, id=f"sub_old_{tenant}"))
                    await outcome(system, stripe_event("incomplete", 200, tenant=tenant))
                    assert await seen(tab) == ("free", "incomplete")
                    await outcome(system, stripe_event("active", 100, tenant=tenant))
                    assert await seen(tab) == ("pro", "active")

    async def test_s63_an_abandoned_checkout_leaves_what_was_there(self, store_url: str, tmp_path: Path) -> None:
        async with run_cases(store_url, tmp_path) as system, system.tab() as tab:
            await outcome(system, stripe_event("active", 300, quantity=3))
            await outcome(system, stripe_event("incomplete", 200, id="sub_second"))
            assert await seen(tab) == ("pro", "active")
            await outcome(system, stripe_event("incomplete_expired", 100, id="sub_second"))
            assert await seen(tab) == ("pro", "active")
            await outcome(system, stripe_event("canceled", 50))
            assert await seen(tab) == ("free", "canceled")

    @pytest.mark.parametrize(
        ("behavior", "plan"), [("void", "free"), ("mark_uncollectible", "pro"), ("keep_as_draft", "pro")]
    )
    async def test_s63_a_paused_collection_is_shown_as_paused(
        self, behavior: str, plan: str, store_url: str, tmp_path: Path
    ) -> None:
        """With `void` the service is not provided; with the others it is provided for nothing, or for now."""
        resumes_s = int(time.time()) + 3600
        async with run_cases(store_url, tmp_path) as system, system.tab() as tab:
            await outcome(system, stripe_event("active", 300))
            paused = {"behavior": behavior, "resumes_at": resumes_s}
            await outcome(system, stripe_event("active", 200, pause_collection=paused))
            assert await seen(tab) == (plan, "paused")
            assert tab.state["scheduled"]["action"] == "resume"
            await outcome(system, stripe_event("active", 100))
            assert await seen(tab) == ("pro", "active")
            assert "scheduled" not in tab.state

    @pytest.mark.parametrize("first", ["old", "new"])
    async def test_s63_a_paid_subscription_is_shown_before_an_older_one_that_is_past_due(
        self, first: str, store_url: str, tmp_path: Path
    ) -> None:
        """Though it has fewer seats. In its grace the old one still gives its seats."""
        old = event(ago(300), status="past_due", id="sub_old", items=[("pri_pro_live", 9)])
        new = event(ago(100), status="active", id="sub_new", items=[("pri_pro_live", 2)])
        async with run_cases(store_url, tmp_path) as system, system.tab() as tab:
            for body in (old, new) if first == "old" else (new, old):
                await outcome(system, body)
            assert await seen(tab) == ("pro", "active")
            assert tab.state["limits"]["seats"] == 9
            assert "grace_ends_at" not in tab.state
            await outcome(system, event(ago(50), status="canceled", id="sub_old", items=[("pri_pro_live", 9)]))
            assert await seen(tab) == ("pro", "active")
            assert tab.state["limits"]["seats"] == 2
