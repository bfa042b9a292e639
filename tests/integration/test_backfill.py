"""`planwire backfill`: pages of real HTTP servers into the real store, killed, stopped, throttled and overtaken."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from planwire_client.core.commit import BILLING
from sync import bootstrap
from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.domain.facts.instructions import Override
from sync.billing.domain.facts.model import Facts
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from sync.billing.providers.paddle import client as paddle_client
from sync.billing.providers.paddle.webhooks import PaddleWebhooks as PaddleAdapter
from sync.billing.providers.rate_limit import LocalRateLimiter, RedisRateLimiter
from sync.billing.providers.stripe.webhooks import StripeWebhooks as Adapter
from sync.billing.services.background import backfill
from sync.billing.services.background.backfill import Backfill, BackfillError, Report
from sync.billing.services.reproject import Refresh
from sync.billing.services.wiring import BillingServices
from sync.core.errors import SyncError
from sync.settings import SyncSettings
from sync.store.models import Change, StoreError
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support.inbox import take_up
from tests.support.paddle import simulating
from tests.support.processes import clean_environ
from tests.support.stripe import KEY, Stripe, account, catalog
from tests.support.wait import until


class Screen:
    """What a run tells."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int | None]] = []
        self.advanced = 0
        self.waits: list[tuple[float, str]] = []

    def begin(self, seen: int, total: int | None) -> None:
        self.begun.append((seen, total))

    def advance(self) -> None:
        self.advanced += 1

    def wait(self, seconds: float, reason: str) -> None:
        self.waits.append((seconds, reason))


@pytest.fixture
async def stripe() -> AsyncIterator[Stripe]:
    async with account() as stripe:
        stripe.page_max = 3
        yield stripe


@pytest.fixture
async def services(stripe: Stripe, store: Store, tmp_path: Path) -> AsyncIterator[BillingServices]:
    api = stripe.api()
    yield BillingServices(store, CatalogWatcher(catalog(tmp_path)), {"stripe": Adapter()}, {("stripe", "live"): api})
    await api.aclose()


async def fill(services: BillingServices, provider: str = "stripe", **options: Any) -> Report:
    return await Backfill(services, provider, "live", Screen()).run(**options)


async def state(store: Store, tenant: str) -> Any:
    return orjson.loads((await store.read(f"tenant:{tenant}")).state)


async def dump(store: Store) -> dict[bytes, bytes]:
    """Every key and all that is in it."""
    redis: Any = store.redis
    return {key: await redis.dump(key) async for key in redis.scan_iter(count=1_000)}


def told(report: Report) -> dict[str, object]:
    """What two runs that did the same have in common."""
    return {
        name: value
        for name, value in report.shown().items()
        if name not in ("dry_run", "seconds", "drift_records", "resumed")
    }


async def mixed(stripe: Stripe, services: BillingServices) -> None:
    """Customers of every kind: known and unknown, linked and not, sold and not; one tenant was erased."""
    reprojection = services.reprojection
    known = stripe.add("known")
    same = stripe.add("same")
    for event in stripe.happened:
        await services.ingest.receive(services.adapters["stripe"], orjson.dumps(event), "live")
    stripe.change(known, status="past_due")
    stripe.change(same)
    # A second subscription of the same customer, which names no tenant: the first one tells, and comes later.
    stripe.add("joint", customer="cus_joint")
    stripe.add(None, customer="cus_joint", price="price_audit")
    stripe.add("two", price="price_basic")
    stripe.add("two", price="price_audit", quantity=2)
    stripe.add(None)
    stripe.add("nothing-sold", price="price_nobody_knows")
    stripe.add("odd", status="quantum")
    stripe.add("broken", customer=5)
    stripe.add("undefined")
    gone = stripe.add("gone")
    stripe.subscriptions[gone]["status"] = "canceled"
    stripe.add("known", price="price_audit")

    def grant(facts: Any) -> Any:
        return replace(facts, overrides=(Override("feature", "sso", True, "promised"),))

    await reprojection.refresh("live", "tenant:granted", Refresh({"source": "operator"}, change=grant))
    stripe.add("granted", price="price_basic")
    erased = Refresh({"source": "operator"}, change=lambda _: Facts(erased_ns=1))
    await reprojection.refresh("live", "tenant:erased", erased)
    stripe.add("erased")


