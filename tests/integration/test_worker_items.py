"""Items that cannot be worked on, in every queue of the worker: what is stored is damaged, or what is called raises.

The others are worked on, the item is parked after ATTEMPTS_MAX attempts, and a worker that starts anew goes on with it
once it is repaired. What a worker that lost its claim still does changes nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.domain.facts.model import Event, Unparsable
from sync.billing.domain.outcome import EventResult
from sync.billing.providers.base import ProviderEvent
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.billing.services.background.catch_up import CatchUp
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.environment import reconcile_requests
from sync.billing.storage.inbox import UNREADABLE, Record
from sync.source.hydration import Hydration
from sync.store import counters
from sync.store.delayed_queue import DelayedQueue
from sync.store.isolation import ATTEMPTS_MAX
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.store import Store
from sync.worker import Worker
from tests.support.bodies import webhook
from tests.support.inbox import take_up
from tests.support.paddle import Paddle, price_id, simulating
from tests.support.wait import until

GOOD = "tenant:zzz"
"""Behind all damaged topics of a batch: members of the same time are worked on in the order of their names."""

DAMAGED: dict[str | bytes, Any] = {
    "not a topic": None,
    "sandbox/tenant:elsewhere": None,
    b"tenant:\xff\xfe": None,
    "tenant:a|b": None,
    "tenant:facts": {"private": b"{not json", "version": 5, "rev": 5, "state": b"{}", "owner": "billing"},
    "tenant:newer": {"private": b'{"format":99}', "version": 5, "rev": 5, "state": b"{}", "owner": "billing"},
    "tenant:shape": {"private": b'{"format":1,"subscriptions":{"x":{"order":7}}}', "version": 5, "state": b"{}"},
    "tenant:type": "a string where a hash should be",
    "tenant:version": {"version": b"many", "state": b"{}"},
}
"""Topics, each with what is stored under its key."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.store.isolation.backoff_s", lambda failures: 0.01)


@pytest.fixture
async def paddle(tmp_path: Path) -> AsyncIterator[Paddle]:
    async with simulating(tmp_path) as paddle:
        yield paddle


@pytest.fixture
async def services(store: Store, paddle: Paddle) -> AsyncIterator[BillingServices]:
    clients = {("paddle", "live"): paddle.api()}
    adapters = {"paddle": PaddleWebhooks()}
    services = BillingServices(store, CatalogWatcher(EXAMPLE), adapters, clients, comparison_pause_s=0.02)
    yield services
    await services.aclose()


@asynccontextmanager
async def working(services: BillingServices, hydration: Hydration | None = None) -> AsyncIterator[asyncio.Task[None]]:
    worker = Worker(services, ("live",), poll_s=0.02, hydration=hydration)
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        worker.stop()
        await task


async def buy(paddle: Paddle, services: BillingServices, topic: str) -> str:
    """A purchase that has arrived; returns the subscription's id."""
    bought = await paddle.act("upgrade", tenant=topic.partition(":")[2], plan="pro", quantity=2)
    for body in await paddle.events():
        if json.loads(body)["event_type"].startswith("subscription."):
            await services.ingest.receive(services.adapters["paddle"], body, "live")
    return bought


async def damage(store: Store) -> None:
    redis: Any = store.redis
    for topic, stored in DAMAGED.items():
        if isinstance(stored, dict):
            await redis.hset(keys.snap(str(topic)), mapping=stored)
        elif stored is not None:
            await redis.set(keys.snap(str(topic)), stored)


def text(topic: str | bytes) -> str:
    return topic if isinstance(topic, str) else topic.decode(errors="backslashreplace")


async def failures(store: Store, queue: str) -> int:
    return (await counters.read(store)).get(("item_failures", (("queue", queue),)), 0)


def queue_of(services: BillingServices, name: str) -> tuple[DelayedQueue, str]:
    environment = services.environment("live")
    return {
        "timers": (environment.timers, keys.timers("live")),
        "audits": (environment.audits, keys.audits("live")),
        "reconcile": (reconcile_requests(services.store), keys.reconcile),
    }[name]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["timers", "audits", "reconcile"])
