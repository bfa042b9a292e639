"""The worker: what happens without a webhook, exactly once however many of them there are."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.facts.model import Event, Unparsable
from sync.billing.domain.outcome import WAITS_CATALOG, EventResult, Outcome
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.billing.services.events.attempt import Processed
from sync.billing.services.events.event_queue import RELEASE_MAX
from sync.billing.services.tenants.comparisons import RECONCILE
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.environment import reconcile_requests
from sync.billing.storage.inbox import Record
from sync.core import instants
from sync.store.command_pipeline import CommandPipeline
from sync.store.isolation import ATTEMPTS_MAX
from sync.store.models import Change, Committed, StoreError
from sync.store.store import Store
from sync.worker import Worker
from tests.support.bodies import webhook
from tests.support.inbox import take_up
from tests.support.servers import Server, start_valkey
from tests.support.wait import until

POLL_S = 0.02
LEASE_S = 0.2

CATALOG = """
[policy]
grace = "2s"
overdue = "apply"

[plans.free]
name = "Free"
rank = 0
default = true
limits = { seats = 1 }

[plans.pro]
name = "Pro"
rank = 20
limits = { projects = 10 }
prices.paddle.live = ["pri_pro"]
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.toml"
    path.write_text(CATALOG)
    return path


class Clock:
    """A clock of the test's own."""

    def __init__(self) -> None:
        self.ns = time.time_ns()

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


def services_of(store: Store, catalog: Path, clock: Clock | None = None, lease_s: float = LEASE_S) -> BillingServices:
    return BillingServices(
        store, CatalogWatcher(catalog), {"paddle": PaddleWebhooks()}, lease_s=lease_s, now_ns=clock or time.time_ns
    )


@pytest.fixture
def services(store: Store, catalog: Path) -> BillingServices:
    return services_of(store, catalog)


@asynccontextmanager
async def working(*services_of_each: BillingServices) -> AsyncIterator[None]:
    """One worker for each services, stopped politely at the end."""
    workers = [Worker(services, ("live",), poll_s=POLL_S) for services in services_of_each]
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.run())
        yield
        for worker in workers:
            worker.stop()


async def receive(services: BillingServices, body: bytes) -> EventResult:
    return await services.ingest.receive(services.adapters["paddle"], body, "live")


async def state(store: Store, topic: str = "tenant:acme") -> Any:
    return orjson.loads((await store.read(topic)).state)


async def plan(store: Store, topic: str = "tenant:acme") -> str | None:
    found = await state(store, topic)
    return None if found is None else str(found["plan"]["key"])


async def counts(services: BillingServices) -> tuple[int, int]:
    return await services.environment("live").inbox.counts()


def soon(seconds: float) -> str:
    return instants.text(time.time_ns() + int(seconds * 1e9))


