"""The control vocabulary: what a person or a test can make happen to a tenant, in words of plans and add-ons. Pure.

Maps each action onto the provider's rules in `world`, and says what to do where an action makes no sense. HTTP is the
business of `app`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sync.core.errors import SyncError
from sync.simulator.world import rules
from sync.simulator.world.amounts import BillingMode
from sync.simulator.world.model import Json, Price, Subscription, World
from sync.simulator.world.moments import DAY_US, SECOND_US, parse
from sync.simulator.world.offers import Offer, Offers
from sync.simulator.world.rules import NewId, Order, Outcome, Patch

TRIAL_DAYS = 14
"""How long a trial is, when nothing else is asked for."""

TRIAL_DAYS_MAX = 365
ENDS_IN_S_MAX = 366 * 24 * 3600

_TENANT = re.compile(r"[A-Za-z0-9._~@-]{1,128}")

COMMON = frozenset({"tenant", "env", "subscription_id", "wait", "deliver"})
"""The parameters that every action takes."""


class ControlError(SyncError):
    """An action that cannot be done; `detail` says what to do instead. `code` is stable, `status` the HTTP status."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


def _invalid(detail: str) -> ControlError:
    return ControlError(400, "invalid_parameter", detail)


@dataclass(frozen=True, slots=True)
class Params:
    """An action's parameters, read with a check each."""

    values: Mapping[str, Json]

    def text(self, name: str) -> str | None:
        """A non-empty string, or None where it is not given."""
        value = self.values.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            raise _invalid(f"{name} must be a non-empty string")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise _invalid(f"{name} must be true or false")
        return value

    def number(self, name: str, highest: int) -> int | None:
        """An integer from 1 to `highest`, or None where it is not given."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
            raise _invalid(f"{name} must be an integer from 1 to {highest}")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of `choices`; the first where it is not given."""
        value = self.text(name) or choices[0]
        if value not in choices:
            raise _invalid(f"{name} must be one of: {', '.join(choices)}")
        return value

    def instant(self, name: str) -> int | None:
        """Microseconds since 1970 of an RFC 3339 time, or None where it is not given."""
        value = self.text(name)
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise _invalid(f"{name} must be an RFC 3339 time such as 2026-12-01T00:00:00Z") from error


@dataclass(frozen=True, slots=True)
class Scene:
    """All that an action is decided on."""

    world: World
    offers: Offers
    tenant: str
    params: Params
    now_us: int
    new_id: NewId

    def live(self) -> Subscription | None:
        """The subscription meant: the one named, else the tenant's newest live one, one with a plan before others."""
        named = self.params.text("subscription_id")
        mine = [
            sub
            for sub in self.world.subscriptions.values()
            if sub.tenant == self.tenant and sub.env == self.offers.env and (sub.is_live or sub.id == named)
        ]
        if named is not None:
            found = next((sub for sub in mine if sub.id == named), None)
            if found is None:
                raise ControlError(404, "no_subscription", f"tenant {self.tenant} has no subscription {named}")
            return found
        plans = self.offers.plan_price_ids
        return max(mine, key=lambda sub: (sub.item(plans) is not None, sub.created_us), default=None)

    def subscription(self) -> Subscription:
        """As `live`, where there has to be one."""
        found = self.live()
        if found is None:
            raise ControlError(
                409,
                "no_subscription",
                f"tenant {self.tenant} has no live subscription in {self.offers.env}; start one with upgrade or trial",
            )
        return found

    def plan_of(self, subscription: Subscription) -> Offer | None:
        """The plan that a subscription holds, or None where it holds add-ons only."""
        item = subscription.item(self.offers.plan_price_ids)
        return None if item is None else self.offers.plan_of_price(item.price.id)


def act(action: str, scene: Scene) -> Outcome:
    """The outcome of a control action.

    Raises:
        ControlError: there is no such action, a parameter is wrong, or it makes no sense as things are.
        Refusal: the provider does not do it.
    """
    if not _TENANT.fullmatch(scene.tenant):
        raise _invalid("tenant must be 1 to 128 of the characters A-Z a-z 0-9 . _ ~ @ -")
    handler, allowed = _known(action)
    unknown = sorted(set(scene.params.values) - COMMON - allowed)
    if unknown:
        takes = ", ".join(sorted(COMMON | allowed))
        raise _invalid(f"{action} takes no parameter {unknown[0]}; it takes: {takes}")
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
    quantity = scene.params.number("quantity", rules.QUANTITY_MAX)
    if quantity is None:
        raise _invalid("seats needs a quantity")
    current = scene.subscription()
    plan = current.item(scene.offers.plan_price_ids)
    if plan is None:
        raise ControlError(409, "no_plan", f"subscription {current.id} holds no plan to have seats of")
    lines = tuple((item.price, quantity if item.price.id == plan.price.id else item.quantity) for item in current.items)
    return _update_lines(scene, current, lines)


def _addon(scene: Scene) -> Outcome:
    addon = _addon_offer(scene)
    quantity = scene.params.number("quantity", rules.QUANTITY_MAX) or 1
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
        raise _invalid("period needs ends_in_s: in how many seconds the current period ends")
    ends_us = scene.now_us + ends_in_s * SECOND_US
    return rules.move_end(scene.world, scene.subscription().id, ends_us, scene.now_us, scene.new_id)


def _plainly(transition: Callable[[World, str, int, NewId], Outcome]) -> Handler:
    """The handler that applies a transition which needs nothing but the subscription."""
    return lambda scene: transition(scene.world, scene.subscription().id, scene.now_us, scene.new_id)


def _swap(scene: Scene, current: Subscription, plan: Offer) -> Outcome:
    """The plan's line replaced, everything else kept; the number of seats too, unless another is asked for."""
    held = current.item(scene.offers.plan_price_ids)
    quantity = scene.params.number("quantity", rules.QUANTITY_MAX) or (held.quantity if held else 1)
    others = tuple((item.price, item.quantity) for item in current.items if item is not held)
    return _update_lines(scene, current, ((_sold(scene, plan).prices[0], quantity), *others))


def _update_lines(scene: Scene, current: Subscription, lines: tuple[tuple[Price, int], ...]) -> Outcome:
    mode: BillingMode = "do_not_bill" if current.status in ("trialing", "paused") else "prorated_immediately"
    return rules.update(scene.world, current.id, Patch(lines=lines, mode=mode), scene.now_us, scene.new_id)


def _order(scene: Scene, plan: Offer, trial_us: int | None) -> Order:
    quantity = scene.params.number("quantity", rules.QUANTITY_MAX) or 1
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
        raise _invalid(f"addon must name an add-on of the catalog; it has: {known}")
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
