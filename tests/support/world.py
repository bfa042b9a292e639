"""What the simulator's tests start from: the example catalog or the demo's, a clock, a mint and a subscription."""

from __future__ import annotations

from random import Random

from pydantic import JsonValue

from gateway.dev.run import CATALOG as DEMO
from sync.billing.catalog import catalog
from sync.billing.catalog.watcher import EXAMPLE
from sync.simulator.world import actions, offers
from sync.simulator.world.ids import Mint
from sync.simulator.world.model import SECOND_US, Subscription, World
from sync.simulator.world.scene import Scene
from sync.simulator.world.turn import Outcome, Turn

CATALOG = catalog.load(EXAMPLE)
LIVE = offers.of(CATALOG, "live")
SANDBOX = offers.of(CATALOG, "sandbox")
START_US = 1_795_395_356 * SECOND_US + 406_607


class Play:
    """A world to act in, with a clock that moves a second at each action, unless `now_us` is set.

    `catalog`: what is sold.
    """

    catalog = CATALOG

    def __init__(self, seed: int = 1) -> None:
        self.world = World()
        self.now_us = START_US
        self.new_id = Mint(Random(seed))

    def do(self, action: str, tenant: str = "acme", env: str = "live", **params: JsonValue) -> Outcome:
        """Act, keep the new world, and let a second pass."""
        given = actions.read(action, {"tenant": tenant, **params})
        sold = offers.of_app(self.catalog, env, given.app or "", given.plan or given.addon or "")
        return self.keep(actions.act(action, Scene(self.turn(), sold, given)))

    def turn(self, now_us: int | None = None) -> Turn:
        """A working copy of the world, now or at another instant."""
        return Turn(self.world, self.now_us if now_us is None else now_us, self.new_id)

    def keep(self, outcome: Outcome) -> Outcome:
        self.world = outcome.world
        self.now_us += SECOND_US
        return outcome

    def current(self, subscription: Subscription) -> Subscription:
        """The subscription as it is now."""
        return self.world.subscriptions[subscription.id]

    def subscribed(self, plan: str = "pro", quantity: int = 1) -> Subscription:
        return self.do("upgrade", plan=plan, quantity=quantity).subscription


class Shop(Play):
    """A world that sells what the demo sells: two applications, and purchases."""

    catalog = catalog.load(DEMO)


def price_id(key: str) -> str:
    """The live price of a plan or an add-on."""
    offer = LIVE.plan(key) or LIVE.addon(key)
    assert offer is not None
    return offer.prices[0].id


def kinds(outcome: Outcome) -> list[str]:
    """What was told, without the family's name where it is the subscription's."""
    return [event.type.removeprefix("subscription.") for event in outcome.events]


def held(outcome: Outcome) -> dict[str, int]:
    """The subscription's lines: catalog name -> quantity."""
    return {item.price.name: item.quantity for item in outcome.subscription.items}
