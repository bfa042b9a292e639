"""The simulator as the provider of a test: actions that deliver nothing, its API for the official SDK, its events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx2

from sync.billing.catalog import catalog
from sync.billing.catalog.watcher import EXAMPLE
from sync.billing.providers.paddle.client import PaddleClient
from sync.billing.providers.rate_limit import LocalRateLimiter
from sync.simulator.app import create_app
from sync.simulator.provider import Provider
from sync.simulator.world import offers
from tests.support.asgi import serving

KEY = "key_live"
CATALOG = catalog.load(EXAMPLE)


def price_id(key: str) -> str:
    """The live price of a plan or an add-on of the example catalog."""
    sold = offers.of(CATALOG, "live")
    offer = sold.plan(key) or sold.addon(key)
    assert offer is not None
    return offer.prices[0].id


@dataclass
class Paddle:
    """A provider at `url`, whose clock is `ahead_us` ahead."""

    url: str = ""
    ahead_us: int = 0
    http: httpx2.AsyncClient = field(init=False)

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self.ahead_us

    async def act(self, action: str, tenant: str = "acme", **params: Any) -> str:
        """Do it without a webhook; return the subscription's id."""
        answer = await self.http.post(f"/simulate/{action}", json={"tenant": tenant, "deliver": False, **params})
        assert answer.status_code == 200, answer.text
        found: str = answer.json()["subscription_id"]
        return found

    async def events(self) -> list[bytes]:
        """The bodies of all events, oldest first, as webhooks would carry them."""
        answer = await self.http.get("/events", params={"per_page": 200}, headers={"Authorization": f"Bearer {KEY}"})
        return [json.dumps(event).encode() for event in answer.json()["data"]]

    def api(self, rate_limiter: LocalRateLimiter | None = None, timeout_s: float = 5.0) -> PaddleClient:
        """A client of its API."""
        return PaddleClient("live", KEY, self.url, rate_limiter or LocalRateLimiter(1_000, 1_000), timeout_s=timeout_s)


@asynccontextmanager
async def simulating(directory: Path) -> AsyncIterator[Paddle]:
    """A provider on a loopback port of the OS's choice."""
    paddle = Paddle()
    secrets = {"live": ("pdl_ntfset_live",)}
    provider = Provider(directory, lambda: CATALOG, "http://127.0.0.1:9/", secrets, paddle.now_us, Random(7))
    async with (
        serving(create_app(provider, {"live": (KEY,)})) as paddle.url,
        httpx2.AsyncClient(base_url=paddle.url) as paddle.http,
    ):
        yield paddle
