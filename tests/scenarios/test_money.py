"""Money in a preview: what the provider quotes, what the caller expects, and what is billed in the end."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sync.core import instants
from tests.support.cases import post_stripe, run_cases
from tests.support.stripe import KEY, Stripe, account
from tests.support.system import CATALOG, Seller, System, run_system, selling

PATH = "/v1/tenants/acme/preview"
CHANGE = {"plan": "pro", "billing_mode": "full_immediately", "ask_provider": True}


@pytest.fixture
async def seller(tmp_path: Path) -> AsyncIterator[Seller]:
    async with selling(tmp_path / "seller") as seller:
        yield seller


@pytest.fixture
async def system(store_url: str, tmp_path: Path, seller: Seller) -> AsyncIterator[System]:
    async with run_system(store_url, tmp_path, **seller.settings) as system:
        await system.tell(seller.events((await seller.act("upgrade", plan="basic", quantity=2))["event_ids"]))
        yield system


@pytest.fixture
async def stripe() -> AsyncIterator[Stripe]:
    async with account() as stripe:
        yield stripe


async def records(system: System) -> list[Any]:
    """The drift records of money."""
    found = (await system.ask("GET", "/v1/drift"))["drift"]
    return [record for record in found if record["kind"] == "money"]


async def confirmed(system: System, seller: Seller, change: Any = CHANGE) -> tuple[dict[str, Any], list[bytes]]:
    """What a change is quoted, and the events that it makes once it is confirmed."""
    quoted = await system.ask("POST", PATH, change)
    count = len(seller.events())
    await system.ask("POST", f"{PATH}/{quoted['preview_id']}/confirm", {"apply": True})
    return quoted, seller.events()[count:]


def dearer(body: bytes, by: int) -> bytes:
    """A transaction that bills more."""
    event = json.loads(body)
    if event["event_type"].startswith("transaction."):
        totals = event["data"]["details"]["totals"]
        for name in ("total", "grand_total"):
            totals[name] = str(int(totals[name]) + by)
    return json.dumps(event).encode()


class TestQuoted:
    """Scenario 75."""

    async def test_s75_a_preview_says_what_is_due_now_and_at_the_renewal(self, system: System) -> None:
        quoted = await system.ask("POST", PATH, CHANGE)
        money = quoted["money"]
        line = {"price_id": "pri_pro", "quantity": 2, "discount": 0, "tax": 0}
        assert (money["currency"], money["exponent"]) == ("USD", 2)
        assert (money["due_now"], money["total"], money["tax"], money["discount"]) == (2000, 2000, 0, 0)
        assert money["lines"] == [{**line, "subtotal": 2000, "total": 2000}]
        assert (money["next"]["amount"], money["next"]["at"]) == (4000, quoted["state"]["period"]["ends_at"])
        assert money["next"]["lines"] == [{**line, "subtotal": 4000, "total": 4000}]
        assert money["at"] == quoted["taken_at"]
        assert "money_differs" not in quoted

    async def test_s75_without_the_provider_there_is_no_money(self, system: System) -> None:
        quoted = await system.ask("POST", PATH, {"plan": "pro"})
        assert not {"money", "money_differs", "provider"} & quoted.keys()

    async def test_s75_what_was_expected_is_compared_line_by_line(self, system: System) -> None:
        change = {name: CHANGE[name] for name in ("plan", "billing_mode")}
        line = {"price_id": "pri_pro", "quantity": 2, "total": 2000}
        right = {"currency": "usd", "due_now": 2000, "lines": [line], "next": {"amount": 4000}}
        assert (await system.ask("POST", PATH, {**change, "expected": right}))["money_differs"] == []
        wrong = {
            "due_now": 1900,
            "lines": [{**line, "total": 1900}, {"price_id": "pri_audit"}],
            "next": {"amount": 4000, "tax": 760},
        }
        assert (await system.ask("POST", PATH, {**change, "expected": wrong}))["money_differs"] == [
            {"path": "due_now", "from": 1900, "to": 2000},
            {"path": "lines.pri_pro.total", "from": 1900, "to": 2000},
            {"path": "lines.pri_audit", "from": {"price_id": "pri_audit"}},
            {"path": "next.tax", "from": 760, "to": 0},
        ]

    async def test_s75_what_is_not_known_is_not_what_was_expected(self, system: System) -> None:
        quoted = await system.ask("POST", PATH, {"plan": "pro", "ask_provider": False, "expected": {"due_now": 0}})
        assert quoted["money_differs"] == [{"path": "due_now", "from": 0}]
        assert "money" not in quoted

    @pytest.mark.parametrize(
        "expected",
        [{"due_now": 10.5}, {"due_now": "10"}, {"due_now": True}, {"price": 1}, {"lines": [{"total": 2**60}]}],
    )
    async def test_s75_only_whole_minor_units_are_amounts(self, system: System, expected: Any) -> None:
        answer = await system.http.post(PATH, json={**CHANGE, "expected": expected}, headers=system.key)
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")

    async def test_s75_a_wrong_currency_is_named(self, system: System) -> None:
        for currency in ("xx", "eu1", "Euro", "é$1"):
            answer = await system.http.post(
                PATH, json={**CHANGE, "expected": {"currency": currency}}, headers=system.key
            )
            detail = "expected.currency: a currency is three letters, such as EUR"
            assert (answer.status_code, answer.json()["detail"]) == (422, detail)

    @pytest.mark.parametrize("asking", [{"ask_provider": True}, {"expected": {"due_now": 0}}])
    async def test_s75_a_cancellation_has_no_money(self, system: System, asking: Any) -> None:
        cancel = {"cancel": "period_end"}
        answer = await system.http.post(PATH, json={**cancel, **asking}, headers=system.key)
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
        assert "ask_provider" in answer.json()["detail"]
        assert "money" not in await system.ask("POST", PATH, cancel)


class TestBilled:
    """Scenario 76."""

    async def test_s76_what_is_billed_as_quoted_leaves_no_record(self, system: System, seller: Seller) -> None:
        quoted, events = await confirmed(system, seller)
        assert quoted["money"]["due_now"] > 0
        await system.tell(events)
        await system.tell((await renewed(seller))())
        assert await records(system) == []

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_s76_what_is_billed_otherwise_is_drift(self, system: System, seller: Seller, reverse: bool) -> None:
        quoted, events = await confirmed(system, seller)
        bodies = [dearer(body, 100) for body in events]
        await system.tell(bodies[::-1] if reverse else bodies)
        await system.tell(bodies)
        (record,) = await records(system)
        assert (record["topic"], record["subject"]) == ("tenant:acme", quoted["preview_id"])
        assert record["here"] == {"currency": "USD", "total": 2000, "due_now": 2000}
        assert record["there"] == {"currency": "USD", "total": 2100, "due_now": 2100}
        assert (await system.ask("GET", "/v1/drift"))["counts"]["money"] == 1
        metrics = (await system.http.get("/metrics")).text
        assert 'planwire_drift_total{env="live",kind="money"} 1.0' in metrics

    async def test_s76_so_is_a_renewal(self, system: System, seller: Seller) -> None:
        _, events = await confirmed(system, seller)
        await system.tell(events)
        await system.tell([dearer(body, -50) for body in (await renewed(seller))()])
        (record,) = await records(system)
        assert record["here"] == {"currency": "USD", "total": 4000, "amount": 4000}
        assert record["there"] == {"currency": "USD", "total": 3950, "amount": 3950}

    async def test_s76_a_change_that_is_billed_later_is_compared_at_the_renewal(
        self, system: System, seller: Seller
    ) -> None:
        quoted, events = await confirmed(system, seller, {**CHANGE, "billing_mode": "full_next_billing_period"})
        money = quoted["money"]
        assert (money["due_now"], money["lines"], money["next"]["amount"]) == (0, [], 6000)
        await system.tell(events)
        await system.tell((await renewed(seller))())
        assert await records(system) == []

    async def test_s76_a_change_without_a_quote_is_not_compared(self, system: System, seller: Seller) -> None:
        _, events = await confirmed(system, seller, {**CHANGE, "ask_provider": False})
        await system.tell([dearer(body, 100) for body in events])
        assert await records(system) == []


async def renewed(seller: Seller) -> Callable[[], list[bytes]]:
    """Renew the subscription when its period ends; return its events."""
    (sold,) = await seller.sells()
    ahead_s = instants.parse(sold["next_billed_at"]) / 1e9 - time.time() + 1
    seller.clock(ahead_s)
    found = (await seller.act("renew"))["event_ids"]
    return lambda: seller.events(found)


class TestStripe:
    """Scenario 75 and 81 at Stripe."""

    @pytest.mark.parametrize("differs", [False, True])
    async def test_s76_an_invoice_is_compared_with_what_stripe_quoted(
        self, store_url: str, tmp_path: Path, stripe: Stripe, differs: bool
    ) -> None:
        keys = {"STRIPE_API_KEYS": f"live:{KEY}", "STRIPE_API_URL": stripe.url, "STRIPE_API_RATE_PER_S": "1000"}
        async with run_cases(store_url, tmp_path, **keys) as system:
            subscription_id = stripe.add("acme", "price_basic_live", 2)
            await post_stripe(system, stripe.happened[0])
            change = {"plan": "pro", "quantity": 5, "expected": {"currency": "EUR", "next": {"amount": 5950}}}
            quoted = await system.ask("POST", PATH, change)
            assert quoted["money_differs"] == []
            money = quoted["money"]
            assert [(line["price_id"], line["quantity"]) for line in money["lines"]] == [
                ("price_basic_live", 2),
                ("price_pro_live", 5),
            ]
            assert money["due_now"] == money["subtotal"] + money["tax"] > 0
            await system.ask("POST", f"{PATH}/{quoted['preview_id']}/confirm", {"apply": True})
            stripe.renew(subscription_id)
            events = [stripe.happened[-1], *stripe.billed]
            assert [event["type"] for event in stripe.billed] == ["invoice.finalized", "invoice.paid"] * 2
            for event in events:
                if differs and event["type"].startswith("invoice."):
                    event["data"]["object"]["amount_due"] += 1
                assert (await post_stripe(system, event)).status_code == 200
            found = await records(system)
            assert len(found) == (2 if differs else 0)
            if differs:
                renewal, now = found
                assert now["here"] == {"currency": "EUR", "due_now": money["due_now"]}
                assert renewal["here"] == {"currency": "EUR", "amount": 5950}
                assert renewal["subject"] == now["subject"] == quoted["preview_id"]


APPLICATIONS = CATALOG.replace("[policy]\n", '[policy]\napp = "crm"\n', 1)
for _key in ("free", "basic", "scale", "pro"):
    APPLICATIONS = APPLICATIONS.replace(f"[plans.{_key}]\n", f'[plans.{_key}]\napp = "crm"\n')
APPLICATIONS += """
[plans.mail]
name = "Mail"
rank = 10
app = "mail"
prices.paddle.live = ["pri_mail"]

