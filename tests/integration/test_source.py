"""Topics filled from the application's backend: a real one over HTTP, real gateways, workers and store."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2
import orjson
import pytest
from structlog.testing import capture_logs

from planwire_client.core.commit import BILLING
from sync import bootstrap
from sync.billing.providers.rate_limit import LocalRateLimiter
from sync.process.supervisor import Supervisor
from sync.settings import SyncSettings
from sync.source import backend as http
from sync.source.backend import ANSWER_MAX_BYTES, SourceError
from sync.source.client import Answer, Source
from sync.source.hydration import Hydration, hydration
from sync.store.isolation import Isolation, is_away
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, Snapshot, Verdict
from sync.store.redis.connect import connect
from sync.store.store import Store
from sync.worker import Worker
from tests.support.gateway import PUBLISH_KEY, Running, environment, open_client, run_gateway, token
from tests.support.wait import until

SECRET = "a-source-secret-of-at-least-32-bytes"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "integrate.md"
KEY = {"Authorization": f"Bearer {PUBLISH_KEY}"}


def verifier() -> Callable[[Any, str, str], bool]:
    """The verifier that docs/integrate.md tells backends to have."""
    (text,) = re.findall(r"^```python\n(.*?def is_planwire.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(text, "docs/integrate.md", "exec"), names)
    found: Callable[[Any, str, str], bool] = names["is_planwire"]
    return found


@dataclass
class Backend:
    """An application's backend. `rows`: the answer for each topic; what is not there is answered 404."""

    port: int = 0
    rows: dict[str, object] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    forged: int = 0
    status: int = 200
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    is_holding: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/internal/plan"


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    is_genuine = verifier()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if not is_genuine(self.headers, path, SECRET):
                backend.forged += 1
                self._answer(403, b"")
                return
            topic = path.removeprefix("/internal/plan/")
            backend.asked[topic] += 1
            if backend.is_holding:
                backend.gate.wait(90)
            if backend.status != 200:
                self._answer(backend.status, b"{}")
            elif topic not in backend.rows:
                self._answer(404, b"")
            else:
                self._answer(200, backend.raw or orjson.dumps(backend.rows[topic]))

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            for name, value in backend.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    class Listener(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    server = Listener(("127.0.0.1", 0), Handler)
    backend.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield backend
    backend.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


def source_environ(store_url: str, backend: Backend, **settings: str) -> dict[str, str]:
    return {
        **environment(store_url, **{"INTAKE": "1", **settings}),
        "PLANWIRE_SOURCE_URL": backend.url,
        "PLANWIRE_SOURCE_SECRET": SECRET,
        # Held back for as long as a busy machine takes to open two hundred sockets.
        "PLANWIRE_SOURCE_TIMEOUT_S": "20",
    }


@asynccontextmanager
async def working(environ: Mapping[str, str]) -> AsyncIterator[Worker]:
    """A worker as `python -m sync.worker` has it, inside the test."""
    settings = SyncSettings.from_env({name: value for name, value in environ.items() if name.startswith("PLANWIRE_")})
    store = connect(settings.redis_url.get_secret_value()).store
    services = await bootstrap.build_services(store, settings)
    hydrating = hydration(store, settings)
    assert hydrating is not None
    worker = Worker(services, settings.environments, poll_s=0.05, hydration=hydrating)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await task
        await hydrating.aclose()
        await services.aclose()
        await store.aclose()


@pytest.fixture
async def gateway(store_url: str, backend: Backend) -> AsyncIterator[Running]:
    async with run_gateway(source_environ(store_url, backend)) as running:
        yield running


@asynccontextmanager
async def caller(gateway: Running, bearer: str = "") -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"Authorization": f"Bearer {bearer or token()}"}
    async with httpx2.AsyncClient(base_url=gateway.url, headers=headers, trust_env=False, timeout=30) as client:
        yield client


