"""One-time purchases and what goes back of them: lifetime plans, add-ons for a year, refunds and chargebacks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.test_items import seen
from tests.support.bodies import envelope
from tests.support.cases import CATALOG, load, run_cases, send
from tests.support.system import System, ago, event
from tests.support.wait import until

SOLD = CATALOG.replace('name = "Lifetime"\n', 'name = "Lifetime"\npurchase = true\n').replace(
    'name = "Audit log"\n', 'name = "Audit log"\npurchase = true\nexpires = "365d"\n'
)


def transaction(
    ago_s: int, *prices: str, tenant: str | None = "acme", kind: str = "completed", **fields: Any
) -> dict[str, Any]:
    """A paid transaction of Paddle, of 19.00 USD for each price."""
    at = ago(ago_s)
    items = [
        {
            "price": {"id": price, "billing_cycle": None, "unit_price": {"amount": "1900", "currency_code": "USD"}},
            "quantity": 1,
        }
        for price in prices
    ]
    data = {
        "id": f"txn_{tenant}",
        "status": kind,
        "customer_id": f"ctm_{tenant}",
        "subscription_id": None,
        "custom_data": None if tenant is None else {"tenant_id": tenant},
        "currency_code": "USD",
        "items": items,
        "details": {"totals": {"total": str(1900 * len(items)), "grand_total": str(1900 * len(items))}},
        "created_at": at,
        "billed_at": at,
        "updated_at": at,
        **fields,
    }
    return envelope(data, event_type=f"transaction.{kind}", occurred_at=at)


def adjustment(ago_s: int, amount: int, *, tenant: str = "acme", made_s: int = 0, **fields: Any) -> dict[str, Any]:
    """An adjustment of Paddle for a tenant's transaction: an approved refund, unless told otherwise."""
    at = ago(ago_s)
    data = {
        "id": "adj_1",
        "action": "refund",
        "type": "partial",
        "transaction_id": f"txn_{tenant}",
        "subscription_id": None,
        "customer_id": f"ctm_{tenant}",
        "currency_code": "USD",
        "status": "approved",
        "items": [],
        "totals": {"subtotal": str(amount), "tax": "0", "total": str(amount), "currency_code": "USD"},
        "created_at": ago(made_s or ago_s),
        "updated_at": at,
        **fields,
    }
    return envelope(data, event_type="adjustment.updated", occurred_at=at)


async def tell(system: System, bodies: Sequence[dict[str, Any]]) -> list[str]:
    """The outcomes of Paddle's webhooks in this order."""
    return [await system.outcome(json.dumps(body).encode()) for body in bodies]


async def none_parked(system: System) -> bool:
    return not await system.parked()


