"""What names a subscription's tenant before its first event: an operator's link, and the checkout that made it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.cases import post_stripe, run_cases
from tests.support.stripe_bodies import body as stripe_subscription
from tests.support.system import System, ago, event

PRO = [("pri_pro_live", 2)]


@pytest.fixture
async def system(store_url: str, tmp_path: Path) -> AsyncIterator[System]:
    async with run_cases(store_url, tmp_path) as system:
        yield system


async def deliver(system: System, provider: str, age_s: float, tenant: str | None, name: str = "sub_1") -> str:
    """The outcome of an event of a subscription that is active."""
    if provider == "paddle":
        return await system.outcome(event(ago(age_s), tenant=tenant, id=name, customer_id="ctm_1", items=PRO))
    data = stripe_subscription(id=name, customer="cus_1", metadata={"tenant_id": tenant} if tenant else {})
    data["items"]["data"][0]["price"] = {"id": "price_pro_live"}
    made = {"id": f"evt_{name}_{age_s}", "object": "event", "type": "customer.subscription.updated", "livemode": True}
    answer = await post_stripe(system, made | {"created": int(time.time() - age_s), "data": {"object": data}})
    return str(answer.json()["outcome"])


async def link(system: System, subscription: str, tenant: str) -> None:
    asked = {"subscription": subscription, "tenant": tenant, "reason": "told by mail"}
    await system.ask("POST", "/v1/links", asked)


async def plan(system: System, tenant: str) -> str | None:
    state = await system.state(f"tenant:{tenant}")
    return None if state is None else str(state["plan"]["key"])


@pytest.mark.parametrize("provider", ["paddle", "stripe"])
class TestLinkedBefore:
    """Scenario 57."""

    async def test_s57_a_link_from_before_any_event_holds_until_the_metadata_changes(
        self, provider: str, system: System
    ) -> None:
        await link(system, f"{provider}:sub_1", "acme")
        async with system.tab() as tab:
            for age_s in (90, 60):  # before the link, by its own time
                assert await deliver(system, provider, age_s, "named") == "applied"
            await tab.until(lambda tab: tab.plan == "pro")
            assert await plan(system, "named") is None
            (held,) = (await system.ask("GET", "/v1/tenants/acme/links"))["links"]
            assert (held["named_by"], held["overrules"]) == ("operator", "named")
            assert await deliver(system, provider, -3, "third") == "applied"
            await tab.until(lambda tab: tab.plan == "free")
        assert (await plan(system, "third"), await plan(system, "named")) == ("pro", None)

    async def test_s57_metadata_that_is_known_to_name_nobody_may_name_a_tenant_later(
        self, provider: str, system: System
    ) -> None:
        assert await deliver(system, provider, 60, None) == "parked"
        await link(system, f"{provider}:sub_1", "acme")
        assert (await plan(system, "acme"), await system.parked()) == ("pro", [])
        assert await deliver(system, provider, -3, "named") == "applied"
        assert (await plan(system, "acme"), await plan(system, "named")) == ("free", "pro")
