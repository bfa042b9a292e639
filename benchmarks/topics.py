"""Measures many topics with one socket each: updates per second, and the latency of each at 2,000/s.

    python -m benchmarks.topics [--topics 5000] [--rounds 5] [--only planwire floor nchan ws naive]

nchan gets its updates directly, over HTTP. The others get them from the store, where this benchmark writes each one
with an HSET and a PUBLISH, a commit's minimum. commit.lua also checks, dedupes and keeps a history, so at full rate the
store would be the limit. In the last row the updates do go through commit.lua.
With one socket per topic every version is acked as far as the policy asks for it. The others have no acks, so the
gateway is also measured with browsers that never ack.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import tempfile
from pathlib import Path

from benchmarks import rig

THROUGH_COMMIT = "through commit.lua"


def _options(candidate: rig.Candidate) -> list[str]:
    """Return further options of the load client: how it publishes, and how it polls its sockets."""
    is_lean = "--http" not in candidate.load and not candidate.name.endswith(THROUGH_COMMIT)
    return [*rig.LOOK, *(["--lean"] if is_lean else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topics", type=int, default=5000)
    parser.add_argument("--bytes", type=int, default=600)
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--rate", type=int, default=2000, help="updates a second of the latency phase")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(rig.CANDIDATES), default=[])
    options = parser.parse_args()
    rig.raise_file_limit()
    candidates = rig.candidates(options.only)
    candidates += [
        dataclasses.replace(candidate, name=f"{candidate.name}, {name}", load=load)
        for candidate in candidates
        if candidate.is_planwire
        for name, load in (("no acks", ["--no-acks"]), (THROUGH_COMMIT, []))
    ]
    burst = f"burst:{options.bytes}:{options.updates}:256"
    rate = f"rate:{options.bytes}:{options.rate}:3"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        loads = {
            one.name: stack.enter_context(rig.load(one, folder, options.topics, options.topics, *_options(one)))
            for one in candidates
        }
        rig.interleaved(loads, [burst], 1)  # warm-up
        results = rig.interleaved(loads, [burst, rate], options.rounds)
    table = []
    for candidate in candidates:
        full, steady = results[candidate.name, burst], results[candidate.name, rate]
        ratios = [
            row["us_per_delivery"] / other["us_per_delivery"]
            for row, other in zip(full, results.get(("nchan", burst), []), strict=False)
        ]
        table.append(
            [
                candidate.name,
                int(rig.median([row["updates_per_s"] for row in full])),
                rig.median([row["us_per_delivery"] for row in full]),
                rig.median(ratios) if ratios else "-",
                int(rig.median([1e6 / row["us_per_delivery"] for row in full])),
                rig.median([row["server_load"] for row in full]),
                rig.median([row["p50_ms"] for row in steady]),
                rig.median([row["p99_ms"] for row in steady]),
                rig.median([row["us_per_delivery"] for row in steady]),
            ]
        )
    columns = ["server", "updates/s", "CPU us/update", "/ nchan", "updates per CPU second", "server load"]
    at = f"at {options.rate}/s:"
    rig.print_table([*columns, f"{at} p50 ms", f"{at} p99 ms", f"{at} CPU us/update"], table)


if __name__ == "__main__":
    main()
