"""The control vocabulary: what a person or a test can make happen to a tenant, in words of plans and add-ons. Pure.

Maps each action onto the provider's rules in `rules`. Where one makes no sense, the error says what to do instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from sync.simulator.world import rules
from sync.simulator.world.amounts import BillingMode
from sync.simulator.world.errors import ControlError, invalid_parameter
from sync.simulator.world.model import Price, Subscription, World
from sync.simulator.world.moments import DAY_US, SECOND_US
from sync.simulator.world.offers import Offer
from sync.simulator.world.orders import QUANTITY_MAX, Order, Patch
from sync.simulator.world.scene import Scene
from sync.simulator.world.turn import NewId, Outcome

TRIAL_DAYS = 14
"""How long a trial is, when nothing else is asked for."""

TRIAL_DAYS_MAX = 365
ENDS_IN_S_MAX = 366 * 24 * 3600

_TENANT = re.compile(r"[A-Za-z0-9._~@-]{1,128}")

COMMON = frozenset({"tenant", "env", "subscription_id", "wait", "deliver"})
"""The parameters that every action takes."""


def act(action: str, scene: Scene) -> Outcome:
    """The outcome of a control action.

    Raises:
        ControlError: there is no such action, a parameter is wrong, or it makes no sense as things are.
        ApiError: the provider does not do it.
    """
    if not _TENANT.fullmatch(scene.tenant):
        raise invalid_parameter("tenant must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ @ -")
    handler, allowed = _known(action)
    unknown = sorted(set(scene.params.values) - COMMON - allowed)
    if unknown:
        takes = ", ".join(sorted(COMMON | allowed))
        raise invalid_parameter(f"{action} takes no parameter {unknown[0]}; it takes: {takes}")
    return handler(scene)


def _known(action: str) -> tuple[Handler, frozenset[str]]:
    if action not in ACTIONS:
        raise ControlError(404, "unknown_action", f"unknown action {action}; the actions are: {', '.join(ACTIONS)}")
    return ACTIONS[action]


def _upgrade(scene: Scene) -> Outcome:
    current = None if scene.params.flag("new", False) else scene.live()
    if current is None:
        plan = _plan_above(scene, _default_rank(scene), "the default plan")
        return rules.checkout(scene.world, _order(scene, plan, None), scene.now_us, scene.new_id)
    held = scene.plan_of(current)
    plan = _plan_above(scene, held.rank, held.name) if held else _plan_above(scene, _default_rank(scene), "no plan")
    return _swap(scene, current, plan)


def _downgrade(scene: Scene) -> Outcome:
    current = scene.subscription()
    held = scene.plan_of(current)
    if held is None:
        raise ControlError(409, "no_plan", "the subscription holds add-ons only; cancel it or use remove_addon")
    named = scene.params.text("plan")
    plan = _plan(scene, named) if named else _next_below(scene, held)
    if plan.rank >= held.rank and not plan.is_default:
        raise ControlError(409, "not_lower", f"{plan.name} is not below {held.name}; use upgrade")
    if plan.is_default:
        at_once = scene.params.choice("when", ("period_end", "now")) == "now"
        return rules.cancel(scene.world, current.id, at_once, scene.now_us, scene.new_id)
    return _swap(scene, current, plan)


def _trial(scene: Scene) -> Outcome:
    current = None if scene.params.flag("new", False) else scene.live()
    if current is not None:
        raise ControlError(
            409,
            "has_subscription",
            f'tenant {scene.tenant} has subscription {current.id}; cancel it, or send "new": true for one more',
        )
    days = scene.params.number("days", TRIAL_DAYS_MAX) or TRIAL_DAYS
    plan = _plan_above(scene, _default_rank(scene), "the default plan")
    return rules.checkout(scene.world, _order(scene, plan, days * DAY_US), scene.now_us, scene.new_id)


def _cancel(scene: Scene) -> Outcome:
    at_once = scene.params.choice("when", ("period_end", "now")) == "now"
    return rules.cancel(scene.world, scene.subscription().id, at_once, scene.now_us, scene.new_id)


def _uncancel(scene: Scene) -> Outcome:
    current = scene.subscription()
    if current.scheduled is None:
        raise ControlError(409, "nothing_scheduled", f"subscription {current.id} has no scheduled change to remove")
    return rules.update(scene.world, current.id, Patch(clears_schedule=True), scene.now_us, scene.new_id)


def _pause(scene: Scene) -> Outcome:
    at_once = scene.params.choice("when", ("period_end", "now")) == "now"
    resume_us = scene.params.instant("resume_at")
    current = scene.subscription()
    return rules.pause(
        scene.world, current.id, at_once, resume_us, "start_new_billing_period", scene.now_us, scene.new_id
    )


def _resume(scene: Scene) -> Outcome:
    current = scene.subscription()
    if current.status != "paused" and current.scheduled is not None and current.scheduled.action == "pause":
        return rules.update(scene.world, current.id, Patch(clears_schedule=True), scene.now_us, scene.new_id)
    return rules.resume(scene.world, current.id, None, "start_new_billing_period", scene.now_us, scene.new_id)


def _seats(scene: Scene) -> Outcome:
    quantity = scene.params.number("quantity", QUANTITY_MAX)
    if quantity is None:
        raise invalid_parameter("seats needs a quantity")
    current = scene.subscription()
    plan = current.item(scene.offers.plan_price_ids)
    if plan is None:
        raise ControlError(409, "no_plan", f"subscription {current.id} holds no plan to have seats of")
    lines = tuple((item.price, quantity if item.price.id == plan.price.id else item.quantity) for item in current.items)
    return _update_lines(scene, current, lines)


def _addon(scene: Scene) -> Outcome:
    addon = _addon_offer(scene)
    quantity = scene.params.number("quantity", QUANTITY_MAX) or 1
    price = _sold(scene, addon).prices[0]
    if scene.params.flag("new", False):
        order = Order(scene.offers.env, scene.tenant, ((price, quantity),), linked=scene.params.flag("linked", True))
        return rules.checkout(scene.world, order, scene.now_us, scene.new_id)
    current = scene.subscription()
    kept = tuple((item.price, item.quantity) for item in current.items if item.price.id not in addon.price_ids)
    return _update_lines(scene, current, (*kept, (price, quantity)))


def _remove_addon(scene: Scene) -> Outcome:
    addon = _addon_offer(scene)
    current = scene.subscription()
    kept = tuple((item.price, item.quantity) for item in current.items if item.price.id not in addon.price_ids)
    if len(kept) == len(current.items):
        raise ControlError(409, "no_addon", f"subscription {current.id} does not hold the add-on {addon.key}")
    return _update_lines(scene, current, kept)


def _period(scene: Scene) -> Outcome:
    ends_in_s = scene.params.number("ends_in_s", ENDS_IN_S_MAX)
    if ends_in_s is None:
        raise invalid_parameter("period needs ends_in_s: in how many seconds the current period ends")
    ends_us = scene.now_us + ends_in_s * SECOND_US
    return rules.move_end(scene.world, scene.subscription().id, ends_us, scene.now_us, scene.new_id)


def _plainly(transition: Callable[[World, str, int, NewId], Outcome]) -> Handler:
    """The handler that applies a transition which needs nothing but the subscription."""
    return lambda scene: transition(scene.world, scene.subscription().id, scene.now_us, scene.new_id)


def _swap(scene: Scene, current: Subscription, plan: Offer) -> Outcome:
    """The plan's line replaced, everything else kept; the number of seats too, unless another is asked for."""
    held = current.item(scene.offers.plan_price_ids)
    quantity = scene.params.number("quantity", QUANTITY_MAX) or (held.quantity if held else 1)
    others = tuple((item.price, item.quantity) for item in current.items if item is not held)
    return _update_lines(scene, current, ((_sold(scene, plan).prices[0], quantity), *others))


