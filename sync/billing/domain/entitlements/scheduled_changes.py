"""Scheduled plan changes: the checks before one is stored, and the items that the provider is asked to set. Pure.

Providers cannot schedule a plan change. So it is stored in the tenant's facts; `evaluation` shows "this plan now, that
plan later", and drops it once it is void.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sync.billing.catalog.catalog import Plan
from sync.billing.domain.entitlements.applications import check_app
from sync.billing.domain.entitlements.evaluation import Setting, bought, is_same_plan, void_reason
from sync.billing.domain.entitlements.items import entry_of
from sync.billing.domain.entitlements.projection import leader
from sync.billing.domain.facts.instructions import ScheduledPlanChange
from sync.billing.domain.facts.model import ENDED_STATUSES, LIVE_STATUSES, Facts, Item, SubscriptionFacts
from sync.billing.domain.outcome import ChangeRejected

AHEAD_NS = 40 * 60 * 1_000_000_000
"""How long before a bill the items are changed, so that it bills the new plan. Providers lock the last 30 minutes."""

FURTHEST_NS = 3 * 366 * 86_400 * 1_000_000_000
"""How far ahead a change may be scheduled."""


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """A requested plan change.

    Attributes:
        effective_ns: None for the end of the paid period.
        subscription_id: "" for the leading subscription.
        app: the application whose plan is changed; "" for that of `plan`.
        keep: the plan to grant until then. "" for the current plan; set it if the provider's items have already been
            switched.
    """

    plan: str
    effective_ns: int | None = None
    subscription_id: str = ""
    keep: str = ""
    billing_mode: str = "do_not_bill"
    app: str = ""


def plan_change(
    facts: Facts, request: ChangeRequest, setting: Setting, billing_modes: Mapping[str, Collection[str]]
) -> ScheduledPlanChange:
    """Return the change to store; `with_change` stores it.

    Args:
        billing_modes: the supported modes by provider; a provider that is absent supports all.

    Raises:
        ChangeRejected: the change is impossible or pointless.
    """
    setting = setting.of_plan(request.plan, check_app(request.app, setting))
    key, entry = find_subscription(facts, request.subscription_id, setting)
    now_ns, provider = setting.now_ns, entry.provider
    modes = billing_modes.get(provider)
    if modes is not None and request.billing_mode not in modes:
        raise ChangeRejected(
            "billing_mode_unsupported",
            f"{provider.capitalize()} does not bill {request.billing_mode}: use one of {', '.join(modes)}",
        )
    keep = entry.subscription.items
    with_plan(keep, request.plan, entry, setting)  # raises if it is not sold
    if request.keep:
        keep = with_plan(keep, request.keep, entry, setting)
    else:
        scheduled = [
            one for one in facts.scheduled_changes if one.subscription == key and setting.catalog.app == one.app
        ]
        keep = scheduled[0].keep if scheduled else keep
    kept = bought(keep, entry, setting).plan
    if kept is None:
        raise ChangeRejected("no_plan", f"{entry.subscription.id} holds no plan to change")
    if kept.key == request.plan:
        raise ChangeRejected(
            "nothing_to_change", f"the plan is {request.plan} already; to undo a scheduled change, delete it"
        )
    effective_ns = _effective_ns(entry, request.effective_ns, now_ns)
    execute_ns = effective_ns
    period = entry.subscription.period
    if period is not None and period.ends_ns - AHEAD_NS < effective_ns:
        # The next bill falls before or on the change, and should bill the new plan.
        execute_ns = max(now_ns, effective_ns - AHEAD_NS)
    return ScheduledPlanChange(
        key, request.plan, effective_ns, keep, execute_ns, request.billing_mode, app=setting.catalog.app
    )


def with_change(facts: Facts, made: ScheduledPlanChange) -> Facts:
    """Return the facts with a change, in place of the one of its application.

    A change for all applications replaces those of its subscription, and each of those replaces it.
    """
    kept = [
        one
        for one in facts.scheduled_changes
        if one.app != made.app and not (one.subscription == made.subscription and "" in (one.app, made.app))
    ]
    return replace(facts, scheduled_changes=(*kept, made))


def _effective_ns(entry: SubscriptionFacts, asked_ns: int | None, now_ns: int) -> int:
    """Return when the change takes effect: as asked, or at the end of the paid period."""
    period, coming = entry.subscription.period, entry.subscription.scheduled
    if asked_ns is None and (period is None or entry.subscription.status == "past_due"):
        raise ChangeRejected("effective_at_required", "there is no paid period whose end could be meant")
    effective_ns = asked_ns if asked_ns is not None or period is None else period.ends_ns
    assert effective_ns is not None
    if not now_ns < effective_ns <= now_ns + FURTHEST_NS:
        raise ChangeRejected("effective_at_invalid", "effective_at must lie ahead, at most three years")
    if coming is not None and coming.action == "cancel" and coming.effective_ns <= effective_ns:
        raise ChangeRejected("cancel_scheduled", "the subscription is to be canceled before that")
    return effective_ns


def without_change(facts: Facts, app: str, setting: Setting) -> Facts:
    """Return the facts without the scheduled change of an application; "" for the only one, or the leading one's.

    Raises:
        ChangeRejected: `app_unknown`, `not_found`, or `already_executed`.
    """
    changes = facts.scheduled_changes
    wanted = check_app(app, setting) or (setting.catalog.leading if len(changes) > 1 else "")
    found = [one for one in changes if wanted in ("", setting.of_plan(one.plan, one.app).catalog.app)]
    if not found:
        of = f"{wanted[:64]} of " if wanted else ""
        raise ChangeRejected("not_found", f"no plan change is scheduled for {of}this tenant")
    if found[0].executed:
        raise ChangeRejected("already_executed", "the provider has made it already: schedule the way back instead")
    return replace(facts, scheduled_changes=tuple([one for one in changes if one is not found[0]]))


def without_void_changes(facts: Facts, setting: Setting) -> tuple[Facts, str]:
    """Return the facts without scheduled plan changes that are done or void, and why they were dropped ("": none was).

    It is void if its subscription has ended, or is to be canceled before it. It is also void if the customer has chosen
    another plan since: one above the kept plan, or one that is neither the kept plan nor the target.
    """
    if not facts.scheduled_changes:
        return facts, ""
    kept, dropped = [], []
    for change in facts.scheduled_changes:
        reason = _why_dropped(change, facts, setting.of_plan(change.plan, change.app))
        if reason:
            dropped.append(f"the scheduled change to {change.plan} is dropped: {reason}")
        else:
            kept.append(change)
    return (replace(facts, scheduled_changes=tuple(kept)), "; ".join(dropped)) if dropped else (facts, "")


def _why_dropped(change: ScheduledPlanChange, facts: Facts, setting: Setting) -> str:
    """Return why a scheduled plan change is done or void, in the setting of its application; "" if it is not."""
    entry = facts.subscriptions.get(change.subscription)
    reason = "its subscription has ended"
    if entry is not None and entry.subscription.status not in ENDED_STATUSES:
        shown = bought(entry.subscription.items, entry, setting)
        kept = bought(change.keep, entry, setting)
        target, coming = setting.catalog.plans.get(change.plan), entry.subscription.scheduled
        if (shown.unknown and shown.plan is None) or kept.plan is None or target is None:
            return ""  # a price that left the catalog is no reason to drop the change
        reason = void_reason(shown.plan, kept.plan, target, change)
        if coming is not None and coming.action == "cancel" and coming.effective_ns <= change.effective_ns:
            reason = "its subscription is to be canceled"
        elif setting.now_ns >= change.effective_ns and is_same_plan(shown.plan, target):
            reason = "it is done"
    return reason


def target_items(facts: Facts, change: ScheduledPlanChange, setting: Setting) -> tuple[str, tuple[Item, ...]] | None:
    """Return the id of a scheduled change's subscription and the items to set; None if nothing is left to set."""
    entry, setting = facts.subscriptions.get(change.subscription), setting.of_plan(change.plan, change.app)
    if entry is None:
        return None
    items = entry.subscription.items
    shown = bought(items, entry, setting).plan
    if shown is not None and shown.key == change.plan:
        return None
    try:
        return entry.subscription.id, with_plan(items, change.plan, entry, setting)
    except ChangeRejected:
        return None  # its price is no longer in the catalog: the change stays, and shows as overdue


