"""The console in a real browser: hostile text stays text, keys and links work, lists stay small, and who may what."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from playwright.async_api import Locator, Page, expect

from planwire_client import topic
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change
from sync.store.store import Store
from tests.support.chromium import chromium
from tests.support.client_pages import BUSY_S
from tests.support.gateway import Client, Running, environment, open_client, run_gateway, token
from tests.support.processes import clean_environ, python, running
from tests.support.servers import free_port
from tests.support.visitor import TOKEN, visiting
from tests.support.wait import until

TOPIC = "tenant:acme"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
ODD = "tenant:a~b.c_d@e-F0"
"""Every kind of character that a topic's name may have."""

TOPICS = 10_000
TABS = 250
ROWS_MAX = 80
SEEN_WITHIN_S = 1.0
NOTE_NACKED = """() => {
  new MutationObserver(() => {
    if (document.querySelector(".tabs [data-status=NACKED]")) window.nackedAt ??= Date.now();
  }).observe(document.querySelector("#tabs"), { subtree: true, childList: true, attributes: true });
}"""
FROZEN_S = 10
"""Far longer than it takes to sell a plan meanwhile, and to see that the tab is behind."""

NOTE_SAID = """(button) => {
  window.said = [];
  new MutationObserver(() => window.said.push(button.textContent)).observe(button, { childList: true });
}"""
"""Keeps what a button says, however short."""

READ_TOKEN = "a-read-only-console-token-0123456789"


async def commit(store: Store, state: object, number: int = 1, topic: str = TOPIC) -> int:
    cause = {
        "source": "paddle",
        "event_id": f"evt_{number}",
        "event_type": "subscription.updated",
        "occurred_at": "2026-11-23T00:16:01.871Z",
        "received_at": "2026-11-23T00:16:02.013Z",
    }
    return (await store.commit(Change(topic, orjson.dumps(state), cause=orjson.dumps(cause)))).version


def rows(page: Page, kind: str) -> Locator:
    return page.locator(f".{kind} .vspace > .vrow")


async def test_hostile_texts_stay_text_and_links_lead_back_to_what_was_seen(store_url: str, store: Store) -> None:
    versions = [await commit(store, {"plan": {"key": f"p{number}"}, "note": HOSTILE}, number) for number in range(4)]
    await commit(store, {HOSTILE: HOSTILE}, 5, ODD)
    event: dict[Any, Any] = {"event_id": HOSTILE, "type": HOSTILE, "outcome": "refused", "reason": HOSTILE, "at": "1"}
    await store.redis.xadd(keys.events(TOPIC), event)
    environ = environment(store_url, CONSOLE_TOKEN=TOKEN, ACK_AFTER_MS="0")
    async with (
        run_gateway(environ) as running,
        open_client(running, TOPIC, ODD, jwt=token(sub=HOSTILE)) as bad,
        open_client(running, hello=False) as silent,
        chromium() as browser,
        visiting(browser, running.url, color_scheme="dark") as visitor,
    ):
        page = visitor.page
        await silent.send("hello", token=token(sub="cy"), topics={TOPIC: 0}, client=HOSTILE[:64])
        await bad.until("snapshot")
        await bad.send("nack", topic=TOPIC, version=versions[-1], reason=HOSTILE)

        await page.goto(f"{running.url}/console")
        await visitor.log_in("wrong")
        await expect(page.locator("#login-problem")).to_contain_text("not a console token")
        await visitor.log_in()
        attention = page.locator("#attention").get_by_role("link", name=f"{TOPIC}: 1 tab NACKED")
        await expect(attention).to_be_visible()
        await visitor.fits()

        # A link says which versions are compared.
        await page.goto(f"{running.url}/console/#/topics/{quote(TOPIC)}?from={versions[0]}&to={versions[2]}")
        await expect(page.locator("#diff")).to_contain_text('/plan/key"p0""p2"')
        await expect(rows(page, "versions").nth(1).get_by_role("radio").nth(1)).to_be_checked()
        tabs = rows(page, "tabs")
        await expect(tabs.nth(0)).to_contain_text("It could not use the newest version: " + HOSTILE)
        await expect(tabs.nth(1)).to_contain_text(HOSTILE[:64])
        await expect(page.locator("#events tbody").nth(1)).to_contain_text(HOSTILE)
        await expect(page.locator("#snapshot pre").first).to_contain_text("<script>document.title='owned'</script>")
        # Red is explained to the pointer, to the keyboard and in the text.
        pill = tabs.nth(0).locator(".pill")
        await pill.hover()
        await expect(page.locator("#tip")).to_be_visible()
        await expect(pill).to_have_attribute("aria-describedby", "tip")
        await expect(page.locator("#tip")).to_contain_text("It could not use the newest version: " + HOSTILE)
        await page.mouse.move(0, 0)
        await page.locator("#tabs-sum .pill").focus()
        await expect(page.locator("#tip")).to_contain_text("could not use it")
        await rows(page, "versions").nth(0).get_by_role("radio").nth(1).check()
        await expect(page).to_have_url(re.compile(f"to={versions[3]}"))
        await page.reload()
        await expect(page.locator("#diff")).to_contain_text('/plan/key"p0""p3"')
        await visitor.fits()
        # On a phone, too: one line at the top, and instants that differ look different.
        await page.set_viewport_size({"width": 360, "height": 800})
        tops = [await page.locator(name).bounding_box() for name in (".brand", "#help-button", "#logout")]
        assert all([box and box["y"] < 40 for box in tops]), tops
        time_cell = rows(page, "versions").first.locator("[data-label=Committed]")
        assert await time_cell.evaluate("each => each.scrollWidth <= each.clientWidth")
        await page.set_viewport_size({"width": 1280, "height": 720})

        await page.goto(f"{running.url}/console/#/topics/{quote(ODD)}")
        await expect(page.locator("#snapshot pre").first).to_contain_text(HOSTILE.replace('"', '\\"'))
        await page.goto(f"{running.url}/console/#/?search={quote(HOSTILE)}")
        await expect(page.get_by_label("Search topics")).to_have_value(HOSTILE)
        await page.goto(f"{running.url}/console/#/topics/{quote(HOSTILE)}")
        await expect(page.locator("#notice")).to_contain_text("That cannot be shown")
        assert await page.locator("img, main script").count() == 0
        assert "owned" not in await page.evaluate(
            "[...document.querySelectorAll('*')].map(each => each.onerror).join()"
        )
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("Console token")).to_be_visible()
        visitor.problems = [text for text in visitor.problems if "422" not in text]
        await visitor.is_content()


