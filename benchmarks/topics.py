"""Many topics with one socket each: how many updates a second go through, and how late each one arrives at 2,000/s.

    python -m benchmarks.topics [--topics 5000] [--rounds 3] [--only planwire floor nchan ws naive]

The gateway hears its updates from the store, after a real commit; nchan is published to directly, over HTTP. With one
socket a topic every version is acked, under the default policy; the others know no acks, so the gateway stands here
twice, the second time with browsers that never ack.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from benchmarks import rig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topics", type=int, default=5000)
    parser.add_argument("--bytes", type=int, default=600)
    parser.add_argument("--updates", type=int, default=60_000)
    parser.add_argument("--rate", type=int, default=2000, help="updates a second of the latency phase")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=["planwire", "floor", "nchan", "ws", "naive"], default=[])
    options = parser.parse_args()
    rig.raise_file_limit()
    makers = {"floor": rig.floor, "planwire": rig.gateway, "nchan": rig.nchan, "ws": rig.node_ws, "naive": rig.naive}
    wanted = [maker() for name, maker in makers.items() if not options.only or name in options.only]
    candidates = [candidate for candidate in wanted if candidate is not None]
    candidates += [
        dataclasses.replace(candidate, name=f"{candidate.name}, no acks", load=["--no-acks"])
        for candidate in candidates
        if candidate.is_planwire
    ]
    size = options.bytes
    phases = [f"burst:{size}:5000:64", f"burst:{size}:{options.updates}:256", f"rate:{size}:{options.rate}:5"]
    results: dict[str, list[tuple[rig.Row, rig.Row]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for turn in range(options.rounds):
            rig.wait_until_quiet()
            shift = turn % len(candidates)
            for candidate in candidates[shift:] + candidates[:shift]:
                with rig.store(folder) as store, rig.serve(candidate, folder, store) as (port, pids):
                    rows = rig.load(candidate, folder, port, store, pids, options.topics, options.topics, phases)
                results.setdefault(candidate.name, []).append((rows[2], rows[3]))
                for row in rows[2:]:
                    if row["stalled"] or row["delivered"] != row["wanted"]:
                        print(f"round {turn}: {candidate.name} {row['phase']}: {row}")
    table = []
    for name, pairs in results.items():
        burst, rate = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        table.append(
            [
                name,
                int(rig.median([row["updates_per_s"] for row in burst])),
                rig.median([row["us_per_delivery"] for row in burst]),
                int(rig.median([1e6 / row["us_per_delivery"] for row in burst])),
                rig.median([row["server_load"] for row in burst]),
                rig.median([row["client_load"] for row in burst]),
                rig.median([row["p50_ms"] for row in rate]),
                rig.median([row["p99_ms"] for row in rate]),
                rig.median([row["us_per_delivery"] for row in rate]),
            ]
        )
    columns = ["server", "updates/s", "CPU us/update", "updates per CPU second", "server load", "client load"]
    at = f"at {options.rate}/s:"
    rig.print_table([*columns, f"{at} p50 ms", f"{at} p99 ms", f"{at} CPU us/update"], table)


if __name__ == "__main__":
    main()
