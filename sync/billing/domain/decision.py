"""Decides what an event, or a reprojection without one, commits to a tenant; or returns why nothing changes. Pure.

It calls the reducer, then the projection. `storage.tenants` reads a `Tenant`; `services.committer` commits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple, assert_never

from sync.billing.domain.conclusion import Decided as Decided, Tenant as Tenant, conclude
from sync.billing.domain.entitlements.applications import is_lost_anywhere
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.items import is_ignored
from sync.billing.domain.entitlements.projection import Unprojectable
from sync.billing.domain.entitlements.takeover import ENDED_REASON, takeover_grants, without_ended_grants
from sync.billing.domain.entitlements.unknown_items import (
    as_new,
    buys_anything,
    is_new_and_unknown,
    items_subject,
    remember_granted,
    reported_prices,
    unknown_reason,
)
from sync.billing.domain.facts.customers import PARKED_BY_POLICY, second_customer_note
from sync.billing.domain.facts.model import LIVE_STATUSES, NOTHING, Event, Facts, subscription_key
from sync.billing.domain.facts.reducer import Moved, Reduced, Stale, Unusable, merge_fetched, received, reduce
from sync.billing.domain.facts.refunds import with_refund
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
from sync.billing.domain.refund_decision import decide_refund
from sync.billing.domain.tenant_resolution import subjects
from sync.core import instants

ChangeFacts = Callable[[Facts], Facts]
"""A change of a tenant's facts. It may be called more than once, and its exceptions propagate."""


class Delivery(NamedTuple):
    """An event as it is processed now.

    Attributes:
        fetched: the provider's own answer about the event's subscription, if it was asked.
        received_ns: when the event was first received; None: it counts as of its own time.
        moved_us: the time of the move that gave the subscription to this tenant; 0 if it was never moved.
        is_again: whether the event was processed before: an unknown price that was parked then may still be unknown.
    """

    event: Event
    fetched: Event | None = None
    received_ns: int | None = None
    moved_us: int = 0
    is_again: bool = False

    @property
    def key(self) -> str:
        """The key of the event's subscription within the facts."""
        return _key(self.event)


def decide(tenant: Tenant, delivery: Delivery, setting: Setting) -> EventResult | Decided:
    """Return a tenant's facts and state after an event, or the event's result if they do not change."""
    topic, facts = tenant.topic, tenant.facts
    if delivery.received_ns is not None:
        delivery = delivery._replace(event=received(facts, delivery.event, delivery.received_ns))
    event = delivery.event
    if facts.erased_ns is not None:
        return after_erasure(topic, facts.erased_ns, event, delivery.fetched or event)
    if event.refund is not None:
        return decide_refund(tenant, event, setting, delivery.moved_us)
    if _is_other_software(facts, event, setting):
        return OTHER_SOFTWARE
    result = _reduced_and_merged(facts, delivery, setting)
    match result:
        case EventResult():
            return result
        case Stale(reason):
            return _rejected_as_stale(facts, delivery, reason, setting)
        case Moved():
            return MOVED
        case Unusable(reason):
            return EventResult(Outcome.PARKED, reason, waits=(WAITS_SOFTWARE,))
        case Reduced(after, stale):
            return _decide_reduced(tenant, delivery, after, stale, setting)
        case _:
            assert_never(result)


def _reduced_and_merged(
    facts: Facts, delivery: Delivery, setting: Setting
) -> Reduced | Stale | Moved | Unusable | EventResult:
    """Return the facts after the event and the provider's answer, or why they stay."""
    event, fetched, moved_us = delivery.event, delivery.fetched, delivery.moved_us
    result = _reduced(facts, event, setting, reduce(facts, event, moved_us))
    if fetched is None:
        return result
    is_new = isinstance(result, Reduced)
    before = result.facts if isinstance(result, Reduced) else facts
    answer = _reduced(before, fetched, setting, merge_fetched(before, fetched, moved_us, confirms=is_new))
    if isinstance(answer, Reduced):
        return answer
    if isinstance(result, Unusable) and isinstance(answer, Stale):
        return EventResult(Outcome.UNCHANGED, answer.reason)
    return result


def _rejected_as_stale(facts: Facts, delivery: Delivery, reason: str, setting: Setting) -> EventResult:
    """Return the result of an event that brings nothing new. While its prices are unknown, it stays parked."""
    event, key = delivery.event, delivery.key
    items = () if event.subscription is None else event.subscription.items
    prices = reported_prices(facts, key, setting) & {item.price_id for item in items} if delivery.is_again else ()
    if not prices:
        return EventResult(Outcome.REFUSED, reason)
    return EventResult(Outcome.PARKED, _unknown(event, prices, setting), waits=(WAITS_CATALOG, items_subject(key)))


