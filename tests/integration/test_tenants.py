"""What backends and operators do with one tenant over HTTP, with the simulator as the provider."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from planwire_client.core.commit import BILLING
from sync.billing.api import routes as billing_routes
from sync.billing.api.operations import Asked, BillingOperations
from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.domain.entitlements.overrides import OVERRIDES_MAX, add_override
from sync.billing.domain.entitlements.scheduled_changes import AHEAD_NS
from sync.billing.domain.entitlements.wakeups import EXECUTE_AGAIN_S
from sync.billing.domain.facts import codec, instructions, model
from sync.billing.domain.facts.drift import KINDS
from sync.billing.domain.facts.instructions import ENTITLEMENTS
from sync.billing.providers.paddle.client import PaddleClient
from sync.billing.providers.paddle.webhooks import PaddleWebhooks as Adapter
from sync.billing.providers.rate_limit import LocalRateLimiter
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.inbox import Inbox
from sync.core import instants
from sync.http.endpoint import Caller
from sync.http.problem import Problem
from sync.settings import SyncSettings
from sync.store import counters
from sync.store.command_pipeline import CommandPipeline
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, Committed, StoreError
from sync.store.store import Store
from sync.worker import Worker
from tests.support.bodies import webhook
from tests.support.paddle import KEY, Paddle, price_id, simulating
from tests.support.servers import Server
from tests.support.services import fire_now
from tests.support.wait import until

SETTINGS = SyncSettings.from_env({})


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
    return BillingServices(store, CatalogWatcher(EXAMPLE), {"paddle": Adapter()}, {("paddle", "live"): api})


async def let_in(request: Request) -> Caller:
    if request.headers.get("authorization") != "Bearer key":
        raise Problem("key_invalid", "")
    return Caller("support", lambda scope, topic: None)


@asynccontextmanager
async def desk_of(services: BillingServices, key: str = "key") -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(Starlette(routes=billing_routes.routes(services, SETTINGS, let_in)))
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://desk", headers=headers) as client:
        yield client


@pytest.fixture
async def desk(services: BillingServices) -> AsyncIterator[httpx2.AsyncClient]:
    async with desk_of(services) as client:
        yield client


async def tell(services: BillingServices, paddle: Paddle) -> None:
    """Deliver every event of a subscription, in order."""
    for body in await paddle.events():
        if json.loads(body)["event_type"].startswith("subscription."):
            await services.ingest.receive(services.adapters["paddle"], body, "live")


async def state(store: Store, topic: str = "tenant:acme") -> Any:
    return orjson.loads((await store.read(topic)).state)


def problem(response: httpx2.Response, status: int, code: str) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert (response.status_code, document["status"], document["code"]) == (status, status, code), document
    return str(document["detail"])


IDS = ("sub_1", "ctm_1", "sub_2", "sub_9", "ctm_9")


async def traces(store: Store, text: str) -> list[str]:
    """The keys that have `text` in their name or in what they hold."""
    redis: Any = store.redis
    found = []
    async for key in redis.scan_iter():
        match await redis.type(key):
            case b"hash":
                held = await redis.hgetall(key)
            case b"set":
                held = await redis.smembers(key)
            case b"zset":
                held = await redis.zrange(key, 0, -1)
            case b"stream":
                held = await redis.xrange(key)
            case _:
                held = await redis.get(key)
        if text in key.decode() or text in repr(held):
            found.append(key.decode())
    return sorted(found)


class TestReconcile:
    """Compare, repair, and see what drifted."""

    async def test_it_repairs_and_tells(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="pro", quantity=2)
        await tell(services, paddle)
        await paddle.act("downgrade", plan="basic")
        answer = (await desk.post("/v1/tenants/acme/reconcile")).json()
        version = (await store.read("tenant:acme")).version
        assert (answer["outcome"], answer["version"], answer["asked"]) == ("applied", version, 1)
        assert (await state(store))["plan"]["key"] == "basic"
        listed = (await desk.get("/v1/drift")).json()
        assert listed["drift"] == answer["drift"]
        assert listed["drift"][0]["there"] == {"items": [[price_id("basic"), 2]]}
        assert listed["counts"] == {**dict.fromkeys(KINDS, 0), "differs": 1}
        assert (await desk.post("/v1/tenants/acme/reconcile")).json()["outcome"] == "unchanged"

    async def test_the_list_goes_by_pages(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices
    ) -> None:
        for number in range(3):
            await paddle.act("upgrade", tenant=f"t{number}", plan="pro")
            assert (await desk.post(f"/v1/tenants/t{number}/reconcile")).json()["outcome"] == "applied"
        first = (await desk.get("/v1/drift?limit=2")).json()
        second = (await desk.get("/v1/drift", params={"limit": 2, "before": first["next"]})).json()
        assert [entry["topic"] for entry in first["drift"] + second["drift"]] == ["tenant:t2", "tenant:t1", "tenant:t0"]
        assert "next" not in second

    async def test_nobody_to_ask(self, store: Store, paddle: Paddle) -> None:
        async with desk_of(BillingServices(store, CatalogWatcher(EXAMPLE), {"paddle": Adapter()})) as desk:
            assert "no API key" in problem(await desk.post("/v1/tenants/acme/reconcile"), 503, "provider_unavailable")
        gone = PaddleClient("live", KEY, "http://127.0.0.1:9", LocalRateLimiter(100), timeout_s=1)
        services = BillingServices(store, CatalogWatcher(EXAMPLE), {"paddle": Adapter()}, {("paddle", "live"): gone})
        await paddle.act("upgrade", plan="pro")
        await tell(services, paddle)
        async with desk_of(services) as desk:
            problem(await desk.post("/v1/tenants/acme/reconcile"), 503, "provider_unavailable")
            problem(await desk.post("/v1/tenants/nobody/reconcile"), 503, "provider_unavailable")
        await gone.aclose()

    async def test_what_is_no_tenant_s_is_left_alone(self, desk: httpx2.AsyncClient, store: Store) -> None:
        await store.commit(Change("tenant:acme", b'{"own":1}', b'{"own":2}'))
        answer = (await desk.post("/v1/tenants/acme/reconcile")).json()
        assert (answer["outcome"], await state(store)) == ("unchanged", {"own": 1})


MINUTE_NS = 60 * 10**9


class Clock:
    """A clock that the test moves, and the provider's with it."""

    def __init__(self, paddle: Paddle) -> None:
        self._paddle = paddle
        self.ahead_ns = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_ns

    def move(self, minutes: float) -> None:
        self.ahead_ns += int(minutes * MINUTE_NS)
        self._paddle.ahead_us = self.ahead_ns // 1000


