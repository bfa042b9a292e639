"""The console's door on a real server: logins, scopes, and pages that are not ours."""

from __future__ import annotations

import time

import httpx2
import jwt
import pytest

from gateway.console import gate, routes, scopes
from gateway.console.gate import AUDIENCE, COOKIE, LOGIN_TRIES, Gate
from gateway.settings import GatewaySettings
from sync.state.store import Store
from tests.support.console import TOKEN, TOPIC, act, commit, get, http, login, post
from tests.support.gateway import PUBLISH_KEY, environment, open_client, run_gateway, token
from tests.support.wait import until
from tests.support.wire import dial, head

API = (
    "session",
    "counters",
    "gateways",
    "topics",
    "refusals",
    "audit",
    "parked",
    "drift",
    *(
        f"{noun}/{TOPIC}"
        for noun in (
            "topics",
            "timeline",
            "snapshot",
            "events",
            "fixture",
            "schedule",
            "overrides",
            "status",
        )
    ),
    f"diff/{TOPIC}?from=1&to=2",
)
FOREIGN = ("https://evil.example", "null", "", "http://127.0.0.1", "http://[", "file:///")
ADMIN, READER, KEEPER = "an-admin-token-for-tests-0123456789ab", "a-reading-token-for-tests-0123456789", "k" * 40
SCOPED = f"read:{READER},admin:{ADMIN},private:{KEEPER}"


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
        for part in ("HttpOnly", "SameSite=strict", "Path=/console", f"Max-Age={gate.COOKIE_TTL_S}"):
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
    good = {"aud": AUDIENCE, "exp": now + 60, "jti": "x"}
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running:
        (token,) = scopes.parse(TOKEN)
        key, named = token.cookie_key, {"kid": token.id}
        attempts = {
            "the right one": jwt.encode(good, key, "HS256", named),
            "without the token's name": jwt.encode(good, key, "HS256"),
            "signed with the token": jwt.encode(good, TOKEN, "HS256", named),
            "signed as a stream's": jwt.encode(good, token.stream_key, "HS256", named),
            "unsigned": jwt.encode(good, "", "none", named),
            "without an end": jwt.encode({"aud": AUDIENCE, "jti": "x"}, key, "HS256", named),
            "for another audience": jwt.encode(good | {"aud": "x"}, key, "HS256", named),
            "ended": jwt.encode(good | {"exp": now - 1}, key, "HS256", named),
            "the token": TOKEN,
        }
        for name, value in attempts.items():
            async with http(running, cookies={COOKIE: value}) as client:
                status = (await client.get("/console/api/counters")).status_code
                assert status == (200 if name == "the right one" else 401), name


