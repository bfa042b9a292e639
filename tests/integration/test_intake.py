"""Webhooks through the real HTTP door, on a real store: what is accepted, refused, parked, and never lost."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from redis.asyncio.connection import AbstractConnection
from starlette.applications import Starlette
from starlette.requests import Request

from planwire_client.core.commit import BILLING
from sync import bootstrap
from sync.billing.api import routes as billing_routes
from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import Event
from sync.billing.domain.outcome import EventResult
from sync.billing.providers.base import ProviderUnavailable
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.billing.providers.stripe import webhooks as stripe
from sync.billing.services.events.attempt import Processed
from sync.billing.services.wiring import BillingServices
from sync.http.endpoint import Caller
from sync.http.problem import Problem
from sync.settings import SyncSettings
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, StoreError
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support import bodies, stripe_bodies
from tests.support.bodies import SANDBOX_SECRET, SECRET, official, signature, webhook
from tests.support.inbox import take_up
from tests.support.servers import Server, start_valkey

CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true
limits = { seats = 1 }

[plans.basic]
name = "Basic"
rank = 10
prices.paddle.live = ["pri_basic"]

[plans.pro]
name = "Pro"
rank = 20
per_unit.limits = { seats = 1 }
prices.paddle.live = ["pri_pro"]
prices.paddle.sandbox = ["pri_pro_sandbox"]
"""

BODY_MAX_BYTES = 1_048_576


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.toml"
    path.write_text(CATALOG)
    return path


@pytest.fixture
def settings(catalog: Path) -> SyncSettings:
    return SyncSettings.from_env(
        {
            "PLANWIRE_PADDLE_SECRETS": f"live:{SECRET},sandbox:{SANDBOX_SECRET}",
            "PLANWIRE_CATALOG": str(catalog),
        }
    )


@pytest.fixture
async def services(store: Store, settings: SyncSettings) -> BillingServices:
    return await bootstrap.build_services(store, settings)


async def let_in(request: Request) -> Caller:
    if request.headers.get("authorization") != "Bearer key":
        raise Problem("key_invalid", "")
    return Caller("support", lambda scope, topic: None)


@asynccontextmanager
async def door_of(services: BillingServices, settings: SyncSettings) -> AsyncIterator[httpx2.AsyncClient]:
    app = Starlette(routes=billing_routes.routes(services, settings, let_in))
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://door") as client:
        yield client


@pytest.fixture
async def door(services: BillingServices, settings: SyncSettings) -> AsyncIterator[httpx2.AsyncClient]:
    async with door_of(services, settings) as client:
        yield client


async def deliver(door: httpx2.AsyncClient, body: bytes, secret: str = SECRET, **headers: str) -> httpx2.Response:
    signed = {"Paddle-Signature": signature(body, int(time.time()), secret)}
    return await door.post("/webhooks/paddle", content=body, headers={**signed, **headers})


def edit(catalog: Path) -> None:
    """Teach the catalog the price `pri_new`."""
    catalog.write_text(CATALOG.replace('"pri_basic"', '"pri_basic", "pri_new"'))


async def outcome(door: httpx2.AsyncClient, body: bytes, secret: str = SECRET) -> str:
    response = await deliver(door, body, secret)
    assert response.status_code == 200, response.text
    return str(response.json()["outcome"])


async def state(store: Store, topic: str = "tenant:acme") -> Any:
    return orjson.loads((await store.read(topic)).state)


async def events(store: Store, topic: str = "tenant:acme") -> list[dict[str, str]]:
    entries: Any = await store.redis.xrange(keys.events(topic))
    return [{key.decode(): value.decode() for key, value in fields.items()} for _, fields in entries]


async def parked(door: httpx2.AsyncClient, **query: str) -> list[dict[str, Any]]:
    response = await door.get("/v1/parked", params=query, headers={"Authorization": "Bearer key"})
    assert response.status_code == 200
    found: list[dict[str, Any]] = response.json()["parked"]
    return found


