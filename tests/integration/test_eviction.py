"""A store that may remove states is not used: web, worker and relay do not start on it, and readiness fails later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis.asyncio

from tests.support.cluster import start_cluster
from tests.support.gateway import Running, environment, open_client, run_gateway
from tests.support.processes import Running as Program, clean_environ, python, running as running_program
from tests.support.proxy import run_proxy
from tests.support.servers import Server, redis_binary, start_redis, start_valkey
from tests.support.wait import until

QUICK = {"PROBE_S": "0.2", "SWEEP_S": "1", "HEARTBEAT_S": "0.3"}
MAX_WAIT_S = 20.0
LIMIT = str(1 << 30)
PROGRAMS = ["gateway.server", "sync.worker", "sync.outbox"]
STARTED = {"gateway.server": "fresh", "sync.worker": "worker_started", "sync.outbox": "outbox_started"}
"""What each says of a start that went well."""


@pytest.fixture(params=[start_redis, start_valkey], ids=["redis", "valkey"])
def start(request: pytest.FixtureRequest) -> Callable[..., Any]:
    found: Callable[..., Any] = request.param
    return found


async def configure(server: Server, **settings: str) -> None:
    client: Any = redis.asyncio.Redis(port=server.port)
    async with client:
        for name, value in settings.items():
            await client.config_set(name.replace("_", "-"), value)


@pytest.fixture
def evicting() -> Iterator[Server]:
    with start_redis(tcp=True, args=["--maxmemory-policy", "allkeys-lru", "--maxmemory", LIMIT]) as server:
        yield server


def environ_of(url: str, tmp_path: Path, **settings: str) -> dict[str, str]:
    """What any of the three programs starts with."""
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    return clean_environ(tmp_path, **environment(url, OUTBOX_URL=nowhere, **QUICK, **settings))


@pytest.mark.parametrize("module", PROGRAMS)
async def test_nothing_starts_on_a_store_that_evicts_any_key(evicting: Server, module: str, tmp_path: Path) -> None:
    with running_program(python("-m", module), environ_of(evicting.url, tmp_path)) as program:
        await until(lambda: program.has_ended, timeout_s=MAX_WAIT_S)
    assert program.status() == 2
    (line,) = program.lines
    assert "maxmemory-policy is allkeys-lru" in line
    assert "Set maxmemory-policy to noeviction" in line


@pytest.mark.parametrize("module", PROGRAMS)
async def test_a_url_that_cannot_be_used_is_one_line_as_well(module: str, tmp_path: Path) -> None:
    with running_program(python("-m", module), environ_of("http://127.0.0.1:1", tmp_path)) as program:
        await until(lambda: program.has_ended, timeout_s=MAX_WAIT_S)
    assert program.status() == 2
    (line,) = program.lines
    assert "PLANWIRE_REDIS_URL: the scheme 'http' is not known" in line


@pytest.mark.parametrize("module", PROGRAMS)
async def test_a_limit_that_is_yet_to_be_set_changes_nothing(module: str, tmp_path: Path) -> None:
    with start_redis(tcp=True, args=["--maxmemory-policy", "allkeys-random"]) as server:
        with running_program(python("-m", module), environ_of(server.url, tmp_path)) as program:
            await until(lambda: program.has_ended, timeout_s=MAX_WAIT_S)
        assert program.status() == 2
        assert "it has no maxmemory yet" in program.text


@pytest.mark.parametrize("module", PROGRAMS)
async def test_in_development_it_is_a_warning(evicting: Server, module: str, tmp_path: Path) -> None:
    environ = environ_of(evicting.url, tmp_path, DEV="1")
    with running_program(python("-m", module), environ) as program:
        await until(lambda: f'"{STARTED[module]}"' in program.text or program.has_ended, timeout_s=MAX_WAIT_S)
        assert program.status() is None, program.text
        if module != "sync.outbox":  # which looks once, when it starts
            await until(lambda: said(program, "store_evicts"), timeout_s=MAX_WAIT_S)
            assert said(program, "store_evicts")[0]["level"] == "warning"


def said(program: Program, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in program.lines if line.startswith("{")]
    return [line for line in lines if line.get("event") == event]


@pytest.mark.parametrize("module", PROGRAMS)
async def test_a_store_that_does_not_tell_is_no_reason_not_to_start(module: str, tmp_path: Path) -> None:
    """INFO is forbidden to this user, as CONFIG is on managed services."""
    rules = ["--user", "app", "on", ">s3cret", "~*", "&*", "+@all", "-info", "-config"]
    with start_redis(tcp=True, args=[*rules, "--maxmemory-policy", "volatile-lru"]) as server:
        environ = environ_of(server.url.replace("://", "://app:s3cret@"), tmp_path)
        with running_program(python("-m", module), environ) as program:
            await until(lambda: f'"{STARTED[module]}"' in program.text or program.has_ended, timeout_s=MAX_WAIT_S)
            assert program.status() is None, program.text
            if module != "sync.outbox":
                await until(lambda: said(program, "store_policy_unknown"), timeout_s=MAX_WAIT_S)


@pytest.mark.parametrize("module", ["gateway.server", "sync.worker"])
async def test_a_store_that_is_away_is_waited_for_and_looked_at_when_it_comes(
    evicting: Server, module: str, tmp_path: Path
) -> None:
    """Silent, not refusing: the start waits its 2 s and goes on."""
    async with run_proxy("127.0.0.1", evicting.port) as wire:
        wire.freeze()
        environ = environ_of(f"redis://127.0.0.1:{wire.port}", tmp_path)
        with running_program(python("-m", module), environ) as program:
            begun = '"worker_started"' if module == "sync.worker" else '"probe_failed"'
            await until(lambda: begun in program.text or program.has_ended, timeout_s=MAX_WAIT_S)
            assert program.status() is None, program.text
            wire.thaw()
            await until(lambda: said(program, "store_evicts"), timeout_s=2 * MAX_WAIT_S)
            assert said(program, "store_evicts")[0]["level"] == "error"
            assert program.status() is None


@pytest.fixture
async def gateway(start: Callable[..., Any]) -> AsyncIterator[tuple[Running, Server]]:
    with start(tcp=True, args=["--maxmemory", LIMIT]) as server:
        async with run_gateway(environment(server.url, **QUICK)) as running:
            yield running, server


async def get(running: Running, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=running.url, trust_env=False) as http:
        return await http.get(path)


async def shown(running: Running) -> dict[str, str]:
    """The gauge's values by policy."""
    head = 'planwire_store_evicts{policy="'
    lines = [line for line in (await get(running, "/metrics")).text.splitlines() if line.startswith(head)]
    return dict(line.removeprefix(head).split('"} ') for line in lines)


