"""The provider's rules: a world and an action in, a new world and its events out. Pure: instant and ids are arguments.

Each function returns an Outcome, or raises ApiError as Paddle would, and then nothing has changed. Rejected are item
changes while past due, within 30 minutes of the next bill, or with a billing mode that a scheduled change forbids; a
plan change cannot be scheduled at all.
Source: developer.paddle.com/build/subscriptions and /webhooks/simulator for the events that an action causes.
"""

from __future__ import annotations

from dataclasses import replace

from sync.simulator.world import amounts, ids
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import Item, OnResume, Period, ScheduledChange, Subscription, World
from sync.simulator.world.moments import month_after
from sync.simulator.world.orders import Order, Patch, check_lines, check_patch
from sync.simulator.world.transitions import (
    billed,
    effected,
    ended,
    failed,
    merged,
    paused,
    period_after,
    resumed,
    scheduled,
)
from sync.simulator.world.turn import NewId, Outcome, Turn

SUBSCRIPTIONS_MAX = 10_000
"""How many subscriptions a world can hold."""


def find(world: World, subscription_id: str) -> Subscription:
    """The subscription with this id.

    Raises:
        ApiError: `not_found`.
    """
    subscription = world.subscriptions.get(subscription_id)
    if subscription is None:
        raise ApiError("not_found", f"Subscription {subscription_id} not found.")
    return subscription


def checkout(world: World, order: Order, now_us: int, new_id: NewId) -> Outcome:
    """A new subscription: created and activated and paid, or created and trialing where the order has a trial."""
    if len(world.subscriptions) >= SUBSCRIPTIONS_MAX:
        raise ApiError("invalid_field", f"the simulator holds at most {SUBSCRIPTIONS_MAX} subscriptions")
    turn = Turn(world, now_us, new_id)
    at_us = turn.stamp()
    check_lines(order.lines)
    free_until = None if order.trial_us is None else at_us + order.trial_us
    period = Period(at_us, order.ends_us or free_until or month_after(at_us))
    owner = f"{order.env}/{order.tenant}"
    subscription = Subscription(
        id=turn.new_id("sub"),
        env=order.env,
        tenant=order.tenant,
        customer_id=ids.derived("ctm", owner),
        address_id=ids.derived("add", owner),
        status="active" if order.trial_us is None else "trialing",
        items=tuple(
            Item(price, quantity, at_us, at_us, at_us if order.trial_us is None else None)
            for price, quantity in order.lines
        ),
        created_us=at_us,
        updated_us=at_us,
        started_us=at_us,
        first_billed_us=at_us if order.trial_us is None else None,
        next_us=period.ends_us,
        period=period,
        trial=None if order.trial_us is None else period,
        custom_data={"tenant_id": order.tenant} if order.linked else None,
    )
    transaction_id = turn.new_id("txn")
    turn.tell("subscription.created", subscription, transaction_id)
    if order.trial_us is None:
        turn.tell("subscription.activated", subscription)
        turn.tell_paid(subscription, amounts.monthly(subscription.items), "web", transaction_id)
    else:
        turn.tell("subscription.trialing", subscription)
        turn.tell_paid(subscription, 0, "web", transaction_id)
    return turn.done(subscription)


