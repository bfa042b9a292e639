"""Nothing answered 200 is lost: web, worker and store are killed under load, and every event still counts exactly once.

Real processes on the embedded store with PLANWIRE_DURABLE=1, signed webhooks of several tenants with duplicates and out
of order, sent as a provider does: again until they are answered 200. A seed decides what is killed when.
`SOAK_S=600 SOAK_SEED=7 pytest tests/process/test_nothing_lost.py` goes on for longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import orjson
import pytest

from planwire_client.http import NO_ANSWER
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import NOTHING, Event
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.billing.providers.paddle.webhooks import PaddleWebhooks
from sync.billing.storage.environment import Environment
from sync.billing.storage.inbox import Record
from sync.core import instants
from sync.store.embedded.data_dir import DataDir
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support import processes
from tests.support.bodies import SECRET, envelope, signature, subscription
from tests.support.servers import free_port
from tests.support.wait import until

pytestmark = pytest.mark.slow

SOAK_S = float(os.environ.get("SOAK_S", "7"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
EVENTS_PER_S = 80
PER_TENANT = 80
"""Events of one tenant: fewer than its history keeps, so that every version can be counted in it."""

BEGAN_NS = instants.parse("2026-11-01T00:00:00Z")
"""The time of each tenant's first event."""

DUPLICATES = 0.2
"""The share of events that come once more after they were answered."""

LEASE_S = 30.0
MAX_WAIT_S = 5.0
"""How long a provider waits for an answer."""

REST_S = 30.0

CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true

[plans.pro]
name = "Pro"
rank = 20
per_unit.limits = { seats = 1 }
prices.paddle.live = ["pri_pro"]

[addons.unit]
name = "Unit"
per_unit.limits = { units = 1 }
prices.paddle.live = ["pri_unit"]
"""

COMMANDS = {"store": "sync.store.embedded", "web": "gateway.server", "worker": "sync.worker"}
VICTIMS = (*COMMANDS, "server", "server")
"""`store` owns the server's process and starts it again; `server` is the Valkey itself."""


class Crew:
    """The processes of a deployment, each started again as soon as it is killed, as a platform does."""

    def __init__(self, data_dir: Path, environ: dict[str, str], stack: contextlib.ExitStack) -> None:
        self._data_dir = data_dir
        self._environ = environ
        self._stack = stack
        self._running: dict[str, processes.Running] = {}
        for name in COMMANDS:
            self._start(name)

    def _start(self, name: str) -> None:
        command = processes.python("-m", COMMANDS[name])
        self._running[name] = self._stack.enter_context(contextlib.closing(processes.Running(command, self._environ)))

    def kill(self, name: str) -> None:
        """SIGKILL."""
        if name == "server":
            for pid in processes.servers_of(self._data_dir):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return
        self._running[name].close()

    def tend(self) -> None:
        """Start again what has ended."""
        for name, program in list(self._running.items()):
            if program.status() is not None:
                program.close()
                self._start(name)

    def output(self) -> str:
        """The last lines of each process."""
        return "\n".join(f"--- {name}\n{program.text[-1500:]}" for name, program in self._running.items())


@dataclass
class Sent:
    """One event and what became of its deliveries."""

    event: Event
    body: bytes
    is_answered: bool = False


