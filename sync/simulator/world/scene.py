"""What a control action is decided on: its parameters, checked, and the tenant's subscription that is meant. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sync.simulator.world.errors import ControlError, invalid_parameter
from sync.simulator.world.model import Json, Subscription, World
from sync.simulator.world.moments import parse
from sync.simulator.world.offers import Offer, Offers
from sync.simulator.world.turn import NewId


@dataclass(frozen=True, slots=True)
class Params:
    """An action's parameters, read with a check each."""

    values: Mapping[str, Json]

    def text(self, name: str) -> str | None:
        """A non-empty string, or None where it is not given."""
        value = self.values.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            raise invalid_parameter(f"{name} must be a non-empty string")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise invalid_parameter(f"{name} must be true or false")
        return value

    def number(self, name: str, highest: int) -> int | None:
        """An integer from 1 to `highest`, or None where it is not given."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
            raise invalid_parameter(f"{name} must be an integer from 1 to {highest}")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        """One of `choices`; the first where it is not given."""
        value = self.text(name) or choices[0]
        if value not in choices:
            raise invalid_parameter(f"{name} must be one of: {', '.join(choices)}")
        return value

    def instant(self, name: str) -> int | None:
        """Microseconds since 1970 of an RFC 3339 time, or None where it is not given."""
        value = self.text(name)
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise invalid_parameter(f"{name} must be an RFC 3339 time such as 2026-12-01T00:00:00Z") from error


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
