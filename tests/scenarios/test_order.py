"""Events come twice, late, early and in any order: the state is that of the newest, and nothing goes back."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.system import TOPIC, System, ago, event, run_system, selling

ORDERS = list(itertools.permutations(range(3)))


async def arrive(system: System, tenant: str, bodies: Sequence[bytes]) -> Any:
    """The state of a tenant whose events come in this order."""
    for body in bodies:
        assert await system.outcome(body) in ("applied", "unchanged", "refused")
    return await system.state(f"tenant:{tenant}")


async def test_s01_an_event_that_comes_again_makes_no_version_and_no_push(system: System) -> None:
    async with system.tab() as tab:
        await tab.next("snapshot")
        first = event(ago(60), event_id="evt_same")
        version = await system.apply(first)
        await tab.reaches(version)
        again = json.dumps({**json.loads(first), "notification_id": "ntf_of_a_replay"}).encode()
        answer = await system.deliver(again)
        assert (answer.status_code, answer.json()["outcome"]) == (200, "duplicate")
        await tab.fence()
        assert [shown for shown, _ in tab.shown] == [0, version]
        assert (await system.read())["version"] == version
        assert len(await system.history()) == 1


async def test_s02_one_event_at_the_same_instant_on_two_processes_makes_one_version(
    system: System, store_url: str, tmp_path: Path
) -> None:
    async with run_system(store_url, tmp_path) as other, system.tab() as tab, other.tab() as second:
        body = event(ago(60))
        outcomes = await asyncio.gather(*(door.outcome(body) for door in (system, other) * 4))
        assert sorted(outcomes) == ["applied"] + ["duplicate"] * 7
        (entry,) = await system.history()
        for each in (tab, second):
            await each.fence()
            assert [version for version, _ in each.shown if version] == [entry.version]


async def test_s03_updated_and_activated_before_created_make_the_state_and_created_changes_nothing(
    system: System,
) -> None:
    """The provider gives `created` and `activated` one and the same updated_at."""
    stamp = ago(60)
    states = []
    for number, order in enumerate(ORDERS):
        tenant = f"t{number}"
        bodies = [
            event(
                stamp, tenant=tenant, kind="subscription.created", event_id=f"evt_{number}_1", items=[("pri_pro", 2)]
            ),
            event(ago(59), tenant=tenant, kind="subscription.activated", updated=stamp, items=[("pri_pro", 2)]),
            event(ago(58), tenant=tenant, items=[("pri_pro", 5)]),
        ]
        topic = f"tenant:{tenant}"
        if order[0] == 0:
            states.append(await arrive(system, tenant, [bodies[index] for index in order]))
            continue
        async with system.tab(topic) as tab:
            before_created = [bodies[index] for index in order[: order.index(0)]]
            known = await arrive(system, tenant, before_created)
            assert known["plan"]["key"] == "pro"
            version = (await system.read(topic))["version"]
            assert await system.outcome(bodies[0]) == "refused"
            await tab.fence()
            assert (tab.version, tab.state) == (version, known)
        states.append(await arrive(system, tenant, [bodies[index] for index in order[order.index(0) + 1 :]]))
    assert [state["limits"]["seats"] for state in states] == [5] * len(ORDERS)
    assert all(state == states[0] for state in states)


async def test_s04_an_older_update_after_the_cancellation_gives_no_access_back_and_is_recorded(system: System) -> None:
    async with system.tab() as tab:
        await system.apply(event(ago(100), kind="subscription.created"))
        version = await system.apply(event(ago(50), kind="subscription.canceled", status="canceled"))
        await tab.reaches(version)
        assert (tab.plan, tab.state["status"]) == ("free", "canceled")
        late = await system.deliver(event(ago(75), event_id="evt_late"))
        assert late.json()["outcome"] == "refused"
        await tab.fence()
        assert (tab.version, tab.plan) == (version, "free")
    recorded = (await system.processed())[-1]
    assert (recorded["event_id"], recorded["outcome"]) == ("evt_late", "refused")
    assert "older than evt_" in recorded["reason"]


async def test_s05_equal_occurred_at_and_different_content_end_the_same_in_either_order(system: System) -> None:
    moment = ago(60)
    states = []
    for tenant, order in (("one", (0, 1)), ("two", (1, 0))):
        bodies = [
            event(moment, tenant=tenant, event_id=f"evt_{tenant}_1", items=[("pri_basic", 1)]),
            event(moment, tenant=tenant, event_id=f"evt_{tenant}_2", items=[("pri_pro", 4)]),
        ]
        states.append(await arrive(system, tenant, [bodies[index] for index in order]))
    assert states[0] == states[1]
    assert states[0]["plan"]["key"] == "pro", "of equals the greater event id is the newer"


async def test_s06_equal_updated_at_goes_by_occurred_at_and_then_by_event_id(system: System) -> None:
    stamp, later = ago(60), ago(59)
    states = []
    for number, order in enumerate(ORDERS):
        tenant = f"t{number}"
        bodies = [
            event(stamp, tenant=tenant, event_id=f"evt_{tenant}_9", updated=stamp, status="active"),
            event(later, tenant=tenant, event_id=f"evt_{tenant}_1", updated=stamp, status="paused"),
            event(later, tenant=tenant, event_id=f"evt_{tenant}_2", updated=stamp, status="canceled"),
        ]
        states.append(await arrive(system, tenant, [bodies[index] for index in order]))
    assert [state["status"] for state in states] == ["canceled"] * len(ORDERS)
    assert all(state == states[0] for state in states)


async def test_s07_an_event_that_occurred_later_with_an_older_body_does_not_replace_the_newer(system: System) -> None:
    """The stamps are those of an official list of events: 0.6 ms later, and a body that is six seconds older."""
    day = "2025-07-08T"
    newer = event(f"{day}15:33:19.645134Z", updated=f"{day}15:33:19.238Z", items=[("pri_pro", 4)])
    older = event(f"{day}15:33:19.645734Z", updated=f"{day}15:33:13.358Z", items=[("pri_basic", 1)])
    async with system.tab() as tab:
        version = await system.apply(newer)
        assert await system.outcome(older) == "refused"
        await (await tab.reaches(version)).fence()
        assert (tab.plan, tab.state["limits"]["seats"], tab.version) == ("pro", 4, version)


async def test_s07_a_simulator_s_old_stamps_do_not_replace_a_real_body(system: System) -> None:
    """Paddle's simulator sends the bodies of 2024, and an event of now, about real ids if it is asked to."""
    stamp = "2024-04-12T10:37:59.556997Z"
    async with system.tab() as tab:
        version = await system.apply(event(ago(60), items=[("pri_pro", 4)]))
        for number, at in enumerate((stamp, ago(1))):
            simulated = event(at, updated=stamp, status="canceled", event_id=f"evt_of_2024_{number}")
            assert await system.outcome(simulated) == "refused"
        await (await tab.reaches(version)).fence()
        assert (tab.plan, tab.state["status"]) == ("pro", "active")


