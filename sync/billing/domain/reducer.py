"""Facts + event -> facts, or why not. Pure and order-free: any permutation and duplication of a history ends the same.

Per subscription the newest body wins, by the order key that each event carries in itself (`model.Order`); the marks of
a past_due run are a set, of which those older than the newest settled event are dropped. Both are joins: commutative,
associative, idempotent. The result depends on nothing but the subscription's own events.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

from sync.billing.domain import model
from sync.billing.domain.model import Event, Facts, Order, Subscription, SubscriptionFacts, subscription_key

SUBSCRIPTIONS_MAX = 500
"""Subscriptions remembered per tenant, ended ones included: forgotten, an old event could revive them."""

PAST_DUE_MARKS_MAX = 100
"""past_due events remembered per run. Beyond it the newest are not marked, so the start of grace is kept."""

FETCH_LAG_NS = 60 * 1_000_000_000
"""How far a provider's API may lag behind its webhooks."""

ASKED_SINCE = "older than what the provider was asked for since"
"""The reason of an event that came after a newer answer of its provider: nothing is lost with it."""

STAMP_NS = 1_000
"""The coarsest precision of providers' stamps: a stamp newer by no more than this says nothing new."""


@dataclass(frozen=True, slots=True)
class Reduced:
    """The facts with the event in them."""

    facts: Facts


@dataclass(frozen=True, slots=True)
class Stale:
    """The event says nothing new, for this `reason`. The facts stand."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """The event is newer than what is known but cannot be understood, for this `reason`. The facts stand."""

    reason: str


def reduce(facts: Facts, event: Event) -> Reduced | Stale | Unusable:
    """Return what the event makes of the tenant's facts."""
    body = event.subscription
    if body is None:
        return Stale("the event carries no subscription")
    key = subscription_key(event.provider, body.id)
    before = facts.subscriptions.get(key)
    if before is None and len(facts.subscriptions) >= SUBSCRIPTIONS_MAX:
        return Unusable(f"the tenant has {SUBSCRIPTIONS_MAX} subscriptions already")
    unusable = _unusable(body)
    if unusable:
        if before is not None and event.order <= before.order:
            return Stale(_older(event.order, before.order))
        return Unusable(unusable)
    after = _joined(before, event, body)
    if after is None:
        assert before is not None
        return Stale(_older(event.order, before.order))
    return Reduced(replace(facts, subscriptions={**facts.subscriptions, key: after}))


def merge_fetched(facts: Facts, fetched: Event, *, confirms: bool = False) -> Reduced | Stale | Unusable:
    """Return what a fetched body makes of the facts.

    As `reduce`, but a body equal to the stored one is Stale, so that polling creates no versions.

    A fetched body is newer than everything that occurred before its fetch began, unless its `updated_at` is older than
    what is known: then the provider's API lags behind its webhooks. An API must know what occurred FETCH_LAG_NS before
    the fetch began; then the fetched body wins, whatever the stamps say.

    Args:
        confirms: the facts already contain the event that it was fetched for.
    """
    body = fetched.subscription
    assert body is not None
    before = facts.subscriptions.get(subscription_key(fetched.provider, body.id))
    if before is not None:
        # Of a provider without stamps only the time of the fetch is new, which says nothing by itself. But an event
        # that the fetch confirms becomes as new as the fetch.
        is_newer = fetched.order.updated_ns > before.order.updated_ns + STAMP_NS
        if body == before.subscription and not (is_newer and (confirms or not fetched.unstamped)):
            return Stale("what the provider says is known already")
        if before.order.occurred_ns + FETCH_LAG_NS < fetched.order.occurred_ns:
            updated_ns = max(fetched.order.updated_ns, before.order.updated_ns)
            fetched = replace(fetched, order=fetched.order._replace(updated_ns=updated_ns))
    return reduce(facts, fetched)


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
    """Return the subscription's facts with the event in them, or None where it changes nothing."""
    order = event.order
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
    return SubscriptionFacts(before.provider, before.subscription, before.order, settled, marks)


def _marked(marks: tuple[Order, ...], order: Order) -> tuple[Order, ...]:
    at = bisect_left(marks, order)
    if at < len(marks) and marks[at] == order:
        return marks
    return (*marks[:at], order, *marks[at:])[:PAST_DUE_MARKS_MAX]
