"""Corners of counting: each was once counted wrongly, or would be in a plainer design."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from planwire_client.core.commit import BILLING, PUBLISHER
from sync.billing.catalog.catalog import parse
from sync.core import instants
from sync.store.models import Change
from sync.store.redis.connect import connect
from sync.usage.calls import Call, Rejected, UsageCalls
from sync.usage.meters import Meters, meters_of
from tests.integration.test_usage_calls import CATALOG, TENANT, Usage
from tests.support.servers import Server, start_valkey

METERS_KEY = "pw:{tenant:acme}:usage:meters"
MINUTE_US = 60_000_000


@pytest.fixture
def server() -> Iterator[Server]:
    with start_valkey() as server:
        yield server


@pytest.fixture
async def usage(server: Server) -> AsyncIterator[Usage]:
    store = connect(server.url).store
    yield Usage(store)
    await store.aclose()


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url) as redis:
        yield redis


def other_catalog(old: str, new: str) -> Meters:
    assert old in CATALOG
    return meters_of(parse(CATALOG.replace(old, new)))


async def test_keys_are_forgotten_after_a_day(usage: Usage, redis: Redis) -> None:
    for number in range(5):
        await usage("release", "api_calls", 1, key=f"k{number}")
    for number in range(4):
        await redis.zadd("pw:{tenant:acme}:usage:order", {f"k{number}": 1})
    await usage("release", "api_calls", 1, key="last")  # forgets two
    await usage("release", "api_calls", 1, key="very-last")
    assert sorted(await redis.hkeys("pw:{tenant:acme}:usage:keys")) == [b"k4", b"last", b"very-last"]


async def test_a_wrong_meter_first_does_not_lose_the_windows(usage: Usage, redis: Redis) -> None:
    assert await usage("consume", "nope", 1) == Rejected("meter_unknown")
    assert (await usage("consume", "api_calls", 1)).ends_us > 0


async def test_a_meter_that_the_catalog_has_no_more_is_unknown_and_keeps_its_count(usage: Usage) -> None:
    await usage("consume", "exports", 2)
    without = other_catalog('[meters.exports]\nkind = "consumable"\nat_plan_change = "scale"\n', "")
    (found,) = await UsageCalls(usage.store, lambda: without).run([Call(TENANT, "consume", "exports", 1)])
    assert found == Rejected("meter_unknown")
    assert not (await usage("consume", "exports", 1)).is_allowed


@pytest.mark.parametrize(("change", "used"), [("reset", 0), ("scale", 4)])
async def test_a_reservation_goes_on_over_a_change_of_plan(usage: Usage, change: str, used: int) -> None:
    """What it gives back later must not be what others have used since."""
    catalog = other_catalog('at_plan_change = "scale"', f'at_plan_change = "{change}"')
    usage.calls = UsageCalls(usage.store, lambda: catalog)
    await usage.entitle("pro", exports=10)
    await usage("consume", "exports", 4)
    await usage("reserve", "exports", 5, id="job", lasts_us=MINUTE_US)
    await usage.entitle("other", exports=10)
    held = await usage("consume", "exports", 5 - used)
    assert (held.is_allowed, held.used, held.reserved) == (True, 5, 5) if not used else held.is_allowed
    ended = await usage("cancel", "exports", id="job")
    assert (ended.used, ended.reserved, ended.remaining) == (5, 0, 5)


async def test_a_grant_that_goes_and_comes_back_is_as_used_as_before(usage: Usage) -> None:
    async def have(*bought: tuple[str, int]) -> None:
        credits = [{"id": name, "amount": amount} for name, amount in bought]
        state = {"plan": {"key": "pro"}, "limits": {"ai": 0}, "credits": {"ai": credits}}
        await usage.store.commit(Change(TENANT, orjson.dumps(state), owner=BILLING))

    await have(("a", 10))
    assert (await usage("consume", "ai", 8)).is_allowed
    await have()
    assert (await usage("read")).version
    assert not (await usage("consume", "ai", 1)).is_allowed
    await have(("a", 10))
    found = await usage("consume", "ai", 3)
    assert (found.is_allowed, found.remaining) == (False, 2)
    await have(("a", 5))
    assert (await usage("consume", "ai", 1)).remaining == 0
    await have(("a", 10))
    assert (await usage("consume", "ai", 2)).is_allowed


async def test_a_correction_of_credits_is_about_all_of_them(usage: Usage) -> None:
    await usage("grant", "ai", 10, id="g")
    await usage("consume", "ai", 6)
    assert (await usage("adjust", "ai", 1, id="to", reason="x")).remaining == 9
    assert (await usage("adjust", "ai", 3, id="by", reason="x")).used == 4


async def test_what_is_reserved_is_neither_released_nor_set(usage: Usage) -> None:
    await usage.entitle("pro", seats=10)
    await usage("reserve", "seats", 4, id="job", lasts_us=MINUTE_US)
    freed = await usage("release", "seats", 3)
    assert (freed.used, freed.reserved, freed.remaining) == (0, 4, 6)
    assert not (await usage("set", "seats", 7)).is_allowed
    assert (await usage("set", "seats", 6)).remaining == 0


async def test_one_id_is_one_reservation(usage: Usage) -> None:
    await usage.entitle("pro", api_calls=10, seats=5)
    await usage("reserve", "api_calls", 4, id="job", lasts_us=MINUTE_US)
    assert await usage("reserve", "seats", 4, id="job", lasts_us=MINUTE_US) == Rejected("key_reused")
    assert await usage("reserve", "api_calls", 5, id="job", lasts_us=MINUTE_US) == Rejected("key_reused")
    await usage("finalize", "api_calls", 4, id="job", key="finalize job")
    late = await usage("reserve", "api_calls", 4, id="job", lasts_us=MINUTE_US)
    assert late == Rejected("key_reused"), "a request that comes late holds nothing for ever"


@pytest.mark.parametrize("ending", ["finalize", "cancel", "expire"])
@pytest.mark.parametrize("is_first", [False, True])
async def test_a_reservation_that_comes_after_its_end_holds_nothing(usage: Usage, ending: Any, is_first: bool) -> None:
    """Its caller knows nothing of it: it sent the end, and the first request was under way still."""
    await usage.entitle("pro", api_calls=10)
    if not is_first:
        await usage("reserve", "api_calls", 4, id="job", lasts_us=1)
        await usage("reserve", "api_calls", 4, id="job", lasts_us=1)
    if ending != "expire":
        await usage(ending, "api_calls", 3 if ending == "finalize" else 0, id="job")
        await usage(ending, "api_calls", 3 if ending == "finalize" else 0, id="job")
    late = await usage("reserve", "api_calls", 4, id="job", lasts_us=MINUTE_US)
    if is_first and ending == "expire":
        assert late.reserved == 4, "there was no earlier one"
    else:
        assert late == Rejected("key_reused")
        left = await usage("release", "api_calls", 1)
        assert (left.used, left.reserved) == (2 if ending == "finalize" else 0, 0)


async def test_work_that_was_cancelled_and_yet_used_something_counts(usage: Usage) -> None:
    await usage.entitle("pro", api_calls=10)
    await usage("reserve", "api_calls", 4, id="job", lasts_us=MINUTE_US)
    await usage("cancel", "api_calls", id="job")
    assert (await usage("finalize", "api_calls", 3, id="job")).used == 3
    assert (await usage("finalize", "api_calls", 3, id="job")).is_repeated
    assert (await usage("cancel", "api_calls", id="job")).used == 3
    assert await usage("finalize", "api_calls", 4, id="job") == Rejected("key_reused")


async def test_of_a_limit_of_nothing_there_is_no_share(usage: Usage) -> None:
    await usage.entitle("pro", exports=20)
    await usage("consume", "exports", 20)
    await usage.entitle("none", exports=0)
    assert not (await usage("consume", "exports", 1)).is_allowed
    await usage.entitle("pro", exports=20)
    assert not (await usage("consume", "exports", 1)).is_allowed


async def test_two_catalogs_at_once_announce_no_more_often(usage: Usage, redis: Redis) -> None:
    """In a rolling deploy each call finds the terms of the other catalog."""
    await usage.entitle("pro", api_calls=1000)
    newer = UsageCalls(usage.store, lambda: other_catalog("seats = 1", "seats = 2"))
    await usage("consume", "api_calls", 1)
    begins = await redis.hget(METERS_KEY, "pushed")
    versions = set()
    for _ in range(10):
        await newer.run([Call(TENANT, "consume", "api_calls", 1)])
        versions.add((await usage("consume", "api_calls", 1)).usage_version)
    assert (await usage("read")).is_allowed
    pushed = int(await redis.hget(METERS_KEY, "pushed") or 0)
    assert len(versions) <= 2 + (pushed - int(begins or 0)) // 250_000


@pytest.mark.parametrize(
    "state",
    [
        {"limits": []},
        {"limits": {"api_calls": "many"}, "plan": "pro", "apps": 3},
        {"credits": {"ai": [{"id": 'a"b', "amount": 3}, {"amount": 1}, 7, {"id": "x", "amount": "9"}]}},
        {"credits": {"ai": "many"}, "period": {"starts_at": "1969-01-01T00:00:00Z", "ends_at": "9999-01-01T00:00:00Z"}},
        {},
        [],
        "text",
    ],
)
async def test_a_publisher_s_state_of_another_shape_is_not_known(usage: Usage, state: Any) -> None:
    await usage.store.commit(Change(TENANT, orjson.dumps(state), owner=PUBLISHER))
    assert await usage("consume", "api_calls", 1) == Rejected("limit_unknown")
    assert await usage("consume", "ai", 1) == Rejected("limit_unknown")
    assert (await usage("show")).version
    assert (await usage.shown())["meters"]["api_calls"]["status"] == "unknown"


async def test_an_erasure_removes_everything(usage: Usage, redis: Redis) -> None:
    await usage("consume", "api_calls", 1, key="k")
    await usage("reserve", "api_calls", 1, id="job", lasts_us=MINUTE_US)
    assert await usage("erase") == Rejected("tenant_erased")
    assert [key async for key in redis.scan_iter("*usage:*")] == [b"pw:{tenant:acme}:usage:snap"]
    assert (await usage.store.read("usage:acme")).erased
    assert (await usage("consume", "api_calls", 1)).used == 1, "of a tenant that has come back"
    assert not (await usage.store.read("usage:acme")).erased


async def test_a_clock_that_went_back_does_not_end_a_window_twice(usage: Usage, redis: Redis) -> None:
    """A failover can do that. The window that had begun goes on until its own end."""
    now_us = int((await usage("consume", "api_calls", 2)).usage_version)
    ahead_us = now_us + 3_600_000_000
    count = f"2 0 {ahead_us} {ahead_us + MINUTE_US} 0 0 {ahead_us}"
    await redis.hset(METERS_KEY, "api_calls:count", count)
    state = {
        "plan": {"key": "free"},
        "limits": {"api_calls": 3},
        "period": {
            "starts_at": instants.text_us(ahead_us - 30 * 86_400_000_000),
            "ends_at": instants.text_us(ahead_us),
        },
    }
    await usage.store.commit(Change(TENANT, orjson.dumps(state), owner=BILLING))
    found = await usage("consume", "api_calls", 1)
    assert (found.used, found.remaining) == (3, 0)
    assert found.ends_us > ahead_us


async def test_a_call_that_is_refused_hides_no_new_limit_from_pages(usage: Usage) -> None:
    """It was the first to learn of the new entitlements, and announces nothing itself."""
    await usage.entitle("free", api_calls=3)
    await usage("consume", "api_calls", 2, key="k")
    version = await usage.entitle("pro", api_calls=1000)
    assert await usage("consume", "api_calls", 1, key="k") == Rejected("key_reused")
    await usage("read")
    shown = await usage.shown()
    assert (shown["entitlements"], shown["meters"]["api_calls"]["limit"]) == (version, 1000)


async def test_a_call_that_is_refused_hides_no_new_window_from_pages(usage: Usage, redis: Redis) -> None:
    await usage.entitle("pro", api_calls=10)
    await usage("consume", "api_calls", 2, key="k")
    ends_us = int(await redis.hget("pw:{tenant:acme}:usage:snap", "version") or 0)
    await redis.hset(METERS_KEY, "api_calls:count", f"2 0 1 {ends_us} 0 0 1")
    await redis.hset(METERS_KEY, "api_calls:windows", f"{ends_us} {ends_us + 60 * MINUTE_US}")
    assert await usage("consume", "api_calls", 1, key="k") == Rejected("key_reused")
    await usage("read")
    assert (await usage.shown())["meters"]["api_calls"]["used"] == 0


async def test_a_call_that_is_refused_hides_no_ended_reservation_from_pages(usage: Usage, redis: Redis) -> None:
    await usage.entitle("pro", api_calls=10)
    await usage("consume", "api_calls", 2, key="k")
    await usage("reserve", "api_calls", 3, id="job", lasts_us=MINUTE_US)
    await redis.hset(METERS_KEY, "pushed", 1)
    await usage("read")
    assert (await usage.shown())["meters"]["api_calls"]["reserved"] == 3
    await redis.zadd("pw:{tenant:acme}:usage:expiry", {"job": 1})
    await redis.hset(METERS_KEY, "pushed", 1)
    assert await usage("consume", "api_calls", 1, key="k") == Rejected("key_reused")
    await usage("read")
    assert (await usage.shown())["meters"]["api_calls"]["reserved"] == 0


async def test_what_a_page_brings_back_leaves_out_credits_that_have_ended_meanwhile(usage: Usage, redis: Redis) -> None:
    """The rest of the window would be denied for what was used of them."""
    ends_us = 4_000_000_000_000_000
    await usage("grant", "ai", 10, id="g", ends_us=ends_us)
    await usage("grant", "ai", 10, id="h")
    await usage("consume", "ai", 8)
    await redis.hset(METERS_KEY, "pushed", 1)
    version = (await usage("read")).usage_version
    shown = orjson.dumps(await usage.shown()).decode()
    assert instants.text_us(ends_us)[:19] in shown
    grants = await redis.hget(METERS_KEY, "ai:grants")
    assert isinstance(grants, bytes)
    await redis.hset(METERS_KEY, "ai:grants", grants.replace(str(ends_us).encode(), b"1"))
    await usage("restore", "", version + 1, reason=shown.replace(instants.text_us(ends_us)[:4], "2001"))
    found = await usage("consume", "ai", 10)
    assert (found.is_allowed, found.used, found.remaining) == (True, 10, 0)
