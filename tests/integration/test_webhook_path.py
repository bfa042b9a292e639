"""The table of docs/architecture.md is the way of a webhook through the running code."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import httpx2

from sync.billing.catalog.watcher import EXAMPLE
from sync.store.store import Store
from tests.support.bodies import SECRET, signature, webhook
from tests.support.gateway import environment, open_client, run_gateway
from tests.support.paddle import price_id

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
CLIENT = ROOT / "clients" / "python"


NOT_VISITED = {"gateway/ws/session_socket.py": "the transport of this tab drains"}
"""Listed files that a webhook passes by when all goes well, with the reason."""


def listed() -> list[str]:
    """Return the files in the page's table, in order."""
    return re.findall(r"^\| \d+ \| `([^`]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)


class Trace:
    """The modules of ours that run, in order, again and again."""

    def __init__(self) -> None:
        self.visits: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(f"{ROOT}/") and "/tests/" not in path and "/.venv/" not in path:
            name = path.removeprefix(f"{CLIENT}/").removeprefix(f"{ROOT}/")
            if self.visits[-1:] != [name]:
                self.visits.append(name)


async def trace(store_url: str) -> list[str]:
    """Return the visits between the arrival of a webhook and the frame at a tab."""
    settings = {"INTAKE": "1", "PADDLE_SECRETS": f"live:{SECRET}", "CATALOG": str(EXAMPLE)}
    tracing = Trace()
    async with (
        run_gateway(environment(store_url, **settings)) as running,
        open_client(running, "tenant:acme") as client,
        httpx2.AsyncClient(base_url=running.url) as http,
    ):

        async def deliver(number: int) -> None:
            body = webhook(number, items=[(price_id("pro"), number)])
            header = {"Paddle-Signature": signature(body, int(time.time()), SECRET)}
            answer = (await http.post("/webhooks/paddle", content=body, headers=header)).json()
            assert answer["outcome"] == "applied"
            while (await client.receive(heartbeats=True)).get("version") != answer["version"]:
                pass

        await deliver(1)  # from now on the tab shows the topic
        sys.setprofile(tracing)
        try:
            await deliver(2)
        finally:
            sys.setprofile(None)
    return tracing.visits


async def test_a_webhook_visits_the_listed_files_in_their_order(store_url: str, store: Store) -> None:
    visits = await trace(store_url)
    files = [name for name in listed() if name.endswith(".py") and name not in NOT_VISITED]
    assert len(files) >= 9
    at = -1
    for name in files:
        assert name in visits[at + 1 :], f"{name} does not come after what is listed before it"
        at = visits.index(name, at + 1)


async def test_it_enters_each_room_of_billing_once(store_url: str, store: Store) -> None:
    """No later file is entered before an earlier one: who reads down the table is not sent back up."""
    visits = await trace(store_url)
    files = [name for name in listed() if name.startswith("sync/")]
    first = [visits.index(name) for name in files]
    assert first == sorted(first)


def test_every_listed_file_is_there() -> None:
    assert [name for name in listed() if not (ROOT / name).exists() and not (CLIENT / name).exists()] == []
