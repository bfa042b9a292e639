"""Billing in the shadow of another entitlement system: readers see nothing of it until a tenant is switched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.services.background.shadow_queue import COMPARE_EVERY_S, ShadowQueue
from sync.billing.services.committer import SHADOW
from sync.billing.storage.tenants import is_shadow
from sync.core.errors import SyncError
from sync.store.models import Change, Verdict
from tests.support.services import TOPIC, Billing, billing

WHO = {"by": "eve"}


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Billing]:
    path = tmp_path / "catalog.toml"
    path.write_text(f'{EXAMPLE.read_text()}\n[shadow.fields]\nplan = "tier"\nstatus = "state"\nfeatures = "flags"\n')
    with billing(CatalogWatcher(path)) as services:
        yield services


async def publish(services: Billing, state: object, **fields: Any) -> Verdict:
    """Publish a tenant's state, as the application does."""
    change = Change(TOPIC, orjson.dumps(state), **fields)
    return (await services.store.commit(change)).verdict


async def computed(services: Billing) -> Any:
    """The plan that billing computes, whoever sees it."""
    found = await services.reprojection.reproject("live", TOPIC, "test")
    snapshot = await services.store.read(TOPIC)
    assert found.version == snapshot.version
    return orjson.loads(snapshot.beside if is_shadow(snapshot) else snapshot.state)["plan"]["key"]


async def test_readers_see_nothing_until_the_switch_and_nothing_after_the_switch_back(services: Billing) -> None:
    result = await services.receive(plan="pro")
    assert (result.outcome, result.reason, result.version) == ("applied", SHADOW, 0)
    assert (await services.store.read(TOPIC)).state == b"null"
    assert await services.store.log(TOPIC) == []
    assert list((await services.facts()).subscriptions) != []
    assert await computed(services) == "pro"

    switched = await services.shadowing.switch("live", TOPIC, WHO, on=True)
    assert (switched.outcome, await services.plan()) == ("applied", "pro")
    assert switched.version > 0
    (entry,) = await services.store.log(TOPIC, 1)
    assert orjson.loads(entry.cause) == {"source": "operator", "event_type": "shadow.switched", "by": "eve"}

    back = await services.shadowing.switch("live", TOPIC, WHO, on=False)
    assert back.version > switched.version
    assert await services.state() is None
    assert await computed(services) == "pro"
    assert (await services.shadowing.switch("live", TOPIC, WHO, on=False)).outcome == "unchanged"


async def test_facts_go_on_in_the_shadow_and_dedupe_as_they_do_elsewhere(services: Billing) -> None:
    await services.receive(plan="basic", event_id="evt_1")
    services.clock.advance(60)
    await services.receive(plan="pro", event_id="evt_2")
    assert (await services.receive(plan="pro", event_id="evt_2")).outcome == "duplicate"
    assert await computed(services) == "pro"
    await services.shadowing.switch("live", TOPIC, WHO, on=True)
    services.clock.advance(60)
    await services.receive(plan="basic", event_id="evt_3")
    assert await services.plan() == "basic"


async def test_what_the_application_publishes_stays_what_readers_see(services: Billing) -> None:
    assert await publish(services, {"plan": "old"}, private=b'{"secret":1}') is Verdict.APPLIED
    await services.receive(plan="pro")
    assert await services.state() == {"plan": "old"}
    assert await publish(services, {"plan": "older"}) is Verdict.APPLIED
    assert await services.state() == {"plan": "older"}
    assert await computed(services) == "pro"
    services.clock.advance(60)
    await services.receive(plan="basic")
    assert await services.state() == {"plan": "older"}
    assert await computed(services) == "basic"


async def test_a_switch_shows_billing_s_state_and_back_the_newest_published_one(services: Billing) -> None:
    await publish(services, {"plan": "old"}, private=b'{"secret":1}', order="1")
    await services.receive(plan="pro")
    await services.shadowing.switch("live", TOPIC, WHO, on=True)
    assert await services.plan() == "pro"
    assert not (await services.facts()).overrides
    assert await publish(services, {"plan": "new"}, private=b'{"secret":2}', order="3") is Verdict.BILLED
    assert await publish(services, {"plan": "late"}, order="2") is Verdict.BILLED
    assert await services.plan() == "pro"
    await services.shadowing.switch("live", TOPIC, WHO, on=False)
    snapshot = await services.store.read(TOPIC)
    assert (orjson.loads(snapshot.state), snapshot.private) == ({"plan": "new"}, b'{"secret":2}')
    assert await publish(services, {"plan": "newer"}, order="4") is Verdict.APPLIED


async def test_a_share_switches_the_same_tenants_and_grows(services: Billing) -> None:
    topics = [f"tenant:t{number}" for number in range(30)]
    for number in range(30):
        await services.receive(f"t{number}", plan="pro", id=f"sub_{number}", customer_id=f"ctm_{number}")

    async def visible(share: float) -> set[str]:
        await services.shadowing.switch_share("live", share, clears=False)
        await work(services)
        return {topic for topic in topics if (await services.store.read(topic)).version and await services.state(topic)}

    small, large = await visible(0.2), await visible(0.6)
    assert small < large < set(topics)
    assert await visible(0.2) == small
    assert await visible(1) == set(topics)
    assert await visible(0) == set()


