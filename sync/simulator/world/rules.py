"""The provider's rules: a world and an action in, a new world and its events out. Pure: the instant and the ids are
arguments, nothing is read or written.

What it refuses it refuses as Paddle does (`refusal`): no item change while past due, within 30 minutes of the next
bill, or with a billing mode that a scheduled change forbids; a plan change cannot be scheduled at all. Each function
returns an Outcome or raises Refusal, and then nothing has changed. Sources: developer.paddle.com/build/subscriptions
and /webhooks/simulator for which events an action causes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sync.simulator.world import amounts, ids
from sync.simulator.world.amounts import BillingMode
from sync.simulator.world.errors import Refusal
from sync.simulator.world.model import (
    Event,
    Item,
    Json,
    OnResume,
    Period,
    Price,
    ScheduledChange,
    Subscription,
    Transaction,
    World,
)
from sync.simulator.world.moments import MINUTE_US, month_after

LOCK_US = 30 * MINUTE_US
"""How long before a bill a subscription can no longer be updated (Paddle: 30 minutes)."""

QUANTITY_MAX = 10_000
"""The most units of one price on a subscription."""

EVENTS_KEPT = 1_000
"""How many events the world remembers, the newest ones; list-events reads these."""

SUBSCRIPTIONS_MAX = 10_000
"""How many subscriptions a world can hold."""

NewId = Callable[[str, int], str]
"""Makes an id from a prefix and an instant; see `ids.Mint`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The world after an action, the subscription it was about, and what there is to tell, oldest first."""

    world: World
    subscription: Subscription
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """What a checkout buys. `trial_us`: how long it is free; `ends_us`: when the first period ends, if not in a month;
    `linked`: whether custom_data names the tenant, as an application's checkout should."""

    env: str
    tenant: str
    lines: tuple[tuple[Price, int], ...]
    trial_us: int | None = None
    ends_us: int | None = None
    linked: bool = True


@dataclass(frozen=True, slots=True)
class Patch:
    """An update of a subscription; None leaves a field as it is.

    `lines`: the complete new list of (price, quantity); `custom_data` is set when `sets_custom_data`.
    `prevents_on_decline`: a declined charge undoes the change instead of making the subscription past due.
    """

    lines: tuple[tuple[Price, int], ...] | None = None
    mode: BillingMode | None = None
    clears_schedule: bool = False
    next_us: int | None = None
    sets_custom_data: bool = False
    custom_data: dict[str, Json] | None = None
    prevents_on_decline: bool = True


class _Turn:
    """One action's working copy of the world: hands out rising stamps and collects what is to be told."""

    def __init__(self, world: World, now_us: int, new_id: NewId) -> None:
        self._subscriptions = dict(world.subscriptions)
        self._before = world.events
        self._told: list[Event] = []
        self._stamp_us = world.stamp_us
        self._now_us = now_us
        self._new_id = new_id

    def stamp(self) -> int:
        """Now, or a microsecond after the last stamp where the clock has not moved."""
        self._stamp_us = max(self._stamp_us + 1, self._now_us)
        return self._stamp_us

    def new_id(self, prefix: str) -> str:
        return self._new_id(prefix, self._now_us)

    def tell(self, kind: str, data: Subscription | Transaction, transaction_id: str | None = None) -> None:
        at_us = self.stamp()
        self._told.append(Event(self._new_id("evt", at_us), data.env, kind, at_us, data, transaction_id))

    def tell_paid(self, of: Subscription, amount: int, origin: str, transaction_id: str | None = None) -> None:
        """Tell of a completed payment; its id is made here unless the subscription's creation already named it."""
        identity = transaction_id or self.new_id("txn")
        self.tell(
            "transaction.completed",
            Transaction(
                id=identity,
                env=of.env,
                invoice_id=self.new_id("inv"),
                invoice_number=f"{int.from_bytes(identity.encode()[-4:], 'big') % 90_000 + 10_000}-10001",
                subscription_id=of.id,
                customer_id=of.customer_id,
                address_id=of.address_id,
                origin=origin,
                items=of.items,
                amount=amount,
                period=of.period,
                at_us=self.stamp(),
                custom_data=of.custom_data,
            ),
        )

    def done(self, subscription: Subscription) -> Outcome:
        self._subscriptions[subscription.id] = subscription
        events = (*self._before, *self._told)[-EVENTS_KEPT:]
        return Outcome(World(self._subscriptions, events, self._stamp_us), subscription, tuple(self._told))


