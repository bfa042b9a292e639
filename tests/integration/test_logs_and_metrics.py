"""What an operator sees of a web process: every documented metric, and log lines for its sockets, none for pushes."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from gateway.metric_kinds import PREFIX
from planwire_client.http import NO_ANSWER
from tests.support.gateway import PUBLISH_KEY, Client, environment, token
from tests.support.processes import Running, clean_environ, running as running_process
from tests.support.servers import free_port
from tests.support.wait import until

TOPIC = "tenant:acme"
TABS = 3
VERSIONS = 40
OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"

REQUIRED = {
    "sockets": "planwire_sockets",
    "topics": "planwire_topics",
    "publish to sent": "planwire_publish_to_sent_seconds_count",
    "publish to acked": "planwire_publish_to_acked_seconds_count",
    "occurred to acked": "planwire_occurred_to_acked_seconds_count",
    "replaced": "planwire_replaced_total",
    "conflated": "planwire_conflated_total",
    "swept repairs": "planwire_sweep_repairs_total",
    "probe age": "planwire_probe_age_seconds",
    "verdicts": "planwire_verdicts_total",
    "auth failures": "planwire_auth_failures_total",
    "drain": "planwire_draining",
    "drained": "planwire_drained_total",
}
"""What is to be known of a gateway, and how a scrape calls it."""


class Web:
    """A web process, and HTTP to it."""

    def __init__(self, process: Running, port: int, http: httpx2.AsyncClient) -> None:
        self.process = process
        self.port = port
        self.http = http

    async def scrape(self) -> str:
        response = await self.http.get("/metrics")
        assert response.status_code == 200
        return response.text

    async def value(self, name: str, **labels: str) -> float:
        """Return one sample, 0 where there is none yet."""
        for family in text_string_to_metric_families(await self.scrape()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0

    async def publish(self, state: object, **more: object) -> int:
        response = await self.http.post(
            "/v1/publish",
            json={"topic": TOPIC, "state": state, **more},
            headers={"Authorization": f"Bearer {PUBLISH_KEY}"},
        )
        assert response.status_code == 200, response.text
        version: int = response.json()["version"]
        return version

    def events(self) -> list[dict[str, Any]]:
        """Return the log so far, a line each."""
        return [json.loads(line) for line in self.process.lines if line.startswith("{")]


@pytest.fixture
async def web(store_url: str, tmp_path: Path) -> AsyncIterator[Web]:
    port = free_port()
    environ = clean_environ(
        tmp_path, **environment(store_url, PORT=str(port), DRAIN_S="1", ACK_AFTER_MS="0", PROBE_S="30")
    )
    with running_process([sys.executable, "-m", "gateway.server"], environ) as process:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as http:

            async def is_ready() -> bool:
                assert process.status() is None, process.text
                try:
                    return (await http.get("/readyz")).status_code == 200
                except NO_ANSWER:
                    return False

            await until(is_ready, timeout_s=20)
            yield Web(process, port, http)


async def open_tab(stack: AsyncExitStack, web: Web, jwt: str | None = None) -> Client:
    url = f"ws://127.0.0.1:{web.port}/v1/connect"
    client = Client(await stack.enter_async_context(connect(url, subprotocols=[Subprotocol("planwire.v1")])))
    await client.send("hello", token=jwt or token(TOPIC), topics={TOPIC: 0}, client="a-tab")
    return client


async def ack(client: Client, version: int) -> None:
    """Read until that version has come, and acknowledge it."""
    while (await client.receive()).get("version") != version:
        pass
    await client.send("ack", topic=TOPIC, version=version)


async def test_every_metric_is_in_a_scrape_and_in_the_documentation_and_they_move(web: Web) -> None:
    text = await web.scrape()
    found = {
        family.name + {"counter": "_total", "histogram": "_bucket"}.get(family.type, ""): (
            family.type,
            family.documentation,
        )
        for family in text_string_to_metric_families(text)
        if family.name.startswith(PREFIX)
    }
    rows = re.findall(r"(?m)^\| `(planwire_[a-z_]+)(?:\{[a-z, ]+\})?` \| (\w+) \| (.+) \|$", OPERATIONS.read_text())
    assert len(rows) == len({name for name, _, _ in rows})
    assert {name: (kind, what) for name, kind, what in rows} == found

    async with AsyncExitStack() as stack:
        tabs = [await open_tab(stack, web) for _ in range(TABS)]
        for tab in tabs:
            await tab.until("snapshot")
        stranger = await open_tab(stack, web, "nonsense")
        assert (await stranger.closed())[0] == 4401
        occurred_at = datetime.now(UTC).isoformat()
        version = await web.publish({"n": 1}, cause={"source": "test", "occurred_at": occurred_at})
        await asyncio.gather(*[ack(tab, version) for tab in tabs])

        async def moved() -> bool:
            assert await web.value(REQUIRED["sockets"]) == TABS
            assert await web.value(REQUIRED["topics"]) == 1
            assert await web.value(REQUIRED["publish to sent"]) == 1
            assert await web.value(REQUIRED["publish to acked"]) == TABS
            assert await web.value(REQUIRED["occurred to acked"]) == TABS
            assert await web.value(REQUIRED["verdicts"], verdict="applied") == 1
            assert await web.value(REQUIRED["auth failures"], code="token_malformed") == 1
            assert await web.value(REQUIRED["probe age"]) < float("inf")
            return True

        await until(moved, timeout_s=10)
    scraped = await web.scrape()
    for what, name in REQUIRED.items():
        assert re.search(rf"(?m)^{name}(\{{| )", scraped), what
    # What the histograms say is no more than has passed.
    assert 0 < await web.value("planwire_publish_to_acked_seconds_sum") < TABS * 60


async def test_a_line_when_a_socket_opens_and_one_when_it_closes_and_none_for_what_it_is_sent(web: Web) -> None:
    async with AsyncExitStack() as stack:
        tabs = [await open_tab(stack, web, token(TOPIC, sub=f"user-{number}")) for number in range(TABS)]
        for tab in tabs:
            await tab.until("snapshot")
        await until(lambda: Counter(one["event"] for one in web.events())["connect"] == TABS, timeout_s=10)
        before = len(web.events())
        for number in range(VERSIONS):
            version = await web.publish({"n": number})
            await asyncio.gather(*[ack(tab, version) for tab in tabs])
        await until(lambda: _is_acked(web, VERSIONS * TABS), timeout_s=10)
        await tabs[0].connection.close(3333, "enough")
        tabs[1].connection.transport.abort()

        def closes() -> list[dict[str, Any]]:
            return [one for one in web.events() if one["event"] == "close"]

        await until(lambda: len(closes()) == 2, timeout_s=10)
        # Of all that was published, sent and acknowledged there is no line: only these two are new.
        assert [one["event"] for one in web.events()[before:]] == ["close", "close"]
        web.process.process.terminate()
        assert (await tabs[2].closed(10))[0] == 4000
        await until(lambda: web.process.status() is not None, timeout_s=20)
        assert web.process.status() == 0
    await until(lambda: web.process.has_ended)  # so all of its log is read
    connects = {one["session"]: one for one in web.events() if one["event"] == "connect"}
    ends = {one["session"]: one for one in closes()}
    assert connects.keys() == ends.keys()
    assert {one["sub"]: one["code"] for one in ends.values()} == {"user-0": 3333, "user-1": 1006, "user-2": 4000}
    for session, end in ends.items():
        opened = connects[session]
        assert (opened["sub"], opened["client"], opened["peer"]) == (end["sub"], "a-tab", "127.0.0.1")
        assert end["seconds"] > 0
        assert {"level", "timestamp"} <= opened.keys() & end.keys()


async def _is_acked(web: Web, count: int) -> bool:
    return await web.value("planwire_acks_total") == count
