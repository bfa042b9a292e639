"""What one delivery costs: one topic on many sockets, the same updates through the gateway and four others.

    python -m benchmarks.fanout [--sockets 5000] [--bytes 600 4096] [--rounds 7] [--only planwire floor ...] [--steady]

CPU per delivery is the server's alone, user and system. The gateway runs as in production: tokens checked, metrics,
heartbeats, logging, sweep, and acks from the browsers under the policy it advises. The others check and count nothing.
Every server has its sockets open all the time; in a round each gets the same burst, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from benchmarks import rig

DELIVERIES = 75_000
"""Per burst: about a second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument("--bytes", type=int, nargs="+", default=[600, 4096])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=list(rig.CANDIDATES), default=[])
    parser.add_argument("--steady", action="store_true", help="also at two updates a second, when acks weigh most")
    options = parser.parse_args()
    rig.raise_file_limit()
    candidates = rig.candidates(options.only)
    phases = [f"burst:{size}:{DELIVERIES // options.sockets}:1" for size in options.bytes]
    if options.steady:
        phases.append("rate:600:2:4")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        loads = {one.name: stack.enter_context(rig.load(one, folder, options.sockets, 1)) for one in candidates}
        rig.interleaved(loads, phases[:1], 1)  # warm-up
        results = rig.interleaved(loads, phases, options.rounds)
    table = []
    for phase in phases:
        for candidate in candidates:
            rows = results[candidate.name, phase]
            line: list[object] = [_title(phase), candidate.name, rig.median([row["us_per_delivery"] for row in rows])]
            for base in ("C floor", "nchan", "Node ws", "naive Starlette"):
                others = results.get((base, phase), [])
                ratios = [
                    row["us_per_delivery"] / other["us_per_delivery"] for row, other in zip(rows, others, strict=False)
                ]
                line.append(rig.median(ratios) if ratios else "-")
            line += [int(rig.median([row["delivered"] / row["seconds"] for row in rows]))]
            line += [rig.median([row["p50_ms"] for row in rows]), rig.median([row["max_ms"] for row in rows])]
            line += [int(rig.median([row["acks"] for row in rows]))]
            table.append(line)
    columns = ["load", "server", "CPU us/delivery", "/ floor", "/ nchan", "/ ws", "/ naive", "deliveries/s"]
    rig.print_table([*columns, "p50 ms", "last ms", "acks"], table)


def _title(phase: str) -> str:
    kind, size, first, _ = phase.split(":")
    return f"{size} B, full rate" if kind == "burst" else f"{size} B at {first}/s"


if __name__ == "__main__":
    main()
