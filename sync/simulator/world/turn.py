"""One action's working copy of the world: transitions and their events. Pure.

This module does transitions; `rules` and `purchases` check first whether they are allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sync.simulator.world import offers
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import (
    Adjustment,
    Bill,
    Event,
    OnResume,
    Period,
    Purchase,
    ScheduledChange,
    Subscription,
    Transaction,
    World,
)

EVENTS_KEPT = 1_000
"""Number of newest events that the world keeps; list-events reads these."""

NewId = Callable[[str, int], str]
"""Makes an id from a prefix and an instant; see `ids.Mint`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The world after an action, what the action was about, and the new events, oldest first."""

    world: World
    subject: Subscription | Transaction
    events: tuple[Event, ...]

    @property
    def subscription(self) -> Subscription:
        """Return the subscription of an action that is about one."""
        assert isinstance(self.subject, Subscription)
        return self.subject


class Turn:
    """The working copy: makes rising timestamps and new ids, and collects events. `world`: before the action."""

    def __init__(self, world: World, now_us: int, new_id: NewId) -> None:
        self.world = world
        self.now_us = now_us
        self._new_id = new_id
        self._stamp_us = world.stamp_us
        self._emitted: list[Event] = []

    def stamp(self) -> int:
        """Return the present time or, if the clock has not advanced, a microsecond after the last timestamp."""
        self._stamp_us = max(self._stamp_us + 1, self.now_us)
        return self._stamp_us

    def new_id(self, prefix: str) -> str:
        """Return a new id with this prefix."""
        return self._new_id(prefix, self.now_us)

    def emit(self, kind: str, data: Subscription | Transaction | Adjustment, transaction_id: str | None = None) -> None:
        """Add an event."""
        at_us = self.stamp()
        self._emitted.append(Event(self._new_id("evt", at_us), data.env, kind, at_us, data, transaction_id))

    def emit_payment(self, of: Subscription, bill: Bill, origin: str, transaction_id: str | None = None) -> None:
        """Add the event of a completed payment. `transaction_id`: given if the subscription's creation has named it."""
        identity = transaction_id or self.new_id("txn")
        self.emit(
            "transaction.completed",
            Transaction(
                id=identity,
                env=of.env,
                invoice_id=self.new_id("inv"),
                invoice_number=invoice_number(identity),
                subscription_id=of.id,
                customer_id=of.customer_id,
                address_id=of.address_id,
                origin=origin,
                items=of.items,
                amount=bill.due,
                period=of.period,
                at_us=self.stamp(),
                custom_data=of.custom_data,
                bill=bill,
            ),
        )

    def renew(self, of: Subscription) -> Subscription:
        """Add the payment of the next bill; return the subscription without what was deferred to it."""
        bill = offers.renewal(of, of.period.starts_us)
        self.emit_payment(of, bill, "subscription_recurring")
        return replace(of, deferred=Bill((), bill.to_balance))

    def done(self, after: Subscription) -> Outcome:
        """Return the outcome: the world with this subscription, and the events."""
        world = replace(self.world, subscriptions={**self.world.subscriptions, after.id: after})
        return self._ended(world, after)

    def bought(self, purchase: Purchase) -> Outcome:
        """Add the event of a purchase's payment; return the outcome."""
        payment = purchase.payment
        self.emit("transaction.completed", payment)
        return self._ended(replace(self.world, purchases={**self.world.purchases, payment.id: purchase}), payment)

    def adjusted(self, payment: Transaction, *steps: tuple[str, Adjustment]) -> Outcome:
        """Add the events of a payment's adjustments, such as (`created`, adjustment); return the outcome."""
        for kind, adjustment in steps:
            self.emit(f"adjustment.{kind}", adjustment)
        newest = {adjustment.id: adjustment for _, adjustment in steps}
        return self._ended(replace(self.world, adjustments={**self.world.adjustments, **newest}), payment)

    def _ended(self, world: World, subject: Subscription | Transaction) -> Outcome:
        events = (*world.events, *self._emitted)[-EVENTS_KEPT:]
        return Outcome(replace(world, events=events, stamp_us=self._stamp_us), subject, tuple(self._emitted))

    def outcome_of(self, after: Subscription, *kinds: str, pays: bool = False) -> Outcome:
        """Add subscription events, such as `updated`, and with `pays` the next bill's payment; return the outcome."""
        for kind in kinds:
            self.emit(f"subscription.{kind}", after)
        return self.done(self.renew(after) if pays else after)

    def ended(self, before: Subscription) -> Outcome:
        """Cancel the subscription."""
        at_us = self.stamp()
        after = replace(before, status="canceled", canceled_us=at_us, updated_us=at_us, scheduled=None, paused_us=None)
        return self.outcome_of(after, "canceled", "updated")

    def paused(self, before: Subscription, resume_us: int | None, on_resume: OnResume) -> Outcome:
        """Pause the subscription. `resume_us`: when it resumes; None for no end."""
        at_us = self.stamp()
        back = None if resume_us is None else ScheduledChange("resume", resume_us, None, on_resume)
        after = replace(before, status="paused", paused_us=at_us, updated_us=at_us, scheduled=back)
        return self.outcome_of(after, "paused", "updated")

    def resumed(self, before: Subscription, on_resume: OnResume) -> Outcome:
        """Resume the paused subscription, in its old period or in a new, paid one."""
        at_us = self.stamp()
        back = replace(before, paused_us=None, scheduled=None)
        if on_resume == "continue_existing_billing_period" and self.now_us < before.period.ends_us:
            return self.outcome_of(replace(back, status="active", updated_us=at_us), "resumed", "updated")
        return self.outcome_of(billed(back, Period.month(at_us), at_us), "resumed", "updated", pays=True)

    def failed(self, before: Subscription, period: Period) -> Outcome:
        """Fail the renewal. There are three events; the first looks like a paid renewal."""
        looks_paid = billed(before, period, self.stamp())
        self.emit("subscription.updated", looks_paid)
        after = replace(looks_paid, status="past_due", updated_us=self.stamp(), declines=True)
        return self.outcome_of(after, "updated", "past_due")

    def scheduled(self, before: Subscription, change: ScheduledChange, replaces: bool = False) -> Outcome:
        """Schedule a change.

        Raises:
            ApiError: another change is scheduled already, and `replaces` is False.
        """
        if before.scheduled is not None and not replaces:
            raise ApiError("subscription_locked_pending_changes")
        return self.outcome_of(replace(before, scheduled=change, updated_us=self.stamp()), "updated")


def billed(before: Subscription, period: Period, at_us: int) -> Subscription:
    """Return the subscription, active and with `period` paid."""
    return replace(
        before,
        status="active",
        updated_us=at_us,
        first_billed_us=before.first_billed_us or at_us,
        next_us=period.ends_us,
        period=period,
        items=tuple(replace(item, billed_us=period.starts_us) for item in before.items),
    )


def invoice_number(transaction_id: str) -> str:
    """Return the number of a transaction's invoice."""
    return f"{int.from_bytes(transaction_id.encode()[-4:], 'big') % 90_000 + 10_000}-10001"
