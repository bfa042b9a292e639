"""The control actions that a person or a test can do for a tenant, in terms of plans and add-ons. Pure.

Each action maps to the provider's rules in `rules`. If an action makes no sense, the error says what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from planwire_client.core.topic import TopicError, encode_id
from sync.simulator.world import rules
from sync.simulator.world.errors import ControlError, invalid_parameter
from sync.simulator.world.model import DAY_US, SECOND_US, Json, Price, Subscription
from sync.simulator.world.offers import BillingMode, Offer, Offers
from sync.simulator.world.parameters import COMMON, Params, validated
from sync.simulator.world.rules import Lines, Patch
from sync.simulator.world.turn import Outcome, Turn


def read(action: str, values: Mapping[str, Json]) -> Params:
    """Return the parameters of an action.

    Raises:
        ControlError: there is no such action, or a parameter is unknown or wrong.
    """
    if action not in ACTIONS:
        raise ControlError(404, "unknown_action", f"unknown action {action}; the actions are: {', '.join(ACTIONS)}")
    allowed = COMMON | ACTIONS[action][1]
    unknown = sorted(set(values) - allowed)
    if unknown:
        takes = ", ".join(sorted(allowed))
        raise invalid_parameter(f"{action} takes no parameter {unknown[0]}; it takes: {takes}")
    params = validated(Params, values)
    try:
        encode_id(params.tenant)
    except TopicError as error:
        raise invalid_parameter(f"tenant: {error}") from error
    return params


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
            nothing = f"tenant {self.params.tenant} has no live subscription in {self.offers.env}"
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
        lines = ((_sold(self, offer), params.quantity or 1),)
        return rules.checkout(self.turn, env, params.tenant, lines, trial_us, ends_us, params.linked)


def act(action: str, scene: Scene) -> Outcome:
    """Do a control action, whose parameters `read` has checked, and return the outcome.

    Raises:
        ControlError: the action makes no sense in the present state.
        ApiError: the provider rejects it.
    """
    return ACTIONS[action][0](scene)


def _upgrade(scene: Scene) -> Outcome:
    current = None if scene.params.new else scene.live()
    if current is None:
        return scene.checkout(_plan_above(scene, scene.offers.default.rank, "the default plan"))
    held = scene.offers.plan_of(current)
    plan = (
        _plan_above(scene, held.rank, held.name) if held else _plan_above(scene, scene.offers.default.rank, "no plan")
    )
    return _swap(scene, current, plan)


def _downgrade(scene: Scene) -> Outcome:
    current = scene.subscription()
    held = scene.offers.plan_of(current)
    if held is None:
        raise ControlError(409, "no_plan", "the subscription holds add-ons only; cancel it or use remove_addon")
    plan = _plan(scene, scene.params.plan) if scene.params.plan else _next_below(scene, held)
    if plan.rank >= held.rank and not plan.is_default:
        raise ControlError(409, "not_lower", f"{plan.name} is not below {held.name}; use upgrade")
    return _cancel(scene) if plan.is_default else _swap(scene, current, plan)


def _trial(scene: Scene) -> Outcome:
    current = None if scene.params.new else scene.live()
    if current is not None:
        has = f"tenant {scene.params.tenant} has subscription {current.id}"
        raise ControlError(409, "has_subscription", f'{has}; cancel it, or send "new": true for one more')
    plan = _plan_above(scene, scene.offers.default.rank, "the default plan")
    return scene.checkout(plan, scene.params.days * DAY_US)


def _cancel(scene: Scene) -> Outcome:
    return rules.cancel(scene.turn, scene.subscription(), scene.params.when == "now")


def _uncancel(scene: Scene) -> Outcome:
    current = scene.subscription()
    if current.scheduled is None:
        raise ControlError(409, "nothing_scheduled", f"subscription {current.id} has no scheduled change to remove")
    return rules.update(scene.turn, current, Patch(clears_schedule=True))


def _pause(scene: Scene) -> Outcome:
    at_once, resume_us = scene.params.when == "now", scene.params.resume_at
    return rules.pause(scene.turn, scene.subscription(), at_once, resume_us, "start_new_billing_period")


def _resume(scene: Scene) -> Outcome:
    current = scene.subscription()
    if current.status != "paused" and current.scheduled is not None and current.scheduled.action == "pause":
        return rules.update(scene.turn, current, Patch(clears_schedule=True))
    return rules.resume(scene.turn, current, None, "start_new_billing_period")


def _seats(scene: Scene) -> Outcome:
    quantity = scene.params.quantity
    if quantity is None:
        raise invalid_parameter("seats needs a quantity")
    current = scene.subscription()
    plan = current.item(scene.offers.plan_price_ids)
    if plan is None:
        raise ControlError(409, "no_plan", f"subscription {current.id} holds no plan to have seats of")
    lines = tuple((item.price, quantity if item.price.id == plan.price.id else item.quantity) for item in current.items)
    return scene.update(current, lines)


def _addon(scene: Scene) -> Outcome:
    addon = _addon_offer(scene)
    if scene.params.new:
        return scene.checkout(addon)
    price = _sold(scene, addon)
    current = scene.subscription()
    return scene.update(current, (*_without(current, addon), (price, scene.params.quantity or 1)))


def _remove_addon(scene: Scene) -> Outcome:
    addon = _addon_offer(scene)
    current = scene.subscription()
    kept = _without(current, addon)
    if len(kept) == len(current.items):
        raise ControlError(409, "no_addon", f"subscription {current.id} does not hold the add-on {addon.key}")
    return scene.update(current, kept)


def _period(scene: Scene) -> Outcome:
    if scene.params.ends_in_s is None:
        raise invalid_parameter("period needs ends_in_s: in how many seconds the current period ends")
    return rules.move_end(scene.turn, scene.subscription(), scene.turn.now_us + scene.params.ends_in_s * SECOND_US)


def _plainly(transition: Callable[[Turn, Subscription], Outcome]) -> Handler:
    """Return a handler for a transition that needs only the subscription."""
    return lambda scene: transition(scene.turn, scene.subscription())


def _swap(scene: Scene, current: Subscription, plan: Offer) -> Outcome:
    """Return the subscription with another plan; the other lines stay, and so do the seats unless a number is given."""
    held = current.item(scene.offers.plan_price_ids)
    quantity = scene.params.quantity or (held.quantity if held else 1)
    others = tuple((item.price, item.quantity) for item in current.items if item is not held)
    return scene.update(current, ((_sold(scene, plan), quantity), *others))


def _without(current: Subscription, addon: Offer) -> Lines:
    return tuple((item.price, item.quantity) for item in current.items if item.price.id not in addon.price_ids)


def _plan_above(scene: Scene, rank: int, than: str) -> Offer:
    """Return the given plan, which must rank above `rank`; by default the next higher plan that is sold."""
    if scene.params.plan is None:
        above = next((plan for plan in scene.offers.plans if plan.rank > rank and plan.prices), None)
        if above is None:
            raise ControlError(409, "no_higher_plan", f"no plan with a price in {scene.offers.env} is above {than}")
        return above
    plan = _plan(scene, scene.params.plan)
    if plan.rank <= rank:
        raise ControlError(409, "not_higher", f"{plan.name} is not above {than}; use downgrade, or seats")
    return plan


def _next_below(scene: Scene, held: Offer) -> Offer:
    """Return the next lower plan that is sold, or the default plan."""
    below = [plan for plan in scene.offers.plans if plan.rank < held.rank and (plan.prices or plan.is_default)]
    if not below:
        raise ControlError(409, "no_lower_plan", f"no plan is below {held.name}; use cancel")
    return below[-1]


def _plan(scene: Scene, key: str) -> Offer:
    plan = scene.offers.plan(key)
    if plan is None:
        keys = ", ".join(plan.key for plan in scene.offers.plans)
        raise ControlError(400, "unknown_plan", f"the catalog has no plan {key}; it has: {keys}")
    return plan


def _addon_offer(scene: Scene) -> Offer:
    key = scene.params.addon
    known = ", ".join(addon.key for addon in scene.offers.addons) or "none"
    if key is None:
        raise invalid_parameter(f"addon must name an add-on of the catalog; it has: {known}")
    addon = scene.offers.addon(key)
    if addon is None:
        raise ControlError(400, "unknown_addon", f"the catalog has no add-on {key}; it has: {known}")
    return addon


def _sold(scene: Scene, offer: Offer) -> Price:
    """Return the price at which an offer is sold."""
    if not offer.prices:
        missing = f"{offer.name} has no price in {scene.offers.env}"
        raise ControlError(409, "no_price", f"{missing}; add prices.paddle.{scene.offers.env} to the catalog")
    return offer.prices[0]


Handler = Callable[[Scene], Outcome]

_CHECKOUT = frozenset({"plan", "quantity", "new", "linked", "ends_in_s"})

ACTIONS: Mapping[str, tuple[Handler, frozenset[str]]] = {
    "upgrade": (_upgrade, _CHECKOUT),
    "downgrade": (_downgrade, frozenset({"plan", "quantity", "when"})),
    "trial": (_trial, _CHECKOUT | {"days"}),
    "activate": (_plainly(rules.activate), frozenset()),
    "seats": (_seats, frozenset({"quantity"})),
    "addon": (_addon, frozenset({"addon", "quantity", "new", "linked"})),
    "remove_addon": (_remove_addon, frozenset({"addon"})),
    "cancel": (_cancel, frozenset({"when"})),
    "uncancel": (_uncancel, frozenset()),
    "pause": (_pause, frozenset({"when", "resume_at"})),
    "resume": (_resume, frozenset()),
    "renew": (_plainly(rules.renew), frozenset()),
    "past_due": (_plainly(rules.fail_renewal), frozenset()),
    "recover": (_plainly(rules.recover), frozenset()),
    "decline": (_plainly(rules.decline), frozenset()),
    "period": (_period, frozenset({"ends_in_s"})),
}
"""Action -> (its handler, its parameters besides COMMON)."""