async def test_two_hundred_readers_on_two_gateways_and_three_workers_ask_once(
    gateway: Running, store_url: str, store: Store, backend: Backend
) -> None:
    backend.rows["user:42"] = {"state": {"plan": "pro"}, "private": {"row": 7}, "version": 3}
    environ = source_environ(store_url, backend)
    backend.is_holding = True
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(run_gateway(environ))
        for _ in range(3):
            await stack.enter_async_context(working(environ))
        clients = []
        for index in range(200):
            # A subject may have 64 sockets.
            jwt = token("user:42", sub=f"s{index % 10}")
            clients.append(
                await stack.enter_async_context(open_client((gateway, other)[index % 2], "user:42", jwt=jwt))
            )
        for client in clients:
            first = await client.until("snapshot")
            assert (first["version"], first["state"]) == (0, None)
        await until(lambda: backend.asked["user:42"] == 1, timeout_s=10)
        backend.gate.set()
        versions = {(await client.until("snapshot"))["version"] for client in clients}
        found = await store.read("user:42")
        assert versions == {found.version}
    assert (found.state, found.private) == (b'{"plan":"pro"}', b'{"row":7}')
    assert orjson.loads(found.cause)["source"] == "source"
    assert (backend.asked["user:42"], backend.forged) == (1, 0)
    assert await store.redis.zcard(keys.hydrate) == 0
    assert (await store.commit(Change("user:42", b"1", order=f"{3:020d}"))).verdict is Verdict.STALE


async def test_a_first_read_over_http_waits_for_the_source_and_not_for_what_it_does_not_have(
    gateway: Running, store_url: str, store: Store, backend: Backend
) -> None:
    backend.rows["sandbox/user:42"] = {"state": {"plan": "pro"}}
    async with working(source_environ(store_url, backend)), caller(gateway) as client:
        found = await client.get("/v1/state/sandbox/user:42?wait_ms=5000")
        assert (found.json()["state"], found.headers["Planwire-Version"]) == (
            {"plan": "pro"},
            found.headers["ETag"][1:-1],
        )
        began = time.monotonic()
        none = await client.get("/v1/state/user:none?wait_ms=20000")
        assert (none.status_code, none.json()["version"]) == (200, 0)
        assert time.monotonic() - began < 15
        # The 404 is remembered: whoever reads next costs the backend nothing, until it is forgotten.
        for _ in range(3):
            assert (await client.get("/v1/state/user:none?wait_ms=5000")).json()["version"] == 0
        async with open_client(gateway, "user:none") as socket:
            await socket.until("snapshot")
            await until(lambda: _is_empty(store))
            assert backend.asked["user:none"] == 1
        await store.redis.delete(keys.absent("user:none"))
        backend.rows["user:none"] = {"state": {"plan": "free"}}
        assert (await client.get("/v1/state/user:none?wait_ms=5000")).json()["state"] == {"plan": "free"}
        assert backend.asked["user:none"] == 2


async def _is_empty(store: Store) -> bool:
    return not await store.redis.zcard(keys.hydrate)


async def test_a_source_that_is_down_is_asked_again_while_somebody_reads(
    gateway: Running, store_url: str, store: Store, backend: Backend
) -> None:
    backend.status = 503
    async with working(source_environ(store_url, backend)), caller(gateway) as client:
        async with open_client(gateway, "user:42") as socket:
            assert (await socket.until("snapshot"))["version"] == 0
            await until(lambda: backend.asked["user:42"] >= 2)
            backend.status = 200
            backend.rows["user:42"] = {"state": {"n": 1}}
            assert (await socket.until("snapshot", timeout_s=10))["state"] == {"n": 1}
        backend.status = 500
        # Nobody stays to hear it: asked once, and given up.
        assert (await client.get("/v1/state/user:43")).json()["version"] == 0
        await until(lambda: backend.asked["user:43"] == 1)
        await until(lambda: _is_empty(store))
        assert not await store.is_absent("user:43")


async def test_a_publish_that_comes_in_between_wins(
    gateway: Running, store_url: str, store: Store, backend: Backend
) -> None:
    backend.rows["user:42"] = {"state": {"n": "old"}}
    backend.is_holding = True
    async with working(source_environ(store_url, backend)), open_client(gateway, "user:42") as socket:
        assert (await socket.until("snapshot"))["version"] == 0
        await until(lambda: backend.asked["user:42"] == 1)
        published = await store.commit(Change("user:42", b'{"n":"new"}'))
        backend.gate.set()
        assert (await socket.until("snapshot"))["state"] == {"n": "new"}
        await until(lambda: _is_empty(store))
    assert await store.versions(["user:42"]) == [published.version]


