"""Which version of a plan a tenant has: the one that it bought, or the one that it was moved to. Pure.

A price that a version lists buys that version. A price of the plan buys the version that was sold when the subscription
first had the plan: at its creation, unless an earlier event shows it without the plan. So who leaves a plan and comes
back within one subscription has its version again; a new subscription has the present one.

A move (an override of the kind VERSION) counts for what was bought before it.
"""

from __future__ import annotations

from sync.billing.catalog.catalog import Plan
from sync.billing.domain.entitlements.items import Setting, entry_of
from sync.billing.domain.facts.instructions import VERSION, Override
from sync.billing.domain.facts.model import Facts, SubscriptionFacts
from sync.billing.domain.facts.prices import bought_ns


def version_of(offer: Plan, entry: SubscriptionFacts, facts: Facts, setting: Setting) -> Plan:
    """Return the version of a plan that a subscription has; `offer` is what the catalog lists for its item."""
    listed = [(id, entry_of(id, entry, setting)) for id in entry.first_seen]
    at_ns = bought_ns(entry, [id for id, found in listed if isinstance(found, Plan) and found.key == offer.key])
    # A plan that it never had is that of a scheduled change: it is bought now.
    return version_at(offer, setting.now_ns if at_ns is None else at_ns, facts, setting)


def version_at(offer: Plan, at_ns: int, facts: Facts, setting: Setting) -> Plan:
    """Return the version of a plan that a tenant has who bought it at an instant; 0 for as early as can be."""
    versions = setting.catalog.versions.get(offer.key)
    if versions is None:
        return offer
    for move in facts.overrides:
        if (move.kind, move.name) == (VERSION, offer.key) and _counts(move, at_ns, setting.now_ns):
            # A version that is no longer in the catalog has ended for those who were moved to it.
            return versions.by_name.get(str(move.value)) or versions.bought(offer, at_ns)
    return versions.bought(offer, at_ns)


def _counts(move: Override, at_ns: int, now_ns: int) -> bool:
    is_over = move.expires_ns is not None and move.expires_ns <= now_ns
    return not is_over and (move.at_ns is None or at_ns <= move.at_ns)
