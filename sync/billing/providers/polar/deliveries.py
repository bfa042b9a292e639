"""Polar's list of webhook deliveries, from which the catch-up takes what did not arrive. Pure.

A delivery is one attempt to send an event. It shows the event's id, which is the `webhook-id` of the attempt, and the
body that was sent. Polar keeps bodies for 90 days.
Source: https://polar.sh/docs/api-reference/webhooks/deliveries/list
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from sync.billing.providers.base import ProviderEvent
from sync.billing.providers.parsing import is_id
from sync.core import instants

PATH = "/webhooks/polar"
"""How the path of our endpoint ends. An organization has endpoints of other software too."""

KEPT_NS = 85 * 86_400 * 1_000_000_000
"""How far back deliveries are read: a little less than Polar keeps their bodies."""


def own_endpoints(endpoints: Sequence[object]) -> list[str]:
    """Return the ids of the endpoints that send to this software, in the format that it reads."""
    return [
        str(one["id"])
        for one in endpoints
        if isinstance(one, dict) and is_id(one.get("id")) and one.get("format") == "raw"
        if isinstance(url := one.get("url"), str) and _path(url).endswith(PATH)
    ]


def _path(url: str) -> str:
    try:
        return urlsplit(url).path.rstrip("/")
    except ValueError:
        return ""


def events_of(deliveries: Sequence[object]) -> list[ProviderEvent]:
    """Return the events of deliveries that show them, oldest first; each delivery's instant is its cursor.

    Args:
        deliveries: newest first, as Polar lists them.
    """
    found = [_event(one) for one in reversed(deliveries) if isinstance(one, dict)]
    return [event for event in found if event is not None]


def _event(delivery: Mapping[str, Any]) -> ProviderEvent | None:
    event = delivery.get("webhook_event")
    id, body = (event.get("id"), event.get("payload")) if isinstance(event, dict) else (None, None)
    try:
        at_ns = instants.parse(delivery.get("created_at"))
    except ValueError:
        return None
    if not is_id(id) or not isinstance(body, str):
        return None
    return ProviderEvent(id, at_ns, body.encode("utf-8", "surrogatepass"), instants.text(at_ns))
