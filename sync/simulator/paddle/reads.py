"""The Paddle API's reading calls: entities by their id, and lists with their filters and pages. Pure.

It works on plain values; `routes` does the HTTP. Source: developer.paddle.com/api-reference.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

from sync.simulator.paddle import entities
from sync.simulator.paddle.adjustments import adjustment
from sync.simulator.paddle.entities import Body
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import Adjustment, Event, Subscription, Transaction, World, parse_us

PER_PAGE = 50
PER_PAGE_MAX = 200

COMPARISONS: Mapping[str, Callable[[int, int], bool]] = {
    "": operator.eq,
    "[LT]": operator.lt,
    "[LTE]": operator.le,
    "[GT]": operator.gt,
    "[GTE]": operator.ge,
}
"""Suffix of a list's filter for an instant -> the comparison of the entity's instant with the parameter's."""

Query = Mapping[str, str]
Entity = TypeVar("Entity", Subscription, Transaction, Adjustment, Event)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its entities, and the query that continues after the last."""

    data: list[Body]
    per_page: int
    next_query: str
    has_more: bool
    total: int


def customer(world: World, env: str, customer_id: str) -> Body:
    """Return the customer of a subscription or purchase of this environment. The simulator keeps only its id.

    Raises:
        ApiError: `not_found`.
    """
    known = {(each.customer_id, each.env) for each in world.subscriptions.values()}
    known |= {(each.payment.customer_id, each.payment.env) for each in world.purchases.values()}
    if (customer_id, env) not in known:
        raise ApiError("not_found", f"Customer {customer_id} not found.")
    return {"id": customer_id, "status": "active", "custom_data": None}


def transaction(world: World, env: str, transaction_id: str, query: Query) -> Body:
    """Return a transaction of this environment; a subscription's while the event of its payment is kept.

    Raises:
        ApiError: `not_found`.
    """
    found = world.payments().get(transaction_id)
    if found is None or found.env != env:
        raise ApiError("not_found", f"Transaction {transaction_id} not found.")
    return _drawn(world, query)(found)


def list_transactions(world: World, env: str, query: Query) -> Page:
    """Return a page of the kept transactions of `env` that match the query's filters, by rising id.

    `subscription_id=null` asks for those of no subscription.
    """
    chosen = [
        each
        for each in world.payments().values()
        if each.env == env
        and _matches(
            query,
            id=each.id,
            customer_id=each.customer_id,
            subscription_id=each.subscription_id or "null",
            status="completed",
            origin=each.origin,
            collection_mode="automatic",
        )
        and all(_is_within(query, name, each.at_us) for name in ("billed_at", "created_at", "updated_at"))
    ]
    return _page(chosen, _drawn(world, query), query)


def list_adjustments(world: World, env: str, query: Query) -> Page:
    """Return a page of the adjustments of `env` that match the query's filters, by rising id."""
    chosen = [
        each
        for each in world.adjustments.values()
        if each.env == env
        and _matches(
            query,
            id=each.id,
            customer_id=each.customer_id,
            subscription_id=each.subscription_id or "null",
            transaction_id=each.transaction_id,
            status=each.status,
            action=each.action,
        )
    ]
    return _page(chosen, adjustment, query)


def _drawn(world: World, query: Query) -> Callable[[Transaction], Body]:
    """Return what draws a transaction, with what the query includes."""
    if "adjustments" not in _words(query, "include"):
        return entities.transaction
    return lambda each: entities.transaction(each, world.adjustments_of(each))


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


Listing = Callable[[World, str, Query], Page]
"""A list of an environment, by its query."""


def _instant(query: Query, name: str) -> int | None:
    try:
        return parse_us(query[name]) if name in query else None
    except ValueError as error:
        raise ApiError("invalid_field", fields={name: str(error)}) from error


def _words(query: Query, name: str) -> frozenset[str]:
    return frozenset(word for word in query.get(name, "").split(",") if word)


def _is_wanted(sub: Subscription, query: Query) -> bool:
    prices = _words(query, "price_id")
    if prices and prices.isdisjoint(item.price.id for item in sub.items):
        return False
    return _is_within(query, "next_billed_at", sub.bills_us) and _matches(
        query,
        id=sub.id,
        customer_id=sub.customer_id,
        address_id=sub.address_id,
        status=sub.status,
        scheduled_change_action="none" if sub.scheduled is None else sub.scheduled.action,
        collection_mode="automatic",
    )


def _matches(query: Query, **values: str) -> bool:
    """Return whether each value is one of the words that the query asks for by its name, if it does."""
    return all(value in (_words(query, name) or (value,)) for name, value in values.items())


def _is_within(query: Query, name: str, at_us: int | None) -> bool:
    """Return whether an instant is within the bounds that the query gives for its name."""
    for suffix, holds in COMPARISONS.items():
        limit_us = _instant(query, name + suffix)
        if limit_us is not None and (at_us is None or not holds(at_us, limit_us)):
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
