"""A real Chromium whose tabs are hidden, throttled and frozen as a user's are, unlike those of support.chromium.

A browser that Playwright starts treats each page as the one in front, and never freezes such a page. So this one is
started by hand, and Playwright joins it over the DevTools protocol, asked to change nothing.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from playwright.async_api import BrowserContext, Page, async_playwright

from tests.support.chromium import chromium_path
from tests.support.processes import end_group
from tests.support.wait import until

START_TIMEOUT_S = 30.0


@contextlib.asynccontextmanager
async def window(*arguments: str) -> AsyncIterator[BrowserContext]:
    """The one window of a headless browser with a profile of its own, closed on exit. arguments: more switches.

    Of its tabs only the one opened or brought to the front last is visible.
    """
    with tempfile.TemporaryDirectory(prefix="planwire-chromium-", ignore_cleanup_errors=True) as profile:
        process = _start(profile, arguments)
        try:
            url = await until(lambda: _listening(process, Path(profile)), timeout_s=START_TIMEOUT_S)
            async with async_playwright() as playwright:
                browser = await playwright.chromium.connect_over_cdp(url, no_defaults=True)
                try:
                    yield browser.contexts[0]
                finally:
                    await browser.close()
        finally:
            end_group(process)


def _start(profile: str, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            chromium_path(),
            "--headless=new",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            # As root, and in containers, Chromium's own sandbox cannot be set up.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            *arguments,
            "about:blank",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _listening(process: subprocess.Popen[bytes], profile: Path) -> str:
    """The DevTools URL, empty until the browser has told it: the file's two lines are the port and the path."""
    if process.poll() is not None:
        raise RuntimeError(f"Chromium ended with status {process.returncode} before it listened")
    with contextlib.suppress(FileNotFoundError):
        port, _, path = (profile / "DevToolsActivePort").read_text().partition("\n")
        if path:
            return f"ws://127.0.0.1:{port}{path}"
    return ""


async def freeze(page: Page) -> None:
    """Hide the page and freeze it, as the browser does with a tab that is long unused: its timers and messages wait.

    The protocol can still evaluate expressions in it.
    """
    await _live(page, "frozen")


async def thaw(page: Page) -> None:
    """Let a frozen page run again. It stays hidden until it is brought to the front."""
    await _live(page, "active")


async def _live(page: Page, state: str) -> None:
    session = await page.context.new_cdp_session(page)
    await session.send("Page.setWebLifecycleState", {"state": state})
    await session.detach()
