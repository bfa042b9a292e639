"""Measures publishes per second: through the HTTP batch, directly to the store, and with other libraries.

    python -m benchmarks.publish [--count 30000] [--batch 500] [--bytes 600] [--rounds 3]

Every publish is a new state with its own event id on one of a thousand topics, so each is applied, written to the
history and announced. The measured process has one core: the web process for HTTP, the publishing process for the
others. The store (without persistence) and the HTTP client have the other core.

For comparison: pipelined raw SET + PUBLISH; python-socketio's write-only Redis manager; fastapi_websocket_pubsub's
endpoint with its broadcaster. The two libraries only announce and store nothing (benchmarks/baselines/publishers.py,
installed below benchmarks/.work; skipped if that fails). The last one gets a tenth of the publishes.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis
import redis.asyncio

from benchmarks import rig
from sync.store.models import Change, Committed, Verdict
from sync.store.redis.connect import connect

TOPICS = 1000
HTTP_CONNECTIONS = 2
OTHERS = {"socketio": "python-socketio", "pubsub": "fastapi_websocket_pubsub"}


def state(index: int, size: int) -> bytes:
    head = b'{"n":%d,"pad":"' % index
    return head + b"x" * (size - len(head) - 2) + b'"}'


async def direct(port: int, count: int, batch: int, size: int) -> float:
    """Return the seconds it takes to commit `count` changes through `sync.store.store.Store`."""
    store = connect(f"redis://127.0.0.1:{port}").store
    changes = [Change(f"bench:{index % TOPICS}", state(index, size), event_id=f"evt_{index}") for index in range(count)]
    await store.commit_many(changes[:1])
    started = time.perf_counter()
    for start in range(0, count, batch):
        for one in await store.commit_many(changes[start : start + batch]):
            assert isinstance(one, Committed), one
            assert one.verdict is Verdict.APPLIED or start == 0
    taken = time.perf_counter() - started
    await store.aclose()
    return taken


async def raw(port: int, count: int, batch: int, size: int) -> float:
    """Return the seconds for as many pipelined SET + PUBLISH: no dedupe, no order, no version, no history."""
    client = redis.asyncio.Redis(port=port)
    states = [state(index, size) for index in range(count)]
    await client.ping()
    started = time.perf_counter()
    for start in range(0, count, batch):
        pipeline = client.pipeline(transaction=False)
        for index in range(start, min(count, start + batch)):
            pipeline.set(f"raw:{index % TOPICS}", states[index])
            pipeline.publish(f"raw:{index % TOPICS}", states[index])
        await pipeline.execute()
    taken = time.perf_counter() - started
    await client.aclose()
    return taken


def over_http(port: int, count: int, batch: int, size: int) -> float:
    """Return the seconds for `count` publishes in batches on two connections; bodies are built beforehand."""
    bodies = []
    for start in range(0, count, batch):
        items = [
            b'{"topic":"bench:%d","event_id":"evt_%d","state":%b}' % (index % TOPICS, index, state(index, size))
            for index in range(start, min(count, start + batch))
        ]
        bodies.append(b'{"items":[' + b",".join(items) + b"]}")
    headers = {"Authorization": f"Bearer {rig.PUBLISH_KEY}", "Content-Type": "application/json"}

    def send(mine: list[bytes]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for body in mine:
            connection.request("POST", "/v1/publish/batch", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200 or text.count(b'"applied"') == 0:
                print(answer.status, text[:300], file=sys.stderr)
                os._exit(1)
        connection.close()

    threads = [
        threading.Thread(target=send, args=(bodies[first::HTTP_CONNECTIONS],)) for first in range(HTTP_CONNECTIONS)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def other(kind: str, port: int, python: Path, options: argparse.Namespace) -> rig.Row:
    """Return the seconds that another library's publishes took, once the store has counted all of them."""
    count = options.count // 10 if kind == "pubsub" else options.count
    script = rig.HERE / "baselines" / "publishers.py"
    command = rig.pinned(rig.SERVER_CORE, [str(part) for part in (python, script, kind, port, count, options.bytes)])
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    row: rig.Row = json.loads(done.stdout)
    with redis.Redis(port=port) as client:
        announced = client.info("commandstats")["cmdstat_publish"]["calls"]
    assert announced > count, f"{kind}: {announced} of {count} publishes arrived"
    return row


def child(kind: str, port: int, options: argparse.Namespace) -> None:
    before = time.process_time()
    arguments = (port, options.count, options.batch, options.bytes)
    ways = {"direct": direct, "raw": raw}
    taken = over_http(*arguments) if kind == "http" else asyncio.run(ways[kind](*arguments))
    print(json.dumps({"seconds": taken, "own_cpu_s": time.process_time() - before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--bytes", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]), options)
        return

    def run(kind: str, port: int, core: int) -> rig.Row:
        sizes = [f"--count={options.count}", f"--batch={options.batch}", f"--bytes={options.bytes}"]
        command = [sys.executable, "-m", "benchmarks.publish", *sizes, "--child", kind, str(port)]
        done = subprocess.run(rig.pinned(core, command), stdout=subprocess.PIPE, check=True, cwd=rig.ROOT)
        row: rig.Row = json.loads(done.stdout)
        return row

    python = rig.other_python()
    titles = {"http": "HTTP batch", "direct": "Store.commit_many", "raw": "raw SET + PUBLISH"}
    titles |= OTHERS if python is not None else {}
    results: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for turn in range(options.rounds):
            rig.wait_until_quiet()
            for kind in list(titles)[:: 1 if turn % 2 else -1]:
                with rig.store(folder) as store:
                    if kind == "http":
                        with rig.serve(rig.gateway(), folder, store) as (port, pids):
                            before = rig.cpu_s(pids)
                            row = run(kind, port, rig.LOAD_CORE)
                            used = rig.cpu_s(pids) - before
                    else:
                        if kind in OTHERS and python is not None:
                            row = other(kind, store, python, options)
                        else:
                            row = run(kind, store, rig.SERVER_CORE)
                        used = row["own_cpu_s"]
                count = row.get("count", options.count)
                results.setdefault(kind, []).append((count / row["seconds"], used * 1e6 / count))
    table = [
        [
            titles[kind],
            int(rig.median([rate for rate, _ in results[kind]])),
            rig.median([cost for _, cost in results[kind]]),
            int(rig.median([1e6 / cost for _, cost in results[kind]])),
        ]
        for kind in titles
    ]
    columns = ["way", "publishes/s", "CPU us/publish", "publishes per CPU second"]
    rig.print_table(columns, table)


if __name__ == "__main__":
    main()
