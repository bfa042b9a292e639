"""The plans and add-ons that one environment sells, from the catalog, and their costs. Pure; in one currency.

Source of the proration rule: developer.paddle.com/concepts/subscriptions/proration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from sync.billing.catalog.catalog import Addon, Catalog, Plan
from sync.core.instants import NS_PER_S
from sync.simulator.world import ids
from sync.simulator.world.errors import ControlError
from sync.simulator.world.model import MINUTE_US, NOTHING, Bill, Item, Line, Price, Subscription, Transaction, share

CURRENCY = "USD"

ONCE_MONTHS = 12
"""What is bought once costs as much as so many months."""

AMOUNT_PER_RANK = 100
"""A plan's monthly amount per point of its rank, in minor units. It is invented: the catalog has no amounts."""

ADDON_AMOUNT = 500
"""Monthly amount of every add-on, in minor units."""

BillingMode = Literal[
    "prorated_immediately",
    "prorated_next_billing_period",
    "full_immediately",
    "full_next_billing_period",
    "do_not_bill",
]
"""Paddle's `proration_billing_mode`."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan or an add-on, and its prices in one environment; the first price is the one that is sold.

    `rank`: of a plan, 0 for an add-on. `is_default`: whether it is the plan of tenants that do not pay. `is_once`:
    whether it is bought once, and not subscribed to. `expires_s`: how long that lasts; None for ever.
    """

    key: str
    name: str
    rank: int
    is_default: bool
    prices: tuple[Price, ...]
    app: str = ""
    is_once: bool = False
    expires_s: int | None = None

    @property
    def is_subscribed_to(self) -> bool:
        """Return whether a subscription can buy it."""
        return bool(self.prices) and not self.is_once

    @property
    def price_ids(self) -> frozenset[str]:
        """Return the ids of all its prices."""
        return frozenset(price.id for price in self.prices)


_NO_PLAN = Offer("", "no plan", -1, True, ())


@dataclass(frozen=True, slots=True)
class Offers:
    """All offers of one environment: plans by rising rank, add-ons in the catalog's order.

    `app`: the application that they are sold for; "" for the whole catalog.
    """

    env: str
    plans: tuple[Offer, ...]
    addons: tuple[Offer, ...]
    app: str = ""

    @property
    def default(self) -> Offer:
        """Return the plan of tenants that do not pay. An application can have none."""
        return next((plan for plan in self.plans if plan.is_default), _NO_PLAN)

    @property
    def price_ids(self) -> frozenset[str]:
        """Return the price ids of everything that is sold."""
        return frozenset().union(*(offer.price_ids for offer in (*self.plans, *self.addons)))

    @property
    def plan_price_ids(self) -> frozenset[str]:
        """Return the price ids of all plans; a subscription's plan is the line with one of these."""
        return frozenset().union(*(plan.price_ids for plan in self.plans))

    def price(self, price_id: str) -> Price | None:
        """Return the price with this id, or None."""
        return next((p for offer in (*self.plans, *self.addons) for p in offer.prices if p.id == price_id), None)

    def offer(self, price_id: str) -> Offer | None:
        """Return the plan or add-on that is sold at this price, or None."""
        return next((offer for offer in (*self.plans, *self.addons) if price_id in offer.price_ids), None)

    @property
    def once(self) -> list[tuple[str, str]]:
        """Return what is sold once: (`plan` or `addon`, its key)."""
        kinds = (("plan", self.plans), ("addon", self.addons))
        return [(kind, each.key) for kind, of_kind in kinds for each in of_kind if each.is_once and each.prices]

    def plan(self, key: str) -> Offer | None:
        """Return the plan with this key, or None."""
        return next((plan for plan in self.plans if plan.key == key), None)

    def plan_of(self, bought: Subscription | Transaction) -> Offer | None:
        """Return the plan of a subscription or a purchase; None if it has only add-ons."""
        held = (item.price.id for item in bought.items)
        return next((plan for price_id in held for plan in self.plans if price_id in plan.price_ids), None)

    def addon(self, key: str) -> Offer | None:
        """Return the add-on with this key, or None."""
        return next((addon for addon in self.addons if addon.key == key), None)


