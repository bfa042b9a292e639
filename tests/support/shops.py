"""Shops whose webhooks never come: Paddle and Stripe with the cases' catalog, and what each was asked by its API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cases import CATALOG
from tests.support.stripe import KEY, account
from tests.support.system import selling

LISTS = ("GET /subscriptions", "GET /v1/subscriptions")


@dataclass
class Shop:
    """A provider.

    Attributes:
        settings: what a system needs to ask it.
        asked: method and path, with its query, of every call so far.
        buy: makes a subscription of a tenant (its metadata names it, unless `named` is False) to a plan.
        change: changes the plan of the tenant's subscription.
    """

    settings: dict[str, str]
    asked: list[str]
    buy: Callable[..., Awaitable[str]]
    change: Callable[[str, str], Awaitable[object]]

    @property
    def lists(self) -> list[str]:
        """The calls that list subscriptions."""
        return [call for call in self.asked if call.partition("?")[0] in LISTS]


@asynccontextmanager
async def paddle(directory: Path) -> AsyncIterator[Shop]:
    """Paddle, by the local simulator."""
    async with selling(directory / "seller", CATALOG) as seller:

        async def buy(tenant: str, plan: str = "pro", *, named: bool = True) -> str:
            event_ids = (await seller.act("upgrade", tenant, plan=plan, linked=named))["event_ids"]
            events = [event for event in seller.provider.world.events if event.id in event_ids]
            return next(event.data.id for event in events if event.type == "transaction.completed")

        async def change(tenant: str, plan: str) -> Any:
            return await seller.act("upgrade", tenant, plan=plan)

        yield Shop(seller.settings, seller.gate.asked, buy, change)


@asynccontextmanager
async def stripe(directory: Path) -> AsyncIterator[Shop]:
    """Stripe."""
    async with account() as stripe:

        async def buy(tenant: str, plan: str = "pro", *, named: bool = True) -> str:
            return stripe.add(tenant if named else None, f"price_{plan}_live")

        async def change(tenant: str, plan: str) -> None:
            for body in stripe.subscriptions.values():
                if body["metadata"].get("tenant_id") == tenant:
                    body["items"]["data"][0]["price"]["id"] = f"price_{plan}_live"

        settings = {"STRIPE_API_KEYS": f"live:{KEY}", "STRIPE_API_URL": stripe.url, "STRIPE_API_RATE_PER_S": "1000"}
        yield Shop(settings, stripe.asked, buy, change)