async def test_a_customer_names_the_tenant_of_subscriptions_that_do_not(
    stripe: Stripe, services: BillingServices, store: Store
) -> None:
    stripe.add(None, customer="cus_named")
    stripe.add(None, customer="cus_other")
    stripe.customers = {"cus_named": {"tenantId": "auth0|5f"}, "cus_other": {"tenant_id": "undefined"}}
    rehearsed = await fill(services, dry_run=True)
    report = await fill(services)
    assert told(rehearsed) == told(report)
    assert (len(report.parked), report.tenants_made) == (1, 1)
    assert (await store.versions(["tenant:auth0%7C5f"]))[0] > 0


async def test_a_dry_run_tells_what_a_run_does_and_writes_nothing(
    stripe: Stripe, services: BillingServices, store: Store
) -> None:
    await mixed(stripe, services)
    before = await dump(store)
    rehearsed = await fill(services, dry_run=True)
    assert await dump(store) == before
    report = await fill(services)
    assert told(rehearsed) == told(report)
    assert (report.seen, report.unchanged, report.tenants_made, report.drift, report.complete) == (15, 1, 3, 3, True)
    reasons = " | ".join(sorted(report.parked.values()))
    assert len(report.parked) == 6
    for reason in (
        "no tenant is known",
        "unknown price price_nobody_knows in live",
        "unknown status 'quantum'",
        "customer is not an id",
        "pays again: revive it",
    ):
        assert reason in reasons
    kinds = sorted((drift.kind, drift.topic) for drift in report.records)
    assert kinds == [("differs", "tenant:known"), ("unknown_here", "tenant:granted"), ("unknown_here", "tenant:known")]
    assert sorted((drift.kind, drift.topic) for drift in rehearsed.records) == kinds
    assert (await state(store, "joint"))["features"] == {"audit": True, **(await state(store, "same"))["features"]}
    assert (await state(store, "known"))["status"] == "past_due"
    assert (await state(store, "granted"))["features"]["sso"]
    assert (await state(store, "gone"))["status"] == "canceled"
    drifts = await services.environment("live").drifts.counts()
    assert (drifts["differs"], drifts["unknown_here"]) == (1, 2)

    versions = {key: value for key, value in (await dump(store)).items() if key.endswith(b":snap")}
    again = await fill(services)
    assert (again.seen, again.unchanged, again.tenants_made, again.drift) == (15, 9, 0, 0)
    assert again.parked.keys() == report.parked.keys()
    assert {key: value for key, value in (await dump(store)).items() if key.endswith(b":snap")} == versions


async def test_what_was_parked_is_taken_when_its_cause_is_gone(
    stripe: Stripe, services: BillingServices, store: Store, tmp_path: Path
) -> None:
    subscription_id = stripe.add("acme", price="price_new")
    report = await fill(services)
    assert list(report.parked.values()) == ["unknown price price_new in live"]
    stripe.subscriptions[subscription_id]["items"]["data"][0]["quantity"] = 5
    path = tmp_path / "stripe.toml"
    path.write_text(path.read_text().replace('"price_pro"', '"price_pro", "price_new"'))
    await services.environment("live").inbox.reopen("catalog")
    record = await take_up(services.environment("live").inbox)
    assert (await services.ingest.resume(record, "live")).outcome == "applied"
    # Asked again: what was listed days ago is not what is applied.
    assert (await state(store, "acme"))["limits"]["seats"] == 5


