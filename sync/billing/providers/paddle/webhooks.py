"""Paddle's webhooks: verifies `Paddle-Signature`, parses an event's envelope, normalises its subscription. Pure.

Source: https://developer.paddle.com/webhooks/overview
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from sync.billing.domain.facts.model import FETCHED, Event, Order, Period, Scheduled, Subscription
from sync.billing.providers import parsing
from sync.billing.providers.base import Checkout, ProviderPreview
from sync.billing.providers.hmac_signature import Scheme, SignedWebhooks
from sync.billing.providers.paddle.money import BILLED, billed_of, money_of
from sync.billing.providers.paddle.payments import (
    ADJUSTED,
    PAID,
    purchase_of,
    refund_event,
    split_purchase,
    transaction_envelope,
)
from sync.billing.providers.parsing import ITEMS_MAX, LISTED
from sync.core import instants

NAME = "paddle"
METADATA = "custom_data"
SCHEME = Scheme("Paddle-Signature", ";", "ts", "h1", b":")
"""`Paddle-Signature: ts=SECONDS;h1=HEX[;h1=HEX...]`: HMAC-SHA256 of `ts`, a colon and the raw body."""

CUSTOMER = ("customer.created", "customer.updated", "customer.imported")

LISTED_TYPE = f"subscription.{LISTED}"

_PAID = tuple(kind.encode() for kind in PAID)

SIMULATED_PREFIX = "ntfsimevt_"
"""Prefix of the event ids of Paddle's simulator, which also runs in the live environment."""


class PaddleWebhooks(SignedWebhooks):
    """The webhook adapter of Paddle Billing."""

    name = NAME
    scheme = SCHEME
    id_field = "event_id"
    type_field = "event_type"

    def split(self, body: bytes, event_id: str) -> Sequence[tuple[str, bytes]]:
        """Return the events in a body: that of a transaction, and that of the one-time items beside a subscription."""
        if any(kind in body for kind in _PAID):
            try:
                envelope = orjson.loads(body)
                own_id = str(envelope.get("event_id") or event_id)
                part = split_purchase(envelope, own_id)
            except (AttributeError, TypeError, ValueError):
                part = None  # `parse` says what is wrong
            if part is not None:
                return (event_id, body), (part["event_id"], orjson.dumps(part))
        return ((event_id, body),)

    def read(self, environment: str, envelope: dict[str, Any], event_id: str, kind: str) -> Event:
        """Return the event in an envelope."""
        occurred_ns = instants.parse(envelope.get("occurred_at"))
        data = envelope.get("data")
        if not isinstance(data, dict):
            raise ValueError("data is not an object")
        delivery_id = envelope.get("notification_id")
        subscription = subscription_of(data) if kind.startswith("subscription.") else None
        updated_ns = None if subscription is None else _instant(data, "updated_at")
        event = Event(
            NAME,
            environment,
            event_id,
            kind,
            Order.of(updated_ns, occurred_ns, event_id),
            delivery_id if isinstance(delivery_id, str) else None,
            customer_id=parsing.optional_id(data, "customer_id"),
            subscription_id=None if subscription is None else subscription.id,
            simulated=event_id.startswith(SIMULATED_PREFIX),
            subscription=subscription,
            names=() if subscription is None else parsing.names(data, METADATA),
            checkout_id=None if subscription is None else _id(data, "transaction_id"),
        )
        if subscription is not None:
            return event
        if kind in CUSTOMER:
            return parsing.customer(event, data, METADATA)
        if kind in ADJUSTED:
            return refund_event(event, data)
        if kind in BILLED:
            event = replace(event, billed=billed_of(kind, data))
        if kind not in PAID:
            return replace(event, ignored=f"events of type {kind[:60]} say nothing of entitlements")
        purchase = purchase_of(envelope, kind, occurred_ns)
        if purchase is not None:
            order = Order.of(_instant(data, "updated_at"), occurred_ns, event_id)
            return parsing.with_subscription(replace(event, order=order), purchase, parsing.names(data, METADATA))
        # Does not affect entitlements itself, but links the checkout's tenant to the new subscription. A transaction
        # that is only paid comes before its subscription, whose creation has the transaction's id.
        return replace(
            event,
            subscription_id=parsing.optional_id(data, "subscription_id"),
            checkout_id=_id(data, "id"),
            names=parsing.names(data, METADATA),
            ignored="a paid transaction is a hint: the subscription's own events carry the state",
        )