async def test_ten_thousand_topics_are_a_short_list_that_keys_walk(store_url: str, store: Store) -> None:
    changes = [Change(f"tenant:t{number:05d}", b'{"plan":{"key":"free"}}') for number in range(TOPICS)]
    for start in range(0, TOPICS, 1000):
        await store.commit_many(changes[start : start + 1000])
    async with (
        run_gateway(environment(store_url, DEV="1")) as running,
        open_client(running, "tenant:t00007") as _,
        chromium() as browser,
        visiting(browser, running.url, viewport={"width": 1440, "height": 900}) as visitor,
    ):
        page = visitor.page
        await visitor.land()
        topics = rows(page, "topics")
        await expect(page.locator("#topics [role=status]").first).to_contain_text("10,000 topics, 1 with tabs")
        await expect(page.locator(".topics")).to_have_attribute("aria-rowcount", str(TOPICS + 1))
        await page.locator(".topics").focus()
        for key, shown in (("End", "tenant:t09999"), ("Home", "tenant:t00000"), ("PageDown", "tenant:t00008")):
            await page.keyboard.press(key)
            await expect(topics.filter(has_text=shown)).to_be_in_viewport()
            assert await topics.count() <= ROWS_MAX
        assert await page.locator("*").count() < 1500

        # From the keyboard: search, choose, open, compare, back.
        await page.keyboard.press("/")
        await page.keyboard.type("t0000")
        await expect(page.locator(".topics")).to_have_attribute("aria-rowcount", "11")
        await expect(page).to_have_url(re.compile(r"#/\?search=t0000$"))
        await page.keyboard.press("ArrowDown")
        for key in "jjjkjjjjj":
            await page.keyboard.press(key)
        await expect(page.locator(".topics [aria-selected=true]")).to_contain_text("tenant:t00007")
        active = await page.locator(".topics").get_attribute("aria-activedescendant")
        await expect(page.locator(f"[id='{active}']")).to_contain_text("tenant:t00007")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="tenant:t00007")).to_be_visible()
        await expect(page.locator("#timeline")).to_contain_text("the oldest kept")
        await commit(store, {"plan": {"key": "pro"}}, 9, "tenant:t00007")
        await expect(page.locator("#diff")).to_contain_text('/plan/key"free""pro"')
        await page.keyboard.press("3")
        await page.keyboard.press("j")
        await page.keyboard.press("d")
        await expect(page).to_have_url(re.compile("from="))
        await page.keyboard.press("r")
        await expect(page.locator("dialog[open]")).to_contain_text("is committed again")
        await page.keyboard.press("Escape")
        await expect(page.locator("dialog[open]")).to_have_count(0)
        await page.keyboard.press("?")
        await expect(page.locator("#help")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator("#help")).to_be_hidden()
        await page.keyboard.press("Escape")
        await expect(page.locator("#landing")).to_be_visible()
        await page.keyboard.press("t")
        await expect(page).to_have_url(re.compile(r"#/\?search=t0000&only=trouble$"))
        await visitor.is_content()


