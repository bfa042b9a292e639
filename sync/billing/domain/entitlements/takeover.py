"""Takes over a tenant that was published before billing computed it: a higher plan stays, as a grant. Pure.

The first commit of billing replaces the published state. A published plan above what the tenant has bought becomes a
grant, and ends once the tenant has bought it, or a higher one. An event about that counts whenever it arrives, also one
that is older than what is known: so the order of arrival makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from sync.billing.catalog.catalog import LEVELS, UNLIMITED, Plan
from sync.billing.domain.entitlements.evaluation import Setting, bought
from sync.billing.domain.entitlements.overrides import UNITS_MAX, add_override
from sync.billing.domain.entitlements.projection import Projected, State, Unprojectable, project
from sync.billing.domain.facts.customers import second_customers
from sync.billing.domain.facts.drift import Drift
from sync.billing.domain.facts.instructions import PLAN, Override
from sync.billing.domain.facts.model import LIVE_STATUSES, Event, Facts, subscription_key

REASON = "it was published before billing computed this tenant"
BY = "takeover"
"""The reason and the author of the grant."""

REPORTED_MAX, NAME_MAX = 20, 60
"""Maximum features, limits and modules in the report, each, and maximum characters of a name in it."""

ENDED_REASON = "the grant of the plan that was published ends: the tenant has bought it, or a higher one"


def take_over(
    topic: str, facts: Facts, projected: Projected, published: State, events: Iterable[Event], setting: Setting
) -> tuple[Facts, Projected | Unprojectable, tuple[Drift, ...]]:
    """Return the facts, their state and the report of a takeover; the first two as they are if no plan has to be kept.

    The report has what a grant keeps, and what else the published state had and this one has not.

    Args:
        facts, projected: what billing computes.
        published: the state that a publisher has published.
        events: what the facts are made from, even if a newer event of the subscription is known.
    """
    computed, events = projected.state, list(events)
    after: Projected | Unprojectable = projected
    granted = []
    for part, state, within in _parts(published, computed, setting):
        rank = state["plan"]["rank"] if "plan" in state else -1
        grant = _published_plan(part, max(rank, _bought_rank(facts, events, within)), within)
        if isinstance(grant, Unprojectable):
            return facts, grant, ()
        if grant is not None:
            granted.append(grant.name)
            facts = add_override(facts, grant, setting)
            after = project(facts, setting)
    if isinstance(after, Unprojectable):
        return facts, after, ()
    lost = _lost(published, after.state, setting)
    if not granted and not lost:
        return facts, after, ()
    kept = {"plan": ", ".join(granted)} if granted else {}
    here, there = {**kept, **lost}, {"plan": computed["plan"]["key"]}
    subject = str(here.get("plan") or there["plan"])
    return facts, after, (Drift("published", topic, subject, "taken_over", setting.now_ns // 1000, here, there),)


def _parts(published: State, computed: State, setting: Setting) -> list[tuple[State, State, Setting]]:
    """Return the published state and the computed one with their setting; those of each application, if there are any.

    A state that was published without applications is that of its plan's, or of the leading one.
    """
    if not setting.catalog.apps:
        return [(published, computed, setting)]
    parts = published.get("apps")
    if not isinstance(parts, dict):
        home = setting.of_plan(_key_and_rank(published)[0])
        home = home if home.catalog.app else setting.within("")
        parts = {home.catalog.app: published}
    return [
        (part, computed["apps"][app], setting.within(app))
        for app, part in sorted(parts.items())
        if app in computed["apps"] and isinstance(part, dict)
    ]


def takeover_grants(facts: Facts) -> tuple[Override, ...]:
    """Return the grants of takeovers."""
    return tuple([one for one in facts.overrides if one.kind == PLAN and (one.by, one.reason) == (BY, REASON)])


def without_ended_grants(facts: Facts, events: Iterable[Event], setting: Setting) -> Facts:
    """Return the facts without the grants of takeovers whose plan, or a higher one, the tenant has bought."""
    if not facts.overrides:
        return facts
    plans, events = setting.catalog.plans, list(events)
    found = [one for one in takeover_grants(facts) if one.name in plans]
    ended = [one for one in found if plans[one.name].rank <= _bought_rank(facts, events, setting.of_plan(one.name))]
    return replace(facts, overrides=tuple([one for one in facts.overrides if one not in ended])) if ended else facts


def _bought_rank(facts: Facts, events: Iterable[Event], setting: Setting) -> int:
    """Return the highest rank of a plan that the tenant's own customers have bought, as far as is seen here; -1: none.

    Whether a subscription counts does not depend on the time, so a past due one does.
    """
    second, entries = second_customers(facts), facts.subscriptions
    seen = [(key, entry.subscription) for key, entry in entries.items()]
    seen += [(subscription_key(one.provider, body.id), body) for one in events if (body := one.subscription)]
    ranks = [-1]
    for key, body in seen:
        if key in entries and key not in second and body.status in LIVE_STATUSES:
            plan = bought(body.items, entries[key], setting).plan
            ranks += [] if plan is None else [plan.rank]
    return max(ranks)


def _published_plan(published: State, rank: int, setting: Setting) -> Override | Unprojectable | None:
    """Return the grant of the published plan, without an end, if its rank is above `rank`; else None.

    A higher plan that the catalog does not have cannot be granted: the published state stays until the catalog has it.
    """
    key, own_rank = _key_and_rank(published)
    known = setting.catalog.plans.get(key)
    own_rank = own_rank if known is None else known.rank
    if type(own_rank) is not int or own_rank <= rank:
        return None
    if known is None:
        reason = f"the catalog has no plan {key[:NAME_MAX]!r}, which was published with the rank {own_rank}"
        return Unprojectable(f"{reason}: add it, or publish another plan to this tenant and retry the event")
    return Override(PLAN, key, _units(known, published.get("limits")), REASON, by=BY)


def _key_and_rank(published: State) -> tuple[str, object]:
    """Return the published plan's key, and its rank as it was published; "" if there is no plan."""
    plan = published.get("plan")
    key, rank = (plan.get("key"), plan.get("rank")) if isinstance(plan, dict) else (plan, None)
    return (key, rank) if isinstance(key, str) else ("", None)


