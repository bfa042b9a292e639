"""The demo's example pages: each binding, with its framework, follows a change under the demo's strict policy."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from gateway.dev.demo_routes import FRAMEWORKS, PAGES
from tests.support.client_pages import ChromiumPages
from tests.support.servers import missing

STATUS = {"elements", "react", "vue", "svelte", "openfeature", "classic"}


@pytest.fixture
async def page(pages: ChromiumPages) -> Page:
    """A page on the gateway itself; the test fails when it complains of anything."""
    await pages.context.unroute_all()
    return await pages.context.new_page()


@pytest.mark.parametrize("name", sorted(STATUS))
async def test_an_example_follows(pages: ChromiumPages, page: Page, name: str) -> None:
    if name in FRAMEWORKS and not (PAGES / "vendor" / f"{name}.js").exists():
        missing(f"the {name} page's framework is not bundled: run `make examples`, which needs npm")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(f"{pages.url}/demo/examples/{name}.html?tenant=acme")
    await expect(page.locator("#plan")).to_have_text("Free")
    await expect(page.locator("#status")).to_have_text("fresh")
    await pages.publish(1)
    await expect(page.locator("#plan")).to_have_text("Pro")
    await expect(page.locator("#plan")).to_have_css("opacity", "1")
    assert not complaints
    pages.proxy.is_refusing = True
    pages.proxy.cut()
    await expect(page.locator("#status")).to_have_text("stale")
    await expect(page.locator("#plan")).to_have_css("opacity", "0.55")
    pages.proxy.heal()
    await expect(page.locator("#status")).to_have_text("fresh")


async def test_a_react_component_is_drawn_again_only_when_its_part_changes(pages: ChromiumPages, page: Page) -> None:
    if not (PAGES / "vendor" / "react.js").exists():
        missing("the react page's framework is not bundled: run `make examples`, which needs npm")
    await page.goto(f"{pages.url}/demo/examples/react.html?tenant=acme")
    await expect(page.locator("#status")).to_have_text("fresh")
    plan, features = page.locator("#plan"), page.locator("#features")
    for n in (1, 2, 3):
        version = await pages.publish(n)
        await expect(page.locator("#version")).to_have_text(str(version))
        # Not known, Free, then Pro with single sign-on; what else is in the state concerns neither.
        for part, text, drawn in ((plan, "Pro", "3"), (features, "sso", "2")):
            await expect(part).to_have_text(text)
            await expect(part).to_have_attribute("data-drawn", drawn)


async def test_elements_show_and_hide(pages: ChromiumPages, page: Page) -> None:
    await page.goto(f"{pages.url}/demo/examples/elements.html?tenant=acme")
    await expect(page.locator("#status")).to_have_text("fresh")
    await expect(page.locator("#sso")).to_be_hidden()
    await pages.publish(1)
    await expect(page.locator("#sso")).to_be_visible()
    await page.evaluate("document.querySelector('#sso').setAttribute('feature', 'audit')")
    await expect(page.locator("#sso")).to_be_hidden()
    pages.proxy.is_refusing = True
    pages.proxy.cut()
    await expect(page.locator("#plan")).to_have_attribute("status", "stale")


async def test_the_demo_page_stands_at_every_width(pages: ChromiumPages, page: Page) -> None:
    await pages.publish(1)
    for width in (360, 768, 1600):
        await page.set_viewport_size({"width": width, "height": 900})
        await page.goto(f"{pages.url}/demo/?tenant=acme")
        await expect(page.locator("#plan")).to_have_text("Pro")
        await expect(page.locator("#freshness")).to_have_attribute("data-status", "fresh")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
