"""Tenants are compared with what another entitlement system answers: what is recorded, counted and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sync.billing.domain.facts.drift import Drift
from sync.billing.services.shadow.queues import COMPARE_EVERY_S, ShadowQueues
from sync.billing.services.shadow.report import Field, report
from sync.billing.storage import records
from sync.core.errors import SyncError
from sync.store import counters
from sync.store.command_pipeline import CommandPipeline
from tests.support.services import TOPIC, Billing


async def test_a_difference_is_a_drift_record_once_and_goes_when_both_agree(services: Billing) -> None:
    await services.receive(plan="pro")
    for _ in range(2):
        answer = {"tier": "Basic", "state": "active"}
        compared = await services.shadow_comparisons.answered("live", TOPIC, answer, 1, "posted")
        assert [tuple(one) for one in compared.comparison.differences] == [("plan", "pro", "basic")]
    page, _ = await services.environment("live").drifts.page("", 10)
    shadow = [record for record in page if record["kind"] == "shadow"]
    assert [(one["here"], one["there"], one["why"]) for one in shadow] == [
        ({"plan": "pro"}, {"plan": "basic"}, "posted")
    ]
    found = await report(services, "live", 10)
    assert (found.compared, found.differing, found.plans) == (1, 1, {"pro": 1})
    assert found.fields == {"plan": Field(1, 1), "status": Field(1, 0), "features": Field(0, 0)}
    services.clock.advance(60)
    await services.receive(plan="basic")
    await work(services)
    found = await report(services, "live", 10)
    assert (found.compared, found.differing, found.examples) == (1, 0, [])


async def test_many_differences_push_out_no_record_of_another_kind(
    services: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "DRIFT_KEPT", 20)
    drifts = services.environment("live").drifts
    batch = CommandPipeline(services.store)
    drifts.add(batch, Drift("money", TOPIC, "pv_1", "change billed", services.now_us))
    for number in range(60):
        drifts.add(batch, Drift("shadow", f"tenant:t{number}", "", "posted", services.now_us))
    await batch.run()
    kinds, before = list[object](), ""
    while len(kinds) < 60:
        page, before = await drifts.page(before, 7)
        kinds += [one["kind"] for one in page]
        if not before:
            break
    assert kinds.count("money") == 1
    assert (await drifts.counts())["shadow"] == 60


async def test_an_older_answer_is_not_used(services: Billing) -> None:
    await services.receive(plan="pro")
    await services.shadow_comparisons.answered("live", TOPIC, {"tier": "pro"}, 5, "posted")
    late = await services.shadow_comparisons.answered("live", TOPIC, {"tier": "basic"}, 4, "posted")
    assert late.is_stale
    assert (await report(services, "live", 10)).differing == 0


async def test_a_tenant_that_billing_does_not_know_has_the_default_plan(services: Billing) -> None:
    found = await services.shadow_comparisons.answered("live", TOPIC, {"tier": "pro"}, 1, "posted")
    assert [tuple(one) for one in found.comparison.differences] == [("plan", "free", "pro")]
    (example,) = (await report(services, "live", 10)).examples
    assert example["is_known"] is False


async def test_a_tenant_that_the_other_system_does_not_know_any_more_differs_no_more(services: Billing) -> None:
    await services.receive(plan="pro")
    await services.shadow_comparisons.answered("live", TOPIC, {"tier": "basic"}, 1, "posted")
    assert (await report(services, "live", 10)).differing == 1
    await work(services, Other())
    found = await report(services, "live", 10)
    assert (found.compared, found.differing, found.absent) == (0, 0, 1)
    assert await counts(services) == {"differs": 1, "absent": 1}


async def test_an_answer_with_none_of_the_fields_agrees_with_nothing(services: Billing) -> None:
    await services.receive(plan="pro")
    await services.shadow_comparisons.answered("live", TOPIC, {"teir": "basic"}, 1, "posted")
    found = await report(services, "live", 10)
    assert (found.compared, found.not_compared) == (0, 1)
    assert found.fields == dict.fromkeys(("plan", "status", "features"), Field())
    assert await counts(services) == {"not_compared": 1}


async def test_the_report_counts_who_is_seen_and_who_waits(services: Billing) -> None:
    for id in ("a", "b", "c"):
        await services.receive(id, plan="pro", id=f"sub_{id}", customer_id=f"ctm_{id}")
    await services.shadow_switches.switch("live", "tenant:a", {}, on=True)
    await services.erasure.erase("live", "tenant:c", "asked for", {})
    found = await report(services, "live", 10)
    assert (found.is_on, found.unseen, found.seen, found.waiting) == (True, 1, 1, 1)  # the switch is looked at again


async def test_a_failure_of_the_other_system_is_shown_for_a_while(services: Billing) -> None:
    await services.receive(plan="pro")
    await work(services, Other(acme=Unreachable("status 401")))
    assert (await report(services, "live", 10)).problem == {
        "topic": TOPIC, "reason": "status 401", "at_us": services.now_us
    }  # fmt: skip


async def test_an_edit_of_the_mapping_compares_again_and_asks_for_fields_that_are_new(
    services: Billing, tmp_path: Path
) -> None:
    await services.receive(plan="pro")
    other = Other(acme={"tier": "gold", "since": "2026-01-01"})
    await work(services, other)
    assert (await report(services, "live", 10)).differing == 1
    redis: Any = services.store.redis
    path = tmp_path / "catalog.toml"
    path.write_text(path.read_text() + '[shadow.values]\nplan = { gold = "pro" }\n')
    await services.shadow_comparisons.after_edit("live", TOPIC)
    assert (await report(services, "live", 10)).differing == 0
    due = services.store.keys.shadow("live", "due")
    assert await redis.zscore(due, TOPIC) > services.now_us
    path.write_text(path.read_text().replace("[shadow.values]", '"period.starts_at" = "since"\n[shadow.values]'))
    await services.shadow_comparisons.after_edit("live", TOPIC)
    assert await redis.zscore(due, TOPIC) == services.now_us
    await work(services, other)
    assert "period.starts_at" in (await report(services, "live", 10)).fields


async def test_a_switched_tenant_is_compared_as_before(services: Billing) -> None:
    await services.shadow_switches.switch_share("live", 1.0, {}, clears=True)
    await services.receive(plan="pro")
    other = Other(acme={"tier": "pro"})
    await work(services, other)
    services.clock.advance(60)
    await services.receive(plan="basic")
    due_us = await services.store.redis.zscore(services.store.keys.shadow("live", "due"), TOPIC)
    assert due_us == services.shadow_due_us
    await work(services, other)
    assert (await report(services, "live", 10)).differing == 1


async def counts(services: Billing) -> dict[str, int]:
    """The comparisons by result."""
    found = await counters.read(services.store)
    return {dict(labels)["result"]: count for (name, labels), count in found.items() if name == "shadow_comparisons"}


class Unreachable(SyncError):
    """The other system fails."""


class Other:
    """An entitlement system with these answers."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def serves(self, topic: Any) -> bool:
        return bool(topic.env == "live")

    async def ask(self, topic: Any, max_wait_s: float) -> Any:
        self.asked.append(topic.id)
        answer = self.answers.get(topic.id)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def work(services: Billing, other: Other | None = None) -> int:
    """Work on the queue as a worker does, on whatever is in it; return the number of tenants."""
    redis: Any = services.store.redis
    queues, queue = ShadowQueues(services, "live", other, Unreachable), services.environment("live").shadow.queue
    for member in await redis.zrange(services.store.keys.shadow("live", "due"), 0, -1):
        await redis.zadd(services.store.keys.shadow("live", "due"), {member: 1})
    found = await queue.claim(100)
    for due in found:
        await services.isolation.work("shadow", queue, queues.compare, due)
    return len(found)