async def test_a_webhook_that_comes_meanwhile_wins(stripe: Stripe, services: BillingServices, store: Store) -> None:
    subscription_id = stripe.add("acme", quantity=2)
    stripe.add("other")
    answered, let_go = asyncio.Event(), asyncio.Event()

    async def hold(path: str) -> None:
        if path == "/v1/subscriptions":
            answered.set()
            await let_go.wait()

    stripe.before_answer = hold
    run = asyncio.create_task(fill(services))
    await answered.wait()
    stripe.subscriptions[subscription_id]["items"]["data"][0]["quantity"] = 9
    event = stripe.happen("updated", subscription_id)
    await services.ingest.receive(services.adapters["stripe"], orjson.dumps(event), "live")
    let_go.set()
    report = await run
    assert (report.tenants_made, report.unchanged, report.drift) == (1, 1, 0)
    assert [orjson.loads(entry.state)["limits"]["seats"] for entry in await store.log("tenant:acme")] == [9]


async def test_it_waits_as_long_as_it_is_told(
    stripe: Stripe, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        stripe.add(f"t{index}")
    monkeypatch.setattr(backfill, "BACKOFF_S", 0.01)
    api = stripe.api(RedisRateLimiter(store, "stripe", "live", 1_000))
    services = BillingServices(
        store, CatalogWatcher(catalog(tmp_path)), {"stripe": Adapter()}, {("stripe", "live"): api}
    )
    stripe.throttled, stripe.retry_after = 1, "1"
    screen = Screen()
    began = time.monotonic()
    report = await Backfill(services, "stripe", "live", screen).run()
    assert time.monotonic() - began >= 1
    assert (report.tenants_made, report.complete) == (4, True)
    assert "asked too often" in screen.waits[0][1]
    assert len(stripe.asked) == 3
    stripe.failing = 99
    monkeypatch.setattr(backfill, "BACKOFF_MAX_S", 0.01)
    monkeypatch.setattr("sync.billing.providers.api_client.AWAY_S", 0.01)
    with pytest.raises(ProviderUnavailable):
        await Backfill(services, "stripe", "live", screen).run()
    assert len(stripe.asked) >= 3 + 2
    await api.aclose()


async def test_a_limit_a_stop_and_a_restart(stripe: Stripe, services: BillingServices, store: Store) -> None:
    for index in range(8):
        stripe.add(f"t{index}")
    first = await fill(services, limit=4)
    assert (first.seen, first.tenants_made, first.complete, first.resumed) == (4, 4, False, False)
    second = await fill(services, limit=2)
    assert (second.seen, second.tenants_made, second.complete, second.resumed) == (6, 6, False, True)
    run = Backfill(services, "stripe", "live", Screen())
    run.stop()
    stopped = await run.run()
    assert (stopped.seen, stopped.complete) == (6, False)
    rehearsed = await fill(services, dry_run=True)
    assert (rehearsed.seen, rehearsed.unchanged) == (8, 6)
    last = await fill(services)
    assert (last.seen, last.tenants_made, last.complete) == (8, 8, True)
    assert [key async for key in store.redis.scan_iter("pw:{backfill/*")] == []
    await fill(services, limit=1)
    restarted = await fill(services, restart=True)
    assert (restarted.seen, restarted.unchanged, restarted.resumed) == (8, 8, False)


async def test_one_at_a_time(stripe: Stripe, services: BillingServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "LEASE_S", 1.0)
    stripe.add()
    held = asyncio.Event()

    async def hold(path: str) -> None:
        await held.wait()

    stripe.before_answer = hold
    first = asyncio.create_task(fill(services))
    await until(lambda: stripe.asked)
    with pytest.raises(BackfillError, match="is at work"):
        async with asyncio.timeout(30):
            await fill(services)
    held.set()
    assert (await first).complete


async def test_a_place_that_the_provider_has_forgotten(stripe: Stripe, services: BillingServices) -> None:
    for index in range(4):
        stripe.add(f"t{index}")
    await fill(services, limit=1)
    del stripe.subscriptions["sub_000007"]
    with pytest.raises(ProviderRejected, match="not_found"):
        await fill(services)
    assert (await fill(services, restart=True)).complete


async def test_paddle(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with the simulator as the provider: four pages, one tenant known, one known to be newer."""
    monkeypatch.setattr(paddle_client, "SUBSCRIPTIONS_PER_PAGE", 2)
    async with simulating(tmp_path) as paddle:
        for index in range(7):
            await paddle.act("upgrade", tenant=f"t{index}", plan="pro", quantity=index + 1)
        api = paddle.api(LocalRateLimiter(1_000, 1_000))
        services = BillingServices(
            store, CatalogWatcher(EXAMPLE), {"paddle": PaddleAdapter()}, {("paddle", "live"): api}
        )
        events = [body for body in await paddle.events() if b"subscription.created" in body]
        for body in events[:2]:
            await services.ingest.receive(services.adapters["paddle"], body, "live")
        await paddle.act("seats", tenant="t0", quantity=50)
        screen = Screen()
        rehearsed = await Backfill(services, "paddle", "live", screen).run(dry_run=True)
        report = await fill(services, "paddle")
        assert told(rehearsed) == told(report)
        assert (report.seen, report.unchanged, report.tenants_made, report.drift) == (7, 1, 5, 1)
        assert screen.begun == [(0, 7)]
        assert screen.advanced == 7
        seats = [(await state(store, f"t{index}"))["limits"]["seats"] for index in range(7)]
        assert seats == [50, 2, 3, 4, 5, 6, 7]
        await api.aclose()


class Cli:
    """One run of the command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def end(self) -> tuple[int, str, str]:
        """Its exit status and output."""
        out, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), errors.decode()


@asynccontextmanager
async def command(environ: dict[str, str], *arguments: str) -> AsyncIterator[Cli]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway.cli", "backfill", *arguments),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Cli(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class TestCommand:
    """A process of its own."""

    @pytest.fixture
    def environ(self, stripe: Stripe, store_url: str, tmp_path: Path) -> dict[str, str]:
        return clean_environ(
            tmp_path,
            PLANWIRE_REDIS_URL=store_url,
            PLANWIRE_CATALOG=str(catalog(tmp_path)),
            PLANWIRE_STRIPE_API_KEYS=f"live:{KEY}",
            PLANWIRE_STRIPE_API_URL=stripe.url,
            PLANWIRE_STRIPE_API_RATE_PER_S="1000",
        )

    async def test_killed_and_stopped_it_goes_on_and_makes_each_tenant_once(
        self, stripe: Stripe, store: Store, environ: dict[str, str]
    ) -> None:
        tenants = [f"t{index}" for index in range(20)]
        for tenant in tenants:
            stripe.add(tenant)
        pages, held_at, let_go = 0, 3, asyncio.Event()

        async def hold(path: str) -> None:
            nonlocal pages
            pages += 1
            if pages == held_at:
                await let_go.wait()

        stripe.before_answer = hold
        async with command(environ, "stripe") as cli:
            await until(lambda: pages == 3, timeout_s=30)
            cli.process.send_signal(signal.SIGKILL)
            await cli.process.wait()
        assert [(await store.read(f"tenant:{tenant}")).version > 0 for tenant in tenants] == [False] * 14 + [True] * 6

        held_at = 6
        async with command(environ, "stripe", "--json") as cli:
            await until(lambda: pages == 6, timeout_s=30)
            cli.process.send_signal(signal.SIGINT)
            status, out, errors = await cli.end()
        stopped = json.loads(out)
        assert (status, stopped["complete"], stopped["resumed"], stopped["subscriptions"]) == (130, False, True, 12)
        assert "run the same command again to resume" in errors

        held_at = 0
        async with command(environ, "stripe", "--json") as cli:
            status, out, errors = await cli.end()
        report = json.loads(out)
        assert (status, errors) == (0, "")
        assert (report["subscriptions"], report["tenants_made"], report["complete"]) == (20, 20, True)
        assert [len(await store.log(f"tenant:{tenant}")) for tenant in tenants] == [1] * 20
        let_go.set()

    async def test_killed_between_two_steps_of_one_subscription(
        self, stripe: Stripe, services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Committed, and not yet noted: taken once more it is unchanged, and its tenant is counted all the same."""
        for index in range(3):
            stripe.add(f"t{index}")

        async def die(*_: Any, **__: Any) -> None:
            raise KeyError

        with monkeypatch.context() as patch:
            patch.setattr("sync.billing.storage.backfill_progress.BackfillProgress.move", die)
            with pytest.raises(KeyError):
                await fill(services)
        report = await fill(services)
        assert (report.seen, report.tenants_made, report.drift) == (3, 3, 0)
        assert [len(await store.log(f"tenant:t{index}")) for index in range(3)] == [1, 1, 1]

    async def test_what_it_says(self, stripe: Stripe, store: Store, environ: dict[str, str]) -> None:
        stripe.add("acme")
        for _ in range(5):
            stripe.add(None)
        wrong = environ | {"PLANWIRE_STRIPE_API_KEYS": "live:sk_live_wrong"}
        async with (
            command(environ, "stripe", "--dry-run") as dry,
            command(environ, "paddle") as keyless,
            command(wrong, "stripe", "--dry-run") as refused,
        ):
            status, out, errors = await dry.end()
            assert (status, errors) == (0, "")
            assert out.startswith("stripe live: a dry run: nothing was written")
            assert "tenants made          1" in out
            assert "parked 5: no tenant is known: metadata has no tenant_id or tenantId: set it" in out
            assert "and 2 more)" in out
            status, out, errors = await keyless.end()
            assert (status, out, errors.count("\n")) == (2, "", 1)
            assert "set PLANWIRE_PADDLE_API_KEYS=live:KEY" in errors
            refusal = "planwire: stripe refused: invalid_request_error: Invalid API Key provided\n"
            assert await refused.end() == (1, "", refusal)
            assert await store.redis.dbsize() == 0


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"PLANWIRE_STRIPE_API_KEYS": "live:k"}, "PLANWIRE_CATALOG must be set"),
        ({"PLANWIRE_STRIPE_API_KEYS": "test:k,demo:l", "PLANWIRE_CATALOG": "x"}, "there are keys for test, demo"),
        ({"PLANWIRE_STRIPE_API_KEYS": "live:k", "PLANWIRE_CATALOG": "/nowhere.toml"}, "nowhere"),
    ],
)
async def test_it_does_not_begin_with_half_of_the_settings(environ: dict[str, str], problem: str) -> None:
    environ |= {"PLANWIRE_REDIS_URL": "redis://127.0.0.1:1"}
    with pytest.raises(SyncError, match=problem):
        async with bootstrap.open_backfill(SyncSettings.from_env(environ), "stripe", "live", dry_run=True):
            pass


async def test_a_store_that_is_away_is_a_failure(services: BillingServices, stripe: Stripe) -> None:
    away = connect("redis://127.0.0.1:1").store
    api = stripe.api()
    lost = BillingServices(away, services.catalog_watcher, services.adapters, {("stripe", "live"): api})
    with pytest.raises(StoreError):
        await fill(lost)
    await api.aclose()
    await away.aclose()


async def test_what_a_newer_build_stores_is_left_alone(stripe: Stripe, services: BillingServices, store: Store) -> None:
    await store.commit(Change("tenant:acme", b'{"mine":true}', b"not facts", owner=BILLING))
    stripe.add("acme")
    report = await fill(services)
    assert "this build cannot read" in next(iter(report.parked.values()))
    assert await state(store, "acme") == {"mine": True}