@dataclass
class Provider:
    """Sends events until each is answered 200, at most so often; a share of them once more afterwards."""

    url: str
    random: Random
    sent: dict[str, Sent] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: int = 0

    def histories(self, tenants: int) -> list[Sent]:
        """The events of all tenants, roughly in their order."""
        made: list[tuple[float, Sent]] = []
        for tenant in range(tenants):
            for index in range(PER_TENANT):
                event = PaddleWebhooks().parse(body := self._body(f"t{tenant}", index), "live")
                assert isinstance(event, Event)
                made.append((index + self.random.uniform(0, 12), Sent(event, body)))
        made.sort(key=lambda pair: pair[0])
        self.sent = {sent.event.event_id: sent for _, sent in made}
        return list(self.sent.values())

    def _body(self, tenant: str, index: int) -> bytes:
        at, earlier = (instants.text(BEGAN_NS + number * 1_000_000_000) for number in (index, index - 1))
        fields: dict[str, Any] = {"id": f"sub_{tenant}", "customer_id": f"ctm_{tenant}", "tenant": tenant}
        fields["created_at"] = instants.text(BEGAN_NS) if index % 8 < 3 else earlier if index % 8 == 4 else at
        match index % 8:
            case 0 | 1 | 2:  # the tenant's plan: the newest counts
                fields["items"] = [("pri_pro", 1 + index)]
            case 3:  # nobody's, until the next one tells whose it is
                fields |= {"id": f"sub_{tenant}_{index}", "customer_id": f"ctm_{tenant}_{index}", "tenant": None}
                fields["items"] = [("pri_unit", 1)]
            case 4:
                before = index - 1
                fields |= {"id": f"sub_{tenant}_{before}", "customer_id": f"ctm_{tenant}_{before}"}
                fields["items"] = [("pri_unit", 2)]
            case 5 if index % 40 == 5:  # never of use
                fields |= {"id": f"sub_{tenant}_x", "items": [("pri_nobody_knows", 1)]}
            case _:  # each adds one unit
                fields |= {"id": f"sub_{tenant}_{index}", "items": [("pri_unit", 1)]}
        made = envelope(subscription(**{"updated_at": at, **fields}), occurred_at=at)
        return json.dumps({**made, "event_id": f"evt_{tenant}_{index:04d}"}).encode()

    async def deliver(self, http: httpx2.AsyncClient, sent: Sent, deadline: float) -> None:
        again = self.random.random() < DUPLICATES
        pause_s = 0.1
        while time.monotonic() < deadline:
            headers = {"Paddle-Signature": signature(sent.body, int(time.time()), SECRET)}
            try:
                answer = await http.post("/webhooks/paddle", content=sent.body, headers=headers)
            except NO_ANSWER:
                answer = None
            if answer is not None and answer.status_code == 200:
                sent.is_answered = True
                self.outcomes[answer.json()["outcome"]] += 1
                if not again:
                    return
                again = False
            else:
                assert answer is None or answer.status_code == 503, answer.text
                self.failures += 1
                pause_s = min(2 * pause_s, 1.0)
            await asyncio.sleep(pause_s * self.random.uniform(0.5, 1))


async def slaughter(crew: Crew, random: Random, until_s: float) -> list[str]:
    """Kill one after the other, each of VICTIMS once a round; return what, in order."""
    killed: list[str] = []
    while time.monotonic() < until_s:
        for victim in random.sample(VICTIMS, len(VICTIMS)):
            await asyncio.sleep(random.uniform(0.2, 1.6))
            if time.monotonic() >= until_s:
                break
            killed.append(victim)
            await asyncio.to_thread(crew.kill, victim)
            crew.tend()
    return killed


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "catalog.toml").write_text(CATALOG)
    return tmp_path / "data"


