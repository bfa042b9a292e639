"""What the console answers, on a real server with a real store."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest

from gateway.console.routes import topics
from planwire_client.core.commit import BILLING
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, Snapshot, StoreError
from sync.store.store import Store
from tests.support.console import TOKEN, TOPIC, act, commit, get, http, login
from tests.support.gateway import environment, open_client, run_gateway, token
from tests.support.servers import Server
from tests.support.wait import until


async def test_the_chain_from_the_cause_to_the_tabs(store_url: str, store: Store) -> None:
    cause = b'{"event_id":"evt_1","event_type":"subscription.updated"}'
    version = await commit(store, {"plan": "pro"}, cause=cause, private=b'{"hidden":"secret"}')
    environ = environment(store_url, DEV="1", ACK_AFTER_MS="0")
    async with (
        run_gateway(environ) as running,
        http(running) as client,
        open_client(running, TOPIC) as good,
        open_client(running, TOPIC) as bad,
        open_client(running, TOPIC) as silent,
    ):
        for each in (good, bad, silent):
            await each.until("snapshot")
        await good.send("ack", topic=TOPIC, version=version)
        await bad.send("nack", topic=TOPIC, version=version, reason="<b>no</b>")

        async def chain() -> dict[str, Any]:
            return await get(client, f"topics/{TOPIC}")

        async def settled() -> bool:
            counts = (await chain())["counts"]
            return bool(counts["SYNCED"] == counts["NACKED"] == counts["BEHIND"] == 1)

        await until(settled, timeout_s=5)
        found = await chain()
        (here,) = found["gateways"]
        assert found["committed"]["version"] == here["version"] == version
        assert (here["gateway"], here["status"], here["sockets"]) == (running.node.name, "SYNCED", 3)
        assert found["committed"]["cause"] == orjson.loads(cause)
        assert [tab["status"] for tab in found["tabs"]] == ["NACKED", "BEHIND", "SYNCED"]
        nacked, behind, synced = found["tabs"]
        assert (nacked["nacked"], nacked["reason"]) == (version, "<b>no</b>")
        assert (behind["sent"], behind["acked"]) == (version, None)
        assert synced["acked"] == version
        assert {tab["sub"] for tab in found["tabs"]} == {"tester"}
        assert synced["lag_ms"] is None
        assert behind["lag_ms"] > 0
        assert {tab["gateway"] for tab in found["tabs"]} == {running.node.name}
        topics = await get(client, "topics?only=trouble")
        assert [(row["name"], row["status"]) for row in topics["topics"]] == [(TOPIC, "NACKED")]
        counters = await get(client, "counters")
        assert counters["tabs"]["NACKED"] == counters["tabs"]["BEHIND"] == counters["counters"]["nacks"] == 1
        assert counters["latency"]["committed_to_acked"]["count"] <= 1
        assert counters["trouble"][TOPIC]["status"] == "NACKED"
        for path in ("topics", f"topics/{TOPIC}", f"timeline/{TOPIC}", f"events/{TOPIC}", f"fixture/{TOPIC}"):
            assert "secret" not in (await client.get(f"/console/api/{path}")).text

        first = await get(client, f"topics/{TOPIC}?limit=2")
        second = await get(client, f"topics/{TOPIC}?limit=2&after={first['next']}")
        assert len(first["tabs"]) == 2
        assert (len(second["tabs"]), second["next"]) == (1, None)


async def test_a_gateway_that_has_not_got_the_newest_says_so(store_url: str, store: Store) -> None:
    version = await commit(store, {"n": 1})
    async with (
        run_gateway(environment(store_url, DEV="1", SWEEP_S="600")) as running,
        http(running) as client,
        open_client(running, TOPIC) as tab,
    ):
        await tab.until("snapshot")
        await tab.send("ack", topic=TOPIC, version=version)
        await store.redis.hset(f"pw:{{{TOPIC}}}:snap", "version", str(version + 1))  # told to nobody
        found = await get(client, f"topics/{TOPIC}")
        (here,) = found["gateways"]
        assert (here["status"], here["version"]) == ("BEHIND", version)
        assert found["tabs"][0]["status"] == "STALE"


async def test_a_topic_that_nobody_holds_here_is_shown_from_the_store(store_url: str, store: Store) -> None:
    topic = "sandbox/tenant:acme"
    old = await commit(store, {"plan": "free", "seats": 1}, topic)
    new = await commit(store, {"plan": "pro", "seats": 1}, topic)
    expected: dict[str, object] = {
        "event_id": "evt_9",
        "type": "<i>",
        "outcome": "refused",
        "reason": "older",
        "at": 1700000000000000,
    }
    noted: dict[Any, Any] = {name: str(value) for name, value in expected.items()}
    await store.redis.xadd(keys.events(topic), noted)
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        found = await get(client, "topics/sandbox%2Ftenant%3Aacme")
        assert (found["gateways"], found["tabs"]) == ([], [])
        assert found["committed"]["version"] == new
        assert orjson.loads(found["committed"]["state"]) == {"plan": "pro", "seats": 1}
        lines = (await get(client, f"timeline/{topic}"))["versions"]
        assert [(line["version"], line["paths"]) for line in lines] == [(new, ["/plan"]), (old, None)]
        diff = await get(client, f"diff/{topic}?from={old}&to={new}")
        assert diff["differences"] == [{"path": "/plan", "old": '"free"', "new": '"pro"'}]
        events = (await get(client, f"events/{topic}"))["events"]
        assert events == [expected]
        gone = await client.get(f"/console/api/diff/{topic}?from=1&to={new}")
        assert gone.status_code == 404


async def test_topics_come_by_pages_and_by_search(store_url: str) -> None:
    names = [f"tenant:t{number}" for number in range(5)]
    async with (
        run_gateway(environment(store_url, DEV="1")) as running,
        http(running) as client,
        open_client(running, *names) as tab,
    ):
        for _ in names:
            await tab.until("snapshot")
        first = await get(client, "topics?limit=3")
        rest = await get(client, f"topics?limit=3&after={first['next']}")
        assert [row["name"] for row in first["topics"] + rest["topics"]] == names
        assert (first["live"], first["matching"], rest["next"]) == (5, 5, None)
        found = await get(client, "topics?search=T3")
        assert [row["name"] for row in found["topics"]] == ["tenant:t3"]
        assert found["topics"][0]["tabs"] == {"SYNCED": 1}
        assert [row["name"] for row in (await get(client, "topics?search=%5Etenant:"))["topics"]] == names
        assert (await get(client, "topics?search=%5Et3"))["topics"] == []


async def test_topics_of_the_store_stand_among_the_live_ones(store_url: str, store: Store) -> None:
    for name in ("tenant:b", "tenant:d", "sandbox/user:1", "probe:x", "gateway:x"):
        await commit(store, {}, name)
    version = await commit(store, {"n": 1}, "tenant:b")
    async with (
        run_gateway(environment(store_url, DEV="1")) as running,
        http(running) as client,
        open_client(running, "tenant:a", "tenant:b") as tab,
    ):
        for _ in "ab":
            await tab.until("snapshot")
        found = await get(client, "topics")
        assert [(row["name"], row["is_live"]) for row in found["topics"]] == [
            ("sandbox/user:1", False),
            ("tenant:a", True),
            ("tenant:b", True),
            ("tenant:d", False),
        ]
        assert (found["stored"], found["live"], found["is_complete"], found["silent"]) == (3, 2, True, [])
        row = found["topics"][2]
        assert (row["version"], row["sockets"], row["gateways"]) == (version, 1, 1)
        assert [one["name"] for one in (await get(client, "topics?only=live"))["topics"]] == ["tenant:a", "tenant:b"]
        names: list[str] = []
        after: str | None = ""
        while after is not None:
            page = await get(client, f"topics?limit=1&after={after}")
            names += [one["name"] for one in page["topics"]]
            after = page["next"]
        assert names == [one["name"] for one in found["topics"]]


async def test_bad_questions_are_refused(store_url: str) -> None:
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        for path in (
            "topics?limit=501",
            "topics?limit=x",
            "topics?only=x",
            "topics/gateway%3Ax",
            f"snapshot/{TOPIC}?version=-1",
            "topics/nothing",
            f"topics/{TOPIC}?after=-1",
            f"timeline/{TOPIC}?count=201",
            "events/%3Cscript%3E",
        ):
            answer = await client.get(f"/console/api/{path}")
            assert answer.status_code == 422, path
        assert (await client.post("/console/api/topics")).status_code == 405


HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[2J\u202e'\""


async def test_hostile_texts_are_passed_on_as_data(store_url: str, store: Store) -> None:
    state = {HOSTILE: HOSTILE}
    version = await commit(store, state, cause=orjson.dumps({"event_type": HOSTILE, "source": HOSTILE}))
    noted: dict[Any, Any] = {"event_id": HOSTILE, "type": HOSTILE, "outcome": "parked", "reason": HOSTILE, "at": "5"}
    await store.redis.xadd(keys.events(TOPIC), noted)
    async with (
        run_gateway(environment(store_url, DEV="1")) as running,
        http(running) as client,
        open_client(running, TOPIC, jwt=token(sub=HOSTILE)) as tab,
    ):
        await tab.until("snapshot")
        await tab.send("nack", topic=TOPIC, version=version, reason=HOSTILE)
        await until(lambda: running.node.metrics.nacks)
        answer = await client.get(f"/console/api/topics/{TOPIC}")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        (row,) = answer.json()["tabs"]
        assert (row["sub"], row["reason"]) == (HOSTILE, HOSTILE)
        assert orjson.loads((await get(client, f"snapshot/{TOPIC}"))["state"]) == state
        fixture = await get(client, f"fixture/{TOPIC}")
        assert fixture["states"] == [
            {
                "version": version,
                "at": fixture["states"][0]["at"],
                "cause": {"event_type": HOSTILE, "source": HOSTILE},
                "state": state,
            }
        ]
        assert fixture["events"][0]["reason"] == HOSTILE


async def test_a_version_is_replayed_as_a_new_one(
    store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await commit(store, {"plan": "pro"}, private=b'{"kept":1}')
    await commit(store, {"plan": "free"}, private=b'{"kept":2}')
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        answer = (await act(client, "replay", topic=TOPIC, version=old)).json()
        assert (answer["outcome"], answer["verdict"]) == ("done", "applied")
        now = await store.read(TOPIC)
        assert (now.state, now.private, now.version) == (b'{"plan":"pro"}', b'{"kept":2}', answer["version"])
        newest = (await get(client, f"timeline/{TOPIC}"))["versions"][0]
        assert newest["cause"]["replay_of"] == str(old)
        for body, status in (
            ({"topic": TOPIC, "version": 1}, 404),
            ({"topic": TOPIC, "version": "1"}, 422),
            ({"topic": "gateway:x", "version": old}, 422),
            ({"topic": TOPIC}, 422),
        ):
            assert (await act(client, "replay", **body)).status_code == status
        entries = (await get(client, "audit"))["entries"]
        assert [entry["outcome"] for entry in entries] == ["refused"] * 4 + ["done"]
        assert entries[-1]["id"] == answer["audit"]
        assert (await act(client, "nothing")).status_code == 404

        async def outdated(topic: str) -> Snapshot:
            return Snapshot(topic, old, b"{}", b"", b"")

        monkeypatch.setattr(running.node.store, "read", outdated)
        answer_too_late = await act(client, "replay", topic=TOPIC, version=old)
        assert (answer_too_late.status_code, answer_too_late.json()["code"]) == (409, "conflict")


async def test_nothing_of_an_erased_topic_is_replayed(store_url: str, store: Store) -> None:
    await store.commit(Change(TOPIC, b'{"plan":"pro"}', owner=BILLING))
    erased = await store.commit(Change(TOPIC, b"null", b"{}", erases=True, owner=BILLING))
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        answer = await act(client, "replay", topic=TOPIC, version=erased.version)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert (await store.read(TOPIC)).erased


async def test_no_replay_takes_a_topic_from_billing(store_url: str, store: Store) -> None:
    """Even if a build from before the owner has written it last."""
    old = (await store.commit(Change(TOPIC, b'{"plan":"pro"}', b"{}", owner=BILLING))).version
    newer: Any = {"version": str(old + 1), "state": '{"plan":"free"}'}
    await store.redis.hset(keys.snap(TOPIC), mapping=newer)
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        answer = await act(client, "replay", topic=TOPIC, version=old)
        assert (answer.status_code, answer.json()["code"]) == (409, "topic_is_billed")
    assert (await store.read(TOPIC)).state == b'{"plan":"free"}'


async def test_a_version_with_a_number_that_is_refused_today_is_not_replayed(store_url: str, store: Store) -> None:
    """It was kept by a build from before."""
    old = await commit(store, {"seats": 2**53})
    await commit(store, {"seats": 1})
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        answer = await act(client, "replay", topic=TOPIC, version=old)
        assert (answer.status_code, answer.json()["code"]) == (422, "number_unsafe")
        assert (await store.read(TOPIC)).state == b'{"seats":1}'


async def test_a_schedule_has_what_comes_in_each_application(store_url: str, store: Store) -> None:
    coming = {"action": "cancel", "effective_at": "2027-01-01T00:00:00Z", "source": "provider", "overdue": False}
    crm = {"plan": {"key": "crm", "name": "CRM", "rank": 1}, "status": "active", "scheduled": coming}
    apps = {"crm": crm, "mail": {"status": "none"}}
    await store.commit(Change(TOPIC, orjson.dumps({**crm, "apps": apps})))
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        await login(client)
        shown = await get(client, f"schedule/{TOPIC}")
        one, other = shown["apps"]
        assert (shown["scheduled"], one["scheduled"], other["scheduled"]) == (coming, coming, None)
        assert [(each["app"], each["plan"], each["status"]) for each in (one, other)] == [
            ("crm", "crm", "active"),
            ("mail", None, "none"),
        ]


async def test_billing_is_asked_within_the_process(store_url: str, store: Store) -> None:
    environ = environment(
        store_url, CONSOLE_TOKEN=TOKEN, INTAKE="1", CATALOG="sync/billing/catalog/example.toml", PADDLE_SECRETS="live:x"
    )
    async with run_gateway(environ) as running, http(running) as client:
        await login(client)
        session = await get(client, "session")
        assert session["intake"] is True
        assert {"reconcile", "retry", "retry_topic"} <= set(session["actions"])
        assert "drop" not in session["actions"]
        told = await get(client, f"status/{TOPIC}")
        assert (told["listed"], told["store"]["version"]) == (True, 0)
        assert (await get(client, f"overrides/{TOPIC}"))["overrides"] == []
        owned = await get(client, f"links/{TOPIC}")
        assert (owned["listed"], owned["links"], owned["moved"]) == (True, [], [])
        assert (await get(client, "drift"))["drift"] == []
        await store.redis.zadd("pw:{timers/live}:due", {TOPIC: 1795000000000000})
        (timer,) = (await get(client, f"schedule/{TOPIC}"))["timers"]
        assert (timer["kind"], timer["due_us"]) == ("time", 1795000000000000)
        answer = await act(client, "reconcile", topic=TOPIC)
        assert (answer.status_code, answer.json()["cause_code"]) == (502, "provider_unavailable")
        assert (await act(client, "retry", env="live", event_id="none")).status_code == 404
        assert (await act(client, "retry_topic", topic=TOPIC)).json()["retried"] == 0
        assert (await act(client, "drop", session="s_x_1")).json()["code"] == "not_dev"
        assert [entry["outcome"] for entry in (await get(client, "audit"))["entries"]] == [
            "refused",
            "done",
            "refused",
            "failed",
        ]
        # What is asked within the process counts like a request of the route that answers the same.
        counted = running.node.metrics.requests
        assert counted["/v1/tenants/{id}/status", "GET", 200] == counted["/v1/drift", "GET", 200] == 1
        assert (
            counted["/v1/tenants/{id}/reconcile", "POST", 503]
            == counted["/v1/parked/{event_id}/retry", "POST", 404]
            == 1
        )
        assert counted["/console/api/drift", "GET", 200] == 1
        # Nobody outside gets in as the console.
        refused = await client.get("/v1/drift", headers={"planwire.console": "1"})
        assert refused.status_code == 401
        await client.post("/webhooks/paddle", content=b"{}", headers={"Paddle-Signature": "nonsense"})
        (row,) = (await get(client, "refusals"))["webhooks"]
        assert (row["provider"], row["code"], row["count"]) == ("paddle", "signature_malformed", 1)


async def test_parked_events_are_listed_where_webhooks_are_taken(store_url: str, store: Store) -> None:
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        assert (await get(client, "parked"))["listed"] is False
    environ = environment(store_url, DEV="1", INTAKE="1", CATALOG="sync/billing/catalog/example.toml")
    head = "pw:{inbox/live}"
    fields: dict[Any, Any] = {
        "body": "{}",
        "provider": "paddle",
        "type": "t",
        "received_us": "5",
        "status": "parked",
        "attempts": "1",
    }
    fields |= {"reason": "<b>why</b>", "topic": "", "waits": "link:x"}
    for number in range(3):
        await store.redis.hset(f"{head}:event:evt_{number}", mapping=fields)
        await store.redis.zadd(f"{head}:parked", {f"evt_{number}": 10 + number})
    async with run_gateway(environ) as running, http(running) as client:
        listed = await get(client, "parked")
        (live,) = listed["environments"]
        assert (live["env"], live["total"], live["next"]) == ("live", 3, None)
        assert [event["event_id"] for event in live["parked"]] == ["evt_0", "evt_1", "evt_2"]
        assert live["parked"][0]["reason"] == "<b>why</b>"
        assert "body" not in live["parked"][0]
        later = await get(client, "parked?env=live&after=10.evt_0")
        assert [event["event_id"] for event in later["environments"][0]["parked"]] == ["evt_1", "evt_2"]
        await store.redis.hset(f"{head}:event:evt_1", "topic", TOPIC)
        (of_topic,) = (await get(client, f"parked?topic={TOPIC}"))["environments"]
        assert [event["event_id"] for event in of_topic["parked"]] == ["evt_1"]
        retried = (await act(client, "retry_topic", topic=TOPIC)).json()
        assert [(result["event_id"], "became" in result) for result in retried["results"]] == [("evt_1", True)]
        for query in ("env=none", "env=live&after=x", "topic=x", "topic=other/tenant:acme"):
            assert (await client.get(f"/console/api/parked?{query}")).status_code == 422


async def test_a_plan_is_granted_from_the_console(store_url: str) -> None:
    """By the same code as the route for backends; the login is in the cause and in the list."""
    environ = environment(
        store_url, CONSOLE_TOKEN=TOKEN, INTAKE="1", CATALOG="sync/billing/catalog/example.toml", PADDLE_SECRETS="live:x"
    )
    grant = {"plan": "pro", "expires_at": "2100-01-31T12:00:00Z", "reason": "outage", "trial": False, "units": 9}
    async with run_gateway(environ) as running, http(running) as client:
        await login(client)
        granted = (await act(client, "grant", topic=TOPIC, **grant)).json()
        assert granted["granted"] == "applied"
        stored = (await get(client, f"status/{TOPIC}"))["store"]
        assert (stored["version"], stored["state"]["plan"]["key"]) == (granted["version"], "pro")
        (shown,) = (await get(client, f"overrides/{TOPIC}"))["overrides"]
        assert (shown["kind"], shown["name"], shown["value"], shown["reason"]) == ("plan", "pro", 9, "outage")
        assert shown["by"].startswith("console:")
        for wrong, code in (
            ({"plan": "gold"}, "plan_unknown"),
            ({"expires_at": "soon"}, "request_invalid"),
            ({"price": "x"}, "request_invalid"),
            ({"topic": "user:42"}, "request_invalid"),
        ):
            answer = (await act(client, "grant", **{"topic": TOPIC, **grant, **wrong})).json()
            assert code in (answer["code"], answer.get("cause_code")), answer


async def test_a_store_that_is_away_is_said_to_be(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:

        async def away(*_: object, **__: object) -> None:
            raise StoreError("away")

        monkeypatch.setattr(topics, "run_commands", away)
        answer = await client.get(f"/console/api/events/{TOPIC}")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")


async def test_a_store_that_does_not_answer_holds_up_no_end(valkey: Server) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(run_gateway(environment(valkey.url, CONSOLE_TOKEN=TOKEN)))
        valkey.pause()
        async with asyncio.timeout(20):
            await stack.aclose()
