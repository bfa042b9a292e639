"""Usage beside processes of an earlier build, which know nothing of it, on one store: a rolling deploy, a roll-back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support.earlier import Build, earlier_build
from tests.support.gateway import PUBLISH_KEY, Running, environment, open_client, run_gateway, token

TOPIC = "tenant:acme"
CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true
limits = { exports = 2 }

[meters.exports]
kind = "consumable"
"""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return earlier_build(tmp_path_factory.mktemp("earlier"))


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    store = connect(store_url).store
    yield store
    await store.aclose()


@pytest.fixture
async def running(store_url: str, tmp_path: Path) -> AsyncIterator[Running]:
    path = tmp_path / "catalog.toml"
    path.write_text(CATALOG)
    secrets = "live:pdl_ntfset_x"
    async with run_gateway(environment(store_url, INTAKE="1", CATALOG=str(path), PADDLE_SECRETS=secrets)) as running:
        yield running


async def consume(running: Running, amount: int) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {PUBLISH_KEY}"}
    async with httpx2.AsyncClient(base_url=running.url, headers=headers) as http:
        answer = await http.post("/v1/tenants/acme/usage/exports/consume", json={"amount": amount})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def commit_by(build: Build, store: Store, **limits: int) -> int:
    """Commit a state with the script of an earlier build; return its version."""
    script = (build.root / "sync" / "state" / "commit.lua").read_text()
    state = orjson.dumps({"plan": {"key": f"p{limits['exports']}"}, "status": "active", "limits": limits})
    names = [keys.snap(TOPIC), keys.log(TOPIC), keys.seen(TOPIC)]
    redis: Any = store.redis
    given = ["PUBLISH", keys.channel(TOPIC), state, "", "", "", "", "", ""]
    verdict, version = await redis.eval(script, len(names), *names, *given)
    assert verdict == b"applied"
    return int(version)


async def test_s123_what_an_earlier_build_commits_counts_for_the_very_next_call(
    running: Running, store: Store, earlier: Build
) -> None:
    assert (await consume(running, 2))["allowed"]
    assert not (await consume(running, 1))["allowed"]
    up = await commit_by(earlier, store, exports=5)
    found = await consume(running, 3)
    assert (found["allowed"], found["used"], found["limit"], found["version"]) == (True, 5, 5, up)
    down = await commit_by(earlier, store, exports=4)
    found = await consume(running, 1)
    assert (found["allowed"], found["used"], found["limit"], found["version"]) == (False, 5, 4, down)


async def test_s123_a_page_shows_the_count_with_the_limit_of_an_earlier_build(
    running: Running, store: Store, earlier: Build
) -> None:
    await consume(running, 2)
    version = await commit_by(earlier, store, exports=9)
    async with open_client(running, "usage:acme", jwt=token(TOPIC)) as client:
        while True:
            frame = await client.receive()
            state = frame.get("state") if frame["type"] == "snapshot" else None
            if state and state["entitlements"] == version:
                break
    assert (state["meters"]["exports"]["used"], state["meters"]["exports"]["limit"]) == (2, 9)
