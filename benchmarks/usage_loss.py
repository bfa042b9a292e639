"""Measures what a failure of the store costs: units that were answered as counted and that it does not have afterwards.

    python -m benchmarks.usage_loss [--rate 1000] [--seconds 2] [--rounds 5]

Callers consume at a fixed rate, each call with a key, and stop with the failure. Then the store's count is compared
with the answers. With a page, a gateway shows the tenant's usage, and writes back what it shows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import redis

from planwire_client.core.commit import BILLING
from sync.billing.catalog.catalog import parse
from sync.store.command_pipeline import run_commands
from sync.store.models import Change, StoreError
from sync.store.redis.connect import connect
from sync.store.store import Store
from sync.usage.calls import Answer, Call, UsageCalls
from sync.usage.meters import meters_of
from tests.support.gateway import environment, open_client, run_gateway, token
from tests.support.proxy import Proxy, run_proxy
from tests.support.servers import Server, start_valkey
from tests.support.wait import until

LIMIT = 10**9
CATALOG = f"""
[plans.pro]
name = "Pro"
rank = 0
default = true
limits = {{ calls = {LIMIT} }}

[meters.calls]
kind = "consumable"
reset = "never"
"""
STATE = b'{"limits":{"calls":%d},"plan":{"key":"pro","name":"Pro","rank":0},"status":"active"}' % LIMIT
TENANT, USAGE = "tenant:acme", "usage:acme"
METERS = meters_of(parse(CATALOG))
HEALED_S = 5.0
LAG_S = 0.05
"""How far the replica is behind."""


class Callers:
    """Consumes at a fixed rate until the store is gone; `answered` is what was counted for it."""

    def __init__(self, store: Store, rate: int) -> None:
        self.answered = 0
        self._calls = UsageCalls(store, lambda: METERS)
        self._rate = rate
        self._open = set[asyncio.Task[None]]()
        self.is_over = False

    async def run(self) -> None:
        """Consume until `end`."""
        begun, sent = time.monotonic(), 0
        while not self.is_over:
            for _ in range(int((time.monotonic() - begun) * self._rate) - sent):
                task = asyncio.create_task(self._consume(f"k{sent}"))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
                sent += 1
            await asyncio.sleep(0.001)

    async def _consume(self, key: str) -> None:
        (found,) = await self._calls.run([Call(TENANT, "consume", "calls", 1, key=key)])
        if isinstance(found, StoreError) or self.is_over:
            return
        assert isinstance(found, Answer), found
        self.answered += found.is_allowed

    async def end(self) -> None:
        """Drop the calls without an answer."""
        self.is_over = True
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


async def counted(url: str) -> int:
    """Return what a store has counted."""
    store = connect(url).store
    (count,) = await run_commands(store, ("HGET", store.keys.usage(TENANT, "meters"), "calls:count"))
    await store.aclose()
    return 0 if count is None else int(count.split()[0])


@contextlib.asynccontextmanager
async def page(proxy: Proxy, folder: Path) -> AsyncIterator[None]:
    """A gateway behind a proxy, with a page that shows the tenant's usage."""
    path = folder / "catalog.toml"
    path.write_text(CATALOG)
    url = f"redis://127.0.0.1:{proxy.port}"
    environ = environment(url, INTAKE="1", CATALOG=str(path), PADDLE_SECRETS="live:pdl_ntfset_x", SWEEP_S="1")
    async with run_gateway(environ) as running, open_client(running, USAGE, jwt=token(TENANT)):
        yield


async def lost(args: argparse.Namespace, sync: str, fail: Fail, *, with_page: bool = False) -> int:
    """Return the units that one failure costs."""
    with (
        start_valkey(tcp=True, aof=True, args=["--appendfsync", sync]) as server,
        tempfile.TemporaryDirectory() as here,
    ):
        async with contextlib.AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(run_proxy("127.0.0.1", server.port))
            store = connect(server.url).store
            await store.commit(Change(TENANT, STATE, owner=BILLING))
            if with_page:
                await stack.enter_async_context(page(proxy, Path(here)))
            callers = Callers(store, args.rate)
            running = asyncio.create_task(callers.run())
            after = await fail(server, stack, args.seconds)
            proxy.target = ("127.0.0.1", after.port)
            proxy.cut()
            await callers.end()
            await running
            await store.aclose()
            if with_page:
                with contextlib.suppress(TimeoutError, AssertionError):
                    await until(lambda: _is_whole(after, callers.answered), timeout_s=HEALED_S)
            return callers.answered - await counted(after.url)


async def _is_whole(server: Server, answered: int) -> bool:
    return await counted(server.url) >= answered


Fail = Callable[[Server, contextlib.AsyncExitStack, float], Awaitable[Server]]


async def killed(server: Server, stack: contextlib.AsyncExitStack, seconds: float) -> Server:
    """kill -9, and a restart with the same file"""
    await asyncio.sleep(seconds)
    server.kill()
    server.start()
    return server


async def cut(server: Server, stack: contextlib.AsyncExitStack, seconds: float) -> Server:
    """a power failure: the last second of the file is gone"""
    await asyncio.sleep(seconds - 1)
    (path,) = sorted((server.directory / "appendonlydir").glob("*.incr.aof"))
    size = path.stat().st_size
    await asyncio.sleep(1)
    server.kill()
    with path.open("rb+") as file:
        file.truncate(size)
    server.start()
    return server


async def taken_over(server: Server, stack: contextlib.AsyncExitStack, seconds: float) -> Server:
    """kill -9 of the primary; its replica, 50 ms behind, takes over"""
    wire = await stack.enter_async_context(run_proxy("127.0.0.1", server.port))
    args = ["--replicaof", "127.0.0.1", str(wire.port), "--repl-diskless-sync-delay", "0"]
    new = stack.enter_context(start_valkey(tcp=True, args=args))
    with redis.Redis(port=new.port) as client:
        await until(lambda: client.info("replication")["master_link_status"] == "up", timeout_s=30)
        wire.latency_s = LAG_S
        await asyncio.sleep(seconds)
        server.kill()
        wire.cut()
        client.execute_command("REPLICAOF", "NO", "ONE")
    return new


CASES = (
    ("appendfsync always", "always", killed, False),
    ("appendfsync everysec", "everysec", killed, False),
    ("appendfsync everysec", "everysec", cut, False),
    ("appendfsync everysec, a page is open", "everysec", cut, True),
    ("a replica", "everysec", taken_over, False),
    ("a replica, a page is open", "everysec", taken_over, True),
)


async def run(args: argparse.Namespace) -> None:
    """Print the table."""
    print("| store | failure | units lost, median | max | runs |\n|---|---|---|---|---|", flush=True)
    for name, sync, fail, with_page in CASES:
        found = [await lost(args, sync, fail, with_page=with_page) for _ in range(args.rounds)]
        print(
            f"| {name} | {fail.__doc__} | {statistics.median(found):.0f} | {max(found)} | {args.rounds} |", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1000, help="calls per second")
    parser.add_argument("--seconds", type=float, default=2.0, help="until the failure")
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(run(parser.parse_args()))
