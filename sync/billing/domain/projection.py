"""Facts + catalog + now -> the public entitlement state, and the next instant at which time alone may change it. Pure.

Precedence, stated once: of the live subscriptions' plans the highest rank wins; equal ranks go to the plan whose key
sorts first; equal plans to the larger quantity, then to active before trialing before past_due, then to the
subscription whose key sorts first. That subscription leads: status, scheduled change, period and trial are its.
Add-ons of all live subscriptions are summed. Without a live one the default plan stands, and past_due before paused
before canceled leads. An ended subscription never takes anything from another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sync.billing.catalog.catalog import LEVELS, NUMBER_MAX, UNLIMITED, Addon, Catalog, Grant, Plan, Policy
from sync.billing.domain.model import LIVE_STATUSES, Facts, Item, Override, ScheduledPlanChange, SubscriptionFacts
from sync.core import instants

State = dict[str, Any]
"""The public state of design: plan, status, features, limits, modules and what applies of the rest; no nulls."""

_LEADS_LIVE = {"active": 0, "trialing": 1, "past_due": 2}
_LEADS_ENDED = {"past_due": 0, "paused": 1, "canceled": 2}
_LEVEL_RANK = {level: rank for rank, level in enumerate(LEVELS)}


@dataclass(frozen=True, slots=True)
class Projected:
    """The state at the asked instant, which may change by time alone at `valid_until_ns` (None: never)."""

    state: State
    valid_until_ns: int | None


@dataclass(frozen=True, slots=True)
class Unprojectable:
    """The facts grant something that the catalog does not know; what was published last must stand."""

    price_ids: tuple[str, ...]


@dataclass(slots=True)
class _Standing:
    """One subscription at one instant, under the policy."""

    key: str
    status: str
    live: bool
    scheduled: dict[str, object] | None = None
    awaiting_since_ns: int | None = None
    grace_ends_ns: int | None = None
    plan: Plan | None = None
    quantity: int = 0
    addons: list[tuple[Addon, int]] = field(default_factory=list)


def project(facts: Facts, catalog: Catalog, environment: str, now_ns: int) -> Projected | Unprojectable:
    """Return the entitlement state that the facts make at `now_ns` in `environment`."""
    instants_ns: list[int] = []
    unknown: list[str] = []
    lead, live = _stand(facts, catalog, environment, now_ns, instants_ns, unknown)
    if unknown:
        return Unprojectable(tuple(sorted(set(unknown))))
    state = _granted(lead, live, catalog)
    if facts.overrides:
        _override(state, facts.overrides, now_ns, instants_ns)
    if lead is not None:
        _describe(state, lead, facts.subscriptions[lead.key])
    ahead = [instant for instant in instants_ns if instant > now_ns]
    if not ahead:
        return Projected(state, None)
    valid_until_ns = min(ahead)
    state["valid_until"] = instants.text(valid_until_ns)
    return Projected(state, valid_until_ns)


def _stand(
    facts: Facts, catalog: Catalog, environment: str, now_ns: int, instants_ns: list[int], unknown: list[str]
) -> tuple[_Standing | None, list[_Standing]]:
    """The leading subscription and all live ones."""
    lead: _Standing | None = None
    live: list[_Standing] = []
    for key, entry in facts.subscriptions.items():
        standing = _standing(key, entry, catalog.policy, now_ns, instants_ns)
        if standing.live:
            prices = catalog.prices(entry.provider, environment)
            _resolve(standing, entry.subscription.items, prices, unknown)
            if facts.held is not None and facts.held.subscription == key:
                _hold(standing, facts.held, catalog, prices, now_ns, instants_ns, unknown)
            live.append(standing)
        if lead is None or _precedence(standing) < _precedence(lead):
            lead = standing
    return lead, live


def leader(facts: Facts, catalog: Catalog, environment: str, now_ns: int) -> str | None:
    """Return the key of the subscription that leads, or None without any."""
    lead, _ = _stand(facts, catalog, environment, now_ns, [], [])
    return None if lead is None else lead.key


def awaited(facts: Facts, policy: Policy, now_ns: int) -> list[str]:
    """Return the keys of the subscriptions to which something should have happened by now: their provider knows."""
    found = []
    for key, entry in facts.subscriptions.items():
        instants_ns: list[int] = []
        _standing(key, entry, policy, now_ns, instants_ns)
        if facts.held is not None and facts.held.subscription == key:
            instants_ns.append(facts.held.effective_ns)
        if any(instant_ns <= now_ns for instant_ns in instants_ns):
            found.append(key)
    return found


def _standing(key: str, entry: SubscriptionFacts, policy: Policy, now_ns: int, instants_ns: list[int]) -> _Standing:
    """What the subscription's newest body means now; adds to `instants_ns` when that may change."""
    body = entry.subscription
    standing = _Standing(key, body.status, body.status in LIVE_STATUSES)
    if body.status == "trialing" and body.trial_ends_ns is not None:
        instants_ns.append(body.trial_ends_ns)
        if now_ns >= body.trial_ends_ns:
            standing.awaiting_since_ns = body.trial_ends_ns
            if policy.overdue["trial"] == "apply":
                # Money was due at the trial's end and nobody has said that it came.
                standing.status, standing.live = "past_due", False
    elif body.status == "past_due":
        # The period of a past_due body has rolled to the unpaid one: only the first sighting can start the grace.
        since_ns = entry.past_due_since_ns
        assert since_ns is not None
        standing.grace_ends_ns = since_ns + policy.grace_ns
        instants_ns.append(standing.grace_ends_ns)
        standing.live = now_ns < standing.grace_ends_ns
    if body.scheduled is not None and body.status != "canceled":
        _schedule(standing, entry, policy, now_ns, instants_ns)
    return standing


