"""The facts after money went back for a subscription or a one-time purchase. Pure.

Of each refund the newest event counts, and which of them count together depends on their set alone: the order of
arrival is irrelevant. A purchase whose whole payment went back is ended, and again active if a chargeback is won.
A subscription keeps its refunds for the policy (`evaluation`): its own events say whether it goes on. One-time items
that a subscription's payment has bought are a purchase of their own; what goes back of the payment counts for both.
"""

from __future__ import annotations

from dataclasses import replace

from sync.billing.domain.facts.model import Event, Facts, Refund, SubscriptionFacts, subscription_key
from sync.billing.domain.facts.payments import RefundKind, RefundStatus, is_paid_back

REFUNDS_MAX = 100
"""Maximum refunds per subscription or purchase. Beyond it those that were made first are dropped."""


def with_refund(facts: Facts, event: Event, *, is_answer: bool = False) -> Facts | None:
    """Return the facts after an event about a refund; the same facts if it is older, None if its payment is unknown.

    Args:
        is_answer: whether it is a provider's answer: then only another content is new, not another time.
    """
    key = subscription_key(event.provider, str(event.subscription_id))
    entry, refund = facts.subscriptions.get(key), event.refund
    assert refund is not None
    if entry is None:
        return None
    known = entry.refunds.get(refund.id)
    if known is not None and (
        known.place >= refund.place or (is_answer and known == refund._replace(place=known.place))
    ):
        return facts
    beside = subscription_key(event.provider, refund.payment_id)
    bought = facts.subscriptions.get(beside)
    if bought is not None and beside != key:
        facts = facts.with_subscription(beside, with_refunds(bought, refund))
    return facts.with_subscription(key, with_refunds(entry, refund))


def with_payment_refunds(entry: SubscriptionFacts, facts: Facts) -> SubscriptionFacts:
    """Return a purchase's facts with what is known to go back of it as a part of a subscription's payment."""
    id, provider = entry.subscription.id, entry.provider
    found = [
        refund
        for other in facts.subscriptions.values()
        if other.refunds and other.provider == provider
        for refund in other.refunds.values()
        if refund.payment_id == id
    ]
    return with_refunds(entry, *found) if found else entry


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


def as_paid(entry: SubscriptionFacts) -> SubscriptionFacts:
    """Return a purchase's facts as if nothing went back of it."""
    return replace(entry, subscription=replace(entry.subscription, status="active"))


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
    if refund.status is RefundStatus.REVERSED and refund.kind is RefundKind.REFUND:
        return f"{what}: it has failed"
    if is_all or refund.status is RefundStatus.REVERSED:
        return ""
    return f"{what}: a part of what was paid"


def amount_text(refund: Refund) -> str:
    """Return the amount for people, in minor units."""
    if refund.amount is None:
        return "the whole payment" if refund.is_full else "an amount that is not shown"
    return f"{refund.amount} {refund.currency}".strip()