class TestScheduledChange:
    """A plan change that is held here, since the provider has none."""

    @pytest.fixture
    def clock(self, paddle: Paddle) -> Clock:
        return Clock(paddle)

    @pytest.fixture
    async def services(self, store: Store, paddle: Paddle, clock: Clock) -> AsyncIterator[BillingServices]:
        api = PaddleClient("live", KEY, paddle.url, LocalRateLimiter(1_000, 1_000), now_ns=clock)
        yield BillingServices(
            store, CatalogWatcher(EXAMPLE), {"paddle": Adapter()}, {("paddle", "live"): api}, now_ns=clock
        )
        await api.aclose()

    async def fire(self, services: BillingServices) -> None:
        await fire_now(services)

    async def begin(self, paddle: Paddle, services: BillingServices, minutes: int) -> str:
        """A Pro subscription whose period ends in so many minutes; returns when."""
        await paddle.act("upgrade", plan="pro", quantity=3, ends_in_s=minutes * 60)
        await tell(services, paddle)
        return str((await state(services.store))["period"]["ends_at"])

    async def items(self, paddle: Paddle) -> list[tuple[str, int]]:
        answer = (await paddle.http.get("/simulate/subscriptions", params={"tenant": "acme"})).json()
        return [(item["price"]["id"], item["quantity"]) for item in answer["subscriptions"][0]["items"]]

    async def test_s19_pro_now_and_basic_then(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store, clock: Clock
    ) -> None:
        ends_at = await self.begin(paddle, services, 50)
        answer = (await desk.post("/v1/tenants/acme/scheduled-change", json={"plan": "basic"})).json()
        scheduled = {
            "action": "change_plan",
            "plan": "basic",
            "effective_at": ends_at,
            "source": "app",
            "overdue": False,
        }
        assert (answer["scheduled"], answer["replaced"]) == (scheduled, False)
        assert instants.parse(answer["executes_at"]) == instants.parse(ends_at) - AHEAD_NS
        shown = await state(store)
        assert (shown["plan"]["key"], shown["scheduled"]) == ("pro", scheduled)
        cause = orjson.loads((await store.read("tenant:acme")).cause)
        assert cause == {"source": "app", "event_type": "scheduled_change.set", "by": "support"}
        score: Any = await store.redis.zscore("pw:{timers/live}:due", "tenant:acme")
        assert abs(score * 1000 - instants.parse(answer["executes_at"])) <= 1000

        await self.fire(services)
        assert await self.items(paddle) == [(price_id("pro"), 3)]
        clock.move(11)
        await self.fire(services)
        assert await self.items(paddle) == [(price_id("basic"), 3)]
        await tell(services, paddle)
        shown = await state(store)
        assert (shown["plan"]["key"], shown["limits"]["projects"], shown["scheduled"]) == (
            "pro",
            "unlimited",
            scheduled,
        )
        problem(await desk.delete("/v1/tenants/acme/scheduled-change"), 409, "already_executed")

        clock.move(40)
        await self.fire(services)
        shown = await state(store)
        assert (shown["plan"]["key"], "scheduled" in shown, "pending" in shown) == ("basic", False, False)
        assert codec.decode((await store.read("tenant:acme")).private).scheduled_changes == ()

    async def test_s19_items_that_show_the_lower_plan_already(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await self.begin(paddle, services, 50)
        await paddle.act("downgrade", plan="basic")
        await tell(services, paddle)
        assert (await state(store))["plan"]["key"] == "basic"
        answer = await desk.post("/v1/tenants/acme/scheduled-change", json={"plan": "basic", "keep": "pro"})
        assert answer.status_code == 200, answer.text
        shown = await state(store)
        assert (shown["plan"]["key"], shown["limits"]["seats"], shown["scheduled"]["plan"]) == ("pro", 3, "basic")

    async def test_without_a_key_it_takes_effect_when_the_items_show_it(
        self, paddle: Paddle, store: Store, clock: Clock
    ) -> None:
        services = BillingServices(store, CatalogWatcher(EXAMPLE), {"paddle": Adapter()}, now_ns=clock)
        await self.begin(paddle, services, 50)
        async with desk_of(services) as desk:
            await desk.post("/v1/tenants/acme/scheduled-change", json={"plan": "basic"})
        clock.move(51)
        await self.fire(services)
        shown = await state(store)
        assert (shown["plan"]["key"], shown["scheduled"]["overdue"]) == ("pro", True)
        await paddle.act("renew")
        await paddle.act("downgrade", plan="basic")
        await tell(services, paddle)
        shown = await state(store)
        assert (shown["plan"]["key"], "scheduled" in shown) == ("basic", False)

    @pytest.mark.parametrize("action", ["upgrade", "cancel", "cancel now"])
    async def test_s20_what_happens_before_makes_it_void(
        self,
        desk: httpx2.AsyncClient,
        paddle: Paddle,
        services: BillingServices,
        store: Store,
        clock: Clock,
        action: str,
    ) -> None:
        await paddle.act("upgrade", plan="basic", ends_in_s=50 * 60)
        await tell(services, paddle)
        # Held from Basic to Basic's neighbour would be an upgrade; so: from Pro, with Basic's items shown already.
        body = {"plan": "basic", "keep": "pro"} if action != "upgrade" else {"plan": "pro"}
        assert (await desk.post("/v1/tenants/acme/scheduled-change", json=body)).status_code == 200
        await paddle.act(*action.split()[:1], **({"when": "now"} if "now" in action else {}))
        await tell(services, paddle)
        shown = await state(store)
        assert shown.get("scheduled", {}).get("action") != "change_plan"
        assert codec.decode((await store.read("tenant:acme")).private).scheduled_changes == ()
        entries: Any = await store.redis.xrange(keys.events("tenant:acme"))
        assert any(b"is dropped" in fields[b"reason"] for _, fields in entries)
        before = await self.items(paddle)
        clock.move(60)
        await self.fire(services)
        assert await self.items(paddle) == before

    async def test_s20_it_is_replaced_and_deleted(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        ends_at = await self.begin(paddle, services, 50)
        first = instants.text(instants.parse(ends_at) - 5 * MINUTE_NS)
        for body, replaced in (({"plan": "basic", "effective_at": first}, False), ({"plan": "basic"}, True)):
            answer = (await desk.post("/v1/tenants/acme/scheduled-change", json=body)).json()
            assert answer["replaced"] is replaced
        assert (await state(store))["scheduled"]["effective_at"] == ends_at
        assert (await desk.delete("/v1/tenants/acme/scheduled-change")).json()["outcome"] == "applied"
        assert "scheduled" not in await state(store)
        problem(await desk.delete("/v1/tenants/acme/scheduled-change"), 404, "not_found")

    async def test_s21_a_refusal_before_the_bill_is_surfaced_and_tried_again(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store, clock: Clock
    ) -> None:
        await self.begin(paddle, services, 20)
        await desk.post("/v1/tenants/acme/scheduled-change", json={"plan": "basic"})
        await self.fire(services)
        assert (await state(store))["scheduled"]["problem"] == "subscription_locked_renewal"
        score: Any = await store.redis.zscore("pw:{timers/live}:due", "tenant:acme")
        assert score * 1000 <= clock() + EXECUTE_AGAIN_S * 10**9
        clock.move(21)
        await paddle.act("renew")
        await self.fire(services)
        shown = await state(store)
        assert (shown["plan"]["key"], "scheduled" in shown) == ("basic", False)
        assert await self.items(paddle) == [(price_id("basic"), 3)]

    async def test_s21_while_past_due_it_is_not_lost(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store, clock: Clock
    ) -> None:
        await self.begin(paddle, services, 50)
        await desk.post("/v1/tenants/acme/scheduled-change", json={"plan": "basic"})
        await paddle.act("past_due")
        await tell(services, paddle)
        clock.move(51)
        await self.fire(services)
        shown = await state(store)
        assert (shown["plan"]["key"], shown["scheduled"]["problem"]) == ("pro", "subscription_update_when_past_due")
        await paddle.act("recover")
        await self.fire(services)
        assert (await state(store))["plan"]["key"] == "basic"

    async def test_workers_execute_it_once(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        """Three of them, by the real clock."""
        await self.begin(paddle, services, 600)

        async def held() -> bool:
            """Whether it was taken: it is refused where the second was over before it came."""
            soon = instants.text(time.time_ns() + 10**9)
            answer = await desk.post("/v1/tenants/acme/scheduled-change", json={"plan": "basic", "effective_at": soon})
            return answer.status_code == 200

        await until(held)
        before = len(await paddle.events())
        workers = [Worker(services, ("live",), poll_s=0.02) for _ in range(3)]

        async def changed() -> bool:
            return bool((await state(store))["plan"]["key"] == "basic")

        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.run())
            await until(changed)
            for worker in workers:
                worker.stop()
        assert len(await paddle.events()) == before + 1

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({}, 422, "request_invalid"),
            ({"plan": 1}, 422, "request_invalid"),
            ({"plan": "basic", "effective_at": "tomorrow"}, 422, "request_invalid"),
            ({"plan": "basic", "billing_mode": "never"}, 422, "request_invalid"),
            ({"plan": "basic", "if_version": -1}, 422, "request_invalid"),
            ({"plan": "basic", "pln": "x"}, 422, "request_invalid"),
            ({"plan": "gold"}, 422, "plan_unknown"),
            ({"plan": "free"}, 422, "plan_not_sold"),
            ({"plan": "basic", "keep": "free"}, 422, "plan_not_sold"),
            ({"plan": "pro"}, 409, "nothing_to_change"),
            ({"plan": "basic", "effective_at": "2020-01-01T00:00:00Z"}, 422, "effective_at_invalid"),
            ({"plan": "basic", "effective_at": "2040-01-01T00:00:00Z"}, 422, "effective_at_invalid"),
            ({"plan": "basic", "subscription_id": "sub_other"}, 409, "no_subscription"),
            ({"plan": "basic", "if_version": 7}, 409, "version_conflict"),
        ],
    )
    async def test_what_cannot_be_held_is_refused_and_changes_nothing(
        self,
        desk: httpx2.AsyncClient,
        paddle: Paddle,
        services: BillingServices,
        store: Store,
        body: dict[str, Any],
        status: int,
        code: str,
    ) -> None:
        await self.begin(paddle, services, 50)
        before = await store.read("tenant:acme")
        problem(await desk.post("/v1/tenants/acme/scheduled-change", json=body), status, code)
        assert await store.read("tenant:acme") == before

    async def test_what_makes_no_sense_as_things_are(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices
    ) -> None:
        path, body = "/v1/tenants/acme/scheduled-change", {"plan": "basic"}
        problem(await desk.post(path, json=body), 409, "no_subscription")
        await self.begin(paddle, services, 50)
        await paddle.act("cancel")
        await tell(services, paddle)
        problem(await desk.post(path, json=body), 409, "cancel_scheduled")
        await paddle.act("uncancel")
        await paddle.act("past_due")
        await tell(services, paddle)
        problem(await desk.post(path, json=body), 422, "effective_at_required")
        for raw in (b"[]", b"{", b'"x"'):
            problem(await desk.post(path, content=raw), 422, "request_invalid")
        for raw, headers, code in (
            (gzip.compress(b'{"plan":"basic"}'), {"Content-Encoding": "gzip"}, "content_encoding_unsupported"),
            (gzip.compress(b'{"plan":"basic"}'), {}, "content_encoding_unsupported"),
            (b'{"plan":"basic"}', {"Content-Encoding": "br"}, "content_encoding_unsupported"),
            (b'\xef\xbb\xbf{"plan":"basic"}', {}, "charset_unsupported"),
            ('{"plan":"basic"}'.encode("utf-16"), {}, "charset_unsupported"),
        ):
            problem(await desk.post(path, content=raw, headers=headers), 415, code)
        problem(await desk.post(path, content=b"x" * 70_000), 413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/tenants/undefined/reconcile"),
        ("POST", "/v1/tenants/acme/reconcile?env=moon"),
        ("GET", "/v1/drift?limit=0"),
        ("GET", "/v1/drift?before=x"),
        ("GET", "/v1/drift?before=0-0"),
        ("GET", "/v1/drift?before=18446744073709551616-0"),
        ("GET", "/v1/drift?limit=0001001000000"),
        ("GET", "/v1/drift?limit=" + "1" * 5000),
        ("GET", "/v1/tenants/acme/history?limit=" + "0" * 4999 + "1"),
        ("GET", "/v1/drift?env=moon"),
    ],
)
async def test_bad_questions_are_refused(desk: httpx2.AsyncClient, method: str, path: str) -> None:
    problem(await desk.request(method, path), 422, "request_invalid")


