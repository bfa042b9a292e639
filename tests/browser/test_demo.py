"""The main story in a real browser: `make run`'s system, the demo in two tabs, an upgrade, a killed gateway."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from tests.support.chromium import chromium
from tests.support.processes import Running, alive_with, clean_environ, python, running
from tests.support.servers import free_port
from tests.support.wait import until

TENANT = "auth0|5f Zo\u00eb"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pw-"))
    yield path / "data"
    shutil.rmtree(path, ignore_errors=True)


async def ready(program: Running) -> str:
    def url() -> str:
        found = re.findall(r"(?m)^planwire ready: (http://127\.0\.0\.1:\d+)$", program.text)
        assert program.status() is None, program.text
        return str(found[0]) if found else ""

    await until(url, timeout_s=30)
    return url()


async def shows(page: Page, plan: str, status: str = "fresh", timeout_s: float = 20) -> None:
    await expect(page.locator("#plan")).to_have_text(plan)
    await expect(page.locator("#freshness")).to_have_attribute("data-status", status, timeout=timeout_s * 1000)


async def test_an_upgrade_reaches_both_tabs_and_survives_a_killed_gateway(data_dir: Path) -> None:
    simulator = f"http://127.0.0.1:{free_port()}"
    environ = clean_environ(data_dir, PORT=str(free_port()), PLANWIRE_SIMULATOR_URL=simulator)
    async with chromium() as browser:
        context = await browser.new_context()
        first, second = await context.new_page(), await context.new_page()
        loads: list[str] = []
        errors: list[str] = []
        for page in (first, second):
            page.on("load", lambda page: loads.append(page.url))
            page.on("pageerror", lambda error: errors.append(str(error)))

        with running(python("-m", "gateway.dev"), environ) as program:
            url = await ready(program)
            for page in (first, second):
                await page.goto(f"{url}/demo/?tenant={quote(TENANT)}")
                await expect(page.locator("#tenant")).to_have_text(TENANT)
                await shows(page, "Free")
            await first.locator("button[data-action=upgrade]").click()
            for page in (first, second):
                await shows(page, "Pro")
                await expect(page.locator("#latency")).to_contain_text(re.compile(r"\d+ ms"))
            web = next(pid for pid, line in alive_with(data_dir).items() if "gateway.server" in line)
            os.kill(web, signal.SIGKILL)
            # Nothing is hidden: what was known is still shown, and said to be old.
            for page in (first, second):
                await expect(page.locator("#freshness")).not_to_have_attribute("data-status", "fresh")
                await expect(page.locator("#plan")).to_have_text("Pro")
            await until(lambda: program.status() is not None, timeout_s=30)

        with running(python("-m", "gateway.dev"), environ) as program:
            await ready(program)
            for page in (first, second):
                # The longer it was gone, the later a page asks again: after 30 s at the most.
                await shows(page, "Pro", timeout_s=45)
            await second.locator("button[data-action=cancel]").click()
            for page in (first, second):
                await expect(page.locator("body")).to_contain_text("Your plan ends on ")
                await shows(page, "Pro")
        assert len(loads) == 2, "no page was reloaded"
        assert errors == []


async def test_two_applications_and_what_is_bought_once_each_by_itself(data_dir: Path) -> None:
    simulator = f"http://127.0.0.1:{free_port()}"
    environ = clean_environ(data_dir, PORT=str(free_port()), PLANWIRE_SIMULATOR_URL=simulator)
    async with chromium() as browser:
        page = await browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        with running(python("-m", "gateway.dev"), environ) as program:
            await page.goto(f"{await ready(program)}/demo/?tenant=both")
            mail, once = page.locator("[data-app=mail]"), page.locator("#purchases")
            await shows(page, "Free")
            await expect(mail.locator(".plan")).to_have_text("Not bought")
            await mail.get_by_role("button", name="Buy Mail,").click()
            await expect(mail.locator(".plan")).to_have_text("Mail")
            await shows(page, "Free")
            await mail.get_by_role("button", name="Change to Mail Plus").click()
            await expect(mail.locator(".plan")).to_have_text("Mail Plus")
            await page.locator("button[data-action=upgrade]").click()
            await shows(page, "Pro")
            await mail.get_by_role("button", name="Cancel at period end").click()
            await expect(mail).to_contain_text("Mail ends on ")
            await expect(page.locator("#scheduled")).to_be_hidden()
            await mail.get_by_role("button", name="Keep it").click()
            await expect(mail.get_by_role("button", name="Cancel at period end")).to_be_visible()

            await once.get_by_role("button", name="Buy Course").click()
            await expect(page.locator("#features")).to_contain_text("Course")
            await once.get_by_role("button", name="Buy Lifetime").click()
            await shows(page, "Lifetime")
            lifetime = once.locator(".bought li", has_text="Lifetime")
            await lifetime.get_by_role("button", name="Chargeback").click()
            await shows(page, "Pro")
            await expect(lifetime).to_contain_text("money back")
            await lifetime.get_by_role("button", name="Win the chargeback").click()
            await shows(page, "Lifetime")
            await once.locator(".bought li", has_text="Course").get_by_role("button", name="Refund").click()
            await expect(page.locator("#features")).not_to_contain_text("Course")
            await expect(mail.locator(".plan")).to_have_text("Mail Plus")
        # What is not known any more is not said to be missing.
        await expect(page.locator("#freshness")).not_to_have_attribute("data-status", "fresh")
        await expect(mail.locator(".plan")).to_have_text("Mail Plus")
        assert errors == []


async def test_the_api_runs_into_its_limit_and_an_upgrade_lifts_it_live(data_dir: Path) -> None:
    simulator = f"http://127.0.0.1:{free_port()}"
    environ = clean_environ(data_dir, PORT=str(free_port()), PLANWIRE_SIMULATOR_URL=simulator)
    async with chromium() as browser:
        context = await browser.new_context()
        page, other = await context.new_page(), await context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        with running(python("-m", "gateway.dev"), environ) as program:
            url = await ready(program)
            for each in (page, other):
                await each.goto(f"{url}/demo/?tenant=metered")
                await expect(each.locator("[data-meter=api_calls] .count")).to_have_text("0 of 20")
            calls, seats, ai = (page.locator(f"[data-meter={key}]") for key in ("api_calls", "seats", "ai"))
            ten = calls.get_by_role("button", name="Use it 10 times")
            for used in (10, 20):
                await ten.click()
                for each in (page, other):
                    await expect(each.locator("[data-meter=api_calls] .count")).to_have_text(f"{used} of 20")
            await expect(calls).to_have_attribute("data-status", "reached")
            await expect(calls).to_contain_text("Limit reached")
            await calls.get_by_role("button", name="Use the API").click()
            await expect(page.locator("#notice")).to_contain_text("API calls: Nothing is left")
            await expect(calls.locator(".count")).to_have_text("20 of 20")

            await page.locator("button[data-action=upgrade]").click()
            for each in (page, other):
                shown = each.locator("[data-meter=api_calls]")
                await expect(shown.locator(".count")).to_have_text("20 of 2,000")
                await expect(shown).to_have_attribute("data-fresh", "true")
            await ten.click()
            await expect(calls.locator(".count")).to_have_text("30 of 2,000")

            await seats.get_by_role("button", name="Invite somebody").click()
            await expect(seats.locator(".count")).to_have_text("1 of 1")
            await page.locator("button[data-step='1']").click()
            await expect(seats.locator(".count")).to_have_text("1 of 2")
            await seats.get_by_role("button", name="Remove somebody").click()
            await expect(seats.locator(".count")).to_have_text("0 of 2")

            await page.get_by_role("button", name="Buy 100 AI credits").click()
            await expect(ai).to_contain_text("100 bought left")
            await ai.get_by_role("button", name="Ask the AI").click()
            await expect(ai.locator(".count")).to_have_text("5 of 200")
        # What is not known any more is still shown, and not as current.
        await expect(calls).to_have_attribute("data-fresh", "false")
        await expect(calls.locator(".count")).to_have_text("30 of 2,000")
        assert errors == []
