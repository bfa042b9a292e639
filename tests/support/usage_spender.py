"""A process that consumes one unit after the other until it is denied, and prints each that was counted.

`python -m tests.support.usage_spender STORE_URL NAME`. A call without an answer is repeated with its key.
"""

from __future__ import annotations

import asyncio
import sys

from sync.billing.catalog.catalog import parse
from sync.store.models import StoreError
from sync.store.redis.connect import connect
from sync.usage.calls import Answer, Call, UsageCalls
from sync.usage.meters import meters_of

CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true
limits = { api_calls = 3 }

[meters.api_calls]
kind = "consumable"
"""
TENANT = "tenant:acme"
UNAVAILABLE_S = 0.02
"""Pause after a call that had no answer."""


async def spend(url: str, name: str) -> None:
    store, meters, number = connect(url).store, meters_of(parse(CATALOG)), 0
    calls = UsageCalls(store, lambda: meters)
    while True:
        call = Call(TENANT, "consume", "api_calls", 1, key=f"{name}-{number}")
        (found,) = await calls.run([call])
        if isinstance(found, StoreError):
            await asyncio.sleep(UNAVAILABLE_S)
            continue
        assert isinstance(found, Answer), found
        if not found.is_allowed:
            break
        print(call.key, flush=True)
        number += 1
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(spend(*sys.argv[1:]))
