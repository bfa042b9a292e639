"""What a store leaves that is not as it was: facts older than a state that was put back, a clock that was set back."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
import pytest

from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.facts.model import Event
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.billing.services.reproject import RESTORED, Refresh
from sync.billing.services.wiring import BillingServices
from sync.store.command_pipeline import CommandPipeline
from sync.store.models import Snapshot
from sync.store.store import Store
from tests.support.bodies import envelope, subscription
from tests.support.inbox import take_up
from tests.support.system import CATALOG

TOPIC = "tenant:acme"


def event(seats: int) -> bytes:
    at = f"2026-05-01T10:00:{seats:02}.000000Z"
    data = subscription(tenant="acme", updated_at=at, items=[("pri_pro", seats)])
    return orjson.dumps(envelope(data, event_id=f"evt_{seats}", occurred_at=at))


async def seats(store: Store) -> int:
    found: int = orjson.loads((await store.read(TOPIC)).state)["limits"]["seats"]
    return found


@pytest.fixture
def services(store: Store, tmp_path: Path) -> BillingServices:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    return BillingServices(store, CatalogWatcher(catalog), {"paddle": PaddleWebhooks()}, now_ns=time.time_ns)


async def lose_the_tail(store: Store, services: BillingServices) -> int:
    """Leave the facts of one seat with the state of nine, as after a crash; return the state's version."""
    await services.ingest.receive(PaddleWebhooks(), event(1), "live")
    one = await store.read(TOPIC)
    nine = one.state.replace(b'"seats":1', b'"seats":9')
    assert await store.restore(Snapshot(TOPIC, one.version + 1_000_000, nine, b"", b""))
    assert await seats(store) == 9
    return one.version + 1_000_000


async def test_the_catalog_does_not_bring_old_facts_back(store: Store, services: BillingServices) -> None:
    version = await lose_the_tail(store, services)
    receipt = await services.reprojection.reproject("live", TOPIC, "catalog")
    assert (receipt.outcome, receipt.reason) == ("unchanged", RESTORED)
    assert await store.versions([TOPIC]) == [version]


async def test_the_next_event_makes_it_whole(store: Store, services: BillingServices) -> None:
    await lose_the_tail(store, services)
    await services.ingest.receive(PaddleWebhooks(), event(10), "live")
    assert await seats(store) == 10
    receipt = await services.reprojection.reproject("live", TOPIC, "catalog")
    assert (receipt.outcome, receipt.reason) == ("unchanged", "")


async def test_so_does_what_the_provider_tells_even_where_it_is_nothing_new(
    store: Store, services: BillingServices
) -> None:
    version = await lose_the_tail(store, services)
    told = PaddleWebhooks().parse(event(9), "live")
    assert isinstance(told, Event)
    for _ in range(2):
        adopted = await services.reprojection.refresh("live", TOPIC, Refresh({"source": "reconcile"}, [told]))
    assert await seats(store) == 9
    assert await store.versions([TOPIC]) == [version], "nothing public has changed"
    assert adopted.result.outcome == "unchanged"  # the second time: it is whole
    receipt = await services.reprojection.reproject("live", TOPIC, "catalog")
    assert (receipt.outcome, receipt.reason) == ("unchanged", "")


async def test_an_event_given_back_is_taken_up_at_once_though_the_store_s_clock_is_behind(
    store: Store, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    hour_ns = 3_600_000_000_000
    services = BillingServices(
        store, CatalogWatcher(catalog), {"paddle": PaddleWebhooks()}, now_ns=lambda: time.time_ns() + hour_ns
    )
    inbox = services.environment("live").inbox
    batch = CommandPipeline(store)
    body = event(1)
    inbox.put(batch, PaddleWebhooks().parse(body, "live"), body, "paddle", 0)
    await batch.run()
    assert await inbox.claim(1) == []
    await services.ingest.postpone("live", "evt_1", 0)
    record = await take_up(inbox)
    assert record.event_id == "evt_1"
