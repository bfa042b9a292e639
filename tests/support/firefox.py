"""A real Firefox for browser tests: the system's own, driven over WebDriver BiDi, which it speaks by itself.

Playwright drives only a Firefox of its own making, and geckodriver is not packaged everywhere; the dozen commands that
tests need are less than either. W3C WebDriver BiDi: https://www.w3.org/TR/webdriver-bidi/
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.processes import end_group
from tests.support.servers import missing

NAMES = ("firefox-esr", "firefox")
START_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 20.0
POLL_S = 0.01

PREFERENCES = {
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.chrome.site_icons": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.max_script_run_time": 0,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.proxy.type": 0,
    "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
}
"""Nothing beyond loopback is asked for anything, and a script that runs long is let run."""

Json = dict[str, Any]


class BidiError(AssertionError):
    """Firefox refused a command; the text names it."""


@dataclass(frozen=True)
class Reply:
    """What a page gets instead of the network's answer."""

    body: str
    content_type: str = "text/plain"
    headers: tuple[tuple[str, str], ...] = ()


Responder = Callable[[str], Awaitable[Reply | None]]
"""Url -> reply; None lets the request go on to the network."""


def firefox_path() -> str:
    """The browser's path, from FIREFOX or PATH; without one the test is skipped (failed under CI)."""
    found = os.environ.get("FIREFOX") or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        missing("no Firefox on PATH (Debian: apt-get install firefox-esr), and FIREFOX does not name one")
    return found


@contextlib.contextmanager
def firefox() -> Iterator[str]:
    """A running headless Firefox with a profile of its own; gives the URL for `session`."""
    path = firefox_path()
    with tempfile.TemporaryDirectory(prefix="planwire-firefox-", ignore_cleanup_errors=True) as profile:
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items())
        Path(profile, "user.js").write_text("".join(lines))
        log = Path(profile, "firefox.log")
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [path, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"],
                # HOME: as root in a container, a home of somebody else is refused.
                env={**os.environ, "HOME": profile, "MOZ_CRASHREPORTER_DISABLE": "1"},
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        try:
            yield _listening(process, log) + "/session"
        finally:
            end_group(process)  # its content processes are in it


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"BiDi listening on (ws://\S+)\n", log.read_text(errors="replace"))
        if found:
            return found[1]
        time.sleep(POLL_S)
    raise AssertionError(f"Firefox does not listen: {log.read_text(errors='replace')[-800:]}")


class Window:
    """One tab. `complaints`: what its console says, a policy's refusals and lost connections too."""

    def __init__(self, session: Session, context: str) -> None:
        self._session = session
        self.context = context
        self.complaints: list[str] = []

    async def goto(self, url: str) -> None:
        """Navigate, and return once the page is interactive."""
        await self._session.send("browsingContext.navigate", context=self.context, url=url, wait="interactive")

    async def reload(self) -> None:
        """Load the page again."""
        await self._session.send("browsingContext.reload", context=self.context, wait="interactive")

    async def show(self) -> None:
        """Bring the tab to the front; the one that was there is hidden."""
        await self._session.send("browsingContext.activate", context=self.context)

    async def evaluate(self, expression: str) -> Any:
        """Return what an expression gives, awaited, as JSON values.

        Raises:
            BidiError: it threw.
        """
        answer = await self._session.send(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({expression})) ?? 'null')()",
            target={"context": self.context},
            awaitPromise=True,
        )
        if answer["type"] != "success":
            raise BidiError(f"{expression}: {answer['exceptionDetails']['text']}")
        return json.loads(answer["result"]["value"])

    async def screenshot(self) -> bytes:
        """Return what the tab shows, as PNG."""
        answer = await self._session.send("browsingContext.captureScreenshot", context=self.context)
        return base64.b64decode(answer["data"])

    async def close(self) -> None:
        """Close the tab."""
        await self._session.send("browsingContext.close", context=self.context)


class Session:
    """A driver's connection. Its tabs share storage and channels with each other, and nothing with other sessions'."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._windows: dict[str, Window] = {}
        self._responder: Responder | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._user = ""

    async def open(self) -> Window:
        """Open a tab, in front of the others."""
        answer = await self.send("browsingContext.create", type="tab", userContext=self._user)
        window = self._windows[answer["context"]] = Window(self, answer["context"])
        return window

    async def respond(self, responder: Responder, *paths: str) -> None:
        """Ask `responder` first for whatever pages load from `paths`, at any origin."""
        self._responder = responder
        patterns = [{"type": "pattern", "pathname": path} for path in paths]
        await self.send("network.addIntercept", phases=["beforeRequestSent"], urlPatterns=patterns)

    async def send(self, method: str, **params: Any) -> Json:
        """Send a command; return its result.

        Raises:
            BidiError: it was refused.
        """
        number = next(self._ids)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                answer = await self._waiting[number]
        finally:
            del self._waiting[number]
        if answer["type"] == "error":
            raise BidiError(f"{method}: {answer['error']}: {answer['message']}")
        result: Json = answer["result"]
        return result

    async def _read(self) -> None:
        async for text in self._connection:
            message: Json = json.loads(text)
            if message["type"] == "event":
                self._hear(message["method"], message["params"])
            elif (waiting := self._waiting.get(message["id"])) is not None and not waiting.done():
                waiting.set_result(message)

    def _hear(self, method: str, params: Json) -> None:
        if method == "log.entryAdded":
            window = self._windows.get(params["source"].get("context", ""))
            if window is not None:
                window.complaints.append(params["text"] or "")
        elif method == "network.beforeRequestSent" and params["isBlocked"]:
            task = asyncio.ensure_future(self._answer(params["request"]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Json) -> None:
        number = request["request"]
        reply = await self._responder(request["url"]) if self._responder else None
        # A tab that was closed meanwhile has no such request any more.
        with contextlib.suppress(BidiError):
            if reply is None:
                await self.send("network.continueRequest", request=number)
                return
            headers = (("Content-Type", reply.content_type), *reply.headers)
            await self.send(
                "network.provideResponse",
                request=number,
                statusCode=200,
                reasonPhrase="OK",
                headers=[{"name": name, "value": {"type": "string", "value": value}} for name, value in headers],
                body={"type": "string", "value": reply.body},
            )


@contextlib.asynccontextmanager
async def session(url: str) -> AsyncIterator[Session]:
    """A session on a running Firefox, which has one at a time; its tabs are closed on exit."""
    async with connect(url, max_size=None, proxy=None) as connection:
        driver = Session(connection)
        reading = asyncio.ensure_future(driver._read())
        try:
            await driver.send("session.new", capabilities={})
            driver._user = (await driver.send("browser.createUserContext"))["userContext"]
            await driver.send("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
            yield driver
            await driver.send("browser.removeUserContext", userContext=driver._user)
            await driver.send("session.end")
        finally:
            # An answer to a tab that is gone would wait for its own, which nobody reads any more.
            tasks = (reading, *driver._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