async def test_by_name_goes_before_the_share_and_all_clears_the_names(services: Billing) -> None:
    await services.receive(plan="pro")
    await services.shadowing.switch("live", TOPIC, WHO, on=False)
    await services.shadowing.switch_share("live", 1, clears=False)
    await work(services)
    assert await services.state() is None
    await services.shadowing.switch_share("live", 1, clears=True)
    await work(services)
    assert await services.plan() == "pro"


async def test_a_tenant_that_is_new_after_the_switch_is_seen_at_once(services: Billing) -> None:
    await services.shadowing.switch_share("live", 1, clears=True)
    await services.receive(plan="pro")
    assert await services.plan() == "pro"


async def test_tenants_from_before_the_shadow_stay_seen(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(EXAMPLE.read_text())
    with billing(CatalogWatcher(path)) as services:
        await services.receive(plan="pro")
        services.has_shadow = True
        services.clock.advance(60)
        await services.receive(plan="basic")
        assert await services.plan() == "basic"
        await services.shadowing.switch_share("live", 0.0, clears=False)
        await work(services)
        assert await services.plan() == "basic"


async def test_an_erased_tenant_leaves_nothing_beside(services: Billing) -> None:
    await services.receive(plan="pro")
    await services.shadowing.answered("live", TOPIC, {"tier": "pro"}, 1, "posted")
    await services.erasure.erase("live", TOPIC, "asked for", WHO)
    snapshot = await services.store.read(TOPIC)
    assert (snapshot.state, snapshot.beside, snapshot.beside_private) == (b"null", b"", b"")
    assert await services.environment("live").shadow.record(TOPIC) is None
    assert (await services.receive(plan="pro")).outcome in ("ignored", "parked")
    await services.erasure.revive("live", TOPIC, "came back", WHO)
    assert await services.state() is None


class TestComparison:
    """What is compared, recorded and reported."""

    async def test_a_difference_is_a_drift_record_once_and_goes_when_both_agree(self, services: Billing) -> None:
        await services.receive(plan="pro")
        for _ in range(2):
            found = await services.shadowing.answered("live", TOPIC, {"tier": "Basic", "state": "active"}, 1, "posted")
            assert [tuple(one) for one in found.comparison.differences] == [("plan", "pro", "basic")]
        records, _ = await services.environment("live").drifts.page("", 10)
        shadow = [record for record in records if record["kind"] == "shadow"]
        assert [(one["here"], one["there"], one["why"]) for one in shadow] == [
            ({"plan": "pro"}, {"plan": "basic"}, "posted")
        ]
        report = await services.shadowing.report("live", 10)
        assert (report.compared, report.differing, report.fields, report.plans) == (1, 1, {"plan": 1}, {"pro": 1})
        services.clock.advance(60)
        await services.receive(plan="basic")
        await work(services)
        report = await services.shadowing.report("live", 10)
        assert (report.compared, report.differing, report.examples) == (1, 0, [])

    async def test_an_older_answer_is_not_used(self, services: Billing) -> None:
        await services.receive(plan="pro")
        await services.shadowing.answered("live", TOPIC, {"tier": "pro"}, 5, "posted")
        late = await services.shadowing.answered("live", TOPIC, {"tier": "basic"}, 4, "posted")
        assert late.is_stale
        assert (await services.shadowing.report("live", 10)).differing == 0

    async def test_a_tenant_that_billing_does_not_know_has_the_default_plan(self, services: Billing) -> None:
        found = await services.shadowing.answered("live", TOPIC, {"tier": "pro"}, 1, "posted")
        assert [tuple(one) for one in found.comparison.differences] == [("plan", "free", "pro")]
        (example,) = (await services.shadowing.report("live", 10)).examples
        assert example["is_known"] is False


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
    tenants = ShadowQueue(services, "live", other, Unreachable)
    for member in await redis.zrange(services.store.keys.shadow("live", "due"), 0, -1):
        await redis.zadd(services.store.keys.shadow("live", "due"), {member: 1})
    found = await tenants.queue.claim(100)
    for due in found:
        await services.isolation.work("shadow", tenants.queue, tenants.handle, due)
    return len(found)


async def test_each_change_is_compared_with_a_fetched_answer_and_again_a_day_later(services: Billing) -> None:
    other = Other(acme={"tier": "basic", "flags": ["sso"]})
    await services.receive(plan="pro")
    assert await work(services, other) == 1
    report = await services.shadowing.report("live", 10)
    assert (report.differing, report.fields["plan"]) == (1, 1)
    redis: Any = services.store.redis
    due_us = await redis.zscore(services.store.keys.shadow("live", "due"), TOPIC)
    assert due_us == services.now_us + COMPARE_EVERY_S * 1_000_000


async def test_one_that_fails_is_retried_and_stops_no_other(services: Billing) -> None:
    other = Other(a=Unreachable("down"), b={"tier": "pro"})
    for id in ("a", "b", "unknown"):
        await services.receive(id, plan="pro", id=f"sub_{id}", customer_id=f"ctm_{id}")
    assert await work(services, other) == 3
    report = await services.shadowing.report("live", 10)
    assert (report.compared, report.differing) == (1, 0)
    redis: Any = services.store.redis
    due_us = await redis.zscore(services.store.keys.shadow("live", "due"), "tenant:a")
    assert services.now_us < due_us < services.now_us + 300_000_001
    assert await services.environment("live").shadow.queue.parked() == {}
    other.answers["a"] = {"tier": "basic"}
    await work(services, other)
    assert (await services.shadowing.report("live", 10)).differing == 1