def update(world: World, subscription_id: str, patch: Patch, now_us: int, new_id: NewId) -> Outcome:
    """The subscription with a patch applied, told by `subscription.updated`, and the payment if one was due at once."""
    before = find(world, subscription_id)
    check_patch(before, patch, now_us)
    turn = Turn(world, now_us, new_id)
    at_us = turn.stamp()
    after = replace(before, updated_us=at_us)
    if patch.clears_schedule:
        after = replace(after, scheduled=None)
    if patch.sets_custom_data:
        after = replace(after, custom_data=patch.custom_data)
    if patch.next_us is not None:
        period = Period(after.period.starts_us, patch.next_us)
        is_trial = after.status == "trialing"
        after = replace(after, next_us=patch.next_us, period=period, trial=period if is_trial else after.trial)
    due = 0
    if patch.lines is not None and patch.mode is not None:
        after = replace(after, items=merged(before.items, patch.lines, at_us))
        charge = amounts.change(before.items, after.items, before.period, now_us, patch.mode)
        due = charge.due if charge.at_once else 0
    if due > 0 and before.declines:
        if patch.prevents_on_decline:
            raise ApiError("subscription_payment_declined")
        after = replace(after, status="past_due")
    turn.tell("subscription.updated", after)
    if after.status == "past_due" and before.status != "past_due":
        turn.tell("subscription.past_due", after)
    elif due > 0:
        turn.tell_paid(after, due, "subscription_update")
    return turn.done(after)


def cancel(world: World, subscription_id: str, at_once: bool, now_us: int, new_id: NewId) -> Outcome:
    """The subscription canceled, or set to be at the end of its period. A paused one is always canceled at once."""
    before = find(world, subscription_id)
    if not before.is_live:
        raise ApiError("subscription_is_canceled_action_invalid")
    turn = Turn(world, now_us, new_id)
    if at_once or before.status == "paused":
        return ended(turn, before)
    return scheduled(turn, before, ScheduledChange("cancel", before.period.ends_us))


def pause(
    world: World,
    subscription_id: str,
    at_once: bool,
    resume_us: int | None,
    on_resume: OnResume,
    now_us: int,
    new_id: NewId,
) -> Outcome:
    """The subscription paused, or set to be at the end of its period; `resume_us` says when it comes back by itself."""
    before = find(world, subscription_id)
    if not before.is_live:
        raise ApiError("subscription_is_canceled_action_invalid")
    if before.status == "paused":
        raise ApiError("subscription_cannot_be_paused")
    starts_us = now_us if at_once else before.period.ends_us
    if resume_us is not None and resume_us <= starts_us:
        raise ApiError("invalid_field", "resume_at must be after the pause begins")
    turn = Turn(world, now_us, new_id)
    if at_once:
        return paused(turn, before, resume_us, on_resume)
    return scheduled(turn, before, ScheduledChange("pause", before.period.ends_us, resume_us, on_resume))


def resume(
    world: World, subscription_id: str, at_us: int | None, on_resume: OnResume, now_us: int, new_id: NewId
) -> Outcome:
    """The paused subscription active again, now or (`at_us`) scheduled; with a pause still to come, its end set."""
    before = find(world, subscription_id)
    if not before.is_live:
        raise ApiError("subscription_is_canceled_action_invalid")
    if at_us is not None and at_us <= now_us:
        raise ApiError("invalid_field", "effective_from must be a time to come")
    turn = Turn(world, now_us, new_id)
    if before.status == "paused":
        if at_us is None:
            return resumed(turn, before, on_resume, now_us)
        return scheduled(turn, before, ScheduledChange("resume", at_us, None, on_resume), replaces=True)
    coming = before.scheduled
    if at_us is None or coming is None or coming.action != "pause":
        raise ApiError("subscription_must_be_paused")
    if at_us <= coming.effective_us:
        raise ApiError("invalid_field", "effective_from must be after the pause begins")
    return scheduled(turn, before, replace(coming, resume_us=at_us, on_resume=on_resume), replaces=True)


def activate(world: World, subscription_id: str, now_us: int, new_id: NewId) -> Outcome:
    """The trial over and the first month paid; past due where the payment is declined."""
    before = find(world, subscription_id)
    if before.status != "trialing":
        raise ApiError("subscription_cannot_activate")
    turn = Turn(world, now_us, new_id)
    if before.declines:
        return failed(turn, before, Period(now_us, month_after(now_us)))
    at_us = turn.stamp()
    after = billed(before, Period(at_us, month_after(at_us)), at_us)
    turn.tell("subscription.activated", after)
    turn.tell("subscription.updated", after)
    turn.tell_paid(after, amounts.monthly(after.items), "subscription_recurring")
    return turn.done(after)


