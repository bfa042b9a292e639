"""The Paddle API's behaviour: turns requests into calls of the provider's rules, and filters and pages lists. Pure.

It covers the calls of paddle-python-sdk for subscriptions, events and replays. It works on plain values; `routes` does
the HTTP. Source: developer.paddle.com/api-reference.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from sync.simulator.paddle import entities
from sync.simulator.paddle.entities import Body
from sync.simulator.world import offers, rules
from sync.simulator.world.errors import ApiError
from sync.simulator.world.ids import Mint
from sync.simulator.world.model import (
    Event,
    InstantUs,
    Json,
    OnResume,
    Price,
    Subscription,
    Transaction,
    World,
    parse_us,
)
from sync.simulator.world.offers import BillingMode, Offers
from sync.simulator.world.rules import Patch
from sync.simulator.world.turn import Outcome, Turn

PER_PAGE = 50
PER_PAGE_MAX = 200

UNSUPPORTED = frozenset(
    {"customer_id", "address_id", "business_id", "currency_code", "discount", "collection_mode", "billing_details"}
)
"""Fields that Paddle can update but the simulator cannot."""

COMPARISONS: Mapping[str, Callable[[int, int], bool]] = {
    "next_billed_at": operator.eq,
    "next_billed_at[LT]": operator.lt,
    "next_billed_at[LTE]": operator.le,
    "next_billed_at[GT]": operator.gt,
    "next_billed_at[GTE]": operator.ge,
}
"""Filter parameter of a list -> its comparison of the next bill's time with the parameter's."""

Query = Mapping[str, str]
Entity = TypeVar("Entity", Subscription, Event)
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


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its entities, and the query that continues after the last."""

    data: list[Body]
    per_page: int
    next_query: str
    has_more: bool
    total: int


def own(world: World, env: str, subscription_id: str) -> Subscription:
    """Return the subscription if it belongs to this environment; a key is for one environment only.

    Raises:
        ApiError: `not_found`.
    """
    found = world.subscriptions.get(subscription_id)
    if found is None or found.env != env:
        raise ApiError("not_found", f"Subscription {subscription_id} not found.")
    return found


def customer(world: World, env: str, customer_id: str) -> Body:
    """Return the customer of a subscription of this environment. The simulator keeps nothing of it but the id.

    Raises:
        ApiError: `not_found`.
    """
    if not any(sub.customer_id == customer_id and sub.env == env for sub in world.subscriptions.values()):
        raise ApiError("not_found", f"Customer {customer_id} not found.")
    return {"id": customer_id, "status": "active", "custom_data": None}


def transaction(world: World, env: str, transaction_id: str) -> Body:
    """Return a transaction of this environment, while the event of its payment is kept.

    Raises:
        ApiError: `not_found`.
    """
    for event in reversed(world.events):
        if isinstance(event.data, Transaction) and (event.data.id, event.env) == (transaction_id, env):
            return entities.transaction(event.data)
    raise ApiError("not_found", f"Transaction {transaction_id} not found.")


def list_subscriptions(world: World, env: str, query: Query) -> Page:
    """Return a page of the subscriptions of `env` that match the query's filters, by rising id."""
    chosen = [sub for sub in world.subscriptions.values() if sub.env == env and _is_wanted(sub, query)]
    return _page(chosen, entities.api_subscription, query)


def list_events(world: World, env: str, query: Query) -> Page:
    """Return a page of the kept events of `env`, by rising id, which is the order in which they occurred."""
    kinds = _words(query, "event_type")
    starts_us, ends_us = _instant(query, "from"), _instant(query, "to")
    chosen = [
        event
        for event in world.events
        if event.env == env
        and (not kinds or event.type in kinds)
        and (starts_us is None or event.occurred_us >= starts_us)
        and (ends_us is None or event.occurred_us <= ends_us)
    ]
    return _page(chosen, lambda event: entities.envelope(event, None), query)


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
        charge = offers.change(before.items, after.items, before.period, now_us, patch.mode)
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


def _instant(query: Query, name: str) -> int | None:
    try:
        return parse_us(query[name]) if name in query else None
    except ValueError as error:
        raise ApiError("invalid_field", fields={name: str(error)}) from error


def _words(query: Query, name: str) -> frozenset[str]:
    return frozenset(word for word in query.get(name, "").split(",") if word)


def _is_wanted(sub: Subscription, query: Query) -> bool:
    values: Mapping[str, frozenset[str]] = {
        "id": frozenset({sub.id}),
        "customer_id": frozenset({sub.customer_id}),
        "address_id": frozenset({sub.address_id}),
        "price_id": frozenset(item.price.id for item in sub.items),
        "status": frozenset({sub.status}),
        "scheduled_change_action": frozenset({"none" if sub.scheduled is None else sub.scheduled.action}),
        "collection_mode": frozenset({"automatic"}),
    }
    for name, has in values.items():
        wanted = _words(query, name)
        if wanted and wanted.isdisjoint(has):
            return False
    for name, holds in COMPARISONS.items():
        limit_us = _instant(query, name)
        if limit_us is not None and (sub.bills_us is None or not holds(sub.bills_us, limit_us)):
            return False
    return True


def _page(entities: Sequence[Entity], draw: Callable[[Entity], Body], query: Query) -> Page:
    order = query.get("order_by", "id[ASC]").lower()
    if order not in ("id[asc]", "id[desc]"):
        raise ApiError("invalid_field", fields={"order_by": "must be id[ASC] or id[DESC]"})
    asked = query.get("per_page", str(PER_PAGE))
    if not asked.isdecimal() or int(asked) < 1:
        raise ApiError("invalid_field", fields={"per_page": f"must be from 1 to {PER_PAGE_MAX}"})
    descends, per_page = order == "id[desc]", min(int(asked), PER_PAGE_MAX)
    ordered = sorted(entities, key=lambda entity: entity.id, reverse=descends)
    after = query.get("after")
    if after:
        ordered = [entity for entity in ordered if (entity.id < after if descends else entity.id > after)]
    shown = ordered[:per_page]
    last = shown[-1].id if shown else after or ""
    next_query = urlencode({**query, "per_page": str(per_page), "after": last})
    return Page([draw(entity) for entity in shown], per_page, next_query, len(ordered) > per_page, len(entities))