class TestRecovery:
    """Events whose process died between storing and answering."""

    async def abandon(self, services: BillingServices, body: bytes) -> str:
        """Store an event as a process does that dies right after."""
        event = services.adapters["paddle"].parse(body, "live")
        batch = CommandPipeline(services.store)
        services.environment("live").inbox.put(batch, event, body, "paddle", 1)
        await batch.run()
        return event.event_id

    async def test_it_is_taken_up_when_the_lease_has_run_out(self, store: Store, catalog: Path) -> None:
        services = services_of(store, catalog, lease_s=1)
        seconds, micros = await store.redis.time()
        await self.abandon(services, webhook(1))
        async with working(services):
            await until(lambda: plan(store))
        assert await plan(store) == "pro"
        # By the store's clock, as both are: a version is the instant of its commit.
        assert (await store.read("tenant:acme")).version >= (seconds + 1) * 1_000_000 + micros
        assert await counts(services) == (0, 0)

    async def test_three_workers_take_it_up_once(self, store: Store, catalog: Path) -> None:
        services_of_each = [services_of(store, catalog) for _ in range(3)]
        for number in range(40):
            await self.abandon(services_of_each[0], webhook(number, id=f"sub_{number % 4}"))

        async def done() -> bool:
            return await counts(services_of_each[0]) == (0, 0) and await plan(store) is not None

        async with working(*services_of_each):
            await until(done, timeout_s=20)
        causes = [orjson.loads(entry.cause).get("event_id") for entry in await store.log("tenant:acme", 200)]
        assert len(causes) == len(set(causes))

    async def test_a_crash_after_the_commit_is_finished_and_not_repeated(
        self, services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = webhook(1, status="trialing", current_billing_period=period(0, 3600))
        send = services.committer.send

        async def die_after(change: Change, batch: CommandPipeline) -> Committed:
            await send(change, batch)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(services.committer, "send", die_after)
            with pytest.raises(KeyboardInterrupt):
                await receive(services, body)
        version = (await store.read("tenant:acme")).version
        assert await counts(services) == (1, 0)
        assert await timer(services), "the timer is armed before the commit"
        async with working(services):
            await until(lambda: settled(services))
            await until(lambda: timer(services))
        record = await services.environment("live").inbox.read(json.loads(body)["event_id"])
        assert record is not None
        assert (record.status, record.attempts) == ("done", 2)
        assert await store.redis.hget(f"pw:{{inbox/live}}:event:{record.event_id}", "outcome") == b"applied"
        assert (await store.read("tenant:acme")).version == version
        assert [topic async for topic in services.environment("live").topics()] == ["tenant:acme"]

    async def test_a_store_error_halfway_leaves_it_to_the_next_delivery(
        self, services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(change: Change, batch: CommandPipeline) -> Committed:
            raise StoreError("gone")

        body = webhook(1)
        with monkeypatch.context() as patched:
            patched.setattr(services.committer, "send", fail)
            with pytest.raises(StoreError):
                await receive(services, body)
        assert (await receive(services, body)).outcome == "applied"

    async def test_a_late_end_of_a_lost_claim_does_not_park_what_a_newer_claim_has_done(
        self, services: BillingServices
    ) -> None:
        event_id, inbox = await self.abandon(services, webhook(1)), services.environment("live").inbox
        for result in (EventResult(Outcome.APPLIED), EventResult(Outcome.PARKED, "no link", waits=("subscription:x",))):
            batch = CommandPipeline(services.store)
            inbox.end(batch, event_id, result)
            await batch.run()
        record = await inbox.read(event_id)
        assert record is not None
        assert (record.status, record.waits, record.parked_us) == ("done", (), 0)
        assert await counts(services) == (0, 0)

    async def test_a_store_without_memory_ends_no_event(self, services: BillingServices, store: Store) -> None:
        """What goes before the end in the same round trip is refused as well: the event has to be tried again."""
        event_id, inbox, redis = (
            await self.abandon(services, webhook(1)),
            services.environment("live").inbox,
            store.redis,
        )
        limits = await redis.config_get("maxmemory")
        await redis.config_set("maxmemory", 1)
        try:
            batch = CommandPipeline(store)
            inbox.end(batch, event_id, EventResult(Outcome.APPLIED))
            with pytest.raises(StoreError, match="maxmemory"):
                await batch.run()
        finally:
            await redis.config_set("maxmemory", str(limits["maxmemory"]))
        record = await inbox.read(event_id)
        assert record is not None
        assert record.status == "pending"
        assert await counts(services) == (1, 0)

    async def test_an_event_that_always_fails_is_parked_and_stops_no_other(
        self, services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad = await self.abandon(services, webhook(1, id="sub_bad"))
        await self.abandon(services, webhook(1, id="sub_good"))
        resume = services.ingest.resume

        async def sometimes(record: Record, environment: str) -> EventResult:
            if record.event_id == bad:
                raise ZeroDivisionError("nobody foresaw this")
            return await resume(record, environment)

        monkeypatch.setattr(services.ingest, "resume", sometimes)
        monkeypatch.setattr("sync.store.isolation.backoff_s", lambda failures: 0.01)
        async with working(services):
            await until(lambda: plan(store))
            await until(lambda: is_parked(services, bad))
        record = await services.environment("live").inbox.read(bad)
        assert record is not None
        assert record.attempts == 1 + ATTEMPTS_MAX, "one of the delivery, the others of the worker"
        assert "ZeroDivisionError" in record.reason

    async def test_what_waits_on_a_newer_release_is_tried_at_the_start(
        self, services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = webhook(1)

        def cannot(self: PaddleWebhooks, body: bytes, environment: str, event_id: str = "") -> Event | Unparsable:
            return Unparsable(json.loads(body)["event_id"], "", "too new")

        with monkeypatch.context() as patched:
            patched.setattr(PaddleWebhooks, "parse", cannot)
            assert (await receive(services, body)).outcome == "parked"
        async with working(services):
            await until(lambda: plan(store))
        assert await counts(services) == (0, 0)

    async def test_a_store_that_is_away_is_waited_for(self, catalog: Path, valkey: Server, store: Store) -> None:
        services = services_of(store, catalog)
        async with working(services):
            valkey.kill()
            await asyncio.sleep(POLL_S * 3)
            valkey.start()
            await until(lambda: received(services))
            await self.abandon(services, webhook(2, id="sub_2", tenant="late"))
            await until(lambda: plan(store, "tenant:late"))

    @pytest.mark.parametrize("what", ["timers", "comparisons", "catalog"])
    async def test_an_item_that_fails_in_an_unforeseen_way_stops_neither_the_others_nor_the_worker(
        self, services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        worked: list[str] = []

        async def work(environment: str, item: Any, *arguments: Any, **options: Any) -> Any:
            topic = getattr(item, "topic", item)
            if topic == "tenant:bad":
                raise KeyError("event_id")
            worked.append(topic)

        batch, topics = CommandPipeline(store), ["tenant:bad", "tenant:good"]
        if what == "timers":
            monkeypatch.setattr(services.wakeup, "fire", work)
            for topic in topics:
                services.environment("live").timers.schedule_earlier(batch, topic, 1)
        elif what == "comparisons":
            monkeypatch.setattr(services, "can_ask", lambda environment: True)
            monkeypatch.setattr(services.reconciliation, "is_lost", lambda topic: asyncio.sleep(0, False))
            monkeypatch.setattr(services.reconciliation, "reconcile", work)
            await store.want_reconcile(topics)
        else:
            monkeypatch.setattr(services.reprojection, "reproject", work)
            for topic in topics:
                services.environment("live").enlist(batch, topic, 1)
        await batch.run()
        async with working(services):
            await until(lambda: "tenant:good" in worked)
            assert (await receive(services, webhook(1))).outcome == "applied"
        if what != "catalog":  # it is due again, after a pause
            key = "pw:{timers/live}:due" if what == "timers" else "pw:{reconcile}:wanted"
            due_us: Any = await store.redis.zscore(key, "tenant:bad")
            assert time.time() < due_us / 1e6 < time.time() + 60

    @pytest.mark.parametrize("what", ["events", "timers", "comparisons"])
    async def test_told_to_stop_it_ends_what_is_under_way_and_gives_the_rest_back(
        self, store: Store, catalog: Path, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        """A provider that is slow to answer must not keep a worker for all that it has claimed."""
        services = services_of(store, catalog, lease_s=0 if what == "events" else 30)
        ids = [await self.abandon(services, webhook(number, id=f"sub_{number}")) for number in range(3)]
        services = services_of(store, catalog, lease_s=30)
        worker = Worker(services, ("live",), poll_s=POLL_S)
        worked: list[object] = []

        async def work(*arguments: Any) -> Any:
            worked.append(arguments)
            worker.stop()
            return EventResult(Outcome.APPLIED)

        if what == "events":
            monkeypatch.setattr(services.ingest, "resume", work)
            await worker._inbox("live")
            assert len(await services.environment("live").inbox.claim(10)) == len(ids) - 1
        elif what == "timers":
            for number in range(3):
                await store.redis.zadd("pw:{timers/live}:due", {f"tenant:t{number}": 1})
            monkeypatch.setattr(services.wakeup, "fire", work)
            await worker._timers("live")
            assert len(await services.environment("live").timers.claim(10)) == 2
        else:
            await store.want_reconcile([f"tenant:t{number}" for number in range(3)])
            monkeypatch.setattr(services, "can_ask", lambda environment: True)
            monkeypatch.setattr(services.reconciliation, "is_lost", work)
            await worker._comparisons(RECONCILE, worker._compares.requests, at_once=1)
            assert len(await reconcile_requests(store).claim(10)) == 2
        assert len(worked) == 1


async def received(services: BillingServices) -> bool:
    try:
        await receive(services, webhook(1))
    except StoreError:
        return False
    return True


async def settled(services: BillingServices) -> bool:
    return (await counts(services))[0] == 0


async def is_parked(services: BillingServices, event_id: str) -> bool:
    record = await services.environment("live").inbox.read(event_id)
    return record is not None and record.status == "parked"


async def timer(services: BillingServices, topic: str = "tenant:acme") -> float | None:
    score: Any = await services.store.redis.zscore("pw:{timers/live}:due", topic)
    return None if score is None else float(score)


def period(starts: float, ends: float) -> dict[str, str]:
    return {"starts_at": soon(starts), "ends_at": soon(ends)}


class TestTime:
    """State that changes by time alone."""

    async def test_s15_three_workers_end_a_subscription_once_at_its_time(self, store: Store, catalog: Path) -> None:
        # A lease longer than any halt of the machine: what is given back to the store at the end has been done.
        services_of_each = [services_of(store, catalog, lease_s=30) for _ in range(3)]
        found = await until(lambda: ends_soon(services_of_each[0]), timeout_s=20)
        assert found is not None
        tenant, change = found
        topic = f"tenant:{tenant}"
        async with working(*services_of_each):
            await until(lambda: is_plan(store, "free", topic), timeout_s=10)
        log = await store.log(topic)
        assert [orjson.loads(entry.state)["plan"]["key"] for entry in log] == ["free", "pro"]
        assert log[0].version / 1e6 >= instants.parse(change["effective_at"]) / 1e9
        assert orjson.loads(log[0].cause) == {"source": "timer", "event_type": "due"}
        now = await state(store, topic)
        assert (now["status"], now["pending"]["reason"]) == ("canceled", "awaiting_provider")
        assert await timer(services_of_each[0], topic) is None
        # The provider's word, when it comes, confirms it: no access came back meanwhile, none is lost twice.
        word = webhook(2, id=f"sub_{tenant}", tenant=tenant, status="canceled")
        assert (await receive(services_of_each[0], word)).outcome == "applied"
        assert (await state(store, topic))["plan"]["key"] == "free"

    async def test_s11_grace_ends_without_a_webhook(self, store: Store, catalog: Path, clock: Clock) -> None:
        services = services_of(store, catalog, clock)
        body = json.loads(webhook(1, status="past_due"))
        moment = instants.text(clock.ns)
        body["occurred_at"] = body["data"]["updated_at"] = moment
        assert (await receive(services, json.dumps(body).encode())).outcome == "applied"
        assert await plan(store) == "pro"
        reprojection = services.reprojection
        clock.ns += 1_999_999_000
        assert (await reprojection.reproject("live", "tenant:acme", "timer")).outcome == "unchanged"
        clock.ns += 1_000
        assert (await reprojection.reproject("live", "tenant:acme", "timer")).outcome == "applied"
        assert await plan(store) == "free"

    @pytest.mark.parametrize("order", [1, -1])
    async def test_a_timer_is_only_ever_moved_forward(
        self, services: BillingServices, store: Store, order: int
    ) -> None:
        for due_us in (1_000, 2_000)[::order]:
            batch = CommandPipeline(store)
            services.environment("live").timers.schedule_earlier(batch, "tenant:acme", due_us)
            await batch.run()
        assert await timer(services) == 1_000

    async def test_a_timer_survives_the_worker_that_claimed_it(self, store: Store, catalog: Path, clock: Clock) -> None:
        services = services_of(store, catalog, clock)
        change = {"action": "cancel", "effective_at": instants.text(clock.ns + 3600 * 10**9)}
        await receive(services, webhook(1, scheduled_change=change))
        assert await timer(services) is not None
        clock.ns += 3601 * 10**9
        await store.redis.zadd("pw:{timers/live}:due", {"tenant:acme": 1})
        (due,) = await services.environment("live").timers.claim(1)
        assert due.topic == "tenant:acme"
        async with working(services):
            await until(lambda: is_plan(store, "free"))

    async def test_an_update_during_a_firing_keeps_its_own_timer(
        self, store: Store, catalog: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The new event's `arm` falls into the lease, where it has no effect; the firing looks once more."""
        services = services_of(store, catalog, clock, lease_s=30)
        first = {"action": "cancel", "effective_at": instants.text(clock.ns - 1_000_000_000)}
        later_ns = clock.ns + 3600 * 1_000_000_000
        second = {"action": "cancel", "effective_at": instants.text(later_ns)}
        await receive(services, webhook(1, scheduled_change=first))
        batch = CommandPipeline(store)
        timers = services.environment("live").timers
        timers.schedule_earlier(batch, "tenant:acme", 1)
        await batch.run()
        (due,) = await timers.claim(1)
        read, again = store.read, webhook(2, scheduled_change=second)

        async def read_then_update(topic: str) -> Any:
            snapshot = await read(topic)
            monkeypatch.undo()
            with monkeypatch.context() as apart:
                # Another process: it does not wait for this one's turn.
                apart.setattr(services.committer, "locks", services_of(store, catalog).committer.locks)
                assert (await receive(services, again)).outcome == "applied"
            return snapshot

        monkeypatch.setattr(store, "read", read_then_update)
        await services.wakeup.fire("live", due)
        score = await timer(services)
        assert score is not None
        assert score <= later_ns / 1000

    async def test_a_topic_without_facts_is_left_alone(self, services: BillingServices, store: Store) -> None:
        await store.commit(Change("tenant:acme", b'{"plan":"published by hand"}'))
        receipt = await services.reprojection.reproject("live", "tenant:acme", "catalog")
        assert receipt.outcome == "unchanged"
        await store.commit(Change("tenant:other", b'{"plan":"published by hand"}', b'{"own":"private"}'))
        receipt = await services.reprojection.reproject("live", "tenant:other", "catalog")
        assert receipt.outcome == "unchanged"
        assert await state(store, "tenant:other") == {"plan": "published by hand"}


async def is_plan(store: Store, key: str, topic: str = "tenant:acme") -> bool:
    return await plan(store, topic) == key


async def ends_soon(services: BillingServices) -> tuple[str, dict[str, str]] | None:
    """A new tenant with a cancel in a second, and that; None where it was held up until after the second."""
    tenant, change = f"t{time.monotonic_ns()}", {"action": "cancel", "effective_at": soon(1)}
    body = webhook(1, id=f"sub_{tenant}", tenant=tenant, scheduled_change=change)
    assert (await receive(services, body)).outcome == "applied"
    return (tenant, change) if await plan(services.store, f"tenant:{tenant}") == "pro" else None


class TestCatalog:
    """A catalog edit reaches tenants without an event."""

    async def test_s37_affected_tenants_get_a_new_version_and_others_do_not(
        self, services: BillingServices, store: Store, catalog: Path
    ) -> None:
        await receive(services, webhook(1))
        await receive(services, webhook(1, status="canceled", id="sub_2", tenant="other"))
        other = await store.read("tenant:other")

        async def has_limit() -> bool:
            return bool((await state(store))["limits"].get("projects") == 11)

        async with working(services):
            edit(catalog, CATALOG.replace("projects = 10", "projects = 11"))
            await until(has_limit)
        assert orjson.loads((await store.read("tenant:acme")).cause) == {"source": "catalog"}
        assert await store.read("tenant:other") == other

    async def test_s36_parked_events_are_tried_when_the_catalog_knows_their_price(
        self, services: BillingServices, store: Store, catalog: Path
    ) -> None:
        for number in range(150):
            body = webhook(1, id=f"sub_{number}", items=[("pri_new", 1)], tenant=f"t{number}")
            assert (await receive(services, body)).outcome == "parked"

        async def used() -> bool:
            return await counts(services) == (0, 0)

        async with working(services):
            await until(lambda: attempted(services, 150), timeout_s=40)
            assert (await counts(services))[1] == 150
            edit(catalog, CATALOG.replace('"pri_pro"', '"pri_pro", "pri_new"'))
            await until(used, timeout_s=40)
        assert await plan(store, "tenant:t149") == "pro"

    async def test_an_edit_between_the_look_and_the_parking_counts_though_the_sweeps_are_over(
        self, services: BillingServices, store: Store, catalog: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The worker has seen the new file and swept before the event, judged by the old one, is parked."""
        finish = services.ingest.finisher.finish

        async def edited_meanwhile(processed: Processed) -> EventResult:
            edit(catalog, CATALOG.replace('"pri_pro"', '"pri_pro", "pri_new"'))
            assert await services_of(store, catalog).environment("live").inbox.reopen(WAITS_CATALOG) == 0
            return await finish(processed)

        with monkeypatch.context() as patched:
            patched.setattr(services.ingest.finisher, "finish", edited_meanwhile)
            receipt = await receive(services, webhook(1, items=[("pri_new", 1)]))
        assert receipt.outcome == "parked"
        record = await take_up(services.environment("live").inbox)
        assert (await services.ingest.resume(record, "live")).outcome == "applied"
        assert await counts(services) == (0, 0)

    async def test_all_that_waits_is_reopened_and_that_ends(self, services: BillingServices) -> None:
        for number in range(RELEASE_MAX + 50):
            await receive(services, webhook(1, id=f"sub_{number}", items=[("pri_new", 1)], tenant=f"t{number}"))
        assert await services.environment("live").inbox.reopen(WAITS_CATALOG) == RELEASE_MAX + 50
        assert (await counts(services))[0] == RELEASE_MAX + 50
        assert await services.environment("live").inbox.reopen("subscription:paddle:sub_1") == 0

    async def test_a_price_that_left_the_catalog_holds_the_state(
        self, services: BillingServices, store: Store, catalog: Path
    ) -> None:
        await receive(services, webhook(1))
        before = await store.read("tenant:acme")
        edit(catalog, CATALOG.replace('"pri_pro"', '"pri_other"'))
        for outcome in ("applied", "unchanged"):
            receipt = await services.reprojection.reproject("live", "tenant:acme", "catalog")
            assert (receipt.outcome, receipt.reason) == (outcome, "unknown price pri_pro in live")
        after = await store.read("tenant:acme")
        assert (after.version, after.state) == (before.version, before.state)

    async def test_a_bad_edit_changes_nothing(self, services: BillingServices, store: Store, catalog: Path) -> None:
        await receive(services, webhook(1))
        edit(catalog, "[plans")
        receipt = await services.reprojection.reproject("live", "tenant:acme", "catalog")
        assert receipt == EventResult(Outcome.UNCHANGED, "", "tenant:acme", (await store.read("tenant:acme")).version)


async def attempted(services: BillingServices, count: int) -> bool:
    """Whether the start's sweep has tried every parked event once more."""
    records = await services.environment("live").inbox.parked(None, 500)
    return len(records) == count and all(record.attempts > 1 for record in records)


def edit(path: Path, text: str) -> None:
    """Replace the file at once, as editors do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


class TestProcess:
    """The process itself."""

    @contextmanager
    def process(self, **environ: str) -> Iterator[subprocess.Popen[str]]:
        started = subprocess.Popen(
            [sys.executable, "-m", "sync.worker"],
            env={**{name: value for name, value in os.environ.items() if not name.startswith("PLANWIRE_")}, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield started
        finally:
            started.kill()
            started.communicate()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_it_works_and_leaves_when_told(self, catalog: Path, number: signal.Signals) -> None:
        with start_valkey() as server:
            from sync.store.redis.connect import connect

            store = connect(server.url).store
            services = services_of(store, catalog)
            await TestRecovery().abandon(services, webhook(1))
            with self.process(PLANWIRE_REDIS_URL=server.url, PLANWIRE_CATALOG=str(catalog)) as worker:
                await until(lambda: plan(store), timeout_s=15)
                worker.send_signal(number)
                assert await asyncio.to_thread(worker.wait, 10) == 0
            await store.aclose()

    @pytest.mark.parametrize(
        ("environ", "line"),
        [
            (
                {"PLANWIRE_CATALOG": "/nowhere.toml"},
                "planwire worker: PLANWIRE_CATALOG: /nowhere.toml:1: cannot be read",
            ),
            ({"PLANWIRE_ALIVE_FILE": "/proc/x"}, "planwire worker: PLANWIRE_ALIVE_FILE: /proc/x cannot be written"),
            ({"PLANWIRE_CATALGO": "x"}, "planwire worker: unknown setting PLANWIRE_CATALGO; did you mean"),
            ({"PLANWIRE_REDIS_URL": "http://x"}, "planwire worker: PLANWIRE_REDIS_URL: the scheme 'http' is not known"),
        ],
    )
    async def test_it_says_in_one_line_why_it_cannot_start(self, environ: dict[str, str], line: str) -> None:
        with self.process(**{"PLANWIRE_REDIS_URL": "unix:///nowhere", **environ}) as worker:
            output, _ = await asyncio.to_thread(worker.communicate, timeout=15)
        assert worker.returncode == 2
        assert output.startswith(line)
        assert output.count("\n") == 1
