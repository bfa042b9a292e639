"""Measures the sweep over many idle live topics: it reads every version again each interval.

    python -m benchmarks.sweep [--topics 10000] [--seconds 20] [--rounds 3]

Two gateways are idle in alternation: one with the default sweep, one without. The difference is the sweep's cost; both
include heartbeats and probes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import rig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topics", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rig.raise_file_limit()
    candidates = [rig.gateway("with the sweep"), rig.gateway("without", SWEEP_S="3600")]
    results: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for turn in range(options.rounds):
            rig.wait_until_quiet()
            for candidate in candidates[:: 1 if turn % 2 else -1]:
                with rig.load(candidate, folder, options.topics, options.topics, "--fill", "600") as load:
                    load.run("idle:6")
                    row = load.run(f"idle:{options.seconds}")
                results.setdefault(candidate.name, []).append(row["server_cpu_s"] / row["seconds"] * 100)
    table: list[list[object]] = [[name, rig.median(shares)] for name, shares in results.items()]
    pairs = zip(results["with the sweep"], results["without"], strict=True)
    table.append(["the sweep alone", rig.median([one - other for one, other in pairs])])
    rig.print_table([f"{options.topics} topics, one idle socket each", "% of a core"], table)


if __name__ == "__main__":
    main()
