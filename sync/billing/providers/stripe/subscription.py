"""Stripe's subscription object: its provider-neutral form, and its place among the events of one second. Pure.

Source: https://docs.stripe.com/api/subscriptions/object
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from sync.billing.domain.facts.model import ENDED_STATUSES, EXPIRED, UNCOLLECTED, Period, Scheduled, Subscription
from sync.billing.domain.facts.steps import Step
from sync.billing.providers import parsing
from sync.billing.providers.parsing import ITEMS_MAX, is_id

SECOND_NS = 1_000_000_000

UNPROVIDED = "void"
"""The `behavior` of `pause_collection` with which the service is not provided either."""


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
        lookup_keys=parsing.lookup_keys(entries),
    )


def _status(status: str, collection: object) -> str:
    """Return the neutral status. `collection`: `pause_collection`, beside which Stripe keeps the status as it is."""
    if status == "active" and isinstance(collection, dict):
        return "paused" if collection.get("behavior") == UNPROVIDED else UNCOLLECTED
    return EXPIRED if status == "incomplete_expired" else status


def has_more_items(data: Mapping[str, Any]) -> bool:
    """Return whether a subscription object contains only its first items."""
    listed = data.get("items")
    return isinstance(listed, dict) and bool(listed.get("has_more"))


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


def step_of(kind: str, body: Mapping[str, Any], subscription: Subscription, previous: object) -> Step:
    """Return an event's step. `previous`: its `previous_attributes`, the changed fields as they were before it."""
    after = _digests(body, subscription)
    before: tuple[str, ...] = ()
    if isinstance(previous, dict) and previous:
        was = _patched(body, previous)
        try:
            before = _digests(was, subscription_of(was))
        except ValueError:
            before = _digests(was, None)  # this API version shows a part of a field only
    is_creation = kind == "customer.subscription.created"
    return parsing.step(subscription, is_creation=is_creation, before=before, after=after)


def _digests(body: Mapping[str, Any], subscription: Subscription | None) -> tuple[str, ...]:
    """Return digests of the whole body, of what counts for entitlements ("": not known), and the status alone.

    The whole body distinguishes the most; the others still match if `previous_attributes` lacks a changed field.

    Raises:
        ValueError: the body is nested too deeply.
    """
    try:
        whole = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise ValueError("the subscription is nested too deeply") from error
    counting = "" if subscription is None else parsing.digest(subscription)
    return parsing.digest(whole), counting, str(body.get("status"))


def _patched(body: Mapping[str, Any], previous: Mapping[str, Any], *, is_metadata: bool = False) -> dict[str, Any]:
    """Return the body with its previous attributes: objects hold only their changed fields, lists all their entries."""
    was = dict(body)
    for name, value in previous.items():
        known = was.get(name)
        if isinstance(value, dict) and isinstance(known, dict):
            was[name] = _patched(known, value, is_metadata=name == "metadata")
        elif isinstance(value, list) and isinstance(known, list):
            entries = {str(each.get("id")): each for each in known if isinstance(each, dict)}
            was[name] = [entries.get(str(each["id"]), {}) | each if _has_id(each) else each for each in value]
        elif value is None and is_metadata:
            # A key that did not exist; any other field is there and null.
            was.pop(name, None)
        else:
            was[name] = value
    return was


def _has_id(entry: object) -> bool:
    return isinstance(entry, dict) and "id" in entry
