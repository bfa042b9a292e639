"""Longer runs, by hand or by night: `python -m tests.faults soak | table | bounds | leaks`. CI has test_faults.py.

soak     every fault again and again, alone and in pairs, for so many minutes; exits 1 at the first violation
table    each fault so many times: how long until everybody is current again, as a Markdown table
leaks    tabs that come and go for so many minutes: what is left of them in the gateway and the store
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

from tests.faults import bounds, leaks
from tests.faults.faults import FAULTS
from tests.faults.history import Bounds, Shown, converged_at, judge
from tests.faults.rig import HEARTBEAT_S, NOTICE_S, PROBE_S, SWEEP_S, Rig, run_rig

CONVERGE_S = 10.0

SLACK_S = 0.4

ROUND_S = 90
"""A fault that takes longer with its repair has left something broken."""

ALONE = {"store_flushed", "older_file_restored"}
"""Faults that take data: with a second one at the same time there may be nobody left who holds it."""


def violations(rig: Rig) -> list[str]:
    """Judge what was recorded, and forget what no longer matters."""
    found = judge(rig.history, Bounds(CONVERGE_S, NOTICE_S + SLACK_S))
    if len(rig.history) > 200_000:
        rig.forget()
    return found


async def soak(folder: Path, seed: int, minutes: float) -> int:
    """Break things until the time is over; return the exit status."""
    ends = time.monotonic() + minutes * 60
    done = 0
    async with run_rig(folder, seed=seed, gateways=3, tabs=20, topics=6) as rig:
        while time.monotonic() < ends:
            names = [rig.chance.choice(list(FAULTS))]
            if rig.chance.random() < 0.3 and names[0] not in ALONE:
                names.append(rig.chance.choice([name for name in FAULTS if name not in {*ALONE, *names}]))
            print(f"{done + 1:5} {' + '.join(names)}", flush=True)
            try:
                async with asyncio.timeout(ROUND_S):
                    await asyncio.gather(*(FAULTS[name](rig) for name in names))
                    await rig.mend()
                    await rig.settle(CONVERGE_S)
            except (AssertionError, TimeoutError) as error:
                found = [repr(error)]
            else:
                found = violations(rig)
            done += 1
            if found := [*found, *rig.complaints()]:
                print(f"seed {seed}, fault {done}, after {' and '.join(names)}:", *found[:20], sep="\n  ")
                return 1
            left = max(0.0, ends - time.monotonic()) / 60
            shown = sum(isinstance(fact, Shown) for fact in rig.history)
            print(f"{done:5} {' + '.join(names):60} {shown:7} shown, {left:5.1f} min left", flush=True)
    print(f"{done} faults, no violation (seed {seed})")
    return 0


async def table(folder: Path, seed: int, rounds: int, rigs: int) -> int:
    """Time each fault, on so many systems side by side; return the exit status."""
    times: dict[str, list[float]] = defaultdict(list)

    async def share(index: int) -> str:
        here = folder / str(index)
        here.mkdir()
        async with run_rig(here, seed=seed + index) as rig:
            for turn in range(index, rounds, rigs):
                for name, fault in FAULTS.items():
                    await fault(rig)
                    healed = await rig.settle(CONVERGE_S)
                    took = converged_at(rig.history, healed)
                    found = violations(rig) + rig.complaints()
                    if took is None or found:
                        return f"{name}: not converged" if took is None else f"{name}: {found[:5]}"
                    times[name].append(took)
                    rig.forget()
                print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
        return ""

    wrong = [said for said in await asyncio.gather(*map(share, range(rigs))) if said]
    if wrong:
        print(*wrong, sep="\n")
        return 1
    print("| fault | what it does | median s | max s |\n|---|---|---|---|")
    for name, fault in FAULTS.items():
        told = " ".join((fault.__doc__ or "").split())
        print(f"| {name} | {told} | {statistics.median(times[name]):.2f} | {max(times[name]):.2f} |")
    print(
        f"\n{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {rounds} runs of each · heartbeat {HEARTBEAT_S} s,"
        f" probe {PROBE_S} s, sweep {SWEEP_S} s · seed {seed} ·"
        f" `python -m tests.faults table --rounds {rounds} --rigs {rigs}`"
    )
    return 0


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("soak", "minutes"), ("leaks", "minutes"), ("table", "rounds"), ("bounds", "rounds")):
        command = commands.add_parser(name)
        command.add_argument("--seed", type=int, default=int(time.time()) % 100_000 if name == "soak" else 1)
        command.add_argument(
            f"--{what}", type=float if what == "minutes" else int, default=30 if what == "minutes" else 20
        )
        if name == "table":
            command.add_argument("--rigs", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.command == "soak":
            return asyncio.run(soak(Path(folder), given.seed, given.minutes))
        if given.command == "table":
            return asyncio.run(table(Path(folder), given.seed, given.rounds, given.rigs))
        if given.command == "bounds":
            return asyncio.run(bounds.run(Path(folder), given.rounds))
        return asyncio.run(leaks.run(Path(folder), given.seed, given.minutes))


if __name__ == "__main__":
    sys.exit(main())
