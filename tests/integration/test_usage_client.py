"""The Python clients of usage against a real gateway: counting, retries, reservations, policies, reads of a replica."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import orjson
import pytest

from examples.fastapi_app.app import Settings, create_app
from planwire_client import (
    AsyncUsage,
    Counted,
    OnUnavailable,
    Replica,
    Retries,
    ThreadReplica,
    Usage,
    UsageCall,
    UsageDenied,
    UsageRefused,
    UsageUnavailable,
    topic,
)
from planwire_client.core.commit import BILLING
from sync.store.models import Change
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.integration.test_foreign_ids import IDS
from tests.integration.test_usage_calls import CATALOG
from tests.support.gateway import PUBLISH_KEY, SECRET, Running, environment, run_gateway, token
from tests.support.servers import Server, start_valkey
from tests.support.wait import until

PERIOD = {"starts_at": "2026-11-15T00:00:00Z", "ends_at": "2036-11-15T00:00:00Z"}
ACME = "tenant:acme"
COOKIE = {"cookie": "tenant=acme"}


@pytest.fixture
def server() -> Iterator[Server]:
    with start_valkey() as server:
        yield server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    store = connect(server.url).store
    yield store
    await store.aclose()


@pytest.fixture
async def gateway(server: Server, tmp_path: Path) -> AsyncIterator[Running]:
    path = tmp_path / "catalog.toml"
    path.write_text(
        CATALOG.replace("exports = 2,", "exports = 2, reports = 2,") + '\n[meters.reports]\nkind = "consumable"\n'
    )
    secrets = "live:pdl_ntfset_x,sandbox:pdl_ntfset_y"
    environ = environment(server.url, INTAKE="1", CATALOG=str(path), PADDLE_SECRETS=secrets, SWEEP_S="0.5")
    async with run_gateway(environ) as running:
        yield running


@pytest.fixture
async def usage(gateway: Running) -> AsyncIterator[AsyncUsage]:
    async with AsyncUsage(gateway.url, PUBLISH_KEY) as usage:
        yield usage


async def entitle(store: Store, **limits: int | str) -> int:
    state = {"plan": {"key": "pro"}, "status": "active", "limits": limits, "period": PERIOD}
    return (await store.commit(Change(ACME, orjson.dumps(state), owner=BILLING))).version


async def test_every_call_for_asyncio(usage: AsyncUsage, store: Store) -> None:
    version = await entitle(store, api_calls=10, seats=8, tokens="unlimited")
    counted = await usage.consume(ACME, "api_calls", 3)
    assert (counted.allowed, counted.used, counted.limit, counted.remaining) == (True, 3, 10, 7)
    assert (counted.version, counted.repeated, counted.is_known) == (version, False, True)
    assert counted.resets_at is not None
    assert counted.resets_at.year == 2036
    assert not await usage.consume(ACME, "api_calls", 8)
    assert (await usage.release(ACME, "api_calls")).used == 2
    assert await usage.set(ACME, "seats", 8)
    assert not await usage.set(ACME, "seats", 9)
    assert (await usage.consume(ACME, "tokens")).remaining == math.inf
    found = await usage.read(ACME)
    assert found.entitlements == version
    assert {name: meter.used for name, meter in found.meters.items() if meter.used} == {
        "api_calls": 2,
        "seats": 8,
        "tokens": 1,
    }


async def test_every_call_blocking(gateway: Running, store: Store) -> None:
    await entitle(store, api_calls=10, seats=8)

    def work() -> None:
        with Usage(gateway.url, PUBLISH_KEY) as usage:
            assert usage.consume(ACME, "api_calls", 3).remaining == 7
            assert usage.release(ACME, "api_calls").used == 2
            assert usage.set(ACME, "seats", 4)
            with usage.reserve(ACME, "api_calls", 8) as job:
                assert not usage.consume(ACME, "api_calls")
                job.used = 1
            assert job.finalized is not None
            assert (job.finalized.used, job.finalized.reserved) == (3, 0)
            assert usage.read(ACME).meters["api_calls"].used == 3

    await asyncio.to_thread(work)


async def test_a_key_of_one_s_own_counts_once(usage: AsyncUsage) -> None:
    first, again = (
        await usage.consume(ACME, "api_calls", 2, key="o-1"),
        await usage.consume(ACME, "api_calls", 2, key="o-1"),
    )
    assert (first.repeated, again.repeated, again.used, again.key) == (False, True, 2, "o-1")
    with pytest.raises(UsageRefused, match="key_reused"):
        await usage.consume(ACME, "api_calls", 1, key="o-1")


@pytest.mark.parametrize("used", [0, 2])
async def test_the_id_of_a_reservation_that_has_ended_is_refused(usage: AsyncUsage, used: int) -> None:
    job = usage.reserve(ACME, "api_calls", 3, id="job")
    await job.begin()
    await job.finalize(used)
    with pytest.raises(UsageRefused, match="key_reused"):
        await usage.reserve(ACME, "api_calls", 3, id="job").begin()
    (batched,) = await usage.batch([UsageCall(ACME, "api_calls", 3, "reserve", id="job")])
    assert isinstance(batched, UsageRefused)
    assert batched.code == "key_reused"
    found = (await usage.read(ACME)).meters["api_calls"]
    assert (found.used, found.reserved) == (used, 0)


async def test_a_call_of_a_batch_that_is_refused_spoils_no_other(usage: AsyncUsage) -> None:
    outcomes = await usage.batch([
        UsageCall(ACME, "api_calls", 1),
        UsageCall(ACME, "api_calls", -1),
        UsageCall(ACME, "api_calls", 1, key="a b"),
        UsageCall(ACME, "nothing", 1),
        UsageCall(ACME, "api_calls", 1),
    ])  # fmt: skip
    assert [one.code if isinstance(one, UsageRefused) else one.used for one in outcomes] == [
        1,
        "request_invalid",
        "request_invalid",
        "meter_unknown",
        2,
    ]


async def test_work_that_fails_gives_back_and_another_process_may_finalize(usage: AsyncUsage) -> None:
    async def work() -> None:
        async with usage.reserve(ACME, "api_calls", 3):
            assert (await usage.read(ACME)).meters["api_calls"].reserved == 3
            raise KeyError("work")

    with pytest.raises(KeyError):
        await work()
    assert (await usage.read(ACME)).meters["api_calls"].reserved == 0
    job = usage.reserve(ACME, "api_calls", 3)
    await job.begin()
    with pytest.raises(UsageDenied, match="0 of 3 are left"):
        await usage.reserve(ACME, "api_calls", 1).begin()
    assert (await usage.finalize(ACME, "api_calls", job.id, 2)).used == 2
    assert (await usage.finalize(ACME, "api_calls", job.id, 2)).repeated


async def test_a_batch_has_an_outcome_for_each_also_of_several_environments(usage: AsyncUsage) -> None:
    calls = [
        UsageCall(ACME, "api_calls", 1),
        UsageCall("sandbox/tenant:acme", "api_calls"),
        UsageCall(ACME, "api_calls", 3),
        UsageCall(ACME, "nope"),
        UsageCall(topic("tenant", "auth0|5f1c"), "seats", 1, "set"),
    ]
    first, other, denied, unknown, last = await usage.batch(calls)
    assert isinstance(unknown, UsageRefused)
    assert unknown.code == "meter_unknown"
    assert [bool(one) for one in (first, other, denied, last)] == [True, True, False, True]
    assert isinstance(last, Counted)
    assert (await usage.read(topic("tenant", "auth0|5f1c"))).meters["seats"].used == 1


@pytest.mark.parametrize("id", IDS)
async def test_tenants_of_any_name(usage: AsyncUsage, id: str) -> None:
    name = topic("tenant", id)
    assert (await usage.consume(name, "api_calls", 2)).used == 2
    (found,) = await usage.batch([UsageCall(name, "api_calls")])
    assert isinstance(found, Counted)
    assert found.used == 3


async def test_what_the_gateway_refuses_is_raised_whatever_the_policy(gateway: Running) -> None:
    for policy in OnUnavailable:
        async with AsyncUsage(gateway.url, "a wrong key", on_unavailable=policy) as usage:
            with pytest.raises(UsageRefused, match="key_invalid"):
                await usage.consume(ACME, "api_calls")
        async with AsyncUsage(gateway.url, PUBLISH_KEY, on_unavailable=policy) as usage:
            for meter, amount in (("nope", 1), ("../api_calls", 1), ("api_calls", 0), ("api_calls", 10**30)):
                with pytest.raises(UsageRefused):
                    await usage.consume(ACME, meter, amount)
            with pytest.raises(UsageRefused, match="env must be one of"):
                await usage.consume("staging/tenant:acme", "api_calls")


async def test_a_store_that_is_away_is_not_a_denial(gateway: Running, server: Server) -> None:
    fast = Retries(attempts=2, total_timeout_s=1.0, backoff_min_s=0.01)
    server.kill()
    async with AsyncUsage(gateway.url, PUBLISH_KEY, retries=fast) as usage:
        with pytest.raises(UsageUnavailable) as raised:
            await usage.consume(ACME, "api_calls", key="k")
        assert raised.value.event_ids == ("k",)
        with pytest.raises(UsageUnavailable):
            await usage.batch([UsageCall(ACME, "api_calls")])
        with pytest.raises(UsageUnavailable):
            await usage.read(ACME)


DOCS = Path(__file__).parents[2] / "docs" / "usage.md"


async def test_the_snippets_of_the_docs_run_as_they_are_written(gateway: Running, store: Store) -> None:
    await entitle(store, api_calls=10, tokens=5000, exports=4, seats=8)
    section = DOCS.read_text("utf-8").partition("\n## From Python")[2].partition("\n## ")[0]
    count, reserve, serve, read = (
        found.replace("http://127.0.0.1:8000", gateway.url).replace("a publish key", PUBLISH_KEY)
        for found in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    )

    def work() -> None:
        with ThreadReplica(gateway.url, token(ACME)) as replica:
            names: dict[str, Any] = {"ask_model": lambda: SimpleNamespace(tokens=1200), "replica": replica}
            for snippet in (count, reserve, read):
                exec(snippet, names)
            names["usage"].close()
            assert names["job"].finalized.used == 1200
            replica.wait_for("usage:acme")
            replica.wait_for(ACME)
            seats = replica.usage(ACME, "seats")
            assert seats is not None
            assert (seats.limit, seats.is_fresh) == (8, True)

    await asyncio.to_thread(work)
    names: dict[str, Any] = {}
    exec(serve, names)
    transport = httpx2.ASGITransport(app=names["app"])
    async with (
        names["usage"],
        httpx2.AsyncClient(transport=transport, base_url="http://app.test", headers={"x-tenant": "acme"}) as client,
    ):
        answers = [await client.post("/exports") for _ in range(8)]
    assert [answer.status_code for answer in answers] == [200, 200, *[429] * 6]
    first, exports, calls = answers[0], answers[2], answers[-1]
    assert (first.json(), first.headers["RateLimit-Limit"]) == ({"used": 2}, "4")
    assert (exports.json()["meter"], calls.json()["meter"]) == ("exports", "api_calls")
    assert int(calls.headers["Retry-After"]) > 1000


REPORTS = """
import django
from django.test import Client