[plans.mail_max]
name = "Mail max"
rank = 25
app = "mail"
prices.paddle.live = ["pri_mail_max"]
"""


class TestTerms:
    """Scenario 99."""

    @pytest.fixture
    async def seller(self, tmp_path: Path) -> AsyncIterator[Seller]:
        async with selling(tmp_path / "seller", APPLICATIONS) as seller:
            yield seller

    @pytest.fixture
    async def system(self, store_url: str, tmp_path: Path, seller: Seller) -> AsyncIterator[System]:
        async with run_system(store_url, tmp_path, catalog=APPLICATIONS, **seller.settings) as system:
            for plan in ("basic", "mail"):
                await system.tell(seller.events((await seller.act("upgrade", plan=plan, quantity=2))["event_ids"]))
            yield system

    @pytest.mark.parametrize("reverse", [False, True])
    async def test_s99_each_application_awaits_its_own_change_and_bill(
        self, system: System, seller: Seller, reverse: bool
    ) -> None:
        crm, events = await confirmed(system, seller, {**CHANGE, "plan": "pro"})
        mail, more = await confirmed(system, seller, {**CHANGE, "plan": "mail_max"})
        assert (crm["money"]["due_now"], mail["money"]["due_now"]) == (2000, 3000)
        bodies = [*events, *(dearer(body, 100) for body in more)]
        await system.tell(bodies[::-1] if reverse else bodies)
        (record,) = (await system.ask("GET", "/v1/drift"))["drift"]
        assert (record["kind"], record["subject"]) == ("money", mail["preview_id"])
        apps = (await system.state())["apps"]
        assert (apps["crm"]["plan"]["key"], apps["mail"]["plan"]["key"]) == ("pro", "mail_max")

    async def test_s99_two_changes_of_one_application_are_compared_each_with_its_own_quote(
        self, system: System, seller: Seller
    ) -> None:
        first, events = await confirmed(system, seller)
        second, more = await confirmed(system, seller, {**CHANGE, "plan": "scale"})
        assert (first["money"]["due_now"], second["money"]["due_now"]) == (2000, 2000)
        await system.tell([*more[::-1], *(dearer(body, 7) for body in events)])
        (record,) = await records(system)
        assert (record["subject"], record["there"]["due_now"]) == (first["preview_id"], 2007)

    async def test_s99_tax_and_discount_are_quoted_and_billed(self, system: System, seller: Seller) -> None:
        for action, terms in (("tax", {"percent": 19}), ("discount", {"percent": 12.5})):
            answer = await seller.act(action, app="crm", **terms)
            await system.tell(seller.events(answer["event_ids"]))
        quoted, events = await confirmed(system, seller)
        money = quoted["money"]
        assert (money["subtotal"], money["discount"], money["tax"], money["due_now"]) == (2000, 250, 333, 2083)
        assert (money["next"]["discount"], money["next"]["tax"], money["next"]["amount"]) == (500, 665, 4165)
        await system.tell(events)
        assert await records(system) == []
        await system.tell(seller.events((await seller.act("tax", app="crm", percent=20))["event_ids"]))
        seller.clock(instants.parse(quoted["state"]["apps"]["crm"]["period"]["ends_at"]) / 1e9 - time.time() + 1)
        await system.tell(seller.events((await seller.act("renew", app="crm"))["event_ids"]))
        (record,) = await records(system)
        assert record["why"].startswith("renewal billed as ")
        assert (record["here"]["tax"], record["there"]["tax"]) == (665, 700)
