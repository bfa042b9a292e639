"""What the console's page computes: its pure modules, each in the browser that runs them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from playwright.async_api import Page

from tests.support.chromium import chromium
from tests.support.gateway import environment, run_gateway
from tests.support.visitor import visiting

MODEL = """
const tab = (status, since) => ({ sub: "", client: "", status, why: "", since });
const report = (at, tabs) => ({ gateway: "a", at, version: 2, status: "SYNCED", sockets: 2, counts: {}, tabs });
const polled = { at: 100.5, committed: { version: 2 }, counts: { SYNCED: 9 }, tabs: ["polled"], silent: [] };
const a = { gateway: "a", sockets: 2, status: "STALE" };
const b = { gateway: "b", sockets: 0, status: "SYNCED" };
const c = { gateway: "c", sockets: 7, status: "SYNCED" };
const shown = (gateways, reports, known) => {
  const { tabs, from, counts, gateways: holders } = mergeReports({ ...polled, gateways }, 5, new Map(reports), known);
  const names = tabs.map((each) => each.session ?? each);
  return [names, from, counts, holders.map(({ gateway, status }) => `${gateway} ${status}`)];
};
return [
  shown([a, b, c], [["a", report(100, {})]], [{ name: "z", isSilent: true }]),
  shown([a, b], [["a", report(100, { s1: tab("SYNCED", 1), s2: tab("BEHIND", 2) })]], []),
  shown([a, c], [["a", report(90, {})]], []),
];
"""

FINDINGS = """
const model = (version) => ({ committed: { version }, counts: { SYNCED: 1 }, tabs: [], gateways: [] });
const known = { parked: [], newest: null, differing: 0 };
return [0, 1].map((version) => ofTopic("tenant:a", model(version), known).map(({ title }) => title));
"""

SIDES = """
return [{ currency: "USD", due_now: 83248, items: [["pri_a", 1]] }, null, "x", [1, 2]].map(words);
"""

DRIFT = """
const record = { kind: "money", topic: "tenant:a", subject: "pv_1", why: "change billed as txn_1" };
const at = "2026-11-30T00:00:00Z";
const unbilled = { ...record, topic: "tenant:b", why: "change not billed: no bill of it has arrived" };
const answer = { listed: true, drift: [{ ...record, there: { due_now: 1 }, at }, { ...unbilled, at }] };
return ofDrift(answer, Date.parse("2026-11-30T00:00:00Z") * 1000, 1e9).map(({ title, why }) => [title, why]);
"""

SHADOW = """
const report = { env: "live", compared: 30, differing: 0 };
const problem = { topic: "tenant:b", reason: "status 401", at: "2026-11-30T00:00:00Z" };
const answer = { listed: true, drift: [{ kind: "shadow", topic: "tenant:a", at: "2026-11-30T00:00:00Z" }] };
const now_us = Date.parse("2026-11-30T00:00:00Z") * 1000;
return [
  ...ofShadow([report, { ...report, differing: 2 }, { ...report, problem }]).map(({ title }) => title),
  ofDrift(answer, now_us, 1e9).length,
  ofTopic("tenant:a", { committed: {}, counts: {}, tabs: [], gateways: [] }, { parked: [], isUnseen: true }).length,
];
"""

ATTENTION = """
const trouble = (tabs) => ({ tabs });
const reports = [
  { trouble: { "tenant:a": trouble({ BEHIND: 1 }), "tenant:b": trouble({ NACKED: 1 }) }, trouble_total: 5 },
  { trouble: { "tenant:a": trouble({ NACKED: 2, BEHIND: 1 }) }, trouble_total: 1 },
];
const event = (event_id, topic) =>
  ({ event_id, reason: "unknown price p in live", waits_on: ["catalog"], topic, parked_us: 1 });
