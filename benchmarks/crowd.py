"""Measures thousands of sockets: at rest, in a publish storm, with flickering networks, and during a deploy.

    python -m benchmarks.crowd quiet [--sockets 5000] [--topics 500] [--rate 200] [--hold 30] [--seconds 10]
    python -m benchmarks.crowd load [--idle 20000] [--active 2000] [--stalled 100] [--topics 5000] [--hot 500]
    python -m benchmarks.crowd jitter [--sockets 1000] [--topics 200] [--rate 200] [--only planwire socketio python]
    python -m benchmarks.crowd avalanche [the same]

`quiet`: the cost of idle open sockets, including heartbeats or pings; then the latency at a moderate publish rate, from
just before the commit until the client shows the state.

`load`: two gateway processes on one port. The storm is on the hot topics, spread evenly over the active sockets and
over the stalled ones. Stalled sockets have stopped reading and are not closed (the limit of ten seconds is disabled).
Idle sockets hold the other topics. First at full speed, then at a fixed rate.

`jitter`: three times, every socket loses its network for two seconds; the cuts are spread over two seconds. Connects
fail at once meanwhile. Every other cut is silent for the server, as when a phone changes networks: the old connection
gets no close. Publishing continues and stops a second before the last network returns, so that no later version hides
one that a reconnect has missed.

`avalanche`: the server's process is killed and restarted at once; publishing continues for three seconds, and until it
serves again. For Planwire also as a rolling deploy: two gateways behind one address are stopped (SIGTERM, a drain of
five seconds) and restarted one after the other. A balancer gives each connect to a gateway that accepts it.

Ten seconds after everything has stopped, each client's state is compared with the store (`avalanche`: after all clients
are back, for at most thirty seconds). "Went back": a client received an older state than it showed, and showed it. All
clients are the same code except for the dialect, and reconnect as their official client does:

- planwire: `planwire.v1` with tokens, acks as advised, patches. It reconnects after a random delay up to 0.5 s that
  doubles to the gateway's advice (5 s at this size), or within 0.2 s of the browser's `online` event. Browsers detect
  only some failures, so `jitter` runs with and without the event. The client sends the version that it holds, and
  ignores versions that are not newer.
- Socket.IO 4 on Node with connection state recovery, in-memory adapter (benchmarks/baselines/socketio.js): a
  recovered socket gets the missed messages replayed; any other gets the current state from Redis. The delay doubles
  from 1 s to 5 s, plus or minus half; the client does not use the `online` event. It shows the last message received.
- python-socketio 5 (benchmarks/baselines/socketio_app.py): no recovery; the current state from Redis on every connect.
  The same client.

The peers have no tokens and no acks. For them a publish is a SET and a PUBLISH in one transaction, for Planwire a
commit. The server has one core, store and clients the other; in `load` gateways and load clients share both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from benchmarks import rig
from benchmarks.tabs import (
    TICK_S,
    Client,
    CommitSource,
    PlanwireClient,
    SetSource,
    SocketIoClient,
    Source,
    WokenPlanwireClient,
)
from planwire_client.core.commit import LUA

CUT_S = 2.0
"""Seconds that a client has no network."""

SPREAD_S = 2.0
"""Seconds over which the cuts of one cycle are spread."""

CYCLE_S = CUT_S + SPREAD_S + 1

SETTLE_S = 10.0
"""Seconds from the end of all activity to the verdict."""

RETURN_S = 30.0
"""Timeout until all clients are connected."""

PUBLISH_S = 3.0
"""Minimum seconds of publishing after a kill: enough for every topic to change."""

DRAIN_S = 5
"""Seconds over which a stopping gateway spreads its closes."""

LOAD_CLIENT_MAX = 10_000
"""Sockets of one load process: many machines limit a process to 20,000 open files."""

NAMES = ["planwire", "socketio", "python"]


# ---- servers


class Server:
    """A server process on its own port, which can be stopped and restarted."""

    def __init__(self, candidate: rig.Candidate, folder: Path, store_port: int, core: int | None) -> None:
        self.port = rig.free_port()
        self._ready_path = candidate.ready
        self._names = {"port": str(self.port), "store": str(store_port)}
        command = [self._fill(part) for part in candidate.command]
        self._command = command if core is None else rig.pinned(core, command)
        self._environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        self._environ |= {name: self._fill(value) for name, value in candidate.environ.items()}
        self._log = folder / f"{candidate.name.replace(' ', '-')}-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def _fill(self, text: str) -> str:
        for name, value in self._names.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def start(self) -> None:
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self._environ
            )

    def _is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.port}{self._ready_path}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
        return False

    async def ready(self) -> None:
        """Return once it serves: at its ready path, or for a peer once its port accepts."""
        until = time.monotonic() + rig.START_TIMEOUT_S
        while not await asyncio.to_thread(self._is_ready if self._ready_path else self._accepts):
            if time.monotonic() > until or (self._process is not None and self._process.poll() is not None):
                raise SystemExit(f"a server did not start: {self._log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.02)

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 0.5).close()
            return True
        return False

    async def end(self, number: signal.Signals) -> None:
        """Send a signal and wait until the process and its children have ended."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            await asyncio.to_thread(process.wait)

    def pids(self) -> list[int]:
        """Return the ids of the process and its descendants."""
        return [] if self._process is None else _below(self._process.pid)

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(DRAIN_S + 5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _below(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(below for child in children for below in _below(int(child)))]


def _mib(pid: int) -> float:
    """Return the resident memory of a process in MiB, 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Memory:
    """The resident memory of some processes, sampled five times a second."""

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        self._pids = pids
        self._peak = 0.0
        self._peaks: dict[int, float] = {}
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> float:
        """Return their total in MiB."""
        sizes = {pid: _mib(pid) for pid in self._pids()}
        for pid, size in sizes.items():
            self._peaks[pid] = max(size, self._peaks.get(pid, 0.0))
        self._peak = max(self._peak, sum(sizes.values()))
        return sum(sizes.values())

    def peak(self) -> float:
        """Return the peak of their total since the last call, in MiB."""
        self.now()
        peak, self._peak = self._peak, 0.0
        return peak

    def peaks(self) -> dict[int, float]:
        """Return the peak of each since the last call, in MiB."""
        self.now()
        peaks, self._peaks = self._peaks, {}
        return peaks

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self.now()

    def close(self) -> None:
        self._done.set()


def socketio() -> rig.Candidate | None:
    """Return Socket.IO on Node, or None if it is not available."""
    if (found := rig.node_modules()) is None:
        return None
    node, modules = found
    script = rig.HERE / "baselines" / "socketio.js"
    return rig.Candidate("Socket.IO", [node, str(script), "{port}", "{store}"], environ={"NODE_PATH": str(modules)})


def python_socketio() -> rig.Candidate | None:
    """Return python-socketio on uvicorn, or None if it is not available."""
    if (python := rig.other_python()) is None:
        return None
    command = [str(python), "-m", "uvicorn", "socketio_app:app", "--port", "{port}", "--log-level", "warning"]
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--backlog", "4096"]
    environ = {"PYTHONPATH": str(rig.HERE / "baselines"), "STORE_PORT": "{store}"}
    return rig.Candidate("python-socketio", [*command, *options], environ=environ)


# ---- a crowd


@dataclasses.dataclass(frozen=True)
class System:
    """A server with its dialect and its way of publishing. More than one gateway means a rolling deploy."""

    name: str
    candidate: rig.Candidate
    client: type[Client]
    source: type[CommitSource] | type[SetSource]
    gateways: int = 1


@dataclasses.dataclass
class Crowd:
    """A system with its clients connected. `empty_mib`: memory of its processes before that."""

    empty_mib: float
    servers: list[Server]
    clients: list[Client]
    source: Source
    memory: Memory

    async def judge(self) -> tuple[float, int]:
        """Return the percentage of clients with the store's state, and the number of connected clients without it."""
        newest = await self.source.newest()
        wrong = [client for client in self.clients if client.shown != newest[client.topic]]
        return 100 - 100 * len(wrong) / len(self.clients), sum(client.is_back for client in wrong)

    def pids(self) -> list[int]:
        """Return the processes of all servers."""
        return [pid for server in self.servers for pid in server.pids()]


@contextlib.asynccontextmanager
async def crowd(system: System, options: argparse.Namespace) -> AsyncIterator[Crowd]:
    """Run a system with its store and publisher. Yield it once every client has its first state."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        store_port = stack.enter_context(rig.store(folder))
        PlanwireClient.tokens = rig.tokens(folder, options.sockets).read_text().split()
        source = system.source(store_port, options.topics, options.rate, options.bytes)
        await source.publish(range(options.topics))
        servers = []
        for _ in range(system.gateways):
            server = Server(system.candidate, folder, store_port, rig.SERVER_CORE)
            stack.callback(server.close)
            server.start()
            servers.append(server)
        for server in servers:
            await server.ready()
        ports = [server.port for server in servers]
        clients = [system.client(index, index % options.topics, ports, source) for index in range(options.sockets)]
        memory = Memory(lambda: [pid for server in servers for pid in server.pids()])
        stack.callback(memory.close)
        empty_mib = memory.now()
        tasks = []
        try:
            for client in clients:
                tasks.append(asyncio.create_task(client.run()))
                if len(tasks) % 50 == 0:
                    await asyncio.sleep(TICK_S)
            await _until(lambda: all(client.is_back for client in clients), RETURN_S)
            yield Crowd(empty_mib, servers, clients, source, memory)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await source.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for client in clients:
                client.drop()
                for ghost in client.ghosts:
                    ghost.leave()
            await source.aclose()


async def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(TICK_S)
    return True


async def quiet(system: System, options: argparse.Namespace) -> list[object]:
    """Return one row of the table."""
    async with crowd(system, options) as one:
        opened_mib = one.memory.now()
        cpu, since = rig.cpu_s(one.pids()), time.monotonic()
        await asyncio.sleep(options.hold)
        idle = (rig.cpu_s(one.pids()) - cpu) / (time.monotonic() - since)
        held_mib = one.memory.now()
        for client in one.clients:
            client.lags = []
        cpu = rig.cpu_s(one.pids())
        one.source.start()
        await asyncio.sleep(options.seconds)
        await one.source.stop()
        await asyncio.sleep(1)
        used = rig.cpu_s(one.pids()) - cpu
        lags_ms = [seconds * 1000 for client in one.clients for seconds in client.lags or ()]
        share, _ = await one.judge()
        return [
            system.name,
            len(one.clients),
            (opened_mib - one.empty_mib) * 1024 / len(one.clients),
            (held_mib - one.empty_mib) * 1024 / len(one.clients),
            100 * idle,
            len(lags_ms),
            _quantile(lags_ms, 0.5),
            _quantile(lags_ms, 0.99),
            _quantile(lags_ms, 1),
            used * 1e6 / len(lags_ms),
            share,
        ]


QUIET_COLUMNS = (
    "system",
    "sockets",
    "KiB/socket",
    "after a while",
    "idle, % of a core",
    "deliveries",
    "p50 ms",
    "p99 ms",
    "max ms",
    "server CPU us/delivery",
    "on the newest, %",
)


async def jitter(system: System, options: argparse.Namespace) -> list[object]:
    """Return one row of the table."""
    async with crowd(system, options) as one:
        before = one.memory.now()
        one.memory.peak()
        cpu = rig.cpu_s(one.pids())
        one.source.start()
        await asyncio.sleep(1)
        for cycle in range(options.cycles):
            begun = time.monotonic()
            for index, client in enumerate(one.clients):
                due = begun + SPREAD_S * index / len(one.clients)
                if due > time.monotonic():
                    await asyncio.sleep(max(TICK_S, due - time.monotonic()))
                client.cut(CUT_S, is_silent=(index + cycle) % 2 == 0)
            if cycle == options.cycles - 1:
                break
            await asyncio.sleep(max(0.0, begun + CYCLE_S - time.monotonic()))
        healed_at = time.monotonic() + CUT_S
        await asyncio.sleep(CUT_S - 1)
        await one.source.stop()
        await asyncio.sleep(1 + SETTLE_S)
        share, unaware = await one.judge()
        used = rig.cpu_s(one.pids()) - cpu
        absences = [seconds for client in one.clients for seconds in client.absences]
        last_s = max(max(client.shown_at, client.back_at) for client in one.clients) - healed_at
        returns = sum(client.returns - 1 for client in one.clients)
        recovered = sum(client.recovered for client in one.clients if isinstance(client, SocketIoClient))
        return [
            system.name,
            share,
            unaware,
            sum(client.regressions for client in one.clients),
            _quantile(absences, 0.5),
            _quantile(absences, 0.99),
            last_s,
            returns,
            100 * recovered / returns if isinstance(one.clients[0], SocketIoClient) else "-",
            sum(client.frames for client in one.clients) / returns,
            int(sum(client.bytes for client in one.clients) / returns),
            f"{before:.0f}, {one.memory.peak():.0f}",
            used,
        ]


JITTER_COLUMNS = (
    "system",
    "on the newest, %",
    "stale, yet connected",
    "went back",
    "network back to newest: p50 s",
    "p99 s",
    "last heal to last client s",
    "reconnects",
    "recovered, %",
    "frames/reconnect",
    "bytes/reconnect",
    "MiB before, peak",
    "server CPU s",
)


async def avalanche(system: System, options: argparse.Namespace) -> list[object]:
    """Return one row of the table."""
    async with crowd(system, options) as one:
        before = one.memory.now()
        one.source.start()
        await asyncio.sleep(1.5)
        one.memory.peak()
        for client in one.clients:
            client.behind_s, client.back_at = 0.0, 0.0
        begun = time.monotonic()
        for server in one.servers:
            await server.end(signal.SIGKILL if len(one.servers) == 1 else signal.SIGTERM)
            server.start()
            await server.ready()
        serving_s = time.monotonic() - begun
        await asyncio.sleep(max(0.0, PUBLISH_S - serving_s))
        await one.source.stop()
        stopped = time.monotonic()
        await _until(lambda: all(client.is_back and client.back_at for client in one.clients), RETURN_S)
        await asyncio.sleep(max(0.0, stopped + SETTLE_S - time.monotonic()))
        share, unaware = await one.judge()
        back = [client.back_at - begun if client.is_back and client.back_at else RETURN_S for client in one.clients]
        newest = await one.source.newest()
        for client in one.clients:
            if client.shown < newest[client.topic]:
                client.show(newest[client.topic])  # a lower bound: it was behind for at least this long
        behind = [client.behind_s for client in one.clients]
        returns = sum(client.returns - 1 for client in one.clients)
        return [
            system.name,
            serving_s,
            share,
            unaware,
            sum(client.regressions for client in one.clients),
            _quantile(back, 0.99),
            _quantile(back, 1),
            _quantile(behind, 0.5),
            _quantile(behind, 0.99),
            _quantile(behind, 1),
            sum(client.refused for client in one.clients),
            returns,
            int(sum(client.bytes for client in one.clients) / max(1, returns)),
            f"{before:.0f}, {one.memory.peak():.0f}",
        ]


AVALANCHE_COLUMNS = (
    "system",
    "deploy took s",
    "on the newest, %",
    "stale, yet connected",
    "went back",
    "99 % back after s",
    "100 %",
    "longest behind: p50 s",
    "p99 s",
    "max s",
    "refused connects",
    "reconnects",
    "bytes/reconnect",
    "MiB before, peak",
)


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else float("nan")


def systems(scene: str, names: Sequence[str]) -> list[System]:
    """Return the systems of a scene that are available on this machine."""
    found: list[System] = []
    if "planwire" in names:
        gateway = rig.gateway(DRAIN_S=str(DRAIN_S))
        if scene == "quiet":
            found.append(System("planwire", gateway, PlanwireClient, CommitSource))
        elif scene == "jitter":
            found.append(System("planwire", gateway, WokenPlanwireClient, CommitSource))
            found.append(System("planwire, timers alone", gateway, PlanwireClient, CommitSource))
        else:
            found.append(System("planwire, killed", gateway, PlanwireClient, CommitSource))
            found.append(System("planwire, two in turn", gateway, PlanwireClient, CommitSource, gateways=2))
    for name, make in (("socketio", socketio), ("python", python_socketio)):
        candidate = make() if name in names else None
        if candidate is not None:
            suffix = ", killed" if scene == "avalanche" else ""
            found.append(System(f"{candidate.name}{suffix}", candidate, SocketIoClient, SetSource))
    return found


# ---- the load


@contextlib.contextmanager
def _load_client(
    folder: Path, port: int, store_port: int, tokens: Sequence[str], first: int, topics: int, *extra: str
) -> Iterator[rig.Load]:
    """Run one load process with a socket for each token. Yield it once they are open."""
    file = folder / f"tokens-of-{first}-{len(tokens)}-{random.getrandbits(32)}"
    file.write_text("\n".join(tokens) + "\n")
    with redis.Redis(port=store_port) as client:
        sha = client.script_load(LUA)
    command = [str(rig.build("load", "-lz")), "--port", str(port), "--sockets", str(len(tokens))]
    command += ["--topics", str(topics), "--first", str(first), "--tokens", str(file), "--pids", ""]
    command += ["--store", str(store_port), "--sha", str(sha), "--fill", "600", *extra]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield rig.Load(process)
        finally:
            process.kill()


def _open_sockets(pids: Sequence[int], port: int) -> dict[int, int]:
    """Return how many established connections to `port` each process holds."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        parts = line.split()
        if parts[3] == "01" and int(parts[1].split(":")[1], 16) == port:
            inodes.add(f"socket:[{parts[9]}]")
    counts = {}
    for pid in pids:
        names = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                names.append(os.readlink(link))
        counts[pid] = len(inodes.intersection(names))
    return counts


def load(options: argparse.Namespace) -> list[list[object]]:
    """Return the rows of the table."""
    gateway = rig.gateway(SEND_TIMEOUT_S="600", DRAIN_S="0")
    gateway = dataclasses.replace(gateway, environ={**gateway.environ, "WEB_CONCURRENCY": "2"})
    quiet = options.topics - options.hot
    total = options.idle + options.active + options.stalled
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        store_port = stack.enter_context(rig.store(folder))
        tokens = rig.tokens(folder, total).read_text().split()
        server = Server(gateway, folder, store_port, None)
        stack.callback(server.close)
        server.start()
        asyncio.run(server.ready())
        memory = Memory(server.pids)
        stack.callback(memory.close)

        def row(title: str, phase: rig.Row | None) -> None:
            sockets = _open_sockets(server.pids(), server.port)
            workers = [pid for pid, count in sockets.items() if count] or list(sockets)[-2:]
            values: list[object] = ["-"] * 6
            if phase is not None:
                seconds = phase["seconds"]
                values = [int(phase["published"] / seconds), int(phase["delivered"] / seconds)]
                values += [phase[key] for key in ("p50_ms", "p99_ms", "max_ms")]
                values.append("no" if phase["stalled"] else "all")
            peaks = memory.peaks()
            rows.append(
                [
                    title,
                    *values,
                    " + ".join(str(sockets[pid]) for pid in workers),
                    " + ".join(f"{_mib(pid):.0f}" for pid in workers),
                    " + ".join(f"{peaks.get(pid, 0.0):.0f}" for pid in workers),
                ]
            )

        row("started", None)
        clients = -(-options.idle // LOAD_CLIENT_MAX)
        share, topics = options.idle // clients, quiet // clients
        idle = []
        for index in range(clients):
            mine = tokens[index * share : (index + 1) * share]
            first = options.hot + index * topics
            idle.append(stack.enter_context(_load_client(folder, server.port, store_port, mine, first, topics)))
        row(f"{share * clients:,} idle", None)
        extra = ["--deaf", str(options.stalled)]
        active = stack.enter_context(
            _load_client(folder, server.port, store_port, tokens[options.idle :], 0, options.hot, *extra)
        )
        row(f"and {options.active:,} active, {options.stalled} stalled", None)
        for title, phase in (
            ("storm, as fast as it goes", f"burst:{options.bytes}:{options.updates}:256"),
            (f"storm at {options.rate:,}/s", f"rate:{options.bytes}:{options.rate}:{options.seconds}"),
            ("the same again", f"rate:{options.bytes}:{options.rate}:{options.seconds}"),
        ):
            row(title, active.run(phase))
        dead = sum(one.run("idle:1")["dead"] for one in (*idle, active))
        row(f"a little later; {dead} lost", None)
    return rows


LOAD_COLUMNS = (
    "phase",
    "updates/s",
    "deliveries/s",
    "p50 ms",
    "p99 ms",
    "max ms",
    "readers on the newest",
    "sockets per process",
    "MiB per process",
    "peak",
)


SCENES: dict[str, tuple[Callable[[System, argparse.Namespace], Coroutine[Any, Any, list[object]]], tuple[str, ...]]] = {
    "quiet": (quiet, QUIET_COLUMNS),
    "jitter": (jitter, JITTER_COLUMNS),
    "avalanche": (avalanche, AVALANCHE_COLUMNS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scenes = parser.add_subparsers(dest="scene", required=True)
    one = scenes.add_parser("load")
    one.add_argument("--idle", type=int, default=20_000)
    one.add_argument("--active", type=int, default=2000)
    one.add_argument("--stalled", type=int, default=100)
    one.add_argument("--topics", type=int, default=5000)
    one.add_argument("--hot", type=int, default=500, help="topics of the storm")
    one.add_argument("--bytes", type=int, default=4096)
    one.add_argument("--updates", type=int, default=20_000)
    one.add_argument("--rate", type=int, default=1000)
    one.add_argument("--seconds", type=int, default=6, help="of each of two phases at the rate")
    for scene in ("quiet", "jitter", "avalanche"):
        one = scenes.add_parser(scene)
        one.add_argument("--sockets", type=int, default=5000 if scene == "quiet" else 1000)
        one.add_argument("--topics", type=int, default=500 if scene == "quiet" else 200)
        one.add_argument("--rate", type=int, default=200, help="publishes a second over all topics")
        one.add_argument("--bytes", type=int, default=600)
        one.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
        if scene == "quiet":
            one.add_argument("--hold", type=int, default=30, help="seconds without news")
            one.add_argument("--seconds", type=int, default=10, help="of publishing")
        elif scene == "jitter":
            one.add_argument("--cycles", type=int, default=3)
    options = parser.parse_args()
    rig.raise_file_limit()
    if options.scene == "load":
        rig.print_table(LOAD_COLUMNS, load(options))
        return
    measure, columns = SCENES[options.scene]
    chosen = systems(options.scene, options.only)
    os.sched_setaffinity(0, {rig.LOAD_CORE})
    rows: list[list[object]] = []
    for system in chosen:
        rig.wait_until_quiet()
        rows.append(asyncio.run(measure(system, options)))
    rig.print_table(columns, rows)


if __name__ == "__main__":
    main()
