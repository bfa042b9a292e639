"""What stands in for items that the catalog does not know, and which of them are reported. Pure.

A subscription grants what its known items buy. If they buy no plan, the plan that it granted last stays (`Granted`), so
that an unknown price never takes anything away. The newest body that bought something stands in, whatever the order of
arrival.

If an edit of the catalog takes away what was bought, the entitlements that were published last stay (`Facts.kept`).
Status, grace and the end of subscriptions apply all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import orjson

from sync.billing.catalog.catalog import Entry, Offer
from sync.billing.domain.entitlements.applications import bought_apps, is_lost_anywhere, overrides_of
from sync.billing.domain.entitlements.evaluation import Setting, bought, is_lost
from sync.billing.domain.entitlements.items import entry_of, unknown_prices
from sync.billing.domain.entitlements.overrides import is_active
from sync.billing.domain.facts import recent_events
from sync.billing.domain.facts.instructions import PLAN
from sync.billing.domain.facts.model import (
    ENDED_STATUSES,
    KEPT,
    NEVER_GRANTED,
    PAYING_STATUSES,
    Event,
    Facts,
    Granted,
    SubscriptionFacts,
    subscription_key,
)
from sync.billing.domain.facts.refunds import as_paid


def remember_granted(before: Facts, after: Facts, event: Event, setting: Setting) -> Facts:
    """Return the facts after an event, with what stands in for unknown items of its subscription."""
    body = event.subscription
    key = "" if body is None else subscription_key(event.provider, body.id)
    entry, old = after.subscriptions.get(key), before.subscriptions.get(key)
    if body is None or entry is None:
        return after
    within = {app: setting.within(app) for app in setting.catalog.apps} if setting.catalog.apps else {}
    if not unknown_prices(entry, setting):
        granted = None if entry is not old else entry.granted
        granted_in = {} if entry is not old else entry.granted_in
        apps = bought_apps(entry, setting) if within else ()
    else:
        granted = _standing_in(old, entry, Granted(event.order, body.items), setting)
        found = {app: _standing_in(old, entry, Granted(event.order, body.items), each) for app, each in within.items()}
        granted_in = {app: each for app, each in found.items() if each is not None}
        # They tell what an edit of the catalog has taken away.
        apps = entry.apps if len(granted_in) < len(within) else ()
    if (entry.granted, entry.granted_in, entry.apps) == (granted, granted_in, apps):
        return after
    return after.with_subscription(key, replace(entry, granted=granted, granted_in=granted_in, apps=apps))


def _standing_in(
    old: SubscriptionFacts | None, entry: SubscriptionFacts, new: Granted, setting: Setting
) -> Granted | None:
    """Return what stands in for the unknown items of a subscription, in the setting's application.

    Args:
        old: the subscription's facts before the event.
        new: the items of the event.
    """
    app = setting.catalog.app
    if old is not None and is_lost(old, setting):
        return old.stands_in(app)  # the catalog has lost the plan's price: what was published stays
    known = [new, Granted(entry.order, entry.subscription.items)]
    if old is not None:
        known += [Granted(old.order, old.subscription.items), old.stands_in(app) or NEVER_GRANTED]
    # The orders of a coarse clock's events do not say which of an instant is newer.
    path = recent_events.path(entry)
    known += [Granted(seen.order, seen.body.items) for seen in path]
    place = {seen.order: number for number, seen in enumerate(path)}
    newest = max(known, key=lambda each: (_level(entry, each, setting), place.get(each.order, -1), each))
    return newest if _level(entry, newest, setting) else NEVER_GRANTED


def _level(entry: SubscriptionFacts, granted: Granted, setting: Setting) -> int:
    """Return how well items stand in for others. 2: they buy a plan or are all known; 1: they buy something; 0: not."""
    found = bought(granted.items, entry, setting)
    if granted == NEVER_GRANTED or not (found.buys or not found.unknown):
        return 0
    return 1 if found.unknown and found.plan is None else 2


def keep_published(before: Facts, after: Facts, published: bytes, setting: Setting) -> Facts:
    """Return the facts with the published entitlements kept while the catalog lacks a part of them; else without.

    A subscription that is new to the tenant has nothing to keep here.

    Args:
        published: the state that billing has published last; empty for none.
    """
    paid = {key for key, entry in after.subscriptions.items() if entry.subscription.status not in ENDED_STATUSES}
    lost = {key for key in paid if is_lost_anywhere(after.subscriptions[key], setting)}
    kept = after.kept
    if not lost <= before.subscriptions.keys() or not (lost or lost_grants(after, setting)):
        kept = None
    elif kept is None and published:
        state = orjson.loads(published)
        kept = _kept(state) if isinstance(state, dict) else None
    return after if kept is after.kept else replace(after, kept=kept)


def _kept(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a state that are kept, of each application too. One may have no plan."""
    apps = {app: {name: each[name] for name in KEPT if name in each} for app, each in state.get("apps", {}).items()}
    return {name: state[name] for name in KEPT} | ({"apps": apps} if apps else {})


