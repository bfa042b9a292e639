"""The shipped browser client against a real gateway: what a page shows while it waits, and while nobody vouches."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.gateway import token
from tests.support.proxy import run_proxy
from tests.support.servers import missing
from tests.support.system import TOPIC, System, ago, event, run_system, selling
from tests.support.wait import until

HEARTBEAT_S = 1.0
SILENCE_S = 2.5 * HEARTBEAT_S
"""After this long without a frame a tab takes its connection for lost."""


class Page:
    """A page that runs the client. `shown`: every snapshot that it showed; `expected`: whether its waits came true."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.shown: list[dict[str, Any]] = []
        self.expected: list[bool] = []

    @property
    def last(self) -> dict[str, Any]:
        """The newest snapshot."""
        return self.shown[-1]

    async def until(self, predicate: Callable[[dict[str, Any]], object], timeout_s: float = 15.0) -> dict[str, Any]:
        """Return the first snapshot from now on, the present one included, for which the predicate holds."""
        seen = max(0, len(self.shown) - 1)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    for snapshot in self.shown[seen:]:
                        if predicate(snapshot):
                            return snapshot
                    seen = len(self.shown)
                    await self._read()
        except TimeoutError:
            raise AssertionError(f"not within {timeout_s:g} s; last: {self.shown[-3:]}") from None

    async def expect(self, after: int, timeout_s: float) -> None:
        """Have the page wait for something newer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"after": after, "timeoutMs": round(timeout_s * 1000)}).encode() + b"\n")
        await self.process.stdin.drain()

    async def answered(self) -> bool:
        """Whether the next wait to end was for something that came."""
        count = len(self.expected)
        async with asyncio.timeout(15):
            while len(self.expected) == count:
                await self._read()
        return self.expected[-1]

    async def _read(self) -> None:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, "the page has ended"
        snapshot = json.loads(line)
        if "expected" in snapshot:
            self.expected.append(snapshot["expected"])
            return
        # Nobody is ever sent back, whatever happens to the connection.
        assert not self.shown or snapshot["version"] >= self.last["version"]
        self.shown.append(snapshot)


@asynccontextmanager
async def page(port: int, topic: str = TOPIC) -> AsyncIterator[Page]:
    """A page whose client connects to a port."""
    node = shutil.which("node")
    if node is None:
        missing("no node to run the browser client (Debian: apt-get install nodejs)")
    program = Path(__file__).with_name("tab.mjs")
    process = await asyncio.create_subprocess_exec(
        node,
        "--experimental-websocket",
        "--no-warnings",
        str(program),
        f"ws://127.0.0.1:{port}",
        topic,
        token(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Page(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def test_s23_the_success_page_says_pending_and_shows_the_plan_the_moment_it_is_there(system: System) -> None:
    async with page(system.gateway.port) as tab:
        await tab.until(lambda shown: shown["status"] == "fresh")
        await tab.expect(after=0, timeout_s=20)
        await tab.until(lambda shown: shown.get("reason") == "pending")
        bought = await system.apply(event(ago(1), kind="subscription.created"))
        assert await tab.answered()
        assert (tab.last["version"], tab.last["state"]["plan"]["key"], tab.last["status"]) == (bought, "pro", "fresh")
        await tab.expect(after=0, timeout_s=20)
        assert await tab.answered(), "what is there already is answered at once"
        assert tab.last["reason"] != "pending"


async def test_s24_a_page_that_waits_for_an_upgrade_in_vain_shows_the_old_tier_and_why(
    system: System, tmp_path: Path
) -> None:
    async with selling(tmp_path / "seller") as seller, page(system.gateway.port) as tab:
        began = await seller.act("upgrade", plan="basic")
        for body in seller.events(began["event_ids"]):
            await system.outcome(body)
        newest = (await system.read())["version"]
        await tab.until(lambda shown: shown["version"] == newest and shown["status"] == "fresh")
        await seller.act("decline")
        refused = await seller.api(
            "PATCH",
            f"/subscriptions/{began['subscription_id']}",
            {
                "items": [{"price_id": "pri_pro", "quantity": 1}],
                "proration_billing_mode": "prorated_immediately",
                "on_payment_failure": "prevent_change",
            },
        )
        assert refused.status_code >= 400
        await tab.expect(after=newest, timeout_s=0.5)
        assert not await tab.answered()
        assert (tab.last["version"], tab.last["state"]["plan"]["key"]) == (newest, "basic")
        assert (tab.last["status"], tab.last["reason"]) == ("fresh", "expired")


async def test_s39_a_page_on_a_server_that_caught_up_with_it_is_fresh_again(store_url: str, tmp_path: Path) -> None:
    """It holds a version that the server it comes back to has not heard of, whose announcement was lost."""
    async with (
        run_system(store_url, tmp_path) as first,
        run_system(store_url, tmp_path, SWEEP_S="600") as second,
        run_proxy("127.0.0.1", first.gateway.port) as wire,
        page(wire.port) as tab,
        second.tab() as other,
    ):
        await other.reaches(await first.apply(event(ago(60), items=[("pri_pro", 1)])))
        # From here on the second one's ear is shut: it stays at what it knows.
        second.gateway.node.hub.announce = lambda channel, payload: None  # type: ignore[method-assign]
        newer = await first.apply(event(ago(50), items=[("pri_pro", 2)]))
        await tab.until(lambda shown: shown["version"] == newer and shown["status"] == "fresh")
        wire.target = ("127.0.0.1", second.gateway.port)
        wire.cut()
        await tab.until(lambda shown: shown["status"] == "stale")
        back = await tab.until(lambda shown: shown["status"] == "fresh")
        assert back["version"] == newer


async def test_s43_a_half_open_connection_is_dropped_at_both_ends_and_the_page_says_stale(
    store_url: str, tmp_path: Path
) -> None:
    """The cable is pulled: no end is told. Each finds out by itself, and both meet again."""
    async with (
        run_system(store_url, tmp_path, HEARTBEAT_S=str(HEARTBEAT_S), RECONNECT_MAX_MS="500") as system,
        run_proxy("127.0.0.1", system.gateway.port) as wire,
        page(wire.port) as tab,
    ):
        held = await system.apply(event(ago(60), items=[("pri_basic", 1)]))
        await tab.until(lambda shown: shown["version"] == held and shown["status"] == "fresh")
        sockets = system.gateway.node.registry.sockets
        (lost,) = sockets
        wire.freeze()
        frozen = time.time()
        stale = await tab.until(lambda shown: shown["status"] == "stale")
        assert (stale["version"], stale["reason"]) == (held, "silence")
        assert stale["at"] / 1000 - frozen < SILENCE_S + 4.0, "what a busy machine adds"
        await until(lambda: lost not in sockets, timeout_s=10)
        newer = await system.apply(event(ago(50), items=[("pri_pro", 1)]))
        wire.thaw()
        back = await tab.until(lambda shown: shown["status"] == "fresh")
        assert (back["version"], back["state"]["plan"]["key"]) == (newer, "pro")
