"""Provider, store and tabs of one tenant side by side, asked of one of several gateways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.fleet import ask
from planwire_client.core.commit import BILLING
from sync.billing.domain.facts.drift import KINDS
from sync.store import counters
from sync.store.models import Change
from sync.store.store import Store
from tests.support.bodies import SECRET
from tests.support.gateway import PUBLISH_KEY, Running, environment, open_client, run_gateway
from tests.support.paddle import KEY, Paddle, simulating
from tests.support.wait import until

TOPIC = "tenant:acme"
PATH = "/v1/tenants/acme"


@pytest.fixture
async def paddle(tmp_path: Path) -> AsyncIterator[Paddle]:
    async with simulating(tmp_path) as paddle:
        yield paddle


@pytest.fixture
async def door(store_url: str, paddle: Paddle) -> AsyncIterator[Running]:
    """A gateway that takes webhooks and can ask the provider."""
    environ = environment(
        store_url,
        INTAKE="1",
        DEV="1",
        PADDLE_SECRETS=f"live:{SECRET}",
        PADDLE_API_KEYS=f"live:{KEY}",
        PADDLE_API_URL=paddle.url,
        ACK_AFTER_MS="0",
    )
    async with run_gateway(environ) as running:
        yield running


@pytest.fixture
async def http(door: Running) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"Authorization": f"Bearer {PUBLISH_KEY}"}
    async with httpx2.AsyncClient(base_url=door.url, headers=headers) as http:
        yield http


async def status(http: httpx2.AsyncClient) -> dict[str, Any]:
    answer = await http.get(f"{PATH}/status")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def shows(http: httpx2.AsyncClient, tabs: dict[str, int]) -> dict[str, Any]:
    """The standing, once it has these figures: a gateway that was held up is told as silent, for once."""

    async def found() -> dict[str, Any]:
        document = await status(http)
        assert {name: document["tabs"].get(name) for name in tabs} == tabs, document["tabs"]
        return document

    return await until(found)


async def test_provider_store_and_tabs_of_all_gateways(
    http: httpx2.AsyncClient, door: Running, store: Store, store_url: str, paddle: Paddle
) -> None:
    before = await status(http)
    assert before["provider"] == {"can_be_asked": True, "subscriptions": {}}
    assert (before["store"], before["version"]) == ({"version": 0, "state": None, "subscriptions": {}}, 0)
    await shows(http, {"sessions": 0, "unacked": 0, "nacked": 0, "gateways": 1, "silent": 0})

    subscription = await paddle.act("upgrade", plan="basic")
    asked = time.time()
    assert (await http.post(f"{PATH}/reconcile")).status_code == 200
    async with (
        run_gateway(environment(store_url)) as other,
        open_client(door, TOPIC) as here,
        open_client(other, TOPIC) as there,
        open_client(other, TOPIC, held=(await store.versions([TOPIC]))[0]) as knowing,
    ):
        version = (await here.until("snapshot"))["version"]
        await there.until("snapshot")
        await knowing.until("current")
        shown = await shows(http, {
            "sessions": 3, "unacked": 2, "nacked": 0, "acked_min": version, "acked_max": version,
            "gateways": 2, "silent": 0,
        })  # fmt: skip
        waits = []
        for _ in range(3):
            began = time.monotonic()
            await status(http)
            waits.append(time.monotonic() - began)
        assert min(waits) < ask.ANSWER_S, "it waits for nobody once all have answered"
        await here.send("ack", topic=TOPIC, version=version)
        await there.send("nack", topic=TOPIC, version=version, reason="cannot")
        await until(lambda: door.node.metrics.acks == 1 and other.node.metrics.nacks == 1)
        await shows(http, {"unacked": 1, "nacked": 1})

        told = shown["provider"]["subscriptions"][f"paddle:{subscription}"]
        assert told["is_held"]
        assert told["subscription"] == shown["store"]["subscriptions"][f"paddle:{subscription}"]
        assert told["subscription"]["status"] == "active"
        assert asked - 1 < _unix(told["asked_at"]) < time.time() + 1
        assert shown["store"]["state"]["plan"]["key"] == "basic"
        assert shown["store"]["version"] == shown["version"] == version

        # A gateway that hears and cannot answer is waited for no longer than it says, and is counted.
        other.node.control.on("acks", lambda message: None)
        waits = []
        for _ in range(3):
            began = time.monotonic()
            deaf = (await status(http))["tabs"]
            waits.append(time.monotonic() - began)
            assert (deaf["gateways"], deaf["silent"], deaf["sessions"]) == (1, 1, 1)
        assert ask.ANSWER_S <= min(waits) < ask.ANSWER_S + 1

        # Facts that are none: somebody else wrote them, by a build that did not look who owns a topic.
        await store.commit(Change(TOPIC, b'{"own":1}', b'{"own":2}', owner=BILLING))
        assert "subscriptions" not in (await status(http))["store"]


async def test_what_billing_finds_is_counted_for_every_gateway_to_show(
    http: httpx2.AsyncClient, store: Store, store_url: str, paddle: Paddle
) -> None:
    """The worker has no /metrics: what it counts is in the store, and each gateway tells it."""
    await paddle.act("upgrade", plan="basic")
    assert (await http.post(f"{PATH}/reconcile")).json()["drift"][0]["kind"] == "unknown_here"
    assert 'planwire_drift_total{env="live",kind="unknown_here"} 1.0' in (await http.get("/metrics")).text
    async with run_gateway(environment(store_url)) as other, httpx2.AsyncClient(base_url=other.url) as elsewhere:
        assert 'planwire_drift_total{env="live",kind="unknown_here"} 1.0' in (await elsewhere.get("/metrics")).text
        await asyncio.gather(*(elsewhere.get("/metrics") for _ in range(5)))
    counts = (await http.get("/v1/drift")).json()["counts"]
    assert counts == {**dict.fromkeys(KINDS, 0), "unknown_here": 1}


async def test_counts_are_read_seldom_and_kept_while_the_store_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "CACHE_S", 600)
    redis: Any = store.redis
    name = counters.field("drift", kind="differs", env="live")
    await redis.hincrby(store.keys.counters, name, 2)
    counted = counters.Counters(store)
    await counted.refresh()
    await redis.hincrby(store.keys.counters, name, 1)
    await counted.refresh()
    assert dict(counted.counts) == {("drift", (("kind", "differs"), ("env", "live"))): 2}
    monkeypatch.setattr(counters, "CACHE_S", 0)
    await counted.refresh()
    assert list(counted.counts.values()) == [3]
    await redis.set(store.keys.counters, "not a hash")
    await counted.refresh()
    assert list(counted.counts.values()) == [3]


def _unix(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()
