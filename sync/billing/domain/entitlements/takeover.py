"""Takes over a tenant that was published before billing computed it: a higher plan stays, as a grant. Pure.

The first commit of billing replaces the published state. What it computes depends on the event that arrives first. So
the takeover is an act of its own, like an operator's grant, no part of the reduction: it happens once, and is reported.
"""

from __future__ import annotations

from sync.billing.catalog.catalog import Plan
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.overrides import UNITS_MAX, add_override
from sync.billing.domain.entitlements.projection import Projected, State, Unprojectable, project
from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.facts.model import PLAN, Facts, Override

REASON = "it was published before billing computed this tenant"


def take_over(
    topic: str, facts: Facts, projected: Projected, published: State, setting: Setting
) -> tuple[Facts, Projected | Unprojectable, tuple[Drift, ...]]:
    """Return the facts, their state and the report of a takeover; the first two as they are if no plan has to be kept.

    Args:
        facts, projected: what billing computes.
        published: the state that a publisher has published.
    """
    grant = _published_plan(published, projected.state, setting)
    if grant is None or isinstance(grant, Unprojectable):
        return facts, grant or projected, ()
    here, there = {"plan": grant.name}, {"plan": projected.state["plan"]["key"]}
    report = Drift("published", topic, grant.name, "taken_over", setting.now_ns // 1000, here, there)
    facts = add_override(facts, grant, setting)
    return facts, project(facts, setting), (report,)


def _published_plan(published: State, computed: State, setting: Setting) -> Override | Unprojectable | None:
    """Return the grant of the published plan, without an end, if it outranks the computed one; else None.

    A higher plan that the catalog does not have cannot be granted: the published state stays until the catalog has it.
    """
    plan = published.get("plan")
    key, rank = (plan.get("key"), plan.get("rank")) if isinstance(plan, dict) else (plan, None)
    if not isinstance(key, str):
        return None
    known = setting.catalog.plans.get(key)
    rank = rank if known is None else known.rank
    if type(rank) is not int or rank <= computed["plan"]["rank"]:
        return None
    if known is None:
        return Unprojectable(f"the catalog has no plan {key[:60]!r}, which was published")
    return Override(PLAN, key, _units(known, published.get("limits")), REASON, by="takeover")


def _units(plan: Plan, limits: object) -> int | bool:
    """Return the units of a plan that give the published limits; True for as many as are paid for."""
    units = 0
    for name, each in plan.per_unit.limits.items():
        own, wanted = plan.limits.get(name, 0), limits.get(name) if isinstance(limits, dict) else None
        if isinstance(own, int) and type(wanted) is int and each and wanted > own:
            units = max(units, -(-(wanted - own) // each))
    return min(units, UNITS_MAX) or True
