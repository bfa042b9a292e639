"""A deploy with a crowd: a thousand tabs of one gateway process move to the other, evenly, and miss nothing."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sync.store.models import Change
from sync.store.store import Store
from tests.support import crowd
from tests.support.crowd import connect, serving
from tests.support.gateway import environment, token
from tests.support.servers import free_port
from tests.support.system import TOPIC
from tests.support.wire import CLOSE, TEXT, Wire

pytestmark = pytest.mark.slow

TABS = 1000
DRAIN_S = 8
AHEAD = 0.1
"""The share of the tabs that may be ahead of the advertised rate, by the jitter on top of an even spread.

A crowd that comes at once would be ahead of it, or have nobody come by three quarters of the time. Who is late is not
held to a rate: a machine that stands still for a moment makes up for it.
"""

LATE_S = 5
"""By how much a machine that stands still now and then may have the last tab come late."""


async def test_a_thousand_tabs_move_over_without_a_burst_and_miss_no_version(
    store_url: str, store: Store, tmp_path: Path
) -> None:
    crowd.TOKENS[:] = [token(sub=f"user{number}") for number in range(crowd.SUBJECTS)]
    common = {"SOCKETS_PER_ADDRESS": "5000", "LOG_LEVEL": "warning", "DRAIN_S": str(DRAIN_S)}
    ports = [free_port(), free_port()]
    arrivals: list[float] = []
    held = [0] * TABS

    async def move(stack: AsyncExitStack, number: int, wire: Wire, last: asyncio.Future[int]) -> None:
        """One tab: told bye it leaves, comes back within the time it was given, and goes on until the last version."""
        back_s = 0.0
        while True:
            frame = await wire.frame(60)
            if frame.opcode == CLOSE:
                break
            if frame.opcode != TEXT:
                continue
            said = json.loads(frame.payload)
            if said["type"] == "bye":
                back_s = random.uniform(0, said["reconnect_ms"] / 1000)
            elif "version" in said:
                assert said["version"] > held[number]
                held[number] = said["version"]
        await asyncio.sleep(back_s)
        arrivals.append(time.monotonic())
        wire, said = await connect(stack, ports[1], number, held[number])
        assert not said.get("reset")
        assert said["version"] >= held[number]
        held[number] = said["version"]
        newest = await last
        while held[number] < newest:
            frame = await wire.frame(60)
            said = json.loads(frame.payload) if frame.opcode == TEXT else {}
            if said.get("type") in ("snapshot", "patch"):
                assert said["version"] > held[number]
                held[number] = said["version"]

    async with AsyncExitStack() as stack:
        first, _ = await stack.enter_async_context(
            serving(environment(store_url, PORT=str(ports[0]), **common), tmp_path / "a")
        )
        await stack.enter_async_context(serving(environment(store_url, PORT=str(ports[1]), **common), tmp_path / "b"))
        wires: list[Wire] = []
        for start in range(0, TABS, 100):
            batch = (connect(stack, ports[0], number, 0) for number in range(start, start + 100))
            wires += [wire for wire, _ in await asyncio.gather(*batch)]
        last: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        moving = [asyncio.create_task(move(stack, number, wire, last)) for number, wire in enumerate(wires)]
        began = time.monotonic()
        first.process.send_signal(signal.SIGTERM)
        published = 0
        while len(arrivals) < TABS:
            await store.commit(Change(TOPIC, b'{"n":%d}' % published))
            published += 1
            done, _ = await asyncio.wait(moving, timeout=0.25, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        committed = await store.commit(Change(TOPIC, b'{"n":"last"}'))
        last.set_result(committed.version)
        await asyncio.gather(*moving)
    assert held == [committed.version] * TABS
    assert published > 2, "versions went on being published while they moved"
    came_s = sorted(at - began for at in arrivals)
    for count, at_s in enumerate(came_s, 1):
        assert count <= TABS * (at_s / DRAIN_S + AHEAD), f"{count} of {TABS} came within {at_s:.2f} s"
    assert came_s[TABS // 4] < 0.75 * DRAIN_S
    assert came_s[-1] <= DRAIN_S + LATE_S
