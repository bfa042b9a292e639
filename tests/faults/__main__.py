"""Longer runs, by hand or by night: `python -m tests.faults soak | table | bounds | leaks`. CI has test_faults.py.

soak     all faults repeatedly, alone and in pairs, for --minutes; exits with 1 at the first violation
table    each fault --rounds times: the time until all tabs are current again, as a Markdown table
bounds   the delay of `fresh: false`, of a revocation and of a drain, --rounds times each, as a Markdown table
leaks    tabs that connect and leave for --minutes: what they leave behind in the gateway and the store
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.faults import bounds, leaks
from tests.faults.faults import ALONE, FAULTS, possible
from tests.faults.history import Shown, converged_at
from tests.faults.rig import ENGINES, HEARTBEAT_S, PROBE_S, SWEEP_S, Rig, run_rig

CONVERGE_S = 10.0

ROUND_S = 150
"""Timeout of a fault with its repair; a fault that exceeds it has left something broken."""

FAULT_S = 90
"""Timeout of one round of `table`, until all tabs are current."""


def violations(rig: Rig) -> list[str]:
    """Return the violations in the recorded history, and drop the facts that no longer matter."""
    found = rig.violations(CONVERGE_S)
    if len(rig.history) > 200_000:
        rig.forget()
    return found


async def soak(folder: Path, seed: int, engine: str, minutes: float) -> int:
    """Make faults until the time is over. Return the exit status."""
    ends = time.monotonic() + minutes * 60
    done = 0
    names = possible(engine)
    print(f"seed {seed}", flush=True)
    async with run_rig(folder, seed=seed, engine=engine, gateways=3, tabs=20, topics=6) as rig:
        while time.monotonic() < ends:
            chosen = [rig.chance.choice(names)]
            if rig.chance.random() < 0.3 and chosen[0] not in ALONE:
                chosen.append(rig.chance.choice([name for name in names if name not in {*ALONE, *chosen}]))
            print(f"{done + 1:5} {' + '.join(chosen)}", flush=True)
            try:
                async with asyncio.timeout(ROUND_S):
                    await asyncio.gather(*(FAULTS[name](rig) for name in chosen))
                    await rig.mend()
                    await rig.settle(CONVERGE_S)
            except (AssertionError, TimeoutError) as error:
                found = [repr(error), *rig.complaints()]
            else:
                found = violations(rig)
            done += 1
            if found:
                print(f"seed {seed}, fault {done}, after {' and '.join(chosen)}:", *found[:20], sep="\n  ")
                return 1
            left = max(0.0, ends - time.monotonic()) / 60
            shown = sum(isinstance(fact, Shown) for fact in rig.history)
            print(f"{done:5} {' + '.join(chosen):60} {shown:7} shown, {left:5.1f} min left", flush=True)
    print(f"{done} faults, no violation (seed {seed})")
    return 0


@dataclass
class Measured:
    """Results of `table` so far: seconds by fault, and violations as sentences."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)
    rounds: int = 0


async def measure(rig: Rig, name: str, measured: Measured) -> bool:
    """Make one fault and time how long until all tabs are current. Return whether the rig is still usable."""
    try:
        async with asyncio.timeout(FAULT_S):
            await FAULTS[name](rig)
            healed = await rig.settle(CONVERGE_S)
    except (AssertionError, TimeoutError) as error:
        measured.wrong.append(f"{name}: {error!r}")
        return False
    found = violations(rig)
    took = converged_at(rig.history, healed)
    if took is None or found:
        measured.wrong += [f"{name}: {violation}" for violation in found[:5]] or [f"{name}: not converged"]
        return False
    measured.seconds[name].append(took)
    rig.forget()
    return True


