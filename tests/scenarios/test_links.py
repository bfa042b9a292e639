"""What names a subscription's tenant before its first event: an operator's link, and the checkout that made it."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from planwire_client import tenant_reference
from tests.support import bodies
from tests.support.cases import post_stripe, run_cases
from tests.support.stripe_bodies import body as stripe_subscription
from tests.support.system import System, ago, event

PRO, BASIC = [("pri_pro_live", 2)], [("pri_basic_live", 2)]


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


def transaction(
    number: int, tenant: str | None, age_s: float, kind: str = "paid", subscription: str | None = None
) -> bytes:
    """A checkout's transaction, which has no subscription yet when it is paid."""
    custom_data = None if tenant is None else {"tenant_id": tenant}
    data = {"id": f"txn_{number}", "customer_id": "ctm_1", "subscription_id": subscription, "custom_data": custom_data}
    about = {"event_type": f"transaction.{kind}", "occurred_at": ago(age_s), "event_id": f"evt_txn_{number}_{kind}"}
    return json.dumps(bodies.envelope(data, **about)).encode()


class TestCheckoutThatMadeIt:
    """Scenario 52: `subscription.created` has the id of its transaction."""

    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    async def test_s52_the_transaction_names_the_subscription_that_it_made(
        self, order: tuple[int, ...], system: System
    ) -> None:
        """Its customer pays for another tenant, and for a third one at the same time. Nothing is guessed in the end."""
        await system.apply(event(ago(90), tenant="a", items=BASIC, id="sub_a", customer_id="ctm_1"))
        await system.outcome(transaction(3, "c", 80))
        made: dict[str, Any] = {"tenant": None, "id": "sub_b", "customer_id": "ctm_1", "items": PRO}
        history = [
            transaction(2, "b", 70),
            event(ago(60), kind="subscription.created", transaction_id="txn_2", **made),
            event(ago(50), **made, status="past_due"),
        ]
        for index in order:
            await system.outcome(history[index])
        state = await system.state("tenant:b")
        assert (state["plan"]["key"], state["status"]) == ("pro", "past_due")
        assert (await plan(system, "a"), await plan(system, "c")) == ("basic", None)
        assert await system.parked() == []
        (held,) = (await system.ask("GET", "/v1/tenants/b/links"))["links"]
        assert (held["named_by"], held["names"]["checkout"]) == ("checkout", "b")

    async def test_s52_the_subscription_s_own_metadata_is_stronger(self, system: System) -> None:
        await system.outcome(transaction(1, "b", 70))
        fields: dict[str, Any] = {"id": "sub_1", "customer_id": "ctm_1", "items": PRO, "transaction_id": "txn_1"}
        await system.apply(event(ago(60), tenant="a", kind="subscription.created", **fields))
        assert (await plan(system, "a"), await plan(system, "b")) == ("pro", None)

    async def test_s52_a_transaction_without_a_name_and_a_malformed_id_change_nothing(self, system: System) -> None:
        await system.outcome(transaction(1, None, 70))
        fields: dict[str, Any] = {"tenant": None, "customer_id": "ctm_1", "items": PRO, "kind": "subscription.created"}
        for number, id in enumerate(("txn_1", "txn_unknown", "", 7, None)):
            body = event(ago(60), id=f"sub_{number}", transaction_id=id, **fields)
            assert await system.outcome(body) == "parked"
        await system.outcome(transaction(1, None, 50, "completed", "sub_0"))
        assert len(await system.parked()) == 5

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    async def test_s52_a_signed_reference_of_the_transaction_vouches(
        self, order: tuple[int, int], store_url: str, tmp_path: Path
    ) -> None:
        """The subscription of a second customer leads, since the tenant is beyond doubt."""
        secret = "a-secret-of-tenants-for-tests-0123456789"
        async with run_cases(store_url, tmp_path, TENANT_SECRET=secret) as system:
            await system.apply(event(ago(90), tenant="a", items=PRO, id="sub_a", status="past_due"))
            fields: dict[str, Any] = {"tenant": None, "id": "sub_b", "customer_id": "ctm_1", "items": PRO}
            history = [
                transaction(1, tenant_reference(secret, "a"), 70),
                event(ago(60), kind="subscription.created", transaction_id="txn_1", **fields),
            ]
            for index in order:
                await system.outcome(history[index])
            state = await system.state("tenant:a")
            assert (state["plan"]["key"], state["status"]) == ("pro", "active")
