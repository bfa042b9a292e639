"""Facts + catalog + now -> the public entitlement state, and the next instant at which time alone may change it. Pure.

Precedence of live subscriptions: the plan with the highest rank leads. Ties: the plan key that sorts first, then the
larger quantity, then active before trialing before past_due, then the subscription key that sorts first. Status,
scheduled change, period and trial are those of the leading subscription. Add-ons of all live subscriptions are summed.
Without a live subscription the default plan applies, and past_due leads before paused before canceled. An ended
subscription never takes anything from another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sync.billing.catalog.catalog import LEVELS, NUMBER_MAX, UNLIMITED, Catalog, Offer
from sync.billing.domain.evaluation import EvaluatedSubscription, Setting, evaluate
from sync.billing.domain.model import Facts, Override, SubscriptionFacts
from sync.core import instants

State = dict[str, Any]
"""The public state: plan, status, features, limits, modules, and the other fields that apply; no nulls."""

_LEADS_LIVE = {"active": 0, "trialing": 1, "past_due": 2}
_LEADS_ENDED = {"past_due": 0, "paused": 1, "canceled": 2}


@dataclass(frozen=True, slots=True)
class Projected:
    """The state at one instant; it may change by time alone at `valid_until_ns` (None: never)."""

    state: State
    valid_until_ns: int | None


@dataclass(frozen=True, slots=True)
class Unprojectable:
    """The facts contain prices that are not in the catalog; the last published state stays."""

    price_ids: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The reason, with the prices."""
        return f"unknown price {', '.join(self.price_ids)}"


def project(facts: Facts, setting: Setting) -> Projected | Unprojectable:
    """Return the entitlement state of the facts in the setting."""
    subscriptions = [evaluate(key, facts, setting) for key in facts.subscriptions]
    unknown = [price_id for subscription in subscriptions for price_id in subscription.unknown]
    if unknown:
        return Unprojectable(tuple(sorted(set(unknown))))
    lead = subscriptions[0] if len(subscriptions) == 1 else min(subscriptions, key=_precedence, default=None)
    state = _granted(lead, [subscription for subscription in subscriptions if subscription.live], setting.catalog)
    _override(state, facts.overrides, setting.now_ns)
    if lead is not None:
        _describe(state, lead, facts.subscriptions[lead.key])
    changes_ns = [instant for subscription in subscriptions for instant in subscription.instants_ns]
    changes_ns += [override.expires_ns for override in facts.overrides if override.expires_ns is not None]
    valid_until_ns = min([instant for instant in changes_ns if instant > setting.now_ns], default=None)
    if valid_until_ns is not None:
        state["valid_until"] = instants.text(valid_until_ns)
    return Projected(state, valid_until_ns)


def leader(facts: Facts, setting: Setting) -> str | None:
    """Return the key of the leading subscription, or None if there is none."""
    subscriptions = [evaluate(key, facts, setting) for key in facts.subscriptions]
    lead = min(subscriptions, key=_precedence, default=None)
    return None if lead is None else lead.key


def _precedence(subscription: EvaluatedSubscription) -> tuple[int, int, str, int, int, str]:
    """Return the sort key of the precedence above: the least leads."""
    if not subscription.live:
        return (1, 0, "", 0, _LEADS_ENDED.get(subscription.status, 3), subscription.key)
    plan = subscription.plan
    # A subscription of add-ons alone has no plan: it leads only if no other live one has any.
    rank, key = (1, "") if plan is None else (-plan.rank, plan.key)
    return (0, rank, key, -subscription.quantity, _LEADS_LIVE.get(subscription.status, 3), subscription.key)


def _granted(lead: EvaluatedSubscription | None, live: list[EvaluatedSubscription], catalog: Catalog) -> State:
    plan = lead.plan if lead is not None and lead.live and lead.plan is not None else catalog.default
    state: State = {
        "plan": {"key": plan.key, "name": plan.name, "rank": plan.rank},
        "status": "none" if lead is None else lead.status,
        "features": {},
        "limits": {},
        "modules": {},
    }
    _add(state, plan, lead.quantity if lead is not None and plan is lead.plan else 1)
    for subscription in live:
        for addon, quantity in subscription.addons:
            _add(state, addon, quantity)
    return state


def _add(state: State, offer: Offer, quantity: int) -> None:
    features, limits, modules = state["features"], state["limits"], state["modules"]
    for feature in offer.features:
        features[feature] = True
    # A sum is capped at the greatest number that a browser reads exactly; the order of adding does not matter.
    for name, limit in offer.limits.items():
        before = limits.get(name, 0)
        limits[name] = UNLIMITED if UNLIMITED in (limit, before) else min(before + limit, NUMBER_MAX)
    for name, each in offer.per_unit.limits.items():
        before = limits.get(name, 0)
        limits[name] = before if before == UNLIMITED else min(before + each * quantity, NUMBER_MAX)
    for name, level in offer.modules.items():
        if name not in modules or LEVELS.index(level) > LEVELS.index(modules[name]):
            modules[name] = level


def _override(state: State, overrides: tuple[Override, ...], now_ns: int) -> None:
    parts = {"feature": state["features"], "limit": state["limits"], "module": state["modules"]}
    for override in overrides:
        if override.expires_ns is not None and now_ns >= override.expires_ns:
            continue
        if override.value is None:
            parts[override.kind].pop(override.name, None)
        else:
            parts[override.kind][override.name] = override.value


def _describe(state: State, lead: EvaluatedSubscription, entry: SubscriptionFacts) -> None:
    """Add the other fields that apply to the leading subscription."""
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
