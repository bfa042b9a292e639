"""Polar's webhooks: verified as Standard Webhooks, `subscription.*`, what names a tenant, and customers' states. Pure.

The state of a customer (`customer.state_changed`) lists all of its live subscriptions. It is split: each of them is an
event of its own, and the state itself says which ones are no longer live.
Source: https://polar.sh/docs/integrate/webhooks/events
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from sync.billing.domain.facts.model import FETCHED, Event, Order
from sync.billing.providers import parsing
from sync.billing.providers.base import ProviderPreview
from sync.billing.providers.hmac_signature import SignedWebhooks
from sync.billing.providers.parsing import ITEMS_MAX, LISTED, is_id
from sync.billing.providers.polar.payments import (
    REFUND_UPDATED,
    REFUNDED,
    failed_refund_event,
    purchase_of,
    refund_event,
)
from sync.billing.providers.polar.subscription import (
    METADATA,
    customer_names,
    has_quantity,
    modified_ns,
    names,
    subscription_of,
)
from sync.billing.providers.standard_webhooks import StandardScheme, any_key
from sync.core import instants

NAME = "polar"

SCHEME = StandardScheme(any_key)
"""Polar signs with the bytes of the secret as it shows it; its SDK accepts the standard's key too."""

LISTED_TYPE = f"subscription.{LISTED}"

STATE = "customer.state_changed"

CUSTOMER = ("customer.created", "customer.updated", STATE)

ORDERED = ("order.created", "order.updated", "order.paid")

FIRST_ORDER = "subscription_create"
"""The `billing_reason` of the order of a subscription whose metadata is the checkout's."""


class PolarWebhooks(SignedWebhooks):
    """The webhook adapter of Polar."""

    name = NAME
    scheme = SCHEME
    id_field = ""
    sells_products = True

    def split(self, body: bytes, event_id: str) -> Sequence[tuple[str, bytes]]:
        """Return the events in a body: those of a customer's live subscriptions, then the customer's state itself."""
        if STATE.encode() in body:
            try:
                return (*_entries(orjson.loads(body), event_id), (event_id, body))
            except (KeyError, TypeError, ValueError):
                pass  # not JSON, no list, or nested too deeply: `parse` says what is wrong
        return ((event_id, body),)

    def read(self, environment: str, envelope: dict[str, Any], event_id: str, kind: str) -> Event:
        """Return the event in an envelope."""
        occurred_ns = instants.parse(envelope.get("timestamp"))
        data = envelope.get("data")
        if not isinstance(data, dict):
            raise ValueError("data is not an object")
        event = Event(NAME, environment, event_id, kind, Order.of(None, occurred_ns, event_id))
        if kind.startswith("subscription."):
            event = replace(event, order=Order.of(modified_ns(data), occurred_ns, event_id))
            return parsing.with_subscription(event, subscription_of(data), names(data))
        if kind == STATE and isinstance(entry := envelope.get("subscription"), dict):
            return _listed_in_state(event, data, entry)
        if kind in CUSTOMER:
            customer = replace(parsing.customer(event, data, METADATA), names=customer_names(data))
            return replace(customer, live_subscriptions=_live(data)) if kind == STATE else customer
        if kind == REFUNDED:
            return refund_event(event, data)
        if kind == REFUND_UPDATED:
            return failed_refund_event(event, data)
        if kind in ORDERED and (purchase := purchase_of(data)) is not None:
            event = replace(event, order=Order.of(modified_ns(data), occurred_ns, event_id))
            return parsing.with_subscription(event, purchase, names(data))
        if kind in ORDERED and data.get("billing_reason") == FIRST_ORDER:
            # Does not affect entitlements itself, but links the checkout's tenant to the new subscription.
            return replace(
                event,
                names=names(data),
                customer_id=parsing.optional_id(data, "customer_id"),
                subscription_id=parsing.optional_id(data, "subscription_id"),
                ignored="an order is a hint: the subscription's own events carry the state",
            )
        return replace(event, ignored=f"events of type {kind[:60]} say nothing of entitlements")


def _entries(envelope: Any, event_id: str) -> Iterator[tuple[str, bytes]]:
    """Yield the id and the body of an event for each live subscription in a customer's state.

    Raises:
        KeyError, TypeError, ValueError: the envelope has another form.
    """
    data = envelope["data"]
    if envelope["type"] != STATE or len(data["active_subscriptions"]) > ITEMS_MAX:
        return
    customer = {key: data.get(key) for key in ("id", "external_id", METADATA)}
    for entry in data["active_subscriptions"]:
        if isinstance(entry, dict) and is_id(entry.get("id")):
            part = {**envelope, "data": customer, "subscription": entry}
            yield f"{event_id}.{entry['id']}"[:200], orjson.dumps(part)


def _listed_in_state(event: Event, customer: Mapping[str, Any], entry: Mapping[str, Any]) -> Event:
    """Return the event about one live subscription in its customer's state.

    The entry lacks the prices and a scheduled pause: of the same modification, the subscription's own event is newer.
    """
    at_ns = modified_ns(entry)
    data = {**entry, "customer_id": customer.get("id"), "customer": customer}
    if not has_quantity(entry) or at_ns is None:
        return replace(event, subscription_id=parsing.optional_id(entry, "id"), names=names(data), is_hint=True)
    order = Order.of(at_ns, min(at_ns, event.order.occurred_ns), event.event_id)
    return parsing.with_subscription(replace(event, order=order), subscription_of(data), names(data))


def _live(data: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the ids of the live subscriptions in a customer's state; None if it does not list them."""
    listed = data.get("active_subscriptions")
    if not isinstance(listed, list):
        return None
    return frozenset([entry["id"] for entry in listed if isinstance(entry, dict) and is_id(entry.get("id"))])


def fetched(data: object, environment: str, began_ns: int) -> Event:
    """Return the subscription in an answer of the API. `began_ns`: start of the request.

    Raises:
        ValueError: it is not a subscription; the message says why.
    """
    if not isinstance(data, dict):
        raise ValueError("the answer is not an object")
    event = Event(NAME, environment, "", FETCHED, Order.fetched(modified_ns(data), began_ns))
    return parsing.with_subscription(event, subscription_of(data), names(data))


def order_envelope(order: Mapping[str, Any], event_id: str) -> dict[str, object]:
    """Return an order of the API as the event of its newest change."""
    return {"type": ORDERED[1], "timestamp": order.get("modified_at") or order.get("created_at"), "data": order}


def refund_envelope(order: Mapping[str, Any], event_id: str) -> dict[str, object]:
    """Return an order of the API as the event of its newest refund."""
    return {**order_envelope(order, event_id), "type": REFUNDED}


def read_preview(document: Mapping[str, object], subscription_id: str, billing_mode: str = "") -> ProviderPreview:
    """Return Polar's preview of a change: amounts, which do not show the resulting subscription.

    Raises:
        ValueError: it is neither that nor a subscription; the message says why.
    """
    subscription = None if "due_amount" in document else subscription_of({**document, "id": subscription_id})
    return ProviderPreview(document, subscription)
