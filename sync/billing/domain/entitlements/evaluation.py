"""Evaluates one subscription at one instant, under the catalog and its policy. Pure.

`projection` chooses among the evaluated subscriptions and builds the tenant's state from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sync.billing.catalog.catalog import Addon, Ignored, Offer, Plan, Policy
from sync.billing.domain.entitlements.items import Setting as Setting, entry_of, listed_id
from sync.billing.domain.entitlements.versions import version_of
from sync.billing.domain.facts.instructions import ScheduledPlanChange
from sync.billing.domain.facts.model import (
    ENDED_STATUSES,
    EXPIRED,
    LIVE_STATUSES,
    UNCOLLECTED,
    Facts,
    Item,
    Purchase,
    SubscriptionFacts,
)
from sync.billing.domain.facts.refunds import is_revoked
from sync.core import instants

_SHOWN = {UNCOLLECTED: "paused", EXPIRED: "none"}
"""A subscription's status -> its word in a state, where the two differ."""


@dataclass(slots=True)
class EvaluatedSubscription:
    """One subscription at one instant.

    Attributes:
        live: whether it grants anything now.
        scheduled: the coming change as the public state shows it.
        awaiting_since_ns: when a change fell due that the provider has not reported yet; None if there is none.
        plan, quantity, addons: what its items buy.
        instants_ns: the instants at which it changes by time alone.
        unknown: the price ids of its items that are not in the catalog.
        lost: those of them that nothing stands in for: the catalog no longer has what they bought.
        leads: whether the status of its application can be its own.
        bought_ns: when a purchase was paid, nanoseconds since 1970; None for a subscription.
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
    instants_ns: list[int] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    leads: bool = True
    bought_ns: int | None = None

    @property
    def provider(self) -> str:
        """The provider's name, which begins the key."""
        return self.key.partition(":")[0]

    @property
    def buys(self) -> bool:
        """Whether its items buy anything."""
        return self.plan is not None or bool(self.addons)


def evaluate(key: str, facts: Facts, setting: Setting) -> EvaluatedSubscription:
    """Return one subscription at the setting's instant."""
    entry = facts.subscriptions[key]
    evaluated = _under_policy(key, entry, setting)
    if evaluated.live:
        purchase, items = entry.subscription.purchase, entry.subscription.items
        if purchase is not None:
            evaluated.bought_ns = purchase.bought_ns
            items = _unexpired(evaluated, purchase, entry, facts, setting)
        _buy(evaluated, items, entry, setting)
        if evaluated.unknown:
            _stand_in(evaluated, entry, setting)
        if purchase is not None and _is_over(evaluated, items, setting):
            evaluated.status, evaluated.live = "canceled", False
        for change in facts.scheduled_changes:
            if change.subscription == key:
                is_own = setting.catalog.has_plan(change.plan, change.app)
                (_apply_scheduled_change if is_own else _keep_bundle)(evaluated, change, entry, setting)
        plan = evaluated.plan
        if plan is not None and plan.key in setting.catalog.versions:
            evaluated.plan = version_of(plan, entry, facts, setting)
    return evaluated


def _unexpired(
    evaluated: EvaluatedSubscription, purchase: Purchase, entry: SubscriptionFacts, facts: Facts, setting: Setting
) -> tuple[Item, ...]:
    """Return the items of a purchase that have not expired."""
    kept: list[Item] = []
    for item in entry.subscription.items:
        offer = entry_of(item.price_id, entry, setting)
        if isinstance(offer, Ignored):
            continue  # other software's, or another application's
        if isinstance(offer, Plan):
            offer = version_of(offer, entry, facts, setting)
        if isinstance(offer, Offer) and offer.expires_ns is not None:
            ends_ns = purchase.bought_ns + offer.expires_ns
            evaluated.instants_ns.append(ends_ns)
            if ends_ns <= setting.now_ns:
                continue
        kept.append(item)
    return tuple(kept)


def _is_over(evaluated: EvaluatedSubscription, unexpired: tuple[Item, ...], setting: Setting) -> bool:
    """Return whether nothing is left of a purchase. Items that the catalog does not sell so grant nothing."""
    if evaluated.buys or evaluated.lost:
        return False
    return not unexpired or any([ends_ns <= setting.now_ns for ends_ns in evaluated.instants_ns])