async def test_the_guard_decides(services: BillingServices) -> None:
    routes: Any = billing_routes.routes(services, SETTINGS, let_in)
    async with desk_of(services, "wrong") as desk:
        for route in routes:
            path = (
                route.path.replace("{id}", "acme")
                .replace("{event_id}", "x")
                .replace("{preview_id}", "x")
                .replace("{kind}", "limit")
                .replace("{name}", "x")
            )
            for method in route.methods - {"HEAD"}:
                assert (await desk.request(method, path)).status_code == 401, path


async def test_a_store_that_is_away_is_told(
    services: BillingServices, desk: httpx2.AsyncClient, valkey: Server
) -> None:
    valkey.kill()
    problem(await desk.get("/v1/drift"), 503, "store_unavailable")
    problem(await desk.post("/v1/tenants/acme/reconcile"), 503, "store_unavailable")


class TestPreview:
    """What would be, bound to a version, and whether it came so."""

    async def begin(self, paddle: Paddle, services: BillingServices) -> int:
        await paddle.act("upgrade", plan="basic", quantity=2)
        await tell(services, paddle)
        return (await services.store.read("tenant:acme")).version

    async def drift(self, desk: httpx2.AsyncClient) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await desk.get("/v1/drift")).json()["drift"]
        return [entry for entry in found if entry["kind"] == "preview"]

    async def test_it_tells_and_changes_nothing(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        version = await self.begin(paddle, services)
        before = await store.read("tenant:acme")
        body = {"plan": "pro", "quantity": 5, "ask_provider": True}
        answer = (await desk.post("/v1/tenants/acme/preview", json=body)).json()
        assert await store.read("tenant:acme") == before
        assert (answer["version"], answer["state"]["plan"]["key"]) == (version, "pro")
        diff = {entry.pop("path"): entry for entry in answer["diff"]}
        assert diff == {
            "features.sso": {"to": True},
            "limits.projects": {"from": 25, "to": "unlimited"},
            "limits.seats": {"from": 2, "to": 5},
            "modules.analytics": {"from": "read", "to": "write"},
            "plan.key": {"from": "basic", "to": "pro"},
            "plan.name": {"from": "Basic", "to": "Pro"},
            "plan.rank": {"from": 10, "to": 20},
        }
        assert answer["provider"]["update_summary"]["result"]["action"] == "charge"
        assert answer["provider_differs"] == []

    async def test_what_was_confirmed_comes_as_foreseen(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await self.begin(paddle, services)
        answer = (await desk.post("/v1/tenants/acme/preview", json={"plan": "pro"})).json()
        path = f"/v1/tenants/acme/preview/{answer['preview_id']}/confirm"
        assert (await desk.post(path, json={"apply": True})).json()["outcome"] == "applied"
        shown = await state(store)
        assert {name: shown[name] for name in ENTITLEMENTS} == {name: answer["state"][name] for name in ENTITLEMENTS}
        await tell(services, paddle)
        assert codec.decode((await store.read("tenant:acme")).private).awaited_previews == ()
        assert await self.drift(desk) == []

    async def test_a_webhook_that_differs_from_its_preview_is_drift(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await self.begin(paddle, services)
        answer = (await desk.post("/v1/tenants/acme/preview", json={"plan": "pro", "quantity": 5})).json()
        await desk.post(f"/v1/tenants/acme/preview/{answer['preview_id']}/confirm")
        await paddle.act("upgrade", plan="pro", quantity=4)
        await tell(services, paddle)
        (found,) = await self.drift(desk)
        assert (found["subject"], found["version"]) == (answer["preview_id"], (await store.read("tenant:acme")).version)
        assert found["here"] == {"items": [[price_id("pro"), 5]]}
        assert found["there"] == {"items": [[price_id("pro"), 4]]}

    async def test_s25_a_preview_of_an_older_version_is_refused(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await self.begin(paddle, services)
        answer = (await desk.post("/v1/tenants/acme/preview", json={"plan": "pro"})).json()
        await paddle.act("seats", quantity=9)
        await tell(services, paddle)
        before = await store.read("tenant:acme")
        path = f"/v1/tenants/acme/preview/{answer['preview_id']}/confirm"
        problem(await desk.post(path, json={"apply": True}), 409, "preview_stale")
        assert await store.read("tenant:acme") == before
        problem(await desk.post("/v1/tenants/other/preview/" + answer["preview_id"] + "/confirm"), 404, "not_found")

    async def test_s24_a_charge_that_fails_leaves_the_old_plan_and_says_why(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await self.begin(paddle, services)
        await paddle.act("decline")
        answer = (await desk.post("/v1/tenants/acme/preview", json={"plan": "pro"})).json()
        path = f"/v1/tenants/acme/preview/{answer['preview_id']}/confirm"
        detail = problem(await desk.post(path, json={"apply": True}), 409, "provider_refused")
        assert "subscription_payment_declined" in detail
        snapshot = await store.read("tenant:acme")
        assert orjson.loads(snapshot.state)["plan"]["key"] == "basic"
        history = (await desk.get("/v1/tenants/acme/history")).json()
        assert history["events"][0]["type"] == "preview.refused"
        assert codec.decode(snapshot.private).awaited_previews == ()

    async def test_a_provider_s_preview_may_be_attached(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices
    ) -> None:
        await self.begin(paddle, services)
        item = {"price": {"id": price_id("pro")}, "quantity": 7}
        told = {"status": "active", "items": [item]}
        body = {"items": [{"price_id": price_id("pro"), "quantity": 5}], "provider_preview": told}
        answer = (await desk.post("/v1/tenants/acme/preview", json=body)).json()
        assert answer["provider_differs"] == [
            {"path": "items", "from": [[price_id("pro"), 5]], "to": [[price_id("pro"), 7]]}
        ]

    @pytest.mark.parametrize("when", ["now", "period_end"])
    async def test_a_cancel(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, when: str
    ) -> None:
        await self.begin(paddle, services)
        answer = (await desk.post("/v1/tenants/acme/preview", json={"cancel": when})).json()
        assert answer["state"]["plan"]["key"] == ("free" if when == "now" else "basic")
        assert ("scheduled" in answer["state"]) is (when == "period_end")

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({}, 422, "request_invalid"),
            ({"plan": "pro", "cancel": "now"}, 422, "request_invalid"),
            ({"cancel": "later"}, 422, "request_invalid"),
            ({"cancel": "now", "quantity": 2}, 422, "request_invalid"),
            ({"items": []}, 422, "request_invalid"),
            ({"items": [{"price_id": "x"}] * 101}, 422, "request_invalid"),
            ({"items": [{"price_id": "x", "quantity": -1}]}, 422, "request_invalid"),
            ({"items": ["x"]}, 422, "request_invalid"),
            ({"plan": "pro", "provider_preview": []}, 422, "request_invalid"),
            ({"plan": "pro", "provider_preview": {}}, 422, "request_invalid"),
            ({"plan": "pro", "ask_provider": 1}, 422, "request_invalid"),
            ({"plan": "gold"}, 422, "plan_unknown"),
            ({"items": [{"price_id": "pri_x"}]}, 422, "price_unknown"),
            ({"cancel": "now", "ask_provider": True}, 422, "request_invalid"),
        ],
    )
    async def test_what_cannot_be_previewed_is_refused(
        self,
        desk: httpx2.AsyncClient,
        paddle: Paddle,
        services: BillingServices,
        body: dict[str, Any],
        status: int,
        code: str,
    ) -> None:
        await self.begin(paddle, services)
        problem(await desk.post("/v1/tenants/acme/preview", json=body), status, code)
        problem(await desk.post("/v1/tenants/nobody/preview", json={"plan": "pro"}), 409, "no_subscription")


class TestOverrides:
    """What operators grant and take, over whatever is paid for."""

    path = "/v1/tenants/acme/overrides"

    async def test_granted_visible_and_gone_when_it_expires(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="basic", quantity=2)
        await tell(services, paddle)
        body = {"kind": "feature", "name": "sso", "value": True, "reason": "promised", "by": "eve"}

        async def grant() -> tuple[int, str] | None:
            """The version and when it ends; None where that was over before it was granted."""
            ends = instants.text(time.time_ns() + 10**9)
            answer = (await desk.post(self.path, json={**body, "expires_at": ends})).json()
            return (answer["version"], ends) if "sso" in (await state(store))["features"] else None

        granted_now = await until(grant)
        assert granted_now is not None
        version, ends = granted_now
        shown = await state(store)
        assert (shown["features"]["sso"], shown["valid_until"]) == (True, ends)
        snapshot = await store.read("tenant:acme")
        assert snapshot.version == version
        assert orjson.loads(snapshot.cause) == {
            "source": "operator",
            "event_type": "override.granted",
            "override": "feature:sso",
            "reason": "promised",
            "claimed_by": "eve",
            "by": "support",
            "expires_at": ends,
            "overrides": ["feature:sso"],
        }
        worker = Worker(services, ("live",), poll_s=0.02)

        async def gone() -> bool:
            return "sso" not in (await state(store))["features"]

        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            await until(gone)
            worker.stop()
        assert time.time_ns() >= instants.parse(ends)
        assert "overrides" not in orjson.loads((await store.read("tenant:acme")).cause)

    async def test_revoked_replaced_removed_and_kept_through_events(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="basic", quantity=2)
        await tell(services, paddle)
        await desk.post(self.path, json={"kind": "feature", "name": "export", "revoke": True, "reason": "abuse"})
        for value in (7, "unlimited"):
            await desk.post(self.path, json={"kind": "limit", "name": "seats", "value": value, "reason": "x"})
            assert (await state(store))["limits"]["seats"] == value
        await paddle.act("seats", quantity=3)
        await tell(services, paddle)
        shown = await state(store)
        assert ("export" in shown["features"], shown["limits"]["seats"]) == (False, "unlimited")
        await paddle.act("upgrade", plan="pro", quantity=3)
        await tell(services, paddle)
        told = orjson.loads((await store.read("tenant:acme")).cause)
        assert (told["source"], told["overrides"]) == ("paddle", ["feature:export", "limit:seats"])
        listed = (await desk.get(self.path)).json()["overrides"]
        assert listed == [
            {"kind": "feature", "name": "export", "revoke": True, "reason": "abuse", "by": "support"},
            {"kind": "limit", "name": "seats", "value": "unlimited", "reason": "x", "by": "support"},
        ]
        for path in ("feature/export", "limit/seats"):
            answer = await desk.request("DELETE", f"{self.path}/{path}", json={"by": "eve", "reason": "over"})
            assert answer.json()["outcome"] == "applied"
        newest, before, *_ = (await desk.get("/v1/tenants/acme/history")).json()["changes"]
        members = ("override", "claimed_by", "reason", "by")
        assert [tuple(entry["cause"][member] for member in members) for entry in (newest, before)] == [
            ("limit:seats", "eve", "over", "support"),
            ("feature:export", "eve", "over", "support"),
        ]
        assert ("overrides" in newest["cause"], before["cause"]["overrides"]) == (False, ["limit:seats"])
        shown = await state(store)
        assert (shown["features"]["export"], shown["limits"]["seats"]) == (True, 3)
        problem(await desk.delete(f"{self.path}/limit/seats"), 404, "not_found")

    async def test_it_ends_at_its_time_though_its_process_died_right_after_the_commit(
        self, services: BillingServices, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody sends it again: the timer, and the place on the list, must be there before."""
        send, ends_us = services.committer.send, time.time_ns() // 1000 + 3_600_000_000

        async def die_after(change: Change, batch: CommandPipeline) -> Committed:
            await send(change, batch)
            raise KeyboardInterrupt

        def grant(facts: model.Facts) -> model.Facts:
            override = instructions.Override("feature", "sso", True, "promised", ends_us * 1000)
            return add_override(facts, override, services.setting("live"))

        monkeypatch.setattr(services.committer, "send", die_after)
        with pytest.raises(KeyboardInterrupt):
            await BillingOperations(services).change(Asked("live", "tenant:acme"), "override.granted", grant)
        assert (await state(store))["features"]["sso"] is True
        redis: Any = store.redis
        assert await redis.zscore("pw:{timers/live}:due", "tenant:acme") == ends_us
        assert [topic async for topic in services.environment("live").topics()] == ["tenant:acme"]

    async def test_a_tenant_that_buys_nothing_may_have_some(self, desk: httpx2.AsyncClient, store: Store) -> None:
        await desk.post(self.path, json={"kind": "module", "name": "billing", "value": "write", "reason": "x"})
        shown = await state(store)
        assert (shown["plan"]["key"], shown["modules"]) == ("free", {"billing": "write"})

    async def test_they_are_limited_in_number(self, desk: httpx2.AsyncClient) -> None:
        body = {"kind": "feature", "value": True, "reason": "x"}
        for number in range(OVERRIDES_MAX):
            assert (await desk.post(self.path, json={**body, "name": f"f{number}"})).status_code == 200
        problem(await desk.post(self.path, json={**body, "name": "more"}), 409, "too_many_overrides")
        assert (await desk.post(self.path, json={**body, "name": "f1"})).status_code == 200

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"kind": "price"}, "request_invalid"),
            ({"kind": "plan", "name": "gold"}, "plan_unknown"),
            ({"kind": "plan", "value": None, "revoke": True}, "override_invalid"),
            ({"kind": "plan", "name": "pro", "trial": True}, "override_invalid"),
            ({"name": ""}, "request_invalid"),
            ({"reason": None}, "request_invalid"),
            ({"revoke": True}, "request_invalid"),
            ({"value": None}, "request_invalid"),
            ({"expires_at": "soon"}, "request_invalid"),
            ({"name": "no spaces"}, "override_invalid"),
            ({"value": False}, "override_invalid"),
            ({"value": [1]}, "override_invalid"),
            ({"kind": "limit", "value": -1}, "override_invalid"),
            ({"kind": "limit", "value": True}, "override_invalid"),
            ({"kind": "module", "value": "root"}, "override_invalid"),
            ({"expires_at": "2020-01-01T00:00:00Z"}, "override_invalid"),
        ],
    )
    async def test_bad_ones_are_refused(
        self, desk: httpx2.AsyncClient, store: Store, change: dict[str, Any], code: str
    ) -> None:
        body = {"kind": "feature", "name": "sso", "value": True, "reason": "x", **change}
        problem(await desk.post(self.path, json=body), 422, code)
        assert await store.redis.dbsize() == 0


class TestHistory:
    """What a support person reads, and what is left of it after an erasure."""

    async def test_what_changed_when_and_why(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="basic")
        await tell(services, paddle)
        await desk.post(
            "/v1/tenants/acme/overrides", json={"kind": "feature", "name": "sso", "value": True, "reason": "promised"}
        )
        answer = (await desk.get("/v1/tenants/acme/history")).json()
        newest, *_, oldest = answer["changes"]
        assert newest["cause"]["reason"] == "promised"
        assert newest["diff"] == [{"path": "features.sso", "to": True}]
        assert newest["version"] == (await store.read("tenant:acme")).version
        assert {"path": "plan.key", "to": "basic"} in oldest["diff"]
        assert answer["events"][0]["type"] == "override.granted"
        assert {entry["outcome"] for entry in answer["events"]} <= {"applied", "unchanged", "refused"}
        assert len((await desk.get("/v1/tenants/acme/history?limit=1")).json()["changes"]) == 1

    async def test_an_erased_tenant_is_gone_and_stays_so(
        self, desk: httpx2.AsyncClient, paddle: Paddle, services: BillingServices, store: Store
    ) -> None:
        await paddle.act("upgrade", plan="basic")
        await tell(services, paddle)
        await paddle.act("seats", quantity=4)
        await desk.post("/v1/tenants/acme/reconcile")
        assert (await desk.get("/v1/drift")).json()["drift"]
        before = await store.read("tenant:acme")
        event_ids = [json.loads(body)["event_id"] for body in await paddle.events()][:2]
        answer = (await desk.request("DELETE", "/v1/tenants/acme", json={"reason": "asked for"})).json()
        after = await store.read("tenant:acme")
        assert (answer, after.state) == ({"outcome": "applied", "version": after.version}, b"null")
        assert after.version > before.version
        assert (await desk.get("/v1/drift")).json()["drift"] == []
        history = (await desk.get("/v1/tenants/acme/history")).json()
        assert [entry["cause"]["event_type"] for entry in history["changes"]] == ["tenant.erased"]
        assert history["events"] == []
        assert [topic async for topic in services.environment("live").topics()] == []
        for event_id in event_ids:
            record = await services.environment("live").inbox.read(event_id)
            assert record is not None
            assert (record.status, record.body) == ("done", b"")

        await paddle.act("seats", quantity=5)
        newest = next(body for body in (await paddle.events())[::-1] if b'"subscription.updated"' in body)
        receipt = await services.ingest.receive(services.adapters["paddle"], newest, "live")
        assert (receipt.outcome, receipt.reason) == ("ignored", "the tenant was erased")
        assert (await desk.post("/v1/tenants/acme/reconcile")).json()["reason"] == "the tenant was erased"
        override = {"kind": "feature", "name": "sso", "value": True, "reason": "x"}
        problem(await desk.post("/v1/tenants/acme/overrides", json=override), 409, "not_changed")
        assert (await store.read("tenant:acme")).version == after.version
        again = await desk.request("DELETE", "/v1/tenants/acme", json={"reason": "asked for"})
        assert again.json() == {"outcome": "unchanged", "version": after.version}

    async def test_nothing_that_leads_to_an_erased_tenant_is_left(self, store: Store) -> None:
        """Bodies, links, previews, timers, lists: what names it afterwards is the tombstone and ids without content."""
        services = BillingServices(store, CatalogWatcher(EXAMPLE), {"paddle": Adapter()})
        price = price_id("pro")

        async def receive(number: float, **fields: Any) -> str:
            body = webhook(number, event_id=f"evt_{number:g}", **{"items": [(price, 1)], **fields})
            return (await services.ingest.receive(services.adapters["paddle"], body, "live")).outcome

        trial = {"starts_at": "2026-11-01T00:00:00Z", "ends_at": "2099-01-01T00:00:00Z"}
        assert await receive(5, status="trialing", current_billing_period=trial) == "applied"
        assert await receive(4) == "refused"
        assert await receive(6, id="sub_2", status="dormant") == "parked"
        assert await receive(7, id="sub_3", tenant="other", customer_id="ctm_3") == "applied"
        assert await receive(8, id="sub_3", status="canceled", customer_id="ctm_3") == "applied", "at the other"
        assert await receive(9, id="sub_4", tenant="other", status="dormant", customer_id="ctm_3") == "parked"
        await store.want_reconcile(["tenant:acme"])
        inbox = services.environment("live").inbox
        bodies = [record.body for number in (5, 4) if (record := await inbox.read(f"evt_{number}"))]
        assert [bool(body) for body in bodies] == [False, True], "a refused body is recorded, an applied one is not"
        async with desk_of(services) as desk:
            assert (await desk.post("/v1/tenants/acme/preview", json={"cancel": "now"})).status_code == 200
            assert {"sub_1", "ctm_1", "sub_2"} <= {id for id in IDS if (await traces(store, id))}
            erased = await desk.request("DELETE", "/v1/tenants/acme", json={"reason": "asked for"})
        assert erased.json()["outcome"] == "applied"
        assert await traces(store, "ctm_1") == []
        for id in ("sub_1", "sub_2"):
            assert await traces(store, id) == [f"pw:{{link/live/subscription:paddle:{id}}}"]
            assert await store.redis.get(f"pw:{{link/live/subscription:paddle:{id}}}") == b"!erased"
        names = [name for name in await traces(store, "acme") if not name.startswith("pw:{inbox/live}:event:")]
        assert names == ["pw:{tenant:acme}:log", "pw:{tenant:acme}:snap"]
        assert [record.event_id for record in await inbox.parked(None, 10)] == ["evt_9"]
        assert await inbox.counts() == (0, 1)

        assert await receive(10, tenant=None) == "ignored", "its subscription is known for an erased one's"
        assert await receive(11, id="sub_9", customer_id="ctm_9") == "ignored"
        await store.redis.hset("pw:{tenant:acme}:snap", "private", "")  # what a store that lost its tail is given back
        assert await receive(12, id="sub_10", customer_id="ctm_9") == "ignored"
        assert await traces(store, "ctm_9") == []
        assert await traces(store, "sub_9") == ["pw:{link/live/subscription:paddle:sub_9}"]
        assert (await counters.read(store))["erased_events", (("env", "live"),)] == 3
        assert (await state(store, "tenant:other"))["plan"]["key"] == "free"

    async def test_an_erasure_that_was_cut_off_is_done_when_it_is_asked_for_again(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        services = BillingServices(store, CatalogWatcher(EXAMPLE), {"paddle": Adapter()})
        body = webhook(5, items=[(price_id("pro"), 1)])
        await services.ingest.receive(services.adapters["paddle"], body, "live")

        async def fail(*_: object) -> None:
            raise StoreError("gone")

        with monkeypatch.context() as patched:
            patched.setattr(Inbox, "parked", fail)
            with pytest.raises(StoreError):
                await services.erasure.erase("live", "tenant:acme", "asked for", {})
        assert await state(store) is None
        assert await traces(store, "ctm_1") != []
        assert (await services.erasure.erase("live", "tenant:acme", "asked for", {})).outcome == "unchanged"
        assert await traces(store, "ctm_1") == []
        assert await store.redis.exists("pw:{tenant:acme}:erasing") == 0

    async def test_what_cannot_be_erased(self, desk: httpx2.AsyncClient, store: Store) -> None:
        path = "/v1/tenants/acme"
        problem(await desk.request("DELETE", path, json={}), 422, "request_invalid")
        problem(await desk.request("DELETE", path, json={"reason": "x"}), 404, "not_found")
        await store.commit(Change("tenant:acme", b'{"own":1}', b'{"own":2}', owner=BILLING))
        problem(await desk.request("DELETE", path, json={"reason": "x"}), 409, "not_changed")
        assert await state(store) == {"own": 1}
