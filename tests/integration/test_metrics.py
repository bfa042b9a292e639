"""What a running gateway counts by itself, without a request that asks for it."""

from __future__ import annotations

import asyncio
import re
import time
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from gateway.api import health
from sync.billing.storage import environment as billing_environment
from sync.store import counters
from sync.store.command_pipeline import CommandPipeline
from sync.store.delayed_queue import DelayedQueue
from sync.store.isolation import Isolation
from sync.store.models import Change
from sync.store.store import Store
from tests.support.bodies import SECRET, signature, webhook
from tests.support.gateway import PUBLISH_KEY, environment, open_client, run_gateway
from tests.support.wait import until

TOPIC = "tenant:acme"


async def test_frames_from_browsers_are_counted(store_url: str) -> None:
    async with run_gateway(environment(store_url)) as running, open_client(running, TOPIC) as client:
        version = (await client.until("snapshot"))["version"]
        assert running.node.metrics.received == 1
        await client.send("ack", topic=TOPIC, version=version)
        await client.send("expect", topic=TOPIC, after=version)
        await client.until("pending")
        assert running.node.metrics.received == 3


async def test_probes_that_do_not_come_back_are_counted(store_url: str) -> None:
    async with run_gateway(environment(store_url, PROBE_S="0.1")) as running:
        metrics, probe = running.node.metrics, running.node.probe
        await until(lambda: metrics.probes >= 3)
        missed = probe.missed
        heard = probe.heard

        def deaf(channel: bytes, payload: bytes) -> None:
            pass

        probe.heard = deaf  # type: ignore[method-assign]
        await until(lambda: metrics.probes_missed >= missed + 2)
        probe.heard = heard  # type: ignore[method-assign]
        await until(lambda: running.node.hub.fresh, timeout_s=20)


async def test_what_sweeping_costs_is_cpu_time_and_little(store_url: str) -> None:
    async with run_gateway(environment(store_url, SWEEP_S="0.05")) as running:
        metrics = running.node.metrics
        started = time.monotonic()
        async with open_client(running, *(f"tenant:t{number}" for number in range(50))) as client:
            for _ in range(50):
                await client.until("snapshot")
            await until(lambda: metrics.sweep_topics >= 250)
        assert 0 < metrics.sweep_seconds < (time.monotonic() - started) / 2