async def test_damaged_items_are_parked_and_stop_neither_the_others_nor_a_start(
    services: BillingServices, store: Store, paddle: Paddle, name: str
) -> None:
    await buy(paddle, services, GOOD)
    await damage(store)
    redis: Any = store.redis
    queue, key = queue_of(services, name)
    # Topics of another kind or environment, and what no provider can be asked about, is no failure of a comparison.
    expected = {text(topic) for topic in DAMAGED} - ({"sandbox/tenant:elsewhere"} if name == "reconcile" else set())
    await redis.delete(key)
    await redis.zadd(key, dict.fromkeys([*DAMAGED, GOOD], 1))

    async def is_worked_on() -> bool:
        return (await redis.zscore(key, GOOD) or 2) != 1 and not await redis.hexists(f"{key}:claims", GOOD)

    with capture_logs() as logged:
        async with working(services) as task:
            await until(is_worked_on)
            await until(lambda: has_parked(queue, expected), 30)
            assert not task.done()
    assert await redis.zrange(key, 0, -1) == ([GOOD.encode()] if name == "audits" else [])
    assert {entry["attempts"] for entry in (await queue.parked()).values()} == {ATTEMPTS_MAX}
    assert await failures(store, name) == ATTEMPTS_MAX * len(expected)
    parked = {line["item"] for line in logged if line["event"] == "item_parked" and line["queue"] == name}
    assert parked == expected
    # Repaired, and a worker that starts: what can be is worked on, the others are parked again after one attempt.
    for topic in ("tenant:facts", "tenant:newer", "tenant:shape", "tenant:type", "tenant:version"):
        await redis.delete(keys.snap(topic))
        expected.discard(topic)
    async with working(services):
        await until(lambda: has_parked(queue, expected, exactly=True), 30)
    assert GOOD not in await queue.parked()


async def has_parked(queue: DelayedQueue, topics: set[str], *, exactly: bool = False) -> bool:
    parked = set(await queue.parked())
    return parked == topics if exactly else topics <= parked


@pytest.mark.timeout(60)
async def test_damaged_tenants_do_not_end_a_sweep(
    services: BillingServices, store: Store, paddle: Paddle, tmp_path: Path
) -> None:
    """Their timers try them again, and park them."""
    await buy(paddle, services, GOOD)
    await damage(store)
    redis: Any = store.redis
    await redis.sadd(keys.tenants("live"), *DAMAGED)
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(EXAMPLE.read_text())
    edited = BillingServices(store, CatalogWatcher(catalog), services.adapters)
    before = (await store.read(GOOD)).version

    async def is_swept() -> bool:
        return (await store.read(GOOD)).version > before

    async with working(edited):
        await until(lambda: has_parked(edited.environment("live").timers, {text(topic) for topic in DAMAGED}), 30)
        catalog.write_text(EXAMPLE.read_text().replace('name = "Pro"', 'name = "Professional"'))
        await until(is_swept)
    assert await failures(store, "catalog") >= len(DAMAGED)
    assert orjson.loads((await store.read(GOOD)).state)["plan"]["name"] == "Professional"