def problem(response: httpx2.Response, status: int, code: str) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert (response.status_code, document["status"], document["code"]) == (status, status, code)
    return str(document["detail"])


async def test_a_signed_event_becomes_state(door: httpx2.AsyncClient, store: Store) -> None:
    body = webhook(1, items=[("pri_pro", 7)])
    response = await deliver(door, body)
    snapshot = await store.read("tenant:acme")
    assert response.json() == {"outcome": "applied", "version": snapshot.version}
    assert orjson.loads(snapshot.state) == {
        "plan": {"key": "pro", "name": "Pro", "rank": 20},
        "status": "active",
        "features": {},
        "limits": {"seats": 7},
        "modules": {},
    }
    cause = orjson.loads(snapshot.cause)
    assert (cause["source"], cause["event_id"]) == ("paddle", json.loads(body)["event_id"])
    assert cause["occurred_at"] == "2026-11-02T00:00:00Z"
    assert list(codec.decode(snapshot.private).subscriptions) == ["paddle:sub_1"]


async def test_s01_the_same_event_again_is_a_duplicate(door: httpx2.AsyncClient, store: Store) -> None:
    first = webhook(1, event_id="evt_same")
    again = json.dumps({**json.loads(first), "notification_id": "ntf_other"}).encode()
    applied = (await deliver(door, first)).json()
    assert (await deliver(door, again)).json() == {
        "outcome": "duplicate",
        "version": applied["version"],
        "reason": "applied",
    }
    assert len(await store.log("tenant:acme")) == 1


async def test_s02_deliveries_at_the_same_instant_make_one_version(
    store_url: str, settings: SyncSettings, store: Store
) -> None:
    """Two processes, each with a services of its own, and eight deliveries of one event between them."""
    other = connect(store_url).store
    try:
        first, second = await bootstrap.build_services(store, settings), await bootstrap.build_services(other, settings)
        async with door_of(first, settings) as one, door_of(second, settings) as two:
            body = webhook(1)
            outcomes = await asyncio.gather(*(outcome(door, body) for door in (one, two) * 4))
    finally:
        await other.aclose()
    assert sorted(outcomes) == ["applied"] + ["duplicate"] * 7
    assert len(await store.log("tenant:acme")) == 1


async def test_s04_an_older_event_is_refused_and_recorded(door: httpx2.AsyncClient, store: Store) -> None:
    assert await outcome(door, webhook(2, "subscription.canceled", status="canceled")) == "applied"
    response = await deliver(door, webhook(1))
    assert response.json()["outcome"] == "refused"
    assert (await state(store))["plan"]["key"] == "free"
    recorded = (await events(store))[-1]
    assert recorded["outcome"] == "refused"
    assert recorded["reason"].startswith("older than evt_")


async def test_s17_cancel_then_rebuy(door: httpx2.AsyncClient, store: Store) -> None:
    assert await outcome(door, webhook(1, id="sub_old")) == "applied"
    assert await outcome(door, webhook(3, id="sub_new", items=[("pri_basic", 1)])) == "applied"
    assert await outcome(door, webhook(2, id="sub_old", status="canceled")) == "applied"
    assert (await state(store))["plan"]["key"] == "basic"


async def test_s26_environments_do_not_touch_each_other(door: httpx2.AsyncClient, store: Store) -> None:
    assert await outcome(door, webhook(1, items=[("pri_pro_sandbox", 1)]), SANDBOX_SECRET) == "applied"
    assert (await state(store, "sandbox/tenant:acme"))["plan"]["key"] == "pro"
    assert (await store.read("tenant:acme")).version == 0
    # A live price means nothing in the sandbox, whoever signed it.
    assert await outcome(door, webhook(2, items=[("pri_pro", 1)]), SANDBOX_SECRET) == "parked"


