"""Pages with the browser client on them: a proxy that fails on purpose lies between the pages and their gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx2
from playwright.async_api import BrowserContext, Page, Route

from gateway.auth.tokens import mint
from tests.support.gateway import PUBLISH_KEY, SECRET, Running
from tests.support.proxy import Proxy
from tests.support.wait import until

CLIENT = Path(__file__).resolve().parents[2] / "clients" / "js-snippet"
TOPIC = "tenant:acme"
HEARTBEAT_S = 0.4
SILENCE_S = 2.5 * HEARTBEAT_S
"""How long the client may take to say that a silent connection is stale."""

STEADY_S = 4.0
"""A heartbeat so rare that a pause of a busy machine is not taken for silence."""

RENEWAL_S, TOKEN_TTL_S = 2.0, 6.0
"""A heartbeat, and a token renewed with each; it lasts for seconds more, in which a machine may stand still."""

CSP = "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"

PROBE_HTML = """<!doctype html><meta charset="utf-8"><title>probe</title>
<script type="application/json" id="planwire">{injected}</script>
<script type="module" src="/probe/probe.js"></script>"""

PROBE_JS = """
import { fallback } from "/client/fallback.js";
import { planwire } from "/client/planwire.js";
import { injected, stored } from "/client/storage.js";
import { tabs } from "/client/tabs.js";

const wanted = new URLSearchParams(location.search);
window.skew = 0;
window.connections = [];
const { now } = Date;
Date.now = () => now() + window.skew;
const real = (url) => {
  window.connections.push(now());
  return (window.line = new WebSocket(url + (wanted.has("blocked") ? "/blocked" : ""), "planwire.v1"));
};
const how = {
  tabs: () => tabs({ subject: "ann", socket: real }),
  fallback: () => fallback({ socket: real }),
}[wanted.get("socket")];
const make = wanted.has("stored") ? stored : planwire;
window.topic = make({
  url: location.origin,
  subject: "ann",
  token: async () => (await fetch("/probe/token", { method: "POST" })).text(),
  socket: how ? how() : real,
  initial: injected(),
}).topic("tenant:acme");
window.log = [];
window.failures = [];
window.addEventListener("error", ({ message }) => window.failures.push(message));
window.addEventListener("unhandledrejection", ({ reason }) => window.failures.push(String(reason)));
window.addEventListener("pageshow", ({ persisted }) => (window.wasKept = persisted));
window.topic.subscribe(({ status, version, state, reason }) =>
  window.log.push({ at: now(), status, version, n: state?.n ?? null, reason: String(reason ?? "") }),
);
"""

Entry = dict[str, Any]
Restart = Callable[[], Awaitable[None]]
"""Stops the gateway and starts another behind the same proxy."""

BUSY_S = 6.0
"""What a busy machine may add to what is immediate; what else could have been the cause comes later, or says so."""


class Evaluates(Protocol):
    """What the tests need of a page, whoever drives it."""

    async def evaluate(self, expression: str) -> Any: ...


class ProbedPage:
    """What a page with the probe in it has shown."""

    def __init__(self, script: Evaluates) -> None:
        self.script = script

    async def log(self) -> list[Entry]:
        """Every snapshot that was shown, oldest first; `at` in ms of the machine's clock."""
        log: list[Entry] = json.loads(await self.script.evaluate("JSON.stringify(window.log ?? [])"))
        return log

    async def last(self) -> Entry:
        """The snapshot on the screen."""
        return (await self.log() or [{"status": "", "version": 0, "n": None, "at": 0}])[-1]

    async def shows(self, n: int, status: str = "fresh", timeout_s: float = 25) -> None:
        """Wait until the state published as `n` is shown with `status`."""

        async def shown() -> bool:
            last = await self.last()
            assert (last["n"], last["status"]) == (n, status)
            return True

        await until(shown, timeout_s=timeout_s, every_s=0.02)

    async def turns(self, status: str, timeout_s: float = 25) -> Entry:
        """Wait for `status`; return the snapshot that first had it, since whatever came before."""

        async def turned() -> Entry | None:
            log = await self.log()
            first = len(log)
            while first and log[first - 1]["status"] == status:
                first -= 1
            return log[first] if first < len(log) else None

        found = await until(turned, timeout_s=timeout_s, every_s=0.02)
        assert found is not None
        return found

    async def holds_a_socket(self) -> bool:
        """Whether this page has a socket of its own, open or being opened."""
        return bool(await self.script.evaluate("Boolean(window.line && window.line.readyState < 2)"))

    async def connected_at_s(self) -> list[float]:
        """When this page opened each of its sockets, by the machine's clock."""
        return [at / 1000 for at in await self.script.evaluate("window.connections")]

    async def never_went_back(self) -> None:
        """Check that no snapshot had a lower version than one before it."""
        versions = [entry["version"] for entry in await self.log()]
        assert versions == sorted(versions)
        assert not await self.script.evaluate("window.failures")


