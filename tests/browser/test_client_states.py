"""One state in every tab, however it came to the page: with keys and numbers that a page could take for others."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.support.client_pages import STEADY_S, TOPIC, ChromiumPages, Tab
from tests.support.gateway import PUBLISH_KEY

CANONICAL = """() => {
  const text = (value) =>
    Array.isArray(value) ? `[${value.map(text)}]`
    : value && typeof value == "object"
      ? `{${Reflect.ownKeys(value).sort().map((key) => JSON.stringify(key) + ":" + text(value[key]))}}`
    : Object.is(value, -0) ? "-0" : JSON.stringify(value);
  return [text(window.topic.getSnapshot().state), Object.getOwnPropertyNames(Object.prototype).sort().join()];
}"""
"""The state's own members and nothing else, in order; and what every object of the page inherits."""

LABELS = '{"__proto__":{"isAdmin":true},"constructor":{"prototype":{"isAdmin":true}},"toString":1,"0":"","":[null]}'
NUMBERS = "[9007199254740991,-9007199254740991,1e308,5e-324,-0.0,0.1]"


async def publish(pages: ChromiumPages, n: int, more: str = "") -> None:
    """Publish the JSON text of a state that is large enough for a patch, past the proxy."""
    state = f'{{"n":{n},"pad":"{"x" * 2000}"{more}}}'
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.post(
            f"{pages.gateway.url}/v1/publish",
            content=f'{{"topic":"{TOPIC}","state":{state}}}',
            headers={"Authorization": f"Bearer {PUBLISH_KEY}"},
        )
    assert answer.status_code == 200, answer.text


async def held_by(tab: Tab) -> Any:
    text, inherited = await tab.page.evaluate(CANONICAL)
    assert "isAdmin" not in inherited
    assert await tab.page.evaluate("window.topic.getSnapshot().state.labels.isAdmin") is None
    return text


@pytest.mark.parametrize("heartbeat_s", [STEADY_S], ids=["steady"])
async def test_a_tab_that_was_patched_and_one_that_came_later_hold_the_same(pages: ChromiumPages) -> None:
    await publish(pages, 1, ',"labels":{"old":1}')
    patched = await pages.open("stored")
    over_http = await pages.open("socket=fallback&blocked")
    for tab in (patched, over_http):
        await tab.shows(1)
    patches = pages.gateway.node.metrics.patches
    await publish(pages, 2, f',"labels":{LABELS},"numbers":{NUMBERS}')
    await patched.shows(2)
    await over_http.shows(2)
    assert pages.gateway.node.metrics.patches > patches
    later = await pages.open()
    await later.shows(2)

    labels = json.dumps(json.loads(LABELS), sort_keys=True, separators=(",", ":"))
    numbers = NUMBERS.replace("1e308", "1e+308").replace("-0.0", "0")
    expected = f'{{"labels":{labels},"n":2,"numbers":{numbers},"pad":"{"x" * 2000}"}}'
    assert await held_by(patched) == expected
    assert await held_by(later) == expected
    assert await held_by(over_http) == expected

    pages.proxy.is_refusing = True
    await patched.page.reload()
    assert (await patched.last())["status"] != "fresh"
    assert await held_by(patched) == expected, "from storage"
