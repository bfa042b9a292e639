"""A complete system that can fail at any point: gateways, a worker and a store as separate processes, a proxy on every
wire between them, publishers, a billing provider, and tabs that record what they receive.

    tab - proxy - gateway - proxy - store - proxy - worker

`Rig.history` is the input of `history.judge`. All randomness comes from one seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from planwire_client.core import merge_patch
from planwire_client.http import NO_ANSWER
from sync.core import instants
from sync.store.redis.connect import connect as connect_store
from sync.store.store import Store
from tests.faults import clock, usage
from tests.faults.clock import Clock
from tests.faults.history import Acked, Answered, Asked, Bounds, Claimed, Deaf, Fact, Healed, Lost, Shown, Told, judge
from tests.support.bodies import SECRET, envelope, signature, subscription
from tests.support.gateway import PUBLISH_KEY, environment, token
from tests.support.processes import Running, clean_environ, python
from tests.support.proxy import Proxy, run_proxy
from tests.support.servers import Server, free_port, start_redis, start_valkey
from tests.support.wait import until

HEARTBEAT_S, PROBE_S, SWEEP_S = 0.5, 0.4, 0.5
"""The gateways' intervals: a tenth to a thirtieth of the defaults, so that a round takes seconds."""

DRAIN_S = 1.0

NOTICE_S = 2 * PROBE_S
SLACK_S = 0.4
"""Allowance for the time from a gateway's decision to a tab reading it, and between two checks of the probe."""

SILENCE_S = 2.5 * HEARTBEAT_S
"""Silence after which a tab drops its connection as dead, as the browser client does."""

ANSWER_S = 1.5
"""How long a publisher waits for an answer before it asks another gateway."""

PACE_S = 0.04
"""Interval between two changes of one topic."""

MAX_WAIT_S = 40.0
"""Timeout of a fault's waits, long enough for a busy machine; it is not a judged bound."""

UNWRITTEN_S = 2.0
"""With `appendfsync everysec` and a slow disk, the store may keep answered writes in memory for this long."""

LIES = 0.05
LIE_US = 10**12
"""Share of false acks that a tab sends, and how far their version is ahead of the version received."""

TAIL_BYTES = 4 << 20
"""Bytes at the end of each append-only file that are searched for the last changes."""

ENGINES = {"valkey": start_valkey, "redis": start_redis}

CONNECTIONS_MAX = 64
"""Limit on HTTP connections of a gateway: low, so that an attacker can take all of them."""

CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true
limits = { calls = 40 }

