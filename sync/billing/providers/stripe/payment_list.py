"""Stripe's lists of what was paid once and of what went back, each entry as the webhook event that would show it.

Refunds and disputes of all customers have lists of their own; those of one customer are found by its charges.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from sync.billing.providers.base import ProviderRejected
from sync.billing.providers.parsing import ITEMS_MAX
from sync.billing.providers.stripe.payments import CHECKED_OUT, DISPUTED, INVOICED, REFUND_CHANGED

SESSIONS, INVOICES, REFUNDS, DISPUTES, CHARGES = "sessions", "invoices", "refunds", "disputes", "charges"

LISTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    SESSIONS: ("/v1/checkout/sessions", {"status": "complete", "expand[]": "data.line_items"}),
    INVOICES: ("/v1/invoices", {"status": "paid", "expand[]": "data.payments"}),
    REFUNDS: ("/v1/refunds", {"expand[]": "data.charge"}),
    DISPUTES: ("/v1/disputes", {}),
    CHARGES: ("/v1/charges", {"expand[]": "data.refunds"}),
}
"""Path and query of each list."""

OF_ALL, OF_CUSTOMER = (SESSIONS, INVOICES, REFUNDS, DISPUTES), (SESSIONS, INVOICES, CHARGES)
"""The lists that are read, in this order."""

ReadList = Callable[[str, Mapping[str, str]], Awaitable[Mapping[str, Any]]]
"""Returns a page of a list: (path, query)."""

_CURSOR = "no place in Stripe's lists"


def place(after: str, customer_id: str) -> tuple[str, str]:
    """Return the list of a cursor, and the id of the entry in it after which to read; "" for its beginning.

    Raises:
        ProviderRejected: it is no cursor.
    """
    lists = OF_CUSTOMER if customer_id else OF_ALL
    kind, _, id = (after or f"{lists[0]}:").partition(":")
    if kind not in lists:
        raise ProviderRejected("cursor_invalid", f"{after[:60]!r} is {_CURSOR}")
    return kind, id


def following(kind: str, customer_id: str) -> str:
    """Return the cursor of the list after this one; "" after the last one."""
    lists = OF_CUSTOMER if customer_id else OF_ALL
    return f"{lists[lists.index(kind) + 1]}:" if kind != lists[-1] else ""


async def with_lines(session: Mapping[str, Any], read_list: ReadList) -> Mapping[str, Any]:
    """Return a checkout session with all its line items: it shows the first of them itself."""
    listed = session.get("line_items")
    if not isinstance(listed, dict) or not listed.get("has_more") or not isinstance(listed.get("data"), list):
        return session
    lines: list[Any] = list(listed["data"])
    while len(lines) <= ITEMS_MAX and lines and isinstance(lines[-1], dict):
        query = {"starting_after": str(lines[-1].get("id"))}
        page = await read_list(f"/v1/checkout/sessions/{session.get('id')}/line_items", query)
        lines += page["data"]
        if not page.get("has_more") or not page["data"]:
            break
    return {**session, "line_items": {**listed, "data": lines, "has_more": False}}


async def entries(kind: str, page: Mapping[str, Any], read_list: ReadList) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what a page shows, each with the list whose entries have its form: charges are refunds and disputes."""
    shown = [entry for entry in page["data"] if isinstance(entry, dict)]
    if kind == SESSIONS:
        return [(kind, await with_lines(session, read_list)) for session in shown]
    if kind != CHARGES:
        return [(kind, entry) for entry in shown]
    found = [(REFUNDS, refund) for charge in shown for refund in _refunds(charge)]
    for charge in shown:
        if charge.get("disputed"):
            disputes = await read_list(LISTS[DISPUTES][0], {"charge": str(charge.get("id"))})
            found += [(DISPUTES, dispute) for dispute in disputes["data"] if isinstance(dispute, dict)]
    return found


def envelope(kind: str, entry: Mapping[str, Any], event_id: str, now_s: int) -> dict[str, object]:
    """Return the webhook event about an entry.

    Args:
        now_s: when it was read: nothing else says since when a refund or a dispute has its status.
    """
    at_s, what = entry.get("created"), {SESSIONS: CHECKED_OUT, INVOICES: INVOICED, REFUNDS: REFUND_CHANGED}
    if kind in (DISPUTES, REFUNDS):
        at_s = now_s
    if kind == INVOICES and isinstance(steps := entry.get("status_transitions"), dict):
        at_s = steps.get("paid_at") or at_s
    return {
        "id": event_id,
        "object": "event",
        "type": what.get(kind, DISPUTED[1]),
        "created": at_s,
        "livemode": entry.get("livemode"),
        "data": {"object": entry},
    }


def _refunds(charge: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    listed = charge.get("refunds")
    for refund in listed.get("data") or [] if isinstance(listed, dict) else []:
        if isinstance(refund, dict):
            yield {**refund, "charge": {key: value for key, value in charge.items() if key != "refunds"}}