def with_plan(items: tuple[Item, ...], key: str, entry: SubscriptionFacts, setting: Setting) -> tuple[Item, ...]:
    """Return the items with their plan replaced by plan `key` at its first price: same quantity, add-ons kept.

    Of a provider that sells products it is the plan's first product, unless prices are listed.
    Who has the plan already keeps the price, which may be of an earlier version.

    Raises:
        ChangeRejected: `plan_unknown` or `plan_not_sold`.
    """
    plans, provider, environment = setting.catalog.plans, entry.provider, setting.environment
    if key not in plans:
        raise ChangeRejected("plan_unknown", f"the catalog has no plan {key[:64]}; it has: {', '.join(plans)}")
    offers = [(item, entry_of(item.price_id, entry, setting)) for item in items]
    replaced = [item for item, offer in offers if isinstance(offer, Plan)]
    held = [item.price_id for item, offer in offers if isinstance(offer, Plan) and offer.key == key]
    ids = held or plans[key].prices.get(provider, {}).get(environment)
    if not ids and provider in setting.product_sellers:
        ids = plans[key].products.get(provider, {}).get(environment)
    if not ids:
        kind = "product" if provider in setting.product_sellers else "price"
        problem = f"list the {kind} to change to under {kind}s, or, to end a subscription, cancel it there"
        raise ChangeRejected("plan_not_sold", f"{key} has no {kind} in {environment}: {problem}")
    others = [item for item in items if item not in replaced]
    return (Item(ids[0], sum(item.quantity for item in replaced) or 1), *others)


def find_subscription(facts: Facts, subscription_id: str, setting: Setting) -> tuple[str, SubscriptionFacts]:
    """Return the live subscription of this id, or the leading one for "", with its key.

    Raises:
        ChangeRejected: `no_subscription`.
    """
    recurring = facts.recurring
    wanted = [key for key, entry in recurring.items() if entry.subscription.id == subscription_id]
    key = next(iter(wanted), None) if subscription_id else leader(replace(facts, subscriptions=recurring), setting)
    entry = None if key is None else facts.subscriptions[key]
    if key is None or entry is None or entry.subscription.status not in LIVE_STATUSES:
        raise ChangeRejected("no_subscription", "the tenant has no such live subscription")
    return key, entry