@contextlib.asynccontextmanager
async def crew_of(data_dir: Path, port: int) -> AsyncIterator[Crew]:
    environ = processes.clean_environ(
        data_dir,
        PLANWIRE_DURABLE="1",
        PLANWIRE_PADDLE_SECRETS=f"live:{SECRET}",
        PLANWIRE_CATALOG=str(data_dir.parent / "catalog.toml"),
        PLANWIRE_JWT_SECRET="an-hs256-secret-for-tests-only-0123456789",
        PLANWIRE_DRAIN_S="0",
        PORT=str(port),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(end_all, data_dir)
        yield Crew(data_dir, environ, stack)


def end_all(data_dir: Path) -> None:
    """Kill whatever still belongs to this deployment."""
    for pid in processes.alive_with(data_dir):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(SOAK_S * 2 + REST_S * 2)
async def test_what_was_answered_counts_exactly_once_whatever_is_killed(data_dir: Path) -> None:
    port = free_port()
    provider = Provider(f"http://127.0.0.1:{port}", Random(SEED))
    events = provider.histories(max(1, int(SOAK_S * EVENTS_PER_S / PER_TENANT)))
    async with crew_of(data_dir, port) as crew:
        store = connect(DataDir.of(data_dir).url).store
        try:
            await until(lambda: ready(provider.url), timeout_s=30)
            began = time.monotonic()
            deadline = began + SOAK_S + REST_S / 2
            async with (
                httpx2.AsyncClient(base_url=provider.url, timeout=MAX_WAIT_S) as http,
                asyncio.TaskGroup() as group,
            ):
                killing = group.create_task(slaughter(crew, Random(f"kills {SEED}"), began + SOAK_S))
                for index, sent in enumerate(events):
                    await asyncio.sleep(max(0.0, began + index * SOAK_S / len(events) - time.monotonic()))
                    group.create_task(provider.deliver(http, sent, deadline))
            print(f"answered after {time.monotonic() - began:.1f} s")
            killed = killing.result()
            print(f"killed {killed}; {provider.failures} deliveries failed, {dict(provider.outcomes)} were answered")
            environment = Environment(store, "live", LEASE_S)
            await until(lambda: at_rest(store, environment), timeout_s=REST_S, every_s=0.1)
            print(f"at rest after {time.monotonic() - began:.1f} s")
            await check(store, environment, provider)
        except BaseException:
            print(crew.output())
            raise
        finally:
            await store.aclose()
    assert sum(sent.is_answered for sent in events) > len(events) / 2, "hardly anything was answered"


async def ready(url: str) -> bool:
    async with httpx2.AsyncClient(base_url=url) as http:
        with contextlib.suppress(*NO_ANSWER):
            return (await http.get("/readyz")).status_code == 200
    return False


async def at_rest(store: Store, environment: Environment) -> bool:
    """Whether nothing is pending. Leases of killed processes run out early: nobody has to wait for half a minute."""
    pending, _ = await environment.inbox.counts()
    ids: list[Any] = await store.redis.zrange("pw:{inbox/live}:pending", 0, -1)
    for event_id in ids:
        await store.redis.zadd("pw:{inbox/live}:pending", {event_id: 0}, xx=True)
    return pending == 0


async def check(store: Store, environment: Environment, provider: Provider) -> None:
    """Hold what is there against what was answered."""
    records: dict[str, Record] = {}
    for event_id, sent in provider.sent.items():
        record = await environment.inbox.read(event_id)
        assert record is not None or not sent.is_answered, f"{event_id} was answered 200 and is lost"
        if record is not None:
            records[event_id] = record
    parked = await environment.inbox.parked(None, 500)
    assert len({record.event_id for record in parked}) == len(parked)
    assert {record.event_id for record in parked} == {id for id, found in records.items() if found.status == "parked"}
    for record in parked:
        sent = provider.sent[record.event_id]
        unknown = record.reason == "unknown price pri_nobody_knows in live"
        linked = f"{sent.event.event_id[:-4]}{int(sent.event.event_id[-4:]) + 1:04d}"
        assert unknown or (sent.event.tenant_id is None and linked not in records), record.reason
    done = {id for id, record in records.items() if record.status == "done"}
    assert {record.status for record in records.values()} <= {"done", "parked"}
    topics = [topic async for topic in environment.topics()]
    for tenant in sorted({id.split("_")[1] for id in done}):
        topic = f"tenant:{tenant}"
        assert topic in topics
        await check_tenant(store, topic, [provider.sent[id].event for id in done if id.split("_")[1] == tenant])


async def check_tenant(store: Store, topic: str, counted: list[Event]) -> None:
    """Hold a tenant's state, facts and history against the events that are said to be done."""
    snapshot = await store.read(topic)
    facts = NOTHING
    for event in sorted(counted, key=lambda event: event.order):
        result = reduce(facts, event)
        if isinstance(result, Reduced):
            facts = result.facts
    assert codec.decode(snapshot.private) == facts, "the facts are not those that the events make"
    expected = Counter[str]()
    for entry in facts.subscriptions.values():
        for item in entry.subscription.items:
            expected[item.price_id] += item.quantity
    limits = orjson.loads(snapshot.state)["limits"]
    assert (limits.get("seats", 0), limits.get("units", 0)) == (expected["pri_pro"], expected["pri_unit"])

    log = await store.log(topic, 1000)
    effects = Counter(orjson.loads(entry.cause)["event_id"] for entry in log)
    assert set(effects.values()) <= {1}, f"more than one version of one event: {effects.most_common(3)}"
    only = {id for id, count in Counter(event.subscription_id for event in counted).items() if count == 1}
    alone = {event.event_id for event in counted if event.subscription_id in only}
    assert alone <= set(effects), "an event that is done, and alone of its subscription, has made no version"
    versions = [entry.version for entry in log]
    assert versions == sorted(set(versions), reverse=True)

    entries: Any = await store.redis.xrange(keys.events(topic))
    told = Counter((fields[b"event_id"], fields[b"outcome"]) for _, fields in entries)
    assert set(told.values()) <= {1}, f"told more than once: {told.most_common(3)}"
    applied = {id.decode() for id, outcome in told if outcome == b"applied"}
    assert set(effects) <= applied, f"versions whose events do not say so: {sorted(set(effects) - applied)[:5]}"
