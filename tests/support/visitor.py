"""Somebody in front of the console: a page in a real browser, its complaints kept and its clicks counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, expect

TOKEN = "a-console-token-for-tests-0123456789"
WIDTHS = (360, 768, 1440)

VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""


class Visitor:
    """A page. `problems`: what it complained about, breaches of its content policy included; `clicks` since `land`."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.problems: list[str] = []
        self.clicks = 0
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._noted)

    def _noted(self, message: ConsoleMessage) -> None:
        # The browser notes by itself each answer that asks for a login.
        if message.type in ("error", "warning") and "401 (Unauthorized)" not in message.text:
            self.problems.append(message.text)

    async def land(self) -> None:
        """Go to the landing page, as somebody who opens the console does."""
        await self.page.goto(f"{self.url}/console/#/")
        await expect(self.page.locator("#landing")).to_be_visible(timeout=15_000)
        self.clicks = 0

    async def click(self, target: Locator) -> None:
        """Click what is on the screen."""
        await expect(target).to_be_visible(timeout=15_000)
        await target.click()
        self.clicks += 1

    async def log_in(self, token: str = TOKEN) -> None:
        """Give the token to the login form."""
        await self.page.get_by_label("Console token").fill(token)
        await self.page.keyboard.press("Enter")

    async def fits(self) -> None:
        """Check that nothing makes the page scroll sideways, whatever its width."""
        before = self.page.viewport_size
        for width in WIDTHS:
            await self.page.set_viewport_size({"width": width, "height": 900})
            wide = await self.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide <= 0, f"{wide} px too wide at {width}"
        if before is not None:
            await self.page.set_viewport_size(before)

    async def is_content(self) -> None:
        """Check that nothing was complained about and nothing breached the content policy."""
        assert await self.page.evaluate("window.violations") == []
        assert self.problems == [], self.problems


@asynccontextmanager
async def visiting(browser: Browser, url: str, **options: object) -> AsyncIterator[Visitor]:
    """Somebody with a browser of their own at the gateway at `url`; nothing is opened yet."""
    context = await browser.new_context(**options)  # type: ignore[arg-type]
    await context.add_init_script(VIOLATIONS)
    page = await context.new_page()
    yield Visitor(page, url)
    await context.close()
