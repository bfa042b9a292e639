"""States: what plans, add-ons and applications grant together. Pure.

Features are united. Of two plans, and of two applications, the greater of each limit and module counts; add-ons add to
limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import inf
from typing import Any

from sync.billing.catalog.catalog import LEVELS, NUMBER_MAX, UNLIMITED, Addon, Offer, Plan, Policy
from sync.core import instants

State = dict[str, Any]
"""The public state: plan, status, features, limits, modules, and the other fields that apply; no nulls."""


def of_plan(plan: Plan, quantity: int) -> State:
    """Return a state of one plan alone."""
    state: State = {
        "plan": {"key": plan.key, "name": plan.name, "rank": plan.rank},
        "features": dict.fromkeys(plan.features, True),
        "limits": dict(plan.limits),
        "modules": dict(plan.modules),
    }
    _add_units(state["limits"], plan, quantity)
    _add_credits(state["limits"], plan, 1)
    return state


def summed(state: State, bought: Sequence[tuple[Plan, int]], policy: Policy) -> None:
    """Add up the limits of one plan where the policy says so.

    Args:
        bought: the version of the plan and the quantity of each subscription.
    """
    each = [of_plan(plan, quantity)["limits"] for plan, quantity in bought]
    for name in state["limits"] if len(bought) > 1 else ():
        if policy.is_summed(name):
            amounts = [limits.get(name, 0) for limits in each]
            state["limits"][name] = UNLIMITED if UNLIMITED in amounts else min(sum(amounts), NUMBER_MAX)


def add(state: State, offer: Offer, quantity: int, *, once: bool = False) -> None:
    """Add to `state` what an add-on grants. `once`: it was bought by a purchase, whose credits are no limit."""
    features, limits, modules = state["features"], state["limits"], state["modules"]
    for feature in offer.features:
        features[feature] = True
    # A sum is capped at the greatest number that a browser reads exactly; the order of adding does not matter.
    for name, limit in offer.limits.items():
        before = limits.get(name, 0)
        limits[name] = UNLIMITED if UNLIMITED in (limit, before) else min(before + limit, NUMBER_MAX)
    _add_units(limits, offer, quantity)
    if not once:
        _add_credits(limits, offer, quantity)
    for name, level in offer.modules.items():
        if name not in modules or LEVELS.index(level) > LEVELS.index(modules[name]):
            modules[name] = level


def _add_units(limits: dict[str, int | str], offer: Offer, quantity: int) -> None:
    for name, each in offer.per_unit.limits.items():
        before = limits.get(name, 0)
        if isinstance(before, int):
            limits[name] = min(before + each * quantity, NUMBER_MAX)


LASTING = "bought"
"""The id of the credits that were bought for ever."""


def add_credits(state: State, addon: Addon, quantity: int, key: str, bought_ns: int) -> None:
    """Add to `state` the credits of an add-on that was bought once.

    Args:
        key: of the purchase.
        bought_ns: when it was paid, nanoseconds since 1970.
    """
    grant: dict[str, Any] = {"id": sha256(f"{key}\n{addon.key}".encode()).hexdigest()[:16]}
    ends = {} if addon.expires_ns is None else {"ends_at": instants.text(bought_ns + addon.expires_ns)}
    for name, each in addon.credits.items():
        grants = state.setdefault("credits", {}).setdefault(name, [])
        grants.append({**grant, "amount": min(each * quantity, NUMBER_MAX), **ends})
        grants.sort(key=lambda one: str(one["id"]))


def sum_credits(state: State) -> None:
    """Let what was bought for ever be one grant of each meter: a tenant may buy more every day, for years.

    Its amount rises with each purchase, and falls with what is paid back; what was used of it stays used.
    """
    for grants in state.get("credits", {}).values():
        lasting = [grant["amount"] for grant in grants if "ends_at" not in grant]
        if lasting:
            grants[:] = [grant for grant in grants if "ends_at" in grant]
            grants.append({"id": LASTING, "amount": min(sum(lasting), NUMBER_MAX)})


def _add_credits(limits: dict[str, int | str], offer: Offer, quantity: int) -> None:
    for name, each in offer.credits.items():
        before = limits.get(name, 0)
        if isinstance(before, int):
            limits[name] = min(before + each * quantity, NUMBER_MAX)


def unite(state: State, added: State) -> bool:
    """Add to `state` what another plan grants, and take nothing from it; return whether that plan is shown now."""
    is_higher: bool = added["plan"]["rank"] > state["plan"]["rank"]
    if is_higher:
        state["plan"] = added["plan"]
    _join(state, added)
    return is_higher


def merged(apps: Mapping[str, State], leading: str) -> State:
    """Return the state of all applications: that of the leading one, with what each grants, and each in `apps`."""
    state = {**apps[leading], "features": {}, "limits": {}, "modules": {}, "apps": dict(apps)}
    for each in apps.values():
        _join(state, each)
    return state


def _join(state: State, added: State) -> None:
    state["features"] |= added["features"]
    for name, limit in added["limits"].items():
        state["limits"][name] = max(limit, state["limits"].get(name, 0), key=_amount)
    for name, grants in added.get("credits", {}).items():
        known = state.setdefault("credits", {}).setdefault(name, [])
        known += [grant for grant in grants if grant not in known]
    for name, level in added["modules"].items():
        state["modules"][name] = max(level, state["modules"].get(name, level), key=LEVELS.index)


def _amount(limit: int | str) -> float:
    return inf if limit == UNLIMITED else float(limit)
