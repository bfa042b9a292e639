"""The five stages of an event, on a store in memory: what is stored, committed, parked, released and retried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.domain.outcome import WAITS_SOFTWARE, EventResult, Outcome
from sync.billing.services.context import LEASE_S
from sync.billing.storage.inbox import Record
from sync.core import instants
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import StoreError
from tests.support.inbox import take_up
from tests.support.paddle import price_id
from tests.support.services import TOPIC, Billing, billing


async def pending(services: Billing) -> int:
    return (await services.environment("live").inbox.counts())[0]


async def fails(
    services: Billing, monkeypatch: pytest.MonkeyPatch, part: object, method: str, error: Exception
) -> None:
    """Deliver `evt_1`, whose processing ends with `error` at a method of a part."""

    async def broken(*_: object) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(part, method, broken)
        with pytest.raises(type(error), match=str(error)):
            await services.receive(event_id="evt_1")


async def test_an_event_makes_a_version_with_its_cause_and_a_repeat_makes_none(services: Billing) -> None:
    first = await services.receive(event_id="evt_1")
    assert (first.outcome, first.topic) == (Outcome.APPLIED, TOPIC)
    snapshot = await services.store.read(TOPIC)
    assert snapshot.version == first.version
    assert b'"event_id":"evt_1"' in snapshot.cause
    services.clock.advance(1)
    assert (await services.receive(event_id="evt_1")).outcome is Outcome.DUPLICATE
    assert (await services.store.read(TOPIC)).version == first.version


async def test_an_older_event_is_ignored_and_the_event_log_says_so(services: Billing) -> None:
    body = services.body(event_id="evt_old", plan="basic")
    services.clock.advance(1)
    await services.receive(event_id="evt_new")
    late = await services.ingest.receive(services.adapters["paddle"], body, "live")
    assert late.outcome is Outcome.REFUSED
    assert await services.plan() == "pro"
    entries: Any = await services.store.redis.xrange(services.store.keys.events(TOPIC))
    assert [(fields[b"event_id"], fields[b"outcome"]) for _, fields in entries] == [
        (b"evt_new", b"applied"),
        (b"evt_old", b"refused"),
    ]


async def test_an_event_without_a_tenant_is_parked_and_the_checkout_that_names_one_releases_it(
    services: Billing,
) -> None:
    parked = await services.receive(None, event_id="evt_1")
    assert parked.outcome is Outcome.PARKED
    assert "no tenant is known for sub_1" in parked.reason
    services.clock.advance(1)
    link = {"subscription_id": "sub_1", "kind": "transaction.completed"}
    assert (await services.receive("acme", **link)).outcome in (Outcome.UNCHANGED, Outcome.APPLIED)
    assert await services.plan() == "pro"
    assert await services.environment("live").inbox.counts() == (0, 0)


async def test_an_unreadable_body_is_parked_until_newer_software(services: Billing) -> None:
    result = await services.ingest.receive(services.adapters["paddle"], b'{"event_id":"evt_1"}', "live")
    assert (result.outcome, result.waits) == (Outcome.PARKED, (WAITS_SOFTWARE,))
    record = await services.environment("live").inbox.read("evt_1")
    assert record is not None
    assert record.status == "parked"


async def test_what_fails_after_it_was_stored_is_due_at_once_and_processed_by_a_worker(
    services: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fails(services, monkeypatch, services.committer, "commit", StoreError("gone"))
    assert await pending(services) == 1
    record = await take_up(services.environment("live").inbox)
    assert record.attempts == 2
    assert (await services.ingest.resume(record, "live")).outcome is Outcome.APPLIED
    assert await pending(services) == 0
    assert await services.plan() == "pro"


async def test_a_crash_after_the_commit_is_completed_without_a_second_version(
    services: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fails(services, monkeypatch, services.ingest.finisher, "finish", RuntimeError("killed"))
    version = (await services.store.read(TOPIC)).version
    assert await services.environment("live").inbox.claim(10) == [], "its lease still holds"
    services.clock.advance(LEASE_S + 1)
    record = await take_up(services.environment("live").inbox)
    result = await services.ingest.resume(record, "live")
    assert result.outcome is Outcome.APPLIED
    assert (await services.store.read(TOPIC)).version == version
    assert await services.environment("live").inbox.counts() == (0, 0)


@pytest.mark.parametrize("plan", ["basic", "pro"])
async def test_two_attempts_at_a_time_tell_the_result_once(
    services: Billing, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    """Of a lease that runs out while its holder is at work: the event has one entry, refused or applied."""
    created = {"created_at": instants.text(services.now_ns())}
    older = services.body(event_id="evt_1", plan="basic", **created)
    services.clock.advance(1)
    await services.receive(event_id="evt_0", plan="basic", **created)
    services.clock.advance(1)
    newer = services.body(event_id="evt_1", plan="pro", **created)
    finisher, inbox = services.ingest.finisher, services.environment("live").inbox
    finish, held = finisher.finish, list[Any]()

    async def hold(processed: Any) -> EventResult:
        held.append(processed)
        result: EventResult = processed.result
        return result

    with monkeypatch.context() as patch:
        patch.setattr(finisher, "finish", hold)
        body = older if plan == "basic" else newer
        await services.ingest.receive(services.adapters["paddle"], body, "live")
        services.clock.advance(LEASE_S + 1)
        await services.ingest.resume(await take_up(inbox), "live")
    for processed in reversed(held):  # the holder that was too slow ends last
        services.clock.advance(1)
        await finish(processed)
    entries: Any = await services.store.redis.xrange(services.store.keys.events(TOPIC))
    assert [fields[b"event_id"] for _, fields in entries].count(b"evt_1") == 1


async def test_an_operator_can_retry_a_parked_event_and_no_other(services: Billing) -> None:
    await services.receive(None, event_id="evt_1")
    assert await services.ingest.retry("live", "evt_2") is None
    again = await services.ingest.retry("live", "evt_1")
    assert again is not None
    assert again.outcome is Outcome.PARKED
    await services.receive("acme", event_id="evt_3")
    assert await services.ingest.retry("live", "evt_3") is None, "it is done"


async def test_an_event_given_up_is_parked_with_the_reason(services: Billing) -> None:
    await services.receive(None, event_id="evt_1")
    inbox = services.environment("live").inbox
    batch = CommandPipeline(services.store)
    inbox.release(batch, "tenant:none", 10)
    await batch.run()
    record = await inbox.read("evt_1")
    assert record is not None
    await services.ingest.give_up(record, "live", "failed 8 times: ValueError()")
    after = await inbox.read("evt_1")
    assert after is not None
    assert (after.status, after.reason, after.waits) == ("parked", "failed 8 times: ValueError()", (WAITS_SOFTWARE,))


async def test_events_that_wait_for_the_catalog_are_not_a_downgrade(services: Billing) -> None:
    await services.receive(event_id="evt_1")
    services.clock.advance(1)
    unknown = await services.receive(event_id="evt_2", items=[("pri_of_nobody", 1)])
    assert unknown.outcome is Outcome.PARKED
    assert "pri_of_nobody" in unknown.reason
    assert await services.plan() == "pro"


async def test_a_waiting_member_that_is_not_utf_8_does_not_fail_the_event_that_releases_it(services: Billing) -> None:
    await services.receive(items=[("pri_unknown", 1), (price_id("pro"), 1)], event_id="evt_1")
    redis: Any = services.store.redis
    waiting = services.store.keys.inbox("live", "waiting")
    (member,) = [one for one in await redis.zrange(waiting, 0, -1) if one.startswith(b"items:")]
    await redis.zadd(waiting, {member.replace(b"evt_1", b"evt_\xff"): 0})
    services.clock.advance(1)
    assert (await services.receive(event_id="evt_2")).outcome is Outcome.APPLIED
    assert await redis.zrange(waiting, 0, -1) == []


async def test_events_that_wait_together_are_retried_once_each_however_many_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parking = tmp_path / "catalog.toml"
    parking.write_text(EXAMPLE.read_text("utf-8").replace('second_customer = "accept"', 'second_customer = "park"'))
    with billing(CatalogWatcher(parking)) as services:
        await services.receive(created_at="2026-11-01T00:00:00Z")
        retried: list[str] = []
        resume = services.ingest.resume

        async def counted(record: Record, environment: str) -> EventResult:
            retried.append(record.event_id)
            return await resume(record, environment)

        monkeypatch.setattr(services.ingest, "resume", counted)
        about = {"id": "sub_2", "customer_id": "ctm_2", "created_at": "2026-11-02T00:00:00Z"}
        for number in range(20):
            services.clock.advance(1)
            parked = await services.receive(event_id=f"evt_{number}", **about)
            assert parked.outcome is Outcome.PARKED
        for number in range(20):
            await services.ingest.retry("live", f"evt_{number}")
        assert len(retried) <= 2 * 20


async def test_a_name_of_an_event_that_could_not_be_stored_releases_once_it_is_stored(
    services: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.receive(None, event_id="evt_1")
    services.clock.advance(1)
    named = services.body("acme", subscription_id="sub_1", kind="transaction.completed", event_id="evt_2")

    def failing(batch: CommandPipeline, *_: object) -> None:
        batch.command("INCR", services.store.keys.inbox("live", "waiting"))

    with monkeypatch.context() as patch:
        patch.setattr(services.environment("live").inbox, "put", failing)
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await services.ingest.receive(services.adapters["paddle"], named, "live")
    assert await services.environment("live").inbox.counts() == (0, 1)
    await services.ingest.receive(services.adapters["paddle"], named, "live")
    assert await services.plan() == "pro"
    assert await services.environment("live").inbox.counts() == (0, 0)
