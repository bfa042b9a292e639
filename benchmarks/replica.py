"""Measures a read of the replica: with many topics, all fresh, from the calling thread.

    python benchmarks/replica.py [--topics 500] [--reads 1000000] [--rounds 5]

Median of the rounds in nanoseconds per read, without the loop's own cost. For comparison: the same read from the store
over its unix socket, as a backend without a replica would do it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "clients" / "python")]

import redis  # noqa: E402

from benchmarks import rig  # noqa: E402
from planwire_client import Replica, ThreadReplica  # noqa: E402
from sync.store.models import Change  # noqa: E402
from sync.store.redis.connect import connect  # noqa: E402
from tests.support.gateway import environment, run_gateway, token  # noqa: E402
from tests.support.servers import start_valkey  # noqa: E402

STATE = b'{"features":{"export":true,"sso":true},"limits":{"seats":12},"plan":{"key":"pro"},"status":"active"}'


def time_ns(read: Callable[[str], object], names: list[str], reads: int) -> float:
    """Return nanoseconds per call, cycling through all names."""
    turns = max(1, reads // len(names))
    began = time.perf_counter_ns()
    for _ in range(turns):
        for name in names:
            read(name)
    spent = time.perf_counter_ns() - began
    began = time.perf_counter_ns()
    for _ in range(turns):
        for _name in names:
            pass
    return (spent - (time.perf_counter_ns() - began)) / (turns * len(names))


async def measure(topics: int, reads: int, rounds: int) -> list[list[object]]:
    """Return a row for each way of reading."""
    names = [f"tenant:t{n}" for n in range(topics)]
    with start_valkey() as server:
        store = connect(server.url).store
        await store.commit_many([Change(name, STATE) for name in names])
        async with (
            run_gateway(environment(server.url, LOG_LEVEL="error")) as running,
            Replica(running.url, token, names) as replica,
        ):
            await asyncio.gather(*(replica.wait_for(name, timeout_s=60) for name in names))
            threaded = ThreadReplica(running.url, token, names)
            await asyncio.to_thread(lambda: [threaded.wait_for(name, timeout_s=60) for name in names])
            direct = redis.Redis.from_url(server.url)
            ways: list[tuple[str, Callable[[str], object], int]] = [
                ("Replica.get", replica.get, reads),
                ("Replica.is_fresh", replica.is_fresh, reads),
                ("Replica.require", lambda name: replica.require(name, "sso"), reads),
                ("ThreadReplica.get", threaded.get, reads),
                ("ThreadReplica.require", lambda name: threaded.require(name, "sso"), reads),
                ("ThreadReplica.ensure, held", lambda name: threaded.ensure(name, "sso"), reads),
                ("redis-py HGET, unix socket", lambda name: direct.hget(f"pw:{{{name}}}:snap", "state"), reads // 100),
            ]
            rows: list[list[object]] = []
            for label, read, count in ways:
                time_ns(read, names, count // 10)
                taken = [time_ns(read, names, count) for _ in range(rounds)]
                rows.append([label, round(statistics.median(taken)), round(min(taken)), round(max(taken))])
            await asyncio.to_thread(threaded.close)
            direct.close()
        await store.aclose()
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topics", type=int, default=500)
    parser.add_argument("--reads", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = asyncio.run(measure(options.topics, options.reads, options.rounds))
    rig.print_table(["read", "ns, median", "least", "most"], rows)


if __name__ == "__main__":
    main()
