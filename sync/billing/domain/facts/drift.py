"""Drift records: differences between our facts and the provider's, and their JSON form. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sync.billing.domain.facts.model import Event, Facts, Subscription, subscription_key
from sync.billing.domain.money.model import Billed
from sync.billing.domain.money.quote import Quote
from sync.core import instants

KINDS = (
    "differs", "unknown_here", "unknown_there", "missed_event", "preview", "money", "second_customer", "published",
    "shadow",
)  # fmt: skip
"""The kinds of drift: a subscription's body differs; only the provider has it; only we have it; no webhook brought an
event; a change differs from its preview; a bill differs from its quote, or has not come; a subscription is of another
customer than the tenant's own; what was published before billing computed the tenant is above what is paid for: a plan
was granted, the rest was replaced; the entitlement system in whose shadow billing runs says otherwise."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference.

    Attributes:
        kind: one of KINDS.
        subject: the subscription, event or preview that it is about.
        why: the reason for the comparison.
        here, there: our value, and the provider's.
        version: the topic's version that repaired it; 0 for none.
    """

    kind: str
    topic: str
    subject: str
    why: str
    at_us: int
    here: object = None
    there: object = None
    version: int = 0

    def shown(self) -> dict[str, object]:
        """Return the record as a JSON document, without empty fields."""
        shown = {name: value for name, value in asdict(self).items() if value not in (None, 0, "")}
        shown["at"] = instants.text(shown.pop("at_us") * 1000)
        return shown


def subscription_drift(topic: str, why: str, event: Event, before: Facts, after: Facts, at_us: int) -> Drift | None:
    """Return the drift that a provider's answer has repaired: a subscription or purchase was unknown or differed."""
    key = subscription_key(event.provider, str(event.subscription_id))
    old, new = before.subscriptions.get(key), after.subscriptions.get(key)
    if new is None or (old is not None and old.subscription == new.subscription):
        return None
    here, there = differences(None if old is None else old.subscription, new.subscription)
    return Drift("unknown_here" if old is None else "differs", topic, key, why, at_us, here, there)


def money_drift(quote: Quote, billed: Billed, at_us: int) -> Drift | None:
    """Return the drift of a bill from its quote; None if they agree. Both sides name the currency of their amounts."""
    found = quote.differences(billed)
    if not found or quote.money is None:
        return None
    here, there = ({str(each["path"]): each.get(side) for each in found} for side in ("from", "to"))
    why = f"{billed.reason} billed as {billed.id}"
    here, there = {"currency": quote.money.currency, **here}, {"currency": billed.currency, **there}
    return Drift("money", quote.topic, quote.preview_id, why, at_us, here, there)


def unbilled_drift(quote: Quote, reason: str, at_us: int) -> Drift:
    """Return the drift of a quoted charge of which no bill has arrived."""
    why = f"{reason} not billed: no bill of it has arrived"
    return Drift("money", quote.topic, quote.preview_id, why, at_us, quote.amount(reason))


def differences(here: Subscription | None, there: Subscription | None) -> tuple[object, object]:
    """Return the fields that differ between two bodies of a subscription; None for a side without a body."""
    left, right = ({} if body is None else shown_fields(body) for body in (here, there))
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    return ({name: left.get(name) for name in names} if here else None), (
        {name: right.get(name) for name in names} if there else None
    )


def shown_fields(body: Subscription) -> dict[str, object]:
    """Return a subscription's body as a JSON document."""
    shown: dict[str, object] = {"status": body.status, "items": [list(item) for item in body.items]}
    if body.customer_id is not None:
        shown["customer_id"] = body.customer_id
    if body.period is not None:
        shown["period"] = [instants.text(ns) for ns in body.period]
    if body.trial_ends_ns is not None:
        shown["trial_ends_at"] = instants.text(body.trial_ends_ns)
    if body.scheduled is not None:
        action, effective_ns, resume_ns = body.scheduled
        shown["scheduled"] = [action, *(instants.text(ns) for ns in (effective_ns, resume_ns) if ns is not None)]
    if body.purchase is not None:
        bought = body.purchase
        paid = {} if bought.total is None else {"total": bought.total, "currency": bought.currency}
        shown["purchase"] = {"bought_at": instants.text(bought.bought_ns), **paid}
    return shown
