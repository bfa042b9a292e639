"""Facts as canonical JSON, the `private` part of a tenant's snapshot. Pure.

The format is stored: older builds read and write the same names and shapes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import orjson

from sync.billing.domain.facts import instructions, model
from sync.billing.domain.facts.instructions import Override
from sync.billing.domain.facts.model import NOTHING, Facts, Item, Order, Subscription, SubscriptionFacts
from sync.billing.domain.facts.payments import Purchase, Refund, RefundKind, RefundStatus
from sync.billing.domain.facts.steps import Kind, Seen, Step

FORMAT = 1
"""The version of the encoding that `encode` writes."""


def encode(facts: Facts) -> bytes:
    """Return the facts as canonical JSON; tuples become lists."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "subscriptions": {},
    }
    for key, entry in facts.subscriptions.items():
        # Older builds would take a purchase for a subscription.
        member = "subscriptions" if entry.subscription.purchase is None else "purchases"
        document.setdefault(member, {})[key] = _subscription_out(entry)
    if facts.scheduled_changes:
        # Older builds know one.
        document["held"], *more = [_without_empty_app(asdict(each)) for each in facts.scheduled_changes]
        if more:
            document["held_more"] = more
    for name, overrides in _by_member(facts.overrides).items():
        document[name] = [_override_out(override) for override in overrides]
    previews = [_without_empty_app(asdict(each)) for each in facts.awaited_previews]
    if previews and "app" not in previews[0]:
        # Older builds know one, and cannot read a tenant whose `expected` has an application.
        document["expected"] = previews.pop(0)
    if previews:
        document["expected_more"] = previews
    if facts.awaited_bills:
        document["bills"] = [asdict(each) for each in facts.awaited_bills]
    if facts.erased_ns is not None:
        document["erased_ns"] = facts.erased_ns
    if facts.moved:
        document["moved"] = facts.moved
    if facts.kept is not None:
        document["kept"] = facts.kept
    return orjson.dumps(document, default=list, option=orjson.OPT_SORT_KEYS)


