"""Which version of which plan each of a tenant's subscriptions has, and why; for operators. Pure."""

from __future__ import annotations

from typing import NamedTuple

from sync.billing.domain.entitlements.evaluation import Setting, evaluate
from sync.billing.domain.entitlements.items import entry_of, is_ignored
from sync.billing.domain.entitlements.overrides import is_active
from sync.billing.domain.facts.instructions import VERSION
from sync.billing.domain.facts.model import Facts

BY_PURCHASE, BY_PRICE, BY_MOVE = "purchase", "price", "move"


class HeldVersion(NamedTuple):
    """The version that a live subscription has.

    `by`: BY_PURCHASE, of when the plan was bought; BY_PRICE, its price is the version's own; BY_MOVE, it was moved.
    """

    plan: str
    version: str
    by: str


def held_versions(facts: Facts, setting: Setting) -> dict[str, HeldVersion]:
    """Return the versions of a tenant's live subscriptions that have a plan, by the subscription's key."""
    moves = {(one.name, one.value) for one in facts.overrides if one.kind == VERSION and is_active(one, setting.now_ns)}
    found = {}
    for key, entry in facts.subscriptions.items():
        evaluated = evaluate(key, facts, setting)
        plan = evaluated.plan
        if not evaluated.live or plan is None or is_ignored(entry, setting):
            continue
        listed = [entry_of(item.price_id, entry, setting) for item in entry.subscription.items]
        by = BY_PURCHASE
        if plan is not setting.catalog.plans[plan.key] and any(one is plan for one in listed):
            by = BY_PRICE
        elif (plan.key, plan.version) in moves:
            by = BY_MOVE
        found[key] = HeldVersion(plan.key, plan.version, by)
    return found
