"""A plan change that is held here, since the provider has none: shown, kept until its instant, replaced, never lost."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sync.core import instants
from tests.support.system import Seller, System, Tab, ago, run_system, selling
from tests.support.wait import until

LATE_S = 8.0
"""How long after its instant a worker on a busy machine may act."""

PATH = "/v1/tenants/acme/scheduled-change"


@pytest.fixture
async def seller(tmp_path: Path) -> AsyncIterator[Seller]:
    async with selling(tmp_path / "seller") as seller:
        yield seller


@pytest.fixture
async def system(store_url: str, tmp_path: Path, seller: Seller) -> AsyncIterator[System]:
    """It can ask the provider, and has a worker."""
    async with run_system(store_url, tmp_path, **seller.settings) as system, system.working():
        yield system


async def begin(system: System, seller: Seller, tab: Tab, plan: str = "pro", **options: Any) -> None:
    """The tenant has a plan, for a month unless told."""
    await system.tell(seller.events((await seller.act("upgrade", plan=plan, **options))["event_ids"]))
    await (await tab.until(lambda tab: tab.plan == plan)).fence()


def coming(at: str) -> dict[str, Any]:
    return {"action": "change_plan", "plan": "basic", "effective_at": at, "source": "app", "overdue": False}


async def test_s19_until_its_instant_every_reader_sees_pro_now_and_basic_then(system: System, seller: Seller) -> None:
    async with system.tab() as tab:
        await begin(system, seller, tab)
        at = ago(-4)
        answer = await system.ask("POST", PATH, {"plan": "basic", "effective_at": at})
        assert answer["scheduled"] == coming(at)
        await tab.reaches(answer["version"])
        async with system.tab() as newcomer:
            await newcomer.reaches(answer["version"])
            for shown in (tab.state, newcomer.state, await system.state()):
                assert (shown["plan"]["key"], shown["scheduled"]) == ("pro", coming(at))
        assert await seller.price() == "pri_pro"
        await tab.until(lambda tab: tab.plan == "basic", timeout_s=4 + LATE_S)
        assert instants.parse(at) <= time.time_ns()
        assert "scheduled" not in tab.state
        assert await seller.price() == "pri_basic", "the provider was told"


async def test_s19_items_that_show_the_lower_plan_already_do_not_take_it_away_before(
    system: System, seller: Seller
) -> None:
    async with system.tab() as tab:
        await begin(system, seller, tab, quantity=3)
        at = ago(-4)
        await system.ask("POST", PATH, {"plan": "basic", "effective_at": at})
        await system.tell(seller.events((await seller.act("downgrade", plan="basic"))["event_ids"]))
        await tab.fence()
        assert await seller.price() == "pri_basic"
        assert time.time_ns() < instants.parse(at), "this machine is too slow to look before the instant"
        assert (tab.plan, tab.state["limits"]["seats"], tab.state["scheduled"]) == ("pro", 3, coming(at))
        assert await system.state() == tab.state
        await tab.until(lambda tab: tab.plan == "basic", timeout_s=4 + LATE_S)
        assert instants.parse(at) <= time.time_ns()


@pytest.mark.parametrize("action", ["upgrade", "cancel", "cancel now"])
async def test_s20_an_upgrade_or_a_cancellation_before_the_instant_makes_the_held_change_void(
    system: System, seller: Seller, action: str
) -> None:
    async with system.tab() as tab:
        options: dict[str, Any] = {"ends_in_s": 7200} if action == "cancel" else {}
        await begin(system, seller, tab, **options)
        at = ago(-4)
        # One that would come after the end of a canceled period is void as well.
        held_at = ago(-3 * 7200) if action == "cancel" else at
        await system.ask("POST", PATH, {"plan": "basic", "effective_at": held_at})
        await tab.until(lambda tab: "scheduled" in tab.state)
        if action == "upgrade":
            done = await seller.act("upgrade", plan="scale")
        else:
            done = await seller.act("cancel", **({"when": "now"} if action == "cancel now" else {}))
        await system.tell(seller.events(done["event_ids"]))
        expected = {"upgrade": "scale", "cancel": "pro", "cancel now": "free"}[action]
        await tab.until(lambda tab: tab.plan == expected and tab.state.get("scheduled", {}).get("source") != "app")
        before = await seller.price()
        await until(lambda: time.time_ns() > instants.parse(at), 10)
        await system.wake()

        async def is_settled() -> bool:
            due: Any = await system.store.redis.zscore("pw:{timers/live}:due", "tenant:acme")
            return due is None or due > time.time() * 1e6

        await until(is_settled, 10)
        await tab.fence()
        assert tab.plan == expected
        assert await seller.price() == before != "pri_basic"


async def test_s20_another_change_takes_the_place_of_the_held_one(system: System, seller: Seller) -> None:
    async with system.tab() as tab:
        await begin(system, seller, tab, plan="scale")
        first, second = ago(-4), ago(-5)
        assert not (await system.ask("POST", PATH, {"plan": "basic", "effective_at": first}))["replaced"]
        assert (await system.ask("POST", PATH, {"plan": "pro", "effective_at": second}))["replaced"]
        await tab.until(lambda tab: tab.plan == "pro", timeout_s=5 + LATE_S)
        plans = [state["plan"]["key"] for _, state in tab.shown if state]
        assert "basic" not in plans
        assert instants.parse(second) <= time.time_ns()


@pytest.mark.parametrize("obstacle", ["past_due", "bill"])
async def test_s21_a_change_that_the_provider_refuses_is_surfaced_and_tried_again(
    system: System, seller: Seller, obstacle: str
) -> None:
    """While past due, or within half an hour of a bill, it takes no change of items."""
    async with system.tab() as tab:
        options: dict[str, Any] = {"ends_in_s": 1200} if obstacle == "bill" else {}
        await begin(system, seller, tab, **options)
        if obstacle == "bill":
            await system.ask("POST", PATH, {"plan": "basic"})
            problem = "subscription_locked_renewal"
        else:
            # The provider knows it first: the instant may come before its webhooks.
            failed = await seller.act("past_due")
            await system.ask("POST", PATH, {"plan": "basic", "effective_at": ago(-3)})
            await system.tell(seller.events(failed["event_ids"]))
            problem = "subscription_update_when_past_due"
        await tab.until(lambda tab: tab.state.get("scheduled", {}).get("problem") == problem, timeout_s=10)
        assert tab.plan == "pro"
        assert await seller.price() == "pri_pro"
        retry_us: Any = await system.store.redis.zscore("pw:{timers/live}:due", "tenant:acme")
        assert retry_us / 1e6 <= time.time() + 600, "it is tried again by itself"
        await seller.act("renew" if obstacle == "bill" else "recover")
        await system.wake()

        async def is_told() -> bool:
            return await seller.price() == "pri_basic"

        await until(is_told, 10)
        if obstacle == "past_due":
            await tab.until(lambda tab: tab.plan == "basic" and "scheduled" not in tab.state)
        else:
            await tab.until(lambda tab: "problem" not in tab.state.get("scheduled", {}))
