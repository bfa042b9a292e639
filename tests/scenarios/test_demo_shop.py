"""What `make run` sells: two applications, purchases for ever and for a year, refunds and chargebacks."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.dev.run import CATALOG
from sync.core import instants
from tests.support.system import Seller, System, Tab, run_system, selling

SHOP = CATALOG.read_text("utf-8")
YEAR_S = 365 * 86_400


@asynccontextmanager
async def shop(store_url: str, tmp_path: Path, catalog: str = SHOP) -> AsyncIterator[tuple[System, Seller, Tab]]:
    async with (
        selling(tmp_path / "seller", catalog) as seller,
        run_system(store_url, tmp_path, catalog=catalog, **seller.settings) as system,
        system.tab() as tab,
    ):
        yield system, seller, tab


def acting(system: System, seller: Seller, tab: Tab) -> Callable[..., Awaitable[dict[str, Any]]]:
    """What acts at the provider, sends the events to the webhook route, and waits for the tab."""

    async def act(action: str, **options: Any) -> dict[str, Any]:
        answer = await seller.act(action, **options)
        await system.tell(seller.events(answer["event_ids"]))
        await tab.fence()
        return answer

    return act


def plans(tab: Tab) -> dict[str, tuple[str | None, str]]:
    return {app: (each.get("plan", {}).get("key"), each["status"]) for app, each in tab.state["apps"].items()}


class TestTheDemoSellsTwoApplications:
    """Scenario 96."""

    async def test_s96_each_application_is_bought_changed_and_canceled_by_itself(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with shop(store_url, tmp_path) as (system, seller, tab):
            act = acting(system, seller, tab)
            await act("upgrade", plan="mail", quantity=3)
            assert plans(tab) == {"notes": ("free", "none"), "mail": ("mail", "active")}
            await act("upgrade", plan="pro", quantity=2)
            assert plans(tab) == {"notes": ("pro", "active"), "mail": ("mail", "active")}
            assert (tab.state["limits"]["seats"], tab.state["limits"]["mailboxes"]) == (2, 3)
            await act("upgrade", app="mail")
            await act("seats", app="mail", quantity=4)
            assert plans(tab)["mail"] == ("mail_plus", "active")
            assert tab.state["apps"]["mail"]["limits"] == {"mailboxes": 4, "aliases": "unlimited"}
            await act("cancel", app="mail")
            assert tab.state["apps"]["mail"]["scheduled"]["action"] == "cancel"
            assert "scheduled" not in tab.state
            await act("uncancel", app="mail")
            await act("downgrade", app="mail")
            await act("cancel")
            assert tab.state["scheduled"]["action"] == "cancel"
            assert plans(tab) == {"notes": ("pro", "active"), "mail": ("mail", "active")}
            await act("cancel", app="mail", when="now")
            assert plans(tab) == {"notes": ("pro", "active"), "mail": (None, "canceled")}

    async def test_s96_the_offers_say_what_each_application_sells(self, store_url: str, tmp_path: Path) -> None:
        async with selling(tmp_path / "seller", SHOP) as seller:
            answer = (await seller.http.get("/simulate/offers")).json()
            assert (answer["env"], answer["leading"], answer["apps"]) == ("live", "notes", ["mail", "notes"])
            sold = {(each["app"], each["key"]): each for each in answer["offers"]}
            assert sold["notes", "lifetime"]["is_once"]
            assert (sold["", "course"]["kind"], sold["", "course"]["expires_s"]) == ("addon", YEAR_S)
            assert (sold["mail", "mail_plus"]["amount"], sold["notes", "free"]["amount"]) == (2_000, None)
            wrong = await seller.http.get("/simulate/offers", params={"env": "moon"})
            assert (wrong.status_code, wrong.json()["code"]) == (400, "unknown_environment")


class TestTheSimulatorSellsOnce:
    """Scenario 97."""

    async def test_s97_lifetime_and_a_course_for_a_year(self, store_url: str, tmp_path: Path) -> None:
        async with shop(store_url, tmp_path) as (system, seller, tab):
            act = acting(system, seller, tab)
            bought = await act("buy", addon="course")
            assert (bought["subscription_id"], bought["status"]) == (None, "paid")
            assert tab.state["features"]["course"]
            (listed,) = (await seller.http.get("/simulate/purchases", params={"tenant": "acme"})).json()["purchases"]
            assert (listed["id"], listed["paid"], listed["back"]) == (bought["transaction_id"], 6_000, 0)
            ends_ns = instants.parse(tab.state["valid_until"])
            assert ends_ns - instants.parse(listed["created_at"]) == YEAR_S * instants.NS_PER_S
            await act("buy", plan="lifetime")
            assert plans(tab)["notes"] == ("lifetime", "active")
            await act("upgrade", plan="pro")
            assert plans(tab)["notes"] == ("lifetime", "active"), "the higher plan leads"
            assert await system.parked() == []

    async def test_s97_money_goes_back_and_a_chargeback_is_won_in_any_order(
        self, store_url: str, tmp_path: Path
    ) -> None:
        async with shop(store_url, tmp_path) as (system, seller, _):
            for number, order in enumerate(itertools.islice(itertools.permutations(range(6)), 0, 720, 37)):
                tenant = f"t{number}"
                ids: list[str] = []
                for action, given in (
                    ("buy", {"plan": "lifetime"}),
                    ("refund", {"amount": 100}),
                    ("chargeback", {}),
                    ("chargeback_reverse", {}),
                ):
                    ids += (await seller.act(action, tenant, **given))["event_ids"]
                events = seller.events(ids)
                async with system.tab(f"tenant:{tenant}") as tab:
                    await system.tell([events[place] for place in order])
                    await tab.fence()
                    assert plans(tab)["notes"] == ("lifetime", "active"), order
                    last = seller.events((await seller.act("refund", tenant))["event_ids"])
                    await system.tell(last[::-1])
                    await tab.fence()
                    assert plans(tab)["notes"] == ("free", "canceled"), order

    @pytest.mark.parametrize(("policy", "end"), [("keep", ("pro", "active")), ("revoke", ("free", "unpaid"))])
    async def test_s97_a_subscription_s_refund_goes_by_the_policy(
        self, store_url: str, tmp_path: Path, policy: str, end: tuple[str, str]
    ) -> None:
        catalog = SHOP.replace('refund = "keep"', f'refund = "{policy}"')
        async with shop(store_url, tmp_path, catalog) as (system, seller, tab):
            act = acting(system, seller, tab)
            await act("upgrade", plan="pro")
            await act("upgrade", plan="mail")
            await act("refund")
            assert plans(tab) == {"notes": end, "mail": ("mail", "active")}