async def test_a_policy_that_is_changed_later_fails_readiness_and_back_again_heals_it(
    gateway: tuple[Running, Server],
) -> None:
    running, server = gateway

    async def is_answered(status: int) -> bool:
        return (await get(running, "/readyz")).status_code == status

    await until(lambda: is_answered(200), timeout_s=MAX_WAIT_S)

    async def shows(values: dict[str, str]) -> bool:
        return await shown(running) == values

    await until(lambda: shows({"noeviction": "0.0"}), timeout_s=MAX_WAIT_S)
    async with open_client(running, "tenant:acme") as client:
        await client.until("snapshot")
        await configure(server, maxmemory_policy="allkeys-lfu")
        await until(lambda: is_answered(503), timeout_s=MAX_WAIT_S)
        told = (await get(running, "/readyz")).json()
        assert told["checks"] == {**told["checks"], "eviction": False, "bus": True, "store": True}
        assert "maxmemory-policy is allkeys-lfu" in told["detail"]
        await until(lambda: shows({"allkeys-lfu": "1.0"}), timeout_s=MAX_WAIT_S)
        assert (await client.until("heartbeat"))["fresh"], "what tabs show is current all the same"
    await configure(server, maxmemory_policy="noeviction")
    await until(lambda: is_answered(200), timeout_s=MAX_WAIT_S)


async def test_evicting_keys_with_an_expiry_is_shown_and_logged_and_nothing_more(
    gateway: tuple[Running, Server], capsys: pytest.CaptureFixture[str]
) -> None:
    running, server = gateway
    await configure(server, maxmemory_policy="volatile-ttl")

    async def is_shown() -> bool:
        return await shown(running) == {"volatile-ttl": "1.0"}

    await until(is_shown, timeout_s=MAX_WAIT_S)
    assert (await get(running, "/readyz")).status_code == 200
    output = capsys.readouterr().out
    assert "store_may_evict" in output
    assert "revoked tokens" in output


async def test_every_primary_of_a_cluster_is_asked() -> None:
    with start_cluster(redis_binary()) as cluster:
        environ = environment(cluster.url, **QUICK)
        async with run_gateway(environ) as running:
            await asyncio.to_thread(
                cluster.ask, cluster.primaries[2], "CONFIG", "SET", "maxmemory-policy", "allkeys-lru"
            )

            async def is_shown() -> bool:
                return await shown(running) == {"noeviction": "0.0", "allkeys-lru": "1.0"}

            await until(is_shown, timeout_s=MAX_WAIT_S)
            assert "allkeys-lru" in (await get(running, "/readyz")).json()["detail"]
