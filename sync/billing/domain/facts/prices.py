"""What the events of a subscription have said of their prices: product and lookup key. Pure.

The newest body says it of its own items. Items of earlier bodies count too: they stand in for unknown ones, and a
scheduled plan change keeps them. So what earlier bodies said is kept as `SubscriptionFacts.former`. A provider can take
a lookup key from a price and give it to the next one; whoever has bought the first keeps what it was known by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sync.billing.domain.facts.model import NO_PRICE, Price, Subscription, SubscriptionFacts

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


def says_the_same(one: Subscription, *others: Subscription) -> bool:
    """Return whether bodies say the same of prices."""
    return all([one.products == other.products and one.lookup_keys == other.lookup_keys for other in others])


def _prices(body: Subscription) -> dict[str, Price]:
    products, keys = body.products, body.lookup_keys
    return {id: Price(keys.get(id, ""), products.get(id, "")) for id in {**products, **keys}}


def _join(said: dict[str, Price], more: Mapping[str, Price]) -> None:
    """Add what is said elsewhere. A product never changes; of several lookup keys the one that sorts last stays."""
    for id, price in more.items():
        known = said.get(id, NO_PRICE)
        said[id] = Price(max(known.lookup_key, price.lookup_key), max(known.product_id, price.product_id))
