"""The billing cases of `tests/vectors/billing`: webhooks and publishes in order of arrival, sent to a real system."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from sync.core import instants
from tests.support.bodies import ROOT
from tests.support.system import System, run_system

CASES = ROOT / "tests" / "vectors" / "billing"
CATALOG = (CASES / "catalog.toml").read_text()
STRIPE_SECRET = "whsec_live"
MADE_AT_S = 1_795_992_081
"""The latest stamp in the cases, in seconds since 1970. `load` moves all stamps so that this one is now."""

_INSTANT = re.compile(r'"(20\d\d-\d\d-\d\dT[\d:.]+Z)"')
_SECONDS = re.compile(r"\b(17[89]\d{7})\b")

Delivery = dict[str, Any]


def load(name: str) -> list[Delivery]:
    """The deliveries of a case (`name` without `.json`), their stamps moved to now: `{"door": ..., "event": ...}`."""
    moved_s = int(time.time()) - MADE_AT_S
    text = (CASES / f"{name}.json").read_text()
    text = _INSTANT.sub(lambda found: f'"{instants.text(instants.parse(found[1]) + moved_s * 10**9)}"', text)
    deliveries: list[Delivery] = json.loads(_SECONDS.sub(lambda found: str(int(found[1]) + moved_s), text))
    return deliveries


@asynccontextmanager
async def run_cases(
    store_url: str, directory: Path, *, catalog: str = CATALOG, **settings: str
) -> AsyncIterator[System]:
    """A system with the cases' catalog, open to Paddle's and Stripe's webhooks."""
    secrets = {"STRIPE_SECRETS": f"live:{STRIPE_SECRET}", **settings}
    async with run_system(store_url, directory, catalog=catalog, **secrets) as system:
        yield system


async def post_stripe(system: System, event: Delivery) -> httpx2.Response:
    """The answer to a Stripe webhook signed now."""
    body, at_s = json.dumps(event).encode(), int(time.time())
    mark = hmac.new(STRIPE_SECRET.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return await system.http.post("/webhooks/stripe", content=body, headers={"Stripe-Signature": f"t={at_s},v1={mark}"})


async def send(system: System, delivery: Delivery) -> httpx2.Response:
    """The answer to one delivery of a case, at its door."""
    if delivery["door"] == "stripe":
        return await post_stripe(system, delivery["event"])
    if delivery["door"] == "paddle":
        return await system.deliver(json.dumps(delivery["event"]).encode())
    return await system.http.post("/v1/publish", json=delivery["event"], headers=system.key)
