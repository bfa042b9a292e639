"""Measures signed webhooks per second of one web process: verified, stored, reduced, committed, announced, answered.

    python -m benchmarks.intake [--count 8000] [--connections 16] [--rounds 3]

Every delivery is a `subscription.updated` of one of a thousand tenants, signed as Paddle does. It has its own event id
and time and a changed seat count, so each creates a version. No API key is set: the body itself is applied. The last
column is the 99th percentile of answer times at 300 a second.
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
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks import rig
from sync.simulator.paddle.webhooks import HEADER, sign

TENANTS = 1000
WEBHOOK_SECRET = "pdl_ntfset_benchmark_secret"
PRICE = "pri_benchmark"
RATE = 300
RATE_SECONDS = 5
CATALOG = f"""
[plans.free]
name = "Free"
rank = 0
default = true

[plans.pro]
name = "Pro"
rank = 20
features = ["basic", "sso", "export"]
per_unit.limits = {{ seats = 1 }}
prices.paddle.live = ["{PRICE}"]
"""


def event(index: int) -> bytes:
    """Return one webhook's body, which changes the seats of tenant `index % TENANTS`."""
    tenant = index % TENANTS
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=index)

    def stamp(moment: datetime) -> str:
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    subscription = {
        "id": f"sub_bench{tenant:06d}",
        "status": "active",
        "customer_id": f"ctm_bench{tenant:06d}",
        "currency_code": "EUR",
        "created_at": stamp(datetime(2025, 12, 1, tzinfo=UTC)),
        "updated_at": stamp(at),
        "started_at": stamp(datetime(2025, 12, 1, tzinfo=UTC)),
        "current_billing_period": {"starts_at": stamp(at), "ends_at": "2036-01-01T00:00:00Z"},
        "next_billed_at": "2036-01-01T00:00:00Z",
        "collection_mode": "automatic",
        "scheduled_change": None,
        "items": [
            {
                "status": "active",
                "quantity": 1 + index // TENANTS,
                "recurring": True,
                "price": {"id": PRICE, "product_id": "pro_benchmark", "name": "Pro", "status": "active"},
            }
        ],
        "custom_data": {"tenant_id": f"bench{tenant}"},
    }
    body = {
        "event_id": f"evt_bench{index:08d}",
        "event_type": "subscription.updated",
        "occurred_at": stamp(at),
        "notification_id": f"ntf_bench{index:08d}",
        "data": subscription,
    }
    return json.dumps(body).encode()


def requests(first: int, count: int) -> list[bytes]:
    """Return whole HTTP requests, signed now."""
    made = []
    for index in range(first, first + count):
        body = event(index)
        signature = sign(body, [WEBHOOK_SECRET], int(time.time()))
        head = (
            f"POST /webhooks/paddle HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{HEADER}: {signature}\r\n"
        )
        made.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return made


async def _post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    body = await reader.readexactly(int(length.partition(b":")[2]))
    if not head.startswith(b"HTTP/1.1 200") or b'"applied"' not in body:
        print((head + body).decode(), file=sys.stderr)
        os._exit(1)
    return body


async def _drive(port: int, count: int, connections: int) -> rig.Row:
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
    made = requests(0, count)

    async def work(mine: Iterator[bytes], stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        for request in mine:
            await _post(*stream, request)

    # One iterator for all: a free connection takes the next.
    shared = iter(made)
    started = time.perf_counter()
    await asyncio.gather(*(work(shared, stream) for stream in streams))
    taken = time.perf_counter() - started
    print(json.dumps({"seconds": taken}), flush=True)

    later = requests(count, RATE * RATE_SECONDS)
    waits: list[float] = []
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for stream in streams:
        idle.put_nowait(stream)

    async def one(request: bytes, due: float) -> None:
        stream = await idle.get()
        await _post(*stream, request)
        idle.put_nowait(stream)
        waits.append(time.perf_counter() - due)  # from the due time, so that queueing in this client counts too

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for index, request in enumerate(later):
            due = started + index / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(request, due))
    waits.sort()
    return {"p50_ms": waits[len(waits) // 2] * 1000, "p99_ms": waits[int(len(waits) * 0.99)] * 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(asyncio.run(_drive(options.child, options.count, options.connections))))
        return
    found: list[tuple[float, float, float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "catalog.toml").write_text(CATALOG)
        base = rig.gateway(INTAKE="1", PADDLE_SECRETS=f"live:{WEBHOOK_SECRET}", CATALOG=str(folder / "catalog.toml"))
        candidate = replace(base, name="intake")
        sizes = [f"--count={options.count}", f"--connections={options.connections}"]
        for _ in range(options.rounds):
            rig.wait_until_quiet()
            with rig.store(folder) as store, rig.serve(candidate, folder, store) as (port, pids):
                command = [sys.executable, "-m", "benchmarks.intake", *sizes, f"--child={port}"]
                before = rig.cpu_s(pids)
                with subprocess.Popen(
                    rig.pinned(rig.LOAD_CORE, command), stdout=subprocess.PIPE, cwd=rig.ROOT
                ) as child:
                    assert child.stdout is not None
                    seconds = json.loads(child.stdout.readline())["seconds"]
                    used = rig.cpu_s(pids) - before
                    rate: rig.Row = json.loads(child.stdout.readline())
                found.append((options.count / seconds, used * 1e6 / options.count, rate["p50_ms"], rate["p99_ms"]))
    medians = [rig.median(column) for column in zip(*found, strict=True)]
    row: list[object] = [
        int(medians[0]),
        medians[1],
        int(1e6 / medians[1]),
        medians[2],
        medians[3],
    ]
    columns = [
        "webhooks/s",
        "CPU us/webhook",
        "webhooks per CPU second",
        f"at {RATE}/s: p50 ms",
        f"at {RATE}/s: p99 ms",
    ]
    rig.print_table(columns, [row])


if __name__ == "__main__":
    main()
