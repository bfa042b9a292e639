"""Calls about usage against a real store: limits of the newest entitlements, keys, reservations, credits, windows."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from planwire_client.core.commit import BILLING
from sync.billing.catalog.catalog import parse
from sync.core import announcement
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import Change
from sync.store.redis.connect import connect
from sync.store.store import Store
from sync.usage.calls import Answer, Call, Rejected, UsageCalls
from sync.usage.meters import meters_of
from tests.support.servers import Server, start_redis, start_valkey

CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true
limits = { api_calls = 3, seats = 1, exports = 2, tokens = 10 }

[plans.pro]
name = "Pro"
rank = 20
limits = { api_calls = 1000, seats = 8, exports = 20, tokens = 10 }
credits = { ai = 10 }

[meters.api_calls]
kind = "consumable"

[meters.exports]
kind = "consumable"
at_plan_change = "scale"

[meters.tokens]
kind = "consumable"
overage = "soft"

[meters.seats]
kind = "allocated"

[meters.ai]
kind = "credits"
"""
METERS = meters_of(parse(CATALOG))
TENANT = "tenant:acme"
STARTERS = {"valkey": start_valkey, "redis": start_redis}


@pytest.fixture(params=sorted(STARTERS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with STARTERS[request.param]() as server:
        yield server


class Usage:
    """A tenant's usage, and the reports that were armed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.armed: list[str] = []
        self.calls = UsageCalls(store, lambda: METERS, self._arm)

    def _arm(self, batch: CommandPipeline, tenant: str) -> None:
        self.armed.append(tenant)

    async def __call__(self, operation: Any, meter: str = "", amount: int = 0, **more: Any) -> Any:
        (found,) = await self.calls.run([Call(TENANT, operation, meter, amount, **more)])
        return found

    async def entitle(self, plan: str, *, owner: str = BILLING, **limits: int | str) -> int:
        state = {
            "plan": {"key": plan},
            "status": "active",
            "limits": limits,
            "period": {"starts_at": "2026-11-15T00:00:00Z", "ends_at": "2036-11-15T00:00:00Z"},
        }
        return (await self.store.commit(Change(TENANT, orjson.dumps(state), owner=owner))).version

    async def shown(self) -> dict[str, Any]:
        state: dict[str, Any] = orjson.loads((await self.store.read("usage:acme")).state)
        return state


@pytest.fixture
async def usage(server: Server) -> AsyncIterator[Usage]:
    store = connect(server.url).store
    yield Usage(store)
    await store.aclose()


async def test_a_call_that_does_not_fit_is_denied_and_counts_nothing(usage: Usage) -> None:
    assert (await usage("consume", "api_calls", 2)).is_allowed
    denied = await usage("consume", "api_calls", 2)
    assert (denied.is_allowed, denied.used, denied.limit, denied.remaining) == (False, 2, 3, 1)
    assert (await usage("consume", "api_calls", 1)).remaining == 0
    assert denied.version == 0, "no state is stored: the default plan counts"


async def test_the_very_next_call_counts_against_new_entitlements(usage: Usage) -> None:
    assert (await usage("consume", "api_calls", 3)).is_allowed
    assert not (await usage("consume", "api_calls", 1)).is_allowed
    up = await usage.entitle("pro", api_calls=1000)
    assert (found := await usage("consume", "api_calls", 1)).is_allowed
    assert (found.used, found.limit, found.version) == (4, 1000, up)
    await usage.entitle("free", api_calls=3)
    down = await usage("consume", "api_calls", 1)
    assert (down.is_allowed, down.used, down.limit, down.remaining, down.over) == (False, 4, 3, 0, 1)


async def test_a_key_makes_a_call_count_once(usage: Usage) -> None:
    first = await usage("consume", "api_calls", 2, key="order-1")
    again = await usage("consume", "api_calls", 2, key="order-1")
    assert (first.is_repeated, again.is_repeated) == (False, True)
    assert (again.is_allowed, again.used) == (True, 2)
    assert await usage("consume", "api_calls", 1, key="order-1") == Rejected("key_reused")


async def test_a_denied_key_is_tried_again(usage: Usage) -> None:
    assert not (await usage("consume", "api_calls", 9, key="big")).is_allowed
    await usage.entitle("pro", api_calls=1000)
    assert (await usage("consume", "api_calls", 9, key="big")).is_allowed


async def test_seats_are_set_and_released(usage: Usage) -> None:
    await usage.entitle("pro", seats=8)
    assert (await usage("set", "seats", 8)).is_allowed
    assert not (await usage("set", "seats", 9)).is_allowed
    assert (await usage("release", "seats", 3)).used == 5
    await usage.entitle("free", seats=1)
    assert (await usage("set", "seats", 4)).is_allowed, "fewer is always possible, even above the limit"
    assert not (await usage("consume", "seats", 1)).is_allowed


async def test_a_reservation_is_finalized_cancelled_or_ends(usage: Usage) -> None:
    await usage.entitle("pro", api_calls=10)
    later = 60_000_000
    held = await usage("reserve", "api_calls", 8, id="h1", lasts_us=later)
    assert (held.is_allowed, held.used, held.reserved, held.remaining) == (True, 0, 8, 2)
    assert not (await usage("consume", "api_calls", 3)).is_allowed
    assert (await usage("reserve", "api_calls", 8, id="h1", lasts_us=later)).is_repeated
    done = await usage("finalize", "api_calls", 5, id="h1", key="fin-1")
    assert (done.used, done.reserved, done.remaining) == (5, 0, 5)
    assert (await usage("finalize", "api_calls", 5, id="h1", key="fin-1")).used == 5
    await usage("reserve", "api_calls", 4, id="h2", lasts_us=later)
    assert (await usage("cancel", "api_calls", id="h2")).remaining == 5
    await usage("reserve", "api_calls", 5, id="h3", lasts_us=1)
    ended = await usage("consume", "api_calls", 5)
    assert (ended.is_allowed, ended.reserved, ended.remaining) == (True, 0, 0)


async def test_what_is_reserved_is_not_given_back_or_corrected(usage: Usage) -> None:
    await usage.entitle("pro", api_calls=10, seats=8, ai=10)
    later = 60_000_000
    for meter in ("api_calls", "seats", "ai"):
        await usage("reserve", meter, 5, id=meter, lasts_us=later)
        released = await usage("release", meter, 5)
        assert (released.used, released.reserved) == (0, 5)
        assert released.remaining == released.limit - 5
    cleared = await usage("set", "seats", 0)
    assert (cleared.used, cleared.reserved, cleared.remaining) == (0, 5, 3)
    assert not (await usage("set", "seats", 4)).is_allowed
    corrected = await usage("adjust", "api_calls", 2, id="to", reason="x")
    assert (corrected.used, corrected.reserved, corrected.remaining) == (2, 5, 3)
    corrected = await usage("adjust", "api_calls", -9, id="by", reason="x")
    assert (corrected.used, corrected.reserved, corrected.remaining) == (0, 5, 5)
    done = await usage("finalize", "api_calls", 4, id="api_calls")
    assert (done.used, done.reserved, done.remaining) == (4, 0, 6)


async def test_a_correction_of_credits_is_of_all_that_was_used(usage: Usage) -> None:
    await usage.entitle("pro", ai=10)
    await usage("grant", "ai", 5, id="op", reason="goodwill", ends_us=int(time.time() * 1e6) + 60_000_000)
    await usage("consume", "ai", 7)
    assert (await usage("adjust", "ai", 3, id="to", reason="x")).used == 3
    assert (await usage("adjust", "ai", 6, id="by", reason="x")).used == 9
    assert (await usage("adjust", "ai", 0, id="to", reason="x")).remaining == 15


async def test_the_id_of_a_reservation_that_has_ended_is_used_up(usage: Usage) -> None:
    """Otherwise the end of the second one would be taken for a repetition, and would count nothing."""
    await usage.entitle("pro", api_calls=10)
    later = 60_000_000
    await usage("reserve", "api_calls", 5, id="job", lasts_us=later)
    assert (await usage("finalize", "api_calls", 3, id="job")).used == 3
    assert await usage("reserve", "api_calls", 5, id="job", lasts_us=later) == Rejected("key_reused")
    assert (await usage("finalize", "api_calls", 3, id="job")).is_repeated
    await usage("reserve", "api_calls", 5, id="other", lasts_us=later)
    await usage("cancel", "api_calls", id="other")
    assert await usage("reserve", "api_calls", 5, id="other", lasts_us=later) == Rejected("key_reused")


async def test_a_soft_limit_lets_the_last_call_through(usage: Usage) -> None:
    assert (await usage("consume", "tokens", 9)).is_allowed
    over = await usage("consume", "tokens", 50)
    assert (over.is_allowed, over.used, over.over) == (True, 59, 49)
    assert not (await usage("consume", "tokens", 1)).is_allowed


async def test_credits_that_end_first_are_used_first(usage: Usage) -> None:
    bought = [{"id": "never", "amount": 7}, {"id": "soon", "amount": 5, "ends_at": "2035-01-01T00:00:00Z"}]
    state = {
        "plan": {"key": "pro"},
        "limits": {"ai": 10},
        "period": {"starts_at": "2026-11-15T00:00:00Z", "ends_at": "2036-11-15T00:00:00Z"},
        "credits": {"ai": bought},
    }
    await usage.store.commit(Change(TENANT, orjson.dumps(state), owner=BILLING))
    assert (await usage("consume", "ai", 6)).remaining == 16
    await usage("read")
    await asyncio.sleep(0)
    found = await until_shown(usage, lambda shown: shown["meters"]["ai"]["used"] == 6)
    left = {grant["id"]: grant["remaining"] for grant in found["meters"]["ai"]["grants"]}
    assert left == {"soon": 0, "never": 7}, "then one of the period's, which end before those that never do"
    assert not (await usage("consume", "ai", 17)).is_allowed
    assert (await usage("consume", "ai", 16)).remaining == 0
    await usage("grant", "ai", 100, id="op1", reason="goodwill", actor="support")
    assert (await usage("consume", "ai", 1)).remaining == 99


async def until_shown(usage: Usage, is_shown: Any) -> dict[str, Any]:
    """Read until the usage topic is up to date."""
    async with asyncio.timeout(5):
        while not is_shown(found := await usage.shown()):
            await usage("read")
    return found


async def test_a_change_of_plan_scales_what_was_used(usage: Usage) -> None:
    await usage.entitle("free", exports=2)
    await usage("consume", "exports", 1)
    await usage.entitle("pro", exports=20)
    assert (await usage("read")).usage_version
    assert (await usage("consume", "exports", 1)).used == 11


async def test_a_limit_that_is_not_known_is_no_denial(usage: Usage) -> None:
    await usage.entitle("custom", owner="publisher")
    assert await usage("consume", "api_calls", 1) == Rejected("limit_unknown")
    await usage("read")
    assert (await usage.shown())["meters"]["api_calls"]["status"] == "unknown"


async def test_an_erased_tenant_has_no_usage(usage: Usage, server: Server) -> None:
    await usage("consume", "api_calls", 1, key="k")
    await usage.store.commit(Change(TENANT, b"null", owner=BILLING, erases=True))
    assert await usage("read") == Rejected("tenant_erased")
    async with Redis.from_url(server.url) as redis:
        kept = [key async for key in redis.scan_iter("*:usage:*")]
    assert kept == [b"pw:{tenant:acme}:usage:snap"]
    snapshot = await usage.store.read("usage:acme")
    assert (snapshot.state, snapshot.erased) == (b"null", True)


async def test_a_threshold_is_reported_once_and_armed_before(usage: Usage, server: Server) -> None:
    await usage.entitle("pro", api_calls=10)
    await usage("consume", "api_calls", 7)
    assert usage.armed == []
    assert (await usage("consume", "api_calls", 1)).reached == 80
    await usage("consume", "api_calls", 1)
    await usage("consume", "api_calls", 1)
    assert usage.armed == [TENANT] * 2
    async with Redis.from_url(server.url) as redis:
        found: Any = await redis.xrange("pw:{tenant:acme}:usage:crossings")
    assert [fields[b"threshold"] for _, fields in found] == [b"80", b"100"]


async def test_use_that_goes_to_and_fro_is_reported_once_in_a_window(usage: Usage, server: Server) -> None:
    await usage.entitle("pro", api_calls=10, seats=10)
    for _ in range(3):
        await usage("consume", "api_calls", 8)
        await usage("release", "api_calls", 8)
    await usage("reserve", "api_calls", 9, id="job", lasts_us=60_000_000)
    await usage("cancel", "api_calls", id="job")
    assert await reported(server) == [("api_calls", 80)]
    await usage("consume", "api_calls", 10)
    assert await reported(server) == [("api_calls", 80), ("api_calls", 100)]
    await usage.entitle("pro", api_calls=20, seats=10)
    await usage("consume", "api_calls", 6)
    assert (await reported(server))[2:] == [("api_calls", 80)], "of the new limit"
    for count in (8, 3, 9):
        await usage("set", "seats", count)
    assert (await reported(server))[3:] == [("seats", 80)] * 2, "seats have no window"


async def test_a_limit_that_falls_below_the_use_is_reported_with_the_next_call(usage: Usage, server: Server) -> None:
    await usage.entitle("pro", api_calls=100)
    await usage("consume", "api_calls", 50)
    await usage.entitle("free", api_calls=40)
    for _ in range(3):
        assert not (await usage("consume", "api_calls", 1)).is_allowed
    assert await reported(server) == [("api_calls", 100)]
    assert usage.armed == [TENANT]


async def reported(server: Server) -> list[tuple[str, int]]:
    async with Redis.from_url(server.url) as redis:
        found: Any = await redis.xrange("pw:{tenant:acme}:usage:crossings")
    return [(fields[b"meter"].decode(), int(fields[b"threshold"])) for _, fields in found]


async def test_announcements_are_of_the_bus_and_spread(usage: Usage, server: Server) -> None:
    await usage.entitle("pro", api_calls=1000)
    async with Redis.from_url(server.url) as redis, redis.pubsub() as pubsub:
        await pubsub.subscribe("pw:{tenant:acme}:usage")
        assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
        answers = [await usage("consume", "api_calls", 1) for _ in range(50)]
        first = announcement.parse((await pubsub.get_message(timeout=5))["data"])
        assert orjson.loads(first.state)["meters"]["api_calls"] | {"period": None} == {
            "kind": "consumable",
            "used": 1,
            "reserved": 0,
            "limit": 1000,
            "remaining": 999,
            "status": "ok",
            "period": None,
        }
        assert (answers[-1].push_in_us > 0, answers[-1].usage_version) == (True, first.version)
        await until_shown(usage, lambda shown: shown["meters"]["api_calls"]["used"] == 50)
        second = announcement.parse((await pubsub.get_message(timeout=5))["data"])
        assert second.version - first.version >= 250_000


async def test_nothing_is_oversold_by_many_at_once(usage: Usage, server: Server) -> None:
    await usage.entitle("pro", api_calls=200)
    stores = [connect(server.url).store for _ in range(4)]
    others = [Usage(store) for store in stores]

    async def spend(other: Usage, number: int) -> int:
        rng, taken = random.Random(number), 0
        for turn in range(60):
            amount = rng.randint(1, 3)
            found = await other("consume", "api_calls", amount, key=f"{number}-{turn}")
            assert isinstance(found, Answer)
            taken += amount if found.is_allowed else 0
        return taken

    taken = sum(await asyncio.gather(*(spend(other, number) for number, other in enumerate(others))))
    found = await usage("consume", "api_calls", 1000)
    assert (found.used, found.is_allowed) == (taken, False)
    assert 197 < taken <= 200
    for store in stores:
        await store.aclose()