def of(catalog: Catalog, env: str) -> Offers:
    """Return what the catalog sells in `env` through Paddle."""
    plans = sorted(catalog.plans.values(), key=lambda plan: plan.rank)
    return Offers(
        env,
        tuple(_offer(plan, env, plan.rank, plan.default, AMOUNT_PER_RANK * max(plan.rank, 0)) for plan in plans),
        tuple(_offer(addon, env, 0, False, ADDON_AMOUNT) for addon in catalog.addons.values()),
        catalog.app,
    )


def _offer(of: Plan | Addon, env: str, rank: int, is_default: bool, amount: int) -> Offer:
    product_id = ids.derived("pro", f"{'plan' if isinstance(of, Plan) else 'addon'}:{of.key}")
    price_ids = of.prices.get("paddle", {}).get(env, ())
    total = amount * ONCE_MONTHS if of.purchase else amount
    prices = tuple(Price(price_id, product_id, of.name, total, not of.purchase) for price_id in price_ids)
    expires_s = None if of.expires_ns is None else of.expires_ns // NS_PER_S
    return Offer(of.key, of.name, rank, is_default, prices, of.app, of.purchase, expires_s)


def of_app(catalog: Catalog, env: str, app: str = "", key: str = "") -> Offers:
    """Return what the catalog sells in `env` for one application; all of it if the catalog names none.

    Args:
        app: "" for the application of the plan or add-on `key`, or else the leading one. What is sold for all is of the
            whole catalog.

    Raises:
        ControlError: there is no such application.
    """
    if app and app not in catalog.apps:
        known = ", ".join(catalog.apps) or "none"
        raise ControlError(400, "unknown_app", f"the catalog has no application {app}; it has: {known}")
    offer = catalog.plans.get(key) or catalog.addons.get(key)
    app = app or (catalog.leading if offer is None else offer.app)
    return of(catalog.apps[app] if app else catalog, env)


def monthly(items: Iterable[Item]) -> Bill:
    """Return the bill of a month of these items."""
    return Bill(tuple(Line(item.price, item.quantity, item.price.amount * item.quantity) for item in items))


def renewal(of: Subscription, at_us: int) -> Bill:
    """Return the bill of a subscription's month that begins at an instant, with what was deferred to it."""
    return monthly(of.items).under(of.terms(at_us)).joined(of.deferred)


@dataclass(frozen=True, slots=True)
class Charge:
    """The cost of an item change. `at_once`: whether it is billed immediately."""

    bill: Bill
    at_once: bool

    @property
    def due(self) -> int:
        """Return the amount that the customer pays; negative: a credit to the customer."""
        return self.bill.due - self.bill.to_balance


def change(of: Subscription, new: Iterable[Item], now_us: int, mode: BillingMode) -> Charge:
    """Return the cost of replacing a subscription's items in a billing mode. Whole minutes are prorated."""
    period, terms = of.period, of.terms(now_us)
    before, after = monthly(of.items), monthly(new)
    at_once = mode.endswith("_immediately")
    if mode == "do_not_bill":
        return Charge(NOTHING, at_once)
    if mode.startswith("full_"):
        return Charge(_added(before, after).under(terms), at_once)
    whole = max((period.ends_us - period.starts_us) // MINUTE_US, 1)
    left = min(max((period.ends_us - now_us) // MINUTE_US, 0), whole)
    rate = f"{left * 10_000 // whole / 10_000:g}"

    def parts(bill: Bill) -> Bill:
        lines = (replace(line, amount=share(line.amount, left, whole), rate=rate) for line in bill.lines)
        return Bill(tuple(lines)).under(terms)

    return Charge(replace(parts(after), credit=parts(before).total), at_once)


def _added(before: Bill, after: Bill) -> Bill:
    """Return what is added in full. What is removed is taken off the added lines, and never credited."""
    held = {line.price.id: line.amount for line in before.lines}
    added = [replace(line, amount=line.amount - held.get(line.price.id, 0)) for line in after.lines]
    lines: list[Line] = []
    removed = before.subtotal - sum(min(line.amount, held.get(line.price.id, 0)) for line in after.lines)
    for line in added:
        if line.amount > 0:
            taken = min(line.amount, removed)
            removed -= taken
            lines.append(replace(line, amount=line.amount - taken))
    return Bill(tuple(line for line in lines if line.amount))
