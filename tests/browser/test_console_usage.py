"""The console's card of usage in a real browser: bars, what is denied, what is not known, and corrections."""

from __future__ import annotations

import os
from pathlib import Path

import httpx2
from playwright.async_api import expect

from sync.store.store import Store
from tests.integration.test_console_usage import gateway
from tests.integration.test_usage import KEY, ask, entitle
from tests.support.chromium import chromium
from tests.support.usage import end_window
from tests.support.visitor import TOKEN, visiting

CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true
limits = { api_calls = 10, seats = 3, exports = 0, tokens = 5 }
credits = { ai = 10 }

[meters.api_calls]
kind = "consumable"

[meters.seats]
kind = "allocated"

[meters.exports]
kind = "consumable"

[meters.tokens]
kind = "consumable"
overage = "soft"

[meters.ai]
kind = "credits"
"""


async def test_usage_is_seen_and_corrected(store_url: str, store: Store, tmp_path: Path) -> None:
    async with gateway(store_url, tmp_path, CATALOG) as running, chromium() as browser:
        await entitle(store, api_calls=10, seats=3, exports="unlimited", tokens=5, ai=10)
        await ask(running, "/tokens/consume", {"amount": 4})
        await ask(running, "/tokens/consume", {"amount": 4})
        await end_window(store, "acme", "tokens", used=5)
        await ask(running, "/api_calls/consume", {"amount": 8, "key": "order-1"})
        await ask(running, "/seats/set", {"amount": 3})
        await ask(running, "/tokens/consume", {"amount": 7})
        await ask(running, "/ai/grant", {"amount": 100, "reason": "welcome", "ends_at": "2030-01-01T00:00:00Z"})
        await ask(running, "/ai/reserve", {"amount": 20, "id": "job-7"})
        await ask(running, "/seats/consume", {"key": "<img/src=x/onerror=alert(1)>"})
        async with visiting(browser, running.url, color_scheme="light") as visitor:
            page = visitor.page
            await page.goto(f"{visitor.url}/console/#/topics/tenant:acme")
            await visitor.log_in(TOKEN)
            card = page.locator("#usage")
            await expect(card).to_be_visible(timeout=15_000)
            meters = card.locator(".meter")
            await expect(meters).to_have_count(5)
            await expect(meters.nth(0)).to_contain_text("8 of 10 used, 2 left")
            await expect(meters.nth(0)).to_contain_text("NEAR")
            await expect(meters.nth(1)).to_contain_text("REACHED")
            await expect(meters.nth(2)).to_contain_text("0 used, unlimited")
            await expect(meters.nth(2).locator("progress")).to_be_hidden()
            await expect(meters.nth(3)).to_contain_text("OVER")
            await expect(meters.nth(4)).to_contain_text("20 reserved")
            await expect(meters.nth(4)).to_contain_text("80 of 100 left, until 2030")
            await expect(card.locator("tr.found")).to_contain_text(["<img/src=x/onerror=alert(1)>"])
            await expect(card.get_by_role("region", name="Ended windows").locator("tbody tr")).to_have_count(1)

            await visitor.click(card.get_by_role("button", name="Correct the use…"))
            await page.get_by_label("Meter", exact=True).select_option("api_calls")
            await page.get_by_label("Units").fill("-3")
            await page.get_by_label("Reason").fill("counted twice")
            await page.get_by_role("button", name="Correct", exact=True).click()
            await expect(page.locator("dialog .outcome")).to_have_text("Done: adjust_usage.")
            await page.get_by_role("button", name="Close").click()
            await expect(meters.nth(0)).to_contain_text("5 of 10 used, 5 left")
            await expect(card.get_by_role("region", name="Corrections")).to_contain_text("counted twice")

            await visitor.click(card.get_by_role("button", name="Grant credits…"))
            await page.get_by_role("spinbutton", name="Credits").fill("5")
            await page.get_by_label("Reason").fill("sorry")
            await page.get_by_role("button", name="Grant", exact=True).click()
            await expect(page.locator("dialog .outcome")).to_have_text("Done: grant_credits.")
            await page.get_by_role("button", name="Close").click()
            await expect(meters.nth(4)).to_contain_text("of 115")
            await page.locator(".jumps").get_by_role("button", name="Usage").click()
            await expect(card).to_be_in_viewport()
            if folder := os.environ.get("SCREENSHOTS"):
                await card.screenshot(path=f"{folder}/usage.png")
                await page.set_viewport_size({"width": 380, "height": 900})
                await card.screenshot(path=f"{folder}/usage-narrow.png")
                await page.emulate_media(color_scheme="dark")
                await page.set_viewport_size({"width": 1200, "height": 900})
                await card.screenshot(path=f"{folder}/usage-dark.png")
            await visitor.fits()
            await visitor.is_content()


async def test_calls_are_followed_and_what_is_not_known_is_said(store_url: str, store: Store, tmp_path: Path) -> None:
    async with gateway(store_url, tmp_path, CATALOG) as running, chromium() as browser:
        await ask(running, "/api_calls/consume", {})
        async with visiting(browser, running.url) as visitor:
            page = visitor.page
            await page.goto(f"{visitor.url}/console/#/topics/tenant:acme")
            await visitor.log_in(TOKEN)
            card = page.locator("#usage")
            meters = card.locator(".meter")
            await expect(meters.nth(0)).to_contain_text("1 of 10 used", timeout=30_000)
            await expect(card.get_by_role("status").first).to_contain_text("limits are those of the default plan")
            await ask(running, "/api_calls/consume", {"amount": 9})
            await expect(meters.nth(0)).to_contain_text("10 of 10 used", timeout=30_000)
            await expect(meters.nth(0)).to_contain_text("REACHED")
            async with httpx2.AsyncClient(base_url=running.url, headers=KEY) as backend:
                state = {"topic": "tenant:acme", "state": {"limits": {"seats": 2}}}
                assert (await backend.post("/v1/publish", json=state)).status_code == 200
            await expect(meters.nth(0)).to_contain_text("NOT KNOWN", timeout=30_000)
            await expect(meters.nth(0)).to_contain_text("10 used of a limit that is not known")
            await expect(meters.nth(0).get_by_role("progressbar")).to_be_hidden()
            await expect(meters.nth(1)).to_contain_text("0 of 2 used, 2 left")
            await expect(card.get_by_role("status").first).to_be_hidden()
            await visitor.is_content()


async def test_the_use_is_corrected_with_the_keyboard_alone(store_url: str, store: Store, tmp_path: Path) -> None:
    async with gateway(store_url, tmp_path, CATALOG) as running, chromium() as browser:
        await entitle(store, api_calls=10, seats=3)
        await ask(running, "/seats/set", {"amount": 3})
        async with visiting(browser, running.url) as visitor:
            page = visitor.page
            await page.goto(f"{visitor.url}/console/#/topics/tenant:acme")
            await visitor.log_in(TOKEN)
            correct = page.locator("#usage").get_by_role("button", name="Correct the use…")
            await expect(correct).to_be_visible(timeout=30_000)
            await correct.focus()
            await page.keyboard.press("Enter")
            await expect(page.get_by_label("Meter", exact=True)).to_be_focused()
            await page.keyboard.type("seats")
            await page.keyboard.press("Tab")
            await page.keyboard.type("set")
            await page.keyboard.press("Tab")
            await page.keyboard.type("1")
            await page.keyboard.press("Tab")
            await page.keyboard.type("two have left")
            await page.keyboard.press("Enter")
            await expect(page.locator("dialog .outcome")).to_have_text("Done: adjust_usage.", timeout=30_000)
            await page.keyboard.press("Escape")
            await expect(correct).to_be_focused()
            await expect(page.locator("#usage .meter").nth(1)).to_contain_text("1 of 3 used", timeout=30_000)
            await visitor.is_content()


async def test_without_meters_the_page_is_as_before(store_url: str, store: Store, tmp_path: Path) -> None:
    catalog = '[plans.free]\nname = "Free"\nrank = 0\ndefault = true\n'
    async with gateway(store_url, tmp_path, catalog) as running, chromium() as browser:
        await entitle(store, api_calls=10)
        async with visiting(browser, running.url) as visitor:
            await visitor.page.goto(f"{visitor.url}/console/#/topics/tenant:acme")
            await visitor.log_in(TOKEN)
            await expect(visitor.page.locator("#chain")).to_be_visible(timeout=15_000)
            await expect(visitor.page.locator("#overrides, #upcoming")).to_be_visible()
            await expect(visitor.page.locator("#upcoming")).to_contain_text("No override")
            await expect(visitor.page.locator("#usage")).to_be_hidden()
            await expect(visitor.page.locator(".jumps button", has_text="Usage")).to_be_hidden()
            await visitor.is_content()
