"""A topic's stream of processed events tells each once, whatever is sent twice and whosever clock is ahead."""

from __future__ import annotations

from typing import Any

from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.storage.records import EVENTS_KEPT, append_event
from sync.store.command_pipeline import CommandPipeline
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.store import Store

TOPIC = "tenant:acme"
AT_US = 1_795_000_000_000_000


async def tell(
    store: Store, event_id: str, at_us: int, outcome: str = "applied", reason: str = "why", **options: Any
) -> int:
    batch = CommandPipeline(store)
    result = EventResult(Outcome(outcome), reason)
    append_event(batch, TOPIC, event_id, "subscription.updated", result, at_us, **options)
    (told,) = await batch.run()
    return int(told)


async def entries(store: Store) -> list[tuple[str, str]]:
    found: Any = await store.redis.xrange(keys.events(TOPIC))
    return [(fields[b"event_id"].decode(), fields[b"outcome"].decode()) for _, fields in found]


async def test_what_is_sent_again_is_told_once(store: Store) -> None:
    assert [await tell(store, "evt_1", AT_US), await tell(store, "evt_1", AT_US)] == [1, 0]
    assert await tell(store, "evt_1", AT_US + 5, "refused") == 1
    assert await tell(store, "evt_2", AT_US + 1000) == 1
    assert await tell(store, "evt_1", AT_US) == 0, "also behind newer ones"
    assert await entries(store) == [("evt_1", "applied"), ("evt_1", "refused"), ("evt_2", "applied")]


async def test_two_attempts_tell_one_result_once(store: Store) -> None:
    assert await tell(store, "evt_1", AT_US + 5_000, since_us=AT_US) == 1
    assert await tell(store, "evt_1", AT_US + 9_000, since_us=AT_US) == 0
    assert await tell(store, "evt_2", AT_US + 9_000, since_us=AT_US) == 1
    assert await tell(store, "evt_1", AT_US + 9_000, "refused", since_us=AT_US) == 1
    assert await tell(store, "evt_1", AT_US + 12_000, "refused", "why else", since_us=AT_US) == 1
    assert await tell(store, "evt_1", AT_US + 15_000, "refused", "or so", since_us=AT_US, any_end=True) == 0
    assert await tell(store, "evt_2", AT_US + 15_000, "refused", since_us=AT_US, any_end=True) == 0
    assert await tell(store, "evt_2", AT_US + 15_000, "parked", since_us=AT_US, any_end=True) == 1
    assert await tell(store, "evt_1", AT_US + 18_000, since_us=AT_US + 18_000) == 1, "before it could be told first"


async def test_a_clock_that_is_behind_loses_nothing_and_repeats_nothing(store: Store) -> None:
    assert await tell(store, "evt_ahead", AT_US + 60_000_000) == 1
    assert [await tell(store, "evt_1", AT_US), await tell(store, "evt_1", AT_US)] == [1, 0]
    assert await tell(store, "evt_2", AT_US) == 1
    assert [event_id for event_id, _ in await entries(store)] == ["evt_ahead", "evt_1", "evt_2"]


async def test_it_is_capped(store: Store) -> None:
    for number in range(3 * EVENTS_KEPT):
        await tell(store, f"evt_{number}", AT_US + number * 1000)
    found = await entries(store)
    assert EVENTS_KEPT <= len(found) < 2 * EVENTS_KEPT
    assert found[-1] == (f"evt_{3 * EVENTS_KEPT - 1}", "applied")
