"""The inbox: an event is pending, parked or done; what claims, releases and lists it."""

from __future__ import annotations

import pytest

from sync.billing.domain.facts.model import Unparsable
from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.storage.inbox import KEEP_DONE_S, Inbox
from sync.store.command_pipeline import CommandPipeline
from sync.store.store import Store
from tests.support.inbox import take_up
from tests.support.memory_store import START_US, Clock

LEASE_S = 30.0


@pytest.fixture
def inbox(store: Store) -> Inbox:
    return Inbox(store, "live", LEASE_S)


async def put(store: Store, inbox: Inbox, id: str, claim: str = "", at_us: int = START_US) -> EventResult | int:
    batch = CommandPipeline(store)
    inbox.put(batch, Unparsable(id, "kind", ""), b"{}", "paddle", at_us, claim)
    reply = Inbox.put_reply((await batch.run())[0])
    if isinstance(reply, EventResult):
        return reply
    assert reply.received_us == START_US
    return reply.number


async def end(store: Store, inbox: Inbox, id: str, result: EventResult, *, again: bool = False) -> None:
    batch = CommandPipeline(store)
    inbox.end(batch, id, result, again=again)
    await batch.run()


def parked(*waits: str) -> EventResult:
    return EventResult(Outcome.PARKED, "because", waits=waits)


async def test_a_second_delivery_is_a_duplicate_while_the_first_is_processed_and_after(
    store: Store, inbox: Inbox
) -> None:
    assert await put(store, inbox, "evt_1") == 1
    assert await put(store, inbox, "evt_1") == EventResult(Outcome.DUPLICATE)
    await end(store, inbox, "evt_1", EventResult(Outcome.APPLIED, version=7))
    assert await put(store, inbox, "evt_1") == EventResult(Outcome.DUPLICATE, "applied", version=7)


async def test_the_same_delivery_sent_again_claims_again(store: Store, inbox: Inbox) -> None:
    assert await put(store, inbox, "evt_1", "claim") == 1
    assert await put(store, inbox, "evt_1", "claim", START_US + 5) == 2, "and keeps the time of the first receipt"
    assert await put(store, inbox, "evt_1", "other") == EventResult(Outcome.DUPLICATE)


async def test_a_pending_event_is_claimed_when_its_lease_has_expired(store: Store, inbox: Inbox, clock: Clock) -> None:
    await put(store, inbox, "evt_1")
    assert await inbox.claim(10) == []
    clock.advance(LEASE_S + 1)
    record = await take_up(inbox)
    assert (record.event_id, record.attempts, record.body, record.status) == ("evt_1", 2, b"{}", "pending")
    assert await inbox.claim(10) == [], "it is claimed"


async def test_a_parked_event_waits_for_what_releases_it(store: Store, inbox: Inbox, clock: Clock) -> None:
    for id in ("evt_1", "evt_2"):
        await put(store, inbox, id)
        await end(store, inbox, id, parked("subscription:1"))
        clock.advance(1)
    await put(store, inbox, "evt_3")
    await end(store, inbox, "evt_3", parked("other"))
    clock.advance(LEASE_S)
    assert await inbox.claim(10) == []
    assert await inbox.counts() == (0, 3)
    assert await inbox.reopen("subscription:1") == 2
    assert {due.id for due in await inbox.claim(10)} == {"evt_1", "evt_2"}
    assert [record.event_id for record in await inbox.parked(None, 10)][-1] == "evt_3"


async def test_parked_events_of_one_microsecond_are_listed_once_each(store: Store, inbox: Inbox) -> None:
    ids = [f"evt_{number}" for number in range(7)]
    for id in ids:
        await put(store, inbox, id)
        await end(store, inbox, id, parked("x"))
    found: list[str] = []
    after: tuple[int, str] | None = None
    while page := await inbox.parked(after, 3):
        found += [record.event_id for record in page]
        after = page[-1].parked_us, page[-1].event_id
    assert found == ids


async def test_one_parked_for_a_recheck_is_due_after_a_lease(store: Store, inbox: Inbox, clock: Clock) -> None:
    await put(store, inbox, "evt_1")
    await end(store, inbox, "evt_1", parked("x"), again=True)
    clock.advance(LEASE_S + 1)
    assert [due.id for due in await inbox.claim(10)] == ["evt_1"]


async def test_a_done_event_keeps_its_body_only_where_the_state_lacks_it_and_ends(
    store: Store, inbox: Inbox, clock: Clock
) -> None:
    for id, outcome in (("evt_1", Outcome.APPLIED), ("evt_2", Outcome.REFUSED)):
        await put(store, inbox, id)
        await end(store, inbox, id, EventResult(outcome))
    applied, refused = await inbox.read("evt_1"), await inbox.read("evt_2")
    assert applied is None or applied.body == b""
    assert refused is not None
    assert refused.body == b"{}"
    clock.advance(KEEP_DONE_S + 1)
    assert await inbox.read("evt_2") is None
    assert await put(store, inbox, "evt_2") == 1
