"""Facts + event -> facts, or why not. Pure. Any permutation or duplication of a history gives the same result.

Per subscription the newest body wins, by the event's own order key (`model.Order`). The marks of a past_due run are a
set; marks older than the newest settled event are dropped. Both are joins: commutative, associative, idempotent. The
result depends only on the subscription's own events.

Events of a coarse clock (`Event.step`) share their instant with others. They are kept for INSTANTS_KEPT instants, and
`steps.last` decides anew with each that arrives.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import groupby

from sync.billing.domain.facts import model, steps
from sync.billing.domain.facts.customers import second_customers
from sync.billing.domain.facts.model import (
    Ahead,
    Event,
    Facts,
    Order,
    Subscription,
    SubscriptionFacts,
    subscription_key,
)
from sync.billing.domain.facts.order import CLOCK_SLACK_NS
from sync.billing.domain.facts.steps import Kind, Seen, Step

SUBSCRIPTIONS_MAX = 500
"""Maximum subscriptions per tenant. Ended ones are kept, or else an old event could revive them."""

SECOND_CUSTOMERS_MAX = 100
"""Maximum subscriptions of other customers per tenant: strangers must not use up SUBSCRIPTIONS_MAX."""

PAST_DUE_MARKS_MAX = 100
"""Maximum past_due events stored per run. Beyond it the newest are dropped, which keeps the start of grace."""

INSTANTS_KEPT = 3
"""How many instants of a coarse clock keep their events: the newest with bodies, the oldest only its last event."""

INSTANT_EVENTS_MAX = 16
"""Maximum events kept of one instant. Beyond it those that were received first are dropped."""

FETCH_LAG_NS = 60 * 1_000_000_000
"""How far a provider's API may lag behind its webhooks."""

ASKED_SINCE = "older than what the provider was asked for since"
"""The reason of an event that arrives after a newer answer of its provider: no information is lost."""

