"""Paddle's webhooks: verifies `Paddle-Signature`, parses an event's envelope, normalises its subscription. Pure.

Source: https://developer.paddle.com/webhooks/overview
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sync.billing.domain.model import FETCHED, Event, Order, Period, Scheduled, Subscription, Unparsable
from sync.billing.providers import hmac_signature, parsing
from sync.billing.providers.base import ProviderPreview, Secret, Verification
from sync.billing.providers.hmac_signature import Scheme
from sync.billing.providers.parsing import ITEMS_MAX, LISTED, is_id
from sync.core import instants

NAME = "paddle"
SCHEME = Scheme("Paddle-Signature", ";", "ts", "h1", b":")
"""`Paddle-Signature: ts=SECONDS;h1=HEX[;h1=HEX...]`: HMAC-SHA256 of `ts`, a colon and the raw body."""

LISTED_TYPE = f"subscription.{LISTED}"

SIMULATED_PREFIX = "ntfsimevt_"
"""How event ids of Paddle's simulator begin; it runs in the live environment too."""


class PaddleWebhooks:
    """The webhook adapter of Paddle Billing."""

    name = NAME
    metadata_field = "custom_data"

    def verify(
        self, body: bytes, headers: Mapping[str, str], secrets: Sequence[Secret], now_s: float, tolerance_s: float
    ) -> Verification:
        """Return who signed `body`; `tolerance_s` 0 turns the time check off. Never raises. See `SCHEME`."""
        return hmac_signature.verify(SCHEME, body, headers, secrets, now_s, tolerance_s)

    def parse(self, body: bytes, environment: str) -> Event | Unparsable:
        """Return the event in a verified body of `environment`. Never raises."""
        return parsing.parse_event(body, "event_id", "event_type", partial(_event, environment))


def _event(environment: str, envelope: dict[str, Any], event_id: str, kind: str) -> Event:
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


def read_preview(document: Mapping[str, object], subscription_id: str) -> ProviderPreview:
    """Return Paddle's preview of a change: the subscription as it would be, which has no id of its own.

    Raises:
        ValueError: it is no subscription; the text says why.
    """
    return ProviderPreview(document, subscription_of({**document, "id": subscription_id}))


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
        # An item's status is not read: for a paused subscription official bodies say "active" and "inactive".
        items=tuple([parsing.item(entry) for entry in entries]),
        customer_id=_optional_id(data, "customer_id"),
        period=_period(period) if period is not None else None,
        trial_ends_ns=_trial_ends_ns(data, entries) if status == "trialing" else None,
        scheduled=_scheduled(data.get("scheduled_change")),
    )


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
    if not is_id(value):
        raise ValueError(f"data.{name} is not an id")
    return value


def _tenant_id(data: Mapping[str, Any]) -> str | None:
    """What the seller put into custom_data.tenant_id at checkout, as text; None where there is nothing of use."""
    custom = data.get("custom_data")
    value = custom.get("tenant_id") if isinstance(custom, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None
