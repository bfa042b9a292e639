"""Parsing helpers of all providers: ids, items, an event's subscription. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from sync.billing.domain.facts.model import ENDED_STATUSES, Event, Item, NamePlace, Subscription
from sync.billing.domain.facts.steps import Kind, Step

ITEMS_MAX = 1000
QUANTITY_MAX = 1_000_000_000
KEY_MAX = 200
AMOUNT_DIGITS_MAX = 18

LISTED = "listed"
"""Last word of the type of a pseudo-event: an entry of a provider's list of subscriptions."""

_ID = re.compile(r"[\x21-\x7e]{1,200}")


def with_subscription(event: Event, subscription: Subscription, names: tuple[NamePlace, ...]) -> Event:
    """Return the event with its subscription, and with the places that may name its tenant."""
    return replace(
        event,
        names=names,
        customer_id=subscription.customer_id,
        subscription_id=subscription.id,
        subscription=subscription,
    )


def step(subscription: Subscription, *, is_creation: bool = False, **digests: tuple[str, ...]) -> Step:
    """Return the step of an event of a coarse clock; `digests` are its `before` and `after`, if they are known."""
    is_end = subscription.status in ENDED_STATUSES
    return Step(Kind.CREATION if is_creation else Kind.END if is_end else Kind.CHANGE, **digests)


def digest(value: object) -> str:
    """Return a short digest of a value; the same in every process."""
    text = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.blake2b(text, digest_size=6).hexdigest()


def is_id(value: object) -> TypeGuard[str]:
    """Return whether `value` is a text of 1 to 200 visible ASCII characters."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def optional_id(data: Mapping[str, Any], name: str) -> str | None:
    """Return the id in the field `name`, given directly or as an expanded object; None if it is absent or null.

    Raises:
        ValueError: the field holds something else.
    """
    value = data.get(name)
    if isinstance(value, dict):
        value = value.get("id")
    if value is None:
        return None
    if not is_id(value):
        raise ValueError(f"data.{name} is not an id")
    return value


def names(data: Mapping[str, Any], field: str) -> tuple[NamePlace, ...]:
    """Return the places in an object of the provider that may name its tenant: its metadata, then its customer's.

    Args:
        field: the name of the metadata, on the object and on the customer inside it.
    """
    customer = data.get("customer")
    value = data.get(field)
    own = NamePlace(field, value if isinstance(value, dict) else None)
    return (own, *customer_names(customer, field)) if isinstance(customer, dict) else (own,)


def customer_names(customer: Mapping[str, Any], field: str) -> tuple[NamePlace, ...]:
    """Return the place in a customer that may name its tenant: its metadata, in `field`."""
    value = customer.get(field)
    return (NamePlace(f"customer.{field}", value if isinstance(value, dict) else None),)


def customer(event: Event, data: Mapping[str, Any], field: str) -> Event:
    """Return the event about a customer, with the place that may name the tenant of its subscriptions.

    Raises:
        ValueError: the customer's id is malformed.
    """
    hint = "a customer is a hint: its metadata may name the tenant of its subscriptions"
    return replace(event, names=customer_names(data, field), customer_id=optional_id(data, "id"), ignored=hint)


def created_ns(data: Mapping[str, Any], name: str, parse: Callable[[Any], int]) -> int | None:
    """Return the time of creation in the field `name`, or None: it is no reason to reject a subscription."""
    try:
        return parse(data.get(name))
    except ValueError:
        return None


def products(entries: Iterable[object]) -> dict[str, str]:
    """Return price id -> product id of the items that show both. The product may be the id or the whole object."""
    found: dict[str, str] = {}
    for entry in entries:
        price = entry.get("price") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and isinstance(price, dict):
            product = price.get("product_id") or price.get("product") or entry.get("product")
            product = product.get("id") if isinstance(product, dict) else product
            if is_id(product) and is_id(price.get("id")):
                found[price["id"]] = product
    return found


def lookup_keys(entries: Iterable[object]) -> dict[str, str]:
    """Return price id -> lookup key of the items whose price has one."""
    prices = [entry.get("price") for entry in entries if isinstance(entry, dict)]
    return {
        price["id"]: key
        for price in prices
        if isinstance(price, dict) and is_id(price.get("id"))
        if isinstance(key := price.get("lookup_key"), str) and 0 < len(key) <= KEY_MAX
    }


def amount(value: object) -> int | None:
    """Return an amount in minor units, which may be given as text; None if it is no whole number."""
    if isinstance(value, str) and len(value) <= AMOUNT_DIGITS_MAX and value.lstrip("-").isascii():
        value = int(value) if value.lstrip("-").isdigit() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def item(entry: object, *, price_is_id: bool = False) -> Item:
    """Return the item `{"price": {"id": ...}, "quantity": ...}`; metered prices have no quantity, which counts as 1.

    Args:
        price_is_id: whether `price` may be the id itself.

    Raises:
        ValueError: the price id is missing, or the quantity is invalid.
    """
    price = entry.get("price") if isinstance(entry, dict) else None
    price_id = price.get("id") if isinstance(price, dict) else price if price_is_id else None
    if not isinstance(entry, dict) or not is_id(price_id):
        raise ValueError("an item has no price.id")
    return Item(price_id, quantity(price_id, entry.get("quantity")))


def quantity(price_id: str, value: object) -> int:
    """Return the number of units of a price; None counts as 1.

    Raises:
        ValueError: it is no whole number from 0 to QUANTITY_MAX.
    """
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= QUANTITY_MAX:
        raise ValueError(f"the quantity of {price_id} is no whole number from 0 to {QUANTITY_MAX}")
    return value
