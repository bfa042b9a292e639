"""What the Paddle API answers: requests read into the provider's rules, entities into Paddle's envelope.

The part of the API that paddle-python-sdk calls for subscriptions, events and replays. Pure but for `Request`: it reads
plain mappings, and the routes in `app` carry them. Source: developer.paddle.com/api-reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar, cast
from urllib.parse import urlencode

from sync.simulator.paddle import entities
from sync.simulator.paddle.entities import Body
from sync.simulator.world import amounts, rules
from sync.simulator.world.amounts import BillingMode
from sync.simulator.world.errors import ApiError, FieldError
from sync.simulator.world.ids import Mint
from sync.simulator.world.model import Event, Json, OnResume, Price, Subscription, World
from sync.simulator.world.moments import parse
from sync.simulator.world.offers import Offers
from sync.simulator.world.orders import Patch
from sync.simulator.world.turn import NewId, Outcome

PER_PAGE = 50
PER_PAGE_MAX = 200

UNSUPPORTED = frozenset(
    {"customer_id", "address_id", "business_id", "currency_code", "discount", "collection_mode", "billing_details"}
)
"""Fields that Paddle can update and the simulator does not."""

Query = Mapping[str, str]
Entity = TypeVar("Entity", Subscription, Event)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its entities, and the query that continues after the last."""

    data: list[Body]
    per_page: int
    next_query: str
    has_more: bool
    total: int


def _invalid(field: str, message: str) -> ApiError:
    return ApiError("invalid_field", fields=(FieldError(field, message),))


def own(world: World, env: str, subscription_id: str) -> Subscription:
    """The subscription, if it is of this environment: a key of one never sees the other's.

    Raises:
        ApiError: `not_found`.
    """
    found = rules.find(world, subscription_id)
    if found.env != env:
        raise ApiError("not_found", f"Subscription {subscription_id} not found.")
    return found


def list_subscriptions(world: World, env: str, query: Query) -> Page:
    """The subscriptions of `env` that the query's filters leave, by rising id."""
    chosen = [
        subscription
        for subscription in world.subscriptions.values()
        if subscription.env == env and _is_wanted(subscription, query)
    ]
    return _page(chosen, entities.api_subscription, query)


def list_events(world: World, env: str, query: Query) -> Page:
    """The remembered events of `env`, by rising id, which is the order in which they occurred."""
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


def update(world: World, offers: Offers, subscription_id: str, body: Json, now_us: int, new_id: NewId) -> Outcome:
    """What PATCH does to a subscription."""
    before = own(world, offers.env, subscription_id)
    return rules.update(world, subscription_id, _patch(before, offers, _object(body)), now_us, new_id)


def preview(world: World, offers: Offers, subscription_id: str, body: Json, now_us: int) -> Body:
    """What PATCH would do, and cost; changes nothing."""
    before = own(world, offers.env, subscription_id)
    patch = _patch(before, offers, _object(body))
    # Whether the payment would be declined is not known before it is tried.
    trial = replace(world, subscriptions={**world.subscriptions, before.id: replace(before, declines=False)})
    after = rules.update(trial, subscription_id, patch, now_us, Mint(Random(0))).subscription  # noqa: S311 - thrown away
    charge = None
    if patch.lines is not None and patch.mode is not None:
        charge = amounts.change(before.items, after.items, before.period, now_us, patch.mode)
    return entities.preview(before, after, charge)


def cancel(world: World, offers: Offers, subscription_id: str, body: Json, now_us: int, new_id: NewId) -> Outcome:
    """What POST .../cancel does."""
    own(world, offers.env, subscription_id)
    at_once = _effective(_object(body)) == "immediately"
    return rules.cancel(world, subscription_id, at_once, now_us, new_id)


