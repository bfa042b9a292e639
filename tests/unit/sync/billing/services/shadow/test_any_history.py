"""Whatever happens in whatever order: readers see what was published, or what billing computes without any shadow."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
from hypothesis import given, strategies as st

from sync.billing.catalog.watcher import EXAMPLE, CatalogWatcher
from sync.billing.services.shadow.queues import ShadowQueues
from sync.billing.storage.tenants import billed
from sync.core.errors import SyncError
from sync.store.models import Change
from tests.support.services import TOPIC, Billing, billing

PLANS = st.sampled_from(["basic", "pro"])
STATUSES = st.sampled_from(["active", "past_due", "canceled"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), PLANS, STATUSES),
        st.tuples(st.just("again"), st.integers(0, 5)),
        st.tuples(st.just("publish"), st.integers(0, 3)),
        st.tuples(st.just("switch"), st.booleans()),
        st.tuples(st.just("all"), st.booleans()),
        st.tuples(st.just("work")),
    ),
    max_size=14,
)


class Model:
    """What readers should see.

    Attributes:
        published: what was published last.
        named, share: the switches.
        is_seen: whether pages see what billing computes; None as long as billing does not know the tenant.
    """

    def __init__(self) -> None:
        self.published: Any = None
        self.named: bool | None = None
        self.share = False
        self.is_seen: bool | None = None

    @property
    def is_on(self) -> bool:
        return self.share if self.named is None else self.named


async def step(shadowed: Billing, plain: Billing, model: Model, bodies: list[bytes], one: tuple[Any, ...]) -> None:
    """Do a step to the services, and to the model."""
    for services in (shadowed, plain):
        services.clock.advance(60)
    match one:
        case ("event", plan, status):
            bodies.append(shadowed.body(plan=plan, status=status, event_id=f"evt_{len(bodies)}"))
            await deliver(shadowed, plain, bodies[-1])
        case ("again", number) if bodies:
            await deliver(shadowed, plain, bodies[number % len(bodies)])
        case ("publish", number):
            model.published = {"plan": {"key": f"published {number}"}}
            await shadowed.store.commit(Change(TOPIC, orjson.dumps(model.published)))
        case ("switch", on):
            model.named = on
            await shadowed.shadow_switches.switch("live", TOPIC, {}, on=on)
        case ("all", on):
            model.named, model.share = None, on
            await shadowed.shadow_switches.switch_share("live", float(on), {}, clears=True)
            await work(shadowed)
        case ("work",):
            await work(shadowed)
    if bodies:
        model.is_seen = model.is_on


async def deliver(shadowed: Billing, plain: Billing, body: bytes) -> None:
    """Deliver a webhook to both."""
    for services in (shadowed, plain):
        await services.ingest.receive(services.adapters["paddle"], body, "live")


async def work(services: Billing) -> None:
    """Work on the switches and the comparisons as a worker does."""
    queues, log = ShadowQueues(services, "live", None, SyncError), services.environment("live").shadow
    for due in await log.switching.claim(10):
        await queues.switch(due)
    for due in await log.queue.claim(10):
        await queues.compare(due)


@given(steps=STEPS)
def test_readers_see_what_was_published_or_what_billing_computes(
    steps: list[tuple[Any, ...]], tmp_path_factory: Any
) -> None:
    folder: Path = tmp_path_factory.mktemp("catalogs")
    path = folder / "shadow.toml"
    path.write_text(f'{EXAMPLE.read_text()}\n[shadow.fields]\nplan = "tier"\n')
    with billing(CatalogWatcher(path)) as shadowed, billing(CatalogWatcher(EXAMPLE)) as plain:
        asyncio.run(_play(shadowed, plain, steps))


async def _play(shadowed: Billing, plain: Billing, steps: list[tuple[Any, ...]]) -> None:
    model, bodies, version = Model(), list[bytes](), 0
    for one in steps:
        before = await shadowed.state()
        await step(shadowed, plain, model, bodies, one)
        snapshot = await shadowed.store.read(TOPIC)
        computed = await plain.state()
        state = orjson.loads(snapshot.state)
        assert state == (computed if model.is_seen else model.published)
        assert snapshot.version >= version
        assert state == before or snapshot.version > version, "a change has a version"
        version = snapshot.version
        if bodies:
            assert orjson.loads(billed(snapshot).state) == computed
