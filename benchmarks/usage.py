"""Measures what counting usage costs: time and CPU per consume, memory per tenant and meter.

    python -m benchmarks.usage [--count 20000] [--rate 1000] [--seconds 5] [--rounds 3] [--always] [--tenants 1]

Each way runs twice per round. First at a fixed rate: latency from the moment at which a call is due. Then with 32
callers that each wait for their answer: calls/s and CPU per call. The measured process has core 0, the store core 1.
Units go to one tenant, or in turn to --tenants of them; each call fits. With --always both stores write and sync each
call before they answer; otherwise neither keeps anything. The second table is the store's memory.

For comparison, in the same rounds: the usual Lua script of a limit and an INCRBY, sent by the same pipeline; and
PostgreSQL's UPDATE ... RETURNING with the limit in its WHERE. Neither has keys, windows, versions or announcements.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import redis

from benchmarks import rig
from planwire_client.core.commit import BILLING
from sync.billing.catalog.catalog import parse
from sync.store.command_pipeline import Script, run_script
from sync.store.models import Change
from sync.store.redis.connect import connect
from sync.usage.calls import Answer, Call, UsageCalls
from sync.usage.meters import meters_of
from tests.support.postgres import start_postgres

CALLERS = 32
LIMIT = 10**12
METERS = 4
CATALOG = f"""
[plans.pro]
name = "Pro"
rank = 0
default = true
limits = {{ {", ".join(f"m{index} = {LIMIT}" for index in range(METERS))} }}
""" + "".join(f'[meters.m{index}]\nkind = "consumable"\n' for index in range(METERS))
STATE = b'{"limits":{%s},"plan":{"key":"pro","name":"Pro","rank":0},"status":"active"}' % b",".join(
    b'"m%d":%d' % (index, LIMIT) for index in range(METERS)
)
LUA = """
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if used + tonumber(ARGV[1]) > tonumber(ARGV[2]) then
  return {0, used}
