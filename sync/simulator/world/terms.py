"""Changes of the tax and the discount of a subscription by the simulator's user; `offers` applies them. Pure."""

from __future__ import annotations

from dataclasses import replace

from sync.simulator.world.model import Discount, Subscription
from sync.simulator.world.turn import Outcome, Turn


def set_tax(turn: Turn, before: Subscription, rate_bp: int) -> Outcome:
    """Tax the bills of a subscription from now on, as after a change of the customer's address. In basis points."""
    return turn.outcome_of(replace(before, tax_bp=rate_bp, updated_us=turn.stamp()), "updated")


def set_discount(turn: Turn, before: Subscription, rate_bp: int, ends_us: int | None) -> Outcome:
    """Discount the bills of a subscription from now on, in basis points; 0 for no longer.

    Args:
        turn: the turn.
        before: the subscription.
        rate_bp: 10,000 for everything.
        ends_us: from when on bills are without it; None for never.
    """
    discount = Discount(turn.new_id("dsc"), rate_bp, turn.now_us, ends_us) if rate_bp else None
    return turn.outcome_of(replace(before, discount=discount, updated_us=turn.stamp()), "updated")
