"""What things cost: totals, and the proration of an item change to the minute. Pure; no tax, one currency.

Source of the proration rule: developer.paddle.com/concepts/subscriptions/proration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from sync.simulator.world.model import Item, Period
from sync.simulator.world.moments import MINUTE_US

CURRENCY = "USD"

BillingMode = Literal[
    "prorated_immediately",
    "prorated_next_billing_period",
    "full_immediately",
    "full_next_billing_period",
    "do_not_bill",
]
"""Paddle's `proration_billing_mode`."""

BILLING_MODES: frozenset[str] = frozenset(get_args(BillingMode))


def monthly(items: Iterable[Item]) -> int:
    """Minor units that these lines cost a month."""
    return sum(item.price.amount * item.quantity for item in items)


def share_left(period: Period, now_us: int) -> float:
    """The part of the period still to come, 0 to 1, counted in whole minutes."""
    whole = max((period.ends_us - period.starts_us) // MINUTE_US, 1)
    left = (period.ends_us - now_us) // MINUTE_US
    return min(max(left / whole, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class Charge:
    """What an item change costs, in minor units: `credit` for what is given up, `charge` for what is taken, and
    whether it is billed `at_once`."""

    credit: int
    charge: int
    at_once: bool

    @property
    def due(self) -> int:
        """What the customer pays for it; negative is a credit to the customer."""
        return self.charge - self.credit


def change(old: Iterable[Item], new: Iterable[Item], period: Period, now_us: int, mode: BillingMode) -> Charge:
    """What replacing the lines `old` by `new` costs at `now_us`, under a billing mode."""
    before, after = monthly(old), monthly(new)
    match mode:
        case "do_not_bill":
            return Charge(0, 0, at_once=False)
        case "prorated_immediately" | "prorated_next_billing_period":
            left = share_left(period, now_us)
            return Charge(round(before * left), round(after * left), at_once=mode == "prorated_immediately")
        case "full_immediately" | "full_next_billing_period":
            return Charge(0, max(after - before, 0), at_once=mode == "full_immediately")