[plans.pro]
name = "Pro"
rank = 20
limits = { seats = 0, calls = 40 }
per_unit.limits = { seats = 1 }
prices.paddle.live = ["pri_pro"]
"""


class Process:
    """A Planwire process that can be killed and restarted. It ends with this process."""

    def __init__(self, module: str, environ: dict[str, str]) -> None:
        self._command = python("-m", module)
        self._environ = environ | {"PLANWIRE_WATCH_PID": str(os.getpid())}
        self._running: Running | None = None
        self.output = ""
        self.lives = 0

    def start(self) -> None:
        """Start it, unless it runs already (two faults may repair the same process). It serves a moment later."""
        if self.runs:
            return
        self.kill()
        self._running = Running(self._command, self._environ)
        self.lives += 1

    def kill(self) -> None:
        """Kill it with SIGKILL and wait for its end."""
        if self._running is not None:
            self._running.close()
            self.output += self._running.text
            self._running = None

    @property
    def said(self) -> str:
        """Its output over all starts."""
        return self.output + (self._running.text if self._running is not None else "")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless another fault has ended it."""
        if self._running is not None:
            self._running.process.send_signal(number)

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._running is not None and self.status is None

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs, or after `kill`."""
        return None if self._running is None else self._running.status()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._running is not None
        return self._running.process.pid


class Gateway:
    """A gateway and its two wires: `front` to the tabs, `back` to the store."""

    def __init__(self, name: str, process: Process, port: int, front: Proxy, back: Proxy) -> None:
        self.name, self.process, self.port, self.front, self.back = name, process, port, front, back

    async def ready(self, timeout_s: float = MAX_WAIT_S) -> None:
        """Return once its bus is verified."""

        async def is_ready() -> bool:
            try:
                async with httpx2.AsyncClient(trust_env=False) as client:
                    answer = await client.get(f"http://127.0.0.1:{self.port}/readyz", timeout=1)
            except (httpx2.HTTPError, *NO_ANSWER) as error:
                last = self.process.said[-500:]
                raise AssertionError(f"{self.name}: {error!r}, exit status {self.process.status}: {last}") from error
            assert answer.status_code == 200, f"{self.name}: {answer.status_code} {answer.text}"
            return True

        await until(is_ready, timeout_s=timeout_s)


class Tab:
    """A browser tab: it follows the protocol, reconnects by itself, and records what it shows."""

    def __init__(self, name: str, rig: Rig) -> None:
        self.name = name
        self._rig = rig
        self._chance = random.Random(f"{rig.seed}/{name}")
        self.held: dict[str, int] = dict.fromkeys(rig.topics, 0)
        self._states: dict[str, Any] = dict.fromkeys(rig.topics)
        self._connected_at = 0.0

    async def run(self) -> None:
        """Stay connected, to one gateway after the other, until cancelled."""
        while True:
            gateway = self._chance.choice(self._rig.gateways)
            with contextlib.suppress(OSError, TimeoutError, WebSocketException, EOFError):
                await self._sit(gateway)
            await asyncio.sleep(self._chance.uniform(0.02, 0.2))

    async def _sit(self, gateway: Gateway) -> None:
        connection = await connect(
            f"ws://127.0.0.1:{gateway.front.port}/v1/connect",
            subprotocols=[Subprotocol("planwire.v1")],
            compression=None,
            ping_interval=None,
            open_timeout=SILENCE_S,
            proxy=None,
        )
        try:
            hello = {"type": "hello", "token": token(sub=self.name), "topics": self.held, "client": "faults/1"}
            self._connected_at = time.time()
            await connection.send(json.dumps(hello))
            while True:
                async with asyncio.timeout(SILENCE_S):
                    frame = json.loads(await connection.recv())
                await self._take(frame, gateway, connection)
        finally:
            connection.transport.abort()  # like a tab that drops a dead connection: without a close frame

    async def _take(self, frame: dict[str, Any], gateway: Gateway, connection: ClientConnection) -> None:
        kind, note = frame["type"], self._rig.note
        if kind in ("welcome", "heartbeat"):
            age_s = (frame["at"] - frame["verified_at"]) / 1e6 if kind == "heartbeat" else 0.0
            said_at = self._connected_at if kind == "welcome" else frame["at"] / 1e6
            late_s = max(0.0, time.time() - said_at)
            note(Told(time.monotonic(), self.name, gateway.name, frame["fresh"], age_s, late_s))
            return
        if kind == "error":
            raise AssertionError(f"{self.name} was told {frame}")
        if kind not in ("snapshot", "patch"):
            return
        topic, version, is_reset = frame["topic"], frame["version"], frame.get("reset", False)
        if version <= self.held[topic] and not is_reset:
            return  # a client ignores versions that are not newer; record what is shown, not what arrives
        if kind == "patch":
            if frame["base"] != self.held[topic]:
                raise AssertionError(f"{self.name} was sent a patch on {frame['base']}, and holds {self.held[topic]}")
            self._states[topic] = merge_patch.apply(self._states[topic], frame["patch"])
        else:
            self._states[topic] = frame["state"]
        self.held[topic] = version
        note(Shown(time.monotonic(), self.name, topic, version, number(self._states[topic]), is_reset))
        if version:
            note(Acked(time.monotonic(), self.name, topic, version))
            await connection.send(json.dumps({"type": "ack", "topic": topic, "version": version}))
            if self._chance.random() < LIES:
                await connection.send(json.dumps({"type": "ack", "topic": topic, "version": version + LIE_US}))


def number(state: Any) -> int | None:
    """Return the number that identifies a state within its topic: its `n`, or the seats of a tenant's plan."""
    if state is None:
        return None
    if "n" in state:
        return int(state["n"])
    return int(state["limits"]["seats"])


