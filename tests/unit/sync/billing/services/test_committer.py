"""The compare-and-set loop: decide again on conflict, arm the timer before the commit, and stop after a bound."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from sync.billing.domain.facts.instructions import Override
from sync.billing.domain.facts.model import Facts
from sync.billing.domain.outcome import EventResult, Outcome
from sync.billing.services.committer import CONFLICTS_MAX, QUIET, Decision, Write
from sync.billing.services.reproject import Refresh
from sync.store.models import Change, Snapshot, StoreError
from tests.support.memory_store import START_US
from tests.support.services import TOPIC, Billing

WRITE = Write(b'{"n":1}', b'{"source":"test"}', enlists=True)
APPLIED = EventResult(Outcome.APPLIED, "because")


def writing(wake_us: int | None = None) -> Decision:
    return Decision(APPLIED, WRITE, after=Facts(), wake_us=wake_us)


async def test_a_decision_without_a_write_changes_nothing(services: Billing) -> None:
    result = EventResult(Outcome.IGNORED, "no")
    commit = await services.committer.commit(TOPIC, lambda snapshot: Decision(result))
    assert commit.result == result
    assert await services.store.versions([TOPIC]) == [0]


async def test_a_conflict_is_decided_again_on_the_newer_snapshot(services: Billing) -> None:
    seen: list[int] = []

    def decide(snapshot: Snapshot) -> Decision:
        seen.append(snapshot.rev)
        return writing()

    stale = await services.committer.read(TOPIC)
    other = await services.store.commit(Change(TOPIC, b'{"n":0}'))
    commit = await services.committer.commit(TOPIC, decide, stale)
    assert seen == [0, other.rev]
    assert (commit.result.outcome, commit.result.reason) == (Outcome.APPLIED, "because")
    assert await services.state() == {"n": 1}


async def test_it_stops_when_others_always_come_first(services: Billing) -> None:
    calls = 0
    others: Any = services.store

    async def read(topic: str) -> Snapshot:
        nonlocal calls
        calls += 1
        snapshot: Snapshot = await type(others).read(others, topic)
        await others.commit(Change(topic, b'{"n":%d}' % (calls + 1)))
        return snapshot

    services.committer.read = read  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="commits in a row came too late"):
        await services.committer.commit(TOPIC, lambda snapshot: writing())
    assert calls == CONFLICTS_MAX


async def test_concurrent_commits_of_one_process_do_not_conflict(services: Billing) -> None:
    decided = 0

    def decide(snapshot: Snapshot) -> Decision:
        nonlocal decided
        decided += 1
        write = WRITE._replace(state=b'{"n":%d}' % decided)
        return Decision(APPLIED, write)

    await asyncio.gather(*(services.committer.commit(TOPIC, decide) for _ in range(10)))
    assert decided == 10
    assert await services.state() == {"n": 10}


async def test_the_timer_and_the_list_are_written_before_the_commit(
    services: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise StoreError("killed before the commit")

    with monkeypatch.context() as patch:
        patch.setattr(services.store, "committed", lost)
        patch.setattr(services.store, "add_commit", lambda batch, change: batch.command("PING", change.topic))
        with pytest.raises(StoreError, match="killed"):
            await services.committer.commit(TOPIC, lambda snapshot: writing(START_US + 5_000_000))
    assert await services.store.versions([TOPIC]) == [0]
    assert [topic async for topic in services.environment("live").topics()] == [TOPIC]
    services.clock.advance(6)
    assert [due.topic for due in await services.environment("live").timers.claim(10)] == [TOPIC]


async def test_a_commit_of_facts_alone_says_so_and_its_history_has_what_no_version_tells(services: Billing) -> None:
    """An operator's act is written with its reason and its author, whatever it changes."""
    await services.receive(event_id="evt_1")
    quiet = await services.receive(event_id="evt_2", address_id="add_2")
    assert (quiet.outcome, quiet.reason) == (Outcome.APPLIED, QUIET)
    about = {"override": "feature:sso", "reason": "asked for", "claimed_by": "jo", "by": "key:ops"}
    cause = {"source": "operator", "event_type": "override.granted", **about}
    granted = Override("feature", "sso", True, "asked for", by="jo")
    refresh = Refresh(cause, change=lambda facts: replace(facts, overrides=(granted,)))
    commit = await services.reprojection.refresh("live", TOPIC, refresh)
    assert (commit.result.outcome, commit.result.version) == (Outcome.APPLIED, quiet.version)
    entries: Any = await services.store.redis.xrange(services.store.keys.events(TOPIC))
    reasons = [fields[b"reason"].decode() for _, fields in entries]
    assert reasons[:2] == ["", QUIET]
    assert reasons[2] == f"{QUIET}; override: feature:sso; reason: asked for; claimed_by: jo; by: key:ops"
