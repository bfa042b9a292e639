"""Stripe's webhooks: verifies `Stripe-Signature`, parses `customer.subscription.*` and what names a tenant. Pure.

An event without the subscription (a thin event) or without some of its items is a hint: the subscription has to be
fetched. Event times are whole seconds, ids are random, and the subscription has no modification time. So each event
carries its step: its type and `previous_attributes` give its place among those of its second (`domain.facts.steps`).
Source: https://docs.stripe.com/webhooks
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planwire_client.core.topic import LIVE
from sync.billing.domain.facts.model import FETCHED, Event, NamePlace, Order
from sync.billing.providers import parsing
from sync.billing.providers.base import Checkout, ProviderPreview
from sync.billing.providers.hmac_signature import Scheme, SignedWebhooks
from sync.billing.providers.parsing import LISTED, is_id
from sync.billing.providers.stripe.money import BILLED, billed_of, money_of
from sync.billing.providers.stripe.payments import (
    CHECKED_OUT,
    DISPUTED,
    INVOICED,
    PAID_LATER,
    PAYMENT_EVENTS,
    REFUND_STEPS,
    REFUNDED,
    dispute_event,
    invoice_event,
    is_purchase,
    purchase_event,
    refund_event,
    single_refund_event,
)
from sync.billing.providers.stripe.subscription import SECOND_NS, has_more_items, instant, step_of, subscription_of
from sync.core import instants

NAME = "stripe"
METADATA = "metadata"
SCHEME = Scheme("Stripe-Signature", ",", "t", "v1", b".")
"""`Stripe-Signature: t=SECONDS,v1=HEX[,v1=HEX...]`: HMAC-SHA256 of `t`, a dot and the raw body."""

LISTED_TYPE = f"customer.subscription.{LISTED}"

THIN = "v2.core.event"
"""The `object` of a thin event: it names its subject (`related_object`) and does not contain it."""

CUSTOMER = ("customer.created", "customer.updated")

EVENT_TYPES = (
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "customer.subscription.pending_update_applied",
    "customer.subscription.trial_will_end",
    *PAYMENT_EVENTS,
    *CUSTOMER,
)
"""The event types that catch-up reads. Stripe's list accepts up to 20 types."""

PRORATIONS = {
    "prorated_immediately": "always_invoice",
    "prorated_next_billing_period": "create_prorations",
    "do_not_bill": "none",
}
"""Billing mode -> Stripe's `proration_behavior`. Stripe has no full charges without proration."""


AT_ONCE = ("prorated_immediately",)
"""The billing modes that bill a change at once."""


class StripeWebhooks(SignedWebhooks):
    """The webhook adapter of Stripe Billing."""

    name = NAME
    scheme = SCHEME
    has_coarse_clock = True

    def account(self, envelope: Mapping[str, Any]) -> str | None:
        """Return the connected account that an event is about. A thin event has it at the end of its context."""
        context = envelope.get("context") if envelope.get("object") == THIN else None
        account = envelope.get("account") or context
        return account.rpartition("/")[2] if isinstance(account, str) and account else None

    def read(self, environment: str, envelope: dict[str, Any], event_id: str, kind: str) -> Event:
        """Return the event in an envelope."""
        # Thin events have no data.object, and their `created` is a text.
        created = envelope.get("created")
        occurred_ns = instants.parse(created) if isinstance(created, str) else instant(created, "created")
        # Stripe never signs a test-mode event with a live secret: one that arrives so is treated as simulated.
        is_test = envelope.get("livemode") is False
        order = Order.of(None, occurred_ns, event_id)
        event = Event(NAME, environment, event_id, kind, order, simulated=is_test)
        data = envelope.get("data")
        body = data.get("object") if isinstance(data, dict) else None
        if envelope.get("object") == THIN or "related_object" in envelope:
            subscription_id = _related(envelope.get("related_object"), kind)
            ignored = "" if subscription_id else f"events of type {kind[:60]} are not about a subscription"
            return replace(event, subscription_id=subscription_id, ignored=ignored)
        if kind.startswith("customer.subscription."):
            if not isinstance(data, dict) or not isinstance(body, dict):
                raise ValueError("data.object is not an object")
            subscription_id = parsing.optional_id(body, "id")
            if subscription_id is not None and has_more_items(body):
                return replace(event, subscription_id=subscription_id)
            subscription = subscription_of(body)
            previous = data.get("previous_attributes")
            renames = isinstance(previous, dict) and METADATA in previous
            event = replace(event, step=step_of(kind, body, subscription, previous), renames=renames)
            return parsing.with_subscription(event, subscription, parsing.names(body, METADATA))
        if kind in CUSTOMER and isinstance(body, dict):
            return parsing.customer(event, body, METADATA)
        if kind in BILLED and isinstance(body, dict):
            event = replace(event, billed=billed_of(kind, body))
        if kind == REFUNDED and isinstance(body, dict):
            return refund_event(event, body)
        if kind in REFUND_STEPS and isinstance(body, dict):
            return single_refund_event(event, body)
        if kind in DISPUTED and isinstance(body, dict):
            return dispute_event(event, body)
        if kind == INVOICED and isinstance(body, dict):
            return invoice_event(event, body, parsing.names(body, METADATA))
        if kind not in (CHECKED_OUT, PAID_LATER) or not isinstance(body, dict):
            return replace(event, ignored=f"events of type {kind[:60]} say nothing of entitlements")
        own, *customers = parsing.names(body, METADATA)
        names = (own, NamePlace("client_reference_id", body.get("client_reference_id")), *customers)
        if is_purchase(body):
            return purchase_event(event, body, names)
        # Does not affect entitlements itself, but links the checkout's tenant to the new subscription.
        return replace(
            event,
            names=names,
            customer_id=parsing.optional_id(body, "customer"),
            subscription_id=parsing.optional_id(body, "subscription"),
            ignored="a completed checkout is a hint: the subscription's own events carry the state",
        )


