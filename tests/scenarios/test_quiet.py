"""Events that change nothing public: no version, no push, and a page that waits goes on waiting."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from planwire_client.core.commit import BILLING
from sync.billing.domain.facts import codec
from sync.billing.services.committer import QUIET
from tests.support.cases import load, post_stripe, run_cases, send
from tests.support.gateway import token
from tests.support.stripe_bodies import body as stripe_body
from tests.support.system import System, Tab, ago, event

TOPIC = "tenant:acme"
STORM = 40

Send = Callable[[System, int, str, int], Awaitable[None]]
"""Sends one update: the number of the event, the price, and the units. A greater number is a newer event."""


async def from_paddle(system: System, number: int, price: str = "basic", units: int = 2) -> None:
    """Another address, other dates of the items, another discount: nothing that the state shows."""
    body = json.loads(event(ago(100 - number), items=[(f"pri_{price}_live", units)]))
    body["data"] |= {"address_id": f"add_{number}", "discount": {"id": f"dsc_{number}"}, "next_billed_at": ago(-number)}
    body["data"]["items"][0]["updated_at"] = ago(-number)
    assert (await system.deliver(json.dumps(body).encode())).json()["outcome"] in ("applied", "refused")


async def from_stripe(system: System, number: int, price: str = "basic", units: int = 2) -> None:
    """Another latest invoice, another default card, other metadata besides the tenant."""
    at_s = STARTED_S + number
    period = {"current_period_start": STARTED_S - 100, "current_period_end": STARTED_S + 10_000}
    item = {"id": "si_1", "price": {"id": f"price_{price}_live"}, "quantity": units, **period}
    data = stripe_body(
        items={"object": "list", "has_more": False, "data": [item]},
        metadata={"tenant_id": "acme", "note": str(number)},
        latest_invoice=f"in_{number}",
        default_payment_method=f"pm_{number}",
        created=STARTED_S - 1000,
    )
    envelope = {"id": f"evt_quiet_{number}", "type": "customer.subscription.updated", "created": at_s}
    envelope |= {"object": "event", "livemode": True, "data": {"object": data}}
    assert (await post_stripe(system, envelope)).json()["outcome"] in ("applied", "refused")


STARTED_S = int(time.time()) - 200
providers = pytest.mark.parametrize("sends", [from_paddle, from_stripe], ids=["paddle", "stripe"])


def frame_types(tab: Tab) -> list[str]:
    """The types of the frames that a tab was sent, without heartbeats."""
    return [frame["type"] for frame in tab.frames if frame["type"] != "heartbeat"]


async def expecting(tab: Tab, timeout_ms: int = 30_000) -> None:
    """Have the tab wait for something newer than it shows."""
    await tab.client.send("expect", topic=tab.topic, after=tab.version, timeout_ms=timeout_ms)
    await tab.next("pending")


async def test_s69_the_case_of_updates_that_change_nothing(store_url: str, tmp_path: Path) -> None:
    """The case 10-noop-version."""
    first, *others = load("10-noop-version")
    async with run_cases(store_url, tmp_path) as system, system.tab("tenant:f10") as tab:
        version = (await send(system, first)).json()["version"]
        await tab.reaches(version)
        await expecting(tab)
        count = len(frame_types(tab))
        for update in others:
            assert (await send(system, update)).json()["version"] == version
        await tab.fence()
        assert frame_types(tab)[count:] == []
        assert [entry.version for entry in await system.history("tenant:f10")] == [version]


@providers
async def test_s69_a_storm_makes_no_version_no_push_and_answers_no_expect(
    store_url: str, tmp_path: Path, sends: Send
) -> None:
    """All at once and in any order. The facts follow: they are those of the newest event, which rev shows."""
    async with run_cases(store_url, tmp_path) as system, system.tab() as tab:
        await sends(system, 0, "basic", 2)
        before = await system.store.read(TOPIC)
        await tab.reaches(before.version)
        await expecting(tab)
        count = len(frame_types(tab))
        late = STORM // 2
        numbers = [number for number in range(1, STORM) if number != late]
        random.Random(3).shuffle(numbers)
        for start in range(0, len(numbers), 8):
            await asyncio.gather(*(sends(system, number, "basic", 2) for number in numbers[start : start + 8]))
        await tab.fence()
        assert frame_types(tab)[count:] == []
        after = await system.store.read(TOPIC)
        assert (after.version, after.state, after.cause) == (before.version, before.state, before.cause)
        assert (after.owner, after.rev > before.rev) == (BILLING, True)
        (old,), (new,) = (list(codec.decode(one.private).subscriptions.values()) for one in (before, after))
        assert new.order > old.order
        waited = await system.read(min_version=str(before.version + 1), wait_ms="100")
        assert waited["code"] == "behind"
        # What changes something public answers, and an event from the middle of the storm is too old by then.
        await sends(system, STORM, "pro", 2)
        await tab.until(lambda tab: tab.plan == "pro")
        await sends(system, late, "basic", 2)
        await tab.fence()
        assert tab.plan == "pro"
        assert "expired" not in frame_types(tab)


@providers
async def test_s69_nor_does_a_stream_or_a_tab_that_comes_back_notice_the_storm(
    store_url: str, tmp_path: Path, sends: Send
) -> None:
    """The version stays what browsers and backends hold: it is current for them, and no reset."""
    async with run_cases(store_url, tmp_path) as system:
        await sends(system, 0, "basic", 2)
        before = await system.store.read(TOPIC)
        headers = {"Authorization": f"Bearer {token()}", "Last-Event-ID": str(before.version)}
        async with system.http.stream("GET", f"/v1/state/{TOPIC}/events", headers=headers) as stream:
            names = (line.removeprefix("event: ") async for line in stream.aiter_lines() if line.startswith("event: "))
            assert await anext(name async for name in names if name != "heartbeat") == "current"
            for number in range(1, 9):
                await sends(system, number, "basic", 2)
            async with system.tab(held=before.version, state=orjson.loads(before.state)) as tab:
                await (await tab.until(lambda tab: "current" in frame_types(tab))).fence()
                assert (frame_types(tab)[1:], tab.resets) == (["current"], 0)
            held = {"Authorization": f"Bearer {token()}", "If-None-Match": f'"{before.version}"'}
            assert (await system.http.get(f"/v1/state/{TOPIC}", headers=held)).status_code == 304
            await sends(system, STORM, "pro", 2)
            assert await anext(name async for name in names if name != "heartbeat") == "snapshot"
        history = await system.ask("GET", "/v1/tenants/acme/history?limit=50")
        assert len(history["changes"]) == 2
        assert [one.get("reason") for one in history["events"]] == [None, *[QUIET] * 8, None]


@providers
async def test_s69_an_expect_that_only_such_events_meet_expires(store_url: str, tmp_path: Path, sends: Send) -> None:
    async with run_cases(store_url, tmp_path) as system, system.tab() as tab:
        await sends(system, 0, "basic", 2)
        await tab.until(lambda tab: tab.plan == "basic")
        await expecting(tab, timeout_ms=400)
        await sends(system, 1, "basic", 2)
        assert (await tab.next("expired"))["after"] == tab.version
        assert "patch" not in frame_types(tab)


async def test_s69_so_do_a_second_subscription_a_grant_and_a_preview_that_change_nothing_public(
    store_url: str, tmp_path: Path
) -> None:
    """They are stored, and what depends on them later sees them."""
    async with run_cases(store_url, tmp_path) as system, system.tab() as tab:
        await system.apply(event(ago(90), items=[("pri_pro_live", 3)]))
        await tab.until(lambda tab: tab.plan == "pro")
        count, rev = len(frame_types(tab)), (await system.store.read(TOPIC)).rev
        path = "/v1/tenants/acme/overrides"
        override: dict[str, Any] = {"kind": "feature", "name": "sso", "value": True, "reason": "asked"}
        second = event(ago(80), id="sub_second", items=[("pri_basic_live", 1)], kind="subscription.created")
        preview = await system.ask("POST", "/v1/tenants/acme/preview", {"plan": "basic"})
        for change in (
            system.ask("POST", path, override),
            system.outcome(second),
        ):
            await change
            now = (await system.store.read(TOPIC)).rev
            assert now > rev
            rev = now
        stale = await system.http.post(
            f"/v1/tenants/acme/preview/{preview['preview_id']}/confirm", json={}, headers=system.key
        )
        assert stale.json()["code"] == "preview_stale", "a preview is of one rev, not of a version"
        await tab.fence()
        assert frame_types(tab)[count:] == []
        (grant,) = (await system.ask("GET", path))["overrides"]
        assert grant["name"] == "sso"
        await system.outcome(event(ago(70), status="canceled", items=[("pri_pro_live", 3)]))
        await tab.until(lambda tab: tab.plan == "basic")
        assert tab.state["features"]["sso"] is True
