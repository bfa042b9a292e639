"""Decides what an event about money that goes back commits to a tenant: a refund or a chargeback. Pure."""

from __future__ import annotations

from sync.billing.domain.conclusion import Decided, Tenant, conclude
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.projection import Unprojectable
from sync.billing.domain.entitlements.unknown_items import items_subject
from sync.billing.domain.facts.model import Event, subscription_key
from sync.billing.domain.facts.refunds import amount_text, refund_note, with_refund
from sync.billing.domain.outcome import MOVED, WAITS_CATALOG, EventResult, Outcome
from sync.billing.domain.tenant_resolution import subjects

OLDER = "older than what is known of this refund"


def decide_refund(tenant: Tenant, event: Event, setting: Setting, moved_us: int) -> EventResult | Decided:
    """Return a tenant's facts and state after an event about a refund, or the event's result if they do not change.

    Args:
        moved_us: the time of the move that gave the payment's subject to this tenant; 0 if it was never moved.
    """
    facts, refund = tenant.facts, event.refund
    assert refund is not None
    key, after = subscription_key(event.provider, str(event.subscription_id)), with_refund(facts, event)
    if after is None:
        return MOVED if facts.moved.get(key, -1) >= moved_us else _waiting(event)
    if after is facts:
        return EventResult(Outcome.REFUSED, OLDER)
    note = refund_note(refund, after.subscriptions[key])
    if not note and refund.is_of_subscription and setting.catalog.policy.refund == "keep":
        note = f'{refund.kind} of {amount_text(refund)}: the subscription goes on, [policy] refund is "keep"'
    decided = conclude(tenant, after, setting, note, ())
    if isinstance(decided, Unprojectable):
        return EventResult(Outcome.PARKED, decided.reason, waits=(WAITS_CATALOG,))
    return decided


def of_unknown_payment(event: Event, setting: Setting) -> EventResult:
    """Return the result of a refund for which no tenant is known.

    It waits for its purchase, unless nothing that the catalog grants can depend on it: accounts sell more than that.
    """
    refund, where = event.refund, (event.provider, event.environment)
    assert refund is not None
    is_revoking = setting.catalog.policy.refund == "revoke"
    if is_revoking if refund.is_of_subscription else where in setting.catalog.purchases:
        return _waiting(event)
    reason = f"{refund.kind} of {amount_text(refund)} for {event.subscription_id}, of which no tenant is known"
    return EventResult(Outcome.IGNORED, reason)


def _waiting(event: Event) -> EventResult:
    refund, key = event.refund, subscription_key(event.provider, str(event.subscription_id))
    assert refund is not None
    reason = f"{refund.kind} of {amount_text(refund)} for {event.subscription_id}, which is not known yet"
    # A subscription's refund may be known by its customer alone.
    return EventResult(Outcome.PARKED, reason, waits=(items_subject(key), *subjects(event)))
