"""What a tenant's payments have bought once, until when, and what went back of them; for operators. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sync.billing.domain.entitlements.evaluation import Setting, evaluate
from sync.billing.domain.facts.model import Facts
from sync.billing.domain.facts.payments import Refund
from sync.core import instants


def shown_payments(key: str, facts: Facts, setting: Setting) -> dict[str, object]:
    """Return what was bought and what went back, of a subscription or purchase, as fields of a JSON document.

    A subscription shows only what went back. A purchase that is over is shown as canceled.
    """
    entry = facts.subscriptions[key]
    went_back = _shown_refunds(entry.refunds.values())
    shown: dict[str, object] = {"went_back": went_back} if went_back else {}
    bought = entry.subscription.purchase
    if bought is None:
        return shown
    evaluated = evaluate(key, facts, setting)
    purchase: dict[str, object] = {"bought_at": instants.text(bought.bought_ns)}
    if bought.total is not None:
        purchase |= {"total": bought.total, "currency": bought.currency}
    if evaluated.instants_ns:
        purchase["expires_at"] = instants.text(max(evaluated.instants_ns))
    if bought.subscription_id:
        purchase["beside"] = bought.subscription_id
    return {"status": evaluated.status, "purchase": purchase, **shown}


def _shown_refunds(refunds: Iterable[Refund]) -> list[dict[str, object]]:
    """Return refunds and chargebacks, the oldest first."""
    return [
        {
            "kind": str(refund.kind),
            "status": str(refund.status),
            "at": instants.text(refund.made_ns),
            **({} if refund.amount is None else {"amount": refund.amount, "currency": refund.currency}),
            **({"full": True} if refund.is_full else {}),
        }
        for refund in sorted(refunds, key=lambda refund: (refund.made_ns, refund.id))
    ]
