"""Shops whose webhooks never come: Paddle and Stripe with the cases' catalog, and what each was asked by its API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sync.simulator.world.model import Transaction
from tests.support.cases import CATALOG, post_stripe
from tests.support.stripe import KEY, account
from tests.support.system import System, selling

LISTS = ("GET /subscriptions", "GET /v1/subscriptions")


@dataclass
class Shop:
    """A provider.

    Attributes:
        settings: what a system needs to ask it.
        asked: method and path, with its query, of every call so far.
        buy: makes a subscription of a tenant to a plan; `by` says what names the tenant: `subscription`, `checkout` or
            neither. Returns the checkout's id.
        change: changes the plan of a tenant's subscription.
        deliver: sends a system the webhooks of all that has happened; each is answered 200.
    """

    settings: dict[str, str]
    asked: list[str]
    buy: Callable[..., Awaitable[str]]
    change: Callable[[str, str], Awaitable[object]]
    deliver: Callable[[System], Awaitable[object]]

    @property
    def calls(self) -> list[str]:
        """The calls without those of the catch-up, which nobody causes."""
        return [call for call in self.asked if "/events" not in call]

    @property
    def lists(self) -> list[str]:
        """The calls that list subscriptions."""
        return [call for call in self.asked if call.partition("?")[0] in LISTS]


@asynccontextmanager
async def paddle(directory: Path) -> AsyncIterator[Shop]:
    """Paddle, by the local simulator."""
    async with selling(directory / "seller", CATALOG) as seller:

        async def buy(tenant: str, plan: str = "pro", *, by: str = "subscription") -> str:
            acted = await seller.act("upgrade", tenant, plan=plan, linked=by == "subscription")
            world = seller.provider.world
            (paid,) = [
                event.data
                for event in world.events
                if event.id in acted["event_ids"] and isinstance(event.data, Transaction)
            ]
            named = replace(paid, custom_data={"tenant_id": tenant} if by == "checkout" else paid.custom_data)
            events = tuple(replace(event, data=named) if event.data == paid else event for event in world.events)
            seller.provider.world = replace(world, events=events)
            return paid.id

        async def change(tenant: str, plan: str) -> Any:
            return await seller.act("upgrade", tenant, plan=plan)

        async def deliver(system: System) -> None:
            await system.tell(seller.events())

        yield Shop(seller.settings, seller.gate.asked, buy, change, deliver)


@asynccontextmanager
async def stripe(directory: Path) -> AsyncIterator[Shop]:
    """Stripe."""
    async with account() as stripe:
        made: dict[str, str] = {}

        async def buy(tenant: str, plan: str = "pro", *, by: str = "subscription") -> str:
            named = tenant if by == "subscription" else None
            made[tenant] = stripe.add(named, f"price_{plan}_live")
            return stripe.add_session(made[tenant], client_reference_id=tenant if by == "checkout" else None)

        async def change(tenant: str, plan: str) -> None:
            stripe.subscriptions[made[tenant]]["items"]["data"][0]["price"]["id"] = f"price_{plan}_live"

        async def deliver(system: System) -> None:
            for event in stripe.happened:
                assert (await post_stripe(system, event)).status_code == 200

        settings = {"STRIPE_API_KEYS": f"live:{KEY}", "STRIPE_API_URL": stripe.url, "STRIPE_API_RATE_PER_S": "1000"}
        yield Shop(settings, stripe.asked, buy, change, deliver)
