"""The control actions that a person or a test can do for a tenant, in terms of plans and add-ons. Pure.

Each action maps to the provider's rules in `rules` and `purchases`. If an action makes no sense, the error says what to
do instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from planwire_client.core.topic import TopicError, encode_id
from sync.simulator.world import purchases, rules, terms
from sync.simulator.world.errors import ControlError, invalid_parameter
from sync.simulator.world.model import DAY_US, SECOND_US, Json, Subscription
from sync.simulator.world.offers import Offer
from sync.simulator.world.parameters import COMMON, Params, validated
from sync.simulator.world.rules import Lines, Patch
from sync.simulator.world.scene import Scene
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
    plan = scene.plan(scene.params.plan) if scene.params.plan else _next_below(scene, held)
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
    addon = scene.addon()
    if scene.params.new:
        return scene.checkout(addon)
    price = scene.sold(addon)
    current = scene.subscription()
    return scene.update(current, (*_without(current, addon), (price, scene.params.quantity or 1)))


def _remove_addon(scene: Scene) -> Outcome:
    addon = scene.addon()
    current = scene.subscription()
    kept = _without(current, addon)
    if len(kept) == len(current.items):
        raise ControlError(409, "no_addon", f"subscription {current.id} does not hold the add-on {addon.key}")
    return scene.update(current, kept)


def _period(scene: Scene) -> Outcome:
    if scene.params.ends_in_s is None:
        raise invalid_parameter("period needs ends_in_s: in how many seconds the current period ends")
    return rules.move_end(scene.turn, scene.subscription(), scene.turn.now_us + scene.params.ends_in_s * SECOND_US)


def _tax(scene: Scene) -> Outcome:
    return terms.set_tax(scene.turn, scene.subscription(), scene.params.rate_bp)


def _discount(scene: Scene) -> Outcome:
    ends_in_s, now_us = scene.params.ends_in_s, scene.turn.now_us
    ends_us = None if ends_in_s is None else now_us + ends_in_s * SECOND_US
    return terms.set_discount(scene.turn, scene.subscription(), scene.params.rate_bp, ends_us)


def _buy(scene: Scene) -> Outcome:
    params = scene.params
    if (params.plan is None) == (params.addon is None):
        once = ", ".join(key for _, key in scene.offers.once) or "none"
        raise invalid_parameter(f"buy needs a plan or an addon that is sold once; there are: {once}")
    offer = scene.addon() if params.plan is None else scene.plan(params.plan)
    line = (scene.sold(offer, once=True), params.quantity or 1)
    return purchases.buy(scene.turn, scene.offers.env, params.tenant, (line,), params.linked)


def _refund(scene: Scene) -> Outcome:
    world = scene.turn.world
    payment = scene.payment(lambda each: purchases.refundable(world, each) > 0, "that can go back")
    return purchases.refund(scene.turn, payment, scene.params.amount)


def _chargeback(scene: Scene) -> Outcome:
    world = scene.turn.world
    payment = scene.payment(lambda each: purchases.refundable(world, each) > 0, "that can go back")
    return purchases.charge_back(scene.turn, payment)


def _chargeback_reverse(scene: Scene) -> Outcome:
    world = scene.turn.world
    payment = scene.payment(lambda each: purchases.open_chargeback(world, each) is not None, "with a chargeback")
    return purchases.win(scene.turn, payment)


def _plainly(transition: Callable[[Turn, Subscription], Outcome]) -> Handler:
    """Return a handler for a transition that needs only the subscription."""
    return lambda scene: transition(scene.turn, scene.subscription())


def _swap(scene: Scene, current: Subscription, plan: Offer) -> Outcome:
    """Return the subscription with another plan; the other lines stay, and so do the seats unless a number is given."""
    held = current.item(scene.offers.plan_price_ids)
    quantity = scene.params.quantity or (held.quantity if held else 1)
    others = tuple((item.price, item.quantity) for item in current.items if item is not held)
    return scene.update(current, ((scene.sold(plan), quantity), *others))


def _without(current: Subscription, addon: Offer) -> Lines:
    return tuple((item.price, item.quantity) for item in current.items if item.price.id not in addon.price_ids)


def _plan_above(scene: Scene, rank: int, than: str) -> Offer:
    """Return the given plan, which must rank above `rank`; by default the next higher plan that is sold."""
    if scene.params.plan is None:
        above = next((plan for plan in scene.offers.plans if plan.rank > rank and plan.is_subscribed_to), None)
        if above is None:
            raise ControlError(409, "no_higher_plan", f"no plan with a price in {scene.offers.env} is above {than}")
        return above
    plan = scene.plan(scene.params.plan)
    if plan.rank <= rank:
        raise ControlError(409, "not_higher", f"{plan.name} is not above {than}; use downgrade, or seats")
    return plan


def _next_below(scene: Scene, held: Offer) -> Offer:
    """Return the next lower plan that is sold, or the default plan."""
    plans = scene.offers.plans
    below = [plan for plan in plans if plan.rank < held.rank and (plan.is_subscribed_to or plan.is_default)]
    if not below:
        raise ControlError(409, "no_lower_plan", f"no plan is below {held.name}; use cancel")
    return below[-1]


Handler = Callable[[Scene], Outcome]

_CHECKOUT = frozenset({"plan", "quantity", "new", "linked", "ends_in_s"})
_PAYMENT = frozenset({"plan", "addon", "transaction_id"})

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
    "tax": (_tax, frozenset({"percent"})),
    "discount": (_discount, frozenset({"percent", "ends_in_s"})),
    "buy": (_buy, frozenset({"plan", "addon", "quantity", "linked"})),
    "refund": (_refund, _PAYMENT | {"amount"}),
    "chargeback": (_chargeback, _PAYMENT),
    "chargeback_reverse": (_chargeback_reverse, _PAYMENT),
}
"""Action -> (its handler, its parameters besides COMMON)."""
