"""Events as hints; compare, repair and catch up: with the simulator as the provider that is asked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from sync import bootstrap
from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import FETCHED, Event
from sync.billing.domain.outcome import EventResult
from sync.billing.providers.base import ProviderRejected, ProviderUnavailable
from sync.billing.providers.paddle.client import PaddleClient
from sync.billing.providers.paddle.webhooks import PaddleWebhooks as Adapter
from sync.billing.providers.rate_limit import LocalRateLimiter
from sync.billing.providers.spec import SdkMissingError
from sync.billing.services.background.catch_up import CatchUp
from sync.billing.services.tenants.comparisons import Comparisons
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.environment import reconcile_requests
from sync.core import instants
from sync.process.supervisor import Supervisor
from sync.settings import SyncSettings
from sync.store import losses
from sync.store.isolation import is_away
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.store import Store
from sync.worker import POLL_S, Worker
from tests.support.paddle import KEY, Paddle, price_id, simulating
from tests.support.wait import until


@pytest.fixture
async def paddle(tmp_path: Path) -> AsyncIterator[Paddle]:
    async with simulating(tmp_path) as paddle:
        yield paddle


@pytest.fixture
async def api(paddle: Paddle) -> AsyncIterator[PaddleClient]:
    api = paddle.api()
    yield api
    await api.aclose()


@pytest.fixture
def services(store: Store, api: PaddleClient) -> BillingServices:
    return services_of(store, api)


def services_of(
    store: Store, api: PaddleClient | None, catalog: Path = EXAMPLE, lease_s: float = 30
) -> BillingServices:
    sources = {} if api is None else {("paddle", "live"): api}
    return BillingServices(store, CatalogWatcher(catalog), {"paddle": Adapter()}, sources, lease_s=lease_s)


@asynccontextmanager
async def working(*services_of_each: BillingServices) -> AsyncIterator[None]:
    workers = [Worker(services, ("live",), poll_s=0.02) for services in services_of_each]
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


async def subscriptions(paddle: Paddle, kind: str = "subscription.") -> list[bytes]:
    return [body for body in await paddle.events() if json.loads(body)["event_type"].startswith(kind)]


async def wanted(store: Store, queue: str = keys.reconcile) -> list[str]:
    found: Any = await store.redis.zrange(queue, 0, -1)
    return [topic.decode() for topic in found]


def soon(seconds: float) -> str:
    return instants.text(time.time_ns() + int(seconds * 1e9))


class Held:
    """A client whose answers can be held back after the provider has given them."""

    def __init__(self, api: PaddleClient) -> None:
        self.api = api
        self.answered = asyncio.Event()
        self.let_go = asyncio.Event()

    async def fetch(self, subscription_id: str, max_wait_s: float, *, background: bool = False) -> Event:
        event = await self.api.fetch(subscription_id, max_wait_s, background=background)
        self.answered.set()
        await self.let_go.wait()
        return event

    def __getattr__(self, name: str) -> Any:
        return getattr(self.api, name)


class TestHints:
    """With an API key an event says where to look, not what is there."""

    async def test_the_fetched_body_is_what_is_applied(
        self, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro", quantity=2)
        created = (await subscriptions(paddle))[0]
        await paddle.act("seats", quantity=9)
        assert (await receive(services, created)).outcome == "applied"
        assert (await state(store))["limits"]["seats"] == 9
        cause = orjson.loads((await store.read("tenant:acme")).cause)
        assert cause["event_id"] == json.loads(created)["event_id"]
        assert instants.parse(cause["fetched_at"]) <= time.time_ns()
        version = (await store.read("tenant:acme")).version
        for body in await subscriptions(paddle):
            await receive(services, body)
        assert (await state(store))["limits"]["seats"] == 9
        assert [orjson.loads(entry.state)["limits"]["seats"] for entry in await store.log("tenant:acme")] == [9] * len(
            await store.log("tenant:acme")
        )
        assert (await store.read("tenant:acme")).version >= version

    async def test_without_a_key_the_event_itself_is(self, paddle: Paddle, store: Store) -> None:
        await paddle.act("upgrade", plan="pro", quantity=2)
        created = (await subscriptions(paddle))[0]
        await paddle.act("seats", quantity=9)
        assert (await receive(services_of(store, None), created)).outcome == "applied"
        assert (await state(store))["limits"]["seats"] == 2

    async def test_s10_a_failed_renewal_is_never_shown_as_paid(
        self, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro")
        for body in await subscriptions(paddle):
            await receive(services, body)
        before = len(await subscriptions(paddle))
        await paddle.act("past_due")
        looks_paid, *_, past_due = (await subscriptions(paddle))[before:]
        assert json.loads(looks_paid)["data"]["status"] == "active"
        await receive(services, looks_paid)
        shown = await state(store)
        assert (shown["status"], "period" in shown) == ("past_due", False)
        await receive(services, past_due)
        occurred_ns = instants.parse(json.loads(past_due)["occurred_at"])
        grace_ns = instants.parse((await state(store))["grace_ends_at"])
        assert grace_ns <= occurred_ns + 7 * 86_400 * 10**9

    async def test_s50_a_fetch_begun_before_a_newer_commit_never_overwrites_it(
        self, paddle: Paddle, api: PaddleClient, store: Store
    ) -> None:
        held = Held(api)
        slow = BillingServices(store, CatalogWatcher(EXAMPLE), {"paddle": Adapter()}, {("paddle", "live"): held})
        quick = services_of(store, api)
        await paddle.act("upgrade", plan="pro", quantity=2)
        first = (await subscriptions(paddle))[0]
        late = asyncio.create_task(receive(slow, first))
        await held.answered.wait()
        await paddle.act("seats", quantity=9)
        assert (await receive(quick, (await subscriptions(paddle))[-1])).outcome == "applied"
        held.let_go.set()
        assert (await late).outcome == "refused"
        assert (await state(store))["limits"]["seats"] == 9

    async def test_s50_two_reconcilers_and_webhooks_end_at_the_provider_s_state(
        self, paddle: Paddle, api: PaddleClient, store: Store
    ) -> None:
        services_of_each = [services_of(store, api) for _ in range(3)]
        await paddle.act("upgrade", plan="pro", quantity=1)
        await receive(services_of_each[0], (await subscriptions(paddle))[0])
        for quantity in range(2, 8):
            await paddle.act("seats", quantity=quantity)
        bodies = (await subscriptions(paddle))[::-1]
        await asyncio.gather(
            *(receive(services_of_each[0], body) for body in bodies),
            *(
                p.reconciliation.reconcile("live", "tenant:acme", "asked")
                for p in services_of_each[1:]
                for _ in range(4)
            ),
        )
        assert (await state(store))["limits"]["seats"] == 7

    async def test_a_provider_that_is_away_leaves_the_event_s_word_and_is_asked_later(
        self, paddle: Paddle, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro", quantity=2)
        (created, *_) = await subscriptions(paddle)
        gone = PaddleClient("live", KEY, "http://127.0.0.1:9", LocalRateLimiter(100), timeout_s=1)
        services = services_of(store, gone)
        try:
            assert (await receive(services, created)).outcome == "applied"
            assert await wanted(store) == ["tenant:acme"]
            with pytest.raises(ProviderUnavailable, match="after it failed"):
                await gone.fetch("sub_1", 1)
        finally:
            await gone.aclose()
        await paddle.act("seats", quantity=5)
        api = paddle.api()
        try:
            async with working(services_of(store, api)):
                await until(lambda: seats(store, 5))
                await until(lambda: nothing_wanted(store))
        finally:
            await api.aclose()

    async def test_an_event_of_an_unknown_subscription_goes_by_its_body(
        self, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro")
        body = json.loads((await subscriptions(paddle))[0])
        body["data"]["id"] = "sub_elsewhere"
        assert (await receive(services, json.dumps(body).encode())).outcome == "applied"
        assert await wanted(store) == []

    async def test_a_status_that_only_the_event_has_parks_nothing(
        self, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro")
        first, second, *_ = [json.loads(body) for body in await subscriptions(paddle)]
        await receive(services, json.dumps(first).encode())
        second["data"]["status"] = "inactive"
        second["data"]["updated_at"] = second["occurred_at"] = soon(1)
        assert (await receive(services, json.dumps(second).encode())).outcome == "unchanged"


async def seats(store: Store, number: int) -> bool:
    found = await state(store)
    return found is not None and found["limits"].get("seats") == number


async def nothing_wanted(store: Store, queue: str = keys.reconcile) -> bool:
    return await wanted(store, queue) == []


class TestClient:
    """The client itself."""

    async def test_callers_share_only_what_has_not_begun(
        self, paddle: Paddle, api: PaddleClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subscription_id = await paddle.act("upgrade", plan="pro", quantity=1)
        calls, began = 0, asyncio.Event()
        blocking, loop = PaddleClient._blocking, asyncio.get_running_loop()
        release = asyncio.Event()

        def counted(self: PaddleClient, ask: Any) -> Any:
            nonlocal calls
            calls += 1
            answer = blocking(self, ask)
            loop.call_soon_threadsafe(began.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
            return answer

        monkeypatch.setattr(PaddleClient, "_blocking", counted)
        first = asyncio.create_task(api.fetch(subscription_id, 5))
        await began.wait()
        await paddle.act("seats", quantity=8)
        others = [asyncio.create_task(api.fetch(subscription_id, 5)) for _ in range(20)]
        await asyncio.sleep(0)
        release.set()
        old = await first
        news = await asyncio.gather(*others)
        assert calls == 2
        assert old.subscription is not None
        assert old.subscription.items[0].quantity == 1
        assert {event.subscription.items[0].quantity for event in news if event.subscription} == {8}
        assert news[0].type == FETCHED

    async def test_a_leader_that_gives_up_takes_nobody_along_for_ever(self, paddle: Paddle, api: PaddleClient) -> None:
        subscription_id = await paddle.act("upgrade", plan="pro")
        impatient = asyncio.create_task(api.fetch(subscription_id, 5))
        await asyncio.sleep(0)
        follower = asyncio.create_task(api.fetch(subscription_id, 5))
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises((ProviderUnavailable, asyncio.CancelledError)):
            await asyncio.gather(impatient)
        found = (await asyncio.gather(follower, return_exceptions=True))[0]
        assert isinstance(found, Event | ProviderUnavailable)
        assert (await api.fetch(subscription_id, 5)).subscription is not None

    async def test_what_is_not_there_is_refused(self, api: PaddleClient) -> None:
        with pytest.raises(ProviderRejected) as caught:
            await api.fetch("sub_/../unknown?x=1", 5)
        assert caught.value.code == "not_found"

    async def test_a_wrong_key_is_refused(self, paddle: Paddle) -> None:
        api = PaddleClient("live", "wrong", paddle.url, LocalRateLimiter(100))
        with pytest.raises(ProviderRejected) as caught:
            await api.fetch("sub_1", 5)
        assert caught.value.code == "forbidden"
        await api.aclose()

    async def test_a_slow_provider_is_not_waited_for(self) -> None:
        enough = asyncio.Event()

        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await enough.wait()
            writer.close()

        server = await asyncio.start_server(stall, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            api = PaddleClient("live", KEY, f"http://127.0.0.1:{port}", LocalRateLimiter(100), timeout_s=30)
            # Of the two times this one was first: the other says something else.
            with pytest.raises(ProviderUnavailable, match=r"no answer within 0\.1 s"):
                await api.fetch("sub_1", 0.1)
            enough.set()
            await api.aclose()

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno", "HTTPError"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "cannot be read"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "has no data"),
            (b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data":{}}', "data.status is missing"),
            (b'HTTP/1.1 400 No\r\nContent-Length: 12\r\n\r\n{"error":{}}', "cannot be read"),
        ],
    )
    async def test_an_answer_that_is_none_is_told(self, answer: bytes, reason: str) -> None:
        async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(say, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            api = PaddleClient("live", KEY, f"http://127.0.0.1:{port}", LocalRateLimiter(100), timeout_s=20)
            with pytest.raises(ProviderUnavailable, match=reason):
                await api.fetch("sub_1", 30)
            await api.aclose()

    async def test_a_missing_sdk_is_said_in_one_line(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        environ = {"PLANWIRE_PADDLE_API_KEYS": "live:key", "PLANWIRE_CATALOG": str(EXAMPLE)}
        with pytest.raises(SdkMissingError, match=r"paddle-python-sdk is not installed: pip install") as caught:
            await bootstrap.build_services(store, SyncSettings.from_env(environ))
        assert "\n" not in str(caught.value)
        # A development machine goes on without.
        services = await bootstrap.build_services(store, SyncSettings.from_env({**environ, "PLANWIRE_DEV": "1"}))
        assert services.clients == {}

    async def test_the_settings_make_a_client_for_each_environment(self, store: Store, paddle: Paddle) -> None:
        environ = {
            "PLANWIRE_PADDLE_API_KEYS": f"live:{KEY},sandbox:other",
            "PLANWIRE_PADDLE_API_URL": f"live:{paddle.url}",
            "PLANWIRE_CATALOG": str(EXAMPLE),
        }
        services = await bootstrap.build_services(store, SyncSettings.from_env(environ))
        subscription_id = await paddle.act("upgrade")
        assert sorted(services.clients) == [("paddle", "live"), ("paddle", "sandbox")]
        assert (await services.clients["paddle", "live"].fetch(subscription_id, 5)).subscription is not None
        await services.aclose()


class TestReconcile:
    """Compare and repair."""

    async def test_s33_what_no_webhook_told_is_drift(
        self, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro", quantity=2)
        await receive(services, (await subscriptions(paddle))[0])
        await paddle.act("downgrade", plan="basic")
        report = await services.reconciliation.reconcile("live", "tenant:acme", "asked")
        assert await plan(store) == "basic"
        (found,) = report.drift
        assert (found.kind, found.why, found.version) == ("differs", "asked", (await store.read("tenant:acme")).version)
        assert found.here == {"items": [[price_id("pro"), 2]]}
        assert found.there == {"items": [[price_id("basic"), 2]]}
        assert orjson.loads((await store.read("tenant:acme")).cause) == {"source": "reconcile", "event_type": "asked"}
        again = await services.reconciliation.reconcile("live", "tenant:acme", "asked")
        assert (again.drift, again.result.outcome, again.asked) == ([], "unchanged", 1)
        drifts = services.environment("live").drifts
        records, _ = await drifts.page("", 10)
        assert [record["subject"] for record in records] == [found.subject]
        assert (await drifts.counts())["differs"] == 1

    async def test_a_subscription_that_the_provider_does_not_have_is_told_and_kept(
        self, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro")
        body = json.loads((await subscriptions(paddle))[0])
        body["data"]["id"] = "sub_elsewhere"
        await receive(services, json.dumps(body).encode())
        report = await services.reconciliation.reconcile("live", "tenant:acme", "asked")
        assert [(entry.kind, entry.subject) for entry in report.drift] == [("unknown_there", "paddle:sub_elsewhere")]
        assert await plan(store) == "pro"

    async def test_facts_that_are_lost_are_rebuilt_from_the_provider_s_list(
        self, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro", quantity=4)
        await paddle.act("addon", addon="audit", new=True)
        await paddle.act("upgrade", tenant="other", plan="basic")
        assert await store.redis.dbsize() == 0
        report = await services.reconciliation.reconcile("live", "tenant:acme", "asked")
        assert [entry.kind for entry in report.drift] == ["unknown_here"] * 2
        shown = await state(store)
        assert (shown["plan"]["key"], shown["limits"]["seats"], shown["features"]["audit"]) == ("pro", 4, True)
        assert await plan(store, "tenant:other") is None
        assert [topic async for topic in services.environment("live").topics()] == ["tenant:acme"]

    async def test_a_store_that_lost_its_tail_gets_its_private_part_back(
        self, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        """What gateways do after a regress: they put the public part back and mark the topic."""
        for tenant in ("acme", "other"):
            await paddle.act("upgrade", tenant=tenant, plan="pro")
        for body in await subscriptions(paddle):
            await receive(services, body)
        held = [await store.read(topic) for topic in ("tenant:acme", "tenant:other")]
        await store.redis.flushall()
        for snapshot in held:
            assert await store.restore(replace(snapshot, private=b""))
        async with working(services):
            await until(lambda: nothing_wanted(store, keys.searches))
        for before in held:
            after = await store.read(before.topic)
            assert (after.version, after.state) == (before.version, before.state)
            assert after.rev > before.rev
            assert codec.decode(after.private).subscriptions

    async def test_the_worker_does_what_is_wanted_of_tenants_only(
        self, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro")
        await receive(services, (await subscriptions(paddle))[0])
        await paddle.act("cancel", when="now")
        await store.want_reconcile(["tenant:acme", "user:42", "moon/tenant:acme"])
        async with working(services, services):
            await until(lambda: is_plan(store, "free"))
            await until(lambda: nothing_wanted(store))

    async def test_a_search_stays_wanted_while_the_provider_is_away(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone = PaddleClient("live", KEY, "http://127.0.0.1:9", LocalRateLimiter(100), timeout_s=1)
        services = services_of(store, gone)
        monkeypatch.setattr("sync.billing.services.tenants.comparisons.SEARCH_PAUSE_S", 0)
        await losses.search_once(store, ["tenant:acme"])
        comparisons = Comparisons(services, Supervisor(POLL_S, is_away))
        (due,) = await comparisons.searches.claim(10)
        assert await comparisons.searches.claim(10) == []
        await comparisons.collect(due)
        await comparisons.search()
        assert await wanted(store, keys.searches) == ["tenant:acme"]
        assert await comparisons.searches.claim(10) == []
        await gone.aclose()

    async def test_a_known_tenant_stays_wanted_while_the_provider_is_away(self, paddle: Paddle, store: Store) -> None:
        await paddle.act("upgrade", plan="pro")
        await receive(services_of(store, None), (await subscriptions(paddle))[0])
        gone = PaddleClient("live", KEY, "http://127.0.0.1:9", LocalRateLimiter(100), timeout_s=1)
        await store.want_reconcile(["tenant:acme"])
        queue = reconcile_requests(store)
        (due,) = await queue.claim(10)
        await Worker(services_of(store, gone), ("live",))._compare(queue, due)
        assert await wanted(store) == ["tenant:acme"]
        await gone.aclose()

    async def test_s50_a_commit_between_its_read_and_its_write_is_not_overwritten(
        self, paddle: Paddle, services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process applies an event of another subscription just then: both have to stay."""
        await paddle.act("upgrade", plan="pro", quantity=1)
        await receive(services, (await subscriptions(paddle))[0])
        await paddle.act("addon", addon="audit", new=True)
        other = next(body for body in await subscriptions(paddle) if price_id("audit") in body.decode())
        await paddle.act(
            "seats", quantity=6, subscription_id=json.loads((await subscriptions(paddle))[0])["data"]["id"]
        )
        read = store.read
        reads = 0

        async def read_then_commit(topic: str) -> Any:
            nonlocal reads
            snapshot = await read(topic)
            reads += 1
            if reads == 2:  # the first is the look at what to ask about, the second the one that is written by
                assert (await receive(services_of(store, None), other)).outcome == "applied"
            return snapshot

        monkeypatch.setattr(store, "read", read_then_commit)
        await services.reconciliation.reconcile("live", "tenant:acme", "asked")
        shown = await state(store)
        assert (shown["limits"]["seats"], shown["features"].get("audit")) == (6, True)

    async def test_every_tenant_is_audited_within_the_bound(
        self, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro")
        await receive(services, (await subscriptions(paddle))[0])
        entry: Any
        (entry,) = await store.redis.zrange("pw:{audits/live}:due", 0, -1, withscores=True)
        assert time.time() <= entry[1] / 1e6 <= time.time() + 86_400
        await paddle.act("cancel", when="now")
        await store.redis.zadd("pw:{audits/live}:due", {"tenant:acme": 1})
        async with working(services):
            await until(lambda: is_plan(store, "free"))
            await until(lambda: planned_anew(store))
        records, _ = await services.environment("live").drifts.page("", 10)
        assert records[0]["why"] == "audit"


async def is_plan(store: Store, key: str) -> bool:
    return await plan(store) == key


async def planned_anew(store: Store) -> bool:
    score = await store.redis.zscore("pw:{audits/live}:due", "tenant:acme")
    return score is not None and score > (time.time() + 86_000) * 1e6


class TestTime:
    """When a timer fires the provider is asked first."""

    def catalog(self, tmp_path: Path, overdue: str) -> Path:
        path = tmp_path / "catalog.toml"
        text = EXAMPLE.read_text()
        path.write_text(text.replace('overdue = "hold"', f'overdue = "{overdue}"'))
        return path

    async def scheduled(self, paddle: Paddle, store: Store, catalog: Path, seconds: float) -> None:
        """A cancel that the provider has scheduled, as an event without an answer told it, while it was still ahead."""
        await paddle.act("upgrade", plan="pro")
        body = json.loads((await subscriptions(paddle))[0])

        async def is_ahead() -> bool:
            await store.redis.flushall()  # nothing is left of a telling that was held up until after its time
            change = {"action": "cancel", "effective_at": soon(seconds), "resume_at": None}
            body["data"]["scheduled_change"] = change
            await receive(services_of(store, None, catalog), json.dumps(body).encode())
            shown = await state(store)
            return "pending" not in shown and shown.get("scheduled", {}).get("overdue") is False

        await until(is_ahead, timeout_s=20)

    async def test_s14_s15_a_change_that_was_called_off_never_takes_effect(
        self, paddle: Paddle, api: PaddleClient, store: Store, tmp_path: Path
    ) -> None:
        catalog = self.catalog(tmp_path, "apply")
        await self.scheduled(paddle, store, catalog, 1.5)
        services_of_each = [services_of(store, api, catalog) for _ in range(3)]
        async with working(*services_of_each):
            await until(lambda: nothing_scheduled(store))
        assert [orjson.loads(entry.state)["plan"]["key"] for entry in await store.log("tenant:acme")] == ["pro", "pro"]

    async def test_s15_what_the_provider_did_is_shown_at_once(
        self, paddle: Paddle, api: PaddleClient, store: Store, tmp_path: Path
    ) -> None:
        catalog = self.catalog(tmp_path, "hold")
        await self.scheduled(paddle, store, catalog, 1)
        await paddle.act("cancel", when="now")
        async with working(services_of(store, api, catalog)):
            await until(lambda: is_plan(store, "free"))
        shown = await state(store)
        assert (shown["status"], "pending" in shown) == ("canceled", False)
        records, _ = await services_of(store, api).environment("live").drifts.page("", 10)
        assert [record["why"] for record in records] == ["timer"]

    @pytest.mark.parametrize(("overdue", "expected"), [("hold", "pro"), ("apply", "free")])
    async def test_a_provider_that_cannot_be_asked_leaves_it_to_the_policy(
        self, paddle: Paddle, store: Store, tmp_path: Path, overdue: str, expected: str
    ) -> None:
        catalog = self.catalog(tmp_path, overdue)
        await self.scheduled(paddle, store, catalog, 1)
        gone = PaddleClient("live", KEY, "http://127.0.0.1:9", LocalRateLimiter(100), timeout_s=1)
        async with working(services_of(store, gone, catalog)):
            await until(lambda: is_overdue(store))
        assert await plan(store) == expected
        # It is asked again, soon.
        score: Any = await store.redis.zscore("pw:{timers/live}:due", "tenant:acme")
        assert 0 < score / 1e6 - time.time() < 60
        await gone.aclose()
        api = paddle.api()
        await store.redis.zadd("pw:{timers/live}:due", {"tenant:acme": 1})
        async with working(services_of(store, api, catalog)):
            await until(lambda: nothing_scheduled(store))
        assert await plan(store) == "pro"
        await api.aclose()


async def is_overdue(store: Store) -> bool:
    return bool((await state(store)).get("scheduled", {}).get("overdue"))


async def nothing_scheduled(store: Store) -> bool:
    return "scheduled" not in await state(store)


class TestCatchUp:
    """The provider's list of events, read on after an outage."""

    def catch_up(self, services: BillingServices, api: PaddleClient) -> CatchUp:
        return CatchUp(services, "paddle", "live", api)

    async def test_s32_every_missed_change_is_found_once(
        self, paddle: Paddle, api: PaddleClient, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sync.billing.providers.paddle.client.EVENTS_PER_PAGE", 3)
        services = services_of(store, None)
        for number in range(4):
            await paddle.act("upgrade", tenant=f"t{number}", plan="pro", quantity=number + 1)
        bodies = await paddle.events()
        for body in bodies[:5]:
            await receive(services, body)
        catch_up = self.catch_up(services, api)
        assert await catch_up.run() == 0, "their webhooks may be on their way"
        missed = len(bodies) - 5
        assert await catch_up.run(0) == missed
        assert await catch_up.run(0) == 0
        async with working(services):
            await until(lambda: seats_of(store, "tenant:t3", 4))
        assert (await services.environment("live").drifts.counts())["missed_event"] == missed
        await paddle.act("seats", tenant="t3", quantity=9)
        assert await catch_up.run(0) == len(await paddle.events()) - len(bodies)

    async def test_an_entry_that_cannot_be_read_stops_nothing(
        self, paddle: Paddle, api: PaddleClient, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        services = services_of(store, None)
        for number in range(3):
            await paddle.act("upgrade", tenant=f"t{number}", plan="pro", quantity=number + 1)
        bodies = await paddle.events()
        blocking = api._blocking

        def with_bad_entries(ask: Any) -> Any:
            page: Any = dict(blocking(ask))
            if page["data"]:
                page["data"][1]["occurred_at"] = "soon"
                page["data"] = [7, *page["data"], {"event_id": None}]
            return page

        monkeypatch.setattr(api, "_blocking", with_bad_entries)
        catch_up = self.catch_up(services, api)
        assert await catch_up.run(0) == len(bodies)
        assert await catch_up.run(0) == 0
        inbox = services.environment("live").inbox
        async with working(services):
            await until(lambda: seats_of(store, "tenant:t2", 3))
            (parked,) = await until(lambda: inbox.parked(None, 10))
        assert parked.event_id == orjson.loads(bodies[1])["event_id"]

    async def test_one_process_at_a_time(self, paddle: Paddle, api: PaddleClient, store: Store) -> None:
        services = services_of(store, None)
        await paddle.act("upgrade", plan="pro")
        runs = await asyncio.gather(*(self.catch_up(services, api).run(0) for _ in range(4)))
        assert sorted(runs) == [0, 0, 0, len(await paddle.events())]

    async def test_a_worker_runs_it_at_its_start(
        self, paddle: Paddle, api: PaddleClient, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sync.billing.services.background.catch_up.SETTLE_S", 0)
        await paddle.act("upgrade", plan="pro")
        async with working(services_of(store, api)):
            await until(lambda: is_plan(store, "pro"))


async def seats_of(store: Store, topic: str, number: int) -> bool:
    found = await state(store, topic)
    return found is not None and found["limits"]["seats"] == number


async def test_a_catalog_sweep_asks_nobody(paddle: Paddle, services: BillingServices, store: Store) -> None:
    await paddle.act("upgrade", plan="pro")
    await receive(services, (await subscriptions(paddle))[0])
    await paddle.act("cancel", when="now")
    assert (await services.reprojection.reproject("live", "tenant:acme", "catalog")).outcome == "unchanged"
