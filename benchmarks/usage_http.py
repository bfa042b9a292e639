"""Measures calls about one tenant's usage through the gateway: each in a request of its own, and in batches.

    python -m benchmarks.usage_http [--count 20000] [--batch 100] [--rounds 3] [--always]

Each call has a key, and each fits. Callers wait for their answers on connections that stay open: 32 of them for single
calls, 4 for batches. The gateway has core 0; store and callers have core 1. With --always the store writes and syncs
each call before it answers, and the gateway waits for that (PLANWIRE_DURABLE=1).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import rig
from benchmarks.usage import CATALOG

WAYS = {"single": ("one call a request", 32), "batch": ("batches of {batch}", 4)}


def _request(path: str, document: object) -> bytes:
    body = json.dumps(document).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {rig.PUBLISH_KEY}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def requests(way: str, count: int, batch: int) -> list[bytes]:
    """Return the requests for `count` calls."""
    keys = [os.urandom(16).hex() for _ in range(count)]
    if way == "single":
        return [_request("/v1/tenants/acme/usage/m0/consume", {"key": key}) for key in keys]
    calls = [{"tenant": "acme", "meter": "m0", "key": key} for key in keys]
    return [_request("/v1/usage/batch", {"calls": calls[at : at + batch]}) for at in range(0, count, batch)]


async def load(port: int, all: list[bytes], connections: int, per_request: int) -> rig.Row:
    """Send all requests; return the seconds, and the latencies' median and 99th percentile."""
    late: list[float] = []

    async def caller(mine: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in mine:
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            answer = await reader.readexactly(length)
            late.append(time.perf_counter() - began)
            assert answer.count(b'"allowed":true') in (1, per_request), head + answer[:300]
        writer.close()

    await caller(all[:1])
    late.clear()
    began = time.perf_counter()
    await asyncio.gather(*(caller(all[first::connections]) for first in range(1, connections + 1)))
    taken = time.perf_counter() - began
    late.sort()
    at = {"p50_ms": late[len(late) // 2] * 1000, "p99_ms": late[len(late) * 99 // 100] * 1000}
    return {"seconds": taken, "calls": len(late) * per_request, **at}


def run(way: str, options: argparse.Namespace, folder: Path) -> rig.Row:
    """Run a way against a gateway and a store of its own; return its figures with the gateway's CPU per call."""
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG)
    aof = ("--appendonly", "yes", "--appendfsync", "always") if options.always else ()
    settings = {"INTAKE": "1", "CATALOG": str(catalog), "PADDLE_SECRETS": "live:pdl_ntfset_bench"}
    gateway = rig.gateway("planwire", rig.ROOT, **settings, DURABLE="1" if options.always else "0")
    with rig.store(folder, *aof) as store, rig.serve(gateway, folder, store) as (port, pids):
        sizes = [f"--count={options.count}", f"--batch={options.batch}"]
        command = [sys.executable, "-m", "benchmarks.usage_http", *sizes, "--child", way, str(port)]
        before = rig.cpu_s(pids)
        done = subprocess.run(rig.pinned(rig.LOAD_CORE, command), stdout=subprocess.PIPE, check=True, cwd=rig.ROOT)
        row: rig.Row = json.loads(done.stdout)
        return row | {"gateway_us": (rig.cpu_s(pids) - before) * 1e6 / row["calls"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--always", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, port = options.child
        all = requests(way, options.count, options.batch)
        per_request = options.batch if way == "batch" else 1
        print(json.dumps(asyncio.run(load(int(port), all, WAYS[way][1], per_request))))
        return
    results: dict[str, list[rig.Row]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(options.rounds):
            rig.wait_until_quiet()
            for way, rows in results.items():
                rows.append(run(way, options, Path(name)))
    table: list[list[object]] = []
    for way, rows in results.items():
        middle = {key: rig.median([row[key] for row in rows]) for key in rows[0]}
        title = WAYS[way][0].format(batch=options.batch)
        rate = int(middle["calls"] / middle["seconds"])
        table.append([title, rate, middle["p50_ms"], middle["p99_ms"], middle["gateway_us"]])
    rig.print_table(["way", "calls/s", "request p50 ms", "p99 ms", "gateway CPU us/call"], table)


if __name__ == "__main__":
    main()
