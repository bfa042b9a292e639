"""What the events of a subscription have said of their prices: product and lookup key. Pure.

The newest body says it of its own items. Items of earlier bodies count too: they stand in for unknown ones, and a
scheduled plan change keeps them. So what earlier bodies said is kept as `SubscriptionFacts.former`. A provider can take
a lookup key from a price and give it to the next one; whoever has bought the first keeps what it was known by.

`SubscriptionFacts.first_seen` says since when a subscription has each of its prices, which decides which version of a
plan it has bought. Both are joins: the order of arrival makes no difference.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from sync.billing.domain.facts.model import FETCHED_ID, NO_PRICE, Event, Price, Subscription, SubscriptionFacts

PRICES_MAX = 200
"""Maximum former prices per subscription. Beyond it those whose ids sort first are dropped."""


def with_former(after: SubscriptionFacts, *known: SubscriptionFacts | Subscription) -> SubscriptionFacts:
    """Return the facts with what these facts and bodies say of prices. The order of the arguments is irrelevant."""
    said: dict[str, Price] = dict(after.former)
    for one in known:
        if isinstance(one, SubscriptionFacts):
            _join(said, one.former)
        _join(said, _prices(one.subscription if isinstance(one, SubscriptionFacts) else one))
    own = _prices(after.subscription)
    former = {id: said[id] for id in sorted(said)[-PRICES_MAX:] if said[id] != own.get(id)}
    return after if former == after.former else replace(after, former=former)


def with_seen(after: SubscriptionFacts, before: SubscriptionFacts | None, event: Event) -> SubscriptionFacts:
    """Return the facts with the time at which the event shows its prices; `after` itself if all are known by then.

    An answer of the provider that is older than what is known shows nothing.
    """
    assert event.subscription is not None
    order, seen = event.order, after.first_seen
    if order.event_id == FETCHED_ID and order != after.order:
        return after
    at_ns = order.updated_ns if order.updated_ns < order.occurred_ns else order.occurred_ns
    for id, _ in event.subscription.items:
        if id not in seen or seen[id] > at_ns:
            break
    else:
        return after
    if before is not None and not seen:  # of a build that kept none
        seen = {item.price_id: min(before.order[:2]) for item in before.subscription.items}
    shown = {id: min(seen.get(id, at_ns), at_ns) for id, _ in event.subscription.items}
    return replace(after, first_seen=_earliest({**seen, **shown}))


def joined_seen(one: SubscriptionFacts, other: SubscriptionFacts) -> dict[str, int]:
    """Return the earliest times of both."""
    ids = {**one.first_seen, **other.first_seen}
    times = {id: [each.first_seen[id] for each in (one, other) if id in each.first_seen] for id in ids}
    return _earliest({id: min(found) for id, found in times.items()})


def bought_ns(entry: SubscriptionFacts, price_ids: Collection[str]) -> int | None:
    """Return when a subscription first had one of these prices: at its creation, unless an earlier event lacks them.

    0 stands for a creation whose time is not known; None for prices that it never had.
    """
    seen = entry.first_seen
    found = [seen[id] for id in price_ids if id in seen]
    if seen and not found:
        return None
    if seen and min(found) > min(seen.values()):
        return min(found)
    return entry.created_ns or 0


def _earliest(seen: Mapping[str, int]) -> dict[str, int]:
    if len(seen) <= PRICES_MAX:
        return dict(seen)
    return dict(sorted(seen.items(), key=lambda one: (one[1], one[0]))[:PRICES_MAX])


def says_the_same(one: Subscription, other: Subscription) -> bool:
    """Return whether two bodies say the same of prices."""
    return one.products == other.products and one.lookup_keys == other.lookup_keys


def _prices(body: Subscription) -> dict[str, Price]:
    products, keys = body.products, body.lookup_keys
    return {id: Price(keys.get(id, ""), products.get(id, "")) for id in {**products, **keys}}


def _join(said: dict[str, Price], more: Mapping[str, Price]) -> None:
    """Add what is said elsewhere. A product never changes; of several lookup keys the one that sorts last stays."""
    for id, price in more.items():
        known = said.get(id, NO_PRICE)
        said[id] = Price(max(known.lookup_key, price.lookup_key), max(known.product_id, price.product_id))
