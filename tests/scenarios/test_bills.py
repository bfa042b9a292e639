"""Bills that no webhook has brought: compared at the catch-up, and asked for before one is called missing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.providers.base import ProviderClient
from sync.billing.providers.paddle.client import PaddleClient
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.billing.providers.rate_limit import LocalRateLimiter
from sync.billing.providers.stripe.webhooks import StripeWebhooks
from sync.billing.services.background.catch_up import CatchUp
from sync.billing.services.wiring import BillingServices
from sync.simulator.world.model import Transaction
from tests.support.cases import post_stripe, run_cases
from tests.support.services import fire_now
from tests.support.stripe import KEY, Stripe, account
from tests.support.system import API_KEY, Seller, System, run_system, selling

PATH = "/v1/tenants/acme/preview"
DAY_NS = 86_400 * 10**9


class Account:
    """A provider's account behind a system: a change that is quoted and made, and no webhook of it."""

    provider = ""

    def __init__(self, system: System, client: ProviderClient) -> None:
        """Ask the account by `client`."""
        self.system, self.client, self.ahead_ns = system, client, 0
        adapters: Any = {"paddle": PaddleWebhooks(), "stripe": StripeWebhooks()}
        self.services = BillingServices(
            system.store,
            CatalogWatcher(system.catalog),
            adapters,
            {(self.provider, "live"): client},
            now_ns=lambda: time.time_ns() + self.ahead_ns,
        )

    async def change(self) -> Any:
        """Preview a change, confirm it, and return what was quoted."""
        change = {"plan": "pro", "quantity": 700, "ask_provider": True}
        quoted = await self.system.ask("POST", PATH, change)
        self.dearer()
        await self.system.ask("POST", f"{PATH}/{quoted['preview_id']}/confirm", {"apply": True})
        return quoted

    def dearer(self) -> None:
        """Have the next bill differ from its quote, if it is to differ."""

    def forget(self) -> None:
        """Have no bills."""

    async def catch_up(self) -> None:
        """Read the provider's events, and process what no webhook has brought."""
        await CatchUp(self.services, self.provider, "live", self.client).run(0)
        inbox = self.services.environment("live").inbox
        while claims := await inbox.claim(10):
            for claim in claims:
                record = await inbox.begin(claim)
                assert record is not None
                await self.services.ingest.resume(record, "live")

    async def pass_days(self, days: int) -> None:
        """Fire the tenant's timer so many days later."""
        self.ahead_ns = days * DAY_NS
        await fire_now(self.services)

    async def records(self) -> list[Any]:
        """The drift records of money."""
        found = (await self.system.ask("GET", "/v1/drift"))["drift"]
        return [record for record in found if record["kind"] == "money"]


class Paddle(Account):
    """The simulator's."""

    provider = "paddle"

    def __init__(self, system: System, seller: Seller, differs: bool) -> None:
        """Sell by `seller`; with `differs`, half an hour passes between a quote and its confirmation."""
        client = PaddleClient("live", API_KEY, seller.url, LocalRateLimiter(1_000, 1_000))
        super().__init__(system, client)
        self.seller, self.differs = seller, differs

    def dearer(self) -> None:
        """Bill a shorter part of the period."""
        self.seller.clock(1_800 if self.differs else 0)

    def forget(self) -> None:
        """Have no transactions."""
        world = self.seller.provider.world
        kept = tuple(event for event in world.events if not isinstance(event.data, Transaction))
        self.seller.provider.world = replace(world, events=kept)


class StripeAccount(Account):
    """The small Stripe's."""

    provider = "stripe"

    def __init__(self, system: System, stripe: Stripe, differs: bool) -> None:
        """Bill a unit more, if it `differs`."""
        super().__init__(system, stripe.api())
        self.stripe, self.differs = stripe, differs

    async def change(self) -> Any:
        """Change, and bill otherwise than quoted if it differs."""
        quoted = await super().change()
        for event in self.stripe.billed if self.differs else ():
            event["data"]["object"]["amount_due"] = quoted["money"]["due_now"] + 1
        return quoted

    def forget(self) -> None:
        """Have no invoices."""
        self.stripe.billed.clear()


@asynccontextmanager
async def account_of(name: str, store_url: str, path: Path, differs: bool) -> AsyncIterator[Account]:
    """An account with a subscription of the tenant `acme`."""
    if name == "paddle":
        async with selling(path / "seller") as seller, run_system(store_url, path, **seller.settings) as system:
            await system.tell(seller.events((await seller.act("upgrade", plan="basic", quantity=500))["event_ids"]))
            paddle = Paddle(system, seller, differs)
            yield paddle
            await paddle.client.aclose()
        return
    async with account() as stripe:
        keys = {"STRIPE_API_KEYS": f"live:{KEY}", "STRIPE_API_URL": stripe.url, "STRIPE_API_RATE_PER_S": "1000"}
        async with run_cases(store_url, path, **keys) as system:
            stripe.add("acme", "price_basic_live", 500)
            await post_stripe(system, stripe.happened[0])
            found = StripeAccount(system, stripe, differs)
            yield found
            await found.client.aclose()


@pytest.fixture(params=["paddle", "stripe"])
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("differs", [False, True])
async def test_s98_a_bill_that_no_webhook_has_brought_is_compared_at_the_catch_up(
    store_url: str, tmp_path: Path, provider: str, differs: bool
) -> None:
    async with account_of(provider, store_url, tmp_path, differs) as account:
        quoted = await account.change()
        await account.catch_up()
        found = await account.records()
        assert len(found) == int(differs)
        if differs:
            assert found[0]["subject"] == quoted["preview_id"]
            assert found[0]["here"]["due_now"] == quoted["money"]["due_now"] != found[0]["there"]["due_now"]
        await account.pass_days(2)
        assert len(await account.records()) == int(differs)


@pytest.mark.parametrize("differs", [False, True])
async def test_s98_the_provider_is_asked_before_a_bill_is_called_missing(
    store_url: str, tmp_path: Path, provider: str, differs: bool
) -> None:
    async with account_of(provider, store_url, tmp_path, differs) as account:
        await account.change()
        await account.pass_days(2)
        assert [record["why"].partition(" as ")[0] for record in await account.records()] == ["change billed"] * differs
        await account.catch_up()
        assert len(await account.records()) == int(differs)


async def test_s98_a_quoted_charge_that_is_never_billed_is_drift_once(
    store_url: str, tmp_path: Path, provider: str
) -> None:
    async with account_of(provider, store_url, tmp_path, False) as account:
        quoted = await account.change()
        account.forget()
        await account.pass_days(2)
        await account.pass_days(3)
        (record,) = await account.records()
        assert (record["subject"], record["topic"]) == (quoted["preview_id"], "tenant:acme")
        assert record["why"] == "change not billed: no bill of it has arrived"
        money = quoted["money"]
        assert record["here"] == {"currency": money["currency"], "due_now": money["due_now"]}
        assert (await account.system.ask("GET", "/v1/drift"))["counts"]["money"] == 1
