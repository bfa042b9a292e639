"""Clients of usage whose calls and answers get lost, in threads and in forked processes: each call counts once."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from planwire_client import AsyncUsage, Counted, Retries, UsageCall
from tests.scenarios.test_usage_clients import METERS, clients
from tests.support.gateway import PUBLISH_KEY
from tests.support.system import CATALOG, TOPIC, System, ago, event, run_system

PATIENT = Retries(attempts=40, total_timeout_s=60.0, backoff_min_s=0.005, backoff_max_s=0.02)
FATES = ("pass", "pass", "refuse", "lose", "cut", "busy", "limited", "page")
REFUSALS = {
    "busy": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "limited": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
    "page": b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
}


class Unreliable:
    """A proxy with a fate for each request: most requests or answers are lost, cut short or refused.

    No request has more than three such fates in a row, as otherwise a client would rightly give up.
    """

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._chance = random.Random(seed)
        self._bad = 0
        self.seen: set[str] = set()

    def fate(self) -> str:
        found = "pass" if self._bad >= 3 else self._chance.choice(FATES)
        self._bad = 0 if found == "pass" else self._bad + 1
        self.seen.add(found)
        return found

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await _message(reader):
                fate = self.fate()
                if fate == "refuse":
                    break
                answer = REFUSALS.get(fate) or await self._answer(request)
                if fate in ("lose", "cut"):
                    writer.write(answer[: len(answer) // 2] if fate == "cut" else b"")
                    break
                writer.write(answer)
                await writer.drain()
        except ConnectionError:
            pass  # the client has given up this attempt
        finally:
            writer.close()

    async def _answer(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request)
        answer = await _message(reader)
        writer.close()
        return answer


async def _message(reader: asyncio.StreamReader) -> bytes:
    """The next request or answer; nothing at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
        return head + await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        return b""


@asynccontextmanager
async def unreliable(system: System, seed: int) -> AsyncIterator[tuple[str, Unreliable]]:
    proxy = Unreliable(system.gateway.port, seed)
    listening = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", proxy


@pytest.fixture
async def metered(store_url: str, tmp_path: Path) -> AsyncIterator[System]:
    """A system whose tenant has no limit of `api_calls`."""
    async with run_system(store_url, tmp_path, catalog=CATALOG + METERS) as system:
        await system.apply(event(ago(1), kind="subscription.created"))
        yield system


async def used(system: System, meter: str = "api_calls") -> tuple[int | None, int | None]:
    async with AsyncUsage(system.gateway.url, PUBLISH_KEY) as usage:
        found = (await usage.read(TOPIC)).meters[meter]
    return found.used, found.reserved


@pytest.mark.parametrize("seed", range(3))
async def test_s126_whatever_is_lost_a_python_call_counts_once(metered: System, seed: int) -> None:
    chance, expected = random.Random(seed), 0
    async with (
        unreliable(metered, seed) as (url, proxy),
        AsyncUsage(url, PUBLISH_KEY, retries=PATIENT) as usage,
        metered.tab("usage:acme") as tab,
    ):
        for _ in range(25):
            amount = chance.randint(1, 9)
            kind = chance.choice(("consume", "batch", "reserve", "fail"))
            if kind == "consume":
                assert await usage.consume(TOPIC, "api_calls", amount)
            elif kind == "batch":
                outcomes = await usage.batch([UsageCall(TOPIC, "api_calls", amount) for _ in range(3)])
                assert all(isinstance(one, Counted) and one.allowed for one in outcomes)
                amount *= 3
            elif kind == "reserve":
                async with usage.reserve(TOPIC, "api_calls", 50) as job:
                    job.used = amount
            else:
                with pytest.raises(ZeroDivisionError):
                    async with usage.reserve(TOPIC, "api_calls", 50):
                        raise ZeroDivisionError
                amount = 0
            expected += amount
        await tab.until(lambda tab: bool(tab.state) and tab.state["meters"]["api_calls"]["used"] == expected)
    assert await used(metered) == (expected, 0)
    assert proxy.seen == set(FATES)


async def test_s126_whatever_is_lost_a_javascript_call_counts_once(metered: System) -> None:
    chance, expected = random.Random(7), 0
    async with unreliable(metered, 7) as (url, proxy), clients(metered, url) as node:
        for _ in range(25):
            amount = chance.randint(1, 9)
            kind = chance.choice(("consume", "batch", "reserving"))
            if kind == "consume":
                assert (await node.call("consume", TOPIC, "api_calls", amount))["allowed"]
            elif kind == "batch":
                calls = [{"tenant": TOPIC, "meter": "api_calls", "amount": amount}] * 3
                assert all(one["allowed"] for one in await node.call("batch", calls))
                amount *= 3
            else:
                assert await node.call("reserving", TOPIC, "api_calls", 50, amount) == "done"
            expected += amount
    assert await used(metered) == (expected, 0)
    assert proxy.seen == set(FATES)


FORKING = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from planwire_client import Usage

url, key, tenant = sys.argv[1:]
usage = Usage(url, key)
assert usage.consume(tenant, "api_calls")  # its connection is open when the processes fork

def work(_):
    return bool(usage.consume(tenant, "api_calls"))

children = []
for _ in range(3):
    child = os.fork()
    if not child:
        try:
            with ThreadPoolExecutor(4) as threads:
                os._exit(0 if all(threads.map(work, range(20))) else 1)
        finally:
            os._exit(2)
    children.append(child)
assert all(map(work, range(10)))  # while they work
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
"""


async def test_s126_one_client_serves_threads_and_forked_processes(metered: System) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORKING, metered.gateway.url, PUBLISH_KEY, TOPIC), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")
    assert await used(metered) == (1 + 3 * 20 + 10, 0)
