"""Decides what an event, or a reprojection without one, commits to a tenant; or returns why nothing changes. Pure.

It calls the reducer, then the projection; `services.committer` reads the facts and commits the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import orjson

from sync.billing.domain.entitlements.evaluation import Setting, is_ignored, is_lost, without_void_change
from sync.billing.domain.entitlements.overrides import active_overrides
from sync.billing.domain.entitlements.preview import check_awaited
from sync.billing.domain.entitlements.projection import Projected, State, Unprojectable, project
from sync.billing.domain.entitlements.purchases import (
    is_held,
    items_subject,
    reported_prices,
    unknown_reason,
    waits_whole,
    with_granted,
    with_held,
)
from sync.billing.domain.entitlements.takeover import take_over
from sync.billing.domain.facts.customers import second_customer_drift, second_customer_reason, second_customers
from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.facts.model import LIVE_STATUSES, NOTHING, Event, Facts, subscription_key
from sync.billing.domain.facts.reducer import Moved, Reduced, Stale, Unusable, merge_fetched, received, reduce
from sync.billing.domain.outcome import (
    ERASED,
    ERASED_REASON,
    MOVED,
    OTHER_SOFTWARE,
    WAITS_CATALOG,
    WAITS_SOFTWARE,
    EventResult,
    Outcome,
    revival_of,
)
from sync.billing.domain.tenant_resolution import subjects
from sync.core import instants

ASK_AGAIN_MIN_S, ASK_AGAIN_MAX_S = 10, 900
"""Bounds of the delay before the provider is asked again about an overdue change: half of the time overdue."""

ChangeFacts = Callable[[Facts], Facts]
"""A change of a tenant's facts. It may be called more than once, and its exceptions propagate."""

EXECUTE_AGAIN_S = 300
"""Delay before the provider is asked again to make a scheduled change after a failed attempt."""


PARKS = '[policy] second_customer is "park": link the subscription with `planwire link`, or change the policy'
"""What to do about a second customer's event that is parked."""


@dataclass(frozen=True, slots=True)
class Decided:
    """Facts and their state, to be committed.

    Attributes:
        wake_us: next wakeup of the topic, microseconds since 1970; None for never.
        note: why a part of the request is not in them, or what was dropped; "" for neither.
        is_stale: whether the event is not the newest of its subscription; then `note` says why.
        drifts: the drift records of what it found: a preview that differs from the result, a second customer, a
            published plan.
        waits: what unknown prices wait on; an event is parked beside its commit.
        is_held: whether the event shows nothing that the catalog knows.
    """

    facts: Facts
    state: State
    wake_us: int | None
    note: str = ""
    drifts: tuple[Drift, ...] = ()
    waits: tuple[str, ...] = ()
    is_held: bool = False
    is_stale: bool = False


