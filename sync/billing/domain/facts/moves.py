"""A subscription moves from one tenant's facts to another's: what each of the two has afterwards. Pure.

Every move has its time, which rises with each move of a subscription. It is kept with the subscription where it is, and
as a tombstone (`Facts.moved`) where it was, so that a step of an older move changes nothing after a newer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from sync.billing.domain.facts import recent_events
from sync.billing.domain.facts.instructions import ScheduledPlanChange
from sync.billing.domain.facts.model import NOTHING, Facts, SubscriptionFacts
from sync.billing.domain.facts.order import past_due_run
from sync.billing.domain.facts.prices import joined_seen, with_former
from sync.billing.domain.facts.refunds import with_refunds

MOVED_MAX = 500
"""Maximum tombstones per tenant. Beyond it the oldest are dropped: their late events have long arrived."""


class ChangedSinceError(Exception):
    """The subscription changed where it is taken from after it was given to its new tenant: give it again."""


def given(
    facts: Facts,
    key: str,
    entry: SubscriptionFacts | None,
    changes: Iterable[ScheduledPlanChange],
    moved_us: int,
    *,
    is_vouched: bool = False,
) -> Facts:
    """Return a tenant's facts after a subscription has been given to it.

    Args:
        entry: what is known of the subscription elsewhere; None for nothing.
        changes: the scheduled plan changes of the subscription elsewhere.
        moved_us: the time of the move.
        is_vouched: whether an operator gives it. What vouched for it elsewhere does not count here.
    """
    known = facts.subscriptions.get(key)
    if facts.moved.get(key, 0) > moved_us or (known is not None and known.moved_us > moved_us):
        return facts
    moved = {other: at_us for other, at_us in facts.moved.items() if other != key}
    taken_apps = {one.app for one in facts.scheduled_changes}
    whole = joined(known, entry)
    if whole is None:
        return replace(facts, moved=moved)
    return replace(
        facts,
        subscriptions={
            **facts.subscriptions,
            key: replace(whole, moved_us=moved_us, is_vouched=is_vouched or (known is not None and known.is_vouched)),
        },
        scheduled_changes=(*facts.scheduled_changes, *[one for one in changes if one.app not in taken_apps]),
        moved=moved,
    )


def taken(facts: Facts, key: str, was: SubscriptionFacts | None, moved_us: int) -> Facts:
    """Return a tenant's facts after a subscription has been taken from it. A tenant without facts stays without.

    Args:
        was: the subscription's facts here when they were given to the new tenant.
        moved_us: the time of the move.

    Raises:
        ChangedSinceError: they have changed since.
    """
    entry = facts.subscriptions.get(key)
    if facts == NOTHING or facts.moved.get(key, 0) >= moved_us or (entry is not None and entry.moved_us >= moved_us):
        return facts
    if entry is not None and entry != was:
        raise ChangedSinceError(key)
    return replace(
        facts,
        subscriptions={other: kept for other, kept in facts.subscriptions.items() if other != key},
        scheduled_changes=tuple([one for one in facts.scheduled_changes if one.subscription != key]),
        awaited_previews=tuple([one for one in facts.awaited_previews if one.subscription != key]),
        awaited_bills=tuple([one for one in facts.awaited_bills if one.subscription != key]),
        moved=_newest({**facts.moved, key: moved_us}),
    )


def joined(one: SubscriptionFacts | None, other: SubscriptionFacts | None) -> SubscriptionFacts | None:
    """Return what two tenants' facts say together of one subscription; the order of the two is irrelevant."""
    if one is None or other is None:
        return one or other
    newest = max(one, other, key=lambda entry: entry.order)
    settled = max((entry.settled for entry in (one, other) if entry.settled is not None), default=None)
    created = [entry.created_ns for entry in (one, other) if entry.created_ns is not None]
    granted = [entry.granted for entry in (one, other) if entry.granted is not None]
    whole = replace(
        newest,
        settled=settled,
        past_due=past_due_run((*one.past_due, *other.past_due), settled),
        created_ns=min(created, default=None),
        first_seen=joined_seen(one, other),
        ahead=max((entry.ahead for entry in (one, other) if entry.ahead is not None), default=None),
    )
    whole = with_refunds(with_former(whole, one, other), *one.refunds.values(), *other.refunds.values())
    if one.recent or other.recent:
        whole = with_former(recent_events.decided(whole, recent_events.united(one, other)), one, other)
    # Nothing stands in for the items of the newest body if all of them are known.
    is_known = any(entry.granted is None for entry in (one, other) if entry.order == whole.order)
    granted_in = {
        app: max(entry.granted_in[app] for entry in (one, other) if app in entry.granted_in)
        for app in sorted({*one.granted_in, *other.granted_in})
    }
    return replace(
        whole, granted=None if is_known else max(granted, default=None), granted_in={} if is_known else granted_in
    )


def _newest(moved: Mapping[str, int]) -> dict[str, int]:
    kept = sorted(moved, key=lambda key: moved[key], reverse=True)[:MOVED_MAX]
    return {key: moved[key] for key in kept}
