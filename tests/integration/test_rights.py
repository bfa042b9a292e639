"""A user with the rights that docs/stores.md gives can do everything; of any other it is said which rule is missing."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import redis.asyncio

from planwire_client import AsyncPublisher, Publisher, Verdict
from sync import bootstrap
from sync.settings import SyncSettings
from sync.store.checks import rights
from sync.store.keys import DEFAULT_KEYS
from sync.store.models import Change, Committed
from sync.store.redis.connect import connect
from sync.worker import Worker
from tests.support.bodies import SECRET, signature, webhook
from tests.support.cluster import start_cluster
from tests.support.console import TOKEN, login
from tests.support.gateway import PUBLISH_KEY, Running, environment, open_client, run_gateway
from tests.support.servers import Server, redis_binary, start_redis, start_valkey, valkey_binary
from tests.support.wait import until

ROOT = Path(__file__).resolve().parents[2]
LINES = re.findall(r"(?m)^    ACL SETUSER (planwire on .+)$", (ROOT / "docs" / "stores.md").read_text())
"""The rules of the page: of one server, and of a Cluster's nodes."""

PASSWORD = "s3cret"
RULES, CLUSTER_RULES = (line.replace(">PASSWORD", f">{PASSWORD}").split() for line in LINES)
NO_CHANNELS = ("planwire", "on", f">{PASSWORD}", "~pw:*", "resetchannels", "+@all")
TOPIC = "tenant:acme"
PUBLISHED = "user:1"
KEY = {"Authorization": f"Bearer {PUBLISH_KEY}"}
QUICK = {"PROBE_S": "0.3", "SWEEP_S": "0.5", "HEARTBEAT_S": "0.3"}
HEALS_S = 15.0

OPTIONAL = {"scan", "rpush", "blpop", "info", "script|load"}
"""Commands of the console, of the check of the eviction policy and of the Python client; all else works without."""

LOGIN = {"hello", "auth", "select", "client|setinfo", "client|maint_notifications", "client|setname"}
"""What redis-py sends on a new connection; refusals of all but the first two are nothing to it."""

CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true

[plans.pro]
name = "Pro"
rank = 20
prices.paddle.live = ["pri_pro"]
"""


async def ask(server: Server, *command: Any) -> Any:
    """Return what the server answers its administrator."""
    client: Any = redis.asyncio.Redis(port=server.port)
    async with client:
        return await client.execute_command(*command)


@asynccontextmanager
async def having(start: Callable[..., Any], *rules: str) -> AsyncIterator[tuple[Server, str]]:
    """A server with a user of these rules, and that user's URL."""
    with start(tcp=True) as server:
        await ask(server, "ACL", "SETUSER", *rules)
        yield server, f"redis://planwire:{PASSWORD}@127.0.0.1:{server.port}"


@pytest.fixture(params=[start_redis, start_valkey], ids=["redis", "valkey"])
def start(request: pytest.FixtureRequest) -> Callable[..., Any]:
    found: Callable[..., Any] = request.param
    return found


async def ready(running: Running) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=running.url, trust_env=False) as http:
        return await http.get("/readyz")


async def is_ready(running: Running) -> bool:
    return (await ready(running)).status_code == 200