def _units(plan: Plan, limits: object) -> int | bool:
    """Return the units of a plan that give the published limits; True for as many as are paid for."""
    units = 0
    for name, each in plan.per_unit.limits.items():
        own, wanted = plan.limits.get(name, 0), limits.get(name) if isinstance(limits, dict) else None
        if isinstance(own, int) and type(wanted) is int and each and wanted > own:
            units = max(units, -(-(wanted - own) // each))
    return min(units, UNITS_MAX) or True


def _lost(published: State, state: State, setting: Setting) -> dict[str, object]:
    """Return what the published state has beyond a state: features, limits, modules, or a plan without a rank."""
    key, rank = _key_and_rank(published)
    is_unranked = key not in setting.catalog.plans and type(rank) is not int
    found: dict[str, object] = {"plan": key[:NAME_MAX]} if key and is_unranked else {}
    for part in ("features", "limits", "modules"):
        names, own = published.get(part), state[part]
        if isinstance(names, Mapping):
            more = [
                (name[:NAME_MAX], value) for name, value in names.items() if _amount(value) > _amount(own.get(name))
            ]
            found |= {part: dict(more[:REPORTED_MAX])} if more else {}
    return found


def _amount(value: object) -> float:
    """Return the size of a feature, limit or module: they are compared with those of the same kind."""
    if value == UNLIMITED:
        return float("inf")
    if isinstance(value, str):
        return LEVELS.index(value) + 1 if value in LEVELS else 0
    return value if isinstance(value, int | float) else 0