def find(world: World, subscription_id: str) -> Subscription:
    """The subscription with this id.

    Raises:
        Refusal: `not_found`.
    """
    subscription = world.subscriptions.get(subscription_id)
    if subscription is None:
        raise Refusal("not_found", f"Subscription {subscription_id} not found.")
    return subscription


def checkout(world: World, order: Order, now_us: int, new_id: NewId) -> Outcome:
    """A new subscription: created and activated and paid, or created and trialing where the order has a trial."""
    if len(world.subscriptions) >= SUBSCRIPTIONS_MAX:
        raise Refusal("invalid_field", f"the simulator holds at most {SUBSCRIPTIONS_MAX} subscriptions")
    turn = _Turn(world, now_us, new_id)
    at_us = turn.stamp()
    _check_lines(order.lines)
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
    _check_patch(before, patch, now_us)
    turn = _Turn(world, now_us, new_id)
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
        after = replace(after, items=_merged(before.items, patch.lines, at_us))
        charge = amounts.change(before.items, after.items, before.period, now_us, patch.mode)
        due = charge.due if charge.at_once else 0
    if due > 0 and before.declines:
        if patch.prevents_on_decline:
            raise Refusal("subscription_payment_declined")
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
        raise Refusal("subscription_is_canceled_action_invalid")
    turn = _Turn(world, now_us, new_id)
    if at_once or before.status == "paused":
        return _ended(turn, before)
    return _scheduled(turn, before, ScheduledChange("cancel", before.period.ends_us))


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
        raise Refusal("subscription_is_canceled_action_invalid")
    if before.status == "paused":
        raise Refusal("subscription_cannot_be_paused")
    starts_us = now_us if at_once else before.period.ends_us
    if resume_us is not None and resume_us <= starts_us:
        raise Refusal("invalid_field", "resume_at must be after the pause begins")
    turn = _Turn(world, now_us, new_id)
    if at_once:
        return _paused(turn, before, resume_us, on_resume)
    return _scheduled(turn, before, ScheduledChange("pause", before.period.ends_us, resume_us, on_resume))


def resume(
    world: World, subscription_id: str, at_us: int | None, on_resume: OnResume, now_us: int, new_id: NewId
) -> Outcome:
    """The paused subscription active again, now or (`at_us`) scheduled; with a pause still to come, its end set."""
    before = find(world, subscription_id)
    if not before.is_live:
        raise Refusal("subscription_is_canceled_action_invalid")
    if at_us is not None and at_us <= now_us:
        raise Refusal("invalid_field", "effective_from must be a time to come")
    turn = _Turn(world, now_us, new_id)
    if before.status == "paused":
        if at_us is None:
            return _resumed(turn, before, on_resume, now_us)
        return _scheduled(turn, before, ScheduledChange("resume", at_us, None, on_resume), replaces=True)
    coming = before.scheduled
    if at_us is None or coming is None or coming.action != "pause":
        raise Refusal("subscription_must_be_paused")
    if at_us <= coming.effective_us:
        raise Refusal("invalid_field", "effective_from must be after the pause begins")
    return _scheduled(turn, before, replace(coming, resume_us=at_us, on_resume=on_resume), replaces=True)


def activate(world: World, subscription_id: str, now_us: int, new_id: NewId) -> Outcome:
    """The trial over and the first month paid; past due where the payment is declined."""
    before = find(world, subscription_id)
    if before.status != "trialing":
        raise Refusal("subscription_cannot_activate")
    turn = _Turn(world, now_us, new_id)
    if before.declines:
        return _failed(turn, before, Period(now_us, month_after(now_us)))
    at_us = turn.stamp()
    after = _billed(before, Period(at_us, month_after(at_us)), at_us)
    turn.tell("subscription.activated", after)
    turn.tell("subscription.updated", after)
    turn.tell_paid(after, amounts.monthly(after.items), "subscription_recurring")
    return turn.done(after)


