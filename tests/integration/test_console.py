"""The console's door and what it answers, on a real server with a real store."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2
import jwt
import orjson
import pytest

from gateway import console_routes
from gateway.console_routes import AUDIENCE, COOKIE, LOGIN_TRIES, Gate
from gateway.settings import GatewaySettings
from sync.billing import pipeline
from sync.state.store import Change, Store
from tests.support.gateway import Running, environment, open_client, run_gateway
from tests.support.wait import until

TOKEN = "a-console-token-for-tests-0123456789"
TOPIC = "tenant:acme"
API = (
    "counters",
    "topics",
    f"topics/{TOPIC}",
    f"timeline/{TOPIC}",
    f"diff/{TOPIC}?from=1&to=2",
    f"events/{TOPIC}",
    "parked",
)


def http(running: Running, **options: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=running.url, **options)


async def login(client: httpx2.AsyncClient, token: object = TOKEN, **headers: str) -> httpx2.Response:
    origin = {"Origin": str(client.base_url).rstrip("/")}
    return await client.post("/console/login", json={"token": token}, headers=origin | headers)


async def get(client: httpx2.AsyncClient, path: str) -> dict[str, Any]:
    answer = await client.get(f"/console/api/{path}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def commit(store: Store, state: object, topic: str = TOPIC, **options: Any) -> int:
    return (await store.commit(Change(topic, orjson.dumps(state), **options))).version


# The door.


async def test_without_a_token_there_is_no_console(store_url: str) -> None:
    async with run_gateway(environment(store_url), until_fresh=False) as running, http(running) as client:
        for path in ("/console", "/console/", "/console/app.js", *(f"/console/api/{path}" for path in API)):
            assert (await client.get(path)).status_code == 404, path
        assert (await login(client, "")).status_code == 404


async def test_the_page_holds_no_data_and_runs_its_own_files_only(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        page = await client.get("/console", follow_redirects=True)
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert (await client.get("/console/app.js")).headers["content-security-policy"] == policy
        for path in API:
            answer = await client.get(f"/console/api/{path}")
            assert (answer.status_code, answer.json()["code"]) == (401, "token_missing"), path


async def test_the_token_is_exchanged_for_a_cookie_that_opens_every_process(store_url: str) -> None:
    environ = environment(store_url, CONSOLE_TOKEN=TOKEN)
    async with run_gateway(environ) as running, run_gateway(environ) as other, http(running) as client:
        answer = await login(client)
        assert answer.status_code == 204
        cookie = answer.headers["set-cookie"]
        for part in ("HttpOnly", "SameSite=strict", "Path=/console", f"Max-Age={console_routes.COOKIE_TTL_S}"):
            assert part in cookie
        assert "Secure" not in cookie
        assert TOKEN not in cookie
        assert (await get(client, "counters"))["gateway"] == running.node.name
        async with http(other, cookies={COOKIE: answer.cookies[COOKIE]}) as elsewhere:
            assert (await get(elsewhere, "counters"))["gateway"] == other.node.name
        assert (await client.post("/console/logout", headers={"Origin": running.url})).status_code == 204
        assert (await client.get("/console/api/counters")).status_code == 401


async def test_over_https_the_cookie_is_secure(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        answer = await login(client, Origin="https://console.example", Host="console.example")
        assert answer.status_code == 204
        assert "Secure" in answer.headers["set-cookie"]


async def test_cookies_made_otherwise_open_nothing(store_url: str) -> None:
    now = int(time.time())
    good = {"aud": AUDIENCE, "exp": now + 60}
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running:
        key = Gate(running.node.settings)._key
        attempts = {
            "the right one": jwt.encode(good, key, "HS256"),
            "signed with the token": jwt.encode(good, TOKEN, "HS256"),
            "unsigned": jwt.encode(good, "", "none"),
            "without an end": jwt.encode({"aud": AUDIENCE}, key, "HS256"),
            "for another audience": jwt.encode(good | {"aud": "x"}, key, "HS256"),
            "ended": jwt.encode(good | {"exp": now - 1}, key, "HS256"),
            "the token": TOKEN,
        }
        for name, value in attempts.items():
            async with http(running, cookies={COOKIE: value}) as client:
                status = (await client.get("/console/api/counters")).status_code
                assert status == (200 if name == "the right one" else 401), name


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://127.0.0.1", "http://[", "file:///"])
async def test_other_pages_can_neither_log_in_nor_out(store_url: str, origin: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        for answer in (
            await login(client, Origin=origin),
            await client.post("/console/logout", headers={"Origin": origin}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "origin_forbidden")


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], 7, None, [TOKEN], "\u00e9"])
async def test_a_wrong_token_is_refused(store_url: str, token: object) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        answer = await login(client, token)
        assert (answer.status_code, answer.json()["code"]) == (401, "key_invalid")
        assert "set-cookie" not in answer.headers


async def test_an_address_may_try_so_often_and_then_has_to_wait(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        for _ in range(LOGIN_TRIES):
            assert (await login(client, "wrong")).status_code == 401
        answer = await login(client)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= console_routes.LOGIN_WINDOW_S


async def test_a_login_body_is_bounded(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        assert (await login(client, "x" * console_routes.LOGIN_BODY_MAX_BYTES)).status_code == 413


async def test_in_development_a_loopback_page_needs_no_login_but_a_foreign_name_for_loopback_does(
    store_url: str,
) -> None:
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        assert (await client.get("/console/api/counters")).status_code == 200
        for path in ("/console/", "/console/api/counters"):
            assert (await client.get(path, headers={"Host": "evil.example"})).status_code == 404
    async with run_gateway(environment(store_url, DEV="1", CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        assert (await client.get("/console/api/counters", headers={"Host": "evil.example"})).status_code == 401


def test_the_addresses_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_routes, "ADDRESSES_MAX", 3)
    gate = Gate(GatewaySettings.from_env({"PLANWIRE_JWT_SECRET": "x" * 32, "PLANWIRE_CONSOLE_TOKEN": TOKEN}))
    for number in range(10):
        gate._spend(f"10.0.0.{number}", 0.0)
    assert len(gate._tries) == 3


# What it answers.


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
        assert found["committed"]["version"] == found["here"]["version"] == version
        assert found["committed"]["cause"] == orjson.loads(cause)
        assert [tab["status"] for tab in found["tabs"]] == ["NACKED", "BEHIND", "SYNCED"]
        nacked, behind, synced = found["tabs"]
        assert (nacked["nacked"], nacked["reason"]) == (version, "<b>no</b>")
        assert (behind["sent"], behind["acked"]) == (version, 0)
        assert synced["acked"] == version
        assert {tab["sub"] for tab in found["tabs"]} == {"tester"}
        assert synced["owed_s"] is None
        assert behind["owed_s"] > 0
        topics = await get(client, "topics?only=trouble")
        assert [(row["name"], row["status"]) for row in topics["topics"]] == [(TOPIC, "NACKED")]
        counters = await get(client, "counters")
        assert counters["tabs"]["NACKED"] == counters["tabs"]["BEHIND"] == counters["nacks"] == 1
        assert counters["publish_to_acked"]["count"] == 1

        for path in ("topics", f"topics/{TOPIC}", f"timeline/{TOPIC}", f"events/{TOPIC}"):
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
        assert (found["here"]["status"], found["here"]["version"]) == ("BEHIND", version)
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
    await store.redis.xadd(pipeline.events_key(topic), noted)
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        found = await get(client, "topics/sandbox%2Ftenant%3Aacme")
        assert (found["here"], found["tabs"]) == (None, [])
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
        assert (first["total"], rest["next"]) == (5, None)
        found = await get(client, "topics?search=T3")
        assert [row["name"] for row in found["topics"]] == ["tenant:t3"]
        assert found["topics"][0]["tabs"] == {"SYNCED": 1}


async def test_bad_questions_are_refused(store_url: str) -> None:
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        for path in (
            "topics?limit=501",
            "topics?limit=x",
            "topics/nothing",
            f"topics/{TOPIC}?after=-1",
            f"timeline/{TOPIC}?count=201",
            "events/%3Cscript%3E",
        ):
            answer = await client.get(f"/console/api/{path}")
            assert answer.status_code == 422, path
        assert (await client.post("/console/api/topics")).status_code == 405


async def test_parked_events_are_listed_where_webhooks_are_taken(store_url: str, store: Store) -> None:
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        assert (await get(client, "parked"))["listed"] is False
    environ = environment(store_url, DEV="1", INTAKE="1", CATALOG="sync/billing/catalog.example.toml")
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
        for query in ("env=none", "env=live&after=x"):
            assert (await client.get(f"/console/api/parked?{query}")).status_code == 422


async def test_many_consoles_share_one_count(store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    judge = console_routes._judge

    def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return judge(*arguments)

    monkeypatch.setattr(console_routes, "_judge", counted)
    monkeypatch.setattr(console_routes, "CENSUS_S", 60.0)
    monkeypatch.setattr(console_routes, "CENSUS_MAX", 2)
    for name in "abc":
        await commit(store, {}, f"tenant:{name}")
    async with (
        run_gateway(environment(store_url, DEV="1")) as running,
        http(running) as client,
        open_client(running, "tenant:a", "tenant:b", "tenant:c") as tab,
    ):
        for _ in range(3):
            await tab.until("snapshot")
        answers = await asyncio.gather(*(get(client, "counters") for _ in range(8)))
        assert looks == 2
        assert {answer["uncounted"] for answer in answers} == {1}


async def test_a_store_that_is_away_is_said_to_be(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:

        async def away(*_: object, **__: object) -> None:
            raise OSError("away")

        monkeypatch.setattr(running.node.store.redis, "xrevrange", away)
        answer = await client.get(f"/console/api/events/{TOPIC}")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