async def test_each_change_is_compared_with_a_fetched_answer_and_again_a_day_later(services: Billing) -> None:
    other = Other(acme={"tier": "basic", "flags": ["sso"]})
    await services.receive(plan="pro")
    assert await work(services, other) == 1
    found = await report(services, "live", 10)
    assert (found.differing, found.fields["plan"]) == (1, Field(1, 1))
    redis: Any = services.store.redis
    due_us = await redis.zscore(services.store.keys.shadow("live", "due"), TOPIC)
    assert due_us == services.now_us + COMPARE_EVERY_S * 1_000_000


async def test_one_that_fails_is_retried_and_stops_no_other(services: Billing) -> None:
    other = Other(a=Unreachable("down"), b={"tier": "pro"})
    for id in ("a", "b", "unknown"):
        await services.receive(id, plan="pro", id=f"sub_{id}", customer_id=f"ctm_{id}")
    assert await work(services, other) == 3
    found = await report(services, "live", 10)
    assert (found.compared, found.differing) == (1, 0)
    redis: Any = services.store.redis
    due_us = await redis.zscore(services.store.keys.shadow("live", "due"), "tenant:a")
    assert services.now_us < due_us < services.now_us + 300_000_001
    assert await services.environment("live").shadow.queue.parked() == {}
    other.answers["a"] = {"tier": "basic"}
    await work(services, other)
    assert (await report(services, "live", 10)).differing == 1