async def everything(url: str, tmp_path: Path) -> None:
    """Use all that needs the store: webhooks, a worker, publishes by every way, tabs, the console, revocations."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    billing = {"CATALOG": str(catalog), "PADDLE_SECRETS": f"live:{SECRET}", "LOG_LEVEL": "warning"}
    environ = environment(url, INTAKE="1", CONSOLE_TOKEN=TOKEN, **billing, **QUICK)
    settings = SyncSettings.from_env({f"PLANWIRE_{name}": value for name, value in billing.items()})
    store = connect(url).store
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.aclose)
        services = await bootstrap.build_services(store, settings)
        stack.push_async_callback(services.aclose)
        worker = Worker(services, ("live",), poll_s=0.02)
        running = await stack.enter_async_context(run_gateway(environ))
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=running.url, trust_env=False))
        client = await stack.enter_async_context(open_client(running, TOPIC, PUBLISHED))
        group = await stack.enter_async_context(_ended_by(worker))
        group.create_task(worker.run())
        body = webhook()
        sent = {"Paddle-Signature": signature(body, int(time.time()), SECRET)}
        assert (await http.post("/webhooks/paddle", content=body, headers=sent)).status_code == 200
        override = {"kind": "limit", "name": "seats", "value": 5, "reason": "tests"}
        for method, path, sending in (
            ("POST", "/v1/publish", {"topic": PUBLISHED, "state": {"n": 1}, "event_id": "e1", "order": 1}),
            ("POST", "/v1/publish/batch", {"items": [{"topic": PUBLISHED, "state": {"n": 2}}]}),
            ("POST", "/v1/tenants/acme/overrides", override),
            ("GET", "/v1/tenants/acme/status", None),
            ("GET", "/v1/tenants/acme/history", None),
            ("GET", "/v1/parked", None),
            ("GET", "/v1/drift", None),
            ("POST", "/v1/sessions/revoke", {"sub": "somebody"}),
            ("DELETE", "/v1/tenants/acme", None),
            ("GET", "/metrics", None),
        ):
            answer = await http.request(method, path, json=sending, headers=KEY)
            assert answer.status_code in (200, 202, 204, 404, 422), (
                f"{method} {path}: {answer.status_code} {answer.text}"
            )
        async with httpx2.AsyncClient(base_url=running.url, trust_env=False) as page:
            assert (await login(page)).status_code == 204
            for path in ("gateways", "topics?q=user", f"topic/{PUBLISHED}", "tenants", "attention"):
                assert (await page.get(f"/console/api/{path}")).status_code in (200, 404)
        version = (await store.commit(Change(PUBLISHED, b'{"n":3}'))).version
        while (await client.until("snapshot"))["version"] != version:
            pass
        async with AsyncPublisher(url) as publisher:
            assert (await publisher.publish(PUBLISHED, {"n": 4})).verdict is Verdict.APPLIED
        await store.want_reconcile([TOPIC])
        await until(lambda: is_ready(running), timeout_s=HEALS_S)
        assert running.node.inspection.servers
        assert not running.node.inspection.missing
        assert running.node.metrics.unannounced == 0


@asynccontextmanager
async def _ended_by(worker: Worker) -> AsyncIterator[Any]:
    async with asyncio.TaskGroup() as group:
        try:
            yield group
        finally:
            worker.stop()


async def test_the_user_of_the_page_can_do_everything_and_everything_is_asked_for(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    async with having(start, *RULES) as (server, url):
        await ask(server, "CONFIG", "RESETSTAT")
        before = await commands_run(server)
        await everything(url, tmp_path)
        used = await commands_run(server) - before - LOGIN - {"config|resetstat", "info", "acl|setuser"}
        asked = {command[0].lower() for command in rights.commands(DEFAULT_KEYS)} | OPTIONAL
        assert used <= asked
        assert len(used) > 20
        refused = await ask(server, "ACL", "LOG")
        assert not refused, refused


async def commands_run(server: Server) -> set[str]:
    client: Any = redis.asyncio.Redis(port=server.port)
    async with client:
        return {name.removeprefix("cmdstat_") for name in await client.info("commandstats")}


@pytest.mark.parametrize("binary", [redis_binary, valkey_binary], ids=["redis", "valkey"])
async def test_so_can_the_clusters_user(binary: Callable[[], str], tmp_path: Path) -> None:
    with start_cluster(binary()) as cluster:
        for server in cluster.servers:
            cluster.ask(server, "ACL", "SETUSER", *CLUSTER_RULES)
        await everything(f"redis+cluster://planwire:{PASSWORD}@{cluster.hosts}", tmp_path)
        assert not any(cluster.ask(server, "ACL", "LOG") for server in cluster.servers)


async def publish(running: Running, state: object) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=running.url, trust_env=False) as http:
        return await http.post("/v1/publish", json={"topic": PUBLISHED, "state": state}, headers=KEY)


async def test_without_channels_a_commit_is_answered_as_one_and_readiness_names_the_rule(
    start: Callable[..., Any],
) -> None:
    """What new users are given by default since Redis 7. Nobody is told that nothing has happened."""
    async with having(start, *NO_CHANNELS) as (server, url):
        environ = environment(url, **QUICK)
        async with run_gateway(environ, until_fresh=False) as running, open_client(running, PUBLISHED) as client:
            await until(lambda: running.node.inspection.servers, timeout_s=HEALS_S)
            answer = await publish(running, {"n": 1})
            assert (answer.status_code, answer.json()["verdict"]) == (200, "applied")
            stored = await ask(server, "HGET", f"pw:{{{PUBLISHED}}}:snap", "version")
            assert int(stored) == answer.json()["version"]
            while (frame := await client.until("snapshot"))["version"] != answer.json()["version"]:
                pass  # by the sweep
            assert frame["state"] == {"n": 1}
            told = await ready(running)
            assert told.status_code == 503
            assert told.json()["checks"]["rights"] is False
            assert "add &pw:* (the whole rule: docs/stores.md)" in told.json()["detail"]
            async with httpx2.AsyncClient(base_url=running.url, trust_env=False) as http:
                metrics = (await http.get("/metrics")).text
            assert re.search(r"(?m)^planwire_unannounced_total [1-9]", metrics)
            await ask(server, "ACL", "SETUSER", "planwire", "&pw:*")
            await until(lambda: is_ready(running), timeout_s=HEALS_S)
            counted = running.node.store.unannounced
            again = (await publish(running, {"n": 2})).json()["version"]
            while (await client.until("snapshot"))["version"] != again:
                pass
            assert running.node.store.unannounced == counted


async def test_no_other_writer_takes_an_announcement_that_failed_for_a_commit_that_did(
    start: Callable[..., Any],
) -> None:
    async with having(start, *NO_CHANNELS) as (_, url):
        store = connect(url).store
        one = await store.commit(Change("user:one", b"{}"))
        many = await store.commit_many([Change("user:two", b"{}"), Change("user:three", b"{}")])
        assert all(isinstance(done, Committed) and done.verdict == "applied" for done in (one, *many))
        assert all(isinstance(done, Committed) and "channel" in done.unannounced for done in (one, *many))
        assert store.unannounced == 3
        unchanged = await store.commit(Change("user:one", b"{}"))
        assert (unchanged.verdict, unchanged.unannounced) == ("unchanged", "")
        async with AsyncPublisher(url) as publisher:
            assert (await publisher.publish("user:four", {"n": 1})).verdict is Verdict.APPLIED
        with Publisher(url) as blocking:
            assert blocking.publish("user:five", {"n": 1}).verdict is Verdict.APPLIED
        assert orjson.loads((await store.read("user:five")).state) == {"n": 1}
        await store.aclose()


@pytest.mark.parametrize(
    ("without", "rule"),
    [
        (("resetkeys",), "~pw:*"),
        (("-zadd",), "+zadd"),
        (("-eval",), "+eval"),
        (("-@pubsub",), "&pw:*"),
        (("-subscribe",), "+subscribe"),
    ],
)
async def test_readiness_and_the_log_name_whatever_rule_is_missing(
    start: Callable[..., Any], without: tuple[str, ...], rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with AsyncExitStack() as stack:
        server, url = await stack.enter_async_context(having(start, *RULES, *without))
        running = await stack.enter_async_context(run_gateway(environment(url, **QUICK), until_fresh=False))

        async def is_said() -> bool:
            told = await ready(running)
            words = told.json().get("detail", "").partition("add ")[2].partition(" (")[0].split()
            return told.status_code == 503 and rule in words

        await until(is_said, timeout_s=HEALS_S)
        assert "store_rights_missing" in capsys.readouterr().out
        await ask(server, "ACL", "SETUSER", *RULES)
        await until(lambda: is_ready(running), timeout_s=HEALS_S)


def test_the_page_has_both_lines_and_the_second_adds_to_the_first() -> None:
    assert len(LINES) == 2
    assert set(RULES) < set(CLUSTER_RULES)
