"""Facts + catalog + now -> the public entitlement state, and the next instant at which time alone may change it. Pure.

Precedence of live subscriptions: the plan with the highest rank leads. Ties: the plan key that sorts first, then active
and trialing before paused before past_due, then the larger quantity, then active before trialing, then the subscription
key that sorts first. Status, scheduled change, period and trial are those of the leading subscription; if that is past
due or paused, those of the leading one that is paid and not older, if there is one; if it is paused, else those of one
that is being paid. The quantity is the largest of the leading plan. Add-ons of all live subscriptions are summed.
Without a live subscription the default plan applies, and incomplete leads before past_due, unpaid, paused and canceled.
An ended subscription never takes anything from another.

A subscription of another customer than the tenant's own (`customers`) counts only while it is active or trialing. It
only adds: it leads only if none of the own customer's is live, and its plan is added as a granted one is.

A plan that an operator grants only adds: the plan of the highest rank is shown, features are united, and of each limit
and module the greater counts.

If the catalog names applications, all of this holds within each of them (`applications`), and the state has them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

from sync.billing.catalog.catalog import NO_PLAN, Plan, Policy
from sync.billing.domain.entitlements.applications import Standing, kept_of, overrides_of, standing
from sync.billing.domain.entitlements.evaluation import EvaluatedSubscription, Setting, evaluate
from sync.billing.domain.entitlements.items import is_ignored
from sync.billing.domain.entitlements.overrides import is_active
from sync.billing.domain.entitlements.state import (
    State as State,
    add,
    add_credits,
    merged,
    of_plan,
    sum_credits,
    summed,
    unite,
)
from sync.billing.domain.entitlements.unknown_items import lost_grants, unknown_reason
from sync.billing.domain.entitlements.versions import version_at
from sync.billing.domain.facts.customers import second_customers
from sync.billing.domain.facts.instructions import PLAN, VERSION, Override
from sync.billing.domain.facts.model import KEPT, Facts, SubscriptionFacts
from sync.core import instants

_LEADS_LIVE = {"active": 0, "trialing": 0, "paused": 1, "past_due": 2}
_LEADS_ENDED = {"incomplete": 0, "past_due": 1, "unpaid": 2, "paused": 3, "canceled": 4}

_PAID_STATUSES = ("active", "trialing")
"""The statuses without which a subscription of another customer than the tenant's own does not count."""

_NOTHING_DUE = ("none", "canceled")
"""The statuses that a granted plan replaces. Others stay: the customer, or a payment, is awaited."""


class Projected(NamedTuple):
    """The state at one instant; it may change by time alone at `valid_until_ns` (None: never).

    `unknown`: the reason that names the unknown prices, whose items count for nothing; "" if there are none.
    """

    state: State
    valid_until_ns: int | None
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Unprojectable:
    """The catalog lacks what was bought, and nothing is kept: the state stays. `reason` names the prices."""

    reason: str


def project(facts: Facts, setting: Setting) -> Projected | Unprojectable:
    """Return the entitlement state of the facts in the setting."""
    if setting.catalog.apps:
        return _project_applications(facts, setting)
    own, others = _paid(facts, setting)
    adding = [other for other in others if _adds(other)]
    lost = {(each.provider, price_id) for each in own for price_id in each.lost}
    if facts.overrides:
        lost |= lost_grants(facts, setting)
    if lost and facts.kept is None:
        return Unprojectable(unknown_reason(lost, setting))
    lead = _lead(own, adding)
    default = version_at(setting.catalog.default, 0, facts, setting) if facts.overrides else setting.catalog.default
    known = [each for each in own if not each.lost] if lost else own
    state = _granted(known, adding, default, setting.catalog.policy)
    kept = kept_of(facts, setting.catalog) if lost else None
    if kept is not None:
        state = _with_kept(kept, state)
    if lead is not None:
        shown = _shown(lead, own, facts)
        state["status"] = shown.status
        _describe(state, shown, facts.subscriptions[shown.key])
    now_ns = setting.now_ns
    changes_ns = [instant for each in own + others for instant in each.instants_ns if instant > now_ns]
    if facts.overrides:
        active = [one for one in overrides_of(facts, setting.catalog) if is_active(one, now_ns)]
        _grant(state, lead, [one for one in active if one.kind == PLAN], facts, setting)
        _override(state, [one for one in active if one.kind not in (PLAN, VERSION)])
        changes_ns += [override.expires_ns for override in active if override.expires_ns is not None]
    valid_until_ns = min(changes_ns) if changes_ns else None
    if valid_until_ns is not None:
        state["valid_until"] = instants.text(valid_until_ns)
    if not setting.catalog.app:
        sum_credits(state)  # what several applications grant is united before
    unknown = {(each.provider, price_id) for each in own for price_id in each.unknown}
    return Projected(state, valid_until_ns, unknown_reason(lost | unknown, setting) if lost or unknown else "")