async def test_s08_a_body_from_the_future_does_not_shut_out_the_events_that_follow(system: System) -> None:
    async with system.tab() as tab:
        await system.apply(event(ago(100), updated="2031-01-01T00:00:00Z", items=[("pri_pro", 1)]))
        version = await system.apply(event(ago(50), items=[("pri_basic", 2)]))
        await tab.reaches(version)
        assert (tab.plan, tab.state["limits"]["seats"]) == ("basic", 2)


async def test_s08_an_event_from_the_future_does_not_shut_out_the_events_that_follow(system: System) -> None:
    """Its own time is of a test clock: it counts as of its receipt, and so does its grace."""
    ahead = "2031-01-01T00:00:00Z"
    async with system.tab() as tab:
        await system.apply(event(ago(100), items=[("pri_pro", 1)]))
        version = await system.apply(event(ahead, status="past_due", items=[("pri_pro", 1)]))
        await tab.reaches(version)
        assert (tab.state["status"], tab.state["grace_ends_at"] < "2031") == ("past_due", True)
        version = await system.apply(event(ago(0), items=[("pri_basic", 2)]))
        await tab.reaches(version)
        assert (tab.plan, tab.state["status"]) == ("basic", "active")


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("12:00:00.5Z", "12:00:00.51Z"),
        ("12:00:00Z", "12:00:00.1Z"),
        ("12:00:00.123456789Z", "12:00:00.2Z"),
        ("12:00:00.123456788Z", "12:00:00.123456789Z"),
        ("12:00:00.123Z", "12:00:00.123000001Z"),
        ("12:00:00+01:00", "11:30:00Z"),
    ],
)
async def test_s09_fractions_are_compared_as_instants_and_never_as_text(system: System, older: str, newer: str) -> None:
    for tenant, order in (("one", (0, 1)), ("two", (1, 0))):
        bodies = [
            event(f"2026-11-01T{older}", tenant=tenant, event_id=f"evt_{tenant}_9", items=[("pri_basic", 1)]),
            event(f"2026-11-01T{newer}", tenant=tenant, event_id=f"evt_{tenant}_1", items=[("pri_pro", 1)]),
        ]
        assert (await arrive(system, tenant, [bodies[index] for index in order]))["plan"]["key"] == "pro"


async def test_s49_upgrade_and_downgrade_within_a_second_end_as_the_provider_has_it(
    system: System, tmp_path: Path
) -> None:
    """Every order of the two webhooks, each with a tenant of its own; no tab sees a version go back."""
    async with selling(tmp_path / "seller") as seller:
        for number, is_reversed in enumerate((False, True)):
            tenant = f"t{number}"
            began = await seller.act("upgrade", tenant, plan="basic")
            for body in seller.events(began["event_ids"]):
                await system.outcome(body)
            changes = [
                *(await seller.act("upgrade", tenant, plan="pro"))["event_ids"],
                *(await seller.act("downgrade", tenant, plan="basic"))["event_ids"],
            ]
            bodies = seller.events(changes)
            assert len(bodies) >= 2
            async with system.tab(f"tenant:{tenant}") as tab:
                await tab.until(lambda tab: tab.plan == "basic")
                for body in reversed(bodies) if is_reversed else bodies:
                    await system.outcome(body)
                await tab.fence()
                assert tab.plan == "basic"
                if is_reversed:
                    assert "pro" not in [state["plan"]["key"] for _, state in tab.shown]
            assert await seller.price(tenant) == "pri_basic"


async def test_s49_both_webhooks_at_the_same_instant(system: System) -> None:
    async with system.tab(TOPIC) as tab:
        await system.apply(event(ago(10), items=[("pri_basic", 1)]))
        for number in range(20):
            up = event(ago(9 - number / 10), items=[("pri_pro", 1)])
            down = event(ago(8.95 - number / 10), items=[("pri_basic", 1)])
            pair = [system.outcome(down), system.outcome(up)]
            await asyncio.gather(*(pair if number % 2 else reversed(pair)))
        await tab.fence()
        assert tab.plan == "basic"
        assert (await system.read())["version"] == tab.version
