"""A web process with 256 descriptors and an attacker who wants them all: readiness, open tabs and new ones go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.server import descriptors
from gateway.settings import GatewaySettings
from sync.store.models import Change
from sync.store.redis.connect import connect
from tests.support.attacker import KINDS, Kind, attack, request
from tests.support.gateway import MAX_WAIT_S, SECRET, environment
from tests.support.processes import clean_environ
from tests.support.servers import free_port, start_valkey
from tests.support.wait import until
from tests.support.wire import Answer, Wire, dial, greet

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

DESCRIPTORS = 256
CONNECTIONS = 300
"""More than there are descriptors."""

TABS = 20
ROUNDS = 5
ANSWER_S = 5.0
"""How long an answer or a push may take: a machine that runs other tests, and an attack, is slow."""


@dataclass
class Web:
    """A web process with few descriptors; `log`: what it writes."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    store_url: str

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the log's lines of an event."""
        whole = self.log.read_text().rpartition("\n")[0].splitlines()  # the last line may be half written
        lines = (json.loads(line) for line in whole if line.startswith("{"))
        return [line for line in lines if line["event"] == name]

    async def get(self, path: str) -> Answer:
        """Return the answer to a request on a connection of its own."""
        async with dial(self.port) as wire:
            await wire.send(request(f"GET {path}", "Connection: close"))
            return await wire.answer(ANSWER_S)

    async def metric(self, name: str) -> float:
        """Return the value of a metric; the sum, where it has labels."""
        text = (await self.get("/metrics")).body.decode()
        return sum(float(value) for value in re.findall(rf"(?m)^planwire_{name}(?:{{.*}})? (\S+)$", text))

    async def counts(self, name: str, more_than: float) -> None:
        """Return once a counter is above a number: a scrape may be a second old."""

        async def is_counted() -> bool:
            return await self.metric(name) > more_than

        await until(is_counted, MAX_WAIT_S, every_s=0.2)

    def open_files(self) -> int:
        """Return how many descriptors it has open."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    async def is_ready(self) -> bool:
        """Return whether it is ready."""
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            return (await self.get("/readyz")).status == 200
        return False


@contextlib.contextmanager
def _started(folder: Path, environ: dict[str, str], soft: int, hard: int) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "web.log").open("wb") as output:
        process = subprocess.Popen(
            ["prlimit", f"--nofile={soft}:{hard}", sys.executable, "-m", "gateway.server"],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.asynccontextmanager
async def run_web(folder: Path, store_url: str, soft: int, hard: int, **settings: str) -> AsyncIterator[Web]:
    """Run a web process with limits on open files."""
    port = free_port()
    environ = clean_environ(folder, **environment(store_url, PORT=str(port), **settings))
    with _started(folder, environ, soft, hard) as process:
        web = Web(process, port, folder / "web.log", store_url)
        await until(web.is_ready, 30.0)
        yield web


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Web]:
    """One web process for all attacks."""
    folder = tmp_path_factory.mktemp("few")
    with start_valkey() as store:
        async with run_web(folder, store.url, DESCRIPTORS, DESCRIPTORS, HEARTBEAT_S="600") as web:
            yield web


async def shows(tab: Wire, version: int) -> None:
    """Return once the tab has been sent this version."""
    async with asyncio.timeout(ANSWER_S):
        while (await tab.json()).get("version") != version:
            pass


async def new_tab(stack: contextlib.AsyncExitStack, port: int) -> Wire:
    """Return a tab that has been welcomed; one that is cut off before comes again, as browsers do."""

    async def welcomed() -> Wire:
        try:
            async with asyncio.timeout(ANSWER_S):
                return await stack.enter_async_context(greet(port, "tenant:acme"))
        except (OSError, EOFError, TimeoutError) as error:
            raise AssertionError(repr(error)) from error

    return await until(welcomed, ANSWER_S)


async def goes_on(web: Web, kind: Kind, sources: Sequence[str], pause_s: float) -> None:
    """Attack, and see that nobody else notices."""
    dropped = await web.metric("http_connections_dropped_total")
    store = connect(web.store_url).store
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.aclose)
        tabs = [await new_tab(stack, web.port) for _ in range(TABS)]
        attacker = await stack.enter_async_context(attack(web.port, kind, CONNECTIONS, sources, pause_s))
        await until(lambda: attacker.opened > CONNECTIONS, MAX_WAIT_S)
        for number in range(ROUNDS):
            await until(web.is_ready, ANSWER_S)
            tabs.append(await new_tab(stack, web.port))
            committed = await store.commit(Change("tenant:acme", b'{"n":%d,"pad":"%b"}' % (number, b"x" * 20_000)))
            await asyncio.gather(*[shows(tab, committed.version) for tab in tabs])
        assert web.open_files() < DESCRIPTORS
    assert not web.events("descriptors_exhausted")
    await web.counts("http_connections_dropped_total", dropped)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_attacker_keeps_neither_readiness_nor_tabs_out(web: Web, kind: str) -> None:
    """From the very address that the tabs have."""
    await goes_on(web, KINDS[kind], ["127.0.0.1"], 1.0)


@pytest.mark.parametrize("kind", ["silence", "a body after its 405"])
async def test_nor_do_many_addresses(web: Web, kind: str) -> None:
    await goes_on(web, KINDS[kind], [f"127.0.0.{number}" for number in range(2, 32)], 1.0)


@pytest.mark.parametrize("kind", ["silence", "no hello"])
async def test_nor_does_one_in_a_hurry(web: Web, kind: str) -> None:
    """What it opens takes the place of what it has."""
    await goes_on(web, KINDS[kind], ["127.0.0.2"], 0.0)


async def test_the_log_of_an_attack_names_the_cause_and_is_short(web: Web) -> None:
    for sources in (["127.0.0.2"], [f"127.0.0.{number}" for number in range(2, 32)]):
        await goes_on(web, KINDS["silence"], sources, 0.1)
    await web.counts("http_connections_dropped_total", 200)
    for name, reason in {"address_full": "address", "connections_full": "connections_max"}.items():
        lines = web.events(name)
        assert 0 < len(lines) < 100, name
        assert {line["reason"] for line in lines} == {reason}
    (few,) = web.events("limits_lowered")
    assert (few["level"], few["descriptors"]) == ("warning", DESCRIPTORS)
    assert (few["sockets_max"], few["connections_max"]) == (144, 48)


async def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    with start_valkey() as store:
        async with run_web(tmp_path, store.url, 128, 1024) as web:
            assert resource.prlimit(web.process.pid, resource.RLIMIT_NOFILE) == (1024, 1024)
            (few,) = web.events("limits_lowered")
            assert few["descriptors"] == 1024


async def test_a_process_without_a_free_descriptor_says_so_and_heals(tmp_path: Path) -> None:
    """However it comes to that: here its limit is lowered below what it has open."""
    with start_valkey() as store:
        async with run_web(tmp_path, store.url, 1024, 1024) as web, contextlib.AsyncExitStack() as stack:
            tab = await stack.enter_async_context(greet(web.port, "tenant:acme"))
            await stack.enter_async_context(attack(web.port, KINDS["silence"], 40))

            async def are_held() -> bool:
                return await web.metric("http_connections") >= 40

            await until(are_held, MAX_WAIT_S)
            resource.prlimit(web.process.pid, resource.RLIMIT_NOFILE, (web.open_files() - 2, 1024))
            await until(lambda: bool(web.events("descriptors_exhausted")), MAX_WAIT_S)
            await until(web.is_ready, MAX_WAIT_S)
            await web.counts("accept_failures_total", 0)
            client = connect(web.store_url).store
            stack.push_async_callback(client.aclose)
            committed = await client.commit(Change("tenant:acme", b'{"n":1}'))
            await shows(tab, committed.version)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1_048_576, {}),
        (65_536, {}),
        (1024, {"connections_max": 232, "sockets_max": 696, "connections_per_address": 116, "streams_max": 116}),
        (
            256,
            {
                "connections_max": 48,
                "sockets_max": 144,
                "connections_per_address": 24,
                "streams_max": 24,
                "streams_per_subject": 12,
            },
        ),
    ],
)
async def test_limits_fit_the_descriptors(limit: int, expected: dict[str, int]) -> None:
    settings = GatewaySettings.from_env({"PLANWIRE_JWT_SECRET": SECRET})
    fitted = descriptors.fitted(settings, limit)
    assert fitted == expected
    together = sum(fitted.get(name, getattr(settings, name)) for name in ("connections_max", "sockets_max"))
    assert together + min(descriptors.OWN_MAX, limit // descriptors.OWN_SHARE) <= limit