def _project_applications(facts: Facts, setting: Setting) -> Projected | Unprojectable:
    """Return the state with the state of each application; none while that of one cannot be told."""
    found = {app: project(facts, setting.within(app)) for app in setting.catalog.apps}
    failed = [each.reason for each in found.values() if isinstance(each, Unprojectable)]
    if failed:
        return Unprojectable("; ".join(dict.fromkeys(failed)))
    told = {app: each for app, each in found.items() if isinstance(each, Projected)}
    for each in told.values():
        if not each.state["plan"]["key"]:
            del each.state["plan"]
    state = merged({app: each.state for app, each in told.items()}, setting.catalog.leading)
    for each_state in (state, *state["apps"].values()):
        sum_credits(each_state)
    valid_until_ns = min([each.valid_until_ns for each in told.values() if each.valid_until_ns], default=None)
    if valid_until_ns is not None:
        state["valid_until"] = instants.text(valid_until_ns)
    reasons = [each.unknown for each in told.values() if each.unknown]
    return Projected(state, valid_until_ns, "; ".join(dict.fromkeys(reasons)))


def leader(facts: Facts, setting: Setting) -> str | None:
    """Return the key of the leading subscription, of the leading application; or None if there is none."""
    if setting.catalog.apps:
        setting = setting.within(setting.catalog.leading)
    own, others = _paid(facts, setting)
    lead = _lead(own, [other for other in others if _adds(other)])
    return None if lead is None else lead.key


def _paid(facts: Facts, setting: Setting) -> tuple[list[EvaluatedSubscription], list[EvaluatedSubscription]]:
    """Return the subscriptions of the tenant's own customers, and those of others that count now or by time alone.

    The leading ones are first. Those that have become other software's are left out.
    """
    second = second_customers(facts)
    own: list[EvaluatedSubscription] = []
    others: list[EvaluatedSubscription] = []
    for key, entry in facts.subscriptions.items():
        place = Standing.COUNTS
        if setting.catalog.app:
            place = standing(entry, setting, [one for one in facts.scheduled_changes if one.subscription == key])
        if place is not Standing.ABSENT and not is_ignored(entry, setting) and not _is_repeated(entry, facts):
            evaluated = evaluate(key, facts, setting)
            evaluated.leads = place is Standing.COUNTS
            (others if key in second else own).append(evaluated)
    if len(own) > 1:
        own.sort(key=_precedence)
    if not others or setting.catalog.policy.second_customer == "park":
        return own, []
    others.sort(key=_precedence)
    return own, [other for other in others if other.status != "past_due" and not other.lost]


def _is_repeated(entry: SubscriptionFacts, facts: Facts) -> bool:
    """Return whether a purchase is the invoice of another one, and so the same."""
    if entry.subscription.purchase is None:
        return False
    id, bodies = entry.subscription.id, [other.subscription for other in facts.subscriptions.values()]
    return any([body.purchase is not None and body.purchase.invoice_id == id != body.id for body in bodies])


def _adds(other: EvaluatedSubscription) -> bool:
    """Return whether a subscription of another customer counts now."""
    return other.live and other.buys and other.status in _PAID_STATUSES


def _lead(
    own: Sequence[EvaluatedSubscription], adding: Sequence[EvaluatedSubscription]
) -> EvaluatedSubscription | None:
    if own and own[0].leads and (own[0].live or not adding):
        return own[0]
    first, added = (next((one for one in found if one.leads), None) for found in (own, adding))
    return added if added is not None and not (first is not None and first.live) else first