async def test_reconcile_repairs_what_has_drifted(
    gateway: Running, store_url: str, store: Store, backend: Backend
) -> None:
    path = "/v1/topics/user:42/reconcile"
    first = await store.commit(Change("user:42", b'{"n":"wrong"}', order=f"{5:020d}"))
    async with caller(gateway, PUBLISH_KEY) as client:
        assert (await client.post(path)).json() == {"outcome": "absent", "version": first.version}
        backend.rows["user:42"] = {"state": {"n": "older"}, "order": 4}
        assert (await client.post(path)).json() == {"outcome": "stale", "version": first.version}
        backend.rows["user:42"] = {"state": {"n": "right"}, "order": 5}
        repaired = await client.post(path)
        assert repaired.json()["outcome"] == "applied"
        assert repaired.headers["Planwire-Version"] == str(repaired.json()["version"])
        assert (await store.read("user:42")).state == b'{"n":"right"}'
        assert (await client.post(path)).json() == {"outcome": "unchanged", "version": repaired.json()["version"]}
        assert (await store.commit(Change("user:42", b"1", order=f"{5:020d}"))).verdict is Verdict.STALE
        backend.status = 500
        refused = await client.post(path)
        assert (refused.status_code, refused.json()["code"]) == (503, "source_unavailable")
        for wrong in ("nothing", "probe:a"):
            assert (await client.post(f"/v1/topics/{wrong}/reconcile")).status_code == 422
        assert (await client.post(path, headers={"Authorization": "Bearer wrong"})).status_code == 401
    # What a gateway marks: a store that has lost its newest, and a browser that expects something.
    backend.status = 200
    backend.rows["user:42"] = {"state": {"n": "right"}, "private": {"row": 1}, "order": 6}
    async with working(source_environ(store_url, backend)):
        held = await store.read("user:42")
        lost = Snapshot("user:42", held.version + 1, held.state, b"", b"")
        assert await store.restore(lost)
        await until(lambda: _private(store, "user:42", b'{"row":1}'))
        async with open_client(gateway, "user:42") as socket:
            version = (await socket.until("snapshot"))["version"]
            backend.rows["user:42"] = {"state": {"n": "paid"}, "order": 7}
            await socket.send("expect", topic="user:42", after=version, timeout_ms=5000)
            assert (await socket.until("snapshot"))["state"] == {"n": "paid"}


async def _private(store: Store, topic: str, private: bytes) -> bool:
    return (await store.read(topic)).private == private


async def test_tenants_with_billing_are_left_to_it(
    store_url: str, store: Store, backend: Backend, tmp_path: Path
) -> None:
    backend.rows = {topic: {"state": {"n": 1}} for topic in ("tenant:acme", "sandbox/tenant:acme")}
    settings = {"PADDLE_SECRETS": "live:pdl_ntfset_a", "DEV": "1"}
    environ = source_environ(store_url, backend, **settings)
    async with run_gateway(environ) as gateway, working(environ), caller(gateway) as client:
        began = time.monotonic()
        assert (await client.get("/v1/state/tenant:acme?wait_ms=20000")).json()["version"] == 0
        assert time.monotonic() - began < 15
        assert (await client.get("/v1/state/sandbox/tenant:acme?wait_ms=9000")).json()["state"] == {"n": 1}
        refused = await client.post("/v1/topics/tenant:acme/reconcile", headers=KEY)
        assert (refused.status_code, refused.json()["code"]) == (503, "provider_unavailable")
        await store.want_reconcile(["tenant:acme"])
        await until(lambda: _nothing_wanted(store))
    assert backend.asked == {"sandbox/tenant:acme": 1}


