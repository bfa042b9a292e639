"""Sweeps after a catalog edit, on a store in memory: a key of a wrong type stops nothing but what needs it."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from sync.billing.catalog import catalog
from sync.billing.catalog.watcher import EXAMPLE
from sync.billing.services.background.catalog_sweeps import CatalogSweeps
from sync.billing.services.context import LATE_SWEEP_S
from sync.process.supervisor import Supervisor
from sync.store.isolation import is_away
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import StoreRejected
from tests.support.services import Billing

TENANT = "sandbox/tenant:acme"


@pytest.fixture
def sweeps(services: Billing) -> CatalogSweeps:
    return CatalogSweeps(services, ("live", "sandbox"), Supervisor(0.01, is_away))


async def park(services: Billing) -> None:
    redis: Any = services.store.redis
    await redis.hset(keys.parked_members(keys.timers("sandbox")), TENANT, b"{}")
    await redis.delete(keys.timers("sandbox"))


async def is_reopened(services: Billing) -> bool:
    redis: Any = services.store.redis
    return await redis.zscore(keys.timers("sandbox"), TENANT) is not None


@pytest.mark.parametrize(
    "damaged", [keys.parked_members(keys.reconcile), keys.tenants("live"), keys.inbox("live", "waiting")]
)
async def test_a_damaged_key_stops_no_other_queue_and_no_other_environment(
    services: Billing, sweeps: CatalogSweeps, damaged: str
) -> None:
    redis: Any = services.store.redis
    await redis.set(damaged, "a string")
    await redis.sadd(keys.tenants("sandbox"), TENANT)
    await park(services)
    with pytest.raises(StoreRejected):
        await sweeps.step()
    assert await is_reopened(services)
    assert await redis.exists(keys.tenants_walk("sandbox", "sweep", "done"))
    await redis.delete(damaged)
    await sweeps.step()
    assert await redis.exists(keys.tenants_walk("live", "sweep", "done"))


async def test_what_is_parked_is_reopened_once_for_each_sweep(services: Billing, sweeps: CatalogSweeps) -> None:
    """Another worker may be sweeping for minutes."""
    redis: Any = services.store.redis
    await redis.set(keys.tenants_walk("live", "sweep", "lease"), "another worker")
    await park(services)
    await sweeps.step()
    assert await is_reopened(services)
    await redis.delete(keys.timers("sandbox"))
    await sweeps.step()
    assert not await is_reopened(services)


async def test_what_a_process_with_an_old_catalog_has_computed_is_computed_anew_later(
    services: Billing, sweeps: CatalogSweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a rolling deploy, in which gateways follow the worker."""
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    await sweeps.step()
    current = services.catalog_watcher.current
    old = catalog.parse(EXAMPLE.read_text().replace('features = ["basic", "export", "sso"]', 'features = ["basic"]'))
    services.catalog_watcher._catalog = old
    await services.receive()
    services.catalog_watcher._catalog = current
    for later_s, features in ((60, {"basic"}), (LATE_SWEEP_S, {"basic", "export", "sso"})):
        now_s += later_s
        await sweeps.step()
        state = (await services.store.read("tenant:acme")).state
        assert set(orjson.loads(state)["features"]) == features