async def test_revocations_that_no_token_can_match_are_dropped(
    store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.node.PRUNE_S", 0.05)
    async with run_gateway(environment(store_url, TOKEN_MAX_TTL_S="60")) as running:
        revocations = running.node.auth.revocations
        kept_s = running.node.settings.revocation_keep_s  # 60 s, and the leeway twice
        revocations.revoke("sub", "long-ago", time.time() - kept_s - 1)
        revocations.revoke("sub", "still-alive", time.time() - kept_s + 10)
        await until(lambda: len(revocations) == 1)
        assert not revocations.revoke("sub", "still-alive", time.time() - kept_s)


async def test_webhooks_are_counted_by_what_they_were_answered(store_url: str, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text('[plans.free]\nname = "Free"\nrank = 0\ndefault = true\n')
    environ = environment(store_url, INTAKE="1", CATALOG=str(catalog), PADDLE_SECRETS=f"live:{SECRET}")
    body = webhook()
    async with run_gateway(environ) as running, httpx2.AsyncClient(base_url=running.url) as http:
        for secret, status in ((SECRET, 200), ("pdl_ntfset_another", 403)):
            headers = {"Paddle-Signature": signature(body, int(time.time()), secret)}
            assert (await http.post("/webhooks/paddle", content=body, headers=headers)).status_code == status
            assert running.node.metrics.requests["/webhooks/paddle", "POST", status] == 1


async def test_what_waits_for_a_worker_is_shown(
    store: Store, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(billing_environment, "BACKLOG_CACHE_S", 0.0)
    monkeypatch.setattr(counters, "CACHE_S", 0.0)
    monkeypatch.setattr(health, "CACHE_S", 0.0)
    catalog = tmp_path / "catalog.toml"
    catalog.write_text('[plans.free]\nname = "Free"\nrank = 0\ndefault = true\n')
    environ = environment(store_url, INTAKE="1", CATALOG=str(catalog), PADDLE_SECRETS=f"live:{SECRET}")
    body = webhook()
    async with run_gateway(environ) as running, httpx2.AsyncClient(base_url=running.url) as http:

        async def shown(name: str, queue: str, env: str = "live") -> float:
            text = (await http.get("/metrics")).text
            line = next(line for line in text.splitlines() if f'{name}{{env="{env}",queue="{queue}"}}' in line)
            return float(line.split()[1])

        for queue, env in (("inbox", "live"), ("parked", "live"), ("timers", "live"), ("reconcile", "")):
            assert await shown("planwire_queue_length", queue, env) == 0
            assert await shown("planwire_queue_overdue_seconds", queue, env) == 0
        headers = {"Paddle-Signature": signature(body, int(time.time()), SECRET)}
        await http.post("/webhooks/paddle", content=body, headers=headers)  # of a price that no plan has
        assert await shown("planwire_queue_length", "parked") == 1
        timers = DelayedQueue(store, "pw:{timers/live}:due", 60)
        batch = CommandPipeline(store)
        timers.schedule_once(batch, "tenant:soon", (int(time.time()) + 1000) * 1_000_000)
        await batch.run()
        assert await shown("planwire_queue_overdue_seconds", "timers") == 0
        batch = CommandPipeline(store)
        timers.schedule_earlier(batch, "tenant:long-ago", (int(time.time()) - 1000) * 1_000_000)
        await batch.run()
        await store.want_reconcile(["tenant:acme"])
        assert await shown("planwire_queue_length", "timers") == 2
        assert 999 < await shown("planwire_queue_overdue_seconds", "timers") < 1100
        assert await shown("planwire_queue_length", "reconcile", "") == 1
        assert await shown("planwire_queue_overdue_seconds", "reconcile", "") < 100
        assert await shown("planwire_queue_parked", "timers") == 0
        begun = await timers.begin((await timers.claim(1))[0])
        assert begun is not None
        await timers.park(begun, "failed 8 times: KeyError()")
        await Isolation(store).count("timers")
        assert await shown("planwire_queue_parked", "timers") == 1
        assert 'planwire_item_failures_total{queue="timers"} 1.0' in (await http.get("/metrics")).text


METRICS_TOKEN = "a-metrics-token-for-tests-0123456789"
FLOOD_S = 1.0
SCRAPES = 200


class TestWhoMayScrape:
    """Without a token: a scraper of the same machine or network. With one: whoever bears it."""

    async def test_without_a_token_a_request_that_came_through_a_proxy_is_refused(self, store_url: str) -> None:
        async with run_gateway(environment(store_url)) as running, httpx2.AsyncClient(base_url=running.url) as http:
            assert (await http.get("/metrics")).status_code == 200
            for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "CF-Connecting-IP", "x-forwarded-host"):
                answer = await http.get("/metrics", headers={name: "127.0.0.1"})
                assert (answer.status_code, answer.json()["code"]) == (403, "metrics_closed")
                assert "PLANWIRE_METRICS_TOKEN" in answer.json()["detail"]
            mesh = {"X-Forwarded-Proto": "http", "X-Forwarded-Client-Cert": "By=spiffe://cluster.local/ns/x/sa/y"}
            assert (await http.get("/metrics", headers=mesh)).status_code == 200
            assert (await http.get("/metrics", headers=mesh | {"X-Forwarded-Port": "443"})).status_code == 403

    @pytest.mark.parametrize(
        ("peer", "status"),
        [("10.42.0.7", 200), ("fd00::7", 200), ("100.64.0.9", 200), ("8.8.8.8", 403), ("2600::1", 403)],
    )
    async def test_without_a_token_only_internal_addresses_are_answered(
        self, store_url: str, peer: str, status: int
    ) -> None:
        async with run_gateway(environment(store_url)) as running:
            app = running.server.config.loaded_app
            transport = httpx2.ASGITransport(app, client=(peer, 4711))
            async with httpx2.AsyncClient(transport=transport, base_url="http://pod") as http:
                assert (await http.get("/metrics")).status_code == status

    async def test_with_a_token_it_is_asked_of_everybody(self, store_url: str) -> None:
        environ = environment(store_url, METRICS_TOKEN=METRICS_TOKEN)
        async with run_gateway(environ) as running, httpx2.AsyncClient(base_url=running.url) as http:
            for presented, code in (
                (None, "key_missing"),
                ("wrong", "key_invalid"),
                (METRICS_TOKEN[:-1], "key_invalid"),
                (METRICS_TOKEN + "x", "key_invalid"),
                (PUBLISH_KEY, "key_invalid"),
            ):
                headers = {} if presented is None else {"Authorization": f"Bearer {presented}"}
                answer = await http.get("/metrics", headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (401, code)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert METRICS_TOKEN not in answer.text
            headers = {"Authorization": f"Bearer {METRICS_TOKEN}", "X-Forwarded-For": "8.8.8.8"}
            assert "planwire_sockets " in (await http.get("/metrics", headers=headers)).text


async def test_a_flood_of_scrapes_makes_one_text_a_second_and_leaves_pushes_alone(
    store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_gateway(environment(store_url)) as running, httpx2.AsyncClient(base_url=running.url) as http:
        metrics, made = running.node.metrics, []
        exposition = metrics.exposition

        def counted() -> bytes:
            made.append(time.monotonic())
            return exposition()

        monkeypatch.setattr(metrics, "exposition", counted)
        began = time.monotonic()
        answers = await asyncio.gather(*(http.get("/metrics") for _ in range(SCRAPES)))
        took = time.monotonic() - began
        assert {answer.status_code for answer in answers} == {200}
        assert len(made) <= 1 + took / health.CACHE_S
        assert all(later - earlier >= health.CACHE_S * 0.9 for earlier, later in pairwise(made))

        async with open_client(running, TOPIC) as client:
            await client.until("snapshot")
            made.clear()
            flood_ends = time.monotonic() + FLOOD_S
            scrapes = 0

            async def flood() -> None:
                nonlocal scrapes
                while time.monotonic() < flood_ends:
                    await http.get("/metrics")
                    scrapes += 1

            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(flood())
                number = 0
                while time.monotonic() < flood_ends:
                    number += 1
                    version = (await store.commit(Change(TOPIC, b'{"n":%d}' % number))).version
                    frame = await client.receive()
                    assert frame["version"] == version
            assert scrapes > 10 * len(made)
            assert number > 10  # at 10 ms of the loop a scrape it would be a handful


async def test_what_is_scraped_is_never_much_older_than_a_second(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "CACHE_S", 0.05)
    async with run_gateway(environment(store_url)) as running, httpx2.AsyncClient(base_url=running.url) as http:
        await http.get("/metrics")
        running.node.metrics.nacks = 17

        async def shown() -> bool:
            return "planwire_nacks_total 17.0" in (await http.get("/metrics")).text

        await until(shown, timeout_s=10)


async def test_close_codes_and_requests_that_clients_make_up_make_no_series(store_url: str) -> None:
    async with run_gateway(environment(store_url)) as running, httpx2.AsyncClient(base_url=running.url) as http:
        for code in range(3000, 3030):
            async with connect(running.ws_url, subprotocols=[Subprotocol("planwire.v1")]) as socket:
                await socket.close(code)
        for method, path in (("PROPFIND", "/healthz"), ("GET", "/made-up"), ("REPORT", "/v1/state/tenant:a")):
            assert (await http.request(method, path)).status_code in (404, 405)
        await until(lambda: running.node.metrics.closed["other"] == 30)
        text = (await http.get("/metrics")).text
        assert 'planwire_sockets_closed_total{code="other"} 30.0' in text
        assert not re.search(r"3[0-9]{3}\"|PROPFIND|REPORT|made-up|tenant:a", text)