async def test_a_topic_that_billing_owns_is_not_taken_nor_asked_for_again(store: Store, backend: Backend) -> None:
    """By a process that does not know that billing computes it: the store refuses what it commits."""
    await store.commit(Change("tenant:acme", b'{"plan":"pro"}', b'{"facts":1}', owner=BILLING))
    before = await store.read("tenant:acme")
    backend.rows["tenant:acme"] = {"state": {"plan": "free"}, "private": {}}
    hydrating, supervisor = Hydration(store, asker(backend)), Supervisor(0.02, is_away)
    await hydrating.compare("tenant:acme")
    with capture_logs() as logged:
        running = asyncio.create_task(hydrating.run(supervisor, Isolation(store)))
        await until(lambda: _nothing_wanted(store))
        supervisor.stop()
        await running
    assert "source_not_taken" in [entry["event"] for entry in logged]
    assert backend.asked == {"tenant:acme": 1}
    assert (await hydrating.reconcile("tenant:acme", "asked", 1)).outcome == "billed"
    assert await store.read("tenant:acme") == before
    await hydrating.aclose()


async def _nothing_wanted(store: Store) -> bool:
    return not (await store.redis.zcard(keys.reconcile) or await store.redis.zcard(keys.compare))


def asker(backend: Backend, secret: str = SECRET, rate: float = 100, timeout_s: float = 10) -> Source:
    client = http.Backend(timeout_s=timeout_s, rate_limiter=LocalRateLimiter(rate))
    return Source(backend.url, secret.encode(), client)


async def test_what_may_not_be_believed_is_refused(backend: Backend) -> None:
    backend.rows["user:42"] = {"state": 1}
    source = asker(backend)
    try:
        assert await source.ask("user:42", 1) == Answer(b"1", b"", "")
        assert await source.ask("user:43", 1) is None

        async def refusal() -> str:
            with pytest.raises(SourceError) as raised:
                await source.ask("user:42", 1)
            return str(raised.value)

        for status, headers, reason in (
            (302, {"Location": f"{backend.url}/user:43"}, "redirects are not followed"),
            (201, {}, "status 201"),
            (500, {}, "status 500"),
            (200, {"Content-Encoding": "gzip"}, "compressed"),
        ):
            backend.status, backend.headers = status, headers
            assert reason in await refusal()
        assert backend.asked["user:43"] == 1, "a redirect was followed"
        backend.status, backend.headers = 200, {}
        backend.raw = b'{"state":{"seats":18446744073709551616}}'
        assert "number_unsafe: state at '/seats'" in await refusal()
        backend.raw = b'{"state":"%b"}' % (b"x" * ANSWER_MAX_BYTES)
        assert "more than" in await refusal()
        await source.aclose()
        backend.raw, backend.is_holding = None, True
        source = asker(backend, timeout_s=0.3)
        assert "no whole answer within 0.3 s" in await refusal()
    finally:
        await source.aclose()


async def test_a_forged_signature_and_an_old_one_are_refused_by_the_verifier_of_the_page(backend: Backend) -> None:
    backend.rows["user:42"] = {"state": 1}
    source = asker(backend, secret="another-secret-of-at-least-32-bytes!")
    try:
        with pytest.raises(SourceError, match="status 403"):
            await source.ask("user:42", 1)
    finally:
        await source.aclose()
    async with httpx2.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{backend.url}/user:42")).status_code == 403
    assert (backend.forged, backend.asked) == (2, {})


async def test_a_rate_that_is_used_up_is_waited_for_or_refused(backend: Backend) -> None:
    backend.rows["user:42"] = {"state": 1}
    source = asker(backend, rate=20)
    try:
        began = time.monotonic()
        await asyncio.gather(*(source.ask("user:42", 5) for _ in range(24)))
        assert time.monotonic() - began > 0.1  # a burst of 20, then 20 a second
        asked = await asyncio.gather(*(source.ask("user:42", 0.01) for _ in range(30)), return_exceptions=True)
        refusals = [str(one) for one in asked if isinstance(one, SourceError)]
        assert refusals
        assert all("rate" in refusal for refusal in refusals)
    finally:
        await source.aclose()


def test_the_hydration_of_settings_without_a_source_is_none(store: Store) -> None:
    assert hydration(store, SyncSettings.from_env({})) is None
    hydrating = Hydration(store, asker(Backend()))
    assert [hydrating.serves(topic) for topic in ("tenant:acme", "probe:a")] == [True, False]
