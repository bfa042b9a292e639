"""A subscription's transitions and the events that tell of them, once it is clear that they may happen. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sync.simulator.world import amounts
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import Item, OnResume, Period, Price, ScheduledChange, Subscription
from sync.simulator.world.moments import month_after
from sync.simulator.world.turn import Outcome, Turn


def effected(turn: Turn, before: Subscription, change: ScheduledChange, now_us: int) -> Outcome:
    """Return the scheduled change made: its time has come."""
    match change.action:
        case "cancel":
            return ended(turn, before)
        case "pause":
            return paused(turn, before, change.resume_us, change.on_resume)
        case "resume":
            return resumed(turn, before, change.on_resume, now_us)


def ended(turn: Turn, before: Subscription) -> Outcome:
    """Return the subscription canceled."""
    at_us = turn.stamp()
    after = replace(before, status="canceled", canceled_us=at_us, updated_us=at_us, scheduled=None, paused_us=None)
    turn.tell("subscription.canceled", after)
    turn.tell("subscription.updated", after)
    return turn.done(after)


def paused(turn: Turn, before: Subscription, resume_us: int | None, on_resume: OnResume) -> Outcome:
    """Return the subscription paused, to come back at `resume_us` if that is given."""
    at_us = turn.stamp()
    back = None if resume_us is None else ScheduledChange("resume", resume_us, None, on_resume)
    after = replace(before, status="paused", paused_us=at_us, updated_us=at_us, scheduled=back)
    turn.tell("subscription.paused", after)
    turn.tell("subscription.updated", after)
    return turn.done(after)


def resumed(turn: Turn, before: Subscription, on_resume: OnResume, now_us: int) -> Outcome:
    """Return the paused subscription active again, in its old period or in a new one that is paid."""
    at_us = turn.stamp()
    continues = on_resume == "continue_existing_billing_period" and now_us < before.period.ends_us
    back = replace(before, paused_us=None, scheduled=None)
    if continues:
        after = replace(back, status="active", updated_us=at_us)
    else:
        after = billed(back, Period(at_us, month_after(at_us)), at_us)
    turn.tell("subscription.resumed", after)
    turn.tell("subscription.updated", after)
    if not continues:
        turn.tell_paid(after, amounts.monthly(after.items), "subscription_recurring")
    return turn.done(after)


def failed(turn: Turn, before: Subscription, period: Period) -> Outcome:
    """Return the renewal tried and declined, told in three events; the first looks like one that was paid."""
    looks_paid = billed(before, period, turn.stamp())
    turn.tell("subscription.updated", looks_paid)
    after = replace(looks_paid, status="past_due", updated_us=turn.stamp(), declines=True)
    turn.tell("subscription.updated", after)
    turn.tell("subscription.past_due", after)
    return turn.done(after)


def scheduled(turn: Turn, before: Subscription, change: ScheduledChange, replaces: bool = False) -> Outcome:
    """Return the subscription with a change to come.

    Raises:
        ApiError: one is to come already, and this one does not replace it.
    """
    if before.scheduled is not None and not replaces:
        raise ApiError("subscription_locked_pending_changes")
    after = replace(before, scheduled=change, updated_us=turn.stamp())
    turn.tell("subscription.updated", after)
    return turn.done(after)


def period_after(period: Period, now_us: int) -> Period:
    """The next month: from the end of this one, or from now where it is ended early."""
    starts_us = min(period.ends_us, now_us)
    return Period(starts_us, month_after(starts_us))


def billed(before: Subscription, period: Period, at_us: int) -> Subscription:
    """Active, with `period` paid."""
    return replace(
        before,
        status="active",
        updated_us=at_us,
        first_billed_us=before.first_billed_us or at_us,
        next_us=period.ends_us,
        period=period,
        items=tuple(replace(item, billed_us=period.starts_us) for item in before.items),
    )


def merged(before: Sequence[Item], lines: Sequence[tuple[Price, int]], at_us: int) -> tuple[Item, ...]:
    """Return the items that (price, quantity) make of those before; a price that was there stays the same item."""
    held: Mapping[str, Item] = {item.price.id: item for item in before}
    return tuple(
        replace(held[price.id], quantity=quantity, updated_us=at_us)
        if price.id in held
        else Item(price, quantity, at_us, at_us, at_us)
        for price, quantity in lines
    )