end
return {1, redis.call('INCRBY', KEYS[1], ARGV[1])}
"""
BARE = Script(LUA, hashlib.sha1(LUA.encode(), usedforsecurity=False).hexdigest())
UPDATE = "UPDATE usage SET used = used + %s WHERE tenant = %s AND used + %s <= most RETURNING used"

Consume = Callable[[int], Awaitable[None]]


@contextlib.asynccontextmanager
async def usage(url: str, tenants: int) -> AsyncIterator[Consume]:
    store = connect(url).store
    meters = meters_of(parse(CATALOG))
    calls = UsageCalls(store, lambda: meters)
    await store.commit_many([Change(f"tenant:t{index}", STATE, owner=BILLING) for index in range(tenants)])

    async def consume(index: int) -> None:
        key = os.urandom(8).hex()
        (found,) = await calls.run([Call(f"tenant:t{index % tenants}", "consume", "m0", 1, key=key)])
        assert isinstance(found, Answer), found
        assert found.is_allowed

    yield consume
    await store.aclose()


@contextlib.asynccontextmanager
async def bare(url: str, tenants: int) -> AsyncIterator[Consume]:
    store = connect(url).store

    async def consume(index: int) -> None:
        is_allowed, _ = await run_script(store, BARE, [f"used:{index % tenants}"], 1, LIMIT)
        assert is_allowed

    yield consume
    await store.aclose()


@contextlib.asynccontextmanager
async def postgres(url: str, tenants: int) -> AsyncIterator[Consume]:
    async with contextlib.AsyncExitStack() as stack:
        opened = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(CALLERS)]
        free: asyncio.LifoQueue[psycopg.AsyncConnection] = asyncio.LifoQueue()
        for one in opened:
            await stack.enter_async_context(one)
            free.put_nowait(one)
        await opened[0].execute("CREATE TABLE IF NOT EXISTS usage (tenant text PRIMARY KEY, used bigint, most bigint)")
        for index in range(tenants):
            await opened[0].execute("INSERT INTO usage VALUES (%s, 0, %s) ON CONFLICT DO NOTHING", (f"t{index}", LIMIT))

        async def consume(index: int) -> None:
            connection = await free.get()
            try:
                found = await connection.execute(UPDATE, (1, f"t{index % tenants}", 1), prepare=True)
                assert await found.fetchone()
            finally:
                free.put_nowait(connection)

        yield consume


WAYS: dict[str, tuple[str, Callable[[str, int], contextlib.AbstractAsyncContextManager[Consume]]]] = {
    "usage": ("consume", usage),
    "bare": ("INCRBY and a limit in Lua", bare),
    "postgres": ("PostgreSQL UPDATE ... RETURNING", postgres),
}


async def child(way: str, url: str, options: argparse.Namespace) -> rig.Row:
    """Return one way's figures: latencies at the rate; seconds, CPU and the time span at full speed."""
    async with WAYS[way][1](url, options.tenants) as consume:
        for index in range(max(options.tenants, 100)):
            await consume(index)
        late: list[float] = []

        async def due(index: int, at: float) -> None:
            await consume(index)
            late.append(time.perf_counter() - at)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for index in range(options.rate * options.seconds):
                at = began + index / options.rate
                if (pause := at - time.perf_counter()) > 0:
                    await asyncio.sleep(pause)
                group.create_task(due(index, at))
        late.sort()

        async def caller(first: int) -> None:
            for index in range(first, options.count, CALLERS):
                await consume(index)

        print(json.dumps({"is_full": True}), flush=True)
        sys.stdin.readline()
        before, began = time.process_time(), time.perf_counter()
        await asyncio.gather(*(caller(first) for first in range(CALLERS)))
        taken, own = time.perf_counter() - began, time.process_time() - before
    return {
        "p50_ms": late[len(late) // 2] * 1000,
        "p99_ms": late[len(late) * 99 // 100] * 1000,
        "seconds": taken,
        "own_us": own * 1e6 / options.count,
    }


def run(way: str, url: str, store_cpu_s: Callable[[], float], options: argparse.Namespace) -> rig.Row:
    """Run a way in a process of its own; return its figures with the store's CPU per call."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("count", "rate", "seconds", "tenants")]
    command = rig.pinned(rig.SERVER_CORE, [sys.executable, "-m", "benchmarks.usage", *sizes, "--child", way, url])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=rig.ROOT, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        before = store_cpu_s()
        process.stdin.write("\n")
        process.stdin.flush()
        line = process.stdout.readline()
        used = store_cpu_s() - before
    row: rig.Row = json.loads(line)
    return row | {"store_us": used * 1e6 / options.count}


@contextlib.contextmanager
def started(way: str, folder: Path, *, is_always: bool) -> Iterator[tuple[str, Callable[[], float]]]:
    """Run the store of a way. Yield its URL, and a function that returns its CPU seconds."""
    if way == "postgres":
        with start_postgres(fsync=is_always) as server, server.database() as url:
            pid = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
            os.sched_setaffinity(pid, {rig.LOAD_CORE})
            yield url, lambda: rig.cpu_s(rig.tree(pid))
        return
    aof = ("--appendonly", "yes", "--appendfsync", "always") if is_always else ()
    with rig.store(folder, *aof) as port, redis.Redis(port=port) as client:

        def cpu_s() -> float:
            found = client.info("cpu")
            return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])

        yield f"redis://127.0.0.1:{port}", cpu_s


async def memory(port: int, tenants: int = 2000) -> list[list[object]]:
    """Return bytes of the store for each tenant with usage: at the first call, and with more meters and keys."""
    store = connect(f"redis://127.0.0.1:{port}").store
    meters = meters_of(parse(CATALOG))
    calls = UsageCalls(store, lambda: meters)
    names = [f"tenant:t{index}" for index in range(tenants)]
    rows: list[list[object]] = []
    with redis.Redis(port=port) as client:

        def used() -> int:
            return int(client.info("memory")["used_memory"])

        async def grow(title: str, each: Callable[[int, str], Call], times: int = 1) -> None:
            before = used()
            for turn in range(times):
                for start in range(0, tenants, 200):
                    await calls.run([each(turn, name) for name in names[start : start + 200]])
            rows.append([title, int((used() - before) / tenants / times)])

        await store.commit_many([Change(name, STATE, owner=BILLING) for name in names])
        await grow(f"a tenant with {METERS} meters, first call", lambda _, name: Call(name, "consume", "m0", 1))
        await grow("each further meter that is used", lambda n, name: Call(name, "consume", f"m{n + 1}", 1), METERS - 1)
        await grow(
            "each of the newest 100 calls: its key, its place", lambda _, name: Call(name, "consume", "m0", 1), 100
        )
        await grow(
            "each further call: its key, for a day (36 characters)",
            lambda turn, name: Call(name, "consume", "m0", 1, key=f"{turn:036}"),
            100,
        )
    await store.aclose()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tenants", type=int, default=1)
    parser.add_argument("--always", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, url = options.child
        print(json.dumps(asyncio.run(child(way, url, options))))
        return
    results: dict[str, list[rig.Row]] = {}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(options.rounds):
            rig.wait_until_quiet()
            for way in options.only[:: 1 if turn % 2 else -1]:
                with started(way, Path(name), is_always=options.always) as (url, cpu_s):
                    results.setdefault(way, []).append(run(way, url, cpu_s, options))
        table: list[list[object]] = []
        for way in options.only:
            middle = {key: rig.median([row[key] for row in results[way]]) for key in results[way][0]}
            rate = int(options.count / middle["seconds"])
            title = WAYS[way][0]
            table.append([title, middle["p50_ms"], middle["p99_ms"], rate, middle["store_us"], middle["own_us"]])
        at = f"at {options.rate}/s:"
        columns = ["way", f"{at} p50 ms", f"{at} p99 ms", "calls/s", "store CPU us/call", "process CPU us/call"]
        rig.print_table(columns, table)
        if not options.always and "usage" in options.only:
            with rig.store(Path(name)) as port:
                rig.print_table(["memory", "bytes"], asyncio.run(memory(port)))


if __name__ == "__main__":
    main()