def _decide_reduced(
    tenant: Tenant, delivery: Delivery, after: Facts, stale: str, setting: Setting
) -> EventResult | Decided:
    """Return the decision about an event that changes the facts to `after`; parked for its customer or its prices.

    Args:
        stale: why the event is not the newest of its subscription; "" if it is.
    """
    before, event, key = tenant.facts, delivery.event, delivery.key
    note = second_customer_note(after, key)
    if note and _is_parked_by_policy(before, event, setting):
        return EventResult(Outcome.PARKED, f"{note}; {PARKED_BY_POLICY}", waits=(*subjects(event), WAITS_CATALOG))
    events = (event,) if delivery.fetched is None else (event, delivery.fetched)
    ended = ENDED_REASON if takeover_grants(before) != takeover_grants(after) else ""
    decided = conclude(tenant, after, setting, note or stale or ended, events)
    if isinstance(decided, Unprojectable):
        return EventResult(Outcome.PARKED, decided.reason, waits=(WAITS_CATALOG,))
    prices = reported_prices(as_new(before, after, key), key, setting)
    is_reported = not prices or prices <= reported_prices(before, key, setting)
    if is_reported and not (prices and is_lost_anywhere(after.subscriptions[key], setting)):
        return replace(decided, is_stale=True) if stale else decided
    reason, waits = _unknown(event, prices, setting), (WAITS_CATALOG, items_subject(key))
    if is_new_and_unknown(before, after, key, setting):
        return EventResult(Outcome.PARKED, reason, waits=waits)
    reason = f"{note}; {reason}" if note else reason
    return replace(decided, note=reason, waits=waits, is_parked=not buys_anything(after, key, setting))


def _reduced(
    before: Facts, event: Event, setting: Setting, result: Reduced | Stale | Moved | Unusable
) -> Reduced | Stale | Moved | Unusable:
    """Return the result of reducing an event, with what stands in for unknown items, and without ended grants."""
    if isinstance(result, Moved | Unusable):
        return result
    after = result.facts if isinstance(result, Reduced) else before
    joined = without_ended_grants(remember_granted(before, after, event, setting), (event,), setting)
    if joined is after:
        return result
    return result._replace(facts=joined) if isinstance(result, Reduced) else Reduced(joined)


def _key(event: Event) -> str:
    return "" if event.subscription is None else subscription_key(event.provider, event.subscription.id)


def _unknown(event: Event, prices: Collection[str], setting: Setting) -> str:
    return unknown_reason([(event.provider, price_id) for price_id in prices], setting, event)


def decide_without_event(
    tenant: Tenant, fetched: Sequence[Event], change: ChangeFacts, setting: Setting
) -> EventResult | Decided:
    """Merge what was fetched, apply `change`, and return the facts and state; or the result if nothing is projected.

    Empty facts that are not stored are not projected.

    Raises:
        Exception: whatever `change` raises.
    """
    if tenant.facts.erased_ns is not None:
        return EventResult(Outcome.UNCHANGED, ERASED_REASON)
    after, note = tenant.facts, ""
    waits: tuple[str, ...] = ()
    for event in fetched:
        if event.refund is not None:
            after = with_refund(after, event, is_answer=True) or after
            continue
        if _is_other_software(after, event, setting):
            continue
        answer = _reduced(after, event, setting, merge_fetched(after, event))
        if isinstance(answer, Reduced):
            key = _key(event)
            reason = second_customer_note(answer.facts, key)
            if reason and _is_parked_by_policy(after, event, setting):
                note = f"{reason}; {PARKED_BY_POLICY}"
            elif is_new_and_unknown(after, answer.facts, key, setting):
                note = _unknown(event, reported_prices(answer.facts, key, setting), setting)
                waits = (WAITS_CATALOG,)
            else:
                after = answer.facts
        elif isinstance(answer, Unusable):
            note = answer.reason
    after = change(after)
    if after == NOTHING and (waits or not tenant.is_known):
        return EventResult(Outcome.UNCHANGED, note, waits=waits)
    decided = conclude(tenant, after, setting, note, fetched)
    if isinstance(decided, Unprojectable):
        return EventResult(Outcome.UNCHANGED, decided.reason, waits=(WAITS_CATALOG,))
    if not decided.unknown:
        return decided
    return replace(decided, note=decided.note or decided.unknown, waits=(WAITS_CATALOG,))


def _is_parked_by_policy(before: Facts, event: Event, setting: Setting) -> bool:
    """Return whether a second customer's event is parked: by the policy, unless its subscription is known already."""
    return setting.catalog.policy.second_customer == "park" and _key(event) not in before.subscriptions


def after_erasure(topic: str, erased_ns: int, event: Event, newest: Event) -> EventResult:
    """Return the result of an erased tenant's event: parked if the tenant has come back and pays, else ignored.

    A refund of what it has bought since waits with the purchase. What it had bought before has lost its link.
    """
    body = newest.subscription
    is_payment = event.refund is not None or (body is not None and body.status in LIVE_STATUSES)
    if not is_payment or event.order.occurred_ns <= erased_ns:
        return ERASED
    reason = f"{ERASED_REASON} at {instants.text(erased_ns)} and pays again: revive it, or drop this event"
    return EventResult(Outcome.PARKED, reason, waits=(revival_of(topic),))


def _is_other_software(facts: Facts, event: Event, setting: Setting) -> bool:
    """Return whether other software sells the event's subscription. If the tenant has it, it has changed hands."""
    return is_ignored(event, setting) and _key(event) not in facts.subscriptions