async def test_s27_a_simulated_event_is_stored_and_not_applied_on_live(
    door: httpx2.AsyncClient, store: Store, services: BillingServices
) -> None:
    assert await outcome(door, webhook(1, event_id="ntfsimevt_1")) == "ignored"
    assert (await store.read("tenant:acme")).version == 0
    record = await services.environment("live").inbox.read("ntfsimevt_1")
    assert record is not None
    assert record.reason == "simulated event in the live environment"
    sandbox = webhook(1, event_id="ntfsimevt_2", items=[("pri_pro_sandbox", 1)])
    assert await outcome(door, sandbox, SANDBOX_SECRET) == "applied"


class TestSignature:
    """What is refused at the door changes nothing."""

    async def test_malformed(self, door: httpx2.AsyncClient) -> None:
        assert "missing" in problem(await door.post("/webhooks/paddle", content=b"{}"), 400, "signature_malformed")

    async def test_forged(self, door: httpx2.AsyncClient, store: Store) -> None:
        problem(await deliver(door, webhook(1), "pdl_ntfset_wrong"), 403, "signature_invalid")
        assert await store.redis.dbsize() == 0

    async def test_s29_expired_speaks_of_clocks(self, door: httpx2.AsyncClient, store: Store) -> None:
        body = webhook(1)
        for skew_s, words in ((-900, "ahead of"), (900, "behind")):
            header = signature(body, int(time.time()) - skew_s, SECRET)
            response = await door.post("/webhooks/paddle", content=body, headers={"Paddle-Signature": header})
            detail = problem(response, 403, "signature_expired")
            assert words in detail
            assert "clock" in detail
        assert await store.redis.dbsize() == 0

    async def test_too_large(self, door: httpx2.AsyncClient) -> None:
        problem(await deliver(door, b"x" * (BODY_MAX_BYTES + 1)), 413, "body_too_large")

    async def test_too_large_without_a_length(self, door: httpx2.AsyncClient) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(9):
                yield b"x" * 131_072

        problem(await door.post("/webhooks/paddle", content=chunks()), 413, "body_too_large")

    async def test_the_largest_body_is_taken(self, door: httpx2.AsyncClient) -> None:
        assert await outcome(door, b"x" * BODY_MAX_BYTES) == "parked"


