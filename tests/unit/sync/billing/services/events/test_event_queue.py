"""Items that end their process, and processes that have lost their claim, on a store in memory and its clock."""

from __future__ import annotations

from typing import Any

import pytest

from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.services.context import LEASE_S
from sync.billing.services.events.event_queue import QUEUE, EventQueue
from sync.billing.storage.inbox import Record
from sync.store.command_pipeline import CommandPipeline
from sync.store.isolation import ATTEMPTS_MAX
from tests.support.inbox import take_up
from tests.support.services import Billing


async def put(services: Billing, event_id: str, claim: str = "", **fields: Any) -> None:
    """Store an event whose first process stops before the work on it."""
    body, batch = services.body(event_id=event_id, **fields), CommandPipeline(services.store)
    event = services.parse("paddle", body, "live")
    services.environment("live").inbox.put(batch, event, body, "paddle", services.now_us, claim)
    await batch.run()


class TestItemsThatEndTheProcess:
    """Attempts are counted when they begin: an item that ends every worker is parked, and no other of its batch."""

    async def test_a_tenant(self, services: Billing) -> None:
        tried: list[str] = []
        timers = services.environment("live").timers

        async def fire(due: Any) -> None:
            tried.append(due.topic)
            if due.topic == "tenant:fatal":
                raise KeyboardInterrupt  # as a crash: nothing is written any more
            await timers.ack(due)

        batch = CommandPipeline(services.store)
        for topic in ("tenant:a", "tenant:fatal", "tenant:z"):
            timers.schedule_earlier(batch, topic, 1)
        await batch.run()
        for _ in range(ATTEMPTS_MAX + 3):
            for due in await timers.claim(10):
                try:
                    await services.isolation.work("timers", timers, fire, due)
                except KeyboardInterrupt:
                    break
            services.clock.advance(LEASE_S + 1)
        assert tried.count("tenant:fatal") == ATTEMPTS_MAX
        assert (tried.count("tenant:a"), tried.count("tenant:z")) == (1, 1)
        (reason,) = [entry["reason"] for entry in (await timers.parked()).values()]
        assert "UnendedError" in reason

    async def test_an_event(self, services: Billing, monkeypatch: pytest.MonkeyPatch) -> None:
        tried: list[str] = []
        resume = services.ingest.resume

        async def dying(record: Record, environment: str) -> EventResult:
            tried.append(record.event_id)
            if record.event_id == "evt_1":
                raise KeyboardInterrupt
            return await resume(record, environment)

        monkeypatch.setattr(services.ingest, "resume", dying)
        await put(services, "evt_1")
        await put(services, "evt_2", id="sub_2", tenant="zzz")
        events = EventQueue(services, services.ingest, "live")
        for _ in range(ATTEMPTS_MAX + 3):
            services.clock.advance(LEASE_S + 1)
            for item in await events.claim(10):
                try:
                    await services.isolation.work(QUEUE, events, events.handle, item)
                except KeyboardInterrupt:
                    break
        assert tried.count("evt_1") == ATTEMPTS_MAX
        assert tried.count("evt_2") == 1
        record = await services.environment("live").inbox.read("evt_1")
        assert record is not None
        assert (record.status, "UnendedError" in record.reason) == ("parked", True)


class TestTheClaimOfAnEvent:
    """A process that has lost the claim of an event can neither end nor postpone it."""

    async def test_only_the_holder_ends_an_event(self, services: Billing) -> None:
        inbox = services.environment("live").inbox
        await put(services, "evt_1", "of the delivery")
        holders = ["of the delivery"]
        for _ in range(2):
            services.clock.advance(LEASE_S + 1)
            holders.append((await take_up(inbox)).claim)
        *late, holder = holders
        for claim in late:
            for result in (EventResult(Outcome.APPLIED), EventResult(Outcome.PARKED, "no link", waits=("x",))):
                batch = CommandPipeline(services.store)
                inbox.end(batch, "evt_1", result, claim=claim)
                inbox.postpone(batch, "evt_1", 0, claim)
                assert await batch.run() == [0, 0]
        assert await inbox.counts() == (1, 0)
        assert await inbox.claim(1) == [], "its holder's lease is as it was"
        batch = CommandPipeline(services.store)
        inbox.end(batch, "evt_1", EventResult(Outcome.APPLIED), claim=holder)
        assert await batch.run() == [1]
        assert await inbox.counts() == (0, 0)

    async def test_a_late_process_does_not_begin(self, services: Billing) -> None:
        inbox = services.environment("live").inbox
        await put(services, "evt_1")
        services.clock.advance(LEASE_S + 1)
        (late,) = await inbox.claim(1)
        services.clock.advance(LEASE_S + 1)
        assert (await take_up(inbox)).attempts == 2
        assert await inbox.begin(late) is None
