"""A real Chromium for browser tests: the system's own, driven by Playwright; no browser is downloaded."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from tests.support.servers import missing

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MACOS_APPS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


def chromium_path() -> str:
    """The browser's path, from CHROMIUM or PATH; without one the test is skipped (failed under CI)."""
    named = os.environ.get("CHROMIUM")
    if named:
        return named
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    found = found or next((app for app in MACOS_APPS if Path(app).exists()), None)
    if found is None:
        missing("no Chromium on PATH (Debian: apt-get install chromium), and CHROMIUM does not name one")
    return found


@contextlib.asynccontextmanager
async def chromium(*arguments: str, without: tuple[str, ...] = ()) -> AsyncIterator[Browser]:
    """A headless browser, closed on exit. arguments: more command line switches; without: switches of Playwright's.

    Tabs of one context share storage and channels as tabs of one window do; `set_offline` does not cut open sockets.
    """
    path = chromium_path()
    # As root, and in containers, Chromium's own sandbox cannot be set up.
    switches = ["--no-sandbox", "--disable-dev-shm-usage", *arguments]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path, args=switches, ignore_default_args=list(without)
        )
        try:
            yield browser
        finally:
            await browser.close()
