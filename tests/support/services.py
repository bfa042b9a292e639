"""Billing's services on a store in memory, with one clock for both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.domain.facts.model import Event, NamePlace
from sync.billing.domain.outcome import EventResult
from sync.billing.providers.paddle.webhooks import PaddleWebhooks, fetched
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.tenants import facts_of
from sync.core import instants
from tests.support.bodies import envelope, subscription
from tests.support.memory_store import START_US, Clock, memory_store
from tests.support.paddle import price_id

TOPIC = "tenant:acme"
DAY_S = 86_400


class Billing(BillingServices):
    """The services, what a test sends them, and what they leave in the store."""

    clock: Clock

    async def receive(self, tenant: str | None = "acme", **fields: Any) -> EventResult:
        """Take a Paddle webhook of now; `kind`, `event_id`, `plan` and the subscription's own fields."""
        return await self.ingest.receive(self.adapters["paddle"], self.body(tenant, **fields), "live")

    def body(self, tenant: str | None = "acme", **fields: Any) -> bytes:
        """The body of a Paddle webhook of now."""
        now = instants.text(self.now_ns())
        marks = {"event_id": fields.pop("event_id")} if "event_id" in fields else {}
        kind, plan = fields.pop("kind", "subscription.updated"), fields.pop("plan", "pro")
        items = fields.pop("items", [(price_id(plan), 1)])
        data = subscription(items=items, tenant=tenant, **{"updated_at": now, **fields})
        return orjson.dumps(envelope(data, event_type=kind, occurred_at=now, **marks))

    async def state(self, topic: str = TOPIC) -> Any:
        """The public state."""
        return orjson.loads((await self.store.read(topic)).state)

    async def plan(self, topic: str = TOPIC) -> str:
        """The key of the published plan."""
        return str((await self.state(topic))["plan"]["key"])

    async def facts(self, topic: str = TOPIC) -> Any:
        """The stored facts."""
        return facts_of(await self.store.read(topic))

    async def fire_due(self) -> int:
        """Fire the timers that are due, as a worker does; return their number."""
        due = await self.environment("live").timers.claim(10)
        for each in due:
            await self.wakeup.fire("live", each)
        return len(due)


class PaddleApi:
    """Paddle's API for the live environment: it shows the subscription `body`, or raises `failure`.

    Attributes:
        asked: the ids that it was asked for.
    """

    checkout_prefix = ""

    def __init__(self, services: Billing) -> None:
        """Let the services ask it."""
        self.services = services
        self.body: dict[str, Any] = {}
        self.failure: Exception | None = None
        self.asked: list[str] = []
        clients: Any = {("paddle", "live"): self}
        services.clients = clients

    def shown(self) -> Event:
        """The subscription in an answer of now."""
        return fetched(self.body, "live", self.services.now_ns())

    async def fetch(self, subscription_id: str, max_wait_s: float, *, background: bool = False) -> Event:
        """Return the subscription."""
        self.asked.append(subscription_id)
        if self.failure is not None:
            raise self.failure
        return self.shown()

    async def customer_names(
        self, customer_id: str, max_wait_s: float, *, background: bool = False
    ) -> tuple[NamePlace, ...]:
        """Return nothing: its customers name no tenant."""
        return ()


async def fire_now(services: BillingServices, topic: str = TOPIC) -> None:
    """Claim and fire a topic's timer, as a worker does once it is due by the store's clock."""
    redis: Any = services.store.redis
    await redis.zadd(services.store.keys.timers("live"), {topic: 1})
    (due,) = await services.environment("live").timers.claim(1)
    await services.wakeup.fire("live", due)


@contextmanager
def billing(catalog_watcher: CatalogWatcher, **options: Any) -> Iterator[Billing]:
    """Yield services that start at START_US, with Paddle's webhooks and without an API client."""
    clock = Clock()
    clock.set(START_US)
    with memory_store(clock) as store:
        adapters = {"paddle": PaddleWebhooks()}
        services = Billing(store, catalog_watcher, adapters, now_ns=lambda: clock.now_us() * 1000, **options)
        services.clock = clock
        yield services
