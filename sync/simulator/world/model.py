"""The simulator's data: subscriptions, purchases, transactions, adjustments and events, all frozen values. Pure.

`paddle` defines their JSON, `rules` their changes. Instants are integers, microseconds since 1970, named `_us`.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, JsonValue

from sync.core import instants
from sync.simulator.world.bills import (
    NOTHING as NOTHING,
    WHOLE_BP as WHOLE_BP,
    Bill as Bill,
    Discount as Discount,
    Line as Line,
    Price as Price,
    Terms as Terms,
    share as share,
)

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 24 * 60 * MINUTE_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Json = JsonValue
"""Any JSON value."""

Status = Literal["active", "canceled", "past_due", "paused", "trialing"]
Change = Literal["cancel", "pause", "resume"]
Adjusting = Literal["refund", "chargeback", "chargeback_reverse"]
AdjustmentStatus = Literal["pending_approval", "approved", "reversed"]
OnResume = Literal["start_new_billing_period", "continue_existing_billing_period"]


def parse_us(text: object) -> int:
    """Return microseconds since 1970 of an RFC 3339 instant.

    Raises:
        ValueError: the text is not an instant, or has no time zone.
    """
    return instants.parse(text) // instants.NS_PER_US


InstantUs = Annotated[int, BeforeValidator(parse_us)]
"""A request's RFC 3339 time, as microseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a subscription or purchase, with a copy of the price from when the line was added."""

    price: Price
    quantity: int
    created_us: int
    updated_us: int
    billed_us: int | None


