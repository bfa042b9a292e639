"""A subscription's facts where the provider's clock is coarse: decided by the events of the newest instants. Pure.

Such events share their instant, which is `Order.updated_ns`, with others. They are kept for INSTANTS_KEPT instants, and
`steps.last` decides anew with each that arrives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from sync.billing.domain.facts import steps
from sync.billing.domain.facts.model import ENDED_STATUSES, Event, Subscription, SubscriptionFacts
from sync.billing.domain.facts.order import Order, past_due_run
from sync.billing.domain.facts.steps import Kind, Seen, Step

INSTANTS_KEPT = 3
"""How many instants keep their events, the newest of them with bodies."""

INSTANT_EVENTS_MAX = 16
"""Maximum events kept of one instant. Beyond it those that were received first are dropped."""


def seen(entry: SubscriptionFacts) -> tuple[Seen, ...]:
    """Return the recent events; in facts of a build that kept none, the newest event alone."""
    body = entry.subscription
    kind = Kind.END if body.status in ENDED_STATUSES else Kind.CHANGE
    return entry.recent or (Seen(entry.order, Step(kind), 0, body),)


def joined(before: SubscriptionFacts, event: Event, step: Step, body: Subscription) -> SubscriptionFacts | None:
    """Return the facts with one more event, `before` itself if they contain it, or None if its instant is too old."""
    known, at_ns = seen(before), event.order.updated_ns
    if any(each.order == event.order for each in known):
        return before
    if len({each.order.updated_ns for each in known if each.order.updated_ns > at_ns}) >= INSTANTS_KEPT:
        return None
    return decided(before, [*known, Seen(event.order, step, event.received_ns, body)])


def decided(entry: SubscriptionFacts, recent: Iterable[Seen]) -> SubscriptionFacts:
    """Return the subscription's facts after these events, which replace its recent ones."""
    settled, marks = entry.settled, entry.past_due
    anchor: tuple[str, ...] = ()
    kept: list[Seen] = []
    for instant in _instants(recent)[-INSTANTS_KEPT:]:
        last = steps.last(instant, anchor)
        anchor, at_ns = last.step.after, last.order.updated_ns
        overdue = [each.order for each in instant if each.body.status == "past_due"]
        is_overdue = last.body.status == "past_due"
        if len(overdue) < len(instant) and (settled is None or at_ns >= settled.updated_ns):
            # Within an instant, all its past_due events are newer than its settled ones, or none is. A creation is
            # older than each, also than one that arrives when the instant is no longer kept.
            settled = Order(at_ns, 0, "") if is_overdue or last.step.kind is Kind.CREATION else last.order
        marks = (*[mark for mark in marks if mark.updated_ns != at_ns], *(overdue if is_overdue else ()))
        kept += instant
    kept = [each if each.order.updated_ns == at_ns else each._replace(body=_shortened(each.body)) for each in kept]
    return replace(
        entry,
        subscription=last.body,
        order=last.order,
        settled=settled,
        past_due=past_due_run(marks, settled),
        recent=tuple(kept),
    )


def path(entry: SubscriptionFacts) -> list[Seen]:
    """Return the recent events as they happened, the newest last."""
    found: list[Seen] = []
    for instant in _instants(entry.recent):
        found += steps.path(instant, found[-1].step.after if found else ())
    return found


def united(one: SubscriptionFacts, other: SubscriptionFacts) -> list[Seen]:
    """Return the recent events of both; of one that both have, the whole body."""
    known = sorted((*seen(one), *seen(other)), key=lambda each: each.body != _shortened(each.body))
    return list({each.order: each for each in known}.values())


def _instants(recent: Iterable[Seen]) -> list[list[Seen]]:
    """Return the events of each instant, both ascending."""
    found = []
    for _, instant in groupby(sorted(recent, key=lambda each: each.order), lambda each: each.order.updated_ns):
        newest = sorted(instant, key=lambda each: each.received_ns)[-INSTANT_EVENTS_MAX:]
        found.append(sorted(newest, key=lambda each: each.order))
    return found


def _shortened(body: Subscription) -> Subscription:
    return Subscription(body.id, body.status, body.items)
