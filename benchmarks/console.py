"""Measures what an open console costs a gateway: two reports a second about all its tabs.

    python -m benchmarks.console [--tabs 10000] [--seconds 20] [--rounds 3]

One gateway with one topic for each tab. Idle rounds alternate with rounds in which a console on the same gateway has
its stream open and shows the overview and one topic. The difference is the console's cost; both include heartbeats,
sweep and probe.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.typing import Subprotocol

from benchmarks import rig

TOKEN = "a-console-token-for-benchmarks-0123456789"
LOOK_S = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tabs", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rig.raise_file_limit()
    ports: list[int] = []
    candidate = dataclasses.replace(rig.gateway(CONSOLE_TOKEN=TOKEN), prepare=lambda _, port: ports.append(port))
    without: list[float] = []
    looked: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with rig.load(candidate, folder, options.tabs, options.tabs, "--fill", "600") as load:
            load.run("idle:15")
            for _ in range(options.rounds):
                rig.wait_until_quiet()
                without.append(_share(load, options.seconds))
                with console(ports[0]):
                    load.run("idle:2")
                    looked.append(_share(load, options.seconds))
                load.run("idle:12")  # until the leases have expired
    pairs = [one - other for one, other in zip(looked, without, strict=True)]
    rows: list[list[object]] = [
        ["nobody looks", rig.median(without)],
        ["a console is open", rig.median(looked)],
        ["the console alone", rig.median(pairs)],
    ]
    rig.print_table([f"{options.tabs} tabs of {options.tabs} topics", "% of a core"], rows)


def _share(load: rig.Load, seconds: int) -> float:
    row = load.run(f"idle:{seconds}")
    return float(row["server_cpu_s"]) / float(row["seconds"]) * 100


@contextlib.contextmanager
def console(port: int) -> Iterator[None]:
    """Keep a console open, as its page does, within the block."""
    told = _post(port, "look", {"topics": []})
    token = _post(port, "token", {})["token"]
    ended = threading.Event()
    names = [row["report"] for row in told["gateways"]]
    with connect(f"ws://127.0.0.1:{port}/v1/connect", subprotocols=[Subprotocol("planwire.v1")]) as socket:
        socket.send(json.dumps({"type": "hello", "token": token, "topics": dict.fromkeys(names, 0), "client": "bench"}))

        def look() -> None:
            while not ended.wait(LOOK_S):
                _post(port, "look", {"topics": []})

        threads = [threading.Thread(target=look), threading.Thread(target=lambda: [None for _ in socket])]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
    for thread in threads:
        thread.join()


def _post(port: int, path: str, body: object) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/console/api/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


if __name__ == "__main__":
    main()
