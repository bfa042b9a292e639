"""What the provider is asked for, a checkout or an update, and whether the provider does it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sync.simulator.world.amounts import BillingMode
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import Json, Price, Subscription
from sync.simulator.world.moments import MINUTE_US

LOCK_US = 30 * MINUTE_US
"""How long before a bill a subscription can no longer be updated (Paddle: 30 minutes)."""

QUANTITY_MAX = 10_000
"""The most units of one price on a subscription."""


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


def check_lines(lines: Sequence[tuple[Price, int]]) -> None:
    """Return if a subscription can have these (price, quantity).

    Raises:
        ApiError: it cannot.
    """
    if not lines:
        raise ApiError("subscription_all_items_removed")
    if len({price.id for price, _ in lines}) < len(lines):
        raise ApiError("subscription_duplicate_price_ids")
    for _, quantity in lines:
        if not 1 <= quantity <= QUANTITY_MAX:
            raise ApiError("subscription_quantity_not_valid", f"quantity must be from 1 to {QUANTITY_MAX}")


def check_patch(before: Subscription, patch: Patch, now_us: int) -> None:
    """Return if a subscription can be updated so at `now_us`.

    Raises:
        ApiError: it cannot.
    """
    if not before.is_live:
        raise ApiError("subscription_update_when_canceled")
    if patch.lines is None and patch.next_us is None:
        return
    if before.status == "past_due":
        raise ApiError("subscription_update_when_past_due")
    if before.bills_us is not None and before.bills_us - now_us <= LOCK_US:
        raise ApiError("subscription_locked_renewal")
    if patch.mode is None:
        raise ApiError("subscription_items_update_missing_proration_billing_mode")
    if before.status == "paused" and patch.next_us is not None:
        raise ApiError("subscription_only_update_items_on_paused_subscription")
    if before.status == "paused" and patch.mode != "do_not_bill":
        raise ApiError("subscription_incorrect_proration_on_paused_subscription")
    if before.status == "trialing" and patch.mode != "do_not_bill":
        raise ApiError("subscription_trialing_items_update_invalid_options")
    if before.scheduled is not None and not patch.clears_schedule and patch.mode.endswith("_next_billing_period"):
        raise ApiError("subscription_invalid_billing_mode_for_scheduled_change")
    if patch.next_us is not None and patch.next_us - now_us <= LOCK_US:
        raise ApiError("subscription_next_billed_at_too_soon")
    if patch.lines is not None:
        check_lines(patch.lines)