def _shown(lead: EvaluatedSubscription, own: Sequence[EvaluatedSubscription], facts: Facts) -> EvaluatedSubscription:
    """Return the subscription whose status is shown.

    Somebody who has bought a plan since is not asked to pay again, and who is paying for one is not shown as paused.
    """
    if lead.status in _PAID_STATUSES or not lead.live:
        return lead

    def created_ns(one: EvaluatedSubscription) -> int:
        return facts.subscriptions[one.key].created_ns or 0

    newer = [one for one in own if one.leads and created_ns(one) >= created_ns(lead)]
    paid = [one for one in newer if one.live and (one.plan or one.lost) and one.status in _PAID_STATUSES]
    paying = [one for one in newer if one.status == "incomplete" and lead.status == "paused"]
    return next(iter(paid + paying), lead)


def _precedence(subscription: EvaluatedSubscription) -> tuple[int, float, str, int, int, str, str]:
    """Return the sort key of the precedence above: the least leads."""
    if not subscription.live:
        return (1, 0, "", _LEADS_ENDED.get(subscription.status, 5), 0, "", subscription.key)
    plan = subscription.plan
    # A subscription of add-ons alone has no plan: it leads only if no other live one has any.
    # Which plan the catalog has lost is not known: it may have been the highest.
    rank, key = (-inf if subscription.lost else 1, "") if plan is None else (-plan.rank, plan.key)
    status = subscription.status  # "active" sorts before "trialing"
    return (0, rank, key, _LEADS_LIVE.get(status, 3), -subscription.quantity, status, subscription.key)


def _granted(
    own: list[EvaluatedSubscription], adding: list[EvaluatedSubscription], default: Plan, policy: Policy
) -> State:
    live = [subscription for subscription in own if subscription.live]
    plan = (live[0].plan if live else None) or default
    quantities = [one.quantity for one in live if one.plan is plan]
    state = of_plan(plan, max(quantities) if quantities else 1)
    state["status"] = "none"
    for other in live:
        # Another version of the same plan is paid for, too.
        if other.plan is not None and other.plan is not plan and other.plan.key == plan.key:
            unite(state, of_plan(other.plan, other.quantity))
    if policy.combine and len(live) > 1:
        alike = [(one.plan, one.quantity) for one in live if one.plan is not None and one.plan.key == plan.key]
        summed(state, alike, policy)
    for other in adding:
        if other.plan is not None:
            unite(state, of_plan(other.plan, other.quantity))
    for subscription in live + adding:
        for addon, quantity in subscription.addons:
            add(state, addon, quantity, once=subscription.bought_ns is not None)
            if addon.credits and subscription.bought_ns is not None:
                add_credits(state, addon, quantity, subscription.key, subscription.bought_ns)
    return state


def _with_kept(kept: Mapping[str, Any], known: State) -> State:
    """Return a state of what was published last; with what the catalog still knows to be bought, if that is more."""
    plan = kept.get("plan") or of_plan(NO_PLAN, 0)["plan"]
    state: State = {"plan": plan, **{name: dict(kept[name]) for name in KEPT[1:]}, "status": "none"}
    if known["plan"]["rank"] > plan["rank"]:
        unite(state, known)
    return state


def _grant(
    state: State, lead: EvaluatedSubscription | None, grants: Sequence[Override], facts: Facts, setting: Setting
) -> None:
    """Add the granted plans. One that outranks what is paid for is shown in the field `grant`, with its end."""
    plans = setting.catalog.plans
    grants = [grant for grant in grants if grant.name in plans]
    is_live = lead is not None and lead.live
    units = max(lead.quantity, 1) if lead is not None and is_live else 1
    for grant in sorted(grants, key=lambda grant: (-plans[grant.name].rank, grant.name)):
        plan = version_at(plans[grant.name], grant.at_ns or 0, facts, setting)
        granted = of_plan(plan, units if grant.value is True else int(grant.value or 1))
        if unite(state, granted):
            ends = {} if grant.expires_ns is None else {"ends_at": instants.text(grant.expires_ns)}
            state["grant"] = {"plan": grant.name, **({"trial": True} if grant.trial else {}), **ends}
            if not is_live and state["status"] in _NOTHING_DUE:
                state["status"] = "trialing" if grant.trial else "active"
                state |= {"trial_ends_at": ends["ends_at"]} if grant.trial else {}


def _override(state: State, overrides: Sequence[Override]) -> None:
    parts = {"feature": state["features"], "limit": state["limits"], "module": state["modules"]}
    for override in overrides:
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
