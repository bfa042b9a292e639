"""Histories of one Stripe subscription as Stripe sends them: whole seconds, random ids, `previous_attributes`."""

from __future__ import annotations

import copy
import json
import random
import string
from collections.abc import Iterable
from typing import Any

from tests.support.stripe_bodies import NOW, body

Change = tuple[int, str, dict[str, Any]]
"""When (seconds after the start), the last word of the event's type, and the fields that it changes."""

ALPHABET = string.ascii_letters + string.digits


def items(*lines: tuple[str, int]) -> dict[str, Any]:
    """The `items` of a subscription: pairs of price and quantity."""
    data = [
        {
            "id": f"si_{price}",
            "price": {"id": price},
            "quantity": quantity,
            "current_period_start": NOW - 100,
            "current_period_end": NOW + 2_592_000,
        }
        for price, quantity in lines
    ]
    return {"object": "list", "data": data, "has_more": False}


def event_id(chance: random.Random) -> str:
    """An event id of Stripe: one head for one second, and a random end."""
    return "evt_1PJVXNBzH5DDPixH" + "".join(chance.choices(ALPHABET, k=8))


def history(changes: Iterable[Change], chance: random.Random, start: int = NOW, **fields: Any) -> list[dict[str, Any]]:
    """The events of these changes, in the order in which they happen."""
    state = body(items=items(("price_pro", 1)), latest_invoice="in_1", pause_collection=None, **fields)
    events = []
    for second, kind, changed in changes:
        before, state = state, {**state, **copy.deepcopy(changed)}
        data: dict[str, Any] = {"object": state}
        if kind == "updated":
            data["previous_attributes"] = previous(before, state)
        events.append(
            {
                "id": event_id(chance),
                "object": "event",
                "type": f"customer.subscription.{kind}",
                "created": start + second,
                "livemode": True,
                "data": data,
            }
        )
    return events


def previous(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Stripe's `previous_attributes`: the fields that differ, objects with their differing fields only, lists whole."""
    found: dict[str, Any] = {}
    for name in before.keys() | after.keys():
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        if name == "items":
            found[name] = {"data": before[name]["data"]}
        else:
            found[name] = previous(was, now) if isinstance(was, dict) and isinstance(now, dict) else was
    return found


def encoded(event: dict[str, Any]) -> bytes:
    """The event as a webhook's body."""
    return json.dumps(event).encode()


CHECKOUT: list[Change] = [(0, "created", {"status": "incomplete"}), (0, "updated", {"status": "active"})]

HISTORIES: dict[str, list[Change]] = {
    "checkout": CHECKOUT,
    "checkout over two seconds": [CHECKOUT[0], (1, "updated", {"status": "active"})],
    "checkout that fails once": [
        CHECKOUT[0],
        (0, "updated", {"latest_invoice": "in_2"}),
        (0, "updated", {"status": "active"}),
    ],
    "expired checkout": [CHECKOUT[0], (0, "updated", {"status": "incomplete_expired"})],
    "failed and paid": [
        (0, "created", {"status": "active"}),
        (5, "updated", {"status": "past_due"}),
        (5, "updated", {"status": "active"}),
    ],
    "failed, paid and failed": [
        (0, "created", {"status": "active"}),
        (5, "updated", {"status": "past_due"}),
        (5, "updated", {"status": "active"}),
        (5, "updated", {"status": "past_due"}),
        (9, "updated", {"latest_invoice": "in_2"}),
    ],
    "overdue, paid, and overdue later": [
        (0, "created", {"status": "past_due"}),
        (5, "updated", {"status": "active"}),
        (5, "updated", {"status": "past_due"}),
        (6, "updated", {"status": "active"}),
        (9, "updated", {"status": "past_due"}),
    ],
    "all of it in one second": [
        *CHECKOUT,
        (0, "updated", {"status": "past_due", "latest_invoice": "in_2"}),
        (0, "updated", {"status": "active"}),
        (0, "updated", {"items": items(("price_pro", 5))}),
    ],
    "paused and resumed": [
        (0, "created", {"status": "active"}),
        (3, "updated", {"pause_collection": {"behavior": "mark_uncollectible", "resumes_at": NOW + 9}}),
        (3, "updated", {"pause_collection": {"behavior": "void", "resumes_at": NOW + 9}}),
        (3, "updated", {"pause_collection": None}),
        (3, "updated", {"metadata": {"tenant_id": "acme", "seen": "1"}}),
    ],
    "trial without a card": [
        (0, "created", {"status": "trialing", "trial_end": NOW + 9}),
        (9, "updated", {"status": "paused"}),
        (9, "paused", {}),
        (9, "updated", {"status": "active", "trial_end": None}),
        (9, "resumed", {}),
    ],
    "trial whose plan changes": [
        (0, "created", {"status": "trialing", "trial_end": NOW + 259_200}),
        (9, "trial_will_end", {}),
        (9, "updated", {"items": items(("price_basic", 2))}),
    ],
    "trial that is paid": [
        (0, "created", {"status": "trialing", "trial_end": NOW + 9}),
        (0, "updated", {"metadata": {"tenant_id": "acme", "source": "landing"}}),
        (9, "updated", {"status": "active", "trial_end": None}),
    ],
    "quantities": [
        *CHECKOUT,
        (4, "updated", {"items": items(("price_pro", 5))}),
        (4, "updated", {"items": items(("price_pro", 1))}),
        (4, "updated", {"items": items(("price_pro", 9))}),
    ],
    "there and back": [
        *CHECKOUT,
        (4, "updated", {"items": items(("price_pro", 5))}),
        (4, "updated", {"items": items(("price_pro", 1))}),
        (8, "updated", {"items": items(("price_basic", 1))}),
        (8, "updated", {"items": items(("price_pro", 1))}),
    ],
    "canceled": [
        *CHECKOUT,
        (7, "updated", {"cancel_at_period_end": True}),
        (7, "updated", {"cancel_at_period_end": False}),
        (7, "updated", {"status": "canceled"}),
        (7, "deleted", {}),
    ],
    "canceled at once": [*CHECKOUT, (0, "deleted", {"status": "canceled"})],
}
"""What happens to subscriptions; the bodies determine the end of each, whatever the order of arrival."""