class TestParked:
    """Events that cannot be used yet: kept, visible, retried when their cause is gone."""

    async def test_s35_an_unknown_tenant_waits_for_its_link_and_keeps_its_order(
        self, door: httpx2.AsyncClient, store: Store
    ) -> None:
        assert await outcome(door, webhook(2, tenant=None, items=[("pri_pro", 9)])) == "parked"
        assert await outcome(door, webhook(1, tenant=None, items=[("pri_pro", 4)])) == "parked"
        listed = await parked(door)
        assert [entry["waits_on"][0] for entry in listed] == ["subscription:paddle:sub_1"] * 2
        assert "no tenant is known for sub_1" in listed[0]["reason"]
        bought = {
            "id": "txn_1",
            "subscription_id": "sub_1",
            "customer_id": "ctm_1",
            "custom_data": {"tenant_id": "acme"},
        }
        hint = json.dumps(bodies.envelope(bought, event_type="transaction.completed")).encode()
        assert await outcome(door, hint) == "unchanged"
        assert (await state(store))["limits"]["seats"] == 9
        assert await parked(door) == []
        assert await outcome(door, webhook(3, tenant=None, items=[("pri_pro", 5)])) == "applied"

    async def test_a_customer_with_one_tenant_tells_it_and_with_two_does_not(
        self, door: httpx2.AsyncClient, store: Store
    ) -> None:
        assert await outcome(door, webhook(1, id="sub_2", tenant=None)) == "parked"
        assert await outcome(door, webhook(1, id="sub_1", tenant="acme")) == "applied"
        assert len(codec.decode((await store.read("tenant:acme")).private).subscriptions) == 2
        assert await outcome(door, webhook(1, id="sub_3", tenant="other")) == "applied"
        assert await outcome(door, webhook(1, id="sub_4", tenant=None)) == "parked"

    async def test_a_link_learned_between_the_look_and_the_parking_counts_though_nobody_looks_again(
        self, settings: SyncSettings, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The store goes, or the process is killed, right after an event was parked whose link was learned before."""
        first, other = await bootstrap.build_services(store, settings), await bootstrap.build_services(store, settings)
        finish = first.ingest.finisher.finish

        async def learned_meanwhile(processed: Processed) -> EventResult:
            await other.ingest.receive(PaddleWebhooks(), webhook(2), "live")
            return await finish(processed)

        async def cut_off(event: Event) -> None:
            raise StoreError("away")

        with monkeypatch.context() as patched:
            patched.setattr(first.ingest.finisher, "finish", learned_meanwhile)
            patched.setattr(first.ingest.finisher, "recheck_link", cut_off)
            with pytest.raises(StoreError):
                await first.ingest.receive(PaddleWebhooks(), webhook(3, event_id="evt_cut", tenant=None), "live")
        inbox = first.environment("live").inbox
        record = await inbox.read("evt_cut")
        assert record is not None
        assert record.status == "parked"
        claimed = await take_up(inbox)
        assert claimed.event_id == "evt_cut"
        assert (await first.ingest.resume(claimed, "live")).outcome == "applied"
        assert await inbox.counts() == (0, 0)

    async def test_one_that_waits_for_its_link_is_left_alone_by_the_clock(
        self, settings: SyncSettings, store: Store
    ) -> None:
        services = await bootstrap.build_services(store, settings)
        assert (await services.ingest.receive(PaddleWebhooks(), webhook(1, tenant=None), "live")).outcome == "parked"
        assert await services.environment("live").inbox.counts() == (0, 1)

    async def test_a_subscription_that_changes_hands_moves(self, door: httpx2.AsyncClient, store: Store) -> None:
        assert await outcome(door, webhook(1)) == "applied"
        assert await outcome(door, webhook(2, tenant="other")) == "applied"
        assert (await state(store))["plan"]["key"] == "free"
        assert (await state(store, "tenant:other"))["plan"]["key"] == "pro"

    async def test_a_tenant_that_cannot_be_a_topic_is_none(self, door: httpx2.AsyncClient) -> None:
        assert await outcome(door, webhook(1, tenant="undefined")) == "parked"
        assert await outcome(door, webhook(1, tenant="x" * 129)) == "parked"

    async def test_s36_an_unknown_price_holds_the_last_state_until_the_catalog_knows_it(
        self, door: httpx2.AsyncClient, store: Store, catalog: Path
    ) -> None:
        assert await outcome(door, webhook(1)) == "applied"
        before = await store.read("tenant:acme")
        new = webhook(2, event_id="evt_new", items=[("pri_new", 1)])
        assert await outcome(door, new) == "parked"
        after = await store.read("tenant:acme")
        assert (after.version, after.state) == (before.version, before.state)
        (entry,) = await parked(door)
        assert (entry["reason"], entry["waits_on"], entry["topic"]) == (
            "unknown price pri_new in live",
            ["catalog", "items:paddle:sub_1"],
            "tenant:acme",
        )
        edit(catalog)
        retried = await door.post("/v1/parked/evt_new/retry", headers={"Authorization": "Bearer key"})
        assert retried.json()["outcome"] == "applied"
        assert (await state(store))["plan"]["key"] == "basic"
        assert await parked(door) == []

    async def test_a_parked_event_that_comes_again_is_tried_again(
        self, door: httpx2.AsyncClient, catalog: Path
    ) -> None:
        new = webhook(1, items=[("pri_new", 1)])
        assert await outcome(door, new) == "parked"
        assert await outcome(door, new) == "parked"
        assert len(await parked(door)) == 1
        edit(catalog)
        assert await outcome(door, new) == "applied"
        assert await outcome(door, new) == "duplicate"

    async def test_s34_what_is_not_understood_is_kept_and_answered_200(
        self, door: httpx2.AsyncClient, store: Store, services: BillingServices
    ) -> None:
        assert await outcome(door, webhook(1)) == "applied"
        before = await store.read("tenant:acme")
        odd = webhook(4, scheduled_change={"action": "explode", "effective_at": "2026-12-01T00:00:00Z"})
        assert await outcome(door, webhook(3, status="inactive")) == "parked"
        assert await outcome(door, odd) == "parked"
        assert await outcome(door, b"not json") == "parked"
        unknown = json.dumps(bodies.envelope({"id": "x"}, event_type="moon.rose", event_id="evt_moon")).encode()
        assert await outcome(door, unknown) == "ignored"
        assert await store.read("tenant:acme") == before
        assert [entry["reason"] for entry in await parked(door)] == [
            "unknown status 'inactive'",
            "unknown scheduled action 'explode'",
            "unparsable: the body is not JSON",
        ]
        kept = await services.environment("live").inbox.read("evt_moon")
        assert kept is not None
        assert kept.body == unknown
        # Later good news is taken as ever.
        assert await outcome(door, webhook(5, items=[("pri_basic", 1)])) == "applied"

    async def test_the_list_goes_by_pages_and_by_environment(self, door: httpx2.AsyncClient) -> None:
        for number in range(5):
            assert await outcome(door, webhook(1, id=f"sub_{number}", tenant=None)) == "parked"
        key = {"Authorization": "Bearer key"}
        seen: list[str] = []
        page = (await door.get("/v1/parked?limit=2", headers=key)).json()
        while True:
            seen += [entry["event_id"] for entry in page["parked"]]
            if "next" not in page:
                break
            page = (await door.get("/v1/parked", params={"limit": "2", "after": page["next"]}, headers=key)).json()
        assert seen == [entry["event_id"] for entry in await parked(door)]
        assert len(set(seen)) == 5
        assert await parked(door, env="sandbox") == []

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=501",
            "limit=x",
            "limit=0001001000000",
            "limit=" + "9" * 5000,
            "after=x",
            "after=1e3.a",
            "env=moon",
        ],
    )
    async def test_bad_questions_are_refused(self, door: httpx2.AsyncClient, query: str) -> None:
        problem(await door.get(f"/v1/parked?{query}", headers={"Authorization": "Bearer key"}), 422, "request_invalid")

    async def test_the_guard_decides(self, door: httpx2.AsyncClient) -> None:
        assert (await door.get("/v1/parked")).status_code == 401
        assert (await door.post("/v1/parked/evt_1/retry")).status_code == 401
        key = {"Authorization": "Bearer key"}
        problem(await door.post("/v1/parked/evt_1/retry", headers=key), 404, "not_found")

    async def test_without_a_guard_or_secrets_there_is_no_route(
        self, services: BillingServices, settings: SyncSettings
    ) -> None:
        assert [route.path for route in billing_routes.routes(services, settings)] == ["/webhooks/paddle"]
        assert billing_routes.routes(services, SyncSettings.from_env({})) == []


async def test_private_that_is_not_facts_parks_the_event(door: httpx2.AsyncClient, store: Store) -> None:
    """Billing's own, by a newer build. What a publisher has stored there is no reason to park a purchase."""
    await store.commit(Change("tenant:acme", b'{"own":1}', b'{"own":2}', owner=BILLING))
    assert await outcome(door, webhook(1)) == "parked"
    assert await state(store) == {"own": 1}


async def test_many_events_of_one_tenant_at_once_all_count(
    store_url: str, settings: SyncSettings, store: Store
) -> None:
    """Thirty subscriptions, two processes: compare-and-set lets none overwrite another."""
    other = connect(store_url).store
    try:
        first, second = await bootstrap.build_services(store, settings), await bootstrap.build_services(other, settings)
        async with door_of(first, settings) as one, door_of(second, settings) as two:
            deliveries = [outcome((one, two)[n % 2], webhook(1, id=f"sub_{n}")) for n in range(30)]
            assert set(await asyncio.gather(*deliveries)) == {"applied"}
        assert len(first.committer.locks) == 0
    finally:
        await other.aclose()
    facts = codec.decode((await store.read("tenant:acme")).private)
    assert len(facts.subscriptions) == 30


async def test_s31_a_store_that_is_away_is_answered_503(settings: SyncSettings, valkey: Server, store: Store) -> None:
    services = await bootstrap.build_services(store, settings)
    async with door_of(services, settings) as door:
        assert await outcome(door, webhook(1)) == "applied"
        valkey.kill()
        response = await deliver(door, webhook(2))
        problem(response, 503, "store_unavailable")
        assert int(response.headers["retry-after"]) > 0


async def test_s31_a_store_that_forgets_its_scripts_is_taught_again(door: httpx2.AsyncClient, store: Store) -> None:
    assert await outcome(door, webhook(1)) == "applied"
    await store.redis.script_flush()
    assert await outcome(door, webhook(2, items=[("pri_basic", 1)])) == "applied"


async def test_durable_means_on_disk_before_the_answer(settings: SyncSettings) -> None:
    with start_valkey(aof=True) as server:
        store = connect(server.url, durable=True).store
        async with door_of(await bootstrap.build_services(store, settings), settings) as door:
            assert await outcome(door, webhook(1)) == "applied"
            state_of_file = (await store.redis.info("persistence"))["aof_last_write_status"]
            assert state_of_file == "ok"
        await store.aclose()
    with start_valkey() as server:  # it keeps no file: what cannot be made durable is not answered 200
        store = connect(server.url, durable=True).store
        async with door_of(await bootstrap.build_services(store, settings), settings) as door:
            problem(await deliver(door, webhook(1)), 503, "store_unavailable")
        await store.aclose()


@pytest.mark.parametrize(
    "kind", ["activated", "canceled", "created", "past_due", "paused", "resumed", "trialing", "updated"]
)
async def test_official_bodies_are_accepted(kind: str, tmp_path: Path, store: Store, settings: SyncSettings) -> None:
    """The provider's own bodies, with its prices in the catalog and a tenant where the seller puts it."""
    data = official(f"subscription.{kind}")
    prices = json.dumps(sorted({item["price"]["id"] for item in data["items"]}))
    path = tmp_path / "official.toml"
    path.write_text(CATALOG.replace('["pri_pro"]', prices))
    services = BillingServices(store, CatalogWatcher(path), {"paddle": PaddleWebhooks()})
    data["custom_data"] = {"tenant_id": "acme"}
    body = json.dumps(bodies.envelope(data, event_type=f"subscription.{kind}", occurred_at=data["updated_at"])).encode()
    async with door_of(services, settings) as door:
        assert await outcome(door, body) == "applied"
    published = await state(store)
    assert published["status"] == data["status"]
    assert published["plan"]["key"] == ("pro" if data["status"] in ("active", "trialing") else "free")


async def test_official_bodies_without_a_tenant_are_parked(door: httpx2.AsyncClient) -> None:
    """Every official body has custom_data null."""
    data = official("subscription.created")
    body = json.dumps(bodies.envelope(data, event_type="subscription.created", occurred_at=data["updated_at"])).encode()
    assert await outcome(door, body) == "parked"
    transaction = official("transaction.completed")
    body = json.dumps(bodies.envelope(transaction, event_type="transaction.completed")).encode()
    assert await outcome(door, body) == "ignored"


class TestStripe:
    """The second provider, through the same door and services."""

    SECRET = "whsec_live"

    @pytest.fixture
    def settings(self, tmp_path: Path) -> SyncSettings:
        path = tmp_path / "stripe.toml"
        path.write_text(CATALOG.replace('prices.paddle.live = ["pri_pro"]', 'prices.stripe.live = ["price_pro"]'))
        return SyncSettings.from_env({"PLANWIRE_STRIPE_SECRETS": f"live:{self.SECRET}", "PLANWIRE_CATALOG": str(path)})

    async def deliver(self, door: httpx2.AsyncClient, body: bytes, secret: str = SECRET) -> httpx2.Response:
        now = int(time.time())
        mark = hmac.new(secret.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
        return await door.post("/webhooks/stripe", content=body, headers={"Stripe-Signature": f"t={now},v1={mark}"})

    def thin(self) -> bytes:
        raw = {
            "id": "evt_thin",
            "type": "v1.billing.subscription.updated",
            "created": "2026-11-23T02:13:20Z",
            "related_object": {"id": "sub_1"},
        }
        return json.dumps(raw).encode()

    async def test_from_a_signed_event_to_state(self, door: httpx2.AsyncClient, store: Store) -> None:
        events = [
            stripe_bodies.envelope(stripe_bodies.body(), id="evt_1"),
            stripe_bodies.envelope(stripe_bodies.body(status="canceled"), id="evt_2", created=stripe_bodies.NOW + 1),
        ]
        for body in events[::-1]:
            assert (await self.deliver(door, body)).status_code == 200
        assert (await state(store))["status"] == "canceled"
        assert (await self.deliver(door, events[0])).json()["outcome"] == "duplicate"
        assert orjson.loads((await store.read("tenant:acme")).cause)["source"] == "stripe"
        problem(await self.deliver(door, events[0], "whsec_wrong"), 403, "signature_invalid")

    async def test_a_thin_event_without_anybody_to_ask_is_parked(self, door: httpx2.AsyncClient) -> None:
        assert (await self.deliver(door, self.thin())).json()["outcome"] == "parked"
        assert "cannot be asked" in (await parked(door))[0]["reason"]

    async def test_a_thin_event_is_fetched(self, store: Store, settings: SyncSettings) -> None:
        """By the fetch hook: whatever asks Stripe is given to the services as its source."""

        class Source:
            away = True

            async def fetch(self, subscription_id: str, max_wait_s: float, *, background: bool = False) -> Event:
                if self.away:
                    raise ProviderUnavailable("away")
                return stripe.fetched(stripe_bodies.body(id=subscription_id), "live", time.time_ns())

        source: Any = Source()
        services = BillingServices(
            store,
            CatalogWatcher(settings.catalog_path),
            {"stripe": stripe.StripeWebhooks()},
            {("stripe", "live"): source},
        )
        async with door_of(services, settings) as door:
            answer = (await self.deliver(door, self.thin())).json()
            assert (answer["outcome"], "tried again in" in answer["reason"]) == ("parked", True)
            assert (await store.read("tenant:acme")).version == 0
            assert await services.environment("live").inbox.counts() == (1, 0)
            source.away = False
            await services.ingest.postpone("live", "evt_thin", 0)
            record = await take_up(services.environment("live").inbox)
            assert (await services.ingest.resume(record, "live")).outcome == "applied"
        shown = await state(store)
        assert (shown["plan"]["key"], shown["limits"]["seats"]) == ("pro", 3)


async def test_an_event_of_a_known_tenant_takes_four_round_trips(
    door: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inbox, link and snapshot; the commit; the event log; the end. Each more costs a tenth of the throughput."""
    assert await outcome(door, webhook(1)) == "applied"
    trips = 0
    send: Any = AbstractConnection.send_packed_command

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal trips
        trips += 1
        return await send(self, *args, **kwargs)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)
    assert await outcome(door, webhook(2, items=[("pri_basic", 1)])) == "applied"
    assert trips == 4
