"""The facts after money went back for a subscription or a one-time purchase. Pure.

Of each refund the newest event counts, and which of them count together depends on their set alone: the order of
arrival is irrelevant. A purchase whose whole payment went back is ended, and again active if a chargeback is won.
A subscription keeps its refunds for the policy (`evaluation`): its own events say whether it goes on.
"""

from __future__ import annotations

from dataclasses import replace

from sync.billing.domain.facts.model import Event, Facts, Refund, SubscriptionFacts, subscription_key
from sync.billing.domain.facts.payments import RefundStatus, is_paid_back

REFUNDS_MAX = 100
"""Maximum refunds per subscription or purchase. Beyond it those that were made first are dropped."""


def with_refund(facts: Facts, event: Event) -> Facts | None:
    """Return the facts after an event about a refund; the same facts if it is older, None if its payment is unknown."""
    key = subscription_key(event.provider, str(event.subscription_id))
    entry, refund = facts.subscriptions.get(key), event.refund
    assert refund is not None
    if entry is None:
        return None
    known = entry.refunds.get(refund.id)
    if known is not None and known.place >= refund.place:
        return facts
    return facts.with_subscription(key, with_refunds(entry, refund))


def with_refunds(entry: SubscriptionFacts, *more: Refund) -> SubscriptionFacts:
    """Return a subscription's or purchase's facts with these refunds; of each the newest counts."""
    refunds = dict(entry.refunds)
    for refund in more:
        known = refunds.get(refund.id)
        if known is None or known.place < refund.place:
            refunds[refund.id] = refund
    newest = sorted(refunds.values(), key=lambda refund: (refund.made_ns, refund.id))[-REFUNDS_MAX:]
    return with_status(replace(entry, refunds={refund.id: refund for refund in newest}))


def with_status(entry: SubscriptionFacts) -> SubscriptionFacts:
    """Return a purchase's facts with its status, which its refunds decide; a subscription's as they are."""
    body = entry.subscription
    if body.purchase is None:
        return entry
    status = "canceled" if is_paid_back(entry.refunds.values(), body.purchase.total) else "active"
    return entry if status == body.status else replace(entry, subscription=replace(body, status=status))


def is_revoked(entry: SubscriptionFacts) -> bool:
    """Return whether the whole payment of a subscription's period went back, as far as is known.

    Providers do not say which period a refunded payment was for: what went back since the period began counts.
    """
    period = entry.subscription.period
    since_ns = 0 if period is None else period.starts_ns
    return is_paid_back([each for each in entry.refunds.values() if each.made_ns >= since_ns], None)


def refund_note(refund: Refund, entry: SubscriptionFacts) -> str:
    """Return the sentence for the history about a refund that changes no entitlements; "" if it may."""
    body = entry.subscription
    what = f"{refund.kind} of {amount_text(refund)}"
    if refund.status is RefundStatus.PENDING:
        return f"{what}: not approved"
    is_all = is_paid_back(entry.refunds.values(), None if body.purchase is None else body.purchase.total)
    if is_all or refund.status is RefundStatus.REVERSED:
        return ""
    return f"{what}: a part of what was paid"


def amount_text(refund: Refund) -> str:
    """Return the amount for people, in minor units."""
    if refund.amount is None:
        return "the whole payment" if refund.is_full else "an amount that is not shown"
    return f"{refund.amount} {refund.currency}".strip()
