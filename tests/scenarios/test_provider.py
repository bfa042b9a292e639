"""The provider is asked: missed changes are found, what is overdue is looked up, nobody writes over the newer."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from sync.billing.storage.environment import AUDIT_EVERY_S
from sync.core import instants
from sync.store.redis.connect import connect
from tests.support.system import TOPIC, Seller, System, run_system, selling
from tests.support.wait import until

HOUR_S = 3600


@pytest.fixture
async def seller(tmp_path: Path) -> AsyncIterator[Seller]:
    async with selling(tmp_path / "seller") as seller:
        yield seller


@asynccontextmanager
async def asking(store_url: str, directory: Path, seller: Seller, **settings: str) -> AsyncIterator[System]:
    """A system that can ask the provider."""
    async with run_system(store_url, directory, **seller.settings, **settings) as system:
        yield system


async def test_s15_when_a_cancellation_falls_due_the_provider_is_asked_and_its_webhook_has_no_second_effect(
    store_url: str, tmp_path: Path, seller: Seller
) -> None:
    """The provider acts at the instant, and its webhook is late: the state is right by then, from a fetch."""
    async with asking(store_url, tmp_path, seller) as system, system.working(), system.tab() as tab:
        await system.tell(seller.events((await seller.act("upgrade", plan="pro", ends_in_s=4))["event_ids"]))
        canceled = await seller.act("cancel")
        known = len(seller.events())  # before the provider's clock comes to the instant
        seller.clock(2)  # so that it has acted when our own clock comes to the instant
        await system.tell(seller.events(canceled["event_ids"]))
        await (await tab.until(lambda tab: tab.state and "scheduled" in tab.state)).fence()
        assert tab.plan == "pro"
        due_ns = instants.parse(tab.state["scheduled"]["effective_at"])
        fetched = seller.gate.fetched
        await tab.until(lambda tab: tab.plan == "free", timeout_s=15)
        assert time.time_ns() >= due_ns
        assert (tab.state["status"], tab.cause["source"]) == ("canceled", "timer")
        assert "pending" not in tab.state
        assert seller.gate.fetched > fetched
        late = seller.events()[known:]
        assert any(b"subscription.canceled" in body for body in late)
        shown = tab.state
        await system.tell(late)
        await tab.fence()
        assert tab.state == shown
        plans = [state["plan"]["key"] for _, state in tab.shown if state is not None]
        assert [plan for plan, _ in itertools.groupby(plans)] == ["pro", "free"]


async def test_s32_after_an_outage_every_missed_change_is_found_without_webhooks(
    store_url: str, tmp_path: Path, seller: Seller
) -> None:
    """Three days in which nothing was delivered: a change, an end, and a tenant nobody has heard of."""
    seller.clock(-3 * 24 * HOUR_S + 2 * HOUR_S)
    async with asking(store_url, tmp_path, seller) as system:
        for tenant in ("changed", "ended", "same"):
            await system.tell(seller.events((await seller.act("upgrade", tenant, plan="basic"))["event_ids"]))
    # Everything of ours is down. The provider gives up on its webhooks.
    seller.clock(-2 * 24 * HOUR_S)
    missed = [
        *(await seller.act("upgrade", "changed", plan="pro", quantity=4))["event_ids"],
        *(await seller.act("cancel", "ended", when="now"))["event_ids"],
        *(await seller.act("upgrade", "new", plan="pro", quantity=2))["event_ids"],
    ]
    seller.clock(0)
    async with asking(store_url, tmp_path, seller) as system, AsyncExitStack() as stack:
        names = ("changed", "ended", "same", "new")
        tabs = {name: await stack.enter_async_context(system.tab(f"tenant:{name}")) for name in names}
        same = (await system.read("tenant:same"))["version"]
        async with system.working():
            await tabs["changed"].until(lambda tab: tab.state and tab.state["limits"]["seats"] == 4, timeout_s=15)
            await tabs["ended"].until(lambda tab: tab.plan == "free", timeout_s=15)
            await tabs["new"].until(lambda tab: tab.plan == "pro", timeout_s=15)

            async def is_done() -> bool:
                found: int = (await system.ask("GET", "/v1/drift"))["counts"]["missed_event"]
                return found == len(missed)

            await until(is_done, 10)
        assert (await system.read("tenant:same"))["version"] == same
        # A webhook that comes after all changes nothing.
        for body in seller.events(missed):
            assert await system.outcome(body) == "duplicate"
        await tabs["changed"].fence()
        assert tabs["changed"].state["limits"]["seats"] == 4


async def test_s33_a_change_whose_event_the_destination_does_not_take_is_shown_as_drift_within_a_bound(
    store_url: str, tmp_path: Path, seller: Seller
) -> None:
    async with asking(store_url, tmp_path, seller) as system, system.tab() as tab:
        before = time.time()
        began = await seller.act("upgrade", plan="pro", quantity=2)
        await system.tell(seller.events(began["event_ids"]))
        await tab.until(lambda tab: tab.plan == "pro")
        # Within the bound it is compared whatever happens ...
        due: Any = await system.store.redis.zscore("pw:{audits/live}:due", TOPIC)
        assert before <= due / 1e6 <= time.time() + AUDIT_EVERY_S
        # ... at once when somebody asks for it ...
        await seller.act("downgrade", plan="basic")
        report = await system.ask("POST", "/v1/tenants/acme/reconcile")
        await tab.until(lambda tab: tab.plan == "basic")
        (record,) = (await system.ask("GET", "/v1/drift"))["drift"]
        assert (record["topic"], record["there"]) == (TOPIC, {"items": [["pri_basic", 2]]})
        assert report["drift"] == [record]
        # ... and when a page waits for it.
        await seller.act("upgrade", plan="scale")
        async with system.working():
            await tab.client.send("expect", topic=TOPIC, after=tab.version, timeout_ms=30_000)
            await tab.next("pending")
            await tab.until(lambda tab: tab.plan == "scale", timeout_s=15)

            async def both_counted() -> bool:
                counts = (await system.ask("GET", "/v1/drift"))["counts"]
                return bool(counts["differs"] == 2)

            await until(both_counted)  # the record follows the commit
        assert tab.cause["source"] == "reconcile"
        assert (await system.ask("POST", "/v1/tenants/acme/reconcile"))["drift"] == []


async def test_s50_a_fetch_that_began_before_a_newer_write_does_not_overwrite_it(
    store_url: str, tmp_path: Path, seller: Seller
) -> None:
    """Two reconcilers hold the provider's old answer in their hands when the webhook of the newer state comes."""
    async with (
        asking(store_url, tmp_path, seller) as first,
        asking(store_url, tmp_path, seller) as second,
        run_system(store_url, tmp_path) as keyless,
        keyless.tab() as tab,
    ):
        await keyless.tell(seller.events((await seller.act("upgrade", plan="basic"))["event_ids"]))
        await tab.until(lambda tab: tab.plan == "basic")
        seller.gate.close()
        both = asyncio.gather(*(each.ask("POST", "/v1/tenants/acme/reconcile") for each in (first, second)))
        await until(lambda: seller.gate.kept_back == 2)
        await keyless.tell(seller.events((await seller.act("upgrade", plan="pro"))["event_ids"]))
        await tab.until(lambda tab: tab.plan == "pro")
        seller.gate.open()
        reports = await both
        await tab.fence()
        assert tab.plan == "pro"
        assert [report["drift"] for report in reports] == [[], []]
        causes = [orjson.loads(entry.cause)["source"] for entry in await keyless.history()]
        assert set(causes) == {"paddle"}


