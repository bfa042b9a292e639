"""This build beside the one before, on one store, as in a rolling deploy and a roll-back: nothing is lost or late.

The processes are real ones of either build. Sweeps come too rarely to bring anything: what a tab shows was announced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import psycopg
import pytest
from playwright.async_api import Route
from websockets.asyncio.client import connect as open_socket
from websockets.typing import Subprotocol

from gateway.auth.tokens import mint
from planwire_client import AsyncPublisher, Replica, outbox
from planwire_client.core.commit import BILLING
from planwire_client.http import NO_ANSWER
from sync.billing.domain.facts import codec
from sync.billing.storage.tenants import has_facts
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, Committed, Verdict
from sync.store.redis.connect import connect
from sync.store.store import Store
from tests.support.bodies import SECRET as PADDLE_SECRET, signature, webhook
from tests.support.chromium import chromium
from tests.support.earlier import THIS, Build, earlier_build
from tests.support.facts import FULL
from tests.support.gateway import PUBLISH_KEY, SECRET, Client
from tests.support.postgres import start_postgres
from tests.support.processes import Running, clean_environ, python
from tests.support.servers import Server, free_port, start_valkey
from tests.support.wait import until

TOPIC = "tenant:acme"
ORIGIN = "http://127.0.0.1:48999"
"""Of a page that is answered for by the browser's driver: nothing listens there."""
METRICS_TOKEN = "a-metrics-token-for-tests-0123456789"
START_S = 30.0
SHOWN_S = 20.0

CATALOG = """
[policy]
grace = "1s"

[plans.free]
name = "Free"
rank = 0
default = true

[plans.basic]
name = "Basic"
rank = 10
prices.paddle.live = ["pri_basic"]

[plans.pro]
name = "Pro"
rank = 20
per_unit.limits = { seats = 1 }
prices.paddle.live = ["pri_pro"]
"""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return earlier_build(tmp_path_factory.mktemp("earlier"))


@pytest.fixture
def valkey() -> Iterator[Server]:
    with start_valkey(tcp=True, aof=True) as server:
        yield server


def stop(program: Running) -> None:
    """End it as an operator does."""
    program.process.terminate()
    assert program.process.wait(20) == 0, program.text[-2000:]


@dataclasses.dataclass
class Deployment:
    """Processes of either build, all with one environment."""

    environ: dict[str, str]
    builds: dict[str, Build]
    stack: AsyncExitStack

    def start(self, build: str, module: str, **more: str) -> Running:
        """A process of a build, ended with the test."""
        root = self.builds[build].root
        program = Running(python("-m", module), {**self.environ, **self.builds[build].environ, **more}, root)
        self.stack.callback(program.close)
        self.stack.callback(stop, program)
        return program

    async def worker(self, build: str) -> Running:
        """A worker of a build that works."""
        program = self.start(build, "sync.worker")
        await until(lambda: "worker_started" in program.text, timeout_s=START_S, every_s=0.05)
        return program

    async def gateway(self, build: str) -> Gateway:
        """A web process of a build that is ready."""
        port = free_port()
        found = Gateway(port, self.start(build, "gateway.server", PORT=str(port)))
        await until(found.is_ready, timeout_s=START_S, every_s=0.05)
        return found


