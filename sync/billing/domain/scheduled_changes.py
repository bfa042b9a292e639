"""App-held plan changes: what makes one, and which items the provider has to be told for it. Pure.

Providers have no plan change at a later date. The intent is kept with the tenant's facts; `projection` shows "this plan
now, that one then" and drops what has become void; here is what is checked before one is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sync.billing.catalog.catalog import Addon, Catalog, Plan
from sync.billing.domain.model import (
    LIVE_STATUSES,
    Facts,
    Item,
    ScheduledPlanChange,
    SubscriptionFacts,
    subscription_key,
)
from sync.billing.domain.projection import leader
from sync.billing.providers.stripe import webhooks
from sync.core.errors import SyncError

AHEAD_NS = 40 * 60 * 1_000_000_000
"""How long before a bill the items are changed, so that it is the new plan's: providers lock the last 30 minutes."""

FURTHEST_NS = 3 * 366 * 86_400 * 1_000_000_000
"""How far ahead a change may be held."""


class ChangeRejected(SyncError):
    """The change cannot be held: `code` is stable, `detail` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """What is asked for. `effective_ns` None: the end of the paid period; `subscription_id` "": the leading one;
    `keep` "": the plan that counts now, else a plan that its items have been changed away from already."""

    plan: str
    effective_ns: int | None = None
    subscription_id: str = ""
    keep: str = ""
    billing_mode: str = "do_not_bill"


def hold(facts: Facts, wish: ChangeRequest, catalog: Catalog, environment: str, now_ns: int) -> ScheduledPlanChange:
    """Return the change to hold; it takes the place of one that is held.

    Raises:
        HeldError: it cannot be done, or makes no sense.
    """
    key, entry = meant(facts, wish.subscription_id, catalog, environment, now_ns)
    if entry.provider == webhooks.NAME and wish.billing_mode not in webhooks.PRORATIONS:
        modes = ", ".join(webhooks.PRORATIONS)
        raise ChangeRejected(
            "billing_mode_unsupported", f"Stripe does not bill {wish.billing_mode}: use one of {modes}"
        )
    prices = catalog.prices(entry.provider, environment)
    target = sold(catalog, wish.plan, entry.provider, environment)
    keep = entry.subscription.items
    if wish.keep:
        keep = replaced(
            keep, sold(catalog, wish.keep, entry.provider, environment), entry.provider, environment, prices
        )
    elif facts.held is not None and facts.held.subscription == key:
        keep = facts.held.keep
    kept = _plan_of(keep, prices)
    if kept is None:
        raise ChangeRejected("no_plan", f"{entry.subscription.id} holds no plan to change")
    if kept.key == target.key:
        raise ChangeRejected(
            "nothing_to_change", f"the plan is {target.key} already; to undo a scheduled change, delete it"
        )
    period = entry.subscription.period
    effective_ns = wish.effective_ns
    if effective_ns is None:
        if period is None or entry.subscription.status == "past_due":
            raise ChangeRejected("effective_at_required", "there is no paid period whose end could be meant")
        effective_ns = period.ends_ns
    if not now_ns < effective_ns <= now_ns + FURTHEST_NS:
        raise ChangeRejected("effective_at_invalid", "effective_at must lie ahead, at most three years")
    coming = entry.subscription.scheduled
    if coming is not None and coming.action == "cancel" and coming.effective_ns <= effective_ns:
        raise ChangeRejected("cancel_scheduled", "the subscription is to be canceled before that")
    execute_ns = effective_ns
    if period is not None and period.ends_ns - AHEAD_NS < effective_ns:
        # The next bill falls before, or on, the change: it is to be the new plan's.
        execute_ns = max(now_ns, effective_ns - AHEAD_NS)
    return ScheduledPlanChange(key, target.key, effective_ns, keep, execute_ns, wish.billing_mode)


def target_items(facts: Facts, catalog: Catalog, environment: str) -> tuple[str, tuple[Item, ...]] | None:
    """Return the id of the held change's subscription and the items it is to have; None where it has them."""
    held = facts.held
    entry = None if held is None else facts.subscriptions.get(held.subscription)
    if held is None or entry is None or held.plan not in catalog.plans:
        return None
    prices = catalog.prices(entry.provider, environment)
    items = entry.subscription.items
    shown = _plan_of(items, prices)
    if shown is not None and shown.key == held.plan:
        return None
    try:
        target = sold(catalog, held.plan, entry.provider, environment)
    except ChangeRejected:
        return None  # its price was taken out of the catalog: it stays, and shows as overdue
    return entry.subscription.id, replaced(items, target, entry.provider, environment, prices)


def replaced(
    items: tuple[Item, ...],
    target: Plan,
    provider: str,
    environment: str,
    prices: Mapping[str, Plan | Addon],
) -> tuple[Item, ...]:
    """Return the items with their plan replaced by `target`, in its first price: same quantity, add-ons kept."""
    plans = [item for item in items if isinstance(prices.get(item.price_id), Plan)]
    others = [item for item in items if item not in plans]
    price_id = target.prices[provider][environment][0]
    return (Item(price_id, sum(item.quantity for item in plans) or 1), *others)


def meant(
    facts: Facts, subscription_id: str, catalog: Catalog, environment: str, now_ns: int
) -> tuple[str, SubscriptionFacts]:
    """Return the live subscription of this id, or the leading one where it is "", with its key.

    Raises:
        HeldError: `no_subscription`.
    """
    if subscription_id:
        keys = [
            subscription_key(entry.provider, subscription_id)
            for entry in facts.subscriptions.values()
            if entry.subscription.id == subscription_id
        ]
        key = keys[0] if keys else None
    else:
        key = leader(facts, catalog, environment, now_ns)
    entry = None if key is None else facts.subscriptions[key]
    if key is None or entry is None or entry.subscription.status not in LIVE_STATUSES:
        raise ChangeRejected("no_subscription", "the tenant has no such live subscription")
    return key, entry


def sold(catalog: Catalog, key: str, provider: str, environment: str) -> Plan:
    """Return a plan that has a price.

    Raises:
        HeldError: `plan_unknown` or `plan_not_sold`.
    """
    plan = catalog.plans.get(key)
    if plan is None:
        raise ChangeRejected("plan_unknown", f"the catalog has no plan {key[:64]}; it has: {', '.join(catalog.plans)}")
    if not plan.prices.get(provider, {}).get(environment):
        raise ChangeRejected(
            "plan_not_sold", f"{key} has no price in {environment}: to end a subscription, cancel it there"
        )
    return plan


def _plan_of(items: tuple[Item, ...], prices: Mapping[str, Plan | Addon]) -> Plan | None:
    found = [offer for item in items if isinstance(offer := prices.get(item.price_id), Plan)]
    return max(found, key=lambda plan: plan.rank, default=None)
