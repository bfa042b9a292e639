"""Several web processes on one port: `python -m gateway.server` with WEB_CONCURRENCY, as an operator runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from sync.billing.catalog.watcher import EXAMPLE
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import environment
from tests.support.processes import clean_environ
from tests.support.servers import free_port, missing
from tests.support.wait import until
from tests.support.wire import CLOSE, TEXT, Wire, dial, encode, greet

pytestmark = pytest.mark.slow

WORKERS = 2
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
SOCKETS = 40


@pytest.fixture(autouse=True)
def process_list() -> None:
    if not Path("/proc/self/net/tcp").exists():
        missing("looking into processes needs /proc")


@dataclass
class Web:
    """The supervisor and what belongs to it. `log`: where all of them write."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    seen: set[int]

    def workers(self) -> set[int]:
        """Return the ids of the processes that serve."""
        found = {pid for pid in children(self.process.pid) if is_worker(pid)}
        self.seen |= found
        return found

    def lines(self) -> list[str]:
        """Return the log's lines."""
        return self.log.read_text().splitlines()


def children(parent: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            # The name in brackets may contain anything; the parent is the second field after it.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if entry.name.isdigit() and int(fields[1]) == parent and fields[0] != "Z":
                yield int(entry.name)


def is_worker(pid: int) -> bool:
    """Whether it has begun to be one: until then, and once it has ended, its command line is another's, or empty."""
    with contextlib.suppress(OSError):
        return b"--multiprocessing-fork" in (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
    return False


def exists(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def descriptors(pid: int) -> list[Path]:
    return list((Path("/proc") / str(pid) / "fd").iterdir())


def owner(wire: Wire, web: Web) -> int:
    """Return the id of the worker at the other end of a connection."""
    mine = wire.writer.get_extra_info("sockname")[1]
    address = f"0100007F:{mine:04X}"
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2] == address:
            inode = f"socket:[{fields[9]}]"
            for pid in web.workers():
                with contextlib.suppress(OSError):  # it may be gone by now, or one of its descriptors
                    if any(one.is_symlink() and os.readlink(one) == inode for one in descriptors(pid)):
                        return pid
    raise AssertionError("nobody has the other end yet")


@contextlib.asynccontextmanager
async def run_web(
    store_url: str, directory: Path, *, until_ready: bool = True, path: Path | None = None, **settings: str
) -> AsyncIterator[Web]:
    """Run the supervisor; whatever of it is left at the end is killed."""
    port = free_port()
    environ = clean_environ(directory, **environment(store_url, PORT=str(port), **settings))
    if path is not None:
        environ["PYTHONPATH"] = f"{path}{os.pathsep}{environ['PYTHONPATH']}"
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - started once, waited for below
            [sys.executable, "-m", "gateway.server"],
            env=environ | {"WEB_CONCURRENCY": str(WORKERS)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    web = Web(process, port, log, set())
    try:
        await until(lambda: len(web.workers()) == WORKERS, START_TIMEOUT_S)
        if until_ready:
            await until(lambda: is_ready(port), START_TIMEOUT_S)
        yield web
    finally:
        web.workers()
        process.kill()
        process.wait()
        for pid in web.seen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def is_ready(port: int) -> bool:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        async with dial(port) as wire:
            await wire.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return (await wire.answer()).status == 200
    return False


async def tabs_on_all(stack: contextlib.AsyncExitStack, web: Web, *pids: int) -> dict[Wire, int]:
    """Open tabs until each of the processes has one; return who has which."""
    tabs: dict[Wire, int] = {}

    async def opened() -> Wire:
        return await stack.enter_async_context(greet(web.port, "tenant:acme"))

    async def spread() -> bool:
        # All at once: whoever is busy with one leaves the next to the other.
        for wire in await asyncio.gather(*[opened() for _ in range(SOCKETS)]):
            tabs[wire] = await until(partial(owner, wire, web))
        return set(pids) <= set(tabs.values())

    # Not at once again: while one of them stands still, the other takes all that come.
    await until(spread, START_TIMEOUT_S, every_s=0.5)
    return tabs


async def at(wire: Wire, version: int) -> None:
    while (await wire.json()).get("version") != version:
        pass


@pytest.mark.timeout(180)
async def test_two_workers_serve_one_port_and_replace_each_other(store_url: str, store: Store, tmp_path: Path) -> None:
    async with (
        # Heartbeats are left unanswered here: within the test there shall be too few of them to cut anyone off.
        run_web(store_url, tmp_path, DRAIN_S="1", SOCKETS_PER_SUBJECT="1000", HEARTBEAT_S="600") as web,
        contextlib.AsyncExitStack() as stack,
    ):
        first, second = web.workers()
        tabs = await tabs_on_all(stack, web, first, second)

        async def have_one_feed_each() -> bool:
            return len(await store.redis.client_list(_type="pubsub")) == WORKERS

        async def subscribe_once_each() -> bool:
            """However many of a worker's tabs hold the topic."""
            (subscribed,) = await store.redis.pubsub_numsub(keys.channel("tenant:acme"))
            return bool(subscribed[1] == WORKERS)

        await until(have_one_feed_each, START_TIMEOUT_S)
        await until(subscribe_once_each, START_TIMEOUT_S)

        committed = await store.commit(Change("tenant:acme", b'{"n":1}'))
        await asyncio.gather(*[at(wire, committed.version) for wire in tabs])

        # One is killed: its tabs come back, and the others notice nothing.
        os.kill(first, signal.SIGKILL)
        for wire, pid in tabs.items():
            if pid == first:
                await wire.rest()  # what was under way may still come
        async with greet(web.port, "tenant:acme") as again:
            assert await until(partial(owner, again, web)) != first
            await at(again, committed.version)
        await until(lambda: len(web.workers() - {first}) == WORKERS, START_TIMEOUT_S)
        (third,) = web.workers() - {first, second}
        await until(have_one_feed_each, START_TIMEOUT_S)
        newer = await tabs_on_all(stack, web, third)
        committed = await store.commit(Change("tenant:acme", b'{"n":2}'))
        left = [wire for wire, pid in (tabs | newer).items() if pid != first]
        assert {(tabs | newer)[wire] for wire in left} == {second, third}
        await asyncio.gather(*[at(wire, committed.version) for wire in left])

        # The supervisor is told to stop: every tab hears so, and nobody is left.
        web.process.send_signal(signal.SIGTERM)
        for wire, last in zip(left, await asyncio.gather(*[farewell(wire) for wire in left]), strict=True):
            assert last == ("bye", 4000), owner(wire, web)
        await until(lambda: web.process.poll() is not None and not any(map(exists, web.seen)), STOP_TIMEOUT_S)
        assert web.process.returncode == 0
        # A worker's log is as structured as the supervisor's.
        events = Counter(json.loads(line)["event"] for line in web.lines())
        assert events["connect"] == len(tabs | newer) + 1


async def farewell(wire: Wire) -> tuple[str, int]:
    """Answer the gateway's close; return the last frame's type and the code."""
    last = ""
    while (frame := await wire.frame(STOP_TIMEOUT_S)).opcode != CLOSE:
        if frame.opcode == TEXT:
            last = json.loads(frame.payload)["type"]
    await wire.send(encode(CLOSE, frame.payload))
    return last, struct.unpack("!H", frame.payload[:2])[0]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("until_ready", [True, False], ids=["serving", "starting"])
async def test_workers_do_not_outlive_their_supervisor(store_url: str, tmp_path: Path, until_ready: bool) -> None:
    async with run_web(store_url, tmp_path, until_ready=until_ready) as web:
        workers = web.workers()
        web.process.kill()
        web.process.wait()
        await until(lambda: not any(map(exists, workers)), STOP_TIMEOUT_S)


@pytest.mark.timeout(180)
async def test_a_worker_that_cannot_be_replaced_takes_no_tab_of_the_others_along(
    store_url: str, store: Store, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_bytes(EXAMPLE.read_bytes())
    async with (
        run_web(
            store_url, tmp_path, INTAKE="1", CATALOG=str(catalog), SOCKETS_PER_SUBJECT="1000", HEARTBEAT_S="600"
        ) as web,
        contextlib.AsyncExitStack() as stack,
    ):
        first, second = web.workers()
        tabs = await tabs_on_all(stack, web, first, second)
        catalog.write_text("this is no catalog")
        os.kill(first, signal.SIGKILL)
        await until(lambda: any("worker_not_started" in line for line in web.lines()), START_TIMEOUT_S)
        (line,) = [json.loads(line) for line in web.lines() if "worker_not_started" in line]
        assert line["reason"].startswith(f"PLANWIRE_CATALOG: {catalog}:1: ")
        committed = await store.commit(Change("tenant:acme", b'{"n":1}'))
        await asyncio.gather(*[at(wire, committed.version) for wire, pid in tabs.items() if pid == second])
        assert web.process.poll() is None


@pytest.mark.parametrize("workers", ["two", "0", "-1", "1.5", "100000"])
def test_a_wrong_number_of_workers_is_one_clear_line(workers: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gateway.server"],
        env=clean_environ(tmp_path, **environment("unix:///nowhere"), WEB_CONCURRENCY=workers),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == "planwire: WEB_CONCURRENCY: must be a number of processes, 1 to 256\n"


@pytest.mark.timeout(120)
async def test_a_worker_that_takes_long_to_start_is_not_taken_for_hung(store_url: str, tmp_path: Path) -> None:
    """On a busy machine, or a small one: killed before it has answered once, it would never serve."""
    slow = "import sys, time\nif '--multiprocessing-fork' in sys.orig_argv: time.sleep(7)\n"
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(slow)
    async with run_web(store_url, tmp_path, path=tmp_path / "slow") as web:
        web.workers()
        assert len(web.seen) == WORKERS, "some were replaced before they had begun"