class TestPurchases:
    """Scenario 75."""

    async def test_s77_a_lifetime_plan_is_granted(self, store_url: str, tmp_path: Path) -> None:
        """The case, with `purchase = true` in the catalog."""
        (bought,) = load("5-lifetime")
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system, system.tab("tenant:f5") as tab:
            assert (await send(system, bought)).json()["outcome"] == "applied"
            assert await seen(tab) == ("lifetime", "active")
            assert tab.state["limits"] == {"seats": 5}
            assert "period" not in tab.state
            assert (await send(system, bought)).json()["outcome"] == "duplicate"
            assert await system.parked() == []

    async def test_s77_without_such_an_entry_it_is_parked_and_used_once_there_is_one(
        self, store_url: str, tmp_path: Path
    ) -> None:
        (bought,) = load("5-lifetime")
        async with run_cases(store_url, tmp_path) as system, system.tab("tenant:f5") as tab:
            assert (await send(system, bought)).json()["outcome"] == "parked"
            (parked,) = await system.parked()
            reason = "unknown price pri_lifetime_live in live; lifetime has pri_lifetime_live, but not purchase = true"
            assert parked["reason"] == reason
            system.catalog.write_text(SOLD)
            async with system.working():
                await tab.until(lambda tab: tab.plan == "lifetime", 30)
                await until(lambda: none_parked(system), 20)

    async def test_s77_a_purchase_that_names_nobody_and_is_not_sold_is_other_business(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system:
            book, life = transaction(60, "pri_book", tenant=None), transaction(60, "pri_lifetime_live", tenant=None)
            assert await tell(system, [book, life]) == ["ignored", "parked"]
            (parked,) = await system.parked()
            assert parked["reason"].startswith("no tenant is known for txn_None")

    async def test_s77_paid_and_completed_are_one_purchase_in_any_order(self, store_url: str, tmp_path: Path) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system:
            for number, order in enumerate(itertools.permutations(range(3))):
                tenant = f"t{number}"
                bodies = [
                    json.loads(event(ago(300), tenant=tenant, items=[("pri_pro_live", 2)])),
                    transaction(200, "pri_audit_live", tenant=tenant, kind="paid"),
                    transaction(190, "pri_audit_live", tenant=tenant),
                ]
                async with system.tab(f"tenant:{tenant}") as tab:
                    await tell(system, [bodies[index] for index in order])
                    assert await seen(tab) == ("pro", "active")
                    assert (tab.state["limits"]["exports"], tab.state["features"]["audit"]) == (100, True)
                    assert tab.state["valid_until"] > ago(-364 * 86_400)

    async def test_s77_a_purchase_that_expires_ends_by_itself(self, store_url: str, tmp_path: Path) -> None:
        catalog = SOLD.replace('expires = "365d"', 'expires = "62s"')
        async with run_cases(store_url, tmp_path, catalog=catalog) as system, system.working(), system.tab() as tab:
            assert await tell(system, [transaction(60, "pri_audit_live")]) == ["applied"]
            await tab.until(lambda tab: tab.state and "audit" in tab.state["features"])
            await tab.until(lambda tab: "audit" not in tab.state["features"], 30)
            assert tab.state["status"] == "canceled"


class TestRefunds:
    """Scenario 76."""

    @pytest.mark.parametrize("action", ["refund", "chargeback"])
    async def test_s78_what_covers_the_whole_payment_takes_it_back_in_any_order(
        self, action: str, store_url: str, tmp_path: Path
    ) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system:
            for number, order in enumerate(itertools.permutations(range(3))):
                tenant = f"t{number}"
                bodies = [
                    transaction(300, "pri_lifetime_live", tenant=tenant),
                    adjustment(200, 500, tenant=tenant, id="adj_part"),
                    adjustment(100, 1400, tenant=tenant, action=action),
                ]
                async with system.tab(f"tenant:{tenant}") as tab:
                    await tell(system, [bodies[index] for index in order])
                    assert await seen(tab) == ("free", "canceled")
            assert await system.parked() == []

    async def test_s78_a_part_is_noted_and_takes_nothing(self, store_url: str, tmp_path: Path) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system, system.tab() as tab:
            pending = adjustment(200, 1900, status="pending_approval", made_s=200)
            rejected = adjustment(150, 1900, status="rejected", made_s=200)
            part = adjustment(100, 500, id="adj_2")
            warning = adjustment(90, 1900, id="adj_3", action="chargeback_warning")
            bodies = [transaction(300, "pri_lifetime_live"), pending, rejected, part, warning]
            assert await tell(system, bodies) == ["applied", "applied", "applied", "applied", "ignored"]
            assert await seen(tab) == ("lifetime", "active")
            assert len(tab.shown) <= 2
            noted = [entry["reason"] for entry in await system.processed() if entry["type"] == "adjustment.updated"]
            assert noted[-1] == "refund of 500 USD: a part of what was paid"

    async def test_s78_a_won_chargeback_gives_it_back(self, store_url: str, tmp_path: Path) -> None:
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system, system.tab() as tab:
            lost = adjustment(200, 1900, action="chargeback")
            await tell(system, [transaction(300, "pri_lifetime_live"), lost])
            assert await seen(tab) == ("free", "canceled")
            won = adjustment(100, 1900, action="chargeback_reverse", id="adj_2")
            await tell(system, [won, adjustment(90, 1900, action="chargeback", status="reversed", made_s=200)])
            assert await seen(tab) == ("lifetime", "active")

    @pytest.mark.parametrize(("policy", "expected"), [("keep", ("pro", "active")), ("revoke", ("free", "unpaid"))])
    async def test_s78_the_policy_decides_about_subscriptions(
        self, policy: str, expected: tuple[str, str], store_url: str, tmp_path: Path
    ) -> None:
        catalog = SOLD.replace("[policy]\n", f'[policy]\nrefund = "{policy}"\n')
        async with run_cases(store_url, tmp_path, catalog=catalog) as system, system.tab() as tab:
            period: dict[str, Any] = {"current_billing_period": {"starts_at": ago(3600), "ends_at": ago(-86_400)}}
            own = json.loads(event(ago(3600), items=[("pri_pro_live", 3)], **period))
            back = adjustment(60, 5700, type="full", subscription_id="sub_acme")
            assert await tell(system, [own, back]) == ["applied", "applied"]
            assert await seen(tab) == expected
            renewed: dict[str, Any] = {"current_billing_period": {"starts_at": ago(30), "ends_at": ago(-86_400)}}
            await tell(system, [json.loads(event(ago(30), items=[("pri_pro_live", 3)], **renewed))])
            assert await seen(tab) == ("pro", "active")

    async def test_s78_a_refund_of_what_no_tenant_bought_is_ignored_with_its_reason(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with run_cases(store_url, tmp_path) as system:
            assert await tell(system, [adjustment(60, 1900, tenant="stranger")]) == ["ignored"]
        async with run_cases(store_url, tmp_path, catalog=SOLD) as system:
            assert await tell(system, [adjustment(50, 1900, tenant="stranger")]) == ["parked"]
