"""The applications that plans and add-ons are sold for: their names, the leading one, their default plans. Pure.

A plan or an add-on without `app` is sold for every application: a bundle, a free plan for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from sync.billing.catalog.tables import Addon, Offer, Plan, Policy
from sync.billing.catalog.values import wrong

_LEADING = ("policy", "app")

T = TypeVar("T", bound=Offer)


def names(plans: Mapping[str, Plan], addons: Mapping[str, Addon]) -> list[str]:
    """Return the applications, sorted; none if no plan and no add-on names one."""
    return sorted({offer.app for offer in (*plans.values(), *addons.values())} - {""})


def offers(sold: Mapping[str, T], app: str) -> dict[str, T]:
    """Return the plans or add-ons that are sold for one application, or for all."""
    return {key: offer for key, offer in sold.items() if offer.app in ("", app)}


def leading(plans: Mapping[str, Plan], addons: Mapping[str, Addon], policy: Policy) -> str:
    """Return the application whose plan a state shows first; "" for a catalog without applications.

    Raises:
        PydanticCustomError: the policy names none and there are several, or it names one that nothing is sold for.
    """
    known = names(plans, addons)
    if policy.app and policy.app not in known:
        raise wrong(f"names an app without plans: expected {', '.join(known) or 'none, as no plan has one'}", *_LEADING)
    if len(known) > 1 and not policy.app:
        raise wrong(f"needs an app, the leading application: one of {', '.join(known)}", "policy")
    return policy.app or next(iter(known), "")


def default(plans: Mapping[str, Plan], app: str) -> Plan | None:
    """Return the default plan of an application: its own, or else the one of all; None if there is none.

    Raises:
        PydanticCustomError: two plans are the default of the same application, or of all.
    """
    found: dict[str, Plan] = {}
    for plan in plans.values():
        if plan.default:
            first = found.setdefault(plan.app, plan)
            if first is not plan:
                raise wrong(f"is a second default: plans.{first.key} is one already", "plans", plan.key, "default")
    return found.get(app) or found.get("")
