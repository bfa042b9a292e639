"""Evaluates one subscription at one instant, under the catalog and its policy. Pure.

`projection` chooses among the evaluated subscriptions and builds the tenant's state from them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sync.billing.catalog.catalog import Addon, Catalog, Plan, Policy
from sync.billing.domain.facts.instructions import ScheduledPlanChange
from sync.billing.domain.facts.model import (
    ENDED_STATUSES,
    EXPIRED,
    LIVE_STATUSES,
    UNCOLLECTED,
    Event,
    Facts,
    Item,
    SubscriptionFacts,
)
from sync.core import instants

_SHOWN = {UNCOLLECTED: "paused", EXPIRED: "none"}
"""A subscription's status -> its word in a state, where the two differ."""


class Setting(NamedTuple):
    """The inputs of a tenant's state besides its facts.

    Attributes:
        askable: the (provider, environment) pairs with an API client.
    """

    catalog: Catalog
    environment: str
    askable: Collection[tuple[str, str]]
    now_ns: int


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
        _buy(evaluated, entry.subscription.items, entry, setting)
        if evaluated.unknown:
            _stand_in(evaluated, entry, setting)
        change = facts.scheduled_change
        if change is not None and change.subscription == key:
            _apply_scheduled_change(evaluated, change, entry, setting)
    return evaluated


def overdue_subscriptions(facts: Facts, setting: Setting) -> list[str]:
    """Return the keys of the subscriptions with an overdue change, whose outcome the provider knows."""
    found = []
    for key, entry in facts.subscriptions.items():
        instants_ns = _under_policy(key, entry, setting).instants_ns
        if facts.scheduled_change is not None and facts.scheduled_change.subscription == key:
            instants_ns.append(facts.scheduled_change.effective_ns)
        if any(instant_ns <= setting.now_ns for instant_ns in instants_ns):
            found.append(key)
    return found


def without_void_change(facts: Facts, setting: Setting) -> tuple[Facts, str]:
    """Return the facts without a scheduled plan change that is done or void, and why it was dropped ("": it was not).

    It is void if its subscription has ended, or is to be canceled before it. It is also void if the customer has chosen
    another plan since: one above the kept plan, or one that is neither the kept plan nor the target.
    """
    change = facts.scheduled_change
    if change is None:
        return facts, ""
    entry = facts.subscriptions.get(change.subscription)
    reason = "its subscription has ended"
    if entry is not None and entry.subscription.status not in ENDED_STATUSES:
        shown = bought(entry.subscription.items, entry, setting)
        kept = bought(change.keep, entry, setting)
        target, coming = setting.catalog.plans.get(change.plan), entry.subscription.scheduled
        if (shown.unknown and shown.plan is None) or kept.plan is None or target is None:
            return facts, ""  # a price that left the catalog is no reason to drop the change
        reason = _void_reason(shown.plan, kept.plan, target, change)
        if coming is not None and coming.action == "cancel" and coming.effective_ns <= change.effective_ns:
            reason = "its subscription is to be canceled"
        elif setting.now_ns >= change.effective_ns and _is(shown.plan, target):
            reason = "it is done"
    if not reason:
        return facts, ""
    return replace(facts, scheduled_change=None), f"the scheduled change to {change.plan} is dropped: {reason}"


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


def is_ignored(of: Event | SubscriptionFacts, setting: Setting) -> bool:
    """Return whether other software sells all the items of a subscription, by the catalog's ignore list."""
    body, catalog = of.subscription, setting.catalog
    if body is None or not body.items or not catalog.ignored:
        return False
    where, products = (of.provider, setting.environment), body.products
    return all([catalog.ignores(*where, id, products.get(id, "")) for id, _ in body.items])


def unknown_prices(of: Event | SubscriptionFacts, setting: Setting) -> list[str]:
    """Return the price ids of a subscription's items that the catalog neither sells nor ignores.

    An item of quantity 0 is not asked for.
    """
    body, catalog = of.subscription, setting.catalog
    if body is None:
        return []
    where, products = (of.provider, setting.environment), body.products
    known = catalog.prices(*where)
    unknown = [price_id for price_id, quantity in body.items if quantity and price_id not in known]
    return [price_id for price_id in unknown if not catalog.ignores(*where, price_id, products.get(price_id, ""))]


def without_ignored_names(event: Event, setting: Setting) -> Event:
    """Return the event; if other software sells all its items, without the tenant and the customer that it names."""
    return replace(event, tenant_id=None, customer_id=None, checkout_id=None) if is_ignored(event, setting) else event


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
    catalog, environment, provider = setting.catalog, setting.environment, entry.provider
    prices, products = catalog.prices(provider, environment), entry.subscription.products
    for price_id, quantity in items:
        if quantity == 0:
            continue
        offer = prices.get(price_id)
        if offer is None:
            if not catalog.ignores(provider, environment, price_id, products.get(price_id, "")):
                evaluated.unknown.append(price_id)
        elif isinstance(offer, Addon):
            evaluated.addons.append((offer, quantity))
        elif evaluated.plan is None or (-offer.rank, offer.key) < (-evaluated.plan.rank, evaluated.plan.key):
            evaluated.plan, evaluated.quantity = offer, quantity
        elif offer.key == evaluated.plan.key:
            evaluated.quantity += quantity


def _stand_in(evaluated: EvaluatedSubscription, entry: SubscriptionFacts, setting: Setting) -> None:
    """Keep the plan that was granted last if unknown items leave none, and its add-ons if they leave nothing."""
    if not evaluated.unknown or evaluated.plan is not None:
        return
    granted = bought(entry.granted.items if entry.granted is not None else (), entry, setting)
    if entry.granted is None or (granted.unknown and not granted.buys):
        evaluated.lost += evaluated.unknown
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
    if _void_reason(evaluated.plan, kept.plan, target, change) or (overdue and _is(evaluated.plan, target)):
        return
    evaluated.instants_ns.append(change.effective_ns)
    if not _is(evaluated.plan, kept.plan):
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


def _void_reason(shown: Plan | None, kept: Plan | None, target: Plan, change: ScheduledPlanChange) -> str:
    """Return why the plan in the provider's body makes the change void; "" if it does not."""
    if kept is None or _is(shown, kept):
        return ""
    if _is(shown, target):
        # The target is set early: a lower plan, so that the next bill is lower; a higher one was bought, or set by us.
        return "" if target.rank <= kept.rank or change.executed else "upgraded since"
    return "upgraded since" if shown is not None and shown.rank > kept.rank else "changed to another plan since"


def _is(plan: Plan | None, other: Plan) -> bool:
    return plan is not None and plan.key == other.key