@asynccontextmanager
async def crowd_at(running: Running) -> AsyncIterator[None]:
    """So many tabs at a gateway; nobody reads what they are sent."""
    async with AsyncExitStack() as stack:
        for number in range(TABS):
            await stack.enter_async_context(open_client(running, TOPIC, jwt=token(sub=f"crowd{number}")))
        yield


async def synced(client: Client, topic: str = TOPIC) -> None:
    """Acknowledge the next snapshot."""
    frame = await client.until("snapshot")
    await client.send("ack", topic=topic, version=frame["version"])


async def test_a_refusing_tab_of_another_gateway_is_seen_within_a_second_by_a_reader(
    store_url: str, store: Store
) -> None:
    await commit(store, {"plan": {"key": "pro"}})
    tokens = f"admin:{TOKEN},read:{READ_TOKEN}"
    environ = environment(store_url, CONSOLE_TOKEN=tokens, ACK_AFTER_MS="0", SWEEP_S="1")
    async with (
        run_gateway(environ) as here,
        run_gateway(environ) as there,
        open_client(here, TOPIC, jwt=token(sub="ann")) as good,
        open_client(there, TOPIC, jwt=token(sub="ben")) as bad,
        chromium() as browser,
        visiting(browser, here.url, viewport={"width": 1440, "height": 900}) as visitor,
    ):
        page = visitor.page
        await asyncio.gather(synced(good), synced(bad))
        await page.goto(f"{here.url}/console/#/topics/{TOPIC}")
        await visitor.log_in(READ_TOKEN)
        gateways = page.locator("#here .gateways > li")
        await expect(gateways).to_have_count(2)
        tabs = rows(page, "tabs")
        await expect(tabs.locator(".pill")).to_have_text(["SYNCED: It shows the newest version."] * 2)
        await commit(store, {"plan": {"key": "new"}}, 2)
        await synced(good)
        version = (await bad.until("snapshot"))["version"]
        await expect(page.locator("#committed")).to_contain_text(str(version))
        # From now on no poll is answered: only the stream can tell.
        await page.route("**/console/api/topics/**", lambda route: None)
        await page.wait_for_timeout(2500)
        await page.evaluate(NOTE_NACKED)
        refused_at_s = time.time()
        await bad.send("nack", topic=TOPIC, version=version, reason="TypeError")
        await expect(tabs.locator("[data-status=NACKED]")).to_be_visible()
        assert await page.evaluate("window.nackedAt") / 1000 - refused_at_s < SEEN_WITHIN_S + BUSY_S
        await expect(tabs.nth(0)).to_contain_text("ben")
        await page.unroute("**/console/api/topics/**")
        await page.reload()

        # Many tabs are a short list, too.
        async with crowd_at(there):
            await expect(page.locator("#tabs-sum")).to_contain_text(str(TABS + 2))
            await page.locator(".tabs").focus()
            await page.keyboard.press("End")
            await expect(page.locator(".tabs")).to_have_attribute("aria-rowcount", str(TABS + 3))
            await expect(page.locator(".tabs [aria-busy]")).to_have_count(0)
            assert await tabs.count() <= ROWS_MAX

        # Who may only read sees why nothing can be done.
        await expect(page.locator("#read-only")).to_be_visible()
        for name in ("Reconcile…", "Revoke…", "Simulate…"):
            button = page.get_by_role("button", name=name)
            await expect(button).to_have_attribute("aria-disabled", "true")
            await button.hover()
            await expect(page.locator("#tip")).to_contain_text("may only read" if name != "Simulate…" else "")
            await button.click(force=True)
        await expect(page.locator("dialog[open]")).to_have_count(0)
        for headers, code in (({}, "header_missing"), ({"Planwire-Console": "1"}, "scope_missing")):
            answer = await page.evaluate(
                "async (headers) => { const answer = await fetch('/console/api/actions/revoke', {method: 'POST', body: "
                "'{\"topic\":\"tenant:acme\"}', headers: {'Content-Type': 'application/json', ...headers}});"
                " return (await answer.json()).code; }",
                headers,
            )
            assert answer == code
        visitor.problems = [text for text in visitor.problems if "403" not in text]
        await visitor.is_content()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pw-"))
    yield path / "data"
    shutil.rmtree(path, ignore_errors=True)


