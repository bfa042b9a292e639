"""Paddle's lists of what was paid, and of what went back, each entry as the webhook event that would show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sync.billing.providers.paddle.payments import ADJUSTED, transaction_envelope

TRANSACTIONS, ADJUSTMENTS = "transactions", "adjustments"
TRANSACTIONS_PER_PAGE, ADJUSTMENTS_PER_PAGE = 30, 50
"""Page sizes: Paddle's maxima."""


def adjustment_envelope(data: Mapping[str, Any], event_id: str) -> dict[str, Any]:
    """Return an adjustment of the API as the event of its newest change."""
    occurred_at = data.get("updated_at") or data.get("created_at")
    return {"event_id": event_id, "event_type": ADJUSTED[1], "occurred_at": occurred_at, "data": data}


_Envelope = Callable[[Mapping[str, Any], str], Mapping[str, object]]

LISTS: Mapping[str, tuple[str, Mapping[str, str], int, _Envelope]] = {
    TRANSACTIONS: (
        "/transactions",
        {"status": "paid,completed", "origin": "api,web,subscription_charge"},
        TRANSACTIONS_PER_PAGE,
        transaction_envelope,
    ),
    ADJUSTMENTS: (
        "/adjustments",
        {"action": "refund,chargeback,chargeback_reverse"},
        ADJUSTMENTS_PER_PAGE,
        adjustment_envelope,
    ),
}
"""The lists that payments are read from, in this order: path, filters, page size, and how an entry becomes an event."""
