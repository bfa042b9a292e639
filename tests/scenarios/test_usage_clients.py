"""The shipped JavaScript clients of usage against a real gateway: a back end counts, a page shows the count."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import PUBLISH_KEY, token
from tests.support.servers import missing
from tests.support.system import CATALOG, TOPIC, System, ago, event, run_system

METERS = """
[meters.api_calls]
kind = "consumable"
limit = "projects"

[meters.seats]
kind = "allocated"
"""

Document = dict[str, Any]


class Clients:
    """The clients in a Node process. `shown`: what the page has shown of a meter."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.shown: list[Document] = []

    async def call(self, *call: object) -> Any:
        """Return the answer to a call."""
        await self._send(call)
        async with asyncio.timeout(20):
            while True:
                found = await self._read()
                if found is not None:
                    return found["answer"]

    async def show(self, meter: str) -> None:
        """Show a meter in the page."""
        await self._send(("show", meter))

    async def until(self, predicate: Callable[[Document], bool]) -> Document:
        """Return the first value from now on, the present one included, for which the predicate holds."""
        seen = max(0, len(self.shown) - 1)
        async with asyncio.timeout(20):
            while True:
                for shown in self.shown[seen:]:
                    if predicate(shown):
                        return shown
                seen = len(self.shown)
                await self._read()

    async def _send(self, call: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(call).encode() + b"\n")
        await self._process.stdin.drain()

    async def _read(self) -> Document | None:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the process has ended"
        found: Document = json.loads(line)
        if "shown" not in found:
            return found
        self.shown.append(found["shown"])
        return None


@asynccontextmanager
async def clients(system: System, url: str = "") -> AsyncIterator[Clients]:
    """The clients of a system, whose calls and pages go through `url`."""
    node = shutil.which("node")
    if node is None:
        missing("no node to run the JavaScript clients (Debian: apt-get install nodejs)")
    program = str(Path(__file__).with_name("usage.mjs"))
    process = await asyncio.create_subprocess_exec(
        *(node, "--experimental-websocket", "--no-warnings", program),
        *(url or system.gateway.url, TOPIC, token("tenant:acme"), PUBLISH_KEY),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Clients(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


@pytest.fixture
async def metered(store_url: str, tmp_path: Path) -> AsyncIterator[System]:
    """A system whose catalog has meters."""
    async with run_system(store_url, tmp_path, catalog=CATALOG + METERS) as system:
        yield system


async def test_s117_a_back_end_counts_until_the_limit_and_an_upgrade_lifts_it(metered: System) -> None:
    async with clients(metered) as node:
        first = await node.call("consume", TOPIC, "api_calls", 2, {"key": "work-1"})
        assert (first["allowed"], first["known"], first["used"], first["remaining"]) == (True, True, 2, 1)
        again = await node.call("consume", TOPIC, "api_calls", 2, {"key": "work-1"})
        assert (again["repeated"], again["used"]) == (True, 2)
        assert (await node.call("consume", TOPIC, "api_calls", 2))["allowed"] is False

        passed, denied = await node.call("get", TOPIC), await node.call("get", TOPIC)
        assert (passed["status"], passed["headers"]["ratelimit-remaining"]) == (200, "0")
        assert (denied["status"], denied["body"]["code"], denied["body"]["used"]) == (429, "usage_limit_reached", 3)
        assert int(denied["headers"]["retry-after"]) == int(denied["headers"]["ratelimit-reset"]) > 0

        bought = await metered.apply(event(ago(1), kind="subscription.created"))
        lifted = await node.call("consume", TOPIC, "api_calls", 40)
        assert (lifted["allowed"], lifted["limit"], lifted["version"]) == (True, "unlimited", bought)


async def test_s117_reservations_batches_and_what_cannot_be_counted(metered: System) -> None:
    async with clients(metered) as node:
        assert await node.call("reserving", TOPIC, "api_calls", 3, 1) == "done"
        assert (await node.call("read", TOPIC))["meters"]["api_calls"] | {"period": 0} == {
            **{"kind": "consumable", "used": 1, "reserved": 0, "limit": 3, "remaining": 2, "status": "ok"},
            "period": 0,
        }
        assert (await node.call("reserving", TOPIC, "api_calls", 3, 1))["error"] == "UsageDenied"
        assert (await node.call("set", TOPIC, "seats", 2))["allowed"] is False
        results = await node.call(
            "batch",
            [
                {"tenant": TOPIC, "meter": "api_calls"},
                {"tenant": "tenant:globex", "meter": "api_calls", "amount": 3},
                {"tenant": TOPIC, "meter": "api_call"},
                {"tenant": TOPIC, "meter": "api_calls", "operation": "reserve", "amount": 1},
                {"tenant": "tenant:globex", "meter": "api_calls", "operation": "release", "amount": 3},
            ],
        )
        assert [(one.get("allowed"), one.get("used"), one.get("code")) for one in results] == [
            (True, 2, None),
            (True, 3, None),
            (None, None, "meter_unknown"),
            (True, 2, None),
            (True, 0, None),
        ]
        held = {"tenant": TOPIC, "meter": "api_calls", "operation": "finalize", "amount": 0, "id": results[3]["id"]}
        assert [one["reserved"] for one in (results[3], *await node.call("batch", [held]))] == [1, 0]
        again = {**held, "operation": "reserve", "amount": 1}
        assert [one["code"] for one in await node.call("batch", [again])] == ["key_reused"]
        reserved = await node.call("reserve", TOPIC, "api_calls", 1, {"id": held["id"]})
        assert reserved == {"error": "UsageProblem", "code": "key_reused"}
        wrong = await node.call("consume", TOPIC, "api_call", 1)
        assert wrong == {"error": "UsageProblem", "code": "meter_unknown"}


async def test_s118_a_page_shows_the_count_with_the_limit_that_it_belongs_to(metered: System) -> None:
    async with clients(metered) as node:
        await node.show("api_calls")
        await node.until(lambda shown: shown["fresh"] and shown.get("used") == 0 and shown["limit"] == 3)
        assert node.shown[0] == {"status": "unknown", "fresh": False}
        await node.call("consume", TOPIC, "api_calls", 3)
        reached = await node.until(lambda shown: shown.get("used") == 3)
        assert (reached["status"], reached["remaining"], reached["fresh"]) == ("reached", 0, True)

        await metered.apply(event(ago(1), kind="subscription.created"))
        lifted = await node.until(lambda shown: shown["fresh"] and shown.get("limit") == "unlimited")
        assert (lifted["used"], lifted["remaining"], lifted["status"]) == (3, "unlimited", "ok")
        # The old count with its old limit may stay on the screen meanwhile, but not as current.
        numbers = [(one["used"], one["limit"]) for one in node.shown if one["fresh"] and "used" in one]
        assert numbers == sorted(numbers, key=lambda pair: [(0, 3), (3, 3), (3, "unlimited")].index(pair))