STAMP_NS = 1_000
"""The coarsest precision of providers' `updated_at`: a difference of up to this is not a change."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """The facts with the event in them; `stale` says why the event is not the newest of its subscription, if so."""

    facts: Facts
    stale: str = ""


@dataclass(frozen=True, slots=True)
class Stale:
    """The event brings nothing new; `reason` says why. The facts stay."""

    reason: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The subscription was moved to another tenant, and the event belongs there. The facts stay."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """The event is newer than the facts but cannot be understood; `reason` says why. The facts stay."""

    reason: str


def received(facts: Facts, event: Event, at_ns: int) -> Event:
    """Return the event as it counts for a tenant if it was first received at `at_ns`.

    An event from the future (a provider's test clock, a wrong clock) counts as of its receipt: real events that follow
    must not be older. Among each other, such events have the order of their own clock. This and the order within one
    instant are all that depends on the receipt.
    """
    own = event.order
    if own.occurred_ns <= at_ns + CLOCK_SLACK_NS:
        return event if event.step is None else replace(event, received_ns=at_ns)
    order = Order.of(own.updated_ns, at_ns, own.event_id)
    known = facts.subscriptions.get(subscription_key(event.provider, event.subscription_id or ""))
    if known is not None and known.ahead is not None:
        order = known.ahead.beside(own, order)
    return replace(event, order=order, received_ns=at_ns, own=own)


def reduce(facts: Facts, event: Event, moved_us: int = 0) -> Reduced | Stale | Moved | Unusable:
    """Return the tenant's facts after the event, or why they stay.

    Args:
        moved_us: the time of the move that gave the subscription to this tenant, as far as the caller knows.
    """
    body = event.subscription
    if body is None:
        return Stale("the event carries no subscription")
    key = subscription_key(event.provider, body.id)
    before = facts.subscriptions.get(key)
    if before is None and facts.moved.get(key, -1) >= moved_us:
        return Moved()
    if before is None and len(facts.subscriptions) >= SUBSCRIPTIONS_MAX:
        return Unusable(f"the tenant has {SUBSCRIPTIONS_MAX} subscriptions already")
    unusable = _unusable(body)
    if unusable:
        if before is not None and event.order <= before.order:
            return Stale(_older(event.order, before.order))
        return Unusable(unusable)
    after = _joined(before, event, body)
    created_ns = _created_ns(before, event, body)
    is_vouched = event.is_signed or (before is not None and before.is_vouched)
    ahead = None if before is None else before.ahead
    if event.own is not None and (ahead is None or event.own > ahead.own):
        ahead = Ahead(event.own, event.order)
    if before is not None and (created_ns, is_vouched, ahead) != (before.created_ns, before.is_vouched, before.ahead):
        after = after or before
    if after is None:
        assert before is not None
        return Stale(_older(event.order, before.order))
    moved_us = max(moved_us, 0 if before is None else before.moved_us)
    after = replace(after, created_ns=created_ns, is_vouched=is_vouched, moved_us=moved_us, ahead=ahead)
    reduced = replace(facts, subscriptions={**facts.subscriptions, key: after})
    if before is None and len(facts.subscriptions) >= SECOND_CUSTOMERS_MAX:
        second = second_customers(reduced)
        if key in second and len(second) > SECOND_CUSTOMERS_MAX:
            return Unusable(f"the tenant has {SECOND_CUSTOMERS_MAX} subscriptions of other customers already")
    stale = "" if event.order == after.order else _older(event.order, after.order)
    return Reduced(reduced, stale)


def merge_fetched(
    facts: Facts, fetched: Event, moved_us: int = 0, *, confirms: bool = False
) -> Reduced | Stale | Moved | Unusable:
    """Return the facts after a fetched body, or why they stay.

    As `reduce`, but a body equal to the stored one is Stale, so that polling creates no versions.

    A fetched body is newer than every event that occurred before its fetch began, unless its `updated_at` is older than
    the stored one: then the provider's API lags behind its webhooks. An API lags by at most FETCH_LAG_NS: if the stored
    event occurred earlier than that before the fetch, the fetched body wins whatever its `updated_at`.

    Args:
        moved_us: see `reduce`.
        confirms: the facts already contain the event that it was fetched for.
    """
    body = fetched.subscription
    assert body is not None
    before = facts.subscriptions.get(subscription_key(fetched.provider, body.id))
    if before is not None:
        # Without modification times only the time of the fetch is new, which is not a change by itself. But an event
        # that the fetch confirms becomes as new as the fetch.
        is_newer = fetched.order.updated_ns > before.order.updated_ns + STAMP_NS
        is_newer = is_newer and (confirms or not fetched.unstamped)
        created_ns = before.created_ns
        is_more = body.created_ns is not None and (created_ns is None or body.created_ns < created_ns)
        is_more = is_more or (fetched.is_signed and not before.is_vouched)
        if body == before.subscription and not is_more and not is_newer:
            return Stale("what the provider says is known already")
        if before.order.occurred_ns + FETCH_LAG_NS < fetched.order.occurred_ns:
            updated_ns = max(fetched.order.updated_ns, before.order.updated_ns)
            fetched = replace(fetched, order=fetched.order._replace(updated_ns=updated_ns))
    result = reduce(facts, fetched, moved_us)
    if fetched.step is not None and isinstance(result, Reduced) and result.stale:
        return Stale(result.stale)  # it shows nothing, and events need no answer to be ordered
    return result


def _unusable(body: Subscription) -> str:
    if body.status not in model.KNOWN_STATUSES:
        return f"unknown status {body.status[:40]!r}"
    if body.scheduled is not None and body.scheduled.action not in model.KNOWN_ACTIONS:
        return f"unknown scheduled action {body.scheduled.action[:40]!r}"
    return ""


def _older(order: Order, known: Order) -> str:
    if order == known:
        return "this event is what is known already"
    return f"older than {known.event_id}" if known.event_id != model.FETCHED_ID else ASKED_SINCE


def _joined(before: SubscriptionFacts | None, event: Event, body: Subscription) -> SubscriptionFacts | None:
    """Return the subscription's facts with the event in them, or None if it changes nothing."""
    order = event.order
    if event.step is not None:
        recent = _recent(before, Seen(order, event.step, event.received_ns, body.status, body))
        if recent is None:
            return None
        if recent:
            return _stepped(before, event, body, recent)
    settled, marks = (None, ()) if before is None else (before.settled, before.past_due)
    if body.status == "past_due":
        marks = _marked(marks, order) if settled is None or order > settled else marks
    elif settled is None or order > settled:
        settled = order
        marks = tuple([mark for mark in marks if mark > order]) if marks else marks
    if before is None or order > before.order:
        return SubscriptionFacts(event.provider, body, order, settled, marks)
    if settled == before.settled and marks == before.past_due:
        return None
    return replace(before, settled=settled, past_due=marks)


def _recent(before: SubscriptionFacts | None, seen: Seen) -> list[Seen] | None:
    """Return the recent events with this one, ascending; [] if it is too old to be one; None if it is one already."""
    if before is None:
        return [seen]
    known = before.recent
    if not known:
        # Facts of an older build.
        kind = Kind.END if before.subscription.status in model.ENDED_STATUSES else Kind.CHANGE
        known = (Seen(before.order, Step(kind), 0, before.subscription.status, before.subscription),)
    if any(each.order == seen.order for each in known):
        return None
    if len({each.order[:2] for each in known if each.order[:2] > seen.order[:2]}) >= INSTANTS_KEPT:
        return []
    return sorted([*known, seen], key=lambda each: each.order)


def _stepped(
    before: SubscriptionFacts | None, event: Event, body: Subscription, recent: list[Seen]
) -> SubscriptionFacts:
    """Return the subscription's facts, decided anew from the recent events of a coarse clock."""
    settled, marks = (None, ()) if before is None else (before.settled, before.past_due)
    instants = [list(instant) for _, instant in groupby(recent, key=lambda each: each.order[:2])][-INSTANTS_KEPT:]
    anchor: tuple[str, ...] = ()
    kept: list[Seen] = []
    for age, instant in enumerate(instants, 1 - len(instants)):
        if len(instant) > INSTANT_EVENTS_MAX:
            instant = sorted(sorted(instant, key=lambda each: each.received_ns)[-INSTANT_EVENTS_MAX:])
        last = steps.last(instant, anchor)
        anchor = last.step.after
        overdue = [each.order for each in instant if each.status == "past_due"]
        if len(overdue) < len(instant):
            # Within an instant, all its past_due events are newer than its settled ones, or none is.
            order = last.order._replace(event_id="") if last.status == "past_due" else last.order
            settled = order if settled is None or order[:2] >= settled[:2] else settled
        marks = tuple([mark for mark in marks if mark[:2] != last.order[:2]])
        marks += tuple(overdue) if last.status == "past_due" else ()
        kept += instant if age > 1 - INSTANTS_KEPT else [last]
    newest = last.order[:2]
    marks = tuple(sorted([mark for mark in marks if settled is None or mark > settled])[:PAST_DUE_MARKS_MAX])
    kept = [each if each.order[:2] == newest or each.body is None else each._replace(body=None) for each in kept]
    assert last.body is not None
    if before is None:
        return SubscriptionFacts(event.provider, last.body, last.order, settled, marks, recent=tuple(kept))
    return replace(
        before, subscription=last.body, order=last.order, settled=settled, past_due=marks, recent=tuple(kept)
    )


def _created_ns(before: SubscriptionFacts | None, event: Event, body: Subscription) -> int | None:
    """Return when the subscription was created, the earliest time that any event says.

    An event that does not say it shows that it was created by the time of the event. Facts of older builds without the
    time are as old as can be until an event says it.
    """
    known = before.created_ns if before is not None else None
    if before is not None and known is None:
        return body.created_ns
    created_ns = event.order.occurred_ns if body.created_ns is None else body.created_ns
    return created_ns if known is None else min(known, created_ns)


def _marked(marks: tuple[Order, ...], order: Order) -> tuple[Order, ...]:
    at = bisect_left(marks, order)
    if at < len(marks) and marks[at] == order:
        return marks
    return (*marks[:at], order, *marks[at:])[:PAST_DUE_MARKS_MAX]
