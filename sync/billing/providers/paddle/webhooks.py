"""Paddle Billing: verifies `Paddle-Signature`, parses an event's envelope, normalises its subscription. Pure.

Knows Paddle's wire format (https://developer.paddle.com/webhooks/overview) and nothing of catalogs or tenants' facts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import orjson

from sync.billing.domain.model import FETCHED, Event, Item, Order, Period, Scheduled, Subscription, Unparsable
from sync.billing.providers import hmac_signature
from sync.billing.providers.base import LISTED, Secret, Verification
from sync.billing.providers.hmac_signature import Scheme
from sync.core import instants

NAME = "paddle"
SCHEME = Scheme("Paddle-Signature", ";", "ts", "h1", b":")
"""`Paddle-Signature: ts=SECONDS;h1=HEX[;h1=HEX...]`: HMAC-SHA256 of `ts`, a colon and the raw body."""

LISTED_TYPE = f"subscription.{LISTED}"

ITEMS_MAX = 1000
QUANTITY_MAX = 1_000_000_000
ID_MAX_CHARS = 200

SIMULATED_PREFIX = "ntfsimevt_"
"""How event ids of Paddle's simulator begin; it runs in the live environment too."""

_ID = re.compile(r"[\x21-\x7e]{1,200}")


class PaddleWebhooks:
    """The adapter of Paddle Billing."""

    name = NAME

    def verify(
        self, body: bytes, headers: Mapping[str, str], secrets: Sequence[Secret], now_s: float, tolerance_s: float
    ) -> Verification:
        """Return who signed `body`; `tolerance_s` 0 turns the time check off. Never raises. See `SCHEME`."""
        return hmac_signature.verify(SCHEME, body, headers, secrets, now_s, tolerance_s)

    def parse(self, body: bytes, environment: str) -> Event | Unparsable:
        """Return the event in a verified body of `environment`. Never raises."""
        try:
            envelope = orjson.loads(body)
        except orjson.JSONDecodeError:
            return Unparsable(_derived_id(body), "", "the body is not JSON")
        if not isinstance(envelope, dict):
            return Unparsable(_derived_id(body), "", "the body is not a JSON object")
        event_id, kind = envelope.get("event_id"), envelope.get("event_type")
        if not _is_id(event_id):
            return Unparsable(_derived_id(body), "", "event_id is missing or not an id")
        if not _is_id(kind):
            return Unparsable(event_id, "", "event_type is missing or not a name")
        try:
            return _event(envelope, environment)
        except ValueError as error:
            return Unparsable(event_id, kind, str(error))


def _derived_id(body: bytes) -> str:
    return f"body_{hashlib.sha256(body).hexdigest()[:32]}"


def _event(envelope: dict[str, Any], environment: str) -> Event:
    event_id, kind = envelope["event_id"], envelope["event_type"]
    occurred_ns = instants.parse(envelope.get("occurred_at"))
    data = envelope.get("data")
    if not isinstance(data, dict):
        raise ValueError("data is not an object")
    delivery_id = envelope.get("notification_id")
    subscription: Subscription | None = None
    subscription_id: str | None = None
    updated_ns: int | None = None
    ignored = ""
    if kind.startswith("subscription."):
        subscription = subscription_of(data)
        subscription_id = subscription.id
        updated_ns = _instant(data, "updated_at")
    elif kind == "transaction.completed":
        # Says nothing of entitlements itself, but joins the checkout's tenant to the subscription it made.
        subscription_id = _optional_id(data, "subscription_id")
        ignored = "a completed transaction is a hint: the subscription's own events carry the state"
    else:
        ignored = f"events of type {kind[:60]} say nothing of entitlements"
    return Event(
        provider=NAME,
        environment=environment,
        event_id=event_id,
        type=kind,
        order=Order.of(updated_ns, occurred_ns, event_id),
        delivery_id=delivery_id if isinstance(delivery_id, str) else None,
        tenant_id=_tenant_id(data) if not ignored or subscription_id else None,
        customer_id=_optional_id(data, "customer_id"),
        subscription_id=subscription_id,
        simulated=event_id.startswith(SIMULATED_PREFIX),
        subscription=subscription,
        ignored=ignored,
    )


def fetched(data: object, environment: str, began_ns: int) -> Event:
    """Return the subscription that the API answered to a request begun at `began_ns`.

    Raises:
        ValueError: it is no subscription; the text says why.
    """
    if not isinstance(data, dict):
        raise ValueError("data is not an object")
    subscription = subscription_of(data)
    return Event(
        provider=NAME,
        environment=environment,
        event_id="",
        type=FETCHED,
        order=Order.fetched(_instant(data, "updated_at"), began_ns),
        tenant_id=_tenant_id(data),
        customer_id=subscription.customer_id,
        subscription_id=subscription.id,
        subscription=subscription,
    )


def subscription_of(data: Mapping[str, Any]) -> Subscription:
    """Return Paddle's subscription entity, from a webhook or the API, in the provider-neutral form.

    Raises:
        ValueError: it lacks what every subscription has, or has it in another shape; the text says what.
    """
    status = data.get("status")
    if not isinstance(status, str) or not status:
        raise ValueError("data.status is missing")
    entries = data.get("items")
    if not isinstance(entries, list) or len(entries) > ITEMS_MAX:
        raise ValueError(f"data.items is not a list of at most {ITEMS_MAX}")
    subscription_id = _optional_id(data, "id")
    if subscription_id is None:
        raise ValueError("data.id is missing")
    period = data.get("current_billing_period")
    return Subscription(
        id=subscription_id,
        status=status,
        items=tuple([_item(entry) for entry in entries]),
        customer_id=_optional_id(data, "customer_id"),
        period=_period(period) if period is not None else None,
        trial_ends_ns=_trial_ends_ns(data, entries) if status == "trialing" else None,
        scheduled=_scheduled(data.get("scheduled_change")),
    )


def _item(entry: object) -> Item:
    # status is not looked at: a paused subscription's items say "active" in one official body, "inactive" in another.
    price = entry.get("price") if isinstance(entry, dict) else None
    price_id = price.get("id") if isinstance(price, dict) else None
    if not isinstance(entry, dict) or not _is_id(price_id):
        raise ValueError("an item has no price.id")
    quantity = entry.get("quantity", 1)
    if not isinstance(quantity, int) or isinstance(quantity, bool) or not 0 <= quantity <= QUANTITY_MAX:
        raise ValueError(f"the quantity of {price_id} is no whole number from 0 to {QUANTITY_MAX}")
    return Item(price_id, quantity)


def _period(value: object) -> Period:
    if not isinstance(value, dict):
        raise ValueError("data.current_billing_period is not an object")
    return Period(instants.parse(value.get("starts_at")), instants.parse(value.get("ends_at")))


def _trial_ends_ns(data: Mapping[str, Any], entries: list[Any]) -> int | None:
    """The end of the longest trial among the items; where none tells, the trial's period is the billing period."""
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


def _instant(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    return None if value is None else instants.parse(value)


def _optional_id(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    if value is None:
        return None
    if not _is_id(value):
        raise ValueError(f"data.{name} is not an id")
    return value


def _is_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _tenant_id(data: Mapping[str, Any]) -> str | None:
    """What the seller put into custom_data.tenant_id at checkout, as text; None where there is nothing of use."""
    custom = data.get("custom_data")
    value = custom.get("tenant_id") if isinstance(custom, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None
