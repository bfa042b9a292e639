"""Stripe's webhooks: verifies `Stripe-Signature`, parses `customer.subscription.*`, normalises the subscription. Pure.

An event without the subscription (a thin event) or without some of its items is a hint: the subscription has to be
fetched. Event times are whole seconds, ids are random, and the subscription has no modification time. So each event
carries its step: its type and `previous_attributes` give its place among those of its second (`domain.facts.steps`).
Source: https://docs.stripe.com/webhooks and https://docs.stripe.com/api/subscriptions/object
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from planwire_client.core.topic import LIVE
from sync.billing.domain.facts.model import (
    ENDED_STATUSES,
    EXPIRED,
    FETCHED,
    FETCHED_ID,
    UNCOLLECTED,
    Event,
    NamePlace,
    Order,
    Period,
    Scheduled,
    Subscription,
)
from sync.billing.domain.facts.steps import Step
from sync.billing.providers import parsing
from sync.billing.providers.base import Checkout, ProviderPreview
from sync.billing.providers.hmac_signature import Scheme, SignedWebhooks
from sync.billing.providers.parsing import ITEMS_MAX, LISTED, is_id
from sync.core import instants

NAME = "stripe"
METADATA = "metadata"
SCHEME = Scheme("Stripe-Signature", ",", "t", "v1", b".")
"""`Stripe-Signature: t=SECONDS,v1=HEX[,v1=HEX...]`: HMAC-SHA256 of `t`, a dot and the raw body."""

LISTED_TYPE = f"customer.subscription.{LISTED}"

THIN = "v2.core.event"
"""The `object` of a thin event: it names its subject (`related_object`) and does not contain it."""

CUSTOMER = ("customer.created", "customer.updated")
SECOND_NS = 1_000_000_000

CHECKED_OUT = "checkout.session.completed"

UNPROVIDED = "void"
"""The `behavior` of `pause_collection` with which the service is not provided either."""

PRORATIONS = {
    "prorated_immediately": "always_invoice",
    "prorated_next_billing_period": "create_prorations",
    "do_not_bill": "none",
}
"""Billing mode -> Stripe's `proration_behavior`. Stripe has no full charges without proration."""


