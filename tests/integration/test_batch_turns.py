"""A large batch: others have their turns while it is worked off, and one that cannot be parsed quickly is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import orjson
import pytest

from gateway.api import publish
from gateway.api.publish_request import read_change
from sync.core import pauses
from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import PUBLISH_KEY, Running, environment, run_gateway

ITEMS = 200


def publisher(running: Running) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {PUBLISH_KEY}", "Content-Type": "application/json"}
    return httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=30, trust_env=False)


async def test_others_have_their_turns_between_the_items_of_a_batch(
    store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "TURN_S", 0.0)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with run_gateway(environment(store_url)) as running, publisher(running) as client:
        read: list[int] = []
        made: list[int] = []
        add_commit = running.node.store.add_commit

        def noted_read(*given: Any) -> Change:
            read.append(turns)
            return read_change(*given)

        def noted_commit(pipeline: Any, change: Change) -> None:
            if change.topic.startswith("tenant:"):  # and no probe of the bus
                made.append(turns)
            add_commit(pipeline, change)

        monkeypatch.setattr(publish, "read_change", noted_read)
        monkeypatch.setattr(running.node.store, "add_commit", noted_commit)
        other = asyncio.create_task(others())
        for number in range(2):  # the second time there are patches to be made
            items = [{"topic": f"tenant:t{index}", "state": {"n": number, "pad": "x" * 2000}} for index in range(ITEMS)]
            read.clear()
            made.clear()
            answer = await client.post("/v1/publish/batch", content=orjson.dumps({"items": items}))
            assert [result["verdict"] for result in answer.json()["results"]] == ["applied"] * ITEMS
            for seen in (read, made):
                assert len(seen) == ITEMS
                assert len(set(seen)) == ITEMS, "some were worked off in one turn"
        other.cancel()


@pytest.mark.parametrize("pair", [b"[],", b'{"a":{}},'])
async def test_a_batch_of_nothing_but_brackets_is_refused_unparsed(store_url: str, pair: bytes) -> None:
    body = b'{"items":[{"topic":"tenant:a","state":[' + pair * 120_000 + b"0]}]}"
    async with run_gateway(environment(store_url)) as running, publisher(running) as client:
        answer = await client.post("/v1/publish/batch", content=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "batch_too_large")
        assert "100,000 objects and arrays" in answer.json()["detail"]
        assert "in parts" in answer.json()["detail"]
