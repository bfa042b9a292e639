"""Scheduled changes, cancellations and several subscriptions: what stands now, what is to come, what is withdrawn."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from sync.core import instants
from tests.support.system import CATALOG, System, ago, event, run_system, selling

DAY_S = 86_400
LATE_S = 8.0
"""How long after its instant a worker on a busy machine may act."""


def cancel_at(instant: str) -> dict[str, Any]:
    return {"action": "cancel", "effective_at": instant, "resume_at": None}


async def test_s13_until_a_scheduled_cancellation_there_is_full_access_and_everybody_sees_it_coming(
    system: System, tmp_path: Path
) -> None:
    async with selling(tmp_path / "seller") as seller, system.tab() as tab:
        for body in seller.events((await seller.act("upgrade", plan="pro", quantity=3))["event_ids"]):
            await system.outcome(body)
        await tab.until(lambda tab: tab.plan == "pro")
        before = tab.state
        for body in seller.events((await seller.act("cancel"))["event_ids"]):
            await system.outcome(body)
        await tab.until(lambda tab: "scheduled" in tab.state)
        for name in ("plan", "status", "features", "limits", "modules"):
            assert tab.state[name] == before[name]
        ends_at = before["period"]["ends_at"]
        assert tab.state["scheduled"]["action"] == "cancel"
        assert instants.parse(tab.state["scheduled"]["effective_at"]) == instants.parse(ends_at)
        assert not tab.state["scheduled"]["overdue"]
        assert await system.state() == tab.state


async def test_s14_a_cancellation_that_is_withdrawn_does_not_come_back_with_a_late_copy(system: System) -> None:
    end = ago(-30 * DAY_S)
    schedule = event(ago(100), event_id="evt_schedule", scheduled_change=cancel_at(end))
    async with system.tab() as tab:
        await system.apply(event(ago(200)))
        await tab.reaches(await system.apply(schedule))
        assert tab.state["scheduled"]["effective_at"] == end
        version = await system.apply(event(ago(50), scheduled_change=None))
        await tab.reaches(version)
        assert "scheduled" not in tab.state
        assert tab.plan == "pro"
        assert await system.outcome(schedule) == "duplicate"
        copy = event(ago(99.9), event_id="evt_copy", updated=ago(99.9), scheduled_change=cancel_at(end))
        assert await system.outcome(copy) == "refused"
        await tab.fence()
        assert tab.version == version


async def test_s16_a_cancellation_that_comes_days_late_leaves_the_new_subscription_its_plan(system: System) -> None:
    """Here the old subscription's end has passed, and a new one was bought meanwhile."""
    ended = ago(3 * DAY_S)
    async with system.tab() as tab:
        await system.apply(
            event(ago(9 * DAY_S), id="sub_old", scheduled_change=cancel_at(ended), items=[("pri_pro", 2)])
        )
        await system.apply(event(ago(2 * DAY_S), id="sub_new", kind="subscription.created", items=[("pri_basic", 1)]))
        version = await system.apply(event(ended, id="sub_old", kind="subscription.canceled", status="canceled"))
        await tab.reaches(version)
        assert (tab.plan, tab.state["status"], tab.state["limits"]["seats"]) == ("basic", "active", 1)
        assert "scheduled" not in tab.state
        assert "pending" not in tab.state


async def test_s17_after_cancel_and_rebuy_access_is_that_of_the_live_subscriptions_whatever_comes_last(
    system: System,
) -> None:
    states = []
    for number, order in enumerate(itertools.permutations(range(3))):
        tenant = f"t{number}"
        bodies = [
            event(ago(300), tenant=tenant, id=f"sub_old{number}", items=[("pri_pro", 2)]),
            event(ago(200), tenant=tenant, id=f"sub_old{number}", kind="subscription.canceled", status="canceled"),
            event(
                ago(100), tenant=tenant, id=f"sub_new{number}", kind="subscription.created", items=[("pri_basic", 3)]
            ),
        ]
        async with system.tab(f"tenant:{tenant}") as tab:
            for index in order:
                await system.outcome(bodies[index])
            await tab.fence()
            states.append(tab.state)
    assert [(state["plan"]["key"], state["status"]) for state in states] == [("basic", "active")] * 6
    assert all(state == states[0] for state in states)


@pytest.mark.parametrize("change", ["nothing", "plan", "addon"])
async def test_s18_of_several_live_subscriptions_the_stated_precedence_decides_and_not_the_arrival(
    system: System, change: str
) -> None:
    """The highest plan leads, every add-on counts; then one of them changes."""
    changed = {
        "nothing": ("pro", True),
        "plan": ("basic", True),
        "addon": ("pro", False),
    }
    states = []
    for number, order in enumerate(itertools.permutations(range(4 if change != "nothing" else 3))):
        if number % 3:  # a third of the orders is enough, each subscription comes first in some
            continue
        tenant = f"t{number}"

        def of(name: str, at_s: float, tenant: str = tenant, **fields: Any) -> bytes:
            return event(ago(at_s), tenant=tenant, id=f"sub_{tenant}_{name}", **fields)

        bodies = [
            of("basic", 300, items=[("pri_basic", 5)]),
            of("pro", 290, items=[("pri_pro", 2)]),
            of("audit", 280, items=[("pri_audit", 1)]),
        ]
        if change == "plan":
            bodies.append(of("pro", 100, status="canceled", kind="subscription.canceled"))
        if change == "addon":
            bodies.append(of("audit", 100, status="canceled", kind="subscription.canceled"))
        async with system.tab(f"tenant:{tenant}") as tab:
            for index in order:
                await system.outcome(bodies[index])
            await tab.fence()
            states.append(tab.state)
    plan, audited = changed[change]
    assert [state["plan"]["key"] for state in states] == [plan] * len(states)
    assert [("audit" in state["features"]) for state in states] == [audited] * len(states)
    assert all(state == states[0] for state in states)
    assert states[0]["limits"]["seats"] == (5 if plan == "basic" else 2)


