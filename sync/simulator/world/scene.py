"""What a control action works on, and how it finds what its parameters name: offers, subscriptions, payments. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sync.simulator.world import rules
from sync.simulator.world.errors import ControlError, invalid_parameter
from sync.simulator.world.model import SECOND_US, Price, Subscription, Transaction
from sync.simulator.world.offers import BillingMode, Offer, Offers
from sync.simulator.world.parameters import Params
from sync.simulator.world.rules import Lines, Patch
from sync.simulator.world.turn import Outcome, Turn


@dataclass(frozen=True, slots=True)
class Scene:
    """The input of an action: the world's working copy, the offers and the parameters."""

    turn: Turn
    offers: Offers
    params: Params

    def live(self) -> Subscription | None:
        """Return the subscription with the given id, else the tenant's newest live one (with a plan, if possible).

        Of an application, only one that holds something of it.
        """
        tenant, named = self.params.tenant, self.params.subscription_id
        mine = [
            sub
            for sub in self.turn.world.subscriptions.values()
            if sub.tenant == tenant and sub.env == self.offers.env and (sub.is_live or sub.id == named)
        ]
        if named is not None:
            found = next((sub for sub in mine if sub.id == named), None)
            if found is None:
                raise ControlError(404, "no_subscription", f"tenant {tenant} has no subscription {named}")
            return found
        plans = self.offers.plan_price_ids
        if self.offers.app:
            mine = [sub for sub in mine if sub.item(self.offers.price_ids) is not None]
        return max(mine, key=lambda sub: (sub.item(plans) is not None, sub.created_us), default=None)

    def subscription(self) -> Subscription:
        """Return the subscription of `live`; raise ControlError if there is none."""
        found = self.live()
        if found is None:
            of_app = f" of {self.offers.app}" if self.offers.app else ""
            nothing = f"tenant {self.params.tenant} has no live subscription{of_app} in {self.offers.env}"
            raise ControlError(409, "no_subscription", f"{nothing}; start one with upgrade or trial")
        return found

    def update(self, current: Subscription, lines: Lines) -> Outcome:
        """Return the subscription with other lines, billed at once if possible."""
        mode: BillingMode = "do_not_bill" if current.status in ("trialing", "paused") else "prorated_immediately"
        return rules.update(self.turn, current, Patch(lines=lines, mode=mode))

    def checkout(self, offer: Offer, trial_us: int | None = None) -> Outcome:
        """Return the new subscription of an offer."""
        env, params = self.offers.env, self.params
        ends_us = None if params.ends_in_s is None else self.turn.now_us + params.ends_in_s * SECOND_US
        lines = ((self.sold(offer), params.quantity or 1),)
        return rules.checkout(self.turn, env, params.tenant, lines, trial_us, ends_us, params.linked)

    def plan(self, key: str) -> Offer:
        """Return the plan with this key."""
        plan = self.offers.plan(key)
        if plan is None:
            keys = ", ".join(plan.key for plan in self.offers.plans)
            raise ControlError(400, "unknown_plan", f"the catalog has no plan {key}; it has: {keys}")
        return plan

    def addon(self) -> Offer:
        """Return the add-on that the parameters name."""
        key = self.params.addon
        known = ", ".join(addon.key for addon in self.offers.addons) or "none"
        if key is None:
            raise invalid_parameter(f"addon must name an add-on of the catalog; it has: {known}")
        addon = self.offers.addon(key)
        if addon is None:
            raise ControlError(400, "unknown_addon", f"the catalog has no add-on {key}; it has: {known}")
        return addon

    def sold(self, offer: Offer, *, once: bool = False) -> Price:
        """Return the price at which an offer is subscribed to, or is bought `once`."""
        if not offer.prices:
            missing = f"{offer.name} has no price in {self.offers.env}"
            raise ControlError(409, "no_price", f"{missing}; add prices.paddle.{self.offers.env} to the catalog")
        if offer.is_once and not once:
            raise ControlError(409, "sold_once", f"{offer.name} is bought once; use buy")
        if once and not offer.is_once:
            how = "use upgrade or addon, or add purchase = true to the catalog"
            raise ControlError(409, "not_sold_once", f"{offer.name} is subscribed to; {how}")
        return offer.prices[0]

    def payment(self, is_wanted: Callable[[Transaction], bool], otherwise: str) -> Transaction:
        """Return the payment that the parameters name, or else the tenant's newest that is wanted.

        Of an application, a plan or an add-on, only one of its items.

        Args:
            is_wanted: asked of the payments that are not named by their own id.
            otherwise: what such a payment is, for the error that there is none.
        """
        params, named = self.params, self.params.transaction_id
        mine = [each for each in self.turn.world.payments().values() if self._is_mine(each) and each.amount]
        if named is not None:
            mine = [each for each in mine if each.id == named]
        else:
            mine = [each for each in mine if self._is_meant(each) and is_wanted(each)]
        if not mine:
            what = f"payment {named}" if named is not None else f"payment {otherwise}"
            where = f" of {self.offers.app}" if self.offers.app and named is None else ""
            raise ControlError(
                404 if named is not None else 409,
                "no_payment",
                f"tenant {params.tenant} has no {what}{where} in {self.offers.env}",
            )
        return max(mine, key=lambda each: (each.at_us, each.id))

    def _is_mine(self, payment: Transaction) -> bool:
        world = self.turn.world
        of = world.purchases.get(payment.id) or world.subscriptions.get(payment.subscription_id or "")
        return of is not None and (of.tenant, payment.env) == (self.params.tenant, self.offers.env)

    def _is_meant(self, payment: Transaction) -> bool:
        params = self.params
        if params.subscription_id is not None:
            return payment.subscription_id == params.subscription_id
        if params.plan is not None:
            prices = self.plan(params.plan).price_ids
        elif params.addon is not None:
            prices = self.addon().price_ids
        elif self.offers.app:
            prices = self.offers.price_ids
        else:
            return True
        return any(item.price.id in prices for item in payment.items)