def decode(private: bytes) -> Facts:
    """Return the facts that `encode` wrote; empty bytes mean no facts.

    Raises:
        ValueError: the bytes are not such a document, or are of a newer format.
    """
    if not private:
        return NOTHING
    try:
        document = orjson.loads(private)
        if document["format"] != FORMAT:
            raise ValueError(f"facts of format {document['format']} cannot be read")
        awaited = [document["expected"]] if "expected" in document else []
        awaited += document.get("expected_more", ())
        changes = [document["held"], *document.get("held_more", ())] if "held" in document else ()
        return Facts(
            {
                key: _subscription_in(entry)
                for member in (document["subscriptions"], document.get("purchases", {}))
                for key, entry in member.items()
            },
            tuple([_scheduled_change_in(change) for change in changes]),
            tuple([_override_in(entry) for name in _MEMBERS for entry in document.get(name, ())]),
            tuple([instructions.AwaitedPreview(**{**each, "items": _items_in(each["items"])}) for each in awaited]),
            document.get("erased_ns"),
            document.get("moved", {}),
            document.get("kept"),
            tuple([instructions.AwaitedBill(**each) for each in document.get("bills", ())]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a tenant's facts: {error!r}") from error


_MEMBERS = ("overrides", "grants", "versions")
"""The members that hold overrides. Older builds cannot project those of the kinds PLAN, in the second, and VERSION."""


def _by_member(overrides: Iterable[Override]) -> dict[str, list[Override]]:
    found: dict[str, list[Override]] = {}
    for override in overrides:
        found.setdefault(_MEMBERS[instructions.place(override)], []).append(override)
    return found


def _override_out(override: Override) -> dict[str, object]:
    fields = _without_none(asdict(override))
    return {name: value for name, value in fields.items() if name not in ("by", "trial", "app") or value}


def _override_in(entry: dict[str, Any]) -> Override:
    return Override(
        entry["kind"],
        entry["name"],
        entry.get("value"),
        entry["reason"],
        entry.get("expires_ns"),
        entry.get("by", ""),
        entry.get("trial", False),
        entry.get("at_ns"),
        entry.get("app", ""),
    )


def _subscription_out(entry: SubscriptionFacts) -> dict[str, object]:
    return _without_none(
        {
            **_body_out(entry.subscription),
            "provider": entry.provider,
            "order": entry.order,
            # Usually the newest event itself: then `true` avoids writing its order twice.
            "settled": True if entry.settled == entry.order else entry.settled,
            "past_due": entry.past_due or None,
            "created_ns": entry.created_ns,
            "vouched": entry.is_vouched or None,
            "moved_us": entry.moved_us or None,
            "granted": entry.granted,
            "recent": [_seen_out(each, entry) for each in entry.recent] or None,
            "ahead": entry.ahead,
            "former": entry.former or None,
            "first_seen": entry.first_seen or None,
            "granted_in": entry.granted_in or None,
            "apps": entry.apps or None,
            "refunds": list(entry.refunds.values()) or None,
        }
    )


def _body_out(body: Subscription) -> dict[str, object]:
    return {
        "id": body.id,
        "status": body.status,
        "items": body.items,
        "customer_id": body.customer_id,
        "products": body.products or None,
        "lookup_keys": body.lookup_keys or None,
        "purchase": body.purchase,
        "period_ns": body.period,
        "trial_ends_ns": body.trial_ends_ns,
        "scheduled": None if body.scheduled is None else [part for part in body.scheduled if part is not None],
    }


def _seen_out(seen: Seen, entry: SubscriptionFacts) -> list[object]:
    """Return an event of a coarse clock; `true` stands for the order and the body of the newest event."""
    order = True if seen.order == entry.order else seen.order
    body = True if seen.body == entry.subscription else _without_none(_body_out(seen.body))
    return [order, *seen.step, seen.received_ns, body]


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _subscription_in(entry: dict[str, Any]) -> SubscriptionFacts:
    order, settled, body = Order(*entry["order"]), entry.get("settled"), _body_in(entry)
    return SubscriptionFacts(
        entry["provider"],
        body,
        order,
        order if settled is True else Order(*settled) if settled else None,
        tuple([Order(*mark) for mark in entry.get("past_due", ())]),
        entry.get("created_ns"),
        entry.get("vouched", False),
        entry.get("moved_us", 0),
        _granted_in(entry.get("granted")),
        recent=tuple([_seen_in(each, order, body) for each in entry.get("recent", ())]),
        ahead=model.Ahead(*[Order(*each) for each in entry["ahead"]]) if "ahead" in entry else None,
        former={id: model.Price(*price) for id, price in entry.get("former", {}).items()},
        first_seen=entry.get("first_seen", {}),
        granted_in={app: _some_granted_in(each) for app, each in entry.get("granted_in", {}).items()},
        apps=tuple(entry.get("apps", ())),
        refunds={refund.id: refund for refund in map(_refund_in, entry.get("refunds", ()))},
    )


def _body_in(entry: dict[str, Any]) -> Subscription:
    period, scheduled = entry.get("period_ns"), entry.get("scheduled")
    return Subscription(
        entry["id"],
        entry["status"],
        _items_in(entry["items"]),
        entry.get("customer_id"),
        model.Period(*period) if period else None,
        entry.get("trial_ends_ns"),
        model.Scheduled(*scheduled) if scheduled else None,
        products=entry.get("products", {}),
        lookup_keys=entry.get("lookup_keys", {}),
        purchase=Purchase(*entry["purchase"]) if "purchase" in entry else None,
    )


def _refund_in(refund: list[Any]) -> Refund:
    place, id, kind, status, *more = refund
    return Refund(tuple(place), id, RefundKind(kind), RefundStatus(status), *more)


def _seen_in(seen: list[Any], newest: Order, shown: Subscription) -> Seen:
    order, kind, before, after, received_ns, body = seen
    return Seen(
        newest if order is True else Order(*order),
        Step(Kind(kind), tuple(before), tuple(after)),
        received_ns,
        shown if body is True else _body_in(body),
    )


def _granted_in(granted: list[Any] | None) -> model.Granted | None:
    return None if granted is None else _some_granted_in(granted)


def _some_granted_in(granted: list[Any]) -> model.Granted:
    return model.Granted(Order(*granted[0]), _items_in(granted[1]))


def _without_empty_app(fields: dict[str, object]) -> dict[str, object]:
    # Older builds read no such field.
    return {name: value for name, value in fields.items() if name != "app" or value}


def _scheduled_change_in(change: dict[str, Any]) -> instructions.ScheduledPlanChange:
    # Builds from before `execute_ns` stored only the first four fields.
    return instructions.ScheduledPlanChange(
        change["subscription"],
        change["plan"],
        change["effective_ns"],
        _items_in(change["keep"]),
        change.get("execute_ns", change["effective_ns"]),
        change.get("billing_mode", "do_not_bill"),
        change.get("executed", False),
        change.get("problem", ""),
        change.get("app", ""),
    )


def _items_in(items: Iterable[Any]) -> tuple[Item, ...]:
    return tuple([Item(price_id, quantity) for price_id, quantity in items])
