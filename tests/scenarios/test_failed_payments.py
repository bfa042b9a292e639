"""What a failed payment shows: beside a newer plan that is paid, and after the catalog has lost the price."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sync.core import instants
from tests.support.cases import CATALOG, post_stripe, run_cases
from tests.support.stripe_bodies import body as stripe_subscription
from tests.support.system import System, Tab, ago, event
from tests.support.wait import until

DAY_S = 86_400
PROVIDERS = pytest.mark.parametrize("provider", ["paddle", "stripe"])
PREFIX = {"paddle": "pri", "stripe": "price"}


async def deliver(
    system: System, provider: str, age_s: float, status: str, plan: str, *, created_s: float = DAY_S, **ids: str
) -> str:
    """The outcome of an event of a subscription to three seats of a plan, which is so many seconds old."""
    tenant, name, price = ids.get("tenant", "acme"), ids.get("id", "sub_1"), f"{PREFIX[provider]}_{plan}_live"
    if provider == "paddle":
        fields: dict[str, Any] = {"customer_id": f"ctm_{tenant}", "created_at": ago(created_s), "items": [(price, 3)]}
        return await system.outcome(event(ago(age_s), tenant=tenant, id=f"{name}_{tenant}", status=status, **fields))
    now_s = int(time.time())
    data = stripe_subscription(id=f"{name}_{tenant}", customer=f"cus_{tenant}", status=status)
    data |= {"metadata": {"tenant_id": tenant}, "created": now_s - int(created_s)}
    data["items"]["data"][0] |= {"price": {"id": price}, "current_period_end": now_s + DAY_S}
    made = {"id": f"evt_{name}_{tenant}_{age_s}", "object": "event", "type": "customer.subscription.updated"}
    answer = await post_stripe(
        system, {**made, "livemode": True, "created": now_s - int(age_s), "data": {"object": data}}
    )
    return str(answer.json()["outcome"])


async def shown(tab: Tab) -> tuple[str, str]:
    await tab.fence()
    return tab.state["plan"]["key"], tab.state["status"]


@PROVIDERS
class TestNewerPaidPlan:
    """Scenario 63."""

    async def test_s63_a_newer_paid_plan_is_shown_before_a_higher_one_that_is_past_due(
        self, provider: str, store_url: str, tmp_path: Path
    ) -> None:
        """In every order of arrival. In its grace the higher plan stays."""
        steps: Sequence[tuple[float, str, str, float, str]] = [
            (300, "active", "pro", 90 * DAY_S, "sub_old"),
            (200, "past_due", "pro", 90 * DAY_S, "sub_old"),
            (100, "active", "basic", DAY_S, "sub_new"),
        ]
        async with run_cases(store_url, tmp_path) as system:
            for number, order in enumerate(itertools.permutations(steps)):
                tenant = f"t{number}"
                async with system.tab(f"tenant:{tenant}") as tab:
                    for age_s, status, plan, created_s, name in order:
                        ids = {"tenant": tenant, "id": name}
                        await deliver(system, provider, age_s, status, plan, created_s=created_s, **ids)
                    assert await shown(tab) == ("pro", "active"), order
                    assert tab.state["limits"] == {"seats": 3, "projects": "unlimited"}
                    assert "grace_ends_at" not in tab.state
                    # What is valid until then is said all the same: the higher plan's grace ends.
                    assert instants.parse(tab.state["valid_until"]) < time.time_ns() + 7 * DAY_S * 10**9

    async def test_s63_an_older_paid_plan_hides_no_failed_payment(
        self, provider: str, store_url: str, tmp_path: Path
    ) -> None:
        async with run_cases(store_url, tmp_path) as system, system.tab() as tab:
            await deliver(system, provider, 300, "active", "basic", created_s=90 * DAY_S, id="sub_basic")
            await deliver(system, provider, 200, "past_due", "pro", created_s=DAY_S, id="sub_pro")
            assert await shown(tab) == ("pro", "past_due")
            assert "grace_ends_at" in tab.state


@PROVIDERS
class TestPriceThatLeftTheCatalog:
    """Scenario 61."""

    async def test_s61_a_failure_and_an_end_take_effect_though_the_catalog_has_lost_the_price(
        self, provider: str, store_url: str, tmp_path: Path
    ) -> None:
        """The plan stays as it was published; a further payment is reported, and used once the price is back."""
        async with run_cases(store_url, tmp_path) as system, system.tab() as tab, system.working():
            await deliver(system, provider, 300, "active", "pro")
            await deliver(system, provider, 300, "active", "pro", tenant="other")
            assert await shown(tab) == ("pro", "active")
            version = tab.version
            price = f"{PREFIX[provider]}_pro_live"
            system.catalog.write_text(CATALOG.replace(price, "removed"))
            tries = itertools.count()

            async def is_removed() -> bool:
                number = next(tries)
                return await deliver(system, provider, 100, "active", "pro", tenant=f"new{number}") == "parked"

            await until(is_removed, 20)
            assert (await shown(tab), tab.version) == (("pro", "active"), version)
            assert await deliver(system, provider, 90, "past_due", "pro") == "applied"
            assert await shown(tab) == ("pro", "past_due")
            assert (tab.state["limits"]["seats"], "grace_ends_at" in tab.state) == (3, True)
            assert await deliver(system, provider, 80, "active", "pro") == "parked"
            assert await shown(tab) == ("pro", "active")
            async with system.tab("tenant:other") as other:
                assert await deliver(system, provider, 80, "canceled", "pro", tenant="other") == "applied"
                assert await shown(other) == ("free", "canceled")
            waiting = {
                entry["topic"]: entry["reason"] for entry in await system.parked() if "new" not in entry["topic"]
            }
            assert waiting == {"tenant:acme": f"unknown price {price} in live"}
            system.catalog.write_text(CATALOG)

            async def is_used() -> bool:
                return await system.parked() == []

            await until(is_used, 20)
            assert await shown(tab) == ("pro", "active")
