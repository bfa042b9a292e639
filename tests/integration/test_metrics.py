"""What a running gateway counts by itself, without a request that asks for it."""

from __future__ import annotations

import time
from pathlib import Path

import httpx2
import pytest

from sync.billing import backlog
from sync.billing.batch import Batch
from sync.billing.timers import Timers
from sync.state.store import Store
from tests.support.gateway import environment, open_client, run_gateway
from tests.support.wait import until
from tests.unit.billing.bodies import SECRET, signature, webhook

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
        revocations.revoke("sub", "long-ago", time.time() - 61)
        revocations.revoke("sub", "still-alive", time.time() - 50)
        await until(lambda: len(revocations) == 1)
        assert not revocations.revoke("sub", "still-alive", time.time() - 55)


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
    monkeypatch.setattr(backlog, "CACHE_S", 0.0)
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
        timers = Timers(store, "pw:{timers/live}:due", 60)
        batch = Batch(store)
        timers.plan(batch, "tenant:soon", (int(time.time()) + 1000) * 1_000_000)
        await batch.run()
        assert await shown("planwire_queue_overdue_seconds", "timers") == 0
        timers.arm(batch := Batch(store), "tenant:long-ago", (int(time.time()) - 1000) * 1_000_000)
        await batch.run()
        await store.want_reconcile(["tenant:acme"])
        assert await shown("planwire_queue_length", "timers") == 2
        assert 999 < await shown("planwire_queue_overdue_seconds", "timers") < 1100
        assert await shown("planwire_queue_length", "reconcile", "") == 1
        assert await shown("planwire_queue_overdue_seconds", "reconcile", "") < 100
