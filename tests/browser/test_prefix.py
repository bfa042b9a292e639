"""The console and the demo in a real browser, below a path of another site that nginx serves."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from sync.store.models import Change
from sync.store.store import Store
from tests.support.certificates import Certificates, make_certificates
from tests.support.chromium import chromium
from tests.support.gateway import environment, run_gateway
from tests.support.processes import Running, clean_environ, python, running
from tests.support.proxies import NO_FORWARDING_HEADERS, run_proxy
from tests.support.servers import free_port
from tests.support.visitor import TOKEN
from tests.support.wait import until

PREFIX = "/planwire"
VENDOR = Path(__file__).parents[2] / "gateway" / "dev" / "demo" / "vendor"
EXAMPLES = ("elements", "react", "vue", "svelte", "openfeature", "classic")


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pw-"))
    yield path / "data"
    shutil.rmtree(path, ignore_errors=True)


def watched(page: Page) -> tuple[list[str], list[str]]:
    """Return lists that fill with the addresses that a page asks for, and with what goes wrong in it."""
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("response", lambda answer: errors.append(f"{answer.status} {answer.url}") if answer.status == 404 else None)
    return asked, errors


def strays(asked: list[str], port: int) -> list[str]:
    inside = re.compile(rf"(?:https|wss)://127\.0\.0\.1:{port}{PREFIX}/|data:")
    return [url for url in asked if not inside.match(url)]


async def test_the_console_works_below_a_path(store_url: str, store: Store, made: Certificates) -> None:
    await store.commit(Change("tenant:acme", json.dumps({"plan": {"key": "pro"}}).encode()))
    settings = environment(store_url, CONSOLE_TOKEN=TOKEN, TRUSTED_PROXIES="127.0.0.1")
    async with (
        run_gateway(settings) as gateway,
        run_proxy("nginx", gateway.port, made, prefix=PREFIX) as port,
        chromium() as browser,
    ):
        context = await browser.new_context(ignore_https_errors=True)
        await context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = await context.new_page()
        asked, errors = watched(page)
        base = f"https://127.0.0.1:{port}{PREFIX}"
        await page.goto(f"{base}/console")
        assert page.url == f"{base}/console/"
        await page.locator("#token").fill(TOKEN)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.locator("#freshness")).to_have_attribute("data-status", "fresh")
        await page.get_by_role("link", name="tenant:acme").first.click()
        await expect(page.locator("#snapshot pre").first).to_contain_text("pro")
        assert page.url.startswith(f"{base}/console/#/topics/")
        await page.get_by_role("button", name="Copy as curl").click()
        assert f"{base}/v1/state/tenant:acme" in await page.evaluate("navigator.clipboard.readText()")
        version = (await store.commit(Change("tenant:acme", b'{"plan":{"key":"max"}}'))).version
        await expect(page.locator("#snapshot pre").first).to_contain_text("max")
        assert version
        await page.get_by_role("button", name="Log out").click()
        await expect(page.locator("#token")).to_be_visible()
        assert await context.cookies(f"{base}/console/") == []
        assert strays(asked, port) == []
        assert errors == []


async def test_the_demo_and_its_examples_work_below_a_path(data_dir: Path, made: Certificates) -> None:
    environ = clean_environ(data_dir, PORT=str(free_port()))

    async def ready(program: Running) -> bool:
        assert program.status() is None, program.text
        return "planwire ready: " in program.text

    with running(python("-m", "gateway.dev"), environ) as program:
        await until(lambda: ready(program), timeout_s=60)
        async with (
            run_proxy(
                "nginx", int(environ["PORT"]), made, prefix=PREFIX, changes=NO_FORWARDING_HEADERS["nginx"]
            ) as port,
            chromium() as browser,
        ):
            context = await browser.new_context(ignore_https_errors=True)
            page = await context.new_page()
            asked, errors = watched(page)
            base = f"https://127.0.0.1:{port}{PREFIX}"
            await page.goto(f"{base}/demo?tenant=acme")
            assert page.url.startswith(f"{base}/demo/")
            await page.goto(f"{base}/demo/?tenant=acme")
            await expect(page.locator("#plan")).to_have_text("Free")
            await page.locator("button[data-action=upgrade]").click()
            await expect(page.locator("#plan")).to_have_text("Pro")
            for name in EXAMPLES:
                if name not in ("elements", "classic") and not (VENDOR / f"{name}.js").exists():
                    continue  # made by npm, where there is one
                await page.goto(f"{base}/demo/?tenant=acme")
                await page.locator(f"a[href='examples/{name}.html']").click()
                await page.goto(f"{base}/demo/examples/{name}.html?tenant=acme")
                await expect(page.locator("#plan")).to_have_text("Pro")
            assert strays(asked, port) == []
            assert errors == []
