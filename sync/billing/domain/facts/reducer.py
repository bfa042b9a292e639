"""Facts + event -> facts, or why not. Pure. Any permutation or duplication of a history gives the same result.

Per subscription the newest body wins, by the event's own order key (`model.Order`). The marks of a past_due run are a
set; marks older than the newest settled event are dropped. Both are joins: commutative, associative, idempotent. The
result depends only on the subscription's own events. Events of a coarse clock (`Event.step`): see `recent_events`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from sync.billing.domain.facts import model, recent_events
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
from sync.billing.domain.facts.order import FETCHED_ID, is_from_future, past_due_run
from sync.billing.domain.facts.prices import says_the_same, with_former, with_seen
from sync.billing.domain.facts.refunds import with_payment_refunds, with_status
from sync.billing.domain.facts.steps import Seen

SUBSCRIPTIONS_MAX = 500
"""Maximum subscriptions per tenant. Ended ones are kept, or else an old event could revive them."""

SECOND_CUSTOMERS_MAX = 100
"""Maximum subscriptions of other customers per tenant: strangers must not use up SUBSCRIPTIONS_MAX."""

FETCH_LAG_NS = 60 * 1_000_000_000
"""How far a provider's API may lag behind its webhooks."""

ASKED_SINCE = "older than what the provider was asked for since"
"""The reason of an event that arrives after a newer answer of its provider: no information is lost."""

STAMP_NS = 1_000
"""The coarsest precision of providers' `updated_at`: a difference of up to this is not a change."""


class Reduced(NamedTuple):
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
    if not is_from_future(own, at_ns):
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
    if before is not None:
        old, new = before.subscription, after.subscription
        is_other = old.products != body.products or old.lookup_keys != body.lookup_keys
        if is_other or (new is not body and new is not old and not says_the_same(old, new)):
            after = with_former(after, before, body)
    after = with_seen(after, before, event)
    if body.purchase is not None:
        after = with_status(with_payment_refunds(after, facts))
        after = before if before is not None and after == before else after
    created_ns = _created_ns(before, event, body)
    is_vouched, ahead = event.is_signed or after.is_vouched, after.ahead
    if event.own is not None and (ahead is None or event.own > ahead.own):
        ahead = Ahead(event.own, event.order)
    if (created_ns, is_vouched, ahead) != (after.created_ns, after.is_vouched, after.ahead):
        after = replace(after, created_ns=created_ns, is_vouched=is_vouched, ahead=ahead)
    if after is before:
        return Stale(_older(event.order, before.order))
    if moved_us > after.moved_us:
        after = replace(after, moved_us=moved_us)
    reduced = facts.with_subscription(key, after)
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
        if fetched.unstamped:
            is_newer = confirms and fetched.order > before.order
        created_ns = before.created_ns
        is_more = body.created_ns is not None and (created_ns is None or body.created_ns < created_ns)
        is_more = is_more or (fetched.is_signed and not before.is_vouched)
        is_more = is_more or not says_the_same(body, before.subscription)
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


def _joined(before: SubscriptionFacts | None, event: Event, body: Subscription) -> SubscriptionFacts:
    """Return the subscription's facts with the event in them; `before` itself if it changes nothing."""
    order, step, is_overdue = event.order, event.step, body.status == "past_due"
    if before is None:
        recent = () if step is None else (Seen(order, step, event.received_ns, body),)
        whole = SubscriptionFacts(event.provider, body, order, recent=recent)
        return replace(whole, past_due=(order,)) if is_overdue else replace(whole, settled=order)
    place = order
    if step is not None:
        decided = recent_events.joined(before, event, step, body)
        if decided is not None:
            return decided
        # Of an instant that is not kept, the past_due events count as newer than the others.
        place = Order(order.updated_ns, 0, FETCHED_ID if is_overdue else "")
    settled, marks = before.settled, before.past_due
    if settled is None or place > settled:
        if is_overdue:
            marks = past_due_run((*marks, order), settled)
        else:
            settled, marks = place, past_due_run(marks, place) if marks else ()
    if order > before.order:
        return before.with_newest(body, order, settled, marks)
    if (settled, marks) == (before.settled, before.past_due):
        return before
    return replace(before, settled=settled, past_due=marks)


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
