"""Which application a subscription, an override and a kept state belong to, if the catalog names applications. Pure.

A subscription counts in the applications that its items buy a plan or an add-on of. What is sold for all applications
counts in each of them; but an add-on for all, beside items of another application, never gives this one a status.

Of unknown items nobody knows the application. They count where the subscription counted before (`granted_in`, `apps`);
in every one if that is not known, so that an edit of the catalog never takes anything away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from sync.billing.catalog.catalog import Catalog, Offer, Plan
from sync.billing.domain.entitlements.evaluation import Setting, bought, is_lost
from sync.billing.domain.entitlements.items import entry_of
from sync.billing.domain.facts.instructions import PLAN, VERSION, Override, ScheduledPlanChange
from sync.billing.domain.facts.model import Facts, SubscriptionFacts
from sync.billing.domain.outcome import ChangeRejected


class Standing(Enum):
    """How a subscription counts in an application."""

    ABSENT = 0
    ADDS = 1
    """Its add-ons count, its status does not."""
    COUNTS = 2


def standing(entry: SubscriptionFacts, setting: Setting, changes: Iterable[ScheduledPlanChange] = ()) -> Standing:
    """Return how a subscription counts in the application of the setting's catalog.

    Args:
        changes: the scheduled changes of the subscription. A plan for all counts until it is changed.
    """
    catalog = setting.catalog
    assert catalog.whole is not None
    named = _named(entry, setting._replace(catalog=catalog.whole))
    if catalog.app in named or "" in named:
        return Standing.COUNTS
    for change in changes:
        kept = bought(change.keep, entry, setting).plan
        if setting.now_ns < change.effective_ns and kept is not None and not kept.app:
            return Standing.COUNTS
    found = bought(entry.subscription.items, entry, setting)
    if found.unknown:
        return _standing_of_unknown(entry, bool(named), setting)
    if not named and catalog.app == catalog.leading:
        return Standing.COUNTS  # it has nothing, or add-ons for all
    return Standing.ADDS if found.addons else Standing.ABSENT


def _standing_of_unknown(entry: SubscriptionFacts, is_known_elsewhere: bool, setting: Setting) -> Standing:
    """Return how a subscription counts whose only items for the application may be unknown ones."""
    app, leading = setting.catalog.app, setting.catalog.leading
    granted = entry.stands_in(app)
    if granted is None:
        return Standing.COUNTS if not entry.apps or app in entry.apps else Standing.ABSENT
    if bought(granted.items, entry, setting).buys:
        return Standing.COUNTS
    assert setting.catalog.whole is not None
    whole = setting._replace(catalog=setting.catalog.whole)
    before = [item.price_id for each in entry.granted_in.values() for item in each.items]
    was_known = any(isinstance(entry_of(price_id, entry, whole), Offer) for price_id in before)
    is_nowhere = not is_known_elsewhere and not entry.apps and not was_known
    return Standing.COUNTS if is_nowhere and app == leading else Standing.ABSENT


def is_lost_anywhere(entry: SubscriptionFacts, setting: Setting) -> bool:
    """Return whether the catalog has lost what a subscription bought, in any application that it counts in."""
    if not setting.catalog.apps:
        return is_lost(entry, setting)
    within = [setting.within(app) for app in setting.catalog.apps]
    return any(standing(entry, each) is Standing.COUNTS and is_lost(entry, each) for each in within)


def kept_of(facts: Facts, catalog: Catalog) -> Mapping[str, Any] | None:
    """Return the state that is kept for the catalog's application; None if none was published."""
    kept = facts.kept
    if kept is None or catalog.whole is None:
        return kept
    if catalog.app in kept.get("apps", ()):
        found: Mapping[str, Any] = kept["apps"][catalog.app]
        return found
    # It was published before the catalog had applications.
    key = kept["plan"]["key"]
    return kept if key in catalog.plans or (key not in catalog.whole.plans and catalog.app == catalog.leading) else None


def overrides_of(facts: Facts, catalog: Catalog) -> list[Override]:
    """Return the overrides that count in the catalog's application."""
    if not catalog.app:
        return list(facts.overrides)
    return [
        one
        for one in facts.overrides
        if (catalog.has_plan(one.name, one.app) if one.kind in (PLAN, VERSION) else one.app in ("", catalog.app))
    ]


def check_app(app: str, setting: Setting) -> str:
    """Return `app`; "" is always fine.

    Raises:
        ChangeRejected: `app_unknown`: the catalog names no such application.
    """
    if app and app not in setting.catalog.apps:
        known = ", ".join(setting.catalog.apps) or "none"
        raise ChangeRejected("app_unknown", f"the catalog has no application {app[:64]!r}; it has: {known}")
    return app


def bought_apps(entry: SubscriptionFacts, setting: Setting) -> tuple[str, ...]:
    """Return the applications that the items of a subscription are sold for; () for all, or if that is not known."""
    named = _named(entry, setting)
    return () if "" in named else tuple(sorted(named))


def _named(entry: SubscriptionFacts, whole: Setting) -> set[str]:
    """Return the applications of a subscription's known items; "" for a plan for all, nothing for an add-on for all.

    An item of quantity 0 is not bought. It counts only if none is.
    """
    items = entry.subscription.items
    found = [entry_of(item.price_id, entry, whole) for item in [item for item in items if item.quantity] or items]
    return {offer.app for offer in found if isinstance(offer, Offer) and (offer.app or isinstance(offer, Plan))}
