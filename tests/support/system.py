"""A whole system for the scenarios: a real gateway with its webhook door open, a real store, tabs that keep the rules.

`run_system` starts one; `System.tab` connects a tab, `System.deliver` sends a signed webhook, `working` adds a worker
process, `selling` a local provider. Nothing waits for time to pass: `Tab.fence` proves that nothing more was sent.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from planwire_client.core import merge_patch
from sync.billing.catalog import catalog as catalogs
from sync.billing.providers.registry import PROVIDERS
from sync.core import instants
from sync.simulator.app import create_app
from sync.simulator.paddle import entities
from sync.simulator.provider import Provider
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, LogEntry
from sync.store.redis.connect import connect as connect_store
from sync.store.store import Store
from tests.support import processes
from tests.support.asgi import serving
from tests.support.bodies import SANDBOX_SECRET, SECRET, envelope, signature, subscription
from tests.support.gateway import PUBLISH_KEY, Client, Running, environment, run_gateway, token
from tests.support.wait import until

TOPIC = "tenant:acme"
FENCE = "user:fence"
API_KEY = "key_live"

CATALOG = """
[policy]
grace = "7d"
overdue = "hold"

[plans.free]
name = "Free"
rank = 0
default = true
features = ["basic"]
limits = { seats = 1, projects = 3 }

[plans.basic]
name = "Basic"
rank = 10
features = ["basic", "export"]
limits = { seats = 0, projects = 25 }
per_unit.limits = { seats = 1 }
prices.paddle.live = ["pri_basic"]
prices.paddle.sandbox = ["pri_basic_sandbox"]

[plans.scale]
name = "Scale"
rank = 30
features = ["basic", "export", "sso", "audit"]
limits = { projects = "unlimited", seats = 100 }
prices.paddle.live = ["pri_scale"]

[plans.pro]
name = "Pro"
rank = 20
features = ["basic", "export", "sso"]
limits = { seats = 0, projects = "unlimited" }
per_unit.limits = { seats = 1 }
prices.paddle.live = ["pri_pro"]
prices.paddle.sandbox = ["pri_pro_sandbox"]

[addons.audit]
name = "Audit log"
features = ["audit"]
prices.paddle.live = ["pri_audit"]
"""

QUICK = {"HEARTBEAT_S": "1", "SWEEP_S": "0.5", "READY_TIMEOUT_S": "0.3"}
"""Gateway settings that make a test short."""

PROBE_S = 0.4
"""For a gateway that is to notice soon that it is cut off; any other would take a pause of the machine for that."""

WORKER = """
import os, sys
from functools import partial
from sync import bootstrap, worker
bootstrap.BillingServices = partial(bootstrap.BillingServices, **{options})
sys.exit(worker.main(os.environ))
"""
"""What `python -m sync.worker` does, with options for its services."""

State = dict[str, Any]


def ago(seconds: float) -> str:
    """The instant so many seconds ago, in microseconds and RFC 3339."""
    return instants.text((time.time_ns() - int(seconds * 1e9)) // 1000 * 1000)


def event(at: str, *, tenant: str | None = "acme", **fields: Any) -> bytes:
    """A subscription event that occurred at `at`. `updated`, `kind`, `event_id` and the subscription's own fields."""
    kind = fields.pop("kind", "subscription.updated")
    marks = {"event_id": fields.pop("event_id")} if "event_id" in fields else {}
    whose = tenant or "nobody"
    data = subscription(
        **{
            "id": f"sub_{whose}",
            "customer_id": f"ctm_{whose}",
            "tenant": tenant,
            "updated_at": fields.pop("updated", at),
            **fields,
        }
    )
    return json.dumps(envelope(data, event_type=kind, occurred_at=at, **marks)).encode()