def overdue_subscriptions(facts: Facts, setting: Setting) -> list[str]:
    """Return the keys of the subscriptions with an overdue change, whose outcome the provider knows."""
    found = []
    for key, entry in facts.subscriptions.items():
        instants_ns = _under_policy(key, entry, setting).instants_ns
        instants_ns += [change.effective_ns for change in facts.scheduled_changes if change.subscription == key]
        if any(instant_ns <= setting.now_ns for instant_ns in instants_ns):
            found.append(key)
    return found


def bought(items: tuple[Item, ...], entry: SubscriptionFacts, setting: Setting) -> EvaluatedSubscription:
    """Return only what items of a subscription buy: plan, quantity, add-ons and unknown prices."""
    bought = EvaluatedSubscription("", "", live=True)
    _buy(bought, items, entry, setting)
    return bought


def is_lost(entry: SubscriptionFacts, setting: Setting) -> bool:
    """Return whether the catalog no longer has what a subscription's items bought, and nothing stands in for them."""
    found = bought(entry.subscription.items, entry, setting)
    _stand_in(found, entry, setting)
    return bool(found.lost)


def _under_policy(key: str, entry: SubscriptionFacts, setting: Setting) -> EvaluatedSubscription:
    """Evaluate the newest body at the setting's instant, without what its items buy."""
    body, policy, now_ns = entry.subscription, setting.catalog.policy, setting.now_ns
    evaluated = EvaluatedSubscription(key, _SHOWN.get(body.status, body.status), body.status in LIVE_STATUSES)
    if body.status == "trialing" and body.trial_ends_ns is not None:
        evaluated.instants_ns.append(body.trial_ends_ns)
        if now_ns >= body.trial_ends_ns:
            evaluated.awaiting_since_ns = body.trial_ends_ns
            if policy.overdue["trial"] == "apply":
                # A payment was due at the trial's end, and no event has confirmed it.
                evaluated.status, evaluated.live = "past_due", False
    elif body.status == "past_due":
        # The period of a past_due body is already the unpaid one, so grace starts at the run's first event.
        since_ns = entry.past_due_since_ns
        assert since_ns is not None
        evaluated.grace_ends_ns = since_ns + policy.grace_ns
        evaluated.instants_ns.append(evaluated.grace_ends_ns)
        evaluated.live = now_ns < evaluated.grace_ends_ns
    if body.scheduled is not None and body.status not in ENDED_STATUSES:
        _apply_provider_schedule(evaluated, entry, policy, now_ns)
    if entry.refunds and body.purchase is None and policy.refund == "revoke" and evaluated.live and is_revoked(entry):
        evaluated.status, evaluated.live = "unpaid", False
    return evaluated


def _apply_provider_schedule(
    evaluated: EvaluatedSubscription, entry: SubscriptionFacts, policy: Policy, now_ns: int
) -> None:
    """Show the provider's scheduled change; once it is overdue, apply the policy."""
    assert entry.subscription.scheduled is not None
    action, effective_ns, resume_ns = entry.subscription.scheduled
    evaluated.instants_ns.append(effective_ns)
    overdue = now_ns >= effective_ns
    shown = {"action": action, "effective_at": instants.text(effective_ns)}
    evaluated.scheduled = {**shown, "source": "provider", "overdue": overdue}
    if resume_ns is not None:
        evaluated.scheduled["resume_at"] = instants.text(resume_ns)
    if not overdue:
        return
    evaluated.awaiting_since_ns = effective_ns
    if policy.overdue[action] != "apply":
        return
    if action == "cancel":
        evaluated.status, evaluated.live = "canceled", False
    elif action == "pause":
        if resume_ns is not None:
            evaluated.instants_ns.append(resume_ns)
        if resume_ns is None or now_ns < resume_ns or policy.overdue["resume"] != "apply":
            evaluated.status, evaluated.live = "paused", False
    elif evaluated.status == "paused":
        evaluated.status, evaluated.live = "active", True