async def test_s22_pause_and_resume_in_any_order_end_as_the_provider_has_it(system: System, tmp_path: Path) -> None:
    async with selling(tmp_path / "seller") as seller:
        for number, order in enumerate(itertools.permutations(range(3))):
            tenant = f"t{number}"
            for body in seller.events((await seller.act("upgrade", tenant, plan="pro"))["event_ids"]):
                await system.outcome(body)
            ids = [
                *(await seller.act("pause", tenant, resume_at=ago(-60 * DAY_S)))["event_ids"],
                *(await seller.act("pause", tenant, when="now", resume_at=ago(-60 * DAY_S)))["event_ids"],
                *(await seller.act("resume", tenant))["event_ids"],
            ]
            bodies = [body for body in seller.events(ids) if b'"subscription.' in body]
            kinds = sorted(
                {kind for kind in (b"paused", b"resumed") for body in bodies if b"subscription." + kind in body}
            )
            assert kinds == [b"paused", b"resumed"]
            parts = [bodies[0:1], bodies[1:-1], bodies[-1:]]
            async with system.tab(f"tenant:{tenant}") as tab:
                for index in order:
                    for body in parts[index]:
                        await system.outcome(body)
                await tab.fence()
                (theirs,) = await seller.sells(tenant)
                assert (tab.state["status"], tab.plan) == (theirs["status"], "pro")
                assert theirs["status"] == "active"
                assert ("scheduled" in tab.state) == (theirs["scheduled_change"] is not None)


async def test_s24_an_upgrade_whose_charge_fails_leaves_the_old_tier_and_the_waiting_page_is_told(
    system: System, tmp_path: Path
) -> None:
    """The provider prevents the change and says nothing; the page that showed Pro already learns it by its bound."""
    async with selling(tmp_path / "seller") as seller, system.tab() as tab:
        began = await seller.act("upgrade", plan="basic")
        for body in seller.events(began["event_ids"]):
            await system.outcome(body)
        await tab.until(lambda tab: tab.plan == "basic")
        for body in seller.events((await seller.act("decline"))["event_ids"]):
            await system.outcome(body)
        known = len(seller.events())
        refused = await seller.api(
            "PATCH",
            f"/subscriptions/{began['subscription_id']}",
            {
                "items": [{"price_id": "pri_pro", "quantity": 1}],
                "proration_billing_mode": "prorated_immediately",
                "on_payment_failure": "prevent_change",
            },
        )
        assert refused.status_code >= 400, refused.text
        for body in seller.events()[known:]:
            await system.outcome(body)
        before = (await tab.fence()).version
        await tab.client.send("expect", topic=tab.topic, after=before, timeout_ms=400)
        assert (await tab.next("pending"))["after"] == before
        assert (await tab.next("expired", "snapshot", "patch")) == {
            "type": "expired",
            "topic": tab.topic,
            "after": before,
        }
        assert (tab.version, tab.plan) == (before, "basic")


@pytest.mark.parametrize("policy", ["hold", "apply"])
async def test_s15_a_cancellation_that_nobody_confirms_is_acted_on_by_the_policy_and_only_once(
    store_url: str, tmp_path: Path, policy: str
) -> None:
    """At the instant the state says that it awaits the provider; the confirmation then takes nothing a second time."""
    catalog = CATALOG.replace('overdue = "hold"', f'overdue = "{policy}"')
    async with (
        run_system(store_url, tmp_path, catalog=catalog) as system,
        system.working(),
        system.tab() as tab,
    ):
        end = ago(-3)
        ends_ns = instants.parse(end)
        await tab.reaches(await system.apply(event(ago(100), scheduled_change=cancel_at(end))))
        assert (tab.plan, tab.state["valid_until"]) == ("pro", end)
        await tab.until(lambda tab: "pending" in tab.state, timeout_s=3 + LATE_S)
        assert ends_ns <= time.time_ns() < ends_ns + LATE_S * 1e9
        assert tab.state["pending"] == {"reason": "awaiting_provider", "since": end}
        assert tab.state["scheduled"]["overdue"] is True
        expected = ("free", "canceled") if policy == "apply" else ("pro", "active")
        assert (tab.plan, tab.state["status"]) == expected
        acted = tab.state
        version = await system.apply(event(end, kind="subscription.canceled", status="canceled"))
        await (await tab.reaches(version)).fence()
        assert tab.version == version
        assert (tab.plan, tab.state["status"]) == ("free", "canceled")
        assert "pending" not in tab.state
        assert "scheduled" not in tab.state
        if policy == "apply":
            granted = ("plan", "status", "features", "limits", "modules")
            assert {name: tab.state[name] for name in granted} == {name: acted[name] for name in granted}