def _schedule(
    standing: _Standing, entry: SubscriptionFacts, policy: Policy, now_ns: int, instants_ns: list[int]
) -> None:
    scheduled = entry.subscription.scheduled
    assert scheduled is not None
    action, effective_ns, resume_ns = scheduled
    instants_ns.append(effective_ns)
    overdue = now_ns >= effective_ns
    shown: dict[str, object] = {
        "action": action,
        "effective_at": instants.text(effective_ns),
        "source": "provider",
        "overdue": overdue,
    }
    if resume_ns is not None:
        shown["resume_at"] = instants.text(resume_ns)
    standing.scheduled = shown
    if not overdue:
        return
    standing.awaiting_since_ns = effective_ns
    if policy.overdue[action] != "apply":
        return
    if action == "cancel":
        standing.status, standing.live = "canceled", False
    elif action == "pause":
        if resume_ns is not None:
            instants_ns.append(resume_ns)
        if resume_ns is None or now_ns < resume_ns or policy.overdue["resume"] != "apply":
            standing.status, standing.live = "paused", False
    elif standing.status == "paused":
        standing.status, standing.live = "active", True


def _resolve(
    standing: _Standing, items: tuple[Item, ...], prices: Mapping[str, Plan | Addon], unknown: list[str]
) -> None:
    """Find what the items buy: the highest plan with its quantity, and every add-on. No item is special."""
    for price_id, quantity in items:
        offer = prices.get(price_id)
        if offer is None:
            unknown.append(price_id)
        elif isinstance(offer, Addon):
            standing.addons.append((offer, quantity))
        elif standing.plan is None or _outranks(offer, standing.plan):
            standing.plan, standing.quantity = offer, quantity
        elif offer.key == standing.plan.key:
            standing.quantity += quantity


def _outranks(offer: Plan, plan: Plan) -> bool:
    return offer.rank > plan.rank or (offer.rank == plan.rank and offer.key < plan.key)


def _hold(
    standing: _Standing,
    held: ScheduledPlanChange,
    catalog: Catalog,
    prices: Mapping[str, Plan | Addon],
    now_ns: int,
    instants_ns: list[int],
    unknown: list[str],
) -> None:
    """Let an app-held plan change have its say: the kept items until its time, its plan after."""
    target = catalog.plans.get(held.plan)
    kept = _Standing(standing.key, standing.status, standing.live)
    _resolve(kept, held.keep, prices, unknown)
    if target is None or kept.plan is None:
        return
    overdue = now_ns >= held.effective_ns
    if _void(standing.plan, kept.plan, target, held) or (overdue and _is(standing.plan, target)):
        return
    instants_ns.append(held.effective_ns)
    if not _is(standing.plan, kept.plan):
        standing.plan, standing.quantity, standing.addons = kept.plan, kept.quantity, kept.addons
    if overdue:
        standing.awaiting_since_ns = held.effective_ns
        if catalog.policy.overdue["change_plan"] == "apply":
            standing.plan = target
    effective_at = instants.text(held.effective_ns)
    if standing.scheduled is None or instants.parse(standing.scheduled["effective_at"]) > held.effective_ns:
        standing.scheduled = {
            "action": "change_plan",
            "plan": target.key,
            "effective_at": effective_at,
            "source": "app",
            "overdue": overdue,
        }
        if held.problem:
            standing.scheduled["problem"] = held.problem