def renew(world: World, subscription_id: str, now_us: int, new_id: NewId) -> Outcome:
    """The current period over: whatever the provider does then. A scheduled change takes effect, a trial becomes paid,
    a pause that has an end ends; else the next month is billed, or fails where the payment is declined."""
    before = find(world, subscription_id)
    turn = _Turn(world, now_us, new_id)
    if before.scheduled is not None:
        return _effected(turn, before, before.scheduled, now_us)
    if before.status == "trialing":
        return activate(world, subscription_id, now_us, new_id)
    if before.status != "active":
        raise Refusal("subscription_not_active")
    period = _period_after(before.period, now_us)
    if before.declines:
        return _failed(turn, before, period)
    after = _billed(before, period, turn.stamp())
    turn.tell("subscription.updated", after)
    turn.tell_paid(after, amounts.monthly(after.items), "subscription_recurring")
    return turn.done(after)


def fail_renewal(world: World, subscription_id: str, now_us: int, new_id: NewId) -> Outcome:
    """The renewal tried and declined: told in three, `updated` (active, the new period), `updated` (past due),
    `past_due`. The first looks like a paid renewal that did not happen; that is how Paddle tells it."""
    before = find(world, subscription_id)
    if before.status not in ("active", "trialing"):
        raise Refusal("subscription_not_active")
    return _failed(_Turn(world, now_us, new_id), before, _period_after(before.period, now_us))


def recover(world: World, subscription_id: str, now_us: int, new_id: NewId) -> Outcome:
    """The overdue bill paid, and the payment method good again."""
    before = find(world, subscription_id)
    if before.status != "past_due":
        raise Refusal("invalid_field", f"the subscription is {before.status}, nothing is overdue")
    turn = _Turn(world, now_us, new_id)
    after = replace(_billed(before, before.period, turn.stamp()), declines=False)
    turn.tell_paid(after, amounts.monthly(after.items), "subscription_recurring")
    turn.tell("subscription.updated", after)
    return turn.done(after)


def decline(world: World, subscription_id: str, now_us: int, new_id: NewId) -> Outcome:
    """The payment method refusing from now on, until `recover`. Tells nothing, as a provider would not know yet."""
    before = find(world, subscription_id)
    if not before.is_live:
        raise Refusal("subscription_is_canceled_action_invalid")
    return _Turn(world, now_us, new_id).done(replace(before, declines=True))


def move_end(world: World, subscription_id: str, ends_us: int, now_us: int, new_id: NewId) -> Outcome:
    """The current period, and what is scheduled for its end, ending at `ends_us`: how a user moves time. Unlike an
    update it is not bound by the 30 minutes before a bill."""
    before = find(world, subscription_id)
    if before.status not in ("active", "trialing", "past_due"):
        raise Refusal("subscription_not_active")
    turn = _Turn(world, now_us, new_id)
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


def _effected(turn: _Turn, before: Subscription, change: ScheduledChange, now_us: int) -> Outcome:
    match change.action:
        case "cancel":
            return _ended(turn, before)
        case "pause":
            return _paused(turn, before, change.resume_us, change.on_resume)
        case "resume":
            return _resumed(turn, before, change.on_resume, now_us)


def _ended(turn: _Turn, before: Subscription) -> Outcome:
    at_us = turn.stamp()
    after = replace(before, status="canceled", canceled_us=at_us, updated_us=at_us, scheduled=None, paused_us=None)
    turn.tell("subscription.canceled", after)
    turn.tell("subscription.updated", after)
    return turn.done(after)


def _paused(turn: _Turn, before: Subscription, resume_us: int | None, on_resume: OnResume) -> Outcome:
    at_us = turn.stamp()
    back = None if resume_us is None else ScheduledChange("resume", resume_us, None, on_resume)
    after = replace(before, status="paused", paused_us=at_us, updated_us=at_us, scheduled=back)
    turn.tell("subscription.paused", after)
    turn.tell("subscription.updated", after)
    return turn.done(after)