def decide(
    topic: str,
    facts: Facts,
    event: Event,
    fetched: Event | None,
    setting: Setting,
    published: State | None = None,
    moved_us: int = 0,
    *,
    received_ns: int | None = None,
    shown: bytes = b"",
    is_again: bool = False,
) -> EventResult | Decided:
    """Return a tenant's facts and state after the event, or the result if they do not change.

    Args:
        fetched: the provider's own answer about the event's subscription, if it was asked.
        published: the state that billing takes over from a publisher; None for a topic that is its own, or new.
        moved_us: the time of the move that gave the subscription to this tenant; 0 if it was never moved.
        received_ns: when the event was first received; None: it counts as of its own time.
        shown: the state that billing has published last; empty for none.
        is_again: whether the event was processed before: an unknown price that was parked then may still be unknown.
    """
    if received_ns is not None:
        event = received(facts, event, received_ns)
    if facts.erased_ns is not None:
        return after_erasure(topic, facts.erased_ns, event, fetched or event)
    if _is_other_software(facts, event, setting):
        return OTHER_SOFTWARE
    result = _reduced(facts, event, setting, reduce(facts, event, moved_us))
    if fetched is not None:
        is_new = isinstance(result, Reduced)
        before = result.facts if isinstance(result, Reduced) else facts
        answer = _reduced(before, fetched, setting, merge_fetched(before, fetched, moved_us, confirms=is_new))
        if isinstance(answer, Reduced):
            result = answer
        elif isinstance(result, Unusable) and isinstance(answer, Stale):
            return EventResult(Outcome.UNCHANGED, answer.reason)
    match result:
        case Stale(reason):
            items = () if event.subscription is None else event.subscription.items
            prices = reported_prices(facts, _key(event), setting) & {item.price_id for item in items}
            if is_again and prices:
                waits = (WAITS_CATALOG, items_subject(_key(event)))
                return EventResult(Outcome.PARKED, _unknown(event, prices, setting), waits=waits)
            return EventResult(Outcome.REFUSED, reason)
        case Moved():
            return MOVED
        case Unusable(reason):
            return EventResult(Outcome.PARKED, reason, waits=(WAITS_SOFTWARE,))
        case Reduced(reduced, stale):
            note, key = _second_customer(reduced, event), _key(event)
            if note and _is_parked(facts, event, setting):
                return EventResult(Outcome.PARKED, f"{note}; {PARKS}", waits=(*subjects(event), WAITS_CATALOG))
            decided = _conclude(topic, facts, reduced, setting, note or stale, published, shown)
            if isinstance(decided, Unprojectable):
                return EventResult(Outcome.PARKED, decided.reason, waits=(WAITS_CATALOG,))
            prices = reported_prices(reduced, key, setting)
            is_lost_now = bool(prices) and is_lost(reduced.subscriptions[key], setting)
            if not is_lost_now and not prices - reported_prices(facts, key, setting):
                return replace(decided, waits=(), is_stale=bool(stale))  # reported before
            reason, waits = _unknown(event, prices, setting), (WAITS_CATALOG, items_subject(key))
            if waits_whole(facts, reduced, key, setting):
                return EventResult(Outcome.PARKED, reason, waits=waits)
            reason = f"{note}; {reason}" if note else reason
            return replace(decided, note=reason, waits=waits, is_held=is_held(reduced, key, setting))
        case _:
            assert_never(result)


def _reduced(
    before: Facts, event: Event, setting: Setting, result: Reduced | Stale | Moved | Unusable
) -> Reduced | Stale | Moved | Unusable:
    """Return the result of reducing an event, with what stands in for unknown items."""
    if isinstance(result, Moved | Unusable):
        return result
    after = result.facts if isinstance(result, Reduced) else before
    joined = with_granted(before, after, event, setting)
    if joined is after:
        return result
    return replace(result, facts=joined) if isinstance(result, Reduced) else Reduced(joined)


def _key(event: Event) -> str:
    return "" if event.subscription is None else subscription_key(event.provider, event.subscription.id)


def _unknown(event: Event, prices: Collection[str], setting: Setting) -> str:
    return unknown_reason([(event.provider, price_id) for price_id in prices], setting)


def decide_without_event(
    topic: str,
    facts: Facts,
    fetched: Sequence[Event],
    change: ChangeFacts,
    setting: Setting,
    *,
    is_known: bool,
    published: State | None = None,
    shown: bytes = b"",
) -> EventResult | Decided:
    """Merge the fetched bodies, apply `change`, and return the facts and state; or the result if nothing is projected.

    Args:
        is_known: whether facts are stored, even empty ones. If not, the topic is a publisher's, or the store lost the
            facts: then empty facts are not projected.
        published, shown: see `decide`.

    Raises:
        Exception: whatever `change` raises.
    """
    if facts.erased_ns is not None:
        return EventResult(Outcome.UNCHANGED, ERASED_REASON)
    after, note = facts, ""
    waits: tuple[str, ...] = ()
    for event in fetched:
        if _is_other_software(after, event, setting):
            continue
        answer = _reduced(after, event, setting, merge_fetched(after, event))
        if isinstance(answer, Reduced):
            reason, key = _second_customer(answer.facts, event), _key(event)
            if reason and _is_parked(after, event, setting):
                note = f"{reason}; {PARKS}"
            elif waits_whole(after, answer.facts, key, setting):
                note = _unknown(event, reported_prices(answer.facts, key, setting), setting)
                waits = (WAITS_CATALOG,)
            else:
                after = answer.facts
        elif isinstance(answer, Unusable):
            note = answer.reason
    after = change(after)
    if after == NOTHING and (waits or not is_known):
        return EventResult(Outcome.UNCHANGED, note, waits=waits)
    decided = _conclude(topic, facts, after, setting, note, published, shown)
    if isinstance(decided, Unprojectable):
        return EventResult(Outcome.UNCHANGED, decided.reason, waits=(WAITS_CATALOG,))
    return decided


def _second_customer(after: Facts, event: Event) -> str:
    """Return the sentence about the event's subscription if its customer is not the tenant's own; else ""."""
    assert event.subscription is not None
    key = subscription_key(event.provider, event.subscription.id)
    return second_customer_reason(after, key) if key in second_customers(after) else ""