@pytest.mark.timeout(60)
async def test_events_that_cannot_be_read_or_processed_are_parked_and_the_others_processed(
    services: BillingServices, store: Store
) -> None:
    redis: Any = store.redis
    inbox, event = services.environment("live").inbox, keys.inbox("live", "event:")
    known = {"provider": "paddle", "type": "x", "status": "pending", "attempts": "1", "body": webhook(1)}
    damaged: dict[str, dict[str, Any] | str | None] = {
        "evt_gone": None,
        "evt_numbers": {**known, "attempts": "many", "received_us": "late", "body": webhook(1, event_id="evt_numbers")},
        "evt_provider": {**known, "provider": "of a newer build"},
        "evt_text": {**known, "type": b"\xff", "body": b"\xff\xfe{"},
        "evt_type": "a string where a hash should be",
    }
    for event_id, record in damaged.items():
        if isinstance(record, dict):
            await redis.hset(event + event_id, mapping=record)
        elif record is not None:
            await redis.set(event + event_id, record)
    good = {**known, "body": webhook(1, event_id="evt_zzz", id="sub_z", tenant="zzz", items=[(price_id("pro"), 1)])}
    await redis.hset(event + "evt_zzz", mapping=good)
    await redis.zadd(keys.inbox("live", "pending"), dict.fromkeys([*damaged, b"evt_\xff", "evt_zzz"], 1))

    async def is_empty() -> bool:
        return (await inbox.counts())[0] == 0

    async with working(services) as task:
        await until(is_empty, 30)
        assert not task.done()
    assert orjson.loads((await store.read(GOOD)).state)["plan"]["key"] == "pro"
    parked = {record.event_id: record for record in await inbox.parked(None, 10)}
    assert set(parked) == {"evt_numbers", "evt_provider", "evt_text", "evt_type"}
    assert "failed 8 times: KeyError('of a newer build')" in parked["evt_provider"].reason
    assert parked["evt_text"].reason.startswith("unparsable")
    assert parked["evt_type"].status == UNREADABLE
    assert await redis.exists(event + "evt_gone") == 0
    assert await failures(store, "inbox") == ATTEMPTS_MAX + 1


