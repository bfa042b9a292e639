"""The console in a real browser: which tab is behind, which refuses, why; and hostile text stays text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from playwright.async_api import Browser, Page, expect

from sync.billing import pipeline
from sync.state.store import Change, Store
from tests.support.chromium import chromium
from tests.support.gateway import environment, open_client, run_gateway, token

pytestmark = pytest.mark.browser

TOKEN = "a-console-token-for-tests-0123456789"
TOPIC = "tenant:acme"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
WIDTHS = (360, 768, 1440)


async def commit(store: Store, state: object, number: int, topic: str = TOPIC) -> int:
    cause = {
        "source": "paddle",
        "event_id": f"evt_{number}",
        "event_type": "subscription.updated",
        "occurred_at": "2026-11-23T00:16:01.871Z",
        "received_at": "2026-11-23T00:16:02.013Z",
    }
    return (await store.commit(Change(topic, orjson.dumps(state), cause=orjson.dumps(cause)))).version


@asynccontextmanager
async def opened(browser: Browser, url: str, problems: list[str], **options: object) -> AsyncIterator[Page]:
    """A page whose every complaint is kept."""
    context = await browser.new_context(**options)  # type: ignore[arg-type]
    page = await context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    await page.goto(url)
    yield page
    await context.close()


async def fits(page: Page) -> None:
    """Nothing makes the page scroll sideways, whatever its width."""
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 900})
        wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{wide} px too wide at {width}"


async def log_in(page: Page, text: str = TOKEN) -> None:
    await page.get_by_label("Console token").fill(text)
    await page.keyboard.press("Enter")


async def test_a_tab_that_is_behind_and_one_that_refuses_are_found_from_the_landing_page(
    store_url: str, store: Store
) -> None:
    await commit(store, {"plan": {"key": "free", "name": "Free"}, "limits": {"seats": 1}, "note": "x"}, 1)
    state = {"plan": {"key": "pro", "name": "Pro"}, "limits": {"seats": 12}, "note": HOSTILE}
    version = await commit(store, state, 2)
    await commit(store, {"plan": {"key": "free"}}, 3, "tenant:calm")
    event: dict[Any, Any] = {
        "event_id": "evt_0",
        "type": HOSTILE,
        "outcome": "refused",
        "reason": "older than what is known",
        "at": "1",
    }
    await store.redis.xadd(pipeline.events_key(TOPIC), event)
    problems: list[str] = []
    environ = environment(store_url, CONSOLE_TOKEN=TOKEN, ACK_AFTER_MS="0")
    async with (
        run_gateway(environ) as running,
        open_client(running, TOPIC, "tenant:calm", jwt=token(sub="ann")) as good,
        open_client(running, TOPIC, jwt=token(sub="ben")) as bad,
        open_client(running, hello=False) as silent,
        chromium() as browser,
        opened(browser, f"{running.url}/console", problems, color_scheme="dark") as page,
    ):
        await silent.send("hello", token=token(sub="cy"), topics={TOPIC: 0}, client=HOSTILE[:64])
        for each in (good, bad, silent):
            frame = await each.until("snapshot")
            if each is good:
                await each.send("ack", topic=frame["topic"], version=frame["version"])
                frame = await each.until("snapshot")
                await each.send("ack", topic=frame["topic"], version=frame["version"])
        await bad.send("nack", topic=TOPIC, version=version, reason=HOSTILE)

        await log_in(page, "wrong")
        await expect(page.locator("#login-problem")).to_contain_text("not the console token")
        await log_in(page)

        await expect(page.locator("#freshness")).to_have_attribute("data-status", "fresh")
        await expect(page.locator("#landing tbody tr")).to_have_count(2)
        figures = page.locator(".figures")
        await expect(figures).to_contain_text("Tabs behind1")
        await expect(figures).to_contain_text("Tabs refusing1")
        await fits(page)
        await page.get_by_label("Only with trouble").check()
        await expect(page.locator("#landing tbody tr")).to_have_count(1)
        await page.get_by_role("link", name=TOPIC).click()

        chain = page.locator(".chain")
        for text in (str(version), "evt_2", "subscription.updated", "It has the newest version."):
            await expect(chain).to_contain_text(text)
        pills = page.locator("#topic [aria-labelledby=tabs-head] tbody .pill")
        await expect(pills).to_have_text(["NACKED", "BEHIND", "SYNCED"])
        await expect(pills.nth(1)).to_have_attribute(
            "title", "BEHIND: The newest version was sent, and it has not said that it shows it."
        )
        tabs = page.locator("#topic [aria-labelledby=tabs-head] tbody tr")
        await expect(tabs.nth(0)).to_contain_text("could not use it. It said: " + HOSTILE)
        await expect(tabs.nth(0)).to_contain_text("ben")
        await expect(tabs.nth(1)).to_contain_text("cy")
        await expect(tabs.nth(1)).to_contain_text(HOSTILE[:64])
        diff = page.locator("#topic [aria-labelledby=timeline-head] tbody").nth(1)
        await expect(diff).to_contain_text('/plan/name"Free""Pro"')
        await expect(page.locator("#topic pre")).to_contain_text("<script>document.title='owned'</script>")
        await expect(page.locator("#topic [aria-labelledby=events-head] tbody")).to_contain_text(HOSTILE)
        assert await page.locator("img, main script").count() == 0
        assert await page.title() == f"{TOPIC} - Planwire console"
        await fits(page)

        # Live: what is answered is seen, and a new version puts everybody in its debt.
        await silent.send("ack", topic=TOPIC, version=version)
        await expect(pills).to_have_text(["NACKED", "SYNCED", "SYNCED"])
        newer = await commit(store, state | {"note": "calm"}, 4)
        await expect(chain).to_contain_text(str(newer))
        await expect(pills).to_have_text(["BEHIND", "BEHIND", "BEHIND"])
        await expect(diff).to_contain_text("/note")

        # A link leads back here, and the keyboard to the search.
        await page.reload()
        await expect(pills).to_have_count(3)
        await page.keyboard.press("Escape")
        await expect(page.locator("#search")).to_be_visible()
        await page.keyboard.press("/")
        await page.keyboard.type("tenant:nobody")
        await expect(page.get_by_text("No tab here holds it")).to_be_visible()
        await page.keyboard.press("Enter")
        await expect(page.locator("#here")).to_contain_text("not live")
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("Console token")).to_be_visible()
        # The browser notes by itself the answers that ask for a login.
        assert [problem for problem in problems if "401 (Unauthorized)" not in problem] == []


async def test_the_page_asks_for_nothing_while_nobody_looks_and_says_when_it_is_not_answered(
    store_url: str, store: Store
) -> None:
    problems: list[str] = []
    asked: list[str] = []
    async with chromium() as browser, run_gateway(environment(store_url, DEV="1")) as running:
        await commit(store, {"n": 1}, 1)
        async with opened(browser, f"{running.url}/console/#/topics/{TOPIC}", problems) as page:
            await expect(page.locator("#store")).to_contain_text("evt_1")
            await hide(page, True)
            page.on("request", lambda request: asked.append(request.url))
            await page.wait_for_timeout(1500)
            assert asked == []
            await hide(page, False)
            async with page.expect_response("**/console/api/counters"):
                pass
            assert problems == []
            await page.route("**/console/api/**", lambda route: route.abort())
            await expect(page.locator("#freshness")).to_have_attribute("data-status", "offline")
            await expect(page.locator("#notice")).to_contain_text("Not up to date")
            await page.unroute("**/console/api/**")
            await expect(page.locator("#freshness")).to_have_attribute("data-status", "fresh", timeout=8000)
            await expect(page.locator("#notice")).to_be_hidden()


async def hide(page: Page, is_hidden: bool) -> None:
    """Have the page believe that nobody can see it, or somebody can."""
    await page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        is_hidden,
    )