@dataclasses.dataclass
class Gateway:
    """One web process."""

    port: int
    program: Running

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def is_ready(self) -> bool:
        assert not self.program.has_ended, self.program.text[-2000:]
        async with httpx2.AsyncClient(base_url=self.url) as http:
            with contextlib.suppress(*NO_ANSWER):
                return (await http.get("/readyz")).status_code == 200
        return False

    async def call(self, method: str, path: str, body: object | None = None, key: str = PUBLISH_KEY) -> Any:
        """The answer to a backend's call."""
        async with httpx2.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {key}"}) as http:
            answer = await http.request(method, path, json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

    async def scrape(self, token: str = "") -> int:
        """The status of an answer to Prometheus."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx2.AsyncClient(base_url=self.url, headers=headers) as http:
            return (await http.get("/metrics")).status_code

    async def publish(self, state: object, topic: str = TOPIC) -> int:
        return int((await self.call("POST", "/v1/publish", {"topic": topic, "state": state}))["version"])

    async def deliver(self, body: bytes) -> str:
        """What becomes of a webhook."""
        signed = {"Paddle-Signature": signature(body, int(time.time()), PADDLE_SECRET)}
        async with httpx2.AsyncClient(base_url=self.url) as http:
            answer = await http.post("/webhooks/paddle", content=body, headers=signed)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["outcome"])

    @asynccontextmanager
    async def tab(self, *topics: str, sub: str = "ann") -> AsyncIterator[Client]:
        """A browser's socket that has its first states."""
        jwt = mint(SECRET, topics=topics, now=time.time(), ttl_s=600, sub=sub)
        url = f"ws://127.0.0.1:{self.port}/v1/connect"
        async with open_socket(url, subprotocols=[Subprotocol("planwire.v1")]) as connection:
            client = Client(connection)
            await client.send("hello", token=jwt, topics=dict.fromkeys(topics, 0), client="tests")
            for _ in topics:
                await client.until("snapshot")
            yield client


async def news(client: Client) -> tuple[int, Any]:
    """Version and state, or patch, of the next frame that brings one."""
    while (frame := await client.receive(SHOWN_S))["type"] not in ("snapshot", "patch"):
        pass
    assert "reset" not in frame
    return frame["version"], frame.get("state", frame.get("patch"))


@pytest.fixture
async def deployment(valkey: Server, earlier: Build, tmp_path: Path) -> AsyncIterator[Deployment]:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    settings = {
        "REDIS_URL": valkey.url,
        "JWT_SECRET": SECRET,
        "PUBLISH_KEYS": f"tests:{hashlib.sha256(PUBLISH_KEY.encode()).hexdigest()}",
        "PADDLE_SECRETS": f"live:{PADDLE_SECRET}",
        "CATALOG": str(catalog),
        "ALLOWED_ORIGINS": ORIGIN,
        "SWEEP_S": "600",
        "DRAIN_S": "0",
    }
    environ = {f"PLANWIRE_{name}": value for name, value in settings.items()}
    # What the earlier build does not know has the name that it ignores.
    environ |= {"X_PLANWIRE_PUBLISH_RIGHTS": "tests:publish+tenants+admin:*", "X_PLANWIRE_METRICS_TOKEN": METRICS_TOKEN}
    environ = clean_environ(tmp_path / "data", **environ)
    async with AsyncExitStack() as stack:
        yield Deployment(environ, {"earlier": earlier, "this": THIS}, stack)


@pytest.fixture
async def store(valkey: Server) -> AsyncIterator[Store]:
    store = connect(valkey.url).store
    yield store
    await store.aclose()


async def test_what_is_published_through_either_reaches_the_tabs_of_both_at_once(deployment: Deployment) -> None:
    one, other = await deployment.gateway("earlier"), await deployment.gateway("this")
    pad = "x" * 2000
    async with one.tab(TOPIC) as its_tab, other.tab(TOPIC) as our_tab:
        for number, through in enumerate((one, other, one, other)):
            version = await through.publish({"n": number, "pad": pad})
            # The first is a snapshot, the others are patches.
            wanted = {"n": number, "pad": pad} if number == 0 else {"n": number}
            assert await news(its_tab) == (version, wanted)
            assert await news(our_tab) == (version, wanted)


async def test_what_either_revokes_is_revoked_at_both(deployment: Deployment) -> None:
    one, other = await deployment.gateway("earlier"), await deployment.gateway("this")
    for through in (one, other):
        sub = f"user{through.port}"
        async with one.tab(TOPIC, sub=sub) as its_tab, other.tab(TOPIC, sub=sub) as our_tab:
            await through.call("POST", "/v1/sessions/revoke", {"sub": sub})
            assert [(await tab.closed())[0] for tab in (its_tab, our_tab)] == [4401, 4401]


async def test_webhooks_count_once_whoever_takes_them_and_the_facts_of_all_stay(
    deployment: Deployment, store: Store
) -> None:
    one, other = await deployment.gateway("earlier"), await deployment.gateway("this")
    workers = [await deployment.worker(build) for build in ("earlier", "this")]
    async with one.tab(TOPIC) as its_tab, other.tab(TOPIC) as our_tab:
        for day, through in enumerate((one, other, one, other)):
            body = webhook(day=day, id=f"sub_{day}", items=[("pri_pro", day + 1)])
            assert await through.deliver(body) == "applied"
            for again in (one, other):
                assert await again.deliver(body) == "duplicate"
            ((version, _), (same, _)) = await news(its_tab), await news(our_tab)
            assert version == same
        snapshot = await store.read(TOPIC)
        facts = codec.decode(snapshot.private)
        assert sorted(facts.subscriptions) == [f"paddle:sub_{day}" for day in range(4)]
        assert (snapshot.owner, snapshot.rev >= snapshot.version) == (BILLING, True)
    assert [worker.status() for worker in workers] == [None, None]


@pytest.mark.parametrize(("parks", "frees"), [("earlier", "this"), ("this", "earlier")])
async def test_what_one_build_parked_another_takes_up(deployment: Deployment, parks: str, frees: str) -> None:
    first, second = await deployment.gateway(parks), await deployment.gateway(frees)
    await deployment.worker(frees)
    assert await first.deliver(webhook(day=2, tenant=None, items=[("pri_pro", 5)])) == "parked"
    async with first.tab(TOPIC) as its_tab, second.tab(TOPIC) as our_tab:
        # It names the tenant, and what waited for that counts: it is the newer one.
        await second.deliver(webhook(day=1, items=[("pri_basic", 1)]))
        for tab in (its_tab, our_tab):
            while True:
                _, state = await news(tab)
                if state.get("limits") == {"seats": 5}:
                    break


@pytest.mark.parametrize(("takes", "works"), [("earlier", "this"), ("this", "earlier")])
async def test_a_timer_that_one_build_set_fires_in_another(deployment: Deployment, takes: str, works: str) -> None:
    """A payment is overdue, and the grace of a second ends without any event."""
    gateway = await deployment.gateway(takes)
    await deployment.worker(works)
    async with gateway.tab(TOPIC) as tab:
        # What happened in the past would have ended in the past: its grace begins when it is first seen.
        await gateway.deliver(webhook(day=0, status="past_due"))
        seen: list[Any] = []
        while not seen or seen[-1].get("plan", {}).get("key") != "free":
            seen.append((await news(tab))[1])
        assert seen[0]["plan"]["key"] in ("pro", "free")


async def test_the_relay_of_either_build_reaches_both(deployment: Deployment) -> None:
    one, other = await deployment.gateway("earlier"), await deployment.gateway("this")
    with start_postgres() as postgres, postgres.database() as database:
        with psycopg.connect(database) as connection:
            connection.execute(outbox.DDL.encode())
        async with one.tab(TOPIC) as its_tab, other.tab(TOPIC) as our_tab:
            for build in ("earlier", "this"):
                relay = deployment.start(build, "sync.outbox", PLANWIRE_OUTBOX_URL=database)
                with psycopg.connect(database) as connection:
                    outbox.enqueue(connection, TOPIC, {"by": build})
                assert (await news(its_tab))[1] == {"by": build}
                assert (await news(our_tab))[1] == {"by": build}
                stop(relay)


EARLIER_CLIENT = """
import sys, time
from planwire_client import Publisher, ThreadReplica
store, gateway, key, jwt = sys.argv[1:]
with Publisher(gateway, key) as publisher:
    publisher.publish("tenant:acme", {"features": {"export": True}, "by": "http"})
with Publisher(store) as publisher:
    version = publisher.publish("tenant:acme", {"features": {"export": True}, "by": "store"}).version
replica = ThreadReplica(gateway, lambda: jwt)
try:
    replica.ensure("tenant:acme", "export", min_version=version)
    print(replica.get("tenant:acme").state["by"])
finally:
    replica.close()
"""


async def test_an_earlier_python_client_publishes_and_reads(deployment: Deployment, valkey: Server) -> None:
    gateway = await deployment.gateway("this")
    jwt = mint(SECRET, topics=["*"], now=time.time(), ttl_s=600, sub="backend")
    async with gateway.tab(TOPIC) as tab:
        said = deployment.builds["earlier"].run(EARLIER_CLIENT, valkey.url, gateway.url, PUBLISH_KEY, jwt)
        assert said.strip() == "store"
        assert [(await news(tab))[1]["by"] for _ in range(2)] == ["http", "store"]


async def test_this_python_client_publishes_to_an_earlier_gateway_and_reads_from_it(
    deployment: Deployment, valkey: Server
) -> None:
    gateway = await deployment.gateway("earlier")
    jwt = mint(SECRET, topics=["*"], now=time.time(), ttl_s=600, sub="backend")
    async with AsyncPublisher(gateway.url, PUBLISH_KEY) as through, AsyncPublisher(valkey.url) as direct:
        await through.publish(TOPIC, {"features": {"export": True}, "by": "http"})
        version = (await direct.publish(TOPIC, {"features": {"export": True}, "by": "store"})).version
    async with Replica(gateway.url, lambda: jwt) as replica:
        found: Any = await replica.wait_for(TOPIC, version)
        assert found.state["by"] == "store"


PAGE = """<!doctype html><meta charset="utf-8"><title>mixed</title><script type="module">
import { planwire } from "/client/planwire.js";
const wanted = new URLSearchParams(location.search);
window.seen = [];
planwire({ url: wanted.get("gateway"), token: async () => wanted.get("jwt") })
  .topic("tenant:acme").subscribe(({ status, version, state }) => window.seen.push({ status, version, state }));
</script>"""


@pytest.mark.browser
@pytest.mark.parametrize(("client", "server"), [("earlier", "this"), ("this", "earlier")])
async def test_a_browser_client_of_one_build_and_a_gateway_of_the_other(
    deployment: Deployment, client: str, server: str
) -> None:
    gateway = await deployment.gateway(server)
    jwt = mint(SECRET, topics=[TOPIC], now=time.time(), ttl_s=600, sub="ann")
    script = (deployment.builds[client].root / "clients" / "js-snippet" / "planwire.js").read_text()

    async def answer(route: Route) -> None:
        is_script = "/client/" in route.request.url
        await route.fulfill(
            body=script if is_script else PAGE, content_type="text/javascript" if is_script else "text/html"
        )

    pad = "x" * 2000
    async with chromium("--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets") as browser:
        page = await browser.new_page()
        await page.route(lambda url: url.startswith(ORIGIN), answer)
        await gateway.publish({"n": 1, "pad": pad})
        await page.goto(f"{ORIGIN}/?gateway={gateway.url}&jwt={jwt}")

        async def last() -> dict[str, Any]:
            seen = json.loads(await page.evaluate("JSON.stringify(window.seen ?? [])"))
            return dict(seen[-1]) if seen else {}

        for number in (2, 3):
            version = await gateway.publish({"n": number, "pad": pad})

            async def is_shown(version: int = version, number: int = number) -> bool:
                shown = await last()
                return shown.get("version") == version and shown["state"]["n"] == number

            await until(is_shown, timeout_s=SHOWN_S, every_s=0.05)
        assert (await last())["status"] == "fresh"


async def test_a_roll_back_with_the_same_environment_goes_on_where_this_build_stopped(
    deployment: Deployment, store: Store
) -> None:
    """And once more forward: what the earlier build did meanwhile counts like everything."""
    ours = await deployment.gateway("this")
    worker = await deployment.worker("this")
    assert await ours.deliver(webhook(day=0, items=[("pri_pro", 2)])) == "applied"
    await ours.call(
        "POST", "/v1/tenants/acme/overrides", {"kind": "feature", "name": "beta", "value": True, "reason": "asked"}
    )
    await ours.publish({"theme": "dark"}, "user:42")
    assert await ours.deliver(webhook(day=0, id="sub_gone", tenant="gone")) == "applied"
    await ours.call("DELETE", "/v1/tenants/gone", {"reason": "asked"})
    assert (await ours.scrape(), await ours.scrape(METRICS_TOKEN)) == (401, 200)
    for program in (ours.program, worker):
        stop(program)
        assert "settings_ignored" not in program.text
    assert "publish_keys_without_rights" not in ours.program.text

    theirs = await deployment.gateway("earlier")
    worker = await deployment.worker("earlier")
    assert await theirs.scrape() == 200, "the settings that it does not know are ignored"
    async with theirs.tab(TOPIC, "user:42", "tenant:gone") as tab:
        assert await tab.until("gone") == {"type": "gone", "topic": "tenant:gone", "reason": "erased"}
    assert await theirs.deliver(webhook(day=1, items=[("pri_pro", 7)])) == "applied"
    assert await theirs.deliver(webhook(day=1, id="sub_gone", tenant="gone")) == "ignored"
    version = await theirs.publish({"theme": "light"}, "user:42")
    for program in (theirs.program, worker):
        stop(program)

    again = await deployment.gateway("this")
    async with again.tab(TOPIC, "user:42", "tenant:gone") as tab:
        assert await tab.until("gone") == {"type": "gone", "topic": "tenant:gone", "reason": "erased"}
    found = await store.read(TOPIC)
    state = orjson.loads(found.state)
    assert (state["limits"], state["features"], has_facts(found)) == ({"seats": 7}, {"beta": True}, True)
    assert (await store.read("user:42")).version == version
    assert await again.deliver(webhook(day=2, items=[("pri_pro", 8)])) == "applied"
    assert orjson.loads((await store.read(TOPIC)).state)["limits"] == {"seats": 8}
    assert (await store.read("tenant:gone")).erased
    assert (await store.read(TOPIC)).owner == BILLING


EARLIER_DECODE = """
import sys
try:
    from sync.billing.domain.facts.codec import decode
except ImportError:
    from sync.billing.model import decode
print(*sorted(decode(bytes.fromhex(sys.argv[1])).subscriptions))
"""


def test_the_earlier_build_reads_facts_that_have_everything(earlier: Build) -> None:
    """What it does not know, it leaves out: a one-time purchase is no subscription."""
    assert earlier.run(EARLIER_DECODE, codec.encode(FULL).hex()).split() == ["paddle:sub_1"]


async def test_no_writer_of_either_build_overwrites_the_other_unseen(deployment: Deployment, store: Store) -> None:
    """The earlier build's commits of facts alone make a version. Ours make none for our readers, and one for it."""
    script = (deployment.builds["earlier"].root / "sync" / "state" / "commit.lua").read_text()

    async def earlier_commit(state: bytes, private: bytes, if_version: int) -> tuple[str, int]:
        names = [keys.snap(TOPIC), keys.log(TOPIC), keys.seen(TOPIC)]
        given = ["PUBLISH", keys.channel(TOPIC), state, private, "", "", str(if_version), "", ""]
        redis: Any = store.redis
        verdict, version = await redis.eval(script, len(names), *names, *given)
        return verdict.decode(), int(version)

    async def commit(state: bytes, private: bytes, if_rev: int) -> Committed:
        return await store.commit(Change(TOPIC, state, private, if_rev=if_rev, owner=BILLING))

    async def its_version() -> int:
        redis: Any = store.redis
        return int(await redis.hget(keys.snap(TOPIC), "version"))

    first = await commit(b"1", b'{"p":1}', 0)
    assert (await earlier_commit(b"1", b'{"p":2}', first.version))[0] == "applied"
    assert (await commit(b"1", b'{"p":3}', first.rev)).verdict is Verdict.CONFLICT
    found = await store.read(TOPIC)
    assert (found.private, found.rev, found.version) == (b'{"p":2}', await its_version(), await its_version())
    done = await commit(b"1", b'{"p":3}', found.rev)
    assert (done.verdict, done.version, done.rev > found.rev) == (Verdict.UNCHANGED, found.version, True)
    assert await earlier_commit(b"1", b'{"p":4}', found.version) == ("conflict", done.rev)
    assert await store.versions([TOPIC]) == [found.version]
    verdict, version = await earlier_commit(b"2", b'{"p":4}', await its_version())
    assert (verdict, version > done.rev, await store.versions([TOPIC])) == ("applied", True, [version])
    last = await commit(b"3", b'{"p":5}', version)
    assert (last.verdict, last.version, last.rev) == (Verdict.APPLIED, await its_version(), await its_version())


async def test_facts_that_change_nothing_public_survive_a_mixed_run(deployment: Deployment, store: Store) -> None:
    """A worker of each build, and webhooks that change facts alone: both builds' facts are there in the end."""
    one, other = await deployment.gateway("earlier"), await deployment.gateway("this")
    async with other.tab(TOPIC) as tab:
        for day, through in enumerate((other, one, other, other, one, other)):
            # The first buys a plan, the others are canceled from the start.
            status = "active" if day == 0 else "canceled"
            assert await through.deliver(webhook(day=day, id=f"sub_{day}", status=status)) == "applied"
        facts = codec.decode((await store.read(TOPIC)).private)
        assert sorted(facts.subscriptions) == [f"paddle:sub_{day}" for day in range(6)]
        assert (await news(tab))[1]["plan"]["key"] == "pro"
