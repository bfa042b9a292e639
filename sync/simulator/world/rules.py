"""The provider's rules: a turn and a subscription in, a new world and its events out. Pure.

Each function returns an Outcome, or raises ApiError like Paddle; then nothing has changed. The rules reject item
changes while past due, within 30 minutes of the next bill, or with a billing mode that a scheduled change forbids. A
plan change cannot be scheduled.
Source: developer.paddle.com/build/subscriptions and /webhooks/simulator for the events that an action causes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sync.simulator.world import ids, offers
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import (
    MINUTE_US,
    NOTHING,
    Bill,
    Item,
    Json,
    OnResume,
    Period,
    Price,
    ScheduledChange,
    Subscription,
)
from sync.simulator.world.offers import BillingMode
from sync.simulator.world.turn import Outcome, Turn, billed

SUBSCRIPTIONS_MAX = 10_000
"""Maximum subscriptions of a world."""

LOCK_US = 30 * MINUTE_US
"""Time before a bill in which a subscription cannot be updated (Paddle: 30 minutes)."""

QUANTITY_MAX = 10_000
"""Maximum units of one price in a subscription."""

Lines = tuple[tuple[Price, int], ...]
"""(price, quantity)"""


@dataclass(frozen=True, slots=True)
class Patch:
    """An update of a subscription; None leaves a field as it is.

    `lines`: the complete new list; `custom_data` is set when `sets_custom_data`.
    `prevents_on_decline`: a declined charge undoes the change instead of making the subscription past due.
    """

    lines: Lines | None = None
    mode: BillingMode | None = None
    clears_schedule: bool = False
    next_us: int | None = None
    sets_custom_data: bool = False
    custom_data: dict[str, Json] | None = None
    prevents_on_decline: bool = True


def checkout(
    turn: Turn, env: str, tenant: str, lines: Lines, trial_us: int | None, ends_us: int | None, linked: bool
) -> Outcome:
    """Create a subscription: active and paid, or in a trial.

    Args:
        turn: the turn.
        env: the environment.
        tenant: the tenant.
        lines: its prices and quantities.
        trial_us: length of the trial in microseconds; None for no trial.
        ends_us: end of the first period; None: after the trial, or in a month.
        linked: whether custom_data has the tenant, as an application's checkout should.
    """
    full = f"the simulator holds at most {SUBSCRIPTIONS_MAX} subscriptions"
    _refuse_if(len(turn.world.subscriptions) >= SUBSCRIPTIONS_MAX, "invalid_field", full)
    check_lines(lines)
    at_us = turn.stamp()
    is_trial = trial_us is not None
    billed_us = None if is_trial else at_us
    ends_us = ends_us or (None if trial_us is None else at_us + trial_us)
    period = Period.month(at_us) if ends_us is None else Period(at_us, ends_us)
    owner = f"{env}/{tenant}"
    subscription = Subscription(
        id=turn.new_id("sub"),
        env=env,
        tenant=tenant,
        customer_id=ids.derived("ctm", owner),
        address_id=ids.derived("add", owner),
        status="trialing" if is_trial else "active",
        items=tuple(Item(price, quantity, at_us, at_us, billed_us) for price, quantity in lines),
        created_us=at_us,
        updated_us=at_us,
        started_us=at_us,
        first_billed_us=billed_us,
        next_us=period.ends_us,
        period=period,
        trial=period if is_trial else None,
        custom_data={"tenant_id": tenant} if linked else None,
    )
    transaction_id = turn.new_id("txn")
    turn.emit("subscription.created", subscription, transaction_id)
    turn.emit("subscription.trialing" if is_trial else "subscription.activated", subscription)
    bill = _free(subscription) if is_trial else offers.monthly(subscription.items)
    turn.emit_payment(subscription, bill, "web", transaction_id)
    return turn.done(subscription)


def update(turn: Turn, before: Subscription, patch: Patch) -> Outcome:
    """Apply a patch. The events are `subscription.updated` and, if a payment was due at once, the payment."""
    _check_patch(before, patch, turn.now_us)
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
    bill = NOTHING
    if patch.lines is not None and patch.mode is not None:
        after = replace(after, items=_merged(before.items, patch.lines, at_us))
        charge = offers.change(before, after.items, turn.now_us, patch.mode)
        bill = charge.bill if charge.at_once else NOTHING
        left = Bill((), bill.to_balance) if charge.at_once else charge.bill
        after = replace(after, deferred=before.deferred.joined(left))
    if bill.due and before.declines:
        _refuse_if(patch.prevents_on_decline, "subscription_payment_declined")
        after = replace(after, status="past_due")
    turn.emit("subscription.updated", after)
    if after.status == "past_due" and before.status != "past_due":
        turn.emit("subscription.past_due", after)
    elif bill.due:
        turn.emit_payment(after, bill, "subscription_update")
    return turn.done(after)


def cancel(turn: Turn, before: Subscription, at_once: bool) -> Outcome:
    """Cancel the subscription now or at the end of its period. A paused one is always canceled now."""
    _refuse_if(not before.is_live, "subscription_is_canceled_action_invalid")
    if at_once or before.status == "paused":
        return turn.ended(before)
    return turn.scheduled(before, ScheduledChange("cancel", before.period.ends_us))


def pause(turn: Turn, before: Subscription, at_once: bool, resume_us: int | None, on_resume: OnResume) -> Outcome:
    """Pause the subscription now or at the end of its period. `resume_us`: when it resumes automatically."""
    _refuse_if(not before.is_live, "subscription_is_canceled_action_invalid")
    _refuse_if(before.status == "paused", "subscription_cannot_be_paused")
    starts_us = turn.now_us if at_once else before.period.ends_us
    is_over = resume_us is not None and resume_us <= starts_us
    _refuse_if(is_over, "invalid_field", "resume_at must be after the pause begins")
    if at_once:
        return turn.paused(before, resume_us, on_resume)
    return turn.scheduled(before, ScheduledChange("pause", before.period.ends_us, resume_us, on_resume))


def resume(turn: Turn, before: Subscription, at_us: int | None, on_resume: OnResume) -> Outcome:
    """Resume a paused subscription now or at `at_us`. If a pause is only scheduled, set its end to `at_us`."""
    _refuse_if(not before.is_live, "subscription_is_canceled_action_invalid")
    is_past = at_us is not None and at_us <= turn.now_us
    _refuse_if(is_past, "invalid_field", "effective_from must be a time to come")
    if before.status == "paused":
        if at_us is None:
            return turn.resumed(before, on_resume)
        return turn.scheduled(before, ScheduledChange("resume", at_us, None, on_resume), replaces=True)
    coming = before.scheduled
    if at_us is None or coming is None or coming.action != "pause":
        raise ApiError("subscription_must_be_paused")
    is_over = at_us <= coming.effective_us
    _refuse_if(is_over, "invalid_field", "effective_from must be after the pause begins")
    return turn.scheduled(before, replace(coming, resume_us=at_us, on_resume=on_resume), replaces=True)


def activate(turn: Turn, before: Subscription) -> Outcome:
    """End the trial and bill the first month. If the payment is declined, the subscription is past due."""
    _refuse_if(before.status != "trialing", "subscription_cannot_activate")
    if before.declines:
        return turn.failed(before, Period.month(turn.now_us))
    at_us = turn.stamp()
    return turn.outcome_of(billed(before, Period.month(at_us), at_us), "activated", "updated", pays=True)


def renew(turn: Turn, before: Subscription) -> Outcome:
    """End the current period.

    A scheduled change takes effect, a trial is activated, a pause with an end is over. Otherwise the next month is
    billed; if the payment is declined, the renewal fails.
    """
    change = before.scheduled
    if change is not None:
        match change.action:
            case "cancel":
                return turn.ended(before)
            case "pause":
                return turn.paused(before, change.resume_us, change.on_resume)
            case "resume":
                return turn.resumed(before, change.on_resume)
    if before.status == "trialing":
        return activate(turn, before)
    _refuse_if(before.status != "active", "subscription_not_active")
    period = _period_after(before.period, turn.now_us)
    if before.declines:
        return turn.failed(before, period)
    return turn.outcome_of(billed(before, period, turn.stamp()), "updated", pays=True)


def fail_renewal(turn: Turn, before: Subscription) -> Outcome:
    """Fail the renewal: the payment is declined.

    There are three events: `updated` (active, with the new period), `updated` (past due), `past_due`. The first looks
    like a paid renewal, although there was none; Paddle does the same.
    """
    _refuse_if(before.status not in ("active", "trialing"), "subscription_not_active")
    return turn.failed(before, _period_after(before.period, turn.now_us))


def recover(turn: Turn, before: Subscription) -> Outcome:
    """Pay the overdue bill; the payment method works again."""
    is_paid = before.status != "past_due"
    _refuse_if(is_paid, "invalid_field", f"the subscription is {before.status}, nothing is overdue")
    after = replace(billed(before, before.period, turn.stamp()), declines=False)
    return turn.outcome_of(turn.renew(after), "updated")


def decline(turn: Turn, before: Subscription) -> Outcome:
    """Let the payment method fail from now on, until `recover`. There is no event: a provider would not know yet."""
    _refuse_if(not before.is_live, "subscription_is_canceled_action_invalid")
    return turn.done(replace(before, declines=True))


def move_end(turn: Turn, before: Subscription, ends_us: int) -> Outcome:
    """Move the end of the current period, and the change scheduled for it, to `ends_us`.

    This is how a user moves time. Unlike an update, it is possible in the 30 minutes before a bill.
    """
    _refuse_if(before.status not in ("active", "trialing", "past_due"), "subscription_not_active")
    period = Period(min(before.period.starts_us, ends_us), ends_us)
    after = replace(
        before,
        period=period,
        next_us=ends_us,
        trial=period if before.status == "trialing" else before.trial,
        scheduled=None if before.scheduled is None else replace(before.scheduled, effective_us=ends_us),
        updated_us=turn.stamp(),
    )
    return turn.outcome_of(after, "updated")


def _free(of: Subscription) -> Bill:
    """Return the bill of a trial."""
    return Bill(tuple(replace(line, amount=0) for line in offers.monthly(of.items).lines))


def _period_after(period: Period, now_us: int) -> Period:
    """Return the next month, from the end of `period`, or from now if that is earlier."""
    return Period.month(min(period.ends_us, now_us))


def _refuse_if(condition: bool, code: str, detail: str | None = None) -> None:
    if condition:
        raise ApiError(code, detail)


def check_lines(lines: Lines) -> None:
    """Return if a checkout or an update can have these lines.

    Raises:
        ApiError: it cannot.
    """
    _refuse_if(not lines, "subscription_all_items_removed")
    _refuse_if(len({price.id for price, _ in lines}) < len(lines), "subscription_duplicate_price_ids")
    is_valid = all(1 <= quantity <= QUANTITY_MAX for _, quantity in lines)
    _refuse_if(not is_valid, "subscription_quantity_not_valid", f"quantity must be from 1 to {QUANTITY_MAX}")


def _check_patch(before: Subscription, patch: Patch, now_us: int) -> None:
    """Return if `patch` can be applied at `now_us`.

    Raises:
        ApiError: it cannot be applied.
    """
    _refuse_if(not before.is_live, "subscription_update_when_canceled")
    if patch.lines is None and patch.next_us is None:
        return
    is_locked = before.bills_us is not None and before.bills_us - now_us <= LOCK_US
    is_paused, is_billed = before.status == "paused", patch.mode != "do_not_bill"
    is_bound = before.scheduled is not None and not patch.clears_schedule
    is_late = patch.mode in ("prorated_next_billing_period", "full_next_billing_period")
    is_soon = patch.next_us is not None and patch.next_us - now_us <= LOCK_US
    _refuse_if(before.status == "past_due", "subscription_update_when_past_due")
    _refuse_if(is_locked, "subscription_locked_renewal")
    _refuse_if(patch.mode is None, "subscription_items_update_missing_proration_billing_mode")
    _refuse_if(is_paused and patch.next_us is not None, "subscription_only_update_items_on_paused_subscription")
    _refuse_if(is_paused and is_billed, "subscription_incorrect_proration_on_paused_subscription")
    _refuse_if(before.status == "trialing" and is_billed, "subscription_trialing_items_update_invalid_options")
    _refuse_if(is_bound and is_late, "subscription_invalid_billing_mode_for_scheduled_change")
    _refuse_if(is_soon, "subscription_next_billed_at_too_soon")
    if patch.lines is not None:
        check_lines(patch.lines)


def _merged(before: Sequence[Item], lines: Lines, at_us: int) -> tuple[Item, ...]:
    """Return the items for `lines`. A price that was there before keeps its item, with the new quantity."""
    held: Mapping[str, Item] = {item.price.id: item for item in before}
    return tuple(
        replace(held[price.id], quantity=quantity, updated_us=at_us)
        if price.id in held
        else Item(price, quantity, at_us, at_us, at_us)
        for price, quantity in lines
    )
