"""Calls of one tenant that are sent together apply in the order given, whatever others do to the tenant meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from planwire_client.core.commit import BILLING
from sync.billing.catalog.catalog import parse
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import Change
from sync.store.redis.connect import connect
from sync.store.store import Store
from sync.usage import calls as usage_calls
from sync.usage.calls import Answer, Call, Rejected, UsageCalls
from sync.usage.meters import Meters, meters_of
from tests.support.cluster import start_cluster
from tests.support.servers import Server, redis_binary, start_valkey

TENANT = "tenant:acme"
CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true
limits = { api_calls = 1000, seats = 1000 }

[meters.api_calls]
kind = "consumable"
thresholds = %s

[meters.seats]
kind = "allocated"
"""
EDITIONS = [meters_of(parse(CATALOG % thresholds)) for thresholds in ([80, 100], [1, 2, 3, 50])]
OTHERS = st.sampled_from(["commit", "call", "other edition"])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with start_valkey() as server:
        yield server


class Meddling(UsageCalls):
    """Calls before each run of which others change the tenant."""

    def __init__(self, store: Store, meters: Meters, others: list[str]) -> None:
        super().__init__(store, lambda: meters)
        self._others = others
        self._another = UsageCalls(store, lambda: EDITIONS[1])

    async def _prepare(self, waiting: Any) -> None:
        await super()._prepare(waiting)
        match self._others.pop(0) if self._others else "":
            case "commit":
                limits = {"api_calls": 500 + len(self._others), "seats": 1000}
                state = orjson.dumps({"plan": {"key": "free"}, "status": "active", "limits": limits})
                await self._store.commit(Change(TENANT, state, owner=BILLING))
            case "call":
                await UsageCalls(self._store, lambda: EDITIONS[0]).run([Call(TENANT, "consume", "api_calls", 1)])
            case "other edition":
                await self._another.run([Call(TENANT, "consume", "api_calls", 1)])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(others=st.lists(OTHERS, max_size=6), length=st.integers(2, 9), most=st.integers(1, 4))
def test_calls_of_one_tenant_apply_in_the_order_given(
    server: Server, others: list[str], length: int, most: int
) -> None:
    async def ask() -> list[Any]:
        store = connect(server.url).store
        try:
            await store.redis.flushall()
            calls = []
            for number in range(length):
                calls += [Call(TENANT, "consume", "api_calls", 1), Call(TENANT, "set", "seats", number)]
            found: list[Any] = await Meddling(store, EDITIONS[0], list(others)).run(calls)
            seats = await UsageCalls(store, lambda: EDITIONS[0]).run([Call(TENANT, "release", "seats", 1)])
            return found + seats
        finally:
            await store.aclose()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(usage_calls, "RUN_MAX", most)
        patched.setattr(usage_calls, "ROUNDS_MAX", 30)
        *found, last = asyncio.run(ask())
    used = [one.used for one in found[::2]]
    assert used == sorted(set(used)), "a later call was counted before an earlier one"
    versions = [one.version for one in found]
    assert versions == sorted(versions)
    assert [one.used for one in found[1::2]] == list(range(length))
    assert last.used == length - 2, "the last set counts"


async def test_a_run_ends_where_a_call_asks_for_something(server: Server) -> None:
    """A commit between two calls of one batch: the second does not count before the first."""
    store = connect(server.url).store
    redis: Any = store.redis
    await redis.flushall()
    calls = UsageCalls(store, lambda: EDITIONS[0])
    pipeline = CommandPipeline(store)
    waiting = usage_calls._Waiting(is_armed=True)
    waiting.calls.extend((number, Call(TENANT, "consume", "api_calls", 1, key=f"{number}")) for number in range(5))
    calls._add(pipeline, TENANT, waiting, EDITIONS[0].digest)
    (replies,) = await pipeline.attempt()
    assert [reply[0] for reply in replies] == [b"terms"]
    await store.aclose()


@pytest.mark.parametrize("kind", ["server", "cluster"])
async def test_many_calls_of_many_tenants_each_have_their_answer(server: Server, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        url = server.url if kind == "server" else stack.enter_context(start_cluster(redis_binary())).url
        store = connect(url).store
        calls = UsageCalls(store, lambda: EDITIONS[0])
        for tenant in (TENANT, *(f"tenant:t{index}" for index in range(7))):
            await calls.run([Call(tenant, "erase")])
        asked = [Call(f"tenant:t{index % 7}", "consume", "api_calls", 1) for index in range(1050)]
        asked += [Call(TENANT, "consume", "nope", 1), Call(TENANT, "consume", "api_calls", 1, key="k")]
        *found, rejected, first, again = await calls.run([*asked, asked[-1]])
        assert [one.used for one in found if isinstance(one, Answer)] == [index // 7 + 1 for index in range(1050)]
        assert rejected == Rejected("meter_unknown")
        assert isinstance(first, Answer)
        assert isinstance(again, Answer)
        assert [(one.used, one.is_repeated) for one in (first, again)] == [(1, False), (1, True)]
        await store.aclose()


async def test_a_batch_has_a_report_scheduled_only_if_it_reaches_a_threshold(server: Server) -> None:
    store, armed = connect(server.url).store, list[str]()
    redis: Any = store.redis
    await redis.flushall()
    calls = UsageCalls(store, lambda: EDITIONS[0], lambda batch, tenant: armed.append(tenant))
    one = Call(TENANT, "consume", "api_calls", 50)
    assert [found.used for found in await calls.run([one] * 10) if isinstance(found, Answer)] == list(
        range(50, 501, 50)
    )
    assert armed == []
    found = await calls.run([one] * 12)
    assert [(it.used, it.is_allowed) for it in found if isinstance(it, Answer)] == [
        *((used, True) for used in range(550, 1001, 50)),
        *[(1000, False)] * 2,
    ]
    assert armed == [TENANT]
    crossings = await redis.xrange(store.keys.usage(TENANT, "crossings"))
    assert [fields[b"threshold"] for _, fields in crossings] == [b"80", b"100"]
    await store.aclose()