const letter = { queue: "webhooks:app", item: "tenant:a", reason: "status 410" };
const timer = { queue: "timers", item: "tenant:b", reason: "damaged" };
const parked = (...events) => ({ listed: true, environments: [{ env: "live", total: events.length, parked: events }] });
return [
  ...ofTabs(reports),
  ...ofParked(parked(event("e1", "tenant:a"))),
  ...ofParked(parked(event("e1", "tenant:a"), event("e2", "tenant:b"))),
  ...ofParked({ listed: false, environments: [] }),
  ...ofParkedItems({ listed: false, environments: [] }),
  ...ofParkedItems({ listed: true, environments: [{ env: "live", items: [letter, letter, timer] }] }),
].map(({ severity, title, link }) => `${severity} ${title} ${link}`);
"""


@pytest.fixture
async def page(store_url: str) -> AsyncIterator[Page]:
    async with (
        chromium() as browser,
        run_gateway(environment(store_url, DEV="1")) as running,
        visiting(browser, running.url) as visitor,
    ):
        await visitor.land()
        yield visitor.page
        await visitor.is_content()


async def run(page: Page, module: str, body: str) -> Any:
    """What a function's body returns that sees a module's exports."""
    names = await page.evaluate("async (name) => Object.keys(await import(name))", f"/console/{module}.js")
    script = f"async () => {{ const {{ {', '.join(names)} }} = await import('/console/{module}.js'); {body} }}"
    return orjson.loads(orjson.dumps(await page.evaluate(script)))


async def test_what_is_computed_is_right(page: Page) -> None:
    part, whole, old = await run(page, "model/topic_model", MODEL)
    assert part == [["polled"], 5, {"SYNCED": 9}, ["a SYNCED", "c SYNCED", "z SILENT"]]
    assert whole == [["s2", "s1"], 0, {}, ["a SYNCED"]]
    assert old == [["polled"], 5, {"SYNCED": 9}, ["a STALE", "c SYNCED"]]

    assert await run(page, "model/attention", ATTENTION) == [
        "red tenant:a: 2 tabs NACKED #/topics/tenant:a?at=tabs",
        "red tenant:b: 1 tab NACKED #/topics/tenant:b?at=tabs",
        "amber 3 more topics with tabs in trouble #/?only=trouble",
        "red Catalog: unknown price p in live #/topics/tenant:a?at=events&event=e1",
        "red Catalog: unknown price p in live #/why/catalog?env=live",
        "red 2 dead letters of the endpoint app (live) #/why/items?env=live",
        "red 1 parked item of timers (live) #/why/items?env=live",
    ]

    assert await run(page, "model/format", SIDES) == [
        'currency USD, due_now 83248, items [["pri_a",1]]',
        "",
        "x",
        "[1,2]",
    ]
    assert await run(page, "model/attention", DRIFT) == [
        [
            "tenant:a: billed otherwise than quoted",
            "change billed as txn_1, by pv_1. Nothing is repaired: correct it at the provider.",
        ],
        [
            "tenant:b: quoted and not billed",
            "change not billed: no bill of it has arrived, by pv_1. Nothing is repaired: correct it at the provider.",
        ],
    ]

    # What another system says otherwise was not repaired; a tenant in the shadow has no state, as it should.
    assert await run(page, "model/attention", SHADOW) == [
        "Shadow (live): 2 of 30 tenants differ", "The other system failed for tenant:b", 0, 0
    ]  # fmt: skip

    # Tabs of a topic without a state are as they should be, and yet somebody sees "Free".
    assert await run(page, "model/attention", FINDINGS) == [["It has no state"], []]

    name = "sandbox/tenant:a~b.c_d@e-F0"
    link = await run(page, "model/links", f"return toTopic('{name}', {{ from: 1, to: '' }})")
    assert link == "#/topics/sandbox%2Ftenant:a~b.c_d@e-F0?from=1"
    again = f"const {{ view, name, query }} = parse('{link}'); return [view, name, query.get('from')]"
    assert await run(page, "router", again) == ["topic", name, "1"]
    foreign = "sandbox/tenant:auth0%7Ca%2Fb"
    spellings = (
        foreign,
        "sandbox%2Ftenant:auth0|a/b",
        "sandbox%2Ftenant%3Aauth0%7Ca%2Fb",
        "sandbox/tenant:auth0%7ca%2fb",
    )
    for spelling in spellings:
        assert await run(page, "router", f"return parse('#/topics/{spelling}').name") == foreign
    names = f"return [readable('{foreign}'), nameOf(readable('{foreign}')), readable('tenant:a%257Cb'), nameOf('a')]"
    assert await run(page, "model/topic_name", names) == ["sandbox/tenant:auth0|a/b", foreign, "tenant:a%257Cb", None]
    for nothing in ("#/nonsense", "#/topics/", "#/topics/%E0%A4%A"):
        assert await run(page, "router", f"return parse('{nothing}')") is None

    assert await run(page, "ui/chart", "return [path([null, 1, 2], 2), path([0], 1)]") == [
        "M231.7 24.0h.01L240.0 2.0",
        "M240.0 46.0h.01",
    ]
    assert await run(
        page, "ui/chart", "return [[0, 5], [1234, 5], [0.0003, 0.0001]].map((each) => ceiling(...each))"
    ) == [
        5,
        2000,
        pytest.approx(0.0005),
    ]
    command = await run(page, "ui/copy", """return curl("POST", "http://x/y", { key: "KEY", body: { a: "it's" } })""")
    assert command == (
        "curl -X POST -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json'"
        " --data-raw '{\"a\":\"it'\\''s\"}' 'http://x/y'"
    )
    sides = "rows([leaves({ a: { b: 1 }, c: [1] }), leaves({}), leaves({ a: { b: 2 } })])"
    assert await run(
        page, "parts/comparison", f"return {sides}.map(({{ path, differs }}) => `${{path}} ${{differs}}`)"
    ) == [
        "a.b true",
        "c false",
    ]
    links = """[
      { subscription: "paddle:s1", status: "active", named_by: "operator", names: { operator: "a", metadata: "b" },
        overrules: "b", plan: "pro", plan_version: "2026", version_by: "purchase" },
      { subscription: "paddle:s2", status: "active", names: {}, customer_id: "ctm_2", second_customer: true,
        plan: "pro", plan_version: "current", version_by: "purchase" },
      { subscription: "paddle:t1", status: "active", names: {},
        purchase: { bought_at: "then", total: 1900, currency: "USD", expires_at: "soon" },
        went_back: [{ kind: "refund", status: "pending", amount: 500, currency: "USD", at: "now" }] },
    ], moved = [{ subscription: "paddle:s3", moved_at: "then" }]"""
    shown = f'const links = {links}; return linkRows({{ links, moved }}).map(({{ cells }}) => cells.join("|"))'
    assert await run(page, "parts/subscriptions", shown) == [
        "paddle:s1|active|pro 2026 (by its purchase)|operator|metadata b||overrules b in the metadata",
        "paddle:s2|active|pro|nothing||ctm_2|a second customer: it only adds to the plan",
        "paddle:t1|active||nothing|||bought once then 1900 USD; until soon; refund 500 USD now (pending)",
        "paddle:s3||||||moved to nobody then",
    ]
