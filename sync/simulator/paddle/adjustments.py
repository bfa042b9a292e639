"""The JSON of adjustments, the money that goes back for a payment, in Paddle's API and webhooks. Pure.

Source: developer.paddle.com/api-reference/adjustments.
"""

from __future__ import annotations

from sync.core.instants import text_us
from sync.simulator.world import ids
from sync.simulator.world.model import Adjustment, Json
from sync.simulator.world.offers import CURRENCY

Body = dict[str, Json]

REASONS = {"refund": "requested_by_customer", "chargeback": "fraudulent", "chargeback_reverse": "won"}


def adjustment(of: Adjustment) -> Body:
    """Return an adjustment as in webhooks and API answers."""
    kind = "full" if of.is_full else "partial"
    items: list[Json] = [
        {
            "id": ids.derived("adjitm", f"{of.id}{number}"),
            "item_id": ids.derived("txnitm", f"{of.transaction_id}{line.price.id}{number or ''}"),
            "type": kind,
            "amount": str(line.amount),
            "proration": None,
            "totals": _totals(line.amount),
        }
        for number, line in enumerate(of.lines)
        if line.amount
    ]
    return {
        "id": of.id,
        "action": of.action,
        "type": kind,
        "transaction_id": of.transaction_id,
        "subscription_id": of.subscription_id,
        "customer_id": of.customer_id,
        "reason": REASONS[of.action],
        "credit_applied_to_balance": None,
        "currency_code": CURRENCY,
        "status": of.status,
        "items": items,
        "totals": _totals(of.amount) | {"fee": "0", "earnings": str(of.amount), "currency_code": CURRENCY},
        "payout_totals": None,
        "tax_rates_used": [],
        "created_at": text_us(of.created_us),
        "updated_at": text_us(of.updated_us),
    }


def _totals(amount: int) -> Body:
    return {"subtotal": str(amount), "tax": "0", "total": str(amount)}
