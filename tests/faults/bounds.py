"""Measures the other bounds: how soon deafness is reported, how soon a revocation arrives, how even a drain is."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.faults.rig import Gateway, Process
from tests.support.gateway import PUBLISH_KEY, Client, Running, environment, open_client, run_gateway, token
from tests.support.processes import clean_environ
from tests.support.proxy import Proxy, run_proxy
from tests.support.servers import free_port, start_valkey

GATEWAYS = 5
DRAIN_S = 2.0
TABS = 50


async def noticing(rounds: int) -> list[float]:
    """Return the seconds from freezing the store's wire until a tab received `fresh: false`, with PROBE_S = 2."""
    took: list[float] = []
    with start_valkey(tcp=True) as server:
        async with AsyncExitStack() as stack:
            pairs: list[tuple[Proxy, Client]] = []
            for _ in range(GATEWAYS):
                wire = await stack.enter_async_context(run_proxy("127.0.0.1", server.port))
                environ = environment(f"redis://127.0.0.1:{wire.port}", PROBE_S="2", LOG_LEVEL="error")
                running = await stack.enter_async_context(run_gateway(environ))
                client = await stack.enter_async_context(open_client(running, "tenant:a"))
                pairs.append((wire, client))
            for turn in range(-(-rounds // GATEWAYS)):
                await asyncio.sleep(0.37 * turn)  # start at a different phase of the probes each time
                took += await asyncio.gather(*(_notice(wire, client) for wire, client in pairs))
    return took


async def _notice(wire: Proxy, client: Client) -> float:
    await _told(client, True)
    begun = time.monotonic()
    wire.freeze()
    await _told(client, False)
    took = time.monotonic() - begun
    wire.thaw()
    return took


async def _told(client: Client, fresh: bool) -> None:
    while (await client.receive(30, heartbeats=True)).get("fresh") is not fresh:
        pass


async def revoking(rounds: int) -> list[float]:
    """Return the seconds from revoking a subject at one gateway until its socket at another is closed."""
    took: list[float] = []
    with start_valkey() as server:
        environ = environment(server.url, LOG_LEVEL="error")
        async with run_gateway(environ) as asked, run_gateway(environ) as other, httpx2.AsyncClient() as http:
            took = [await _revoke(asked, other, http, f"user-{turn}") for turn in range(rounds)]
    return took


async def _revoke(asked: Running, other: Running, http: httpx2.AsyncClient, sub: str) -> float:
    async with open_client(other, "tenant:a", jwt=token(sub=sub)) as client:
        await client.until("snapshot")
        begun = time.monotonic()
        answer = await http.post(
            f"{asked.url}/v1/sessions/revoke", json={"sub": sub}, headers={"Authorization": f"Bearer {PUBLISH_KEY}"}
        )
        assert answer.status_code == 200, answer.text
        await client.closed()
        return time.monotonic() - begun


async def draining(folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Return for each drain the seconds until the last close, and the share of tabs closed in its busiest tenth."""
    lasts: list[float] = []
    bursts: list[float] = []
    with start_valkey(tcp=True) as server:
        port = free_port()
        settings = environment(server.url, PORT=str(port), DRAIN_S=str(DRAIN_S), LOG_LEVEL="error")
        async with run_proxy("127.0.0.1", server.port) as wire:
            process = Process("gateway.server", clean_environ(folder, **settings))
            gateway = Gateway("gateway", process, port, wire, wire)
            for _ in range(rounds):
                process.start()
                try:
                    await gateway.ready()
                    closes = await _drain(gateway)
                finally:
                    process.kill()
                lasts.append(max(closes))
                tenths = [int(close / DRAIN_S * 10) for close in closes]
                bursts.append(max(tenths.count(tenth) for tenth in set(tenths)) / len(closes))
    return lasts, bursts


async def _drain(gateway: Gateway) -> list[float]:
    begun = 0.0
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(TABS):
            url = f"ws://127.0.0.1:{gateway.port}/v1/connect"
            connection = await stack.enter_async_context(connect(url, subprotocols=[Subprotocol("planwire.v1")]))
            client = Client(connection)
            await client.send("hello", token=token(), topics={"tenant:a": 0}, client="drain")
            await client.until("snapshot")
            clients.append(client)
        begun = time.monotonic()
        gateway.process.signal(signal.SIGTERM)

        async def closed(client: Client) -> float:
            await client.closed(DRAIN_S + 10)
            return time.monotonic() - begun

        return list(await asyncio.gather(*(closed(client) for client in clients)))


async def run(folder: Path, rounds: int) -> int:
    """Print the table."""
    noticed = await noticing(rounds)
    revoked = await revoking(rounds)
    lasts, bursts = await draining(folder, rounds)
    print("| promise | bound | median | max | runs |\n|---|---|---|---|---|")
    for what, bound, values, unit in (
        ("a deaf gateway tells its tabs (`PLANWIRE_PROBE_S` 2)", "4 s", noticed, "s"),
        ("a revocation closes a socket at another gateway", "1 s", revoked, "s"),
        (
            f"the last of {TABS} tabs is closed in a drain (`PLANWIRE_DRAIN_S` {DRAIN_S:g})",
            f"{DRAIN_S:g} s",
            lasts,
            "s",
        ),
        ("tabs closed in the busiest tenth of a drain; even: 10 %", "-", [100 * burst for burst in bursts], "%"),
    ):
        print(
            f"| {what} | {bound} | {statistics.median(values):.3g} {unit} | {max(values):.3g} {unit} | {len(values)} |"
        )
    return 0