def pause(world: World, offers: Offers, subscription_id: str, body: Json, now_us: int, new_id: NewId) -> Outcome:
    """What POST .../pause does."""
    own(world, offers.env, subscription_id)
    fields = _object(body)
    at_once = _effective(fields) == "immediately"
    resume_us = None if fields.get("resume_at") is None else _time("resume_at", fields["resume_at"])
    return rules.pause(world, subscription_id, at_once, resume_us, _on_resume(fields), now_us, new_id)


def resume(world: World, offers: Offers, subscription_id: str, body: Json, now_us: int, new_id: NewId) -> Outcome:
    """What POST .../resume does: `effective_from` is `immediately` or a time."""
    own(world, offers.env, subscription_id)
    fields = _object(body)
    at = fields.get("effective_from")
    at_us = None if at in (None, "immediately") else _time("effective_from", at)
    return rules.resume(world, subscription_id, at_us, _on_resume(fields), now_us, new_id)


def activate(world: World, offers: Offers, subscription_id: str, body: Json, now_us: int, new_id: NewId) -> Outcome:
    """What POST .../activate does; it takes no body."""
    own(world, offers.env, subscription_id)
    return rules.activate(world, subscription_id, now_us, new_id)


Operation = Callable[[World, Offers, str, Json, int, NewId], Outcome]

OPERATIONS: Mapping[str, Operation] = {"cancel": cancel, "pause": pause, "resume": resume, "activate": activate}
"""The last word of POST /subscriptions/{id}/... -> what it does."""


def _patch(before: Subscription, offers: Offers, fields: Mapping[str, Json]) -> Patch:
    known = {
        "items",
        "proration_billing_mode",
        "on_payment_failure",
        "scheduled_change",
        "next_billed_at",
        "custom_data",
    }
    for name in fields:
        if name in UNSUPPORTED:
            raise _invalid(name, "the simulator cannot change this field")
        if name not in known:
            raise _invalid(name, "unknown field")
    if fields.get("scheduled_change") is not None:
        raise ApiError("subscription_scheduled_change_invalid_update")
    mode = fields.get("proration_billing_mode")
    if mode is not None and mode not in amounts.BILLING_MODES:
        raise _invalid("proration_billing_mode", f"must be one of {', '.join(sorted(amounts.BILLING_MODES))}")
    failure = fields.get("on_payment_failure")
    if failure not in (None, "prevent_change", "apply_change"):
        raise _invalid("on_payment_failure", "must be prevent_change or apply_change")
    custom_data = fields.get("custom_data")
    if custom_data is not None and not isinstance(custom_data, dict):
        raise _invalid("custom_data", "must be an object or null")
    return Patch(
        lines=_lines(before, offers, fields["items"]) if "items" in fields else None,
        mode=cast("BillingMode | None", mode),
        clears_schedule="scheduled_change" in fields,
        next_us=_time("next_billed_at", fields["next_billed_at"]) if "next_billed_at" in fields else None,
        sets_custom_data="custom_data" in fields,
        custom_data=custom_data,
        prevents_on_decline=failure != "apply_change",
    )


def _lines(before: Subscription, offers: Offers, items: Json) -> tuple[tuple[Price, int], ...]:
    if not isinstance(items, list):
        raise _invalid("items", "must be a list")
    return tuple(_line(before, offers, f"items[{index}]", item) for index, item in enumerate(items))


def _line(before: Subscription, offers: Offers, name: str, item: Json) -> tuple[Price, int]:
    if not isinstance(item, dict) or not isinstance(item.get("price_id"), str):
        raise _invalid(f"{name}.price_id", "is required; the simulator sells prices of the catalog only")
    price_id = cast(str, item["price_id"])
    held = before.item(frozenset({price_id}))
    price = held.price if held is not None else offers.price(price_id)
    if price is None:
        raise ApiError("subscription_new_items_not_valid", f"price {price_id} is not in the catalog for {offers.env}")
    quantity = item.get("quantity")
    if quantity is None:
        if held is None:
            raise ApiError("subscription_quantity_missing_for_new_items")
        return price, held.quantity
    if isinstance(quantity, bool) or not isinstance(quantity, int):
        raise _invalid(f"{name}.quantity", "must be an integer")
    return price, quantity


