"""Estimates what many tabs need: gateways, store shards, freshness traffic, reconnect storms, cost.

    python -m benchmarks.scaling              the tables of docs/scaling.md
    python -m benchmarks.scaling --measure    the store's three constants anew, on this machine (a minute)

The model is arithmetic and one simulation (`storm`), both pure, with constants measured here. Change `Load` to your own
numbers. It ignores networks, proxies and a cloud's noise. It overestimates: all peaks are assumed to coincide.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Costs:
    """CPU costs in microseconds and memory in KiB, each with its source.

    The gateway's are from docs/performance.md: one core of a small virtual machine, system calls included.
    The store's are from `--measure`: Valkey's own CPU per command, pipelined.
    """

    delivery_us: float = 9.0
    ack_us: float = 27.9
    connect_us: float = 173.0
    socket_kib: float = 3.1
    process_mib: float = 75.0
    idle_us_per_s: float = 3.6
    sweep_us: float = 4.6
    commit_us: float = 26.0
    version_read_us: float = 1.0
    announcement_us: float = 1.5


@dataclass(frozen=True)
class Load:
    """How a product is used. A peak is the busiest hour as a multiple of the mean."""

    tabs: int
    tabs_per_tenant: float = 5.0
    topics_per_tab: float = 2.0
    changes_per_tenant_per_day: float = 4.0
    peak: float = 10.0
    opens_per_tab_per_hour: float = 2.0
    sweep_s: float = 5.0
    probe_s: float = 2.0
    sticky: bool = False


@dataclass(frozen=True)
class Policy:
    """Limits: a core's share in the steady peak, sockets per gateway, the time for tabs to return after a loss."""

    core: float = 0.5
    sockets_per_gateway: int = 50_000
    storm_s: float = 30.0
    lost_at_once: float = 1 / 3
    core_usd_per_month: float = 25.0


@dataclass(frozen=True)
class Need:
    """The result. Shares are of one core."""

    gateways: int
    by: str
    memory_gib: float
    deliveries_per_s: float
    commits_per_s: float
    sweep_reads_per_s: float
    announcements_per_s: float
    store_cores: float
    shards: int
    probes_per_s: float
    usd_per_month: float


def need(load: Load, costs: Costs, policy: Policy) -> Need:
    """Return what a load takes. Gateways are the highest of four bounds; the store's size follows from them.

    Raises:
        ValueError: the probes of the gateways alone would fill each shard, for any number of shards.
    """
    tenants = load.tabs / load.tabs_per_tenant
    changes = tenants * load.changes_per_tenant_per_day / 86_400 * load.peak
    deliveries = changes * load.tabs_per_tenant
    opens = load.tabs * load.opens_per_tab_per_hour / 3600
    cpu_us = (
        deliveries * (costs.delivery_us + costs.ack_us) + opens * costs.connect_us + load.tabs * costs.idle_us_per_s
    )

    def guarded(gateways: int) -> float:
        """Return live topics over all gateways: a tenant's topic is live on each gateway with one of its tabs."""
        at_once = 1.0 if load.sticky else spread(load.tabs_per_tenant, gateways)
        return tenants * at_once + load.tabs * (load.topics_per_tab - 1)

    gateways = 1
    for _ in range(50):  # the sweep's share depends on the number of gateways, which depends on it
        sweep_us = guarded(gateways) / load.sweep_s * costs.sweep_us
        bounds = {
            "sockets": load.tabs / policy.sockets_per_gateway,
            "CPU": (cpu_us + sweep_us) / (policy.core * 1e6),
            # If a share of them is lost at once, the others take its tabs within the window.
            "reconnects": load.tabs
            * policy.lost_at_once
            * costs.connect_us
            / (policy.storm_s * 1e6 * 0.9)
            / (1 - policy.lost_at_once),
            "two": 2.0,
        }
        by = max(bounds, key=lambda name: bounds[name])
        wanted = math.ceil(bounds[by])
        if wanted == gateways:
            break
        gateways = wanted
    at_once = 1.0 if load.sticky else spread(load.tabs_per_tenant, gateways)
    announcements = changes * at_once
    reads = guarded(gateways) / load.sweep_s
    shared_us = (
        changes * costs.commit_us
        + announcements * costs.announcement_us
        + reads * costs.version_read_us
        + opens * load.topics_per_tab * costs.version_read_us * 2
    )
    # Every gateway probes every shard: more shards divide the other load, but not this.
    probes = gateways / load.probe_s
    probes_us = probes * (costs.commit_us + costs.announcement_us)
    free_us = policy.core * 1e6 - probes_us
    if free_us <= 0:
        raise ValueError(f"the probes of {gateways} gateways alone fill a shard: probe less often")
    shards = max(1, math.ceil(shared_us / free_us))
    memory = (gateways * costs.process_mib + load.tabs * costs.socket_kib / 1024) / 1024
    return Need(
        gateways,
        by,
        memory,
        deliveries,
        changes,
        reads,
        announcements,
        (shared_us + shards * probes_us) / 1e6,
        shards,
        probes * shards,
        (gateways + shards * 2) * policy.core_usd_per_month,
    )


def spread(tabs: float, gateways: int) -> float:
    """Return the mean number of gateways that `tabs` randomly placed tabs are on."""
    return gateways * (1 - math.pow(1 - 1 / gateways, tabs))