def settle(facts: Facts, catalog: Catalog, environment: str, now_ns: int) -> tuple[Facts, str]:
    """Return the facts without a held change that is done, or that what happened since has made void; and why.

    It is void once its subscription ends or is to end before it, once the plan is above the kept one, or is yet another
    than the kept one and the target: then somebody has decided anew.
    """
    held = facts.held
    if held is None:
        return facts, ""
    entry = facts.subscriptions.get(held.subscription)
    reason = "its subscription has ended"
    if entry is not None and entry.subscription.status != "canceled":
        prices = catalog.prices(entry.provider, environment)
        standing = _Standing(held.subscription, entry.subscription.status, True)
        kept = _Standing(held.subscription, entry.subscription.status, True)
        unknown: list[str] = []
        _resolve(standing, entry.subscription.items, prices, unknown)
        _resolve(kept, held.keep, prices, unknown)
        target, coming = catalog.plans.get(held.plan), entry.subscription.scheduled
        if unknown or target is None:
            return facts, ""  # a catalog that forgets prices decides nothing
        reason = _void(standing.plan, kept.plan, target, held)
        if coming is not None and coming.action == "cancel" and coming.effective_ns <= held.effective_ns:
            reason = "its subscription is to be canceled"
        elif now_ns >= held.effective_ns and _is(standing.plan, target):
            reason = "it is done"
    if not reason:
        return facts, ""
    return replace(facts, held=None), f"the scheduled change to {held.plan} is dropped: {reason}"


def _void(shown: Plan | None, kept: Plan | None, target: Plan, held: ScheduledPlanChange) -> str:
    """Why the plan in the provider's body says that somebody has decided anew, or nothing."""
    if kept is None or _is(shown, kept):
        return ""
    if _is(shown, target):
        # Ahead of its time: a lower plan is how the next bill is kept down; a higher one was bought, or set by us.
        return "" if target.rank <= kept.rank or held.executed else "upgraded since"
    return "upgraded since" if shown is not None and shown.rank > kept.rank else "changed to another plan since"


def _is(plan: Plan | None, other: Plan) -> bool:
    return plan is not None and plan.key == other.key


def _precedence(standing: _Standing) -> tuple[int, int, str, int, int, str]:
    """The sort key of the module's precedence: the least leads."""
    if not standing.live:
        return (1, 0, "", 0, _LEADS_ENDED.get(standing.status, 3), standing.key)
    plan = standing.plan
    # A subscription of add-ons alone has no plan: it leads only where no other live one has any.
    rank, key = (1, "") if plan is None else (-plan.rank, plan.key)
    return (0, rank, key, -standing.quantity, _LEADS_LIVE.get(standing.status, 3), standing.key)


def _granted(lead: _Standing | None, live: list[_Standing], catalog: Catalog) -> State:
    plan = lead.plan if lead is not None and lead.live and lead.plan is not None else catalog.default
    features = dict.fromkeys(plan.grant.features, True)
    limits: dict[str, Any] = {}
    modules: dict[str, str] = {}
    _add(plan.grant, lead.quantity if lead is not None and plan is lead.plan else 1, features, limits, modules)
    for standing in live:
        for addon, quantity in standing.addons:
            _add(addon.grant, quantity, features, limits, modules)
    return {
        "plan": {"key": plan.key, "name": plan.name, "rank": plan.rank},
        "status": "none" if lead is None else lead.status,
        "features": features,
        "limits": limits,
        "modules": modules,
    }


def _add(
    grant: Grant, quantity: int, features: dict[str, bool], limits: dict[str, Any], modules: dict[str, str]
) -> None:
    for feature in grant.features:
        features[feature] = True
    # A sum ends where a browser would read another number; whatever the order, it is the same.
    for name, limit in grant.limits.items():
        before = limits.get(name, 0)
        limits[name] = UNLIMITED if UNLIMITED in (limit, before) else min(before + limit, NUMBER_MAX)
    for name, each in grant.per_unit.items():
        before = limits.get(name, 0)
        limits[name] = before if before == UNLIMITED else min(before + each * quantity, NUMBER_MAX)
    for name, level in grant.modules.items():
        known = modules.get(name)
        if known is None or _LEVEL_RANK[level] > _LEVEL_RANK[known]:
            modules[name] = level


def _override(state: State, overrides: tuple[Override, ...], now_ns: int, instants_ns: list[int]) -> None:
    parts = {"feature": state["features"], "limit": state["limits"], "module": state["modules"]}
    for override in overrides:
        if override.expires_ns is not None:
            instants_ns.append(override.expires_ns)
            if now_ns >= override.expires_ns:
                continue
        if override.value is None:
            parts[override.kind].pop(override.name, None)
        else:
            parts[override.kind][override.name] = override.value


def _describe(state: State, lead: _Standing, entry: SubscriptionFacts) -> None:
    """Add what else applies to the leading subscription."""
    body = entry.subscription
    if lead.scheduled is not None:
        state["scheduled"] = lead.scheduled
    if lead.awaiting_since_ns is not None:
        state["pending"] = {"reason": "awaiting_provider", "since": instants.text(lead.awaiting_since_ns)}
    if lead.grace_ends_ns is not None:
        state["grace_ends_at"] = instants.text(lead.grace_ends_ns)
    elif lead.live and body.period is not None:
        # Never while past_due: that period is not paid.
        starts_ns, ends_ns = body.period
        state["period"] = {"starts_at": instants.text(starts_ns), "ends_at": instants.text(ends_ns)}
    if body.status == "trialing" and body.trial_ends_ns is not None:
        state["trial_ends_at"] = instants.text(body.trial_ends_ns)