async def table(folder: Path, given: argparse.Namespace) -> int:
    """Time each fault on several systems in parallel and print the table. Return the exit status.

    A system with a violation is replaced by a new one; the figures of the others are kept.
    """
    names: list[str] = given.only or possible(given.engine)
    measured = Measured()
    begun = time.monotonic()
    longest = 0.0

    async def share(index: int) -> None:
        nonlocal longest
        left = [(turn, name) for turn in range(index, given.rounds, given.rigs) for name in names]
        seed = given.seed + index
        while left:
            here = Path(tempfile.mkdtemp(dir=folder))
            async with run_rig(here, seed=seed, engine=given.engine) as rig:
                since = time.monotonic()
                while left:
                    turn, name = left.pop(0)
                    if not await measure(rig, name, measured):
                        print(
                            f"wrong: {measured.wrong[-1]} (seed {seed}, round {turn + 1})", file=sys.stderr, flush=True
                        )
                        break
                    if name == names[-1]:
                        measured.rounds += 1
                        longest = max(longest, time.monotonic() - since)
                        since = time.monotonic()
                        progress(turn)
                        if given.minutes and since - begun + longest > given.minutes * 60:
                            left.clear()
            seed += 1000

    def progress(turn: int) -> None:
        passed = time.monotonic() - begun
        ends = datetime.now(UTC) + timedelta(seconds=passed / measured.rounds * (given.rounds - measured.rounds))
        print(
            f"{datetime.now(UTC):%H:%M:%S} round {turn + 1} of {given.rounds}, {len(measured.wrong)} wrong;"
            f" all done at about {ends:%H:%M:%S} UTC",
            file=sys.stderr,
            flush=True,
        )

    await asyncio.gather(*map(share, range(given.rigs)))
    text = markdown(names, measured, given)
    print(text)
    if given.output is not None:
        put(text, given.output)
    return 1 if measured.wrong else 0


def markdown(names: Sequence[str], measured: Measured, given: argparse.Namespace) -> str:
    """Return the table, with the command, settings and violations below it."""
    lines = ["| fault | what it does | median s | max s | runs |", "|---|---|---|---|---|"]
    for name in names:
        told = " ".join((FAULTS[name].__doc__ or "").split())
        seconds = measured.seconds[name]
        figures = f"{statistics.median(seconds):.2f} | {max(seconds):.2f}" if seconds else "- | -"
        lines.append(f"| {name} | {told} | {figures} | {len(seconds)} |")
    said = "".join(f" --only {name}" for name in given.only or ())
    said += f" --engine {given.engine}" if given.engine != "valkey" else ""
    said += f" --rigs {given.rigs}" if given.rigs > 1 else ""
    said += f" --minutes {given.minutes:g}" if given.minutes else ""
    lines += [
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · heartbeat {HEARTBEAT_S} s, probe {PROBE_S} s, sweep {SWEEP_S} s ·"
        f" seed {given.seed} · `python -m tests.faults table --rounds {given.rounds}{said}`",
        "",
        f"{len(measured.wrong)} violation{'s'[: len(measured.wrong) > 1]}:" if measured.wrong else "No violation.",
        *(f"- {violation}" for violation in measured.wrong),
    ]
    return "\n".join(lines).rstrip()


BEGIN, END = "<!-- the table of faults: written by the command below it -->", "<!-- end of the table of faults -->"


def put(text: str, path: Path) -> None:
    """Write the table to `path`: between its two markers if it has them, else as the whole file."""
    old = path.read_text() if path.exists() else ""
    if BEGIN in old and END in old:
        head, _, rest = old.partition(BEGIN)
        path.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    else:
        path.write_text(text + "\n")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("soak", "minutes"), ("leaks", "minutes"), ("table", "rounds"), ("bounds", "rounds")):
        command = commands.add_parser(name)
        if name != "bounds":  # where nothing is left to chance
            command.add_argument("--seed", type=int, default=int(time.time()) % 100_000 if name == "soak" else 1)
        command.add_argument(
            f"--{what}", type=float if what == "minutes" else int, default=30 if what == "minutes" else 20
        )
        if name in ("soak", "table"):
            command.add_argument("--engine", choices=list(ENGINES), default="valkey", help="whose store it is")
        if name == "table":
            command.add_argument("--rigs", type=int, default=1, help="so many systems side by side")
            command.add_argument(
                "--only", action="append", choices=list(FAULTS), metavar="FAULT", help="may be repeated"
            )
            command.add_argument("--minutes", type=float, help="begin no round that may end later")
            command.add_argument("--output", type=Path, help="the table goes there too: between its marks, or alone")
    given = parser.parse_args()
    if given.command == "table" and given.only and given.output is not None:
        parser.error("--output takes the whole table: not with --only")
    with tempfile.TemporaryDirectory() as folder:
        if given.command == "soak":
            return asyncio.run(soak(Path(folder), given.seed, given.engine, given.minutes))
        if given.command == "table":
            return asyncio.run(table(Path(folder), given))
        if given.command == "bounds":
            return asyncio.run(bounds.run(Path(folder), given.rounds))
        return asyncio.run(leaks.run(Path(folder), given.seed, given.minutes))


if __name__ == "__main__":
    sys.exit(main())
