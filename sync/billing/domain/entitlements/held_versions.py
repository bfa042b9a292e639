"""Which version of which plan a tenant has by each subscription and grant, and why; for operators. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sync.billing.catalog.catalog import Plan
from sync.billing.domain.entitlements.applications import overrides_of
from sync.billing.domain.entitlements.evaluation import Setting, evaluate
from sync.billing.domain.entitlements.items import entry_of, is_ignored
from sync.billing.domain.entitlements.overrides import is_active
from sync.billing.domain.entitlements.versions import version_at
from sync.billing.domain.facts.instructions import PLAN, VERSION
from sync.billing.domain.facts.model import Facts, SubscriptionFacts

BY_PURCHASE, BY_PRICE, BY_MOVE, BY_GRANT = "purchase", "price", "move", "grant"


class HeldVersion(NamedTuple):
    """The version that a tenant has of a plan.

    Attributes:
        subscription: the key of the live subscription or purchase that has the plan; "" for a granted plan.
        by: BY_PURCHASE or BY_GRANT, of when the plan was bought or granted; BY_PRICE, its price is the version's own;
            BY_MOVE, it was moved.
    """

    subscription: str
    plan: str
    version: str
    by: str


def held_versions(facts: Facts, setting: Setting) -> list[HeldVersion]:
    """Return the versions that a tenant has; those of the leading application first, if the catalog names any."""
    apps = sorted(setting.catalog.apps, key=lambda app: app != setting.catalog.leading)
    within = [setting.within(app) for app in apps] or [setting]
    # A plan of all applications is found in each of them.
    return list(dict.fromkeys([held for each in within for held in _held(facts, each)]))


def _held(facts: Facts, setting: Setting) -> Iterator[HeldVersion]:
    for key, entry in facts.subscriptions.items():
        evaluated = evaluate(key, facts, setting)
        plan = evaluated.plan
        if evaluated.live and plan is not None and not is_ignored(entry, setting):
            by = BY_PRICE if _is_priced(plan, entry, setting) else BY_PURCHASE
            yield HeldVersion(key, plan.key, plan.version, _moved(plan, facts, setting) or by)
    for grant in overrides_of(facts, setting.catalog) if facts.overrides else ():
        granted = setting.catalog.plans.get(grant.name) if grant.kind == PLAN else None
        if granted is not None and is_active(grant, setting.now_ns):
            plan = version_at(granted, grant.at_ns or 0, facts, setting)
            yield HeldVersion("", plan.key, plan.version, _moved(plan, facts, setting) or BY_GRANT)


def _is_priced(plan: Plan, entry: SubscriptionFacts, setting: Setting) -> bool:
    """Return whether a price of the version itself is paid for."""
    listed = [entry_of(item.price_id, entry, setting) for item in entry.subscription.items]
    return plan is not setting.catalog.plans[plan.key] and any(one is plan for one in listed)


def _moved(plan: Plan, facts: Facts, setting: Setting) -> str:
    """Return BY_MOVE if the tenant was moved to this version, else ""."""
    moves = [(one.name, one.value) for one in facts.overrides if one.kind == VERSION and is_active(one, setting.now_ns)]
    return BY_MOVE if (plan.key, plan.version) in moves else ""
