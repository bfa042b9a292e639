"""Measures the cost of an idle open tab, and of opening it.

    python -m benchmarks.idle [--sockets 5000] [--rounds 3] [--hold 20]

Every socket has its own token, so each signature is checked. A socket counts as connected when its first
snapshot has arrived. Resident memory is read from the process before and after, and again after `--hold` seconds of
heartbeats and pings. The rate is per wall-clock second, with the server on one core and the client on the other.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import rig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument("--topics", type=int, default=1, help="1: all on one topic; as many as sockets: one each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hold", type=int, default=20)
    parser.add_argument("--inflight", type=int, default=300, help="connects under way at once")
    parser.add_argument("--only", nargs="+", choices=list(rig.CANDIDATES), default=[])
    options = parser.parse_args()
    rig.raise_file_limit()
    candidates = rig.candidates(options.only)
    extra = ["--fill", "600", "--inflight", str(options.inflight)]
    results: dict[str, list[tuple[rig.Row, rig.Row]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rig.tokens(folder, options.sockets)
        for turn in range(options.rounds):
            rig.wait_until_quiet()
            shift = turn % len(candidates)
            for candidate in candidates[shift:] + candidates[:shift]:
                with rig.load(candidate, folder, options.sockets, options.topics, *extra) as load:
                    results.setdefault(candidate.name, []).append((load.opening, load.run(f"idle:{options.hold}")))
    table = []
    for name, pairs in results.items():
        first, last = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        table.append(
            [
                name,
                rig.median([row["kib_per_socket"] for row in first]),
                rig.median([(after["kib"] - row["kib_before"]) / row["sockets"] for row, after in pairs]),
                rig.median([row["connects_per_s"] for row in first]),
                rig.median([row["us_per_connect"] for row in first]),
                rig.median([1e6 / row["us_per_connect"] for row in first]),
                rig.median([row["server_cpu_s"] / row["seconds"] * 100 for row in last]),
            ]
        )
    columns = ["server", "KiB/socket", f"KiB/socket after {options.hold} s", "connects/s", "CPU us/connect"]
    rig.print_table([*columns, "connects per CPU second", "idle, % of a core"], table)


if __name__ == "__main__":
    main()