def _resumed(turn: _Turn, before: Subscription, on_resume: OnResume, now_us: int) -> Outcome:
    at_us = turn.stamp()
    continues = on_resume == "continue_existing_billing_period" and now_us < before.period.ends_us
    back = replace(before, paused_us=None, scheduled=None)
    if continues:
        after = replace(back, status="active", updated_us=at_us)
    else:
        after = _billed(back, Period(at_us, month_after(at_us)), at_us)
    turn.tell("subscription.resumed", after)
    turn.tell("subscription.updated", after)
    if not continues:
        turn.tell_paid(after, amounts.monthly(after.items), "subscription_recurring")
    return turn.done(after)


def _failed(turn: _Turn, before: Subscription, period: Period) -> Outcome:
    looks_paid = _billed(before, period, turn.stamp())
    turn.tell("subscription.updated", looks_paid)
    after = replace(looks_paid, status="past_due", updated_us=turn.stamp(), declines=True)
    turn.tell("subscription.updated", after)
    turn.tell("subscription.past_due", after)
    return turn.done(after)


def _scheduled(turn: _Turn, before: Subscription, change: ScheduledChange, replaces: bool = False) -> Outcome:
    if before.scheduled is not None and not replaces:
        raise Refusal("subscription_locked_pending_changes")
    after = replace(before, scheduled=change, updated_us=turn.stamp())
    turn.tell("subscription.updated", after)
    return turn.done(after)


def _period_after(period: Period, now_us: int) -> Period:
    """The next month: from the end of this one, or from now where it is ended early."""
    starts_us = min(period.ends_us, now_us)
    return Period(starts_us, month_after(starts_us))


def _billed(before: Subscription, period: Period, at_us: int) -> Subscription:
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


def _merged(before: Sequence[Item], lines: Sequence[tuple[Price, int]], at_us: int) -> tuple[Item, ...]:
    held: Mapping[str, Item] = {item.price.id: item for item in before}
    return tuple(
        replace(held[price.id], quantity=quantity, updated_us=at_us)
        if price.id in held
        else Item(price, quantity, at_us, at_us, at_us)
        for price, quantity in lines
    )


def _check_lines(lines: Sequence[tuple[Price, int]]) -> None:
    if not lines:
        raise Refusal("subscription_all_items_removed")
    if len({price.id for price, _ in lines}) < len(lines):
        raise Refusal("subscription_duplicate_price_ids")
    for _, quantity in lines:
        if not 1 <= quantity <= QUANTITY_MAX:
            raise Refusal("subscription_quantity_not_valid", f"quantity must be from 1 to {QUANTITY_MAX}")


def _check_patch(before: Subscription, patch: Patch, now_us: int) -> None:
    if not before.is_live:
        raise Refusal("subscription_update_when_canceled")
    if patch.lines is None and patch.next_us is None:
        return
    if before.status == "past_due":
        raise Refusal("subscription_update_when_past_due")
    if before.bills_us is not None and before.bills_us - now_us <= LOCK_US:
        raise Refusal("subscription_locked_renewal")
    if patch.mode is None:
        raise Refusal("subscription_items_update_missing_proration_billing_mode")
    if before.status == "paused" and patch.next_us is not None:
        raise Refusal("subscription_only_update_items_on_paused_subscription")
    if before.status == "paused" and patch.mode != "do_not_bill":
        raise Refusal("subscription_incorrect_proration_on_paused_subscription")
    if before.status == "trialing" and patch.mode != "do_not_bill":
        raise Refusal("subscription_trialing_items_update_invalid_options")
    if before.scheduled is not None and not patch.clears_schedule and patch.mode.endswith("_next_billing_period"):
        raise Refusal("subscription_invalid_billing_mode_for_scheduled_change")
    if patch.next_us is not None and patch.next_us - now_us <= LOCK_US:
        raise Refusal("subscription_next_billed_at_too_soon")
    if patch.lines is not None:
        _check_lines(patch.lines)