def fetched(data: object, environment: str, began_ns: int) -> Event:
    """Return the subscription in an answer of the API. `began_ns`: start of the request.

    Raises:
        ValueError: it is not a subscription; the message says why.
    """
    if not isinstance(data, dict):
        raise ValueError("data is not an object")
    event = Event(NAME, environment, "", FETCHED, Order.fetched(_instant(data, "updated_at"), began_ns))
    return parsing.with_subscription(event, subscription_of(data), parsing.names(data, METADATA))


def checkout_of(data: object, environment: str, began_ns: int) -> Checkout:
    """Return a transaction of the API as a checkout. A subscription is made between `paid` and `completed`.

    Raises:
        ValueError: it is not a transaction; the message says why.
    """
    if not isinstance(data, dict) or not isinstance(data.get("status"), str):
        raise ValueError("data.status is missing")
    kind = f"transaction.{data['status']}"
    is_final = data["status"] in ("completed", "canceled")
    if kind not in PAID:
        return Checkout(is_final=is_final)
    event_id, webhooks = f"fetched_{data.get('id')}", PaddleWebhooks()
    envelope = transaction_envelope(data, event_id)
    part = split_purchase(envelope, event_id)
    return Checkout(
        webhooks.read(environment, envelope, event_id, kind),
        bought=None if part is None else webhooks.read(environment, part, part["event_id"], kind),
        is_final=is_final,
    )


def read_preview(document: Mapping[str, object], subscription_id: str, billing_mode: str) -> ProviderPreview:
    """Return Paddle's preview of a change. It shows the resulting subscription, without the id, and both bills.

    Raises:
        ValueError: it is not a subscription; the message says why.
    """
    return ProviderPreview(document, subscription_of({**document, "id": subscription_id}), money_of(document))


def subscription_of(data: Mapping[str, Any]) -> Subscription:
    """Return Paddle's subscription entity, from a webhook or the API, in the provider-neutral form.

    Raises:
        ValueError: a required field is missing or has another form; the message names it.
    """
    status = data.get("status")
    if not isinstance(status, str) or not status:
        raise ValueError("data.status is missing")
    entries = data.get("items")
    if not isinstance(entries, list) or len(entries) > ITEMS_MAX:
        raise ValueError(f"data.items is not a list of at most {ITEMS_MAX}")
    subscription_id = parsing.optional_id(data, "id")
    if subscription_id is None:
        raise ValueError("data.id is missing")
    period = data.get("current_billing_period")
    return Subscription(
        id=subscription_id,
        status=status,
        # Ignore an item's status: for a paused subscription Paddle sends both "active" and "inactive".
        items=tuple([parsing.item(entry) for entry in entries]),
        customer_id=parsing.optional_id(data, "customer_id"),
        period=_period(period) if period is not None else None,
        trial_ends_ns=_trial_ends_ns(data, entries) if status == "trialing" else None,
        scheduled=_scheduled(data.get("scheduled_change")),
        created_ns=parsing.created_ns(data, "created_at", instants.parse),
        products=parsing.products(entries),
    )


def _period(value: object) -> Period:
    if not isinstance(value, dict):
        raise ValueError("data.current_billing_period is not an object")
    return Period(instants.parse(value.get("starts_at")), instants.parse(value.get("ends_at")))


def _trial_ends_ns(data: Mapping[str, Any], entries: list[Any]) -> int | None:
    """Return the end of the longest trial among the items; without any, the end of the billing period."""
    ends = [
        instants.parse(dates.get("ends_at")) for entry in entries if isinstance(dates := entry.get("trial_dates"), dict)
    ]
    if ends:
        return max(ends)
    period = data.get("current_billing_period")
    return instants.parse(period.get("ends_at")) if isinstance(period, dict) else None


def _scheduled(value: object) -> Scheduled | None:
    if value is None:
        return None
    action = value.get("action") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(action, str):
        raise ValueError("data.scheduled_change has no action")
    return Scheduled(action, instants.parse(value.get("effective_at")), _instant(value, "resume_at"))


def _id(data: Mapping[str, Any], name: str) -> str | None:
    """Return an id that an event can do without."""
    value = data.get(name)
    return value if parsing.is_id(value) else None


def _instant(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    return None if value is None else instants.parse(value)
