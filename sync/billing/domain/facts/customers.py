"""The customers who pay for a tenant: its own, and others whose subscriptions name it. Pure.

People subscribe again with another e-mail address, and a stranger's browser can write a tenant's id into a checkout. So
a subscription of another customer adds to the tenant's plan and never takes from it (`projection`), and is reported.
The tenant's own customer is that of the subscription that was created first. A subscription that a signed reference or
an operator has given to the tenant makes its customer the tenant's own, too.
"""

from __future__ import annotations

from dataclasses import replace

from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.facts.model import Facts

SECOND_CUSTOMER = "second_customer"
"""The kind of the drift record about a subscription of another customer."""

PARKED_BY_POLICY = (
    '[policy] second_customer is "park": link the subscription with `planwire link`, or change the policy'
)
"""What to do about an event of another customer that is parked."""


def own_customers(facts: Facts) -> set[tuple[str, str]]:
    """Return the tenant's own customers, each as provider and id."""
    paid = {key: entry for key, entry in facts.subscriptions.items() if entry.customer is not None}
    # Facts of older builds have no time of creation: these are as old as can be.
    first = [key for key, entry in paid.items() if entry.created_ns is None]
    first = first or sorted(paid, key=lambda key: (paid[key].created_ns or 0, key))[:1]
    own = {paid[key].customer for key in first} | {entry.customer for entry in paid.values() if entry.is_vouched}
    return {customer for customer in own if customer is not None}


def second_customers(facts: Facts) -> frozenset[str]:
    """Return the keys of the subscriptions of other customers than the tenant's own."""
    if len(facts.subscriptions) < 2 or len({entry.customer for entry in facts.subscriptions.values()} - {None}) < 2:
        return frozenset()
    own = own_customers(facts)
    return frozenset(
        [key for key, entry in facts.subscriptions.items() if entry.customer and entry.customer not in own]
    )


def vouched_for(facts: Facts, key: str) -> Facts:
    """Return the facts after a signed reference or an operator has given the subscription to the tenant."""
    entry = facts.subscriptions.get(key)
    if entry is None or entry.is_vouched:
        return facts
    return facts.with_subscription(key, replace(entry, is_vouched=True))


def second_customer_note(facts: Facts, key: str) -> str:
    """Return the sentence about a subscription of another customer; "" if its customer is the tenant's own."""
    if key not in second_customers(facts):
        return ""
    own = " and ".join(sorted(id for _, id in own_customers(facts)))
    paying = facts.subscriptions[key].subscription.customer_id
    return f"customer {paying} of {key} is another than the tenant's own, {own}"


def second_customer_drift(topic: str, before: Facts, after: Facts, now_ns: int) -> tuple[Drift, ...]:
    """Return a drift record for each subscription that is now known to be of another customer."""
    found = []
    for key in sorted(second_customers(after) - second_customers(before)):
        body = after.subscriptions[key].subscription
        own = sorted(id for _, id in own_customers(after))
        there = {"customer_id": body.customer_id, "status": body.status}
        found.append(Drift(SECOND_CUSTOMER, topic, key, "webhook", now_ns // 1000, {"customer_ids": own}, there))
    return tuple(found)