def fetched(data: object, environment: str, began_ns: int) -> Event:
    """Return the subscription in an answer of the API. `began_ns`: start of the request.

    Raises:
        ValueError: it is not a subscription; the message says why.
    """
    if not isinstance(data, dict):
        raise ValueError("the answer is not an object")
    if data.get("livemode") is False and environment == LIVE:
        raise ValueError(f"the subscription is of test mode, and the environment is {LIVE}")
    subscription = subscription_of(data)
    event = Event(
        NAME,
        environment,
        "",
        FETCHED,
        # Within the second of the request, the bodies decide whether an event is newer than the answer.
        Order.fetched(None, began_ns, SECOND_NS),
        unstamped=True,
        step=step_of(FETCHED, data, subscription, None),
        received_ns=began_ns,
    )
    return parsing.with_subscription(event, subscription, parsing.names(data, METADATA))


def checkout_of(data: object, environment: str, began_ns: int) -> Checkout:
    """Return a checkout session of the API, with its subscription if that is expanded.

    Raises:
        ValueError: it is not a checkout session; the message says why.
    """
    if not isinstance(data, dict) or not isinstance(data.get("status"), str):
        raise ValueError("the checkout session has no status")
    if data["status"] != "complete":
        return Checkout(is_final=data["status"] == "expired")
    envelope = {"created": data.get("created"), "livemode": data.get("livemode"), "data": {"object": data}}
    event = StripeWebhooks().read(environment, envelope, f"fetched_{data.get('id')}", CHECKED_OUT)
    shown = data.get("subscription")
    is_whole = isinstance(shown, dict) and not has_more_items(shown)
    return Checkout(event, fetched(shown, environment, began_ns) if is_whole else None, is_final=True)


def read_preview(document: Mapping[str, object], subscription_id: str, billing_mode: str) -> ProviderPreview:
    """Return Stripe's preview of a change: an invoice, which does not show the resulting subscription.

    Raises:
        ValueError: it is neither an invoice nor a subscription; the message says why.
    """
    if document.get("object") != "invoice":
        return ProviderPreview(document, subscription_of({**document, "id": subscription_id}))
    bills_at_once = billing_mode in AT_ONCE
    return ProviderPreview(document, None, money_of(document, bills_at_once=bills_at_once))


def _related(related: object, kind: str) -> str | None:
    """Return the id of a thin event's subscription, or None if the event is about something else.

    Raises:
        ValueError: the event is about a subscription, but has no valid id.
    """
    what = related.get("type") if isinstance(related, dict) else None
    words = what.split(".")[-1:] if isinstance(what, str) else kind.split(".")
    if "subscription" not in words:
        return None
    subscription_id = related.get("id") if isinstance(related, dict) else None
    if not is_id(subscription_id):
        raise ValueError("related_object.id is missing or not an id")
    return subscription_id
