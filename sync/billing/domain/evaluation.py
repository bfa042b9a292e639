"""What one subscription means at one instant, under the catalog and its policy. Pure.

`projection` chooses among the evaluated subscriptions and makes the tenant's state of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sync.billing.catalog.catalog import Addon, Catalog, Plan, Policy
from sync.billing.domain.model import LIVE_STATUSES, Facts, Item, ScheduledPlanChange, SubscriptionFacts
from sync.core import instants


@dataclass(slots=True)
class EvaluatedSubscription:
    """One subscription at one instant.

    Attributes:
        live: whether it grants anything now.
        scheduled: the coming change as the public state shows it.
        awaiting_since_ns: since when the provider's word about a change that has fallen due is missing.
        plan, quantity, addons: what its items buy.
    """

    key: str
    status: str
    live: bool
    scheduled: dict[str, object] | None = None
    awaiting_since_ns: int | None = None
    grace_ends_ns: int | None = None
    plan: Plan | None = None
    quantity: int = 0
    addons: list[tuple[Addon, int]] = field(default_factory=list)


@dataclass(slots=True)
class Findings:
    """What evaluating finds beside the subscriptions: instants of change by time alone, and unknown price ids."""

    instants_ns: list[int] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def evaluate_all(
    facts: Facts, catalog: Catalog, environment: str, now_ns: int, findings: Findings
) -> list[EvaluatedSubscription]:
    """Return every subscription at `now_ns`; what is found beside them is added to `findings`."""
    evaluated = []
    for key, entry in facts.subscriptions.items():
        subscription = _under_policy(key, entry, catalog.policy, now_ns, findings)
        if subscription.live:
            prices = catalog.prices(entry.provider, environment)
            _buy(subscription, entry.subscription.items, prices, findings)
            change = facts.scheduled_change
            if change is not None and change.subscription == key:
                _apply_scheduled_change(subscription, change, catalog, prices, now_ns, findings)
        evaluated.append(subscription)
    return evaluated


def overdue_subscriptions(facts: Facts, policy: Policy, now_ns: int) -> list[str]:
    """Return the keys of the subscriptions that a change was due for by `now_ns`: their provider knows its outcome."""
    found = []
    for key, entry in facts.subscriptions.items():
        findings = Findings()
        _under_policy(key, entry, policy, now_ns, findings)
        if facts.scheduled_change is not None and facts.scheduled_change.subscription == key:
            findings.instants_ns.append(facts.scheduled_change.effective_ns)
        if any(instant_ns <= now_ns for instant_ns in findings.instants_ns):
            found.append(key)
    return found


def without_void_change(facts: Facts, catalog: Catalog, environment: str, now_ns: int) -> tuple[Facts, str]:
    """Return the facts without a scheduled plan change that is done or void, and why it was dropped ("": it was not).

    It is void once its subscription ends, or is to end before it; once the plan is above the kept one; and once the
    plan is neither the kept one nor the target: then somebody has decided anew.
    """
    change = facts.scheduled_change
    if change is None:
        return facts, ""
    entry = facts.subscriptions.get(change.subscription)
    reason = "its subscription has ended"
    if entry is not None and entry.subscription.status != "canceled":
        findings = Findings()
        prices = catalog.prices(entry.provider, environment)
        shown = EvaluatedSubscription(change.subscription, entry.subscription.status, True)
        kept = EvaluatedSubscription(change.subscription, entry.subscription.status, True)
        _buy(shown, entry.subscription.items, prices, findings)
        _buy(kept, change.keep, prices, findings)
        target, coming = catalog.plans.get(change.plan), entry.subscription.scheduled
        if findings.unknown or target is None:
            return facts, ""  # a price that left the catalog is no reason to drop the change
        reason = _void_reason(shown.plan, kept.plan, target, change)
        if coming is not None and coming.action == "cancel" and coming.effective_ns <= change.effective_ns:
            reason = "its subscription is to be canceled"
        elif now_ns >= change.effective_ns and _is(shown.plan, target):
            reason = "it is done"
    if not reason:
        return facts, ""
    return replace(facts, scheduled_change=None), f"the scheduled change to {change.plan} is dropped: {reason}"


def _under_policy(
    key: str, entry: SubscriptionFacts, policy: Policy, now_ns: int, findings: Findings
) -> EvaluatedSubscription:
    """Return what the newest body means now, without what its items buy."""
    body = entry.subscription
    evaluated = EvaluatedSubscription(key, body.status, body.status in LIVE_STATUSES)
    if body.status == "trialing" and body.trial_ends_ns is not None:
        findings.instants_ns.append(body.trial_ends_ns)
        if now_ns >= body.trial_ends_ns:
            evaluated.awaiting_since_ns = body.trial_ends_ns
            if policy.overdue["trial"] == "apply":
                # Money was due at the trial's end, and no event has said that it came.
                evaluated.status, evaluated.live = "past_due", False
    elif body.status == "past_due":
        # A past_due body's period is the unpaid one already: only the run's first event dates the start of grace.
        since_ns = entry.past_due_since_ns
        assert since_ns is not None
        evaluated.grace_ends_ns = since_ns + policy.grace_ns
        findings.instants_ns.append(evaluated.grace_ends_ns)
        evaluated.live = now_ns < evaluated.grace_ends_ns
    if body.scheduled is not None and body.status != "canceled":
        _apply_provider_schedule(evaluated, entry, policy, now_ns, findings)
    return evaluated


def _apply_provider_schedule(
    evaluated: EvaluatedSubscription, entry: SubscriptionFacts, policy: Policy, now_ns: int, findings: Findings
) -> None:
    """Show the change that the provider makes by itself; once it is overdue, do as the policy says."""
    assert entry.subscription.scheduled is not None
    action, effective_ns, resume_ns = entry.subscription.scheduled
    findings.instants_ns.append(effective_ns)
    overdue = now_ns >= effective_ns
    shown: dict[str, object] = {
        "action": action,
        "effective_at": instants.text(effective_ns),
        "source": "provider",
        "overdue": overdue,
    }
    if resume_ns is not None:
        shown["resume_at"] = instants.text(resume_ns)
    evaluated.scheduled = shown
    if not overdue:
        return
    evaluated.awaiting_since_ns = effective_ns
    if policy.overdue[action] != "apply":
        return
    if action == "cancel":
        evaluated.status, evaluated.live = "canceled", False
    elif action == "pause":
        if resume_ns is not None:
            findings.instants_ns.append(resume_ns)
        if resume_ns is None or now_ns < resume_ns or policy.overdue["resume"] != "apply":
            evaluated.status, evaluated.live = "paused", False
    elif evaluated.status == "paused":
        evaluated.status, evaluated.live = "active", True


def _buy(
    evaluated: EvaluatedSubscription, items: tuple[Item, ...], prices: Mapping[str, Plan | Addon], findings: Findings
) -> None:
    """Add what the items buy: the highest plan with its quantity, and every add-on. The items' order is irrelevant."""
    for price_id, quantity in items:
        offer = prices.get(price_id)
        if offer is None:
            findings.unknown.append(price_id)
        elif isinstance(offer, Addon):
            evaluated.addons.append((offer, quantity))
        elif evaluated.plan is None or _outranks(offer, evaluated.plan):
            evaluated.plan, evaluated.quantity = offer, quantity
        elif offer.key == evaluated.plan.key:
            evaluated.quantity += quantity


