"""Timers on a virtual clock: what changes by time alone changes at its instant, once, and the timer is set anew."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import pytest

from sync.billing.domain.facts.instructions import ScheduledPlanChange
from sync.billing.domain.facts.model import Event
from sync.billing.services.reproject import Refresh
from sync.core import instants
from tests.support.bodies import subscription
from tests.support.paddle import price_id
from tests.support.services import DAY_S, TOPIC, Billing, PaddleApi


async def test_grace_ends_without_a_webhook_and_only_then(services: Billing) -> None:
    await services.receive(kind="subscription.past_due", status="past_due")
    assert await services.plan() == "pro"
    services.clock.advance(7 * DAY_S - 1)
    assert await services.fire_due() == 0
    services.clock.advance(2)
    assert await services.fire_due() == 1
    assert await services.plan() == "free"
    assert b'"source":"timer"' in (await services.store.read(TOPIC)).cause
    services.clock.advance(365 * DAY_S)
    assert await services.fire_due() == 0


async def test_a_timer_that_changes_nothing_makes_no_version(services: Billing) -> None:
    await services.receive()
    (version,) = await services.store.versions([TOPIC])
    await services.committer.arm_at_once(TOPIC)
    assert await services.fire_due() == 1
    assert await services.store.versions([TOPIC]) == [version]


async def test_a_payment_before_the_end_of_grace_takes_the_timer_s_effect_away(services: Billing) -> None:
    await services.receive(kind="subscription.past_due", status="past_due")
    services.clock.advance(DAY_S)
    await services.receive()
    services.clock.advance(7 * DAY_S)
    await services.fire_due()
    assert await services.plan() == "pro"
    assert (await services.state())["status"] == "active"


async def test_each_of_several_instants_fires_in_turn(services: Billing) -> None:
    """A cancellation is due, nobody confirms it (`overdue = "hold"`), and the state says that it waits."""
    at = instants.text(services.now_ns() + DAY_S * 10**9)
    await services.receive(scheduled_change={"action": "cancel", "effective_at": at, "resume_at": None})
    assert (await services.state())["scheduled"]["overdue"] is False
    services.clock.advance(DAY_S + 1)
    assert await services.fire_due() == 1
    state = await services.state()
    assert (state["plan"]["key"], state["scheduled"]["overdue"]) == ("pro", True)
    assert state["pending"]["reason"] == "awaiting_provider"


class Provider(PaddleApi):
    """A provider's API that counts the changes it is asked for."""

    changed = 0

    async def change_items(self, *_: object) -> Event:
        """Change the plan."""
        self.changed += 1
        self.body = {**self.body, "items": subscription(items=[(price_id("basic"), 1)])["items"]}
        return self.shown()


async def test_a_worker_that_was_paused_beyond_its_lease_does_not_have_its_successors_change_made_again(
    services: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Provider(services)
    provider.body = orjson.loads(services.body())["data"]
    await services.receive()
    change = ScheduledPlanChange("paddle:sub_1", "basic", services.now_ns() + DAY_S * 10**9, ())
    refresh = Refresh({"source": "app"}, change=partial(replace, scheduled_changes=(change,)))
    await services.reprojection.refresh("live", TOPIC, refresh)
    services.clock.advance(DAY_S + 1)
    (due,) = await services.environment("live").timers.claim(10)

    record_drift = services.reconciliation.record_drift

    async def pause(*about: Any) -> None:
        """Between the decision and the change."""
        monkeypatch.undo()
        await record_drift(*about)
        services.clock.advance(31)
        assert await services.fire_due() == 1

    monkeypatch.setattr(services.reconciliation, "record_drift", pause)
    await services.wakeup.fire("live", due)
    assert provider.changed == 1
    assert await services.plan() == "basic"