def _object(body: Json) -> Mapping[str, Json]:
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise _invalid("(body)", "must be a JSON object")
    return body


def _effective(fields: Mapping[str, Json]) -> str:
    value = fields.get("effective_from")
    if value not in (None, "next_billing_period", "immediately"):
        raise _invalid("effective_from", "must be next_billing_period or immediately")
    return value or "next_billing_period"


def _on_resume(fields: Mapping[str, Json]) -> OnResume:
    value = fields.get("on_resume")
    if value not in (None, "start_new_billing_period", "continue_existing_billing_period"):
        raise _invalid("on_resume", "must be start_new_billing_period or continue_existing_billing_period")
    return cast("OnResume | None", value) or "start_new_billing_period"


def _time(name: str, value: Json) -> int:
    try:
        return parse(value if isinstance(value, str) else "")
    except ValueError as error:
        raise _invalid(name, "must be an RFC 3339 time") from error


def _instant(query: Query, name: str) -> int | None:
    return _time(name, query[name]) if name in query else None


def _words(query: Query, name: str) -> frozenset[str]:
    return frozenset(word for word in query.get(name, "").split(",") if word)


def _is_wanted(sub: Subscription, query: Query) -> bool:
    change = "none" if sub.scheduled is None else sub.scheduled.action
    told: Mapping[str, frozenset[str]] = {
        "id": frozenset({sub.id}),
        "customer_id": frozenset({sub.customer_id}),
        "address_id": frozenset({sub.address_id}),
        "price_id": frozenset(item.price.id for item in sub.items),
        "status": frozenset({sub.status}),
        "scheduled_change_action": frozenset({change}),
        "collection_mode": frozenset({sub.collection_mode}),
    }
    fits = all(not _words(query, name) or not _words(query, name).isdisjoint(has) for name, has in told.items())
    return fits and _bills_when_wanted(sub.bills_us, query)


def _bills_when_wanted(bills_us: int | None, query: Query) -> bool:
    comparisons: Mapping[str, Callable[[int, int], bool]] = {
        "next_billed_at": lambda at, limit: at == limit,
        "next_billed_at[LT]": lambda at, limit: at < limit,
        "next_billed_at[LTE]": lambda at, limit: at <= limit,
        "next_billed_at[GT]": lambda at, limit: at > limit,
        "next_billed_at[GTE]": lambda at, limit: at >= limit,
    }
    for name, holds in comparisons.items():
        limit = _instant(query, name)
        if limit is not None and (bills_us is None or not holds(bills_us, limit)):
            return False
    return True


def _page(entities: Sequence[Entity], draw: Callable[[Entity], Body], query: Query) -> Page:
    descends = _descends(query)
    per_page = _per_page(query)
    ordered = sorted(entities, key=lambda entity: entity.id, reverse=descends)
    after = query.get("after")
    if after:
        ordered = [entity for entity in ordered if (entity.id < after if descends else entity.id > after)]
    shown = ordered[:per_page]
    last = shown[-1].id if shown else after or ""
    next_query = urlencode({**query, "per_page": str(per_page), "after": last})
    return Page([draw(entity) for entity in shown], per_page, next_query, len(ordered) > per_page, len(entities))


def _descends(query: Query) -> bool:
    order = query.get("order_by", "id[ASC]").lower()
    if order not in ("id[asc]", "id[desc]"):
        raise _invalid("order_by", "must be id[ASC] or id[DESC]")
    return order == "id[desc]"


def _per_page(query: Query) -> int:
    value = query.get("per_page", str(PER_PAGE))
    if not value.isdecimal() or int(value) < 1:
        raise _invalid("per_page", f"must be from 1 to {PER_PAGE_MAX}")
    return min(int(value), PER_PAGE_MAX)