async def confirmed(page: Page, label: str, timeout_s: float = 20) -> Locator:
    """Confirm what the dialog asks; return the dialog once it shows the audit log's entry."""
    dialog = page.locator("dialog.action[open]")
    await dialog.get_by_role("button", name=label, exact=True).click()
    await expect(dialog.locator(".outcome")).to_contain_text("Done", timeout=timeout_s * 1000)
    await expect(dialog.locator(".result")).to_contain_text("Audit entry")
    await expect(dialog.locator(".result .facts").last).to_contain_text("outcomedone")
    return dialog


async def simulated(page: Page, plan: str) -> None:
    """Have the local provider sell a plan."""
    await page.get_by_role("button", name="Simulate…").click()
    await page.get_by_role("textbox", name="Plan").fill(plan)
    dialog = await confirmed(page, "Run")
    await expect(dialog).to_contain_text("sub_")
    await dialog.get_by_role("button", name="Close").click()


async def test_actions_ask_first_and_show_what_came_of_it(data_dir: Path) -> None:
    """`make run`'s system, the demo in a tab, and a console that freezes it, upgrades it and takes it back."""
    simulator = f"http://127.0.0.1:{free_port()}"
    environ = clean_environ(data_dir, PORT=str(free_port()), PLANWIRE_SIMULATOR_URL=simulator)
    with running(python("-m", "gateway.dev"), environ) as program:
        found = await until(lambda: re.findall(r"(?m)^planwire ready: (\S+)$", program.text), timeout_s=30)
        url = str(found[0])
        options = {"viewport": {"width": 1440, "height": 900}, "permissions": ["clipboard-read", "clipboard-write"]}
        async with (
            chromium() as browser,
            visiting(browser, url) as tenant,
            visiting(browser, url, **options) as visitor,
        ):
            await tenant.page.goto(f"{url}/demo/?tenant=acme")
            plan = tenant.page.locator("#plan")
            await expect(plan).to_have_text("Free")
            page = visitor.page
            await page.goto(f"{url}/console/#/topics/{TOPIC}")
            tab = page.locator("#tabs .vspace .vrow").first
            await expect(tab).to_contain_text("SYNCED")

            # Nothing happens before it is confirmed.
            await page.get_by_role("button", name="Simulate…").click()
            await page.keyboard.press("Escape")
            await expect(page.locator("dialog[open]")).to_have_count(0)
            await expect(plan).to_have_text("Free")

            await simulated(page, "basic")
            await expect(plan).to_have_text("Basic")

            # A frozen tab falls behind and catches up.
            await expect(tab).to_contain_text("SYNCED")
            await tab.get_by_role("button").click()
            await page.get_by_role("button", name="Harm the socket…").click()
            await page.get_by_label("For how many seconds").fill(str(FROZEN_S))
            dialog = await confirmed(page, "Do it")
            await dialog.get_by_role("button", name="Close").click()
            await page.locator("dialog[open]").get_by_role("button", name="Close").click()
            await simulated(page, "pro")
            await expect(tab).to_contain_text("BEHIND")
            await expect(tab).to_contain_text("SYNCED")
            await expect(plan).to_have_text("Pro")

            # A scenario, with tenants of its own.
            await page.get_by_role("button", name="Simulate…").click()
            await page.get_by_label("What happens").select_option("scenario:duplicate")
            dialog = await confirmed(page, "Run", timeout_s=40)
            await expect(dialog).to_contain_text("Duplicated deliveries (seed 1)")
            await dialog.get_by_role("button", name="Close").click()
            await expect(plan).to_have_text("Pro")

            # A version before is put back, as a new one.
            before = page.locator(".versions .vspace > .vrow").filter(has_text="subscription.").last
            await before.get_by_role("button", name="Replay…").click()
            await expect(page.locator("dialog[open]")).to_contain_text("is committed again")
            committed = page.locator("#committed")
            newest = re.findall("[0-9]{16}", await committed.inner_text())
            assert len(newest) == 1
            await confirmed(page, "Replay")
            await page.keyboard.press("Escape")
            await expect(committed).not_to_contain_text(newest[0])
            await expect(plan).to_have_text("Basic")
            await page.get_by_role("button", name="Reconcile…").click()
            await confirmed(page, "Reconcile")
            await page.keyboard.press("Escape")

            for number, text in ((3, "curl "), (4, "planwire-fixture/1")):
                copying = page.locator("#actions button").nth(number)
                await copying.evaluate(NOTE_SAID)
                await copying.click()
                assert await until(lambda: page.evaluate("window.said[0]"), timeout_s=20) == "Copied"
                assert text in await page.evaluate("navigator.clipboard.readText()")
            await page.get_by_role("button", name="Revoke…").click()
            await confirmed(page, "Revoke")
            await page.keyboard.press("Escape")
            await expect(tenant.page.locator("#freshness")).to_have_attribute("data-status", "denied")
            await page.goto(f"{url}/console/#/why/audit")
            for action, times in (("revoke", 1), ("reconcile", 1), ("replay", 1), ("simulate", 3), ("freeze", 1)):
                await expect(page.locator("#now tbody tr").filter(has_text=action)).to_have_count(times)
            # A name that every object inherits is no cause.
            await page.goto(f"{url}/console/#/why/constructor")
            await expect(page.locator("#why h1")).to_have_text("Nothing is known of that")
            await visitor.is_content()