def _update_lines(scene: Scene, current: Subscription, lines: tuple[tuple[Price, int], ...]) -> Outcome:
    mode: BillingMode = "do_not_bill" if current.status in ("trialing", "paused") else "prorated_immediately"
    return rules.update(scene.world, current.id, Patch(lines=lines, mode=mode), scene.now_us, scene.new_id)


def _order(scene: Scene, plan: Offer, trial_us: int | None) -> Order:
    quantity = scene.params.number("quantity", QUANTITY_MAX) or 1
    ends_in_s = scene.params.number("ends_in_s", ENDS_IN_S_MAX)
    ends_us = None if ends_in_s is None else scene.now_us + ends_in_s * SECOND_US
    lines = ((_sold(scene, plan).prices[0], quantity),)
    return Order(scene.offers.env, scene.tenant, lines, trial_us, ends_us, scene.params.flag("linked", True))


def _plan_above(scene: Scene, rank: int, than: str) -> Offer:
    """The plan named, which has to rank above `rank`; unnamed, the next one up that is sold."""
    named = scene.params.text("plan")
    if named is None:
        above = next((plan for plan in scene.offers.plans if plan.rank > rank and plan.prices), None)
        if above is None:
            raise ControlError(409, "no_higher_plan", f"no plan with a price in {scene.offers.env} is above {than}")
        return above
    plan = _plan(scene, named)
    if plan.rank <= rank:
        raise ControlError(409, "not_higher", f"{plan.name} is not above {than}; use downgrade, or seats")
    return plan


def _next_below(scene: Scene, held: Offer) -> Offer:
    """The next plan down that is sold, or the default plan."""
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
    key = scene.params.text("addon")
    known = ", ".join(addon.key for addon in scene.offers.addons) or "none"
    if key is None:
        raise invalid_parameter(f"addon must name an add-on of the catalog; it has: {known}")
    addon = scene.offers.addon(key)
    if addon is None:
        raise ControlError(400, "unknown_addon", f"the catalog has no add-on {key}; it has: {known}")
    return addon


def _sold(scene: Scene, offer: Offer) -> Offer:
    if not offer.prices:
        raise ControlError(
            409,
            "no_price",
            f"{offer.name} has no price in {scene.offers.env}; add prices.paddle.{scene.offers.env} to the catalog",
        )
    return offer


def _default_rank(scene: Scene) -> int:
    return next((plan.rank for plan in scene.offers.plans if plan.is_default), -1)


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
"""Action -> (what it does, the parameters it takes beside COMMON)."""
