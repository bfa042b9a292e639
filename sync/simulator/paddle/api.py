"""The Paddle API's changing calls: turns requests into calls of the provider's rules. Pure.

Together with `reads` it covers the calls of paddle-python-sdk for subscriptions, transactions, adjustments, events and
replays. It works on plain values; `routes` does the HTTP. Source: developer.paddle.com/api-reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from sync.simulator.paddle import entities
from sync.simulator.paddle.entities import Body
from sync.simulator.world import offers, rules
from sync.simulator.world.errors import ApiError
from sync.simulator.world.ids import Mint
from sync.simulator.world.model import InstantUs, Json, OnResume, Price, Subscription, World, parse_us
from sync.simulator.world.offers import BillingMode, Offers
from sync.simulator.world.rules import Patch
from sync.simulator.world.turn import Outcome, Turn

UNSUPPORTED = frozenset(
    {"customer_id", "address_id", "business_id", "currency_code", "discount", "collection_mode", "billing_details"}
)
"""Fields that Paddle can update but the simulator cannot."""

Request = TypeVar("Request", bound="_Request")


class _Request(BaseModel):
    model_config = ConfigDict(strict=True)


class _Line(_Request):
    price_id: str
    quantity: int | None = None


class _Update(_Request):
    model_config = ConfigDict(extra="forbid")

    items: list[_Line] = []
    proration_billing_mode: BillingMode | None = None
    on_payment_failure: Literal["prevent_change", "apply_change"] | None = None
    scheduled_change: Json = None
    next_billed_at: InstantUs = 0
    custom_data: dict[str, Json] | None = None


class _End(_Request):
    effective_from: Literal["next_billing_period", "immediately"] | None = None
    resume_at: InstantUs | None = None
    on_resume: OnResume | None = None


class _Resume(_Request):
    effective_from: Annotated[
        int | None, BeforeValidator(lambda at: None if at in (None, "immediately") else parse_us(at))
    ] = None
    on_resume: OnResume | None = None


def own(world: World, env: str, subscription_id: str) -> Subscription:
    """Return the subscription if it belongs to this environment; a key is for one environment only.

    Raises:
        ApiError: `not_found`.
    """
    found = world.subscriptions.get(subscription_id)
    if found is None or found.env != env:
        raise ApiError("not_found", f"Subscription {subscription_id} not found.")
    return found


def update(turn: Turn, offers: Offers, subscription_id: str, body: Json) -> Outcome:
    """Do PATCH of a subscription."""
    before = own(turn.world, offers.env, subscription_id)
    return rules.update(turn, before, _patch(before, offers, body))


def preview(world: World, sold: Offers, subscription_id: str, body: Json, now_us: int) -> Body:
    """Return the result and the cost of a PATCH, without doing it."""
    before = own(world, sold.env, subscription_id)
    patch = _patch(before, sold, body)
    trial = Turn(world, now_us, Mint(Random(0)))  # noqa: S311 - thrown away
    # A preview cannot know whether the payment would be declined.
    after = rules.update(trial, replace(before, declines=False), patch).subscription
    charge = None
    if patch.lines is not None and patch.mode is not None:
        charge = offers.change(before, after.items, now_us, patch.mode)
    return entities.preview(before, after, charge)


def cancel(turn: Turn, offers: Offers, subscription_id: str, body: Json) -> Outcome:
    """Do POST .../cancel."""
    before = own(turn.world, offers.env, subscription_id)
    return rules.cancel(turn, before, _read(_End, body).effective_from == "immediately")


def pause(turn: Turn, offers: Offers, subscription_id: str, body: Json) -> Outcome:
    """Do POST .../pause."""
    before = own(turn.world, offers.env, subscription_id)
    asked = _read(_End, body)
    at_once = asked.effective_from == "immediately"
    return rules.pause(turn, before, at_once, asked.resume_at, asked.on_resume or "start_new_billing_period")


def resume(turn: Turn, offers: Offers, subscription_id: str, body: Json) -> Outcome:
    """Do POST .../resume; `effective_from` is `immediately` or a time."""
    before = own(turn.world, offers.env, subscription_id)
    asked = _read(_Resume, body)
    return rules.resume(turn, before, asked.effective_from, asked.on_resume or "start_new_billing_period")


def activate(turn: Turn, offers: Offers, subscription_id: str, body: Json) -> Outcome:
    """Do POST .../activate; it takes no body."""
    return rules.activate(turn, own(turn.world, offers.env, subscription_id))


Operation = Callable[[Turn, Offers, str, Json], Outcome]

OPERATIONS: Mapping[str, Operation] = {"cancel": cancel, "pause": pause, "resume": resume, "activate": activate}
"""Last segment of POST /subscriptions/{id}/... -> its operation."""


def _read(kind: type[Request], body: Json) -> Request:
    """Return the request in a body; a missing body counts as an empty object.

    Raises:
        ApiError: `invalid_field`, with the fields.
    """
    try:
        return kind.model_validate({} if body is None else body)
    except ValidationError as error:
        problems = {".".join(map(str, each["loc"])) or "(body)": each["msg"] for each in error.errors()}
        raise ApiError("invalid_field", fields=problems) from error


def _patch(before: Subscription, offers: Offers, body: Json) -> Patch:
    for name in UNSUPPORTED.intersection(body if isinstance(body, dict) else ()):
        raise ApiError("invalid_field", fields={name: "the simulator cannot change this field"})
    asked = _read(_Update, body)
    if asked.scheduled_change is not None:
        raise ApiError("subscription_scheduled_change_invalid_update")
    given = asked.model_fields_set
    return Patch(
        lines=tuple(_line(before, offers, line) for line in asked.items) if "items" in given else None,
        mode=asked.proration_billing_mode,
        clears_schedule="scheduled_change" in given,
        next_us=asked.next_billed_at if "next_billed_at" in given else None,
        sets_custom_data="custom_data" in given,
        custom_data=asked.custom_data,
        prevents_on_decline=asked.on_payment_failure != "apply_change",
    )


def _line(before: Subscription, offers: Offers, asked: _Line) -> tuple[Price, int]:
    held = before.item(frozenset({asked.price_id}))
    price = held.price if held is not None else offers.price(asked.price_id)
    if price is None:
        unknown = f"price {asked.price_id} is not in the catalog for {offers.env}"
        raise ApiError("subscription_new_items_not_valid", unknown)
    if asked.quantity is not None:
        return price, asked.quantity
    if held is None:
        raise ApiError("subscription_quantity_missing_for_new_items")
    return price, held.quantity
