"""What consoles see of several gateways: reports as they change, questions to all, and sockets that are held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import orjson
import pytest

from gateway.console.observer import ConsoleObserver
from gateway.console.reports import lease, report, reporter, tab_counts
from gateway.fleet import ask
from planwire_client.core import canonical_json, merge_patch
from sync.store.command_pipeline import run_commands
from sync.store.models import Change
from sync.store.store import Store
from tests.support.console import TOKEN, TOPIC, act, commit, get, http, login, post, seen_by_each_other
from tests.support.gateway import Client, Running, environment, open_client, run_gateway
from tests.support.wait import until

VISIBLE_S = 1.0
"""Within which a console sees that a tab is behind or refuses, on whichever gateway."""

BUSY_S = 3.0
"""What a busy machine may add; what is not reported as it changes is counted only after 10 s."""


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page looks again and again, a test once; and who answers slowly here is not silent."""
    monkeypatch.setattr(lease, "LEASE_S", 60.0)
    monkeypatch.setattr(ask, "ANSWER_S", 4.0)


def console(running: Running) -> ConsoleObserver:
    found = running.server.lifespan.state["console"]
    assert isinstance(found, ConsoleObserver)
    return found


class Stream:
    """What a console's page knows from its stream: the newest state of each report."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.states: dict[str, Any] = {}

    async def until(self, is_so: Callable[[dict[str, Any]], object], timeout_s: float = 15.0) -> float:
        """Take frames until the states are so; return the seconds since 1970 at which the last one came."""
        async with asyncio.timeout(timeout_s):
            while True:
                frame = await self._client.receive(timeout_s)
                if frame["type"] == "snapshot":
                    self.states[frame["topic"]] = frame["state"] or {}  # null before the first report
                elif frame["type"] == "patch":
                    self.states[frame["topic"]] = merge_patch.apply(self.states[frame["topic"]], frame["patch"])
                if is_so(self.states):
                    return time.time()


@asynccontextmanager
async def looking(
    client: httpx2.AsyncClient, at: Running, *topics: str
) -> AsyncIterator[tuple[Stream, dict[str, Any]]]:
    """Look at topics as a page does, with the stream on the gateway `at`."""
    found = (await post(client, "look", {"topics": list(topics)})).json()
    token = (await post(client, "token", {})).json()["token"]
    names = [row["report"] for row in found["gateways"]] + [n for w in found["watched"].values() for n in w.values()]
    async with open_client(at, *names, jwt=token) as tab:
        yield Stream(tab), found


@asynccontextmanager
async def fleet(store_url: str, **settings: str) -> AsyncIterator[tuple[Running, Running, httpx2.AsyncClient]]:
    """Two gateways, and a page that is logged in at the first."""
    environ = environment(store_url, CONSOLE_TOKEN=TOKEN, ACK_AFTER_MS="0", **settings)
    async with run_gateway(environ) as one, run_gateway(environ) as two, http(one) as client:
        await seen_by_each_other(one, two)
        await login(client)
        yield one, two, client


async def test_a_tab_that_refuses_or_falls_behind_is_seen_from_another_gateway_within_a_second(
    store_url: str, store: Store
) -> None:
    version = await commit(store, {"plan": "pro"})
    async with (
        fleet(store_url) as (one, two, client),
        open_client(one, TOPIC) as good,
        open_client(two, TOPIC) as bad,
    ):
        for tab in (good, bad):
            await tab.until("snapshot")
            await tab.send("ack", topic=TOPIC, version=version)
        async with looking(client, one, TOPIC) as (stream, found):
            assert {row["gateway"] for row in found["gateways"]} == {one.node.name, two.node.name}
            assert set(found["watched"][TOPIC]) == {one.node.name, two.node.name}
            overview, tabs = f"gateway:{two.node.name}", found["watched"][TOPIC][two.node.name]
            await stream.until(lambda states: states.get(tabs, {}).get("counts") == {"SYNCED": 1})

            version = await commit(store, {"plan": "free"})
            for tab in (good, bad):
                await tab.until("snapshot")
            await good.send("ack", topic=TOPIC, version=version)
            await bad.send("nack", topic=TOPIC, version=version, reason="<b>no</b>")
            nacked_at = time.time()
            seen_at = await stream.until(
                lambda states: (
                    states[tabs]["counts"] == {"NACKED": 1}
                    and states[overview]["trouble"].get(TOPIC, {}).get("status") == "NACKED"
                )
            )
            assert seen_at - nacked_at < VISIBLE_S + BUSY_S
            (row,) = stream.states[tabs]["tabs"].values()
            assert (row["status"], row["nacked"], row["reason"]) == ("NACKED", version, "<b>no</b>")
            assert "<b>" not in row["why"]

            version = await commit(store, {"plan": "team"})
            behind_at = version / 1e6 + tab_counts.ACK_GRACE_S
            await good.until("snapshot")
            await good.send("ack", topic=TOPIC, version=version)
            seen_at = await stream.until(
                lambda states: (
                    states[tabs]["counts"] == {"BEHIND": 1}
                    and states[overview]["trouble"].get(TOPIC, {}).get("status") == "BEHIND"
                )
            )
            assert 0 <= seen_at - behind_at < VISIBLE_S + BUSY_S
            await bad.send("nack", topic=TOPIC, version=version, reason="late")
            await stream.until(lambda states: states[overview]["trouble"][TOPIC]["status"] == "NACKED")
            await bad.send("ack", topic=TOPIC, version=version)
            await stream.until(lambda states: states[overview]["trouble"] == {})
            assert stream.states[overview]["tabs"]["SYNCED"] == 1
        answer = await get(client, f"topics/{TOPIC}")
        assert [row["gateway"] for row in answer["gateways"]] == sorted((one.node.name, two.node.name))
        assert (answer["counts"]["SYNCED"], answer["silent"]) == (2, [])
        (row,) = (await get(client, "topics"))["topics"]
        assert (row["sockets"], row["gateways"], row["tabs"]) == (2, 2, {"SYNCED": 2})


async def test_reports_are_no_topics_of_the_applications(store_url: str, store: Store) -> None:
    async with fleet(store_url) as (_, two, client), looking(client, two, TOPIC) as (stream, _found):
        name = f"gateway:{two.node.name}"
        await stream.until(lambda states: states.get(name))
        assert len(two.node.hub.topics) - two.node.hub.topic_count == 4, (
            "each of the two gateways' own, and of the topic that is looked at"
        )
        assert stream.states[f"gateway:{two.node.name}"]["topics"] == 0
        first_at = stream.states[name]["at"]
        await stream.until(lambda states: states[name]["at"] > first_at)
        await until(lambda: two.node.metrics.topics == 0)
        assert (await get(client, "topics"))["topics"] == []
        assert two.node.metrics.announcements == two.node.metrics.acks == 0
        assert two.node.metrics.publish_to_acked.total == 0
        for key in (f"pw:{{{name}}}:log", f"pw:{{{name}}}:snap"):
            assert 0 < await store.redis.ttl(key) <= lease.KEEP_S
        assert await store.redis.xlen(f"pw:{{{name}}}:log") <= lease.LOG_KEPT + 1


async def test_a_report_that_the_store_has_lost_is_neither_put_back_nor_in_the_way_of_freshness(
    store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet(store_url, SWEEP_S="0.1") as (one, two, client), looking(client, two) as (stream, _):
        name = f"gateway:{one.node.name}"
        await stream.until(lambda states: states.get(name))

        ended = asyncio.Event()

        async def nothing() -> None:
            """Report no more: the last one is through once this is called instead."""
            ended.set()

        monkeypatch.setattr(console(one).reporter, "_report", nothing)
        await ended.wait()
        await store.redis.delete(f"pw:{{{name}}}:snap", f"pw:{{{name}}}:log")
        await run_commands(store, ("CLIENT", "KILL", "TYPE", "pubsub"))
        await until(lambda: two.node.metrics.feed_losses >= 1)
        await until(lambda: two.node.hub.fresh)
        assert two.node.metrics.restored == 0
        assert not await store.redis.exists(f"pw:{{{name}}}:snap")


async def test_nothing_is_reported_once_nobody_looks(
    store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "REPORT_S", 0.05)
    async with fleet(store_url, ACKS_PER_TOPIC="1") as (_, two, client), AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(open_client(two, TOPIC)) for _ in range(3)]
        for tab in tabs:
            await tab.until("snapshot")
        assert not console(two).reporter.is_watched
        assert not await store.redis.keys("pw:{gateway:*")
        await post(client, "look", {"topics": [TOPIC]})
        live = two.node.hub.topic(TOPIC)
        assert live is not None
        await until(lambda: live.ack_all)
        assert (await tabs[0].until("ack_policy"))["share"] == 1, "the whole crowd is asked while it is looked at"
        await until(lambda: len(console(two).reporter._last) == 2)
        # Once more, and not for long.
        monkeypatch.setattr(lease, "LEASE_S", 0.6)
        await post(client, "look", {"topics": [TOPIC]})
        await until(lambda: not console(two).reporter.is_watched)
        await until(lambda: not console(two).reporter._last)
        assert (await tabs[0].until("ack_policy"))["share"] == 0.25
        assert not live.ack_all
        before = await store.versions([f"gateway:{two.node.name}"])
        await commit(store, {"n": 1})
        for tab in tabs:
            await tab.until("snapshot")
        assert await store.versions([f"gateway:{two.node.name}"]) == before


async def test_a_gateway_that_hears_nothing_is_named_and_reports_all_the_same(
    store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "ANSWER_S", 0.1)
    monkeypatch.setattr(reporter, "IDLE_REGISTER_S", 0.1)
    async with fleet(store_url) as (one, two, client), open_client(two, TOPIC) as tab:
        await tab.until("snapshot")
        await until(lambda: store.redis.zscore("pw:{console}:gateways", two.node.name))
        monkeypatch.setattr(two.node.control, "heard", lambda payload: None)
        answer = await get(client, f"topics/{TOPIC}")
        assert (answer["gateways"], answer["silent"]) == ([], [two.node.name])
        async with looking(client, one, TOPIC) as (stream, found):
            name = found["watched"][TOPIC][two.node.name]
            await stream.until(lambda states: states.get(name, {}).get("sockets") == 1)
    assert await store.redis.zcard("pw:{console}:gateways") == 0, "a gateway that stops is no gateway any more"


async def test_two_thousand_topics_in_trouble_fit_into_a_report(store_url: str, store: Store) -> None:
    names = [f"tenant:{'x' * 100}{number}" for number in range(2000)]
    committed = await store.commit_many([Change(name, b'{"n":1}') for name in names])
    async with fleet(store_url) as (one, two, client), AsyncExitStack() as stack:
        for start in range(0, 2000, 50):
            await stack.enter_async_context(open_client(two, *names[start : start + 50], max_queue=None))
        last = await stack.enter_async_context(open_client(two, TOPIC))
        await last.until("snapshot", timeout_s=40)
        await until(lambda: two.node.metrics.topics == 2001, timeout_s=40)
        async with looking(client, one, TOPIC) as (stream, _):
            overview = f"gateway:{two.node.name}"
            await stream.until(lambda states: states.get(overview, {}).get("trouble_total", 0) >= 2000, timeout_s=40)
            found = stream.states[overview]
            assert (len(found["trouble"]), found["topics"]) == (report.UNHEALTHY_MAX, 2001)
            assert found["tabs"]["BEHIND"] >= 2000
            assert len(canonical_json.encode(found)) <= report.REPORT_MAX_BYTES
        assert len(committed) == 2000
        page = await get(client, "topics?only=trouble&limit=500")
        assert (len(page["topics"]), page["matching"] >= 2000) == (500, True)
        assert page["next"] == page["topics"][-1]["name"]


FROZEN_S, DELAYED_S = 5, 10
"""For long enough to look at what is held, whatever the machine does meanwhile."""


async def test_a_developer_drops_and_freezes_a_socket_wherever_it_is(store_url: str, store: Store) -> None:
    await commit(store, {"n": 1})
    async with (
        fleet(store_url, DEV="1") as (_, two, client),
        open_client(two, TOPIC) as tab,
        open_client(two, TOPIC) as gone,
    ):
        sessions = [(await each.until("welcome"))["session"] for each in (tab, gone)]
        for each in (tab, gone):
            await each.until("snapshot")
        answer = await act(client, "drop", session=sessions[1])
        assert answer.json()["gateway"] == two.node.name
        assert (await gone.closed())[0] == 1006
        assert (await act(client, "drop", session=sessions[1])).status_code == 404

        frozen_at = time.monotonic()
        assert (await act(client, "freeze", session=sessions[0], seconds=FROZEN_S)).status_code == 200
        version = await commit(store, {"n": 2})
        await until(lambda: two.node.metrics.announcements >= 1)
        (row,) = (await get(client, f"topics/{TOPIC}"))["tabs"]
        assert (row["frozen"], row["status"]) == (True, "BEHIND")
        newest = await commit(store, {"n": 3})
        frame = await tab.until("snapshot", timeout_s=15)
        assert frame["version"] == newest > version, "one slot, and the newest when it thaws"
        assert time.monotonic() - frozen_at >= FROZEN_S - 0.01
        (row,) = (await get(client, f"topics/{TOPIC}"))["tabs"]
        assert "frozen" not in row

        assert (await act(client, "delay", session=sessions[0], seconds=DELAYED_S, delay_ms=200)).status_code == 200
        for number in range(3):
            newest = await commit(store, {"n": 10 + number})
        began = time.monotonic()
        while (await tab.until("snapshot"))["version"] != newest:
            pass
        assert time.monotonic() - began < DELAYED_S, "only now and then is not never"
        assert [socket.pending is None for socket in two.node.registry.sockets] == [False], (
            "held again until the time is up"
        )
        for body in ({"seconds": 0}, {"seconds": 61}, {"seconds": True}, {}):
            assert (await act(client, "freeze", session=sessions[0], **body)).status_code == 422
        entries = (await get(client, "audit"))["entries"]
        assert [entry["action"] for entry in entries if entry["outcome"] == "done"] == ["delay", "freeze", "drop"]
        assert orjson.dumps(entries)


async def test_a_page_that_is_opened_late_has_not_waited_for_what_was_there(store_url: str, store: Store) -> None:
    old = await commit(store, {"n": 1})
    async with run_gateway(environment(store_url, DEV="1", ACK_AFTER_MS="0")) as gateway:
        metrics = gateway.node.metrics
        async with open_client(gateway, TOPIC) as client:
            await client.until("snapshot")
            await client.send("ack", topic=TOPIC, version=old)
            await until(lambda: metrics.acks == 1)
            assert metrics.publish_to_acked.buckets()[-1][1] == 0
            new = await commit(store, {"n": 2})
            await client.until("snapshot")
            await client.send("ack", topic=TOPIC, version=new)
            await until(lambda: metrics.acks == 2)
            assert metrics.publish_to_acked.buckets()[-1][1] == 1