django.setup()
client = Client(headers={"cookie": "tenant=acme"})
for _ in range(3):
    answer = client.get("/report")
    print(answer.status_code, answer.headers.get("RateLimit-Remaining"), answer.headers.get("Retry-After"))
print(answer.json()["code"])
"""


async def test_the_django_project_counts_reports(gateway: Running, tmp_path: Path) -> None:
    settings = {
        "DJANGO_SETTINGS_MODULE": "examples.django_app.settings",
        "DJANGO_SECRET_KEY": "only-for-this-test",
        "GATEWAY_URL": gateway.url,
        "PLANWIRE_JWT_SECRET": SECRET,
        "PLANWIRE_PUBLISH_KEY": PUBLISH_KEY,
        **dict.fromkeys(("DATABASE_NAME", "DATABASE_USER", "DATABASE_HOST"), "not-used"),
    }
    # A process of its own: Django reads its settings once.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REPORTS, env=os.environ | settings, stdout=asyncio.subprocess.PIPE
    )
    shown, _ = await process.communicate()
    assert process.returncode == 0
    assert [line.split()[:2] for line in shown.decode().splitlines()] == [
        ["200", "1"],
        ["200", "0"],
        ["429", "0"],
        ["usage_limit_reached"],
    ]
    assert int(shown.split()[8]) > 0


async def test_the_fastapi_application_counts_reports(gateway: Running) -> None:
    # Not started: counting needs neither the database nor the replica.
    app = create_app(Settings("postgresql+psycopg://not-used", gateway.url, SECRET, PUBLISH_KEY))
    transport = httpx2.ASGITransport(app=app)
    async with (
        AsyncUsage(gateway.url, PUBLISH_KEY) as usage,
        httpx2.AsyncClient(
            transport=transport, base_url="http://app.test", headers={"cookie": "tenant=acme"}
        ) as client,
    ):
        app.state.usage = usage
        answers = [await client.get("/report") for _ in range(3)]
        foreign = await client.get("/report", headers={"cookie": "tenant=a/b"})
    assert [(answer.status_code, answer.headers["RateLimit-Remaining"]) for answer in answers] == [
        (200, "1"),
        (200, "0"),
        (429, "0"),
    ]
    assert (answers[1].json()["used"], answers[2].json()["code"]) == (2, "usage_limit_reached")
    assert int(answers[2].headers["Retry-After"]) > 0
    assert foreign.status_code == 422


class Losing:
    """A proxy that passes requests on, and drops the first answers."""

    def __init__(self, port: int, losses: int) -> None:
        self._port = port
        self.losses = losses

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)

        async def down() -> None:
            while data := await up_reader.read(65536):
                if self.losses:
                    self.losses -= 1
                    break
                writer.write(data)
            writer.close()

        async def up() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    up_writer.write(data)
            up_writer.close()

        await asyncio.gather(down(), up())


async def test_a_lost_answer_counts_once(gateway: Running) -> None:
    losing = Losing(gateway.port, 2)
    proxy = await asyncio.start_server(losing, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    fast = Retries(attempts=3, total_timeout_s=20.0, backoff_min_s=0.01)
    async with proxy, AsyncUsage(url, PUBLISH_KEY, retries=fast) as usage:
        counted = await usage.consume(ACME, "api_calls")
        assert (counted.used, counted.repeated) == (1, True)
        losing.losses = 2
        (batched,) = await usage.batch([UsageCall(ACME, "api_calls")])
        assert isinstance(batched, Counted)
        assert batched.used == 2
        losing.losses = 2
        assert (await usage.read(ACME)).meters["api_calls"].used == 2


async def test_a_replica_reads_usage_and_says_when_it_is_not_of_the_newest_entitlements(
    gateway: Running, usage: AsyncUsage, store: Store
) -> None:
    await entitle(store, api_calls=10)
    async with Replica(gateway.url, token(ACME)) as replica:
        replica.watch(f"usage:{ACME.partition(':')[2]}")
        await usage.consume(ACME, "api_calls", 4)
        await until(lambda: (found := replica.usage(ACME, "api_calls")) is not None and found.used == 4)
        alone = replica.usage(ACME, "api_calls")
        assert alone is not None
        assert not alone.is_fresh, "nothing says that the entitlements are the newest"
        replica.watch_usage(ACME)
        await until(lambda: (found := replica.usage(ACME, "api_calls")) is not None and found.is_fresh)
        await entitle(store, api_calls=50)

        def is_new() -> bool:
            found, tenant = replica.usage(ACME, "api_calls"), replica.get(ACME)
            assert found is not None
            assert tenant is not None
            assert not found.is_fresh or found.limit == tenant.limit("api_calls")
            return found.is_fresh and found.limit == 50

        await until(is_new)
        assert replica.usage(ACME, "nope") is None
        assert replica.usage("tenant:other", "api_calls") is None


async def test_a_replica_for_threads_reads_usage(gateway: Running, usage: AsyncUsage) -> None:
    await usage.consume(ACME, "api_calls", 2)

    def work() -> None:
        with ThreadReplica(gateway.url, token(ACME)) as replica:
            replica.watch_usage(ACME)
            replica.wait_for("usage:acme")
            replica.wait_for(ACME)
            found = replica.usage(ACME, "api_calls")
            assert found is not None
            assert (found.used, found.limit, found.is_fresh) == (2, 3, True)

    await asyncio.to_thread(work)