def _outranks(offer: Plan, plan: Plan) -> bool:
    return offer.rank > plan.rank or (offer.rank == plan.rank and offer.key < plan.key)


def _apply_scheduled_change(
    evaluated: EvaluatedSubscription,
    change: ScheduledPlanChange,
    catalog: Catalog,
    prices: Mapping[str, Plan | Addon],
    now_ns: int,
    findings: Findings,
) -> None:
    """Apply an app-held plan change: the kept items until its time, its plan after it."""
    target = catalog.plans.get(change.plan)
    kept = EvaluatedSubscription(evaluated.key, evaluated.status, evaluated.live)
    _buy(kept, change.keep, prices, findings)
    if target is None or kept.plan is None:
        return
    overdue = now_ns >= change.effective_ns
    if _void_reason(evaluated.plan, kept.plan, target, change) or (overdue and _is(evaluated.plan, target)):
        return
    findings.instants_ns.append(change.effective_ns)
    if not _is(evaluated.plan, kept.plan):
        evaluated.plan, evaluated.quantity, evaluated.addons = kept.plan, kept.quantity, kept.addons
    if overdue:
        evaluated.awaiting_since_ns = change.effective_ns
        if catalog.policy.overdue["change_plan"] == "apply":
            evaluated.plan = target
    coming = evaluated.scheduled
    if coming is None or instants.parse(str(coming["effective_at"])) > change.effective_ns:
        evaluated.scheduled = {
            "action": "change_plan",
            "plan": target.key,
            "effective_at": instants.text(change.effective_ns),
            "source": "app",
            "overdue": overdue,
        }
        if change.problem:
            evaluated.scheduled["problem"] = change.problem


def _void_reason(shown: Plan | None, kept: Plan | None, target: Plan, change: ScheduledPlanChange) -> str:
    """Return why the plan in the provider's body tells that somebody has decided anew; "" if it does not."""
    if kept is None or _is(shown, kept):
        return ""
    if _is(shown, target):
        # Ahead of its time: a lower plan is how the next bill is kept down; a higher one was bought, or set by us.
        return "" if target.rank <= kept.rank or change.executed else "upgraded since"
    return "upgraded since" if shown is not None and shown.rank > kept.rank else "changed to another plan since"


def _is(plan: Plan | None, other: Plan) -> bool:
    return plan is not None and plan.key == other.key