Probed = TypeVar("Probed", bound=ProbedPage)


class Tab(ProbedPage):
    """One page of Chromium with the probe in it."""

    def __init__(self, page: Page) -> None:
        super().__init__(page)
        self.page = page


class ClientPages:
    """Pages of any browser, behind `proxy`, with what a test can set: tokens, injected states."""

    def __init__(self, gateway: Running, proxy: Proxy) -> None:
        self.gateway = gateway
        self.proxy = proxy
        self.token_ttl_s = 600.0
        self.token_age_s = 0.0
        self.tokens = 0
        self.injected: dict[str, Any] = {}
        """What the server puts into the page: topic -> version and state."""

    @property
    def url(self) -> str:
        """The origin that the pages see."""
        return f"http://127.0.0.1:{self.proxy.port}"

    async def publish(self, n: int) -> int:
        """Publish a state that says `n`, past the proxy; return its version."""
        body = {"topic": TOPIC, "state": {"n": n, "plan": {"key": "pro", "name": "Pro"}, "features": {"sso": True}}}
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.post(
                f"{self.gateway.url}/v1/publish", json=body, headers={"Authorization": f"Bearer {PUBLISH_KEY}"}
            )
        assert answer.status_code == 200, answer.text
        version: int = answer.json()["version"]
        return version

    def html(self) -> str:
        """The probe's page."""
        return PROBE_HTML.format(injected=json.dumps(self.injected))

    def token(self) -> str:
        """A new token for the probe."""
        self.tokens += 1
        return mint(SECRET, topics=(TOPIC,), now=time.time() - self.token_age_s, ttl_s=self.token_ttl_s, sub="ann")


class ChromiumPages(ClientPages):
    """Pages of Chromium. The tabs of `context` share storage and channels."""

    def __init__(self, gateway: Running, proxy: Proxy, context: BrowserContext) -> None:
        super().__init__(gateway, proxy)
        self.context = context

    async def open(self, query: str = "") -> Tab:
        """A new page with the probe."""
        tab = Tab(await self.context.new_page())
        await tab.page.goto(f"{self.url}/probe/?{query}")
        return tab

    async def serve_probe(self, route: Route) -> None:
        """Answer what the probe page asks for, without the gateway: its own files, and a token."""
        path = route.request.url.partition("?")[0]
        if path.endswith("/probe/token"):
            await route.fulfill(body=self.token(), content_type="text/plain")
        elif path.endswith(".js"):
            await route.fulfill(body=PROBE_JS, content_type="text/javascript")
        else:
            headers = {"Content-Security-Policy": CSP}
            await route.fulfill(body=self.html(), content_type="text/html", headers=headers)

    async def serve_client(self, route: Route) -> None:
        """Answer for the client's files from disk, so that a page loads while the network fails."""
        name = route.request.url.rpartition("/")[2]
        await route.fulfill(path=CLIENT / name, content_type="text/javascript")


async def sole_holder(pages: ClientPages, tabs: Sequence[Probed]) -> Probed:
    """Wait until the gateway has one socket that has said hello, and one of the tabs holds it; return that tab.

    A leader that a busy machine keeps from answering is replaced by design: which tab it is, and how many have been, is
    not told beforehand.
    """

    async def found() -> Probed:
        holding = [tab for tab in tabs if await tab.holds_a_socket()]
        sockets = pages.gateway.node.registry.sockets
        opened = [socket.session.id for socket in sockets if socket.opened_at]
        silent = [socket.session.id for socket in sockets if not socket.opened_at]
        assert len(holding) == len(opened) == 1, f"tabs {list(map(tabs.index, holding))}, {opened=}, {silent=}"
        return holding[0]

    return await until(found, timeout_s=20, every_s=0.01)
