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
from tests.support.console import TOKEN, act, get, login
from tests.support.system import TOPIC, Seller, System, Tab, run_system, selling

SHOP = CATALOG.read_text("utf-8")
YEAR_S = 365 * 86_400


@asynccontextmanager
async def shop(
    store_url: str, tmp_path: Path, catalog: str = SHOP, **settings: str
) -> AsyncIterator[tuple[System, Seller, Tab]]:
    async with (
        selling(tmp_path / "seller", catalog) as seller,
        run_system(store_url, tmp_path, catalog=catalog, **seller.settings, **settings) as system,
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

    async def test_s96_the_console_shows_and_changes_each_application(self, store_url: str, tmp_path: Path) -> None:
        async with shop(store_url, tmp_path, CONSOLE_TOKEN=TOKEN) as (system, seller, tab):
            at_provider = acting(system, seller, tab)
            await at_provider("upgrade", plan="pro")
            await at_provider("upgrade", plan="mail_plus")
            await login(system.http)

            async def done(action: str, **body: Any) -> dict[str, Any]:
                answer = await act(system.http, action, topic=TOPIC, **body)
                assert answer.status_code == 200, answer.text
                return dict(answer.json())

            async def shown() -> dict[str, dict[str, Any]]:
                return {each["app"]: each for each in (await get(system.http, f"schedule/{TOPIC}"))["apps"]}

            before = tab.version
            seen = await done("preview", plan="mail", ask_provider=True)
            assert {each["path"] for each in seen["diff"]} >= {"apps.mail.plan.key", "apps.mail.features.rules"}
            assert not any(each["path"].startswith("apps.notes") for each in seen["diff"])
            assert seen["money"]["currency"] == "USD"
            ending = await done("preview", cancel="now", app="mail")
            assert {"path": "apps.mail.status", "from": "active", "to": "canceled"} in ending["diff"]
            await tab.fence()
            assert tab.version == before, "a preview changes nothing"
            await done("schedule", plan="mail")
            await done("schedule", plan="basic")
            apps = await shown()
            assert {app: each["scheduled"]["plan"] for app, each in apps.items()} == {"notes": "basic", "mail": "mail"}
            await tab.reaches((await done("unschedule", app="mail"))["version"])
            apps = await shown()
            assert (apps["mail"]["scheduled"], apps["notes"]["scheduled"]["plan"]) == (None, "basic")
            until_then = {"expires_at": "2100-01-31T12:00:00Z", "reason": "outage"}
            granted = await done("grant", plan="lifetime", **until_then)
            await tab.reaches(granted["version"])
            apps = await shown()
            assert {app: each["plan"] for app, each in apps.items()} == {"notes": "lifetime", "mail": "mail_plus"}
            for action, body, code in (
                ("preview", {"plan": "gold"}, "plan_unknown"),
                ("preview", {}, "request_invalid"),
                ("preview", {"plan": "pro", "expected": {}}, "request_invalid"),
                ("schedule", {"plan": "mail", "app": "notes"}, "plan_unknown"),
                ("unschedule", {"app": "mail"}, "not_found"),
                ("unschedule", {"app": ""}, "request_invalid"),
                ("grant", {"plan": "gold", **until_then}, "plan_unknown"),
            ):
                answer = (await act(system.http, action, topic=TOPIC, **body)).json()
                assert code in (answer["code"], answer.get("cause_code")), (action, answer)


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