async def test_s50_two_reconcilers_and_webhooks_at_once_end_at_the_provider_s_state(
    store_url: str, tmp_path: Path, seller: Seller
) -> None:
    async with (
        asking(store_url, tmp_path, seller) as first,
        asking(store_url, tmp_path, seller) as second,
        first.tab() as tab,
    ):
        await first.tell(seller.events((await seller.act("upgrade", plan="basic"))["event_ids"]))
        for number in range(6):
            plan = ("pro", "basic")[number % 2]
            action = ("upgrade", "downgrade")[number % 2]
            bodies = seller.events((await seller.act(action, plan=plan, quantity=number + 2))["event_ids"])
            await asyncio.gather(
                first.ask("POST", "/v1/tenants/acme/reconcile"),
                second.ask("POST", "/v1/tenants/acme/reconcile"),
                *(system.outcome(body) for system in (first, second) for body in bodies),
            )
            await tab.fence()
            assert await seller.price() == f"pri_{plan}"
            assert (tab.plan, tab.state["limits"]["seats"]) == (plan, number + 2)
        versions = [entry.version for entry in await first.history()]
        assert versions == sorted(versions, reverse=True)
        assert len(set(versions)) == len(versions)


async def test_s40_after_a_restore_the_provider_tells_what_the_backup_lacks(
    store_url: str, tmp_path: Path, seller: Seller
) -> None:
    """The whole store is lost, gateways included; the tab is reset, and its tenant is rebuilt from the provider."""
    async with asking(store_url, tmp_path, seller) as system, system.tab() as tab:
        await system.tell(seller.events((await seller.act("upgrade", plan="pro", quantity=3))["event_ids"]))
        await (await tab.until(lambda tab: tab.plan == "pro")).fence()
        held, state = tab.version, tab.state
    store = connect(store_url).store
    await store.redis.flushall()
    await store.aclose()
    async with (
        asking(store_url, tmp_path, seller) as system,
        system.working(),
        system.tab(held=held, state=state) as tab,
    ):
        await tab.until(lambda tab: tab.resets == 1)
        await tab.until(lambda tab: tab.plan == "pro", timeout_s=15)
        assert tab.state["limits"]["seats"] == 3
        assert tab.version > held