def _buy(evaluated: EvaluatedSubscription, items: tuple[Item, ...], entry: SubscriptionFacts, setting: Setting) -> None:
    """Add what the items buy: the highest plan with its quantity, and every add-on. The items' order is irrelevant.

    An item of quantity 0 buys nothing.
    """
    for price_id, quantity in items:
        offer = entry_of(price_id, entry, setting) if quantity else None
        if isinstance(offer, Plan):
            if evaluated.plan is None or (-offer.rank, offer.key) < (-evaluated.plan.rank, evaluated.plan.key):
                evaluated.plan, evaluated.quantity = offer, quantity
            elif offer.key == evaluated.plan.key:
                evaluated.quantity += quantity
                if offer is not evaluated.plan:
                    evaluated.plan = min(offer, evaluated.plan, key=setting.catalog.versions[offer.key].place)
        elif isinstance(offer, Addon):
            evaluated.addons.append((offer, quantity))
        elif offer is None and quantity:
            evaluated.unknown.append(listed_id(price_id, entry, setting))


def _stand_in(evaluated: EvaluatedSubscription, entry: SubscriptionFacts, setting: Setting) -> None:
    """Keep the plan that was granted last if unknown items leave none, and its add-ons if they leave nothing."""
    if not evaluated.unknown or evaluated.plan is not None:
        return
    last = entry.stands_in(setting.catalog.app)
    granted = bought(last.items if last is not None else (), entry, setting)
    if last is None or (granted.unknown and not granted.buys):
        evaluated.lost += evaluated.unknown
    if entry.subscription.purchase is not None:
        return  # its items never change, so nothing was granted by others; and what has expired does not come back
    evaluated.plan, evaluated.quantity = granted.plan, granted.quantity
    evaluated.addons = evaluated.addons or granted.addons


def _apply_scheduled_change(
    evaluated: EvaluatedSubscription, change: ScheduledPlanChange, entry: SubscriptionFacts, setting: Setting
) -> None:
    """Apply a scheduled plan change: the kept items until its time, its plan after it."""
    target, kept = setting.catalog.plans.get(change.plan), bought(change.keep, entry, setting)
    if kept.plan is None:
        evaluated.lost += kept.unknown
    if target is None or kept.plan is None:
        return
    overdue = setting.now_ns >= change.effective_ns
    if void_reason(evaluated.plan, kept.plan, target, change) or (overdue and is_same_plan(evaluated.plan, target)):
        return
    evaluated.instants_ns.append(change.effective_ns)
    if not is_same_plan(evaluated.plan, kept.plan):
        evaluated.plan, evaluated.quantity, evaluated.addons = kept.plan, kept.quantity, kept.addons
    if overdue:
        evaluated.awaiting_since_ns = change.effective_ns
        if setting.catalog.policy.overdue["change_plan"] == "apply":
            evaluated.plan = target
    coming = evaluated.scheduled
    if coming is None or instants.parse(str(coming["effective_at"])) > change.effective_ns:
        shown = {"action": "change_plan", "plan": target.key, "effective_at": instants.text(change.effective_ns)}
        evaluated.scheduled = {**shown, "source": "app", "overdue": overdue}
        if change.problem:
            evaluated.scheduled["problem"] = change.problem


def _keep_bundle(
    evaluated: EvaluatedSubscription, change: ScheduledPlanChange, entry: SubscriptionFacts, setting: Setting
) -> None:
    """Keep a plan of all applications until it is changed to one of another application."""
    kept, shown = bought(change.keep, entry, setting), evaluated.plan
    if kept.plan is None or kept.plan.app or setting.now_ns >= change.effective_ns:
        return
    evaluated.instants_ns.append(change.effective_ns)
    if shown is None or shown.rank < kept.plan.rank:
        evaluated.plan, evaluated.quantity = kept.plan, kept.quantity


def void_reason(shown: Plan | None, kept: Plan | None, target: Plan, change: ScheduledPlanChange) -> str:
    """Return why the plan in the provider's body makes the change void; "" if it does not."""
    if kept is None or is_same_plan(shown, kept):
        return ""
    if is_same_plan(shown, target):
        # The target is set early: a lower plan, so that the next bill is lower; a higher one was bought, or set by us.
        return "" if target.rank <= kept.rank or change.executed else "upgraded since"
    return "upgraded since" if shown is not None and shown.rank > kept.rank else "changed to another plan since"


def is_same_plan(plan: Plan | None, other: Plan) -> bool:
    """Return whether two plans are one, whatever catalog they are from."""
    return plan is not None and plan.key == other.key