def _is_parked(before: Facts, event: Event, setting: Setting) -> bool:
    """Return whether a second customer's event is parked: by the policy, unless its subscription is known already."""
    assert event.subscription is not None
    is_known = subscription_key(event.provider, event.subscription.id) in before.subscriptions
    return setting.catalog.policy.second_customer == "park" and not is_known


def after_erasure(topic: str, erased_ns: int, event: Event, newest: Event) -> EventResult:
    """Return the result of an erased tenant's event: parked if the tenant has come back and pays, else ignored."""
    body = newest.subscription
    if body is None or body.status not in LIVE_STATUSES or event.order.occurred_ns <= erased_ns:
        return ERASED
    reason = f"{ERASED_REASON} at {instants.text(erased_ns)} and pays again: revive it, or drop this event"
    return EventResult(Outcome.PARKED, reason, waits=(revival_of(topic),))


def _is_other_software(facts: Facts, event: Event, setting: Setting) -> bool:
    """Return whether other software sells the event's subscription. If the tenant has it, it has changed hands."""
    if event.subscription is None or not is_ignored(event, setting):
        return False
    return subscription_key(event.provider, event.subscription.id) not in facts.subscriptions


def _conclude(
    topic: str, before: Facts, after: Facts, setting: Setting, note: str, published: State | None, shown: bytes
) -> Decided | Unprojectable:
    """Project the new facts, keep a published plan, and compare the result with an awaited preview."""
    after, dropped = without_void_change(after, setting)
    projected = project(after, setting)
    if after.held is not None or isinstance(projected, Unprojectable):
        after = with_held(before, after, shown, setting)
        projected = project(after, setting)
    drifts: tuple[Drift, ...] = ()
    if published is not None and isinstance(projected, Projected):
        after, projected, drifts = take_over(topic, after, projected, published, setting)
    if isinstance(projected, Unprojectable):
        return projected
    facts, differing = check_awaited(before, after, projected, setting.now_ns)
    drifts += second_customer_drift(topic, before, after, setting.now_ns)
    if differing and before.awaited_preview is not None:
        here = {str(entry["path"]): entry.get("from") for entry in differing}
        there = {str(entry["path"]): entry.get("to") for entry in differing}
        preview_id = before.awaited_preview.preview_id
        drifts += (Drift("preview", topic, preview_id, "landed", setting.now_ns // 1000, here, there),)
    note = note or dropped or projected.unknown
    waits = (WAITS_CATALOG,) if projected.unknown else ()
    return Decided(facts, projected.state, next_wakeup_us(projected, facts, setting), note, drifts, waits)


def next_wakeup_us(projected: Projected, facts: Facts, setting: Setting) -> int | None:
    """Return when a topic must be evaluated again without an event, in microseconds since 1970, or None for never.

    It is the earliest of: the state's next change by time, the next query to the provider, and the next attempt at a
    scheduled plan change.
    """
    now_us, due_us = setting.now_ns // 1000, []
    if projected.valid_until_ns is not None:
        due_us.append(_rounded_up_us(projected.valid_until_ns))
    if any(environment == setting.environment for _, environment in setting.askable):
        change = facts.scheduled_change
        entry = None if change is None else facts.subscriptions.get(change.subscription)
        is_askable = entry is not None and (entry.provider, setting.environment) in setting.askable
        if change is not None and not change.executed and is_askable:
            # The first attempt has no delay, even if it is due now: soon the bill locks the subscription.
            again_s = EXECUTE_AGAIN_S if change.problem else 0
            due_us.append(max(_rounded_up_us(change.execute_ns), now_us + again_s * 1_000_000))
        pending = projected.state.get("pending")
        if pending is not None:
            half_s = (now_us - instants.parse(pending["since"]) // 1000) / 2_000_000
            due_us.append(now_us + int(min(max(half_s, ASK_AGAIN_MIN_S), ASK_AGAIN_MAX_S) * 1_000_000))
    return min(due_us, default=None)


def _rounded_up_us(ns: int) -> int:
    """Return the instant in microseconds: a timer must not fire before it."""
    return -(-ns // 1000)


def event_cause(event: Event, fetched: Event | None, received_us: int, facts: Facts, now_ns: int) -> bytes:
    """Return the cause of the version that an event creates, as JSON; `facts` are the version's."""
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