def lost_grants(facts: Facts, setting: Setting) -> set[tuple[str, str]]:
    """Return the granted plans that the catalog no longer has, as `unknown_reason` names them."""
    catalog = setting.catalog
    known = (catalog.whole or catalog).plans
    granted = [one for one in overrides_of(facts, catalog) if one.kind == PLAN and is_active(one, setting.now_ns)]
    return {("", f"plan:{one.name}") for one in granted if one.name not in known}


def reported_prices(facts: Facts, key: str, setting: Setting) -> frozenset[str]:
    """Return the unknown prices of a subscription that is paid, or being paid. They are reported."""
    entry = facts.subscriptions.get(key)
    if entry is None or entry.subscription.status not in PAYING_STATUSES:
        return frozenset()
    return frozenset(unknown_prices(entry, setting))


def as_new(before: Facts, after: Facts, key: str) -> Facts:
    """Return the facts; a purchase that is new in them counts as paid, even if what goes back of it came first."""
    entry = after.subscriptions.get(key)
    if entry is None or entry.subscription.purchase is None or key in before.subscriptions:
        return after
    return after.with_subscription(key, as_paid(entry))


def is_new_and_unknown(before: Facts, after: Facts, key: str, setting: Setting) -> bool:
    """Return whether a subscription is new and paid, and the catalog knows none of its items."""
    is_new = key not in before.subscriptions and key in after.subscriptions
    after = as_new(before, after, key)
    return is_new and after.subscriptions[key].granted == NEVER_GRANTED and bool(reported_prices(after, key, setting))


def buys_anything(facts: Facts, key: str, setting: Setting) -> bool:
    """Return whether the catalog knows any of a subscription's items. If not, it keeps what it granted before."""
    entry = facts.subscriptions[key]
    return bool(bought(entry.subscription.items, entry, setting).buys)


def unblocks(before: Facts, after: Facts, key: str, setting: Setting) -> bool:
    """Return whether parked events of a subscription can be used now: it is new, or its unknown prices are gone."""
    if key not in before.subscriptions:
        return key in after.subscriptions
    return bool(reported_prices(before, key, setting) - reported_prices(after, key, setting))


PRICES_NAMED_MAX = 10
"""Maximum prices that a reason names; an operator's list of parked events has all of them."""


def items_subject(key: str) -> str:
    """Return what an event with unknown prices waits on besides the catalog: a later event about the items."""
    return f"items:{key}"


def unknown_reason(prices: Collection[tuple[str, str]], setting: Setting, event: Event | None = None) -> str:
    """Return the reason that names (provider, id), their environment, and where the catalog has them.

    Args:
        prices: each with the id by which the catalog would list it; see `listed_id`.
        event: the one that shows them, and with them their products and lookup keys.
    """
    sellers = setting.product_sellers
    kind = "product" if all(provider in sellers for provider, _ in prices) else "price"
    named = sorted({price_id for _, price_id in prices})
    shown = ", ".join(named[:PRICES_NAMED_MAX])
    shown += f" and {len(named) - PRICES_NAMED_MAX} more" if len(named) > PRICES_NAMED_MAX else ""
    elsewhere = [
        f"the catalog has {price_id} for {environment}"
        for provider, price_id in sorted(prices)
        for (name, environment), known in setting.catalog.index.items()
        if name == provider and environment != setting.environment
        if isinstance(known.get(("products" if provider in sellers else "prices", price_id)), Offer)
    ]
    elsewhere += [
        f"{found.key} has {price_id}, but not purchase = true"
        for provider, price_id in sorted(prices)
        if isinstance(found := _listed(provider, price_id, event, setting), Offer)
    ]
    return "; ".join((f"unknown {kind} {shown} in {setting.environment}", *elsewhere[:PRICES_NAMED_MAX]))


def _listed(provider: str, id: str, event: Event | None, setting: Setting) -> Entry | None:
    """Return the catalog's entry of a price or product, whether or not a purchase buys it."""
    is_product = provider in setting.product_sellers
    if is_product or event is None or event.subscription is None:
        return setting.catalog.find(provider, setting.environment, id, "", id if is_product else "")
    return entry_of(id, replace(event, subscription=replace(event.subscription, purchase=None)), setting)
