"""The usage topic: what gateways write back after a loss, when it changes, and how often it is announced."""

from __future__ import annotations

import time
from typing import Any

import orjson

from planwire_client.core.commit import BILLING
from sync.store.models import Change
from tests.integration.test_usage_calls import TENANT, Usage, server, usage  # noqa: F401 - fixtures

PERIOD = {"starts_at": "2026-11-15T00:00:00Z", "ends_at": "2036-11-15T00:00:00Z"}


def state(meters: dict[str, Any], version: int = 1) -> str:
    return orjson.dumps({"base": 0, "since": 0, "run": "x", "entitlements": version, "meters": meters}).decode()


async def current(usage: Usage) -> dict[str, Any]:  # noqa: F811
    """Return the state, once everything counted is in it."""
    while (await usage("read")).push_in_us:
        pass
    return await usage.shown()


async def restore(usage: Usage, version: int, meters: dict[str, Any]) -> Any:  # noqa: F811
    return await usage("restore", amount=version, reason=state(meters))


async def test_the_greater_count_stays_and_what_is_reserved_stays_reserved(usage: Usage) -> None:  # noqa: F811
    await usage.entitle("pro", api_calls=100)
    assert (await usage("consume", "api_calls", 3)).is_allowed
    assert (await usage("reserve", "api_calls", 5, id="job", lasts_us=600_000_000)).reserved == 5
    shown = (await current(usage))["meters"]["api_calls"]
    await restore(usage, 1, {"api_calls": shown | {"used": 8, "reserved": 0}})
    found = await usage("consume", "api_calls", 1)
    assert (found.used, found.reserved, found.remaining) == (9, 5, 86)
    await restore(usage, 1, {"api_calls": shown | {"used": 2}})
    assert (await usage("consume", "api_calls", 1)).used == 10, "the store knows of more"


async def test_of_another_window_nothing_comes_back(usage: Usage) -> None:  # noqa: F811
    await usage.entitle("pro", api_calls=100, seats=8)
    await usage("consume", "api_calls", 3)
    shown = (await current(usage))["meters"]["api_calls"]
    earlier = {"starts_at": "2026-10-15T00:00:00.000Z", "ends_at": "2026-11-15T00:00:00.000Z"}
    await restore(usage, 1, {"api_calls": shown | {"used": 90, "period": earlier}})
    shown.pop("period")
    await restore(usage, 1, {"api_calls": shown | {"used": 90}})
    assert (await usage("consume", "api_calls", 1)).used == 4


async def test_credits_come_back_grant_by_grant(usage: Usage) -> None:  # noqa: F811
    bought = [{"id": "a", "amount": 7}, {"id": "b", "amount": 5, "ends_at": "2035-01-01T00:00:00Z"}]
    entitled = {"plan": {"key": "pro"}, "limits": {"ai": 10}, "period": PERIOD, "credits": {"ai": bought}}
    await usage.store.commit(Change(TENANT, orjson.dumps(entitled), owner=BILLING))
    assert (await usage("consume", "ai", 1)).is_allowed
    shown = (await current(usage))["meters"]["ai"]
    grants = [grant | {"remaining": {"a": 7, "b": 0}[grant["id"]]} for grant in shown["grants"]]
    await restore(usage, 1, {"ai": shown | {"used": 9, "grants": grants}})
    found = await current(usage)
    assert found["meters"]["ai"]["used"] == 9
    assert {grant["id"]: grant["remaining"] for grant in found["meters"]["ai"]["grants"]} == {"a": 7, "b": 0}
    assert (await usage("consume", "ai", 13)).remaining == 0


async def test_the_restored_version_is_newer_than_the_lost_one_and_a_repeat_makes_none(usage: Usage) -> None:  # noqa: F811
    await usage.entitle("pro", api_calls=100)
    shown = (await current(usage))["meters"]
    ahead = int(time.time() * 1e6) + 5_000_000
    restored = await restore(usage, ahead, shown)
    assert restored.usage_version > ahead
    assert (await restore(usage, ahead, shown)).usage_version == restored.usage_version
    assert (await usage("read")).usage_version == restored.usage_version


async def test_what_is_no_usage_brings_nothing_back(usage: Usage) -> None:  # noqa: F811
    await usage.entitle("pro", api_calls=100)
    for held in ("null", '{"base":1,"since":1,"run":""}', "[]", '{"meters":[]}', '{"meters":{"gone":{"used":7}}}'):
        found = await usage("restore", amount=1, reason=held)
        assert not isinstance(found, Exception), held
    assert (await usage("consume", "api_calls", 1)).used == 1


async def test_a_read_says_when_the_state_changes_by_time_alone(usage: Usage) -> None:  # noqa: F811
    await usage.entitle("pro", api_calls=100)
    first = await usage("read")
    year_us = 365 * 86_400_000_000
    assert first.ends_us > year_us
    await usage("reserve", "api_calls", 5, id="job", lasts_us=60_000_000)
    for _ in range(2):
        await current(usage)
        assert 0 < (await usage("read")).ends_us <= 60_000_000


async def test_a_use_that_goes_to_and_fro_across_its_limit_is_announced_as_often_as_any_other(usage: Usage) -> None:  # noqa: F811
    await usage.entitle("pro", seats=8, tokens=10)
    before = (await usage("set", "seats", 7)).usage_version
    versions, until_us = set[int](), time.monotonic() + 1
    while time.monotonic() < until_us:
        versions.add((await usage("consume", "seats", 1)).usage_version)
        versions.add((await usage("release", "seats", 1)).usage_version)
    assert 1 < len(versions - {before}) <= 10, "once for each 250 ms, and once for a threshold in each"
    assert (await usage("consume", "tokens", 10)).is_allowed
    found = await usage("consume", "seats", 1)
    assert found.is_allowed