def storm(
    tabs: int, rate: float, window_s: float, *, least_s: float = 0.5, most_s: float = 30.0, seed: int = 1
) -> tuple[float, float]:
    """Return the seconds until half, and until 99 % of `tabs` are back, by simulation.

    They lost their connection without a `bye`. Each waits random(0..least_s), and doubles its wait after a rejection.
    The survivors accept `rate` connects a second and queue up to `window_s` of them; beyond that they answer 503.
    """
    chance = random.Random(seed)
    step = 0.05
    due: dict[int, list[int]] = {}
    for _ in range(tabs):
        due.setdefault(int(chance.uniform(0, least_s) / step), []).append(0)
    line = done = 0.0
    half = 0.0
    tick = 0
    while done < 0.99 * tabs:
        for tries in due.pop(tick, []):
            if line < rate * window_s:
                line += 1
            else:
                wait = chance.uniform(0, min(most_s, least_s * 2 ** (tries + 1)))
                due.setdefault(tick + 1 + int(wait / step), []).append(tries + 1)
        served = min(line, rate * step)
        line -= served
        done += served
        tick += 1
        if not half and done >= tabs / 2:
            half = tick * step
    return half, tick * step


def number(value: float) -> str:
    """Return a number formatted for people."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} M"
    if value >= 1e4:
        return f"{value / 1e3:.3g} k"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def table(columns: list[str], rows: list[list[object]]) -> Iterator[str]:
    """Yield a Markdown table's lines."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(number(cell) if isinstance(cell, float) else str(cell) for cell in row) + " |"


SIZES = (1_000_000, 10_000_000, 100_000_000)


def page() -> str:
    """Return the tables of docs/scaling.md."""
    costs, policy = Costs(), Policy()
    columns = ["tabs", "way", "gateways", "because of", "memory GiB", "commits/s", "deliveries/s", "sweep reads/s"]
    columns += ["probes/s", "store cores", "shards", "$/month"]
    ways = {
        "as it comes": Load(0),
        "sweep every 30 s": Load(0, sweep_s=30),
        "a tenant's tabs on one gateway": Load(0, sticky=True),
        "both": Load(0, sweep_s=30, sticky=True),
    }
    rows: list[list[object]] = []
    for tabs in SIZES:
        for way, load in ways.items():
            what = need(replace(load, tabs=tabs), costs, policy)
            rows.append(
                [
                    number(float(tabs)),
                    way,
                    what.gateways,
                    what.by,
                    what.memory_gib,
                    what.commits_per_s,
                    what.deliveries_per_s,
                    what.sweep_reads_per_s,
                    what.probes_per_s,
                    what.store_cores,
                    what.shards,
                    f"{what.usd_per_month:,.0f}",
                ]
            )
    lines = list(table(columns, rows))
    storms: list[list[object]] = []
    rate = 0.9e6 / costs.connect_us
    for left in (1, 2, 9, 19):
        half, nearly = storm(50_000, rate * left, 2.0)
        storms.append([f"{left + 1}", f"{50_000 / left:,.0f}", number(rate * left), f"{half:.1f}", f"{nearly:.1f}"])
    lines += ["", *table(["gateways before", "more tabs on each", "connects/s", "half back s", "99% back s"], storms)]
    return "\n".join(lines)


# The store's constants.


async def measure(folder: Path) -> None:
    """Print the store's CPU per commit, per version read and per announcement delivered."""
    import redis.asyncio

    from benchmarks import rig
    from sync.store.models import Change
    from sync.store.redis.connect import connect

    async def spent(port: int, times: int, run: Callable[[], Coroutine[None, None, None]]) -> float:
        async def used() -> float:
            async with redis.asyncio.Redis(port=port) as client:
                info = await client.info("cpu")
                return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

        await run()
        before = await used()
        for _ in range(times):
            await run()
        return await used() - before

    with rig.store(folder) as port:
        store = connect(f"redis://127.0.0.1:{port}").store
        names = [f"tenant:{index}" for index in range(500)]
        count = 0

        async def commit() -> None:
            nonlocal count
            count += 1
            pad = "x" * 560
            await store.commit_many([Change(name, f'{{"n":{count},"pad":"{pad}"}}'.encode()) for name in names])

        async def read() -> None:
            await store.versions(names)

        alone = await spent(port, 100, commit) / 100 / len(names) * 1e6
        reads = await spent(port, 400, read) / 400 / len(names) * 1e6
        listeners = []
        for _ in range(4):
            listener = redis.asyncio.Redis(port=port).pubsub()
            await listener.subscribe(*(f"pw:{{{name}}}" for name in names))
            listeners.append((listener, asyncio.ensure_future(_drain(listener))))
        heard = await spent(port, 100, commit) / 100 / len(names) * 1e6
        for listener, task in listeners:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await listener.aclose()  # type: ignore[no-untyped-call]
        await store.aclose()
    print(f"commit {alone:.1f} us, version read {reads:.2f} us, announcement delivered {(heard - alone) / 4:.1f} us")


async def _drain(listener: object) -> None:
    async for _ in listener.listen():  # type: ignore[attr-defined]
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="Measure the store's constants on this machine.")
    if parser.parse_args().measure:
        with tempfile.TemporaryDirectory() as name:
            asyncio.run(measure(Path(name)))
    else:
        print(page())


if __name__ == "__main__":
    main()
