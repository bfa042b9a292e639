"""Two installations side by side, and the check that neither hears of the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support.gateway import PUBLISH_KEY, Client, Running, environment, open_client, run_gateway, token
from tests.support.wait import until

TOPIC = "tenant:acme"


SWEEP_S = "0.1"


@asynccontextmanager
async def installation(url: str, prefix: str, **settings: str) -> AsyncIterator[tuple[Running, Store]]:
    store = connect(url, prefix=prefix).store
    try:
        async with run_gateway(environment(url, PREFIX=prefix, SWEEP_S=SWEEP_S, **settings)) as running:
            yield running, store
    finally:
        await store.aclose()


async def publish(running: Running, state: object, topic: str = TOPIC) -> int:
    async with httpx2.AsyncClient(base_url=running.url, headers={"Authorization": f"Bearer {PUBLISH_KEY}"}) as http:
        answer = await http.post("/v1/publish", json={"topic": topic, "state": state})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["version"])


async def revoke(running: Running, subject: str) -> None:
    async with httpx2.AsyncClient(base_url=running.url, headers={"Authorization": f"Bearer {PUBLISH_KEY}"}) as http:
        assert (await http.post("/v1/sessions/revoke", json={"sub": subject})).status_code == 200


async def shown(client: Client) -> Any:
    frame = await client.until("snapshot")
    assert "reset" not in frame
    return frame["state"]


async def check_apart(first: tuple[str, str], second: tuple[str, str]) -> None:
    async with (
        installation(*first) as (one, one_store),
        installation(*second) as (two, two_store),
        open_client(one, TOPIC, jwt=token(sub="alice")) as one_tab,
        open_client(two, TOPIC, jwt=token(sub="alice")) as two_tab,
    ):
        assert [await shown(one_tab), await shown(two_tab)] == [None, None]
        version = await publish(one, {"of": "one"})
        assert await shown(one_tab) == {"of": "one"}
        # What two's tab is shown next is its own: nothing of one came before it. Two sweeps have passed by then.
        sweeps = two.node.metrics.sweeps
        await until(lambda: two.node.metrics.sweeps > sweeps + 2)
        assert (await two_store.read(TOPIC)).version == 0
        other = await publish(two, {"of": "two"})
        assert await shown(two_tab) == {"of": "two"}
        assert [await one_store.versions([TOPIC]), await two_store.versions([TOPIC])] == [[version], [other]]

        await revoke(one, "alice")
        code, _ = await one_tab.closed()
        assert code == 4401
        await publish(two, {"of": "two", "n": 2})
        assert await shown(two_tab) == {"of": "two", "n": 2}
        assert await two_store.redis.exists(two_store.keys.revoked) == 0
        for running in (one, two):
            assert (running.node.metrics.restored, running.node.metrics.foreign) == (0, 0)
            assert running.node.hub.fresh
