"""What an event, or a look at a tenant without one, makes of its facts: what to commit, or the result without. Pure.

It calls the reducer, then the projection; `services.committer` reads the facts and commits the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import assert_never

import orjson

from sync.billing.catalog.catalog import Catalog
from sync.billing.domain.drift import Drift
from sync.billing.domain.model import NOTHING, Event, Facts
from sync.billing.domain.outcome import ERASED, ERASED_REASON, WAITS_CATALOG, WAITS_SOFTWARE, EventResult, Outcome
from sync.billing.domain.overrides import active_overrides
from sync.billing.domain.preview import check_awaited
from sync.billing.domain.projection import State, Unprojectable, publishable
from sync.billing.domain.reducer import Reduced, Stale, Unusable, merge_fetched, reduce
from sync.billing.domain.wakeups import next_wakeup_us
from sync.core import instants


@dataclass(frozen=True, slots=True)
class Setting:
    """What a decision depends on besides the tenant.

    Attributes:
        askable: the providers that can be asked, each with its environment.
    """

    catalog: Catalog
    environment: str
    askable: Collection[tuple[str, str]]
    now_ns: int


@dataclass(frozen=True, slots=True)
class Decided:
    """Facts and their state, to be committed.

    Attributes:
        wake_us: when time must look at the topic again, microseconds since 1970; None for never.
        note: why a part of what was asked for is not in them, or what was dropped; "" for neither.
        missed: the drift record of a preview that came out otherwise than foreseen.
    """

    facts: Facts
    state: State
    wake_us: int | None
    note: str = ""
    missed: Drift | None = None


def decide(topic: str, facts: Facts, event: Event, fetched: Event | None, setting: Setting) -> EventResult | Decided:
    """Return what the event makes of a tenant's facts.

    Args:
        fetched: the provider's own answer about the event's subscription, if it was asked.
    """
    if facts.erased_ns is not None:
        return ERASED
    result = reduce(facts, event)
    if fetched is not None:
        is_new = isinstance(result, Reduced)
        answer = merge_fetched(result.facts if isinstance(result, Reduced) else facts, fetched, confirms=is_new)
        if isinstance(answer, Reduced):
            result = answer
        elif isinstance(result, Unusable) and isinstance(answer, Stale):
            return EventResult(Outcome.UNCHANGED, answer.reason)
    match result:
        case Stale(reason):
            return EventResult(Outcome.REFUSED, reason)
        case Unusable(reason):
            return EventResult(Outcome.PARKED, reason, waits=(WAITS_SOFTWARE,))
        case Reduced(after):
            decided = _conclude(topic, facts, after, setting)
            if isinstance(decided, Unprojectable):
                return EventResult(Outcome.PARKED, decided.reason, waits=(WAITS_CATALOG,))
            return decided
        case _:
            assert_never(result)


def decide_without_event(
    topic: str,
    facts: Facts,
    fetched: Sequence[Event],
    change: Callable[[Facts], Facts],
    setting: Setting,
    *,
    is_known: bool,
) -> EventResult | Decided:
    """Return what the fetched bodies, then `change`, and the setting make of a tenant's facts.

    Args:
        is_known: whether facts are stored, if only empty ones. Without any, the topic was published by others, or the
            store lost them: then nothing is projected.

    Raises:
        Exception: whatever `change` raises.
    """
    if facts.erased_ns is not None:
        return EventResult(Outcome.UNCHANGED, ERASED_REASON)
    after, note = _merged(facts, fetched)
    after = change(after)
    if after == NOTHING and not is_known:
        return EventResult(Outcome.UNCHANGED)
    decided = _conclude(topic, facts, after, setting, note)
    if isinstance(decided, Unprojectable):
        return EventResult(Outcome.UNCHANGED, decided.reason, waits=(WAITS_CATALOG,))
    return decided


def _merged(facts: Facts, fetched: Sequence[Event]) -> tuple[Facts, str]:
    """Return the facts with the fetched bodies in them, and why one of them is not."""
    problem = ""
    for event in fetched:
        answer = merge_fetched(facts, event)
        if isinstance(answer, Reduced):
            facts = answer.facts
        elif isinstance(answer, Unusable):
            problem = answer.reason
    return facts, problem


def _conclude(topic: str, before: Facts, after: Facts, setting: Setting, note: str = "") -> Decided | Unprojectable:
    """Return what can be published of the new facts, and whether an awaited preview came out otherwise."""
    now_ns, now_us = setting.now_ns, setting.now_ns // 1000
    result = publishable(after, setting.catalog, setting.environment, now_ns)
    if isinstance(result, Unprojectable):
        return result
    facts, differing = check_awaited(before, result.facts, result.projected, now_ns)
    missed = None
    if differing and before.awaited_preview is not None:
        here = {str(entry["path"]): entry.get("from") for entry in differing}
        there = {str(entry["path"]): entry.get("to") for entry in differing}
        missed = Drift("preview", topic, before.awaited_preview.preview_id, "landed", now_us, here, there)
    wake_us = next_wakeup_us(result.projected, facts, setting.environment, setting.askable, now_us)
    return Decided(facts, result.projected.state, wake_us, note or result.dropped, missed)


def event_cause(event: Event, fetched: Event | None, received_us: int, facts: Facts, now_ns: int) -> bytes:
    """Return the cause of a version with these facts that an event makes, as JSON."""
    document: dict[str, object] = {
        "source": event.provider,
        "event_id": event.event_id,
        "event_type": event.type,
        "occurred_at": instants.text(event.order.occurred_ns),
        "received_at": instants.text(received_us * 1000),
    }
    if fetched is not None:
        document["fetched_at"] = instants.text(fetched.order.occurred_ns)
    return orjson.dumps(document | active_overrides(facts, now_ns))