def renew(world: World, subscription_id: str, now_us: int, new_id: NewId) -> Outcome:
    """The current period over: whatever the provider does then. A scheduled change takes effect, a trial becomes paid,
    a pause that has an end ends; else the next month is billed, or fails where the payment is declined."""
    before = find(world, subscription_id)
    turn = Turn(world, now_us, new_id)
    if before.scheduled is not None:
        return effected(turn, before, before.scheduled, now_us)
    if before.status == "trialing":
        return activate(world, subscription_id, now_us, new_id)
    if before.status != "active":
        raise ApiError("subscription_not_active")
    period = period_after(before.period, now_us)
    if before.declines:
        return failed(turn, before, period)
    after = billed(before, period, turn.stamp())
    turn.tell("subscription.updated", after)
    turn.tell_paid(after, amounts.monthly(after.items), "subscription_recurring")
    return turn.done(after)


def fail_renewal(world: World, subscription_id: str, now_us: int, new_id: NewId) -> Outcome:
    """The renewal tried and declined: told in three, `updated` (active, the new period), `updated` (past due),
    `past_due`. The first looks like a paid renewal that did not happen; that is how Paddle tells it."""
    before = find(world, subscription_id)
    if before.status not in ("active", "trialing"):
        raise ApiError("subscription_not_active")
    return failed(Turn(world, now_us, new_id), before, period_after(before.period, now_us))


def recover(world: World, subscription_id: str, now_us: int, new_id: NewId) -> Outcome:
    """The overdue bill paid, and the payment method good again."""
    before = find(world, subscription_id)
    if before.status != "past_due":
        raise ApiError("invalid_field", f"the subscription is {before.status}, nothing is overdue")
    turn = Turn(world, now_us, new_id)
    after = replace(billed(before, before.period, turn.stamp()), declines=False)
    turn.tell_paid(after, amounts.monthly(after.items), "subscription_recurring")
    turn.tell("subscription.updated", after)
    return turn.done(after)


def decline(world: World, subscription_id: str, now_us: int, new_id: NewId) -> Outcome:
    """The payment method refusing from now on, until `recover`. Tells nothing, as a provider would not know yet."""
    before = find(world, subscription_id)
    if not before.is_live:
        raise ApiError("subscription_is_canceled_action_invalid")
    return Turn(world, now_us, new_id).done(replace(before, declines=True))


def move_end(world: World, subscription_id: str, ends_us: int, now_us: int, new_id: NewId) -> Outcome:
    """The current period, and what is scheduled for its end, ending at `ends_us`: how a user moves time. Unlike an
    update it is not bound by the 30 minutes before a bill."""
    before = find(world, subscription_id)
    if before.status not in ("active", "trialing", "past_due"):
        raise ApiError("subscription_not_active")
    turn = Turn(world, now_us, new_id)
    period = Period(min(before.period.starts_us, ends_us), ends_us)
    after = replace(
        before,
        period=period,
        next_us=ends_us,
        trial=period if before.status == "trialing" else before.trial,
        scheduled=None if before.scheduled is None else replace(before.scheduled, effective_us=ends_us),
        updated_us=turn.stamp(),
    )
    turn.tell("subscription.updated", after)
    return turn.done(after)


def due(world: World, now_us: int) -> tuple[str, ...]:
    """The ids of the subscriptions for which the time of a renewal, a trial's end or a scheduled change has come."""
    return tuple(sub.id for sub in world.subscriptions.values() if _is_due(sub, now_us))


def _is_due(subscription: Subscription, now_us: int) -> bool:
    if not subscription.is_live:
        return False
    if subscription.scheduled is not None:
        return subscription.scheduled.effective_us <= now_us
    return subscription.status in ("active", "trialing") and subscription.next_us <= now_us