class Tab:
    """A browser's tab, read on demand: it keeps the protocol's rules, and fails where the gateway breaks them.

    Attributes:
        version, state, cause: what it shows of its topic.
        shown: every (version, state) it has shown, in order.
        frames: every frame that it was sent, those of the fence excepted.
        fresh: what the gateway said last of its bus.
        resets: how often it was told to accept an older version.
    """

    def __init__(self, client: Client, store: Store, topic: str, held: int, state: Any) -> None:
        self.client = client
        self.topic = topic
        self.version, self.state = held, state
        self.cause: dict[str, Any] = {}
        self.shown: list[tuple[int, Any]] = []
        self.frames: list[dict[str, Any]] = []
        self.fresh: bool | None = None
        self.resets = 0
        self._store = store
        self._fence = 0
        self._is_out = False

    @property
    def plan(self) -> str | None:
        """The shown plan's key, or None."""
        return None if self.state is None else str(self.state["plan"]["key"])

    async def until(self, predicate: Callable[[Tab], object], timeout_s: float = 10.0) -> Tab:
        """Read frames until the predicate holds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not predicate(self):
                    await self._read()
        except TimeoutError:
            last = [frame for frame in self.frames if frame["type"] != "heartbeat"][-8:]
            shows = f"{self.topic} shows {self.version} {self.state}"
            raise AssertionError(f"not within {timeout_s:g} s; {shows}, after {last}") from None
        return self

    async def reaches(self, version: int, timeout_s: float = 10.0) -> Tab:
        """Read frames until `version` is shown, or known to be the newest."""
        return await self.until(lambda tab: tab.version == version, timeout_s)

    async def next(self, *types: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """Return the next frame of one of these types."""
        count = len(self.frames)

        def found() -> list[dict[str, Any]]:
            return [frame for frame in self.frames[count:] if frame["type"] in types]

        await self.until(lambda tab: found(), timeout_s)
        return found()[0]

    async def fence(self) -> Tab:
        """Read until everything is here that was announced before this call: the bus keeps its order.

        A gateway that has just lost the bus reads its topics again, in no order: what the store has counts too.
        """
        (newest,) = await self._store.versions([self.topic])
        version = (await self._store.commit(Change(FENCE, orjson.dumps({"n": time.time_ns()})))).version
        return await self.until(lambda tab: tab._fence >= version and (tab._is_out or tab.version >= newest))

    async def _read(self) -> None:
        frame = await self.client.receive(60, heartbeats=True)
        if frame.get("topic") == FENCE:
            self._fence = frame["version"]
            return
        self.frames.append(frame)
        self.fresh = frame.get("fresh", self.fresh)
        self._is_out |= frame["type"] in ("gone", "error")
        match frame["type"]:
            case "snapshot":
                self._take(frame, frame["state"])
            case "patch":
                assert frame["base"] == self.version, "a patch whose base this tab does not hold"
                self._take(frame, merge_patch.apply(self.state, frame["patch"]))
            case "current":
                assert frame["version"] == self.version, "told that another version is the newest"

    def _take(self, frame: dict[str, Any], state: Any) -> None:
        assert frame["topic"] == self.topic, f"a frame of {frame['topic']}"
        if frame.get("reset"):
            self.resets += 1
        else:
            assert frame["version"] > self.version or frame["version"] == 0 == self.version, "sent back to an older one"
        self.version, self.state, self.cause = frame["version"], state, frame.get("cause", {})
        self.shown.append((self.version, state))


@dataclass
class System:
    """A gateway, its store and its catalog's file."""

    gateway: Running
    store: Store
    catalog: Path
    environ: Mapping[str, str]
    http: httpx2.AsyncClient
    key: Mapping[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {PUBLISH_KEY}"})

    async def deliver(self, body: bytes, *secrets: str, skew_s: float = 0) -> httpx2.Response:
        """The answer to a webhook signed `skew_s` seconds ago."""
        header = signature(body, int(time.time() - skew_s), *(secrets or (SECRET,)))
        return await self.http.post("/webhooks/paddle", content=body, headers={"Paddle-Signature": header})

    async def outcome(self, body: bytes, *secrets: str) -> str:
        """The outcome of a webhook that is answered 200."""
        response = await self.deliver(body, *secrets)
        assert response.status_code == 200, response.text
        return str(response.json()["outcome"])

    async def apply(self, body: bytes) -> int:
        """The version that a webhook makes."""
        response = await self.deliver(body)
        assert response.json().get("outcome") == "applied", response.text
        return int(response.json()["version"])

    async def read(self, topic: str = TOPIC, jwt: str | None = None, **query: str) -> dict[str, Any]:
        """What `GET /v1/state` answers."""
        headers = {"Authorization": f"Bearer {jwt or token()}"}
        response = await self.http.get(f"/v1/state/{topic}", params=query, headers=headers)
        answer: dict[str, Any] = response.json()
        return answer

    async def state(self, topic: str = TOPIC) -> State:
        """A topic's state over HTTP."""
        found: State = (await self.read(topic))["state"]
        return found

    async def history(self, topic: str = TOPIC) -> list[LogEntry]:
        """The topic's versions, newest first."""
        return await self.store.log(topic)

    async def processed(self, topic: str = TOPIC) -> list[dict[str, str]]:
        """What became of each event that was about the topic."""
        entries: Any = await self.store.redis.xrange(keys.events(topic))
        return [{key.decode(): value.decode() for key, value in fields.items()} for _, fields in entries]

    async def parked(self) -> list[dict[str, Any]]:
        """The parked events, as an operator sees them."""
        response = await self.http.get("/v1/parked", headers=self.key)
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["parked"]
        return found

    async def tell(self, bodies: Sequence[bytes]) -> None:
        """Deliver all of them in order; each is answered 200."""
        for body in bodies:
            await self.outcome(body)

    async def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """What a backend with a publish key is answered; it must be 200."""
        response = await self.http.request(method, path, json=body, headers=self.key)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def wake(self, topic: str = TOPIC) -> None:
        """Have the worker look at the topic now, as it would anyway some time later."""
        await self.store.redis.zadd("pw:{timers/live}:due", {topic: 0})

    @asynccontextmanager
    async def tab(
        self, topic: str = TOPIC, held: int = 0, state: Any = None, jwt: str | None = None, port: int = 0
    ) -> AsyncIterator[Tab]:
        """A connected tab that holds version `held`; by way of `port`, where one is given. Nothing is read yet."""
        url = f"ws://127.0.0.1:{port or self.gateway.port}/v1/connect"
        protocols = [Subprotocol("planwire.v1")]
        # Without a bound on what waits to be read: a tab that a test does not read still answers pings.
        async with connect(
            url, subprotocols=protocols, compression=None, ping_interval=None, max_queue=None
        ) as connection:
            client = Client(connection)
            topics = {topic: held, FENCE: 0}
            await client.send("hello", token=jwt or token(), topics=topics, client="scenarios")
            yield Tab(client, self.store, topic, held, state)

    @asynccontextmanager
    async def working(self, name: str = "worker", **options: float) -> AsyncIterator[processes.Running]:
        """A worker process on the same store and catalog; `options` of its services shorten its pauses and leases."""
        environ = processes.clean_environ(self.catalog.parent / name, **of_sync(self.environ))
        with processes.running(processes.python("-c", WORKER.format(options=options)), environ) as worker:
            await until(lambda: "worker_started" in worker.text or worker.status() is not None, 40)
            assert worker.status() is None, worker.text
            yield worker


def of_sync(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that a worker shares with the gateway."""
    of_provider = ("SECRETS", "API_KEYS", "API_URL", "API_RATE_PER_S")
    names = (
        *("REDIS_URL", "CATALOG", "TENANT_FIELDS", "TENANT_SECRET"),
        *(f"{provider.upper()}_{name}" for provider in PROVIDERS for name in of_provider),
        *("SHADOW_URL", "SHADOW_TOKEN", "SHADOW_RATE_PER_S", "WEBHOOK_ENDPOINTS"),
    )
    return {name: value for key in names if (value := environ.get(name := f"PLANWIRE_{key}"))}


@asynccontextmanager
async def run_system(
    store_url: str, directory: Path, *, catalog: str = CATALOG, **settings: str
) -> AsyncIterator[System]:
    """A system on the store at `store_url`, which may have others; `settings` are names without the prefix."""
    path = directory / "catalog.toml"
    if not path.exists() or path.read_text() != catalog:
        path.write_text(catalog)
    environ = environment(
        store_url,
        **{
            **QUICK,
            "INTAKE": "1",
            "PADDLE_SECRETS": f"live:{SECRET},sandbox:{SANDBOX_SECRET}",
            "CATALOG": str(path),
            **settings,
        },
    )
    store = connect_store(store_url).store
    try:
        async with (
            run_gateway(environ) as gateway,
            httpx2.AsyncClient(base_url=gateway.url, timeout=15) as http,
        ):
            yield System(gateway, store, path, environ, http)
    finally:
        await store.aclose()


class Gate:
    """Before the provider's API: counts what is fetched, and while it is closed keeps the finished answers back.

    `asked`: method and path, with its query, of every call of the API.
    """

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.asked: list[str] = []
        self.fetched = 0
        self.kept_back = 0
        self._open = asyncio.Event()
        self._open.set()

    def close(self) -> None:
        """Keep every answer about a subscription back from now on."""
        self._open.clear()

    def open(self) -> None:
        """Let them go."""
        self._open.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        if scope["type"] == "http" and not scope["path"].startswith("/simulate"):
            query = scope["query_string"].decode()
            self.asked.append(f"{scope['method']} {scope['path']}{'?' * bool(query)}{query}")
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith("/subscriptions/"):
            await self.app(scope, receive, send)
            return
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self.app(scope, receive, keep)
        self.fetched += 1
        self.kept_back += 1
        await self._open.wait()
        self.kept_back -= 1
        for message in answer:
            await send(message)


@dataclass
class Seller:
    """A local provider that delivers nothing by itself: a test fetches its events and sends them as it likes.

    `clock` moves its clock so many seconds ahead of this machine's. `settings` are what a system needs to ask it.
    """

    provider: Provider
    url: str
    http: httpx2.AsyncClient
    gate: Gate
    clock: Callable[[float], None]

    @property
    def settings(self) -> dict[str, str]:
        return {"PADDLE_API_KEYS": f"live:{API_KEY}", "PADDLE_API_URL": self.url, "PADDLE_API_RATE_PER_S": "1000"}

    async def act(self, action: str, tenant: str = "acme", **parameters: Any) -> dict[str, Any]:
        """Make something happen to a tenant."""
        response = await self.http.post(f"/simulate/{action}", json={"tenant": tenant, "deliver": False, **parameters})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def events(self, ids: Sequence[str] | None = None) -> list[bytes]:
        """The webhooks' bodies of all its events, or of these, in the order they occurred."""
        chosen = [event for event in self.provider.world.events if ids is None or event.id in ids]
        return [orjson.dumps(entities.envelope(event, f"ntf_{number}")) for number, event in enumerate(chosen)]

    async def sells(self, tenant: str = "acme") -> list[dict[str, Any]]:
        """The tenant's subscriptions, as the provider has them."""
        answer = await self.http.get("/simulate/subscriptions", params={"tenant": tenant})
        found: list[dict[str, Any]] = answer.json()["subscriptions"]
        return found

    async def price(self, tenant: str = "acme") -> str:
        """The first price of the tenant's first subscription."""
        found: str = (await self.sells(tenant))[0]["items"][0]["price"]["id"]
        return found

    async def api(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        """What the provider's API answers."""
        headers = {"Authorization": f"Bearer {API_KEY}"}
        return await self.http.request(method, path, json=body, headers=headers)


@asynccontextmanager
async def selling(directory: Path, catalog: str = CATALOG) -> AsyncIterator[Seller]:
    """A local provider that sells what `catalog` has."""
    known = catalogs.parse(catalog, "scenarios.toml")
    ahead_s = 0.0

    def move(seconds: float) -> None:
        nonlocal ahead_s
        ahead_s = seconds

    def now_us() -> int:
        return time.time_ns() // 1000 + int(ahead_s * 1_000_000)

    nobody = "http://127.0.0.1:9/none"
    provider = Provider(directory, lambda: known, nobody, {"live": (SECRET,)}, now_us, random.Random(0))
    gate = Gate()
    gate.app = create_app(provider, {"live": (API_KEY,)})
    async with serving(gate) as url, httpx2.AsyncClient(base_url=url) as http:
        try:
            yield Seller(provider, url, http, gate, move)
        finally:
            gate.open()