class Raising(BaseException):
    """Nobody foresaw this, and its `repr` fails."""

    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "raised", [KeyError("x"), asyncio.CancelledError(), SystemExit(3), RecursionError(), MemoryError(), Raising()]
)
async def test_whatever_the_work_on_an_item_raises_the_worker_goes_on(
    services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    worked: list[str] = []

    async def work(environment: str, item: Any, *arguments: Any, **more: Any) -> Any:
        topic = getattr(item, "topic", item)
        if topic == "tenant:bad":
            raise raised
        worked.append(topic)
        await services.environment("live").timers.ack(item)

    monkeypatch.setattr(services.wakeup, "fire", work)
    timers, redis = services.environment("live").timers, store.redis
    async with working(services) as task:
        for number in range(3):
            await redis.zadd(keys.timers("live"), {"tenant:bad": 0, f"tenant:good{number}": 0})
            await until(partial(worked.__contains__, f"tenant:good{number}"))
        await until(lambda: has_parked(timers, {"tenant:bad"}))
        assert not task.done()


async def test_a_released_event_that_fails_does_not_fail_the_event_that_releases_it(
    services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.clients = {}
    items = [(price_id("pro"), 1)]
    waiting = webhook(1, event_id="evt_waits", id="sub_1", tenant=None, items=items)
    assert (await receive(services, waiting)).outcome == "parked"
    resume = services.ingest.resume

    async def sometimes(record: Record, environment: str) -> EventResult:
        if record.event_id == "evt_waits":
            raise ZeroDivisionError
        return await resume(record, environment)

    monkeypatch.setattr(services.ingest, "resume", sometimes)
    assert (await receive(services, webhook(2, event_id="evt_names", id="sub_1", items=items))).outcome == "applied"
    monkeypatch.undo()
    assert await services.environment("live").inbox.counts() == (1, 1)
    await services.ingest.postpone("live", "evt_waits", 0)
    record = await take_up(services.environment("live").inbox)
    assert (await services.ingest.resume(record, "live")).outcome in ("applied", "refused")


async def test_a_body_at_which_the_adapter_fails_is_kept_and_applied_by_the_release_that_can_read_it(
    services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: PaddleWebhooks, body: bytes, environment: str, event_id: str = "") -> Event | Unparsable:
        raise IndexError("nobody foresaw this body")

    services.clients = {}
    body = webhook(1, event_id="evt_1", items=[(price_id("pro"), 1)])
    with monkeypatch.context() as patched:
        patched.setattr(PaddleWebhooks, "parse", failing)
        assert (await receive(services, body)).outcome == "parked"
        assert (await receive(services, body)).outcome == "parked"
    async with working(services):
        await until(lambda: is_plan(store, "tenant:acme", "pro"))
    assert await services.environment("live").inbox.counts() == (0, 0)


async def receive(services: BillingServices, body: bytes) -> EventResult:
    return await services.ingest.receive(services.adapters["paddle"], body, "live")


async def is_plan(store: Store, topic: str, plan: str) -> bool:
    state = orjson.loads((await store.read(topic)).state)
    return state is not None and bool(state["plan"]["key"] == plan)


class TestCatchUp:
    """One event of the provider's list cannot be stored or read: the others are, and the list is read on."""

    async def test_one_event_that_cannot_be_stored_or_read(
        self, services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parse = PaddleWebhooks.parse

        def sometimes(self: PaddleWebhooks, body: bytes, environment: str, event_id: str = "") -> Event | Unparsable:
            if b"evt_raises" in body:
                raise IndexError
            return parse(self, body, environment, event_id)

        ids = ("evt_a", "evt_raises", "evt_type", "evt_zzz")
        bodies = [webhook(1, event_id=id, id=f"sub_{id}", tenant=id[4:]) for id in ids]
        page = [ProviderEvent(id, 1, body) for id, body in zip(ids, bodies, strict=True)]

        class Client:
            async def events(self, after: str, since_ns: int, max_wait_s: float) -> Any:
                return (page, False) if after != ids[-1] else ([], False)

        redis: Any = store.redis
        await redis.set(keys.inbox("live", "event:evt_type"), "a string where a hash should be")
        await redis.set(keys.provider_events("live", "paddle", "cursor"), b"\xff")
        monkeypatch.setattr(PaddleWebhooks, "parse", sometimes)
        client: Any = Client()
        catch_up = CatchUp(services, "paddle", "live", client)
        assert await catch_up.run() == 3
        assert await redis.get(keys.provider_events("live", "paddle", "cursor")) == b"evt_zzz"
        assert await failures(store, "catch-up") == 1
        record = await services.environment("live").inbox.read("evt_raises")
        assert record is not None
        assert record.status == "pending"

    async def test_a_run_that_was_paused_does_not_set_its_successors_cursor_back(
        self, services: BillingServices, store: Store
    ) -> None:
        redis: Any = store.redis
        lease, cursor = (keys.provider_events("live", "paddle", name) for name in ("lease", "cursor"))

        class Client:
            async def events(self, after: str, since_ns: int, max_wait_s: float) -> Any:
                # Paused here, longer than the lease: another has taken over and read on.
                await redis.set(lease, "another's")
                await redis.set(cursor, "evt_9")
                return [ProviderEvent("evt_1", 1, webhook(1, event_id="evt_1"))], True

        client: Any = Client()
        assert await CatchUp(services, "paddle", "live", client).run() == 1
        assert (await redis.get(cursor), await redis.get(lease)) == (b"evt_9", b"another's")


@pytest.mark.timeout(60)
async def test_damaged_requests_for_the_source_do_not_stop_the_others(services: BillingServices, store: Store) -> None:
    class Source:
        async def ask(self, topic: str, max_wait_s: float, *, background: bool = False) -> Any:
            asked.append(topic)

        async def aclose(self) -> None:
            pass

    asked: list[str] = []
    source: Any = Source()
    redis: Any = store.redis
    await redis.set(keys.snap("prefs:type"), "a string where a hash should be")
    damaged: list[str | bytes] = [b"\xff", "not a topic", "prefs:type"]
    for key in (keys.hydrate, keys.compare):
        await redis.zadd(key, dict.fromkeys([*damaged, "prefs:zzz"], 1))
    queues = [DelayedQueue(store, key) for key in (keys.hydrate, keys.compare)]
    async with working(services, Hydration(store, source)) as task:
        await until(lambda: asked.count("prefs:zzz") == 2)
        for queue in queues:
            await until(partial(has_parked, queue, set(map(text, damaged))), 30)
        assert not task.done()
    assert await failures(store, "hydration") == 2 * len(damaged) * ATTEMPTS_MAX
