"""Measures whether readers that have stopped reading delay the others.

    python -m benchmarks.slow [--sockets 1000] [--deaf 100] [--rounds 3]

One topic, 4 KiB states, 20 updates a second: enough to fill a stalled reader's buffers many times over.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import rig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--deaf", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rig.raise_file_limit()
    # The stall limit is disabled: deaf sockets stay open for the whole phase.
    candidate = rig.gateway(SEND_TIMEOUT_S="600")
    phases = ["rate:4096:20:2", f"rate:4096:20:{options.seconds}"]
    results: dict[int, list[rig.Row]] = {0: [], options.deaf: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for turn in range(options.rounds):
            rig.wait_until_quiet()
            for deaf in list(results)[:: 1 if turn % 2 else -1]:
                extra = ["--fill", "4096", "--deaf", str(deaf)]
                with rig.load(candidate, folder, options.sockets + deaf, 1, *extra) as load:
                    load.run(phases[0])
                    row = load.run(phases[1])
                results[deaf].append({**row, "kib_grown": row["kib"] - load.opening["kib"]})
    table = [
        [
            f"{options.sockets} reading, {deaf} stalled",
            rig.median([row["p50_ms"] for row in rows]),
            rig.median([row["p99_ms"] for row in rows]),
            rig.median([row["max_ms"] for row in rows]),
            rig.median([row["us_per_delivery"] for row in rows]),
            rig.median([row["kib_grown"] / deaf for row in rows]) if deaf else "-",
        ]
        for deaf, rows in results.items()
    ]
    rig.print_table(["sockets", "p50 ms", "p99 ms", "max ms", "CPU us/delivery", "KiB grown per stalled"], table)


if __name__ == "__main__":
    main()
