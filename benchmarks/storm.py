"""Measures a storm of tabs: the calls to the provider that it causes, and how long paying tenants wait for a repair.

    python -m benchmarks.storm [--tabs 1] [--warm-up 0] [--seconds 20] [--tenants 5] [--provider paddle]

The system is a gateway and a worker. The provider is a local double that answers at once, with the default rate limit
(Paddle 3 calls/s, Stripe 10) and `--others` more subscriptions, which a search would list. No webhook comes. Each tab
storms with the topics of `--tenants` tenants of its own; half of them have a subscription. After `--warm-up` seconds of
it, in turn, a paying tenant changes its plan at the provider and its tab sends an `expect`, and a new one buys and its
tab names the checkout. A repair is the time from the `expect` to the new plan in the tab; a second of it is the time
that the webhook is given.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from benchmarks import rig
from tests.support.cases import run_cases
from tests.support.servers import start_valkey
from tests.support.shops import Shop, paddle, stripe
from tests.support.system import System, Tab

PAYERS = 60
KINDS = ("none", "expects", "versions", "checkouts", "all three")

Frame = dict[str, object]


def frames(kind: str, topic: str, number: int, prefix: str) -> list[tuple[str, Frame]]:
    """Return the frames of a storm's tab about one of its topics."""
    expect: Frame = {"topic": topic, "after": 2**52 + number, "timeout_ms": 1 + number % 30_000}
    made: dict[str, tuple[str, Frame]] = {
        "expects": ("expect", expect),
        "versions": ("subscribe", {"topic": topic, "version": 2**52 + number}),
        "checkouts": ("expect", {**expect, "checkout": f"{prefix}_{number}"}),
    }
    names = list(made)
    if kind == "all three":
        return [made[names[number % 3]]]
    return [made[kind]] if kind in made else []


async def storm(system: System, kind: str, topics: list[str], frames_per_s: float, prefix: str) -> None:
    """Send frames until cancelled; connect again whenever the gateway hangs up."""
    number = 0
    while True:
        async with system.tab(topics[0]) as tab:
            for topic in topics[1:]:
                await tab.client.send("subscribe", topic=topic)
            try:
                while True:
                    for name, frame in frames(kind, topics[number % len(topics)], number, prefix):
                        await tab.client.send(name, **frame)
                    number += 1
                    await asyncio.sleep(1 / frames_per_s)
            except ConnectionClosed:
                continue


async def shown(tab: Tab, plan: str, began: float) -> float:
    """Return how long a tab has taken to show a plan, in seconds."""
    await tab.until(lambda tab: tab.plan == plan, timeout_s=120)
    return time.monotonic() - began


async def repairs(system: System, shop: Shop, numbers: list[int]) -> tuple[list[float], list[float]]:
    """Return the repair times of known subscriptions, and of first purchases."""
    changed: list[float] = []
    bought: list[float] = []
    for index, number in enumerate(numbers):
        tenant = f"payer{number}" if index % 2 else f"new{number}"
        async with system.tab(f"tenant:{tenant}") as tab:
            await tab.until(lambda tab: tab.shown)
            asked: Frame = {"topic": tab.topic, "after": tab.version, "timeout_ms": 60_000}
            if index % 2:
                await shop.change(tenant, "pro")
            else:
                asked["checkout"] = await shop.buy(tenant, "pro")
            began = time.monotonic()
            await tab.client.send("expect", **asked)
            (changed if index % 2 else bought).append(await shown(tab, "pro", began))
    return changed, bought


def storming(options: argparse.Namespace) -> list[list[str]]:
    """Return the tenants of each tab that storms."""
    return [[f"storming{tab}_{number}" for number in range(options.tenants)] for tab in range(options.tabs)]


@asynccontextmanager
async def selling(options: argparse.Namespace, folder: Path) -> AsyncIterator[tuple[Shop, System]]:
    """A shop with customers, and a system that knows some of them and may ask for all."""
    opens: Callable[[Path], AbstractAsyncContextManager[Shop]] = {"paddle": paddle, "stripe": stripe}[options.provider]
    with start_valkey() as server:
        async with opens(folder) as shop:
            async with run_cases(server.url, folder) as keyless:
                for number in range(PAYERS):
                    await shop.buy(f"payer{number}", "basic")
                for tenants in storming(options):
                    for tenant in tenants[::2]:
                        await shop.buy(tenant, "basic")
                for number in range(options.others):
                    await shop.buy(f"other{number}", "basic")
                await shop.deliver(keyless)  # so that the catch-up finds nothing to fetch
            limited = {name: value for name, value in shop.settings.items() if not name.endswith("RATE_PER_S")}
            async with run_cases(server.url, folder, **limited) as system, system.working():
                await asyncio.sleep(2)  # the first catch-up is done
                yield shop, system


async def measure(options: argparse.Namespace) -> list[list[object]]:
    """Return a row for each kind of storm."""
    rows: list[list[object]] = []
    tabs = [[f"tenant:{tenant}" for tenant in tenants] for tenants in storming(options)]
    prefix, calls_to_buy = {"paddle": ("txn", 2), "stripe": ("cs", 1)}[options.provider]
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name:
            async with selling(options, Path(name)) as (shop, system):
                shop.asked.clear()
                storms = [
                    asyncio.create_task(storm(system, kind, topics, options.frames_per_s, prefix)) for topics in tabs
                ]
                await asyncio.sleep(options.warm_up)
                began, changed, bought, number = time.monotonic(), list[float](), list[float](), 0
                while time.monotonic() < began + options.seconds:
                    found = await repairs(system, shop, [number, number + 1])
                    changed += found[0]
                    bought += found[1]
                    number += 2
                seconds = time.monotonic() - began + options.warm_up
                for task in storms:
                    task.cancel()
                await asyncio.wait(storms)
                theirs = len(shop.calls) - calls_to_buy * len(bought) - len(changed)
                times = [rig.median(changed), max(changed), rig.median(bought), max(bought)]
                rows.append([kind, len(shop.lists), max(0, theirs) / seconds, *(1000 * each for each in times)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tabs", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--tenants", type=int, default=5)
    parser.add_argument("--others", type=int, default=200)
    parser.add_argument("--frames-per-s", type=float, default=15)
    parser.add_argument("--provider", choices=("paddle", "stripe"), default="paddle")
    options = parser.parse_args()
    columns = ["storm of", "lists", "its calls/s", "repair: p50 ms", "most ms", "first: p50 ms", "most ms"]
    rig.print_table(columns, asyncio.run(measure(options)))


if __name__ == "__main__":
    main()
