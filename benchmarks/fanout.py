"""What one delivery costs: one topic on many sockets, the same updates through the gateway and four others.

    python -m benchmarks.fanout [--sockets 5000] [--bytes 600 4096] [--rounds 3] [--only planwire floor ...]

CPU per delivery is the server's alone. The gateway runs as in production: tokens checked, metrics, heartbeats, logging,
and acks from the browsers under the policy it advises. The others check nothing and count nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import rig

DELIVERIES = {600: 200_000, 4096: 100_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument("--bytes", type=int, nargs="+", default=[600, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=["planwire", "floor", "nchan", "ws", "naive"], default=[])
    parser.add_argument("--steady", action="store_true", help="also at two updates a second, when acks weigh most")
    options = parser.parse_args()
    rig.raise_file_limit()
    makers = {"floor": rig.floor, "planwire": rig.gateway, "nchan": rig.nchan, "ws": rig.node_ws, "naive": rig.naive}
    wanted = [maker() for name, maker in makers.items() if not options.only or name in options.only]
    candidates = [candidate for candidate in wanted if candidate is not None]
    phases = [f"burst:600:{20_000 // options.sockets + 1}:1"]  # warm-up
    phases += [f"burst:{size}:{DELIVERIES.get(size, 100_000) // options.sockets}:1" for size in options.bytes]
    if options.steady:
        phases.append("rate:600:2:5")
    results: dict[tuple[str, str], list[rig.Row]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for turn in range(options.rounds):
            rig.wait_until_quiet()
            shift = turn % len(candidates)
            for candidate in candidates[shift:] + candidates[:shift]:
                with rig.store(folder) as store, rig.serve(candidate, folder, store) as (port, pids):
                    rows = rig.load(candidate, folder, port, store, pids, options.sockets, 1, phases)
                for row in rows[2:]:
                    results.setdefault((candidate.name, row["phase"]), []).append(row)
                    if row["stalled"] or row["delivered"] != row["wanted"]:
                        print(f"round {turn}: {candidate.name} {row['phase']}: {row}")
    table = []
    for phase in phases[1:]:
        for candidate in candidates:
            rows = results[candidate.name, phase]
            costs = [row["us_per_delivery"] for row in rows]
            line: list[object] = [_title(phase), candidate.name, rig.median(costs)]
            for base in ("C floor", "nchan", "Node ws", "naive Starlette"):
                ratios = [
                    row["us_per_delivery"] / other["us_per_delivery"]
                    for row, other in zip(rows, results.get((base, phase), []), strict=False)
                ]
                line.append(rig.median(ratios) if ratios else "-")
            line += [rig.median([row["delivered"] / row["seconds"] for row in rows])]
            line += [rig.median([row["p50_ms"] for row in rows]), rig.median([row["max_ms"] for row in rows])]
            line += [int(rig.median([row["acks"] for row in rows]))]
            table.append(line)
    columns = ["phase", "server", "CPU us/delivery", "/ floor", "/ nchan", "/ ws", "/ naive", "deliveries/s", "p50 ms"]
    rig.print_table([*columns, "max ms", "acks"], table)


def _title(phase: str) -> str:
    kind, size, first, _ = phase.split(":")
    return f"{size} B, {first} updates" if kind == "burst" else f"{size} B at {first}/s"


if __name__ == "__main__":
    main()
