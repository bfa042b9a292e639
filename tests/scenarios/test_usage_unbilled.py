"""Usage in an environment that no billing computes: what a backend has not published is not known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.integration.test_usage import KEY, ask, gateway, shown
from tests.support.gateway import Running, open_client, token
from tests.support.servers import Server, start_valkey


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with start_valkey() as server:
        yield server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    store = connect(server.url).store
    yield store
    await store.aclose()


async def publish(running: Running, **limits: int) -> None:
    state = {"plan": {"key": "own"}, "status": "active", "limits": limits}
    async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as http:
        answer = await http.post("/v1/publish", json={"topic": "tenant:acme", "state": state})
    assert answer.status_code == 200, answer.text


def told(state: Any) -> tuple[object, object]:
    meter = state["meters"]["api_calls"]
    return meter["status"], meter.get("limit")


class TestUnbilled:
    """Scenario 125."""

    async def test_s125_the_default_plan_is_not_shown_where_no_billing_says_it(
        self, server: Server, tmp_path: Path
    ) -> None:
        async with (
            gateway(server, tmp_path, PADDLE_SECRETS="sandbox:pdl_ntfset_x") as running,
            open_client(running, "usage:acme", jwt=token("tenant:acme")) as page,
            open_client(running, "sandbox/usage:acme", jwt=token("sandbox/tenant:acme")) as billed,
            open_client(running, "moon/usage:acme", jwt=token("moon/tenant:acme")) as unserved,
        ):
            assert told(await shown(page, used=0)) == ("unknown", None)
            assert told(await shown(billed, used=0)) == ("ok", 3)
            assert told(await shown(unserved, used=0)) == ("unknown", None)
            problem = await ask(running, "/api_calls/consume", {"amount": 1}, status=409)
            assert problem["code"] == "limit_unknown"
            await publish(running, api_calls=10)
            await shown(page, limit=10)
            assert (await ask(running, "/api_calls/consume", {"amount": 4}))["remaining"] == 6
            await shown(page, used=4, limit=10, status="ok")

    async def test_s125_what_was_not_known_is_known_once_billing_is_set_up(
        self, server: Server, store: Store, tmp_path: Path
    ) -> None:
        async with (
            gateway(server, tmp_path, PADDLE_SECRETS="sandbox:pdl_ntfset_x") as running,
            open_client(running, "usage:acme", jwt=token("tenant:acme")) as page,
        ):
            assert told(await shown(page, used=0)) == ("unknown", None)
        async with (
            gateway(server, tmp_path) as running,
            open_client(running, "usage:acme", jwt=token("tenant:acme")) as page,
        ):
            await shown(page, limit=3, status="ok")
            assert (await ask(running, "/api_calls/consume", {"amount": 3}))["remaining"] == 0