class StripeWebhooks(SignedWebhooks):
    """The webhook adapter of Stripe Billing."""

    name = NAME
    scheme = SCHEME
    has_coarse_clock = True

    def account(self, envelope: Mapping[str, Any]) -> str | None:
        """Return the connected account that an event is about. A thin event has it at the end of its context."""
        account = envelope.get("context" if envelope.get("object") == THIN else "account")
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
            event = replace(event, step=_step(kind, body, subscription, previous), renames=renames)
            return parsing.with_subscription(event, subscription, parsing.names(body, METADATA))
        if kind in CUSTOMER and isinstance(body, dict):
            return parsing.customer(event, body, METADATA)
        if kind != CHECKED_OUT or not isinstance(body, dict):
            return replace(event, ignored=f"events of type {kind[:60]} say nothing of entitlements")
        # Does not affect entitlements itself, but links the checkout's tenant to the new subscription.
        own, *customers = parsing.names(body, METADATA)
        return replace(
            event,
            names=(own, NamePlace("client_reference_id", body.get("client_reference_id")), *customers),
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
        Order(began_ns // SECOND_NS * SECOND_NS, began_ns, FETCHED_ID),
        unstamped=True,
        step=_step(FETCHED, data, subscription, None),
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


def subscription_of(data: Mapping[str, Any]) -> Subscription:
    """Return Stripe's subscription object in the provider-neutral form.

    Raises:
        ValueError: a required field is missing or has another form; the message names it.
    """
    subscription_id, status = data.get("id"), data.get("status")
    if not is_id(subscription_id):
        raise ValueError("the subscription has no id")
    if not isinstance(status, str) or not status:
        raise ValueError("the subscription has no status")
    listed = data.get("items")
    entries = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(entries, list) or len(entries) > ITEMS_MAX:
        raise ValueError(f"items.data is not a list of at most {ITEMS_MAX}")
    if has_more_items(data):
        raise ValueError("the subscription has more items than are shown")
    neutral, trial_end = _status(status, data.get("pause_collection")), data.get("trial_end")
    return Subscription(
        id=subscription_id,
        status=neutral,
        items=tuple([parsing.item(entry, price_is_id=True) for entry in entries]),
        customer_id=parsing.optional_id(data, "customer"),
        period=_period(data, entries),
        trial_ends_ns=instant(trial_end, "trial_end") if neutral == "trialing" and trial_end is not None else None,
        scheduled=_scheduled(data, neutral) if neutral not in ENDED_STATUSES else None,
        created_ns=parsing.created_ns(data, "created", lambda value: instant(value, "created")),
        products=parsing.products(entries),
    )


def _status(status: str, collection: object) -> str:
    """Return the neutral status. `collection`: `pause_collection`, beside which Stripe keeps the status as it is."""
    if status == "active" and isinstance(collection, dict):
        return "paused" if collection.get("behavior") == UNPROVIDED else UNCOLLECTED
    return EXPIRED if status == "incomplete_expired" else status


def _step(kind: str, body: Mapping[str, Any], subscription: Subscription, previous: object) -> Step:
    """Return an event's step. `previous`: its `previous_attributes`, the changed fields as they were before it."""
    after = _digests(body, subscription)
    before: tuple[str, ...] = ()
    if isinstance(previous, dict) and previous:
        was = _patched(body, previous)
        # An API version may show a part of a field only.
        with contextlib.suppress(ValueError):
            before = _digests(was, subscription_of(was))
    is_creation = kind == "customer.subscription.created"
    return parsing.step(subscription, is_creation=is_creation, before=before, after=after)


def _digests(body: Mapping[str, Any], subscription: Subscription) -> tuple[str, ...]:
    """Return digests of the whole body, of what counts for entitlements, and of the status alone.

    The whole body distinguishes the most; the others still match if `previous_attributes` lacks a changed field.

    Raises:
        ValueError: the body is nested too deeply.
    """
    try:
        whole = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise ValueError("the subscription is nested too deeply") from error
    return parsing.digest(whole), parsing.digest(subscription), str(body.get("status"))


def _patched(body: Mapping[str, Any], previous: Mapping[str, Any], *, is_metadata: bool = False) -> dict[str, Any]:
    """Return the body with its previous attributes: objects hold only their changed fields, lists are whole."""
    was = dict(body)
    for name, value in previous.items():
        known = was.get(name)
        if isinstance(value, dict) and isinstance(known, dict):
            was[name] = _patched(known, value, is_metadata=name == "metadata")
        elif value is None and is_metadata:
            # A key that did not exist; any other field is there and null.
            was.pop(name, None)
        else:
            was[name] = value
    return was


def read_preview(document: Mapping[str, object], subscription_id: str) -> ProviderPreview:
    """Return Stripe's preview of a change: an invoice, which does not show the resulting subscription.

    Raises:
        ValueError: it is neither an invoice nor a subscription; the message says why.
    """
    subscription = None if document.get("object") == "invoice" else subscription_of({**document, "id": subscription_id})
    return ProviderPreview(document, subscription)


def has_more_items(data: Mapping[str, Any]) -> bool:
    """Return whether a subscription object contains only its first items."""
    listed = data.get("items")
    return isinstance(listed, dict) and bool(listed.get("has_more"))


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


def _period(data: Mapping[str, Any], entries: list[Any]) -> Period | None:
    """Return the billing period: the subscription's (older API versions), or the first to end of its items' (newer)."""
    spans = [data, *entries]
    found = [
        Period(instant(span["current_period_start"], "period"), instant(span["current_period_end"], "period"))
        for span in spans
        if span.get("current_period_start") is not None and span.get("current_period_end") is not None
    ]
    return min(found, key=lambda period: period.ends_ns, default=None)


def _scheduled(data: Mapping[str, Any], neutral: str) -> Scheduled | None:
    """Return the next change that Stripe makes by itself: the cancellation, or the end of a paused collection."""
    cancel_at, collection = data.get("cancel_at"), data.get("pause_collection")
    is_paused = neutral in ("paused", UNCOLLECTED)
    resumes_at = collection.get("resumes_at") if is_paused and isinstance(collection, dict) else None
    found = [] if resumes_at is None else [Scheduled("resume", instant(resumes_at, "resumes_at"))]
    if cancel_at is None and data.get("cancel_at_period_end"):
        period = _period(data, data["items"]["data"])
        found += [] if period is None else [Scheduled("cancel", period.ends_ns)]
    elif cancel_at is not None:
        found.append(Scheduled("cancel", instant(cancel_at, "cancel_at")))
    return min(found, key=lambda change: change.effective_ns, default=None)


def instant(value: object, name: str) -> int:
    """Return Stripe's Unix time, in whole seconds, as nanoseconds.

    Raises:
        ValueError: `value` is not a Unix time; the message calls it `name`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**33:
        raise ValueError(f"{name} is no Unix time")
    return value * SECOND_NS