class Source:
    """Changes one topic repeatedly, and retries until each change is answered with success."""

    def __init__(self, topic: str, rig: Rig) -> None:
        self.topic = topic
        self._rig = rig
        self._chance = random.Random(f"{rig.seed}/{topic}")
        self._n = 0
        self.earlier: dict[str, Any] | None = None
        self.attempts = 0
        self.idle = asyncio.Event()

    async def run(self) -> None:
        """Publish while the rig publishes, until cancelled."""
        async with httpx2.AsyncClient(timeout=ANSWER_S, trust_env=False) as client:
            while True:
                await self._pause()
                self._n += 1
                await self._until_answered(client, self._n)
                await asyncio.sleep(PACE_S * self._chance.uniform(0.5, 1.5))

    async def _pause(self) -> None:
        while (
            not self._rig.publishing.is_set()
        ):  # check again: publishing may have resumed and stopped before this task ran
            self.idle.set()
            await self._rig.publishing.wait()
        self.idle.clear()

    async def _until_answered(self, client: httpx2.AsyncClient, n: int) -> None:
        self._rig.note(Asked(time.monotonic(), self.topic, n))
        request = self._webhook(n) if self.topic.startswith("tenant:") else self._publish(n)
        again = self.earlier if self._chance.random() < 0.2 else None
        self.earlier = request[1]
        while True:
            self.attempts += 1
            gateway = self._chance.choice(self._rig.gateways)
            with contextlib.suppress(httpx2.HTTPError, *NO_ANSWER):
                if again is not None:  # a retry or replay of an earlier event: it must not change anything
                    await client.post(f"http://127.0.0.1:{gateway.front.port}{request[0]}", **again)
                    again = None
                answer = await client.post(f"http://127.0.0.1:{gateway.front.port}{request[0]}", **request[1])
                if answer.status_code == 200:
                    told = answer.json()
                    version = told["version"] if told.get("verdict") == "applied" else 0
                    self._rig.note(Answered(time.monotonic(), self.topic, n, version))
                    return
                if answer.status_code != 503:
                    raise AssertionError(f"{self.topic} {n}: {answer.status_code} {answer.text}")
            await asyncio.sleep(0.05)

    def _publish(self, n: int) -> tuple[str, dict[str, Any]]:
        # Most members stay the same, so that most deliveries are patches.
        change = {"topic": self.topic, "state": {"n": n, "pad": "x" * 200}, "event_id": f"{self.topic}-{n}"}
        return "/v1/publish", {"json": change, "headers": {"Authorization": f"Bearer {PUBLISH_KEY}"}}

    def _webhook(self, n: int) -> tuple[str, dict[str, Any]]:
        """Return the path and request of a signed event that sets the seats to `n`."""
        now = instants.text(time.time_ns() // 1000 * 1000)
        tenant = self.topic.partition(":")[2]
        data = subscription(
            id=f"sub_{tenant}", customer_id=f"ctm_{tenant}", tenant=tenant, updated_at=now, items=[("pri_pro", n)]
        )
        body = json.dumps(envelope(data, occurred_at=now)).encode()
        return "/webhooks/paddle", {
            "content": body,
            "headers": {"Paddle-Signature": signature(body, int(time.time()), SECRET)},
        }


class Rig:
    """The system and its recorded history."""

    def __init__(
        self, seed: int, engine: str, store_server: Server, topics: list[str], clock: Clock | None, durable: bool
    ) -> None:
        """Use a store with this clock, if it can be set. `durable`: answer changes once they are on disk."""
        self.seed = seed
        self._start = ENGINES[engine]
        self.clock = clock
        self._durable = durable
        self.chance = random.Random(seed)
        self.server = store_server
        self.topics = topics
        self.gateways: list[Gateway] = []
        self.worker: Process
        self.worker_wire: Proxy
        self.store: Store
        self.history: list[Fact] = []
        self.losses = 0
        self.publishing = asyncio.Event()
        self._answered = asyncio.Event()
        self.tabs: list[Tab] = []
        self.sources: list[Source] = []
        self.accounts = [usage.Account(name[7:]) for name in topics if name.startswith("tenant:")]
        self.spenders: list[usage.Spender] = []
        self._tasks: list[asyncio.Task[None]] = []

    def note(self, fact: Fact) -> None:
        """Record a fact."""
        self.history.append(fact)
        self.losses += isinstance(fact, Lost)
        if isinstance(fact, Answered):
            self._answered.set()

    def complaints(self) -> list[str]:
        """Return the log lines of all processes that report an exception."""
        said = [process.said for process in (*(gateway.process for gateway in self.gateways), self.worker)]
        return [line for text in said for line in text.splitlines() if '"exception"' in line or "Traceback" in line]

    def violations(self, converge_s: float) -> list[str]:
        """Return the judge's violations and the processes' exceptions; empty if all guarantees hold."""
        counted = [line for account in self.accounts for line in account.violations]
        return [*judge(self.history, Bounds(converge_s, NOTICE_S + SLACK_S)), *counted, *self.complaints()]

    def check_alive(self) -> None:
        """Raise the exception that ended a tab or source, if any."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def begin(self, tabs: int) -> None:
        """Let the tabs connect and the sources publish."""
        self.tabs = [Tab(f"tab{index}", self) for index in range(tabs)]
        self.sources = [Source(topic, self) for topic in self.topics]
        self.spenders = [
            usage.Spender(account, f"{account.tenant}-{number}", self)
            for account in self.accounts
            for number in range(2)
        ]
        self.publishing.set()
        runs = [*(tab.run() for tab in self.tabs), *(source.run() for source in self.sources)]
        runs += [spender.run() for spender in self.spenders]
        self._tasks = [asyncio.ensure_future(run) for run in runs]

    async def end(self) -> None:
        """Stop tabs and sources."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def still(self, timeout_s: float = MAX_WAIT_S) -> None:
        """Return once no publish is in progress."""
        self.publishing.clear()
        async with asyncio.timeout(timeout_s):
            for idle in (*(one.idle for one in self.sources), *(one.idle for one in self.spenders)):
                while not idle.is_set():
                    self.check_alive()
                    await asyncio.sleep(0.01)

    async def goes_on(self, timeout_s: float = MAX_WAIT_S) -> None:
        """Return once, for every topic, a change requested from now on has been answered."""
        asked_from = time.monotonic()

        def is_answered() -> bool:
            asked = {(fact.topic, fact.n) for fact in self._since(asked_from) if isinstance(fact, Asked)}
            answered = {
                fact.topic
                for fact in self._since(asked_from)
                if isinstance(fact, Answered) and (fact.topic, fact.n) in asked
            }
            self.check_alive()
            return answered >= set(self.topics)

        await until(is_answered, timeout_s=timeout_s)

    async def is_fresh(self, timeout_s: float = MAX_WAIT_S) -> None:
        """Return once every tab has received `fresh` with a `verified_at` later than now."""
        since = time.monotonic()

        def is_told() -> bool:
            told = (fact for fact in self._since(since) if isinstance(fact, Told))
            tabs = {fact.client for fact in told if fact.fresh and fact.at - fact.late_s - fact.verified_age_s > since}
            return tabs >= {tab.name for tab in self.tabs}

        await until(is_told, timeout_s=timeout_s)

    def _since(self, at: float) -> Iterator[Fact]:
        for fact in reversed(self.history):
            if fact.at < at:
                return
            yield fact

    async def answer(self, timeout_s: float = MAX_WAIT_S) -> None:
        """Return right after the next answer to a publisher."""
        self._answered.clear()
        async with asyncio.timeout(timeout_s):
            await self._answered.wait()

    def kill_store(self, mark: Callable[[], None] = lambda: None) -> None:
        """Kill the store with SIGKILL, let `mark` change its files, and note exactly which commits are lost.

        A durable store may lose nothing: no loss is noted for it, so the judge requires every commit.
        """
        unwritten_since = time.monotonic() - UNWRITTEN_S
        self.server.kill()
        mark()
        self._note_lost(unwritten_since)

    async def kill_all(self) -> None:
        """Kill store, gateways and worker with SIGKILL, and note the loss, including answers still in transit."""
        unwritten_since = time.monotonic() - UNWRITTEN_S
        self.server.kill()
        for process in (*(gateway.process for gateway in self.gateways), self.worker):
            process.kill()
        before = {source: source.attempts for source in self.sources}
        await until(lambda: all(source.attempts > count for source, count in before.items()), MAX_WAIT_S)
        self._note_lost(unwritten_since, held=False)

    def _note_lost(self, unwritten_since: float, held: bool = True) -> None:
        if self._durable:
            return
        files = b"".join(map(_tail, (self.server.directory / "appendonlydir").glob("*.aof")))
        told = [fact for fact in self._since(unwritten_since) if isinstance(fact, Answered | Shown)]
        told = [fact for fact in told if fact.version]
        missing = [fact.at for fact in told if str(fact.version).encode() not in files]
        calls = [call for account in self.accounts for call in account.answered if call[0] >= unwritten_since]
        missing += [at for at, key in calls if f"{key}\r\n".encode() not in files]
        if missing:
            # Answers may arrive out of order.
            self.note(Lost(time.monotonic(), max(unwritten_since, min(missing) - SLACK_S), held))
            self.forget_earlier()

    @asynccontextmanager
    async def replica(self) -> AsyncIterator[Server]:
        """Add a replica that is in sync with the store."""
        with self._start(tcp=True, args=["--replicaof", "127.0.0.1", str(self.server.port)]) as server:
            await self.replicates()
            yield server

    @asynccontextmanager
    async def standby(self) -> AsyncIterator[Server]:
        """Add a replica that can take over: it keeps an append-only file as the store does."""
        args = ["--replicaof", "127.0.0.1", str(self.server.port), "--repl-diskless-sync-delay", "0"]
        args += ["--appendfsync", "always" if self._durable else "everysec"]
        with self._start(tcp=True, aof=True, args=args) as server:
            await self.replicates()
            yield server

    async def hand_over(self, old: Server, new: Server, timeout_s: float = MAX_WAIT_S) -> None:
        """Make `new` the primary and `old` its replica, in sync. New connections go to `new`; old ones stay."""
        before: Any = Redis(port=old.port)
        after: Any = Redis(port=new.port)
        async with before, after:

            async def is_led_by_new() -> bool:
                # Rejected while the other is not in sync yet; retry.
                with contextlib.suppress(ResponseError):
                    await before.execute_command("FAILOVER", "TO", "127.0.0.1", new.port, "TIMEOUT", 2000)
                roles = [(await server.execute_command("ROLE"))[0] for server in (before, after)]
                return roles == [b"slave", b"master"]

            await until(is_led_by_new, timeout_s=timeout_s, every_s=0.05)
        for wire in (self.worker_wire, *(gateway.back for gateway in self.gateways)):
            wire.target = ("127.0.0.1", new.port)

    async def replicates(self, timeout_s: float = MAX_WAIT_S) -> None:
        """Return once the replica is in sync."""

        async def is_online() -> bool:
            try:
                told = await self.store.redis.info("replication")
            except RedisError:  # another fault has stopped the store
                return False
            return any(isinstance(value, dict) and value.get("state") == "online" for value in told.values())

        await until(is_online, timeout_s=timeout_s)

    async def newest(self) -> dict[str, int]:
        """Return each topic's version in the store."""
        return dict(zip(self.topics, await self.store.versions(self.topics), strict=True))

    async def note_kept(self) -> None:
        """Note the store's content now, before a gateway can put anything back."""
        newest, now = await self.newest(), time.monotonic()
        self.note(Healed(now, now, frozenset(), newest))

    async def known(self, timeout_s: float = MAX_WAIT_S) -> None:
        """Return once every tab, and so some gateway, holds the newest versions: only held versions can be put back."""
        newest = await self.newest()
        await until(
            lambda: all(tab.held[topic] == version for tab in self.tabs for topic, version in newest.items()),
            timeout_s=timeout_s,
        )

    async def settle(self, converge_s: float) -> Healed:
        """Stop publishing, wait until all tabs are current or the bound has passed, then resume.

        The measured time begins after the sources have sent their last changes.
        """
        await self.still()
        begun = time.monotonic()
        deadline = begun + converge_s
        while time.monotonic() < deadline:
            self.check_alive()
            newest = await self.newest()
            if all(tab.held[topic] == version for tab in self.tabs for topic, version in newest.items()):
                break
            await asyncio.sleep(0.01)
        newest = await self.newest()
        healed = Healed(begun, time.monotonic(), frozenset(tab.name for tab in self.tabs), newest)
        self.note(healed)
        await self._note_claims()
        for account in self.accounts:
            await account.settle(self)
        self.publishing.set()
        return healed

    async def _note_claims(self) -> None:
        """Ask one gateway for the acknowledged versions of the tenants' topics, over the tabs of all gateways."""
        gateway = self.chance.choice(self.gateways)
        headers = {"Authorization": f"Bearer {PUBLISH_KEY}"}
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", trust_env=False) as client:
            for topic in self.topics:
                kind, _, name = topic.partition(":")
                if kind != "tenant":
                    continue
                with contextlib.suppress(httpx2.HTTPError, *NO_ANSWER):
                    answer = await client.get(f"/v1/tenants/{name}/status", headers=headers)
                    if answer.status_code == 200:
                        claimed = answer.json()["tabs"].get("acked_max", 0)
                        self.note(Claimed(time.monotonic(), topic, claimed))

    async def mend(self) -> None:
        """Ensure that all processes run and all wires work: one fault may have interrupted another's repair."""
        for wire in (self.worker_wire, *(wire for gateway in self.gateways for wire in (gateway.front, gateway.back))):
            wire.heal()
        if not self.server.is_running:
            self.server.start()
        for gateway in self.gateways:
            await gateway.ready()

    def forget(self) -> None:
        """Drop the history, except what later facts are judged by: each tab's current state and its publish."""
        latest: dict[tuple[str, str], Fact] = {}
        for fact in self.history:
            if isinstance(fact, Shown):
                latest[fact.client, fact.topic] = fact
        shown: dict[str, int] = {}
        for fact in latest.values():
            if isinstance(fact, Shown) and fact.n is not None:
                shown[fact.topic] = min(fact.n, shown.get(fact.topic, fact.n))
        kept = [fact for fact in self.history if isinstance(fact, Asked) and fact.n >= shown.get(fact.topic, 0)]
        losses = [fact for fact in self.history if isinstance(fact, Lost)][-1:]
        self.history = [*kept, *losses, *latest.values()]

    @contextlib.contextmanager
    def deaf(self, *gateways: Gateway) -> Iterator[None]:
        """Record that these gateways cannot hear their bus within the block."""
        at = time.monotonic()
        yield
        for gateway in gateways:
            self.note(Deaf(at, time.monotonic(), gateway.name))

    @contextlib.contextmanager
    def losing(self) -> Iterator[None]:
        """Record that the store loses data within the block. Event ids are lost too: stop repeating old events."""
        yield
        self.forget_earlier()
        self.note(Lost(time.monotonic()))

    def forget_earlier(self) -> None:
        """Send no earlier event again."""
        for source in self.sources:
            source.earlier = None


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read()


def _kill_all(processes: list[Process]) -> None:
    for process in processes:
        process.kill()


@asynccontextmanager
async def run_rig(
    folder: Path,
    *,
    seed: int,
    gateways: int = 2,
    tabs: int = 6,
    topics: int = 3,
    durable: bool = False,
    engine: str = "valkey",
) -> AsyncIterator[Rig]:
    """Run a system in `folder`, with half as many tenants (changed by a provider's webhooks) as published topics.

    engine: one of ENGINES. durable: with PLANWIRE_DURABLE=1 and a store configured for it.
    """
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG + usage.CATALOG)
    names = [f"user:{index}" for index in range(topics)] + [f"tenant:t{index}" for index in range((topics + 1) // 2)]
    async with AsyncExitStack() as stack:
        found = clock.library(engine)
        set_by = None if found is None else Clock(found, folder)
        server = stack.enter_context(
            ENGINES[engine](
                tcp=True,
                aof=True,
                # A new replica does not wait for others.
                args=["--repl-diskless-sync-delay", "0", "--appendfsync", "always" if durable else "everysec"],
                environ=None if set_by is None else set_by.environ,
            )
        )
        rig = Rig(seed, engine, server, names, set_by, durable)
        settings = environment(
            "",
            INTAKE="1",
            HEARTBEAT_S=str(HEARTBEAT_S),
            PROBE_S=str(PROBE_S),
            SWEEP_S=str(SWEEP_S),
            READY_TIMEOUT_S="0.3",
            FRAMES_PER_S="1000",  # each tab acks each version; a faster machine sends more
            CONNECTIONS_MAX=str(CONNECTIONS_MAX),
            RECONNECT_MIN_MS="20",
            RECONNECT_MAX_MS="200",
            ACK_AFTER_MS="0",
            DRAIN_S=str(DRAIN_S),
            PADDLE_SECRETS=f"live:{SECRET}",
            CATALOG=str(catalog),
            DURABLE=str(int(durable)),
        )
        processes: list[Process] = []
        stack.callback(_kill_all, processes)
        for index in range(gateways):
            port = free_port()
            back = await stack.enter_async_context(run_proxy("127.0.0.1", server.port))
            front = await stack.enter_async_context(run_proxy("127.0.0.1", port))
            environ = settings | {"PORT": str(port), "PLANWIRE_REDIS_URL": f"redis://127.0.0.1:{back.port}"}
            process = Process("gateway.server", clean_environ(folder, **environ))
            processes.append(process)
            rig.gateways.append(Gateway(f"gateway{index}", process, port, front, back))
        rig.worker_wire = await stack.enter_async_context(run_proxy("127.0.0.1", server.port))
        worker_url = {"PLANWIRE_REDIS_URL": f"redis://127.0.0.1:{rig.worker_wire.port}"}
        rig.worker = Process("sync.worker", clean_environ(folder, **(settings | worker_url)))
        processes.append(rig.worker)
        connected = connect_store(server.url)
        rig.store = connected.store
        stack.push_async_callback(connected.store.aclose)
        for process in processes:
            process.start()
        for gateway in rig.gateways:
            await gateway.ready()
        await rig.begin(tabs)
        stack.push_async_callback(rig.end)
        await rig.goes_on()  # a topic without a state cannot lose one
        yield rig