async def test_the_page_asks_for_nothing_while_nobody_looks_and_says_when_it_is_not_answered(
    store_url: str, store: Store
) -> None:
    asked: list[str] = []
    await commit(store, {"n": 1})
    async with (
        chromium() as browser,
        run_gateway(environment(store_url, DEV="1")) as here,
        visiting(browser, here.url) as visitor,
    ):
        page = visitor.page
        await page.goto(f"{here.url}/console/#/topics/{TOPIC}")
        await expect(page.locator("#occurred")).to_contain_text("evt_1")
        await expect(page.locator("#freshness")).to_have_attribute("data-status", "fresh")
        await visitor.is_content()
        await hide(page, True)
        # What it had begun to ask before.
        await page.wait_for_timeout(1000)
        page.on("request", lambda request: asked.append(request.url))
        await page.wait_for_timeout(3500)
        assert asked == []
        await hide(page, False)
        async with page.expect_response("**/console/api/look"):
            pass
        await page.route("**/console/api/**", lambda route: route.abort())
        await expect(page.locator("#freshness")).to_have_attribute("data-status", "offline")
        await expect(page.locator("#notice")).to_contain_text("Not up to date")
        await page.unroute("**/console/api/**")
        await expect(page.locator("#freshness")).to_have_attribute("data-status", "fresh")
        await expect(page.locator("#notice")).to_be_hidden()
        # An answer that breaks off is none, and not one without members.
        before = list(visitor.problems)
        await page.route("**/console/api/topics/**", lambda route: route.fulfill(body='{"gate', status=200))
        await expect(page.locator("#notice")).to_contain_text("broke off")
        await page.unroute("**/console/api/topics/**")
        await expect(page.locator("#notice")).to_be_hidden()
        assert visitor.problems == before


async def hide(page: Page, is_hidden: bool) -> None:
    """Have the page believe that nobody can see it, or somebody can."""
    await page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        is_hidden,
    )


async def test_a_foreign_id_is_shown_and_written_readably(store_url: str, store: Store) -> None:
    """In the list, the heading, the address and the search; a text that would mislead stays encoded."""
    readable = "tenant:auth0|5f Zo\u00eb"
    name, hidden = topic("tenant", "auth0|5f Zo\u00eb"), topic("tenant", "a\u202eb")
    for one in (name, hidden, topic("tenant", "a%7Cb")):
        await commit(store, {"of": one}, topic=one)
    environ = environment(store_url, CONSOLE_TOKEN=TOKEN, ACK_AFTER_MS="0")
    async with (
        run_gateway(environ) as running,
        chromium() as browser,
        visiting(browser, running.url) as visitor,
    ):
        page = visitor.page
        await page.goto(f"{running.url}/console")
        await visitor.log_in()
        listed = rows(page, "topics")
        await expect(listed).to_have_count(3)
        await expect(listed.get_by_role("link", name=readable, exact=True)).to_be_visible()
        await expect(listed.get_by_role("link", name=hidden, exact=True)).to_be_visible()
        search = page.get_by_label("Search topics")
        for text in (readable, name, name.lower(), "auth0|5f"):
            await search.fill(text)
            await expect(listed).to_have_count(1)
        await search.fill(readable)
        await search.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_contain_text(readable)
        await expect(page.locator("#snapshot pre").first).to_contain_text(name)
        for address in (name, readable, quote(readable), "tenant:a%257Cb"):
            await page.goto(f"{running.url}/console/#/topics/{address}")
            shown = name if address != "tenant:a%257Cb" else address
            await expect(page.locator("#snapshot pre").first).to_contain_text(f'"of": "{shown}"')