async def test_other_pages_can_neither_log_in_nor_out(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        for origin in FOREIGN:
            for answer in (
                await login(client, Origin=origin),
                await client.post("/console/logout", headers={"Origin": origin}),
            ):
                assert (answer.status_code, answer.json()["code"]) == (403, "origin_forbidden"), origin


async def test_a_wrong_token_is_refused(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        for token in ("", "wrong", TOKEN + "x", TOKEN[:-1], 7, None, [TOKEN], "\u00e9"):
            answer = await login(client, token)
            assert (answer.status_code, answer.json()["code"]) == (401, "key_invalid"), token
            assert "set-cookie" not in answer.headers


async def test_an_address_may_try_so_often_and_then_has_to_wait(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        for _ in range(LOGIN_TRIES):
            assert (await login(client, "wrong")).status_code == 401
        answer = await login(client)
        assert answer.status_code == 429
        bearing = await client.get("/console/api/session", headers={"Authorization": f"Bearer {TOKEN}"})
        assert bearing.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= gate.LOGIN_WINDOW_S


async def test_a_login_body_is_bounded(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        assert (await login(client, "x" * routes.LOGIN_BODY_MAX_BYTES)).status_code == 413


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
    monkeypatch.setattr(gate, "ADDRESSES_MAX", 3)
    door = Gate(GatewaySettings.from_env({"PLANWIRE_JWT_SECRET": "x" * 32, "PLANWIRE_CONSOLE_TOKEN": TOKEN}))
    for number in range(10):
        door._spend(f"10.0.0.{number}", 0.0)
    assert len(door._tries) == 3


async def test_a_page_that_is_not_ours_can_do_nothing(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        await login(client)
        own, header = {"Origin": running.url}, {"Planwire-Console": "1"}
        for path, body in (("look", {"topics": []}), ("token", {}), ("actions/revoke", {"sub": "ann"})):
            attempts: list[tuple[dict[str, str], str]] = [(own, "header_missing"), ({}, "header_missing")]
            attempts += [(header | {"Origin": origin}, "origin_forbidden") for origin in FOREIGN]
            for headers, code in (*attempts, (header, "origin_forbidden")):
                answer = await client.post(f"/console/api/{path}", json=body, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (403, code), (path, headers)
            as_form = {"Content-Type": "text/plain"} | own | header
            answer = await client.post(f"/console/api/{path}", content=b"{}", headers=as_form)
            assert answer.status_code == 415 or path == "token"
            answer = await client.post(f"/console/api/{path}", json=body, headers=own | header)
            assert answer.status_code == 200, path
        assert len((await get(client, "audit"))["entries"]) == 1, "a refused page is nobody's action"
        client.cookies.clear()
        answer = await client.post("/console/api/actions/revoke", json={"sub": "ann"}, headers=own | header)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_missing")


async def test_scopes_say_who_may_see_and_who_may_act(store_url: str, store: Store) -> None:
    await commit(store, {"plan": "pro"}, private=b'{"hidden":"secret"}')
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=SCOPED)) as running:
        for token, scopes_, may_act, may_see in (
            (READER, ["read"], False, False),
            (ADMIN, ["read", "admin"], True, False),
            (KEEPER, ["read", "private"], False, True),
        ):
            async with http(running) as client:
                assert (await login(client, token)).status_code == 204
                session = await get(client, "session")
                assert (session["scopes"], session["has_login"]) == (scopes_, True)
                assert ("revoke" in session["actions"]) is may_act
                answer = await act(client, "revoke", sub="ann")
                assert answer.status_code == (200 if may_act else 403)
                assert may_act or answer.json()["code"] == "scope_missing"
                seen = await get(client, f"snapshot/{TOPIC}")
                assert ("private" in seen, seen["private_hidden"]) == (may_see, not may_see)
                assert may_see or "secret" not in str(seen)
                assert (await client.get(f"/console/api/overrides/{TOPIC}")).status_code == (200 if may_see else 403)
        async with http(running, headers={"Authorization": f"Bearer {ADMIN}"}) as client:
            entries = (await get(client, "audit"))["entries"]
            assert [(entry["action"], entry["outcome"], entry["scopes"]) for entry in entries] == [
                ("revoke", "refused", ["read", "private"]),
                ("revoke", "done", ["read", "admin"]),
                ("revoke", "refused", ["read"]),
            ]
            assert len({entry["who"] for entry in entries}) == 3
            assert {entry["target"] for entry in entries} == {"ann"}
            first = await get(client, "audit?limit=1")
            rest = await get(client, f"audit?limit=5&before={first['next']}")
            assert first["entries"] + rest["entries"] == entries
            assert (await client.get("/console/api/audit?before=x")).status_code == 422


async def test_a_cookie_has_the_scopes_that_its_token_has_now(store_url: str) -> None:
    async with (
        run_gateway(environment(store_url, CONSOLE_TOKEN=f"admin:{TOKEN}")) as before,
        run_gateway(environment(store_url, CONSOLE_TOKEN=f"read:{TOKEN}")) as after,
        run_gateway(environment(store_url, CONSOLE_TOKEN=READER)) as without,
        http(before) as client,
    ):
        cookie = {COOKIE: (await login(client)).cookies[COOKIE]}
        async with http(after, cookies=cookie) as later, http(without, cookies=cookie) as never:
            assert (await get(later, "session"))["scopes"] == ["read"]
            assert (await never.get("/console/api/session")).status_code == 401


async def test_a_streams_token_opens_what_gateways_report_and_nothing_else(store_url: str, store: Store) -> None:
    await commit(store, {"plan": "pro"})
    # An issuer and an audience of the application's own tokens do not matter to the console's.
    first = environment(store_url, CONSOLE_TOKEN=SCOPED, JWT_ISSUER="https://app.example", JWT_AUDIENCE="app")
    async with run_gateway(first) as running, run_gateway(first) as other, http(running) as client:
        await login(client, READER)
        told = (await post(client, "token", {})).json()
        report = f"gateway:{running.node.name}"
        await post(client, "look", {"topics": []})
        bearing = {"Authorization": f"Bearer {told['token']}"}
        async with http(other, headers=bearing) as reader:
            await until(lambda: _is_ok(reader, report))
            for topic in (TOPIC, "sandbox/tenant:acme", "probe:x"):
                assert (await reader.get(f"/v1/state/{topic}")).status_code == 403, topic
        (holder, *_) = (one for one in scopes.parse(SCOPED) if one.text == READER.encode())
        now = int(time.time())
        forged = {"sub": "x", "iat": now, "exp": now + 60, "topics": ["*"], "scope": ["read", "private"], "aud": "app"}
        kid = jwt.get_unverified_header(told["token"])["kid"]
        for claims, key, status in (
            (forged | {"iss": gate.STREAM_ISSUER}, holder.stream_key, 403),
            (forged, holder.stream_key, 401),
            (forged | {"iss": "https://app.example"}, holder.stream_key, 401),
            (forged | {"iss": gate.STREAM_ISSUER}, holder.cookie_key, 401),
        ):
            text = jwt.encode(claims, key, "HS256", {"kid": kid})
            answer = await client.get(f"/v1/state/{TOPIC}", headers={"Authorization": f"Bearer {text}"})
            assert answer.status_code == status, claims
        text = jwt.encode(forged | {"iss": gate.STREAM_ISSUER}, holder.stream_key, "HS256")
        answer = await client.get(f"/v1/state/{report}", headers={"Authorization": f"Bearer {text}"})
        assert answer.status_code == 401, "a token of ours names its key"


async def _is_ok(client: httpx2.AsyncClient, topic: str) -> bool:
    return bool((await client.get(f"/v1/state/{topic}")).json().get("version"))


async def test_reports_are_closed_to_ordinary_tokens_and_publishers(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        report = f"gateway:{running.node.name}"
        for name in (report, "console:x", "sandbox/gateway:x"):
            for jwt_ in (token(), token(name), token(scope=("read", "private"))):
                answer = await client.get(f"/v1/state/{name}", headers={"Authorization": f"Bearer {jwt_}"})
                assert (answer.status_code, answer.json()["code"]) == (403, "topic_forbidden"), name
            key = {"Authorization": f"Bearer {PUBLISH_KEY}"}
            answer = await client.post("/v1/publish", json={"topic": name, "state": {}}, headers=key)
            assert (answer.status_code, answer.json()["code"]) == (403, "topic_reserved"), name
        async with open_client(running, report) as tab:
            await tab.until("welcome")
            assert (await tab.receive())["code"] == "forbidden"
        opened = token(scope=("console",))
        assert (
            await client.get(f"/v1/state/{report}", headers={"Authorization": f"Bearer {opened}"})
        ).status_code == 200


async def test_the_consoles_own_page_may_connect_and_others_may_not(store_url: str) -> None:
    async with (
        run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as with_console,
        run_gateway(environment(store_url)) as without,
    ):
        for running, origin, status in (
            (with_console, with_console.url, 101),
            (with_console, "http://evil.example", 403),
            (without, without.url, 403),
        ):
            async with dial(running.port) as wire:
                host = f"127.0.0.1:{running.port}"
                await wire.send(head({"Origin": origin, "Host": host}))
                assert (await wire.answer()).status == status, origin
