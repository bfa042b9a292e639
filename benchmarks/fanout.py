"""Measures the cost of one delivery: one topic on many sockets, the same updates through the gateway and four others.

    python -m benchmarks.fanout [--sockets 5000] [--bytes 600 4096] [--rounds 7] [--only planwire floor ...] [--steady]
                                [--offers nothing deflate]

Each runs twice: with sockets that offer no extension, and with sockets that offer permessage-deflate, as browsers
always do. Every server has its default configuration. The gateway accepts the offer without context takeover and
compresses once per version. The naive server accepts it with uvicorn's default and compresses for each socket with its
own context. nchan, ws and the floor decline it and send plain text.

CPU per delivery counts the server only, user and system. The gateway runs as in production: token checks, metrics,
heartbeats, logging, sweep, and acks under the policy that it advises. The others have no checks and no metrics. All
servers keep their sockets open all the time; in a round each gets the same burst, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from benchmarks import rig

DELIVERIES = 75_000
"""Deliveries per burst: about a second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument("--bytes", type=int, nargs="+", default=[600, 4096])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=list(rig.CANDIDATES), default=[])
    parser.add_argument("--offers", nargs="+", choices=["nothing", "deflate"], default=["nothing", "deflate"])
    parser.add_argument("--steady", action="store_true", help="also at two updates a second, when acks weigh most")
    options = parser.parse_args()
    rig.raise_file_limit()
    candidates = rig.candidates(options.only)
    phases = [f"burst:{size}:{DELIVERIES // options.sockets}:1" for size in options.bytes]
    if options.steady:
        phases.append("rate:600:2:4")
    table = []
    for offer in options.offers:
        extra = [*rig.LOOK, *(["--deflate"] if offer == "deflate" else [])]
        with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
            folder = Path(name)
            loads = {
                one.name: stack.enter_context(rig.load(one, folder, options.sockets, 1, *extra)) for one in candidates
            }
            rig.interleaved(loads, phases[:1], 1)  # warm-up
            results = rig.interleaved(loads, phases, options.rounds)
        for phase in phases:
            table += [_row(_title(phase, offer), candidate, phase, results) for candidate in candidates]
    columns = ["load", "server", "CPU us/delivery", "/ floor", "/ nchan", "/ ws", "/ naive", "deliveries/s"]
    rig.print_table([*columns, "p50 ms", "last ms", "acks", "compressed"], table)


def _row(
    title: str, candidate: rig.Candidate, phase: str, results: dict[tuple[str, str], list[rig.Row]]
) -> list[object]:
    rows = results[candidate.name, phase]
    line: list[object] = [title, candidate.name, rig.median([row["us_per_delivery"] for row in rows])]
    for base in ("C floor", "nchan", "Node ws", "naive Starlette"):
        pairs = zip(rows, results.get((base, phase), []), strict=False)
        ratios = [row["us_per_delivery"] / other["us_per_delivery"] for row, other in pairs]
        line.append(rig.median(ratios) if ratios else "-")
    line += [int(rig.median([row["delivered"] / row["seconds"] for row in rows]))]
    line += [rig.median([row["p50_ms"] for row in rows]), rig.median([row["max_ms"] for row in rows])]
    line += [int(rig.median([row["acks"] for row in rows]))]
    line += [f"{rig.median([row['compressed'] / row['delivered'] for row in rows]):.0%}"]
    return line


def _title(phase: str, offer: str) -> str:
    kind, size, first, _ = phase.split(":")
    rate = "full rate" if kind == "burst" else f"at {first}/s"
    return f"{size} B, {rate}" + (", deflate offered" if offer == "deflate" else "")


if __name__ == "__main__":
    main()