@dataclass(frozen=True, slots=True)
class Period:
    """From `starts_us` to `ends_us` (exclusive)."""

    starts_us: int
    ends_us: int

    @classmethod
    def month(cls, starts_us: int) -> Period:
        """Return a month from `starts_us`. It ends on the same day of the next month, or on that month's last day."""
        at = _EPOCH + timedelta(microseconds=starts_us)
        year, month = (at.year, at.month + 1) if at.month < 12 else (at.year + 1, 1)
        day = min(at.day, calendar.monthrange(year, month)[1])
        return cls(starts_us, (at.replace(year=year, month=month, day=day) - _EPOCH) // timedelta(microseconds=1))


@dataclass(frozen=True, slots=True)
class ScheduledChange:
    """A change at `effective_us`. `resume_us` and `on_resume` are for a pause or a resume."""

    action: Change
    effective_us: int
    resume_us: int | None = None
    on_resume: OnResume = "start_new_billing_period"


@dataclass(frozen=True, slots=True)
class Subscription:
    """One subscription of one environment.

    `tenant`: its tenant, for the simulator only; the `custom_data` that the provider sends may lack it.
    `period`, `next_us`: as last billed; a pause keeps them, so that the period can be continued. `paddle` shows them as
    null in some states. `declines`: charges fail, until the payment method recovers. `deferred`: what the next bill has
    besides the month: changes that are billed then, and the customer's credit. `tax_bp`: in basis points.
    """

    id: str
    env: str
    tenant: str
    customer_id: str
    address_id: str
    status: Status
    items: tuple[Item, ...]
    created_us: int
    updated_us: int
    started_us: int
    first_billed_us: int | None
    next_us: int
    period: Period
    trial: Period | None = None
    paused_us: int | None = None
    canceled_us: int | None = None
    scheduled: ScheduledChange | None = None
    custom_data: dict[str, Json] | None = None
    declines: bool = False
    deferred: Bill = NOTHING
    tax_bp: int = 0
    discount: Discount | None = None

    @property
    def is_live(self) -> bool:
        """Return whether it is not canceled."""
        return self.status != "canceled"

    @property
    def bills_us(self) -> int | None:
        """Return when the next bill is due; None if it is paused or canceled, or a cancel or pause is scheduled."""
        ending = self.scheduled is not None and self.scheduled.action != "resume"
        return None if ending or self.status in ("paused", "canceled") else self.next_us

    def terms(self, at_us: int) -> Terms:
        """Return the discount and the tax of a bill that is made at an instant."""
        is_over = self.discount is None or (self.discount.ends_us is not None and self.discount.ends_us <= at_us)
        return Terms(0 if self.discount is None or is_over else self.discount.rate_bp, self.tax_bp)

    def is_due(self, now_us: int) -> bool:
        """Return whether a renewal, the end of a trial or a scheduled change is due."""
        if self.scheduled is not None:
            return self.scheduled.effective_us <= now_us
        return self.status in ("active", "trialing") and self.next_us <= now_us

    def item(self, price_ids: frozenset[str]) -> Item | None:
        """Return the first line with one of these prices, or None."""
        return next((item for item in self.items if item.price.id in price_ids), None)


@dataclass(frozen=True, slots=True)
class Transaction:
    """A completed payment. `amount`: minor units of USD; `origin`: web, subscription_recurring, subscription_update.

    `subscription_id`, `period`: None for a one-time purchase. `bill`: None in files of older simulators, which billed
    the items as they are.
    """

    id: str
    env: str
    invoice_id: str
    invoice_number: str
    subscription_id: str | None
    customer_id: str
    address_id: str
    origin: str
    items: tuple[Item, ...]
    amount: int
    period: Period | None
    at_us: int
    custom_data: dict[str, Json] | None = None
    bill: Bill | None = None


@dataclass(frozen=True, slots=True)
class Purchase:
    """What a tenant has bought once: its payment. `tenant`: for the simulator only, as in a subscription."""

    tenant: str
    payment: Transaction


@dataclass(frozen=True, slots=True)
class Adjustment:
    """Money that goes back for a payment, or comes again. `amount`: minor units of USD; `is_full`: of all of it.

    `lines`: the payment's lines, with what goes back of each.
    A `chargeback_reverse` is a chargeback that was won; the chargeback itself is `reversed` then.
    """

    id: str
    env: str
    action: Adjusting
    status: AdjustmentStatus
    transaction_id: str
    subscription_id: str | None
    customer_id: str
    amount: int
    is_full: bool
    created_us: int
    updated_us: int
    lines: tuple[Line, ...] = ()

    @property
    def takes(self) -> int:
        """Return the amount that has gone back by it."""
        counts = self.status == "approved" and self.action != "chargeback_reverse"
        return self.amount if counts else 0


@dataclass(frozen=True, slots=True)
class Event:
    """A billing event for the webhook. `transaction_id` only for `subscription.created`."""

    id: str
    env: str
    type: str
    occurred_us: int
    data: Subscription | Transaction | Adjustment
    transaction_id: str | None = None


@dataclass(frozen=True, slots=True)
class World:
    """All data of the provider, by id. `stamp_us`: the newest timestamp given out; timestamps strictly rise."""

    subscriptions: Mapping[str, Subscription] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    stamp_us: int = 0
    purchases: Mapping[str, Purchase] = field(default_factory=dict)
    adjustments: Mapping[str, Adjustment] = field(default_factory=dict)

    def due(self, now_us: int) -> tuple[str, ...]:
        """Return the ids of the subscriptions that are due."""
        return tuple(sub.id for sub in self.subscriptions.values() if sub.is_due(now_us))

    def payments(self) -> dict[str, Transaction]:
        """Return the payments that are kept: of all purchases, and of the newest events."""
        paid = {event.data.id: event.data for event in self.events if isinstance(event.data, Transaction)}
        return paid | {each.payment.id: each.payment for each in self.purchases.values()}

    def adjustments_of(self, payment: Transaction) -> tuple[Adjustment, ...]:
        """Return the adjustments of a payment, in order of creation."""
        return tuple(each for each in self.adjustments.values() if each.transaction_id == payment.id)

    def taken_back(self, payment: Transaction) -> int:
        """Return how much of a payment has gone back."""
        return sum(each.takes for each in self.adjustments_of(payment))

    def is_back(self, payment: Transaction) -> bool:
        """Return whether all of a payment has gone back. Of nothing, nothing can."""
        return 0 < payment.amount <= self.taken_back(payment)
