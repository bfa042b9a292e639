"""What one environment sells: the catalog's plans and add-ons as prices. Pure; made from the catalog."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sync.simulator.world import ids
from sync.simulator.world.model import Price

PROVIDER = "paddle"

AMOUNT_PER_RANK = 100
"""Minor units a plan costs a month for each point of its rank: the catalog states no amounts, so they are made up."""

ADDON_AMOUNT = 500
"""Minor units any add-on costs a month."""


class PlanLike(Protocol):
    """What is read of a catalog's plan."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def rank(self) -> int: ...  # noqa: D102
    @property
    def default(self) -> bool: ...  # noqa: D102
    @property
    def prices(self) -> Mapping[str, Mapping[str, Sequence[str]]]: ...  # noqa: D102


class AddonLike(Protocol):
    """What is read of a catalog's add-on."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def prices(self) -> Mapping[str, Mapping[str, Sequence[str]]]: ...  # noqa: D102


class CatalogLike(Protocol):
    """What is read of a catalog."""

    @property
    def plans(self) -> Mapping[str, PlanLike]: ...  # noqa: D102
    @property
    def addons(self) -> Mapping[str, AddonLike]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan or an add-on and its prices in one environment, the first being the one that is sold.

    `rank` is the plan's, 0 for an add-on; `is_default` marks the plan that a tenant has without paying.
    """

    key: str
    name: str
    rank: int
    is_default: bool
    prices: tuple[Price, ...]

    @property
    def price_ids(self) -> frozenset[str]:
        """The ids of all its prices."""
        return frozenset(price.id for price in self.prices)


@dataclass(frozen=True, slots=True)
class Offers:
    """All that one environment sells: plans by rising rank, add-ons in the catalog's order."""

    env: str
    plans: tuple[Offer, ...]
    addons: tuple[Offer, ...]

    @property
    def plan_price_ids(self) -> frozenset[str]:
        """The price ids of all plans: a line with one of these makes a subscription's plan."""
        return frozenset().union(*(plan.price_ids for plan in self.plans))

    def price(self, price_id: str) -> Price | None:
        """The price with this id, or None."""
        return next((p for offer in (*self.plans, *self.addons) for p in offer.prices if p.id == price_id), None)

    def plan(self, key: str) -> Offer | None:
        """The plan with this key, or None."""
        return next((plan for plan in self.plans if plan.key == key), None)

    def plan_of_price(self, price_id: str) -> Offer | None:
        """The plan that this price buys, or None."""
        return next((plan for plan in self.plans if price_id in plan.price_ids), None)

    def addon(self, key: str) -> Offer | None:
        """The add-on with this key, or None."""
        return next((addon for addon in self.addons if addon.key == key), None)


def of(catalog: CatalogLike, env: str) -> Offers:
    """What the catalog sells in `env`, for Paddle."""
    plans = (
        Offer(
            plan.key,
            plan.name,
            plan.rank,
            plan.default,
            _prices(_ids(plan.prices, env), f"plan:{plan.key}", plan.name, AMOUNT_PER_RANK * max(plan.rank, 0)),
        )
        for plan in catalog.plans.values()
    )
    addons = (
        Offer(
            addon.key,
            addon.name,
            0,
            False,
            _prices(_ids(addon.prices, env), f"addon:{addon.key}", addon.name, ADDON_AMOUNT),
        )
        for addon in catalog.addons.values()
    )
    return Offers(env, tuple(sorted(plans, key=lambda plan: plan.rank)), tuple(addons))


def _ids(prices: Mapping[str, Mapping[str, Sequence[str]]], env: str) -> Sequence[str]:
    return prices.get(PROVIDER, {}).get(env, ())


def _prices(price_ids: Iterable[str], product: str, name: str, amount: int) -> tuple[Price, ...]:
    return tuple(Price(price_id, ids.derived("pro", product), name, amount) for price_id in price_ids)
