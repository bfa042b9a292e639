"""The console's door on a real server: logins, scopes, and pages that are not ours."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import jwt
import pytest
from structlog.testing import capture_logs

from gateway.auth.revocations import Revocations
from gateway.console import auth, observer, scopes
from gateway.console.auth import AUDIENCE, COOKIE, LOGIN_TRIES, ConsoleAuth, Tokens
from gateway.console.reports.tab_counts import TabCounts
from gateway.console.routes import routes
from gateway.settings import GatewaySettings
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.store import Store
from tests.support.console import TOKEN, TOPIC, act, commit, get, http, login, post
from tests.support.gateway import PUBLISH_KEY, environment, open_client, run_gateway, token
from tests.support.servers import Server
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
    "shadow",
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
            "links",
            "status",
            "shadow",
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
        for part in ("HttpOnly", "SameSite=strict", f"Max-Age={auth.COOKIE_TTL_S}"):
            assert part in cookie
        assert "Secure" not in cookie
        # A browser takes the login's folder, with whatever a proxy has put before it.
        assert "path" not in cookie.lower()
        assert [stored.path for stored in client.cookies.jar] == ["/console"]
        assert TOKEN not in cookie
        assert (await get(client, "counters"))["gateway"] == running.node.name
        async with http(other, cookies={COOKIE: answer.cookies[COOKIE]}) as elsewhere:
            assert (await get(elsewhere, "counters"))["gateway"] == other.node.name
        assert (await client.post("/console/logout", headers={"Origin": running.url})).status_code == 204
        assert not client.cookies
        assert (await client.get("/console/api/counters")).status_code == 401


async def test_over_https_the_cookie_is_secure(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        answer = await login(client, Origin="https://console.example", Host="console.example")
        assert answer.status_code == 204
        assert "Secure" in answer.headers["set-cookie"]


async def test_cookies_made_otherwise_open_nothing(store_url: str) -> None:
    now = int(time.time())
    good = {"aud": AUDIENCE, "iat": now, "exp": now + 60, "jti": "x"}
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running:
        (token,) = scopes.parse(TOKEN)
        key, named = token.cookie_key, {"kid": token.id}
        attempts = {
            "the right one": jwt.encode(good, key, "HS256", named),
            "without the token's name": jwt.encode(good, key, "HS256"),
            "signed with the token": jwt.encode(good, TOKEN, "HS256", named),
            "signed as a stream's": jwt.encode(good, token.stream_key, "HS256", named),
            "unsigned": jwt.encode(good, "", "none", named),
            "without an end": jwt.encode({"aud": AUDIENCE, "iat": now, "jti": "x"}, key, "HS256", named),
            "without a beginning": jwt.encode({"aud": AUDIENCE, "exp": now + 60, "jti": "x"}, key, "HS256", named),
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


async def test_an_address_may_try_so_often_and_the_right_token_gets_in_all_the_same(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        for _ in range(LOGIN_TRIES):
            assert (await login(client, "wrong")).status_code == 401
        answer = await login(client, "wrong")
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= auth.LOGIN_WINDOW_S
        wrong = await client.get("/console/api/session", headers={"Authorization": "Bearer wrong"})
        assert wrong.status_code == 429
        assert (await login(client)).status_code == 204
        async with http(running, headers={"Authorization": f"Bearer {TOKEN}"}) as bearing:
            assert (await bearing.get("/console/api/session")).status_code == 200


async def test_behind_a_proxy_wrong_tokens_are_counted_by_the_clients_address(store_url: str) -> None:
    settings = environment(store_url, CONSOLE_TOKEN=TOKEN, TRUSTED_PROXIES="127.0.0.1")
    async with run_gateway(settings) as running, http(running) as client:

        async def tried(address: str) -> int:
            return (await login(client, "wrong", **{"X-Forwarded-For": address})).status_code

        for number in range(LOGIN_TRIES):
            # Ports and what the client claimed before mean nothing.
            assert await tried(f"198.51.100.{number}, 203.0.113.9:{4000 + number}") == 401
        assert await tried("203.0.113.9") == 429
        assert await tried("203.0.113.8") == 401
        for number in range(LOGIN_TRIES):
            assert await tried(f"2001:db8:0:1::{number:x}") == 401
        assert await tried("[2001:db8:0:1:ffff::1]:443") == 429, "a /64 is one client"
        assert await tried("2001:db8:0:2::1") == 401
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        for number in range(LOGIN_TRIES):
            assert await tried(f"203.0.113.{number}") == 401
        assert await tried("203.0.113.99") == 429, "nobody is trusted to tell another address"


async def test_a_login_body_is_bounded(store_url: str) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        assert (await login(client, "x" * routes.LOGIN_BODY_MAX_BYTES)).status_code == 413


async def test_in_development_a_loopback_page_needs_no_login_but_a_foreign_name_for_loopback_does(
    store_url: str,
) -> None:
    async with run_gateway(environment(store_url, DEV="1")) as running, http(running) as client:
        assert (await client.get("/console/api/counters")).status_code == 200
        for path in ("/console/", "/console/api/counters", "/demo", "/demo/"):
            assert (await client.get(path, headers={"Host": "evil.example"})).status_code == 404
    async with run_gateway(environment(store_url, DEV="1", CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        assert (await client.get("/console/api/counters", headers={"Host": "evil.example"})).status_code == 401


async def test_a_console_token_that_is_set_is_asked_for_in_development_too(store_url: str) -> None:
    async with run_gateway(environment(store_url, DEV="1", CONSOLE_TOKEN="short")) as running, http(running) as client:
        for path in API:
            answer = await client.get(f"/console/api/{path}")
            assert (answer.status_code, answer.json()["code"]) == (401, "token_missing"), path
        assert (await post(client, "actions/revoke", {"sub": "ann"})).status_code == 401
        assert (await login(client, "short")).status_code == 204
        assert (await get(client, "session"))["has_login"] is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Host", "localhost"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded", "1"),
        ("Forwarded", "for=127.0.0.1"),
        ("X-Real-IP", "127.0.0.1"),
        ("Via", "1.1 tunnel"),
        ("CF-Connecting-IP", "127.0.0.1"),
        ("True-Client-IP", ""),
    ],
)
async def test_in_development_what_a_proxy_passed_on_comes_from_elsewhere(
    store_url: str, name: str, value: str
) -> None:
    """Tunnels connect from loopback, and rewrite the Host."""
    async with run_gateway(environment(store_url, DEV="1"), until_fresh=False) as running, http(running) as client:
        passed_on = {"Host": "localhost", name: value}
        for path in ("/console", "/console/", "/console/app.js", "/console/api/session", "/demo", "/demo/"):
            assert (await client.get(path)).status_code in (200, 307), path
            assert (await client.get(path, headers=passed_on)).status_code == 404, path
        body = {"tenant": "acme"}
        assert (await client.post("/demo/token", json=body)).status_code == 200
        for path in ("token", "use", "simulate/upgrade"):
            answer = await client.post(f"/demo/{path}", json=body, headers=passed_on)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_addresses_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "ADDRESSES_MAX", 3)
    settings = GatewaySettings.from_env({"PLANWIRE_JWT_SECRET": "x" * 32, "PLANWIRE_CONSOLE_TOKEN": TOKEN})
    tokens = Tokens.of(settings)
    assert tokens is not None
    door = ConsoleAuth(settings, tokens, Revocations())
    for number in range(10):
        door._count_wrong(f"10.0.0.{number}", 0.0)
    assert len(door._tries) == 3


async def test_a_logout_ends_the_login_on_every_gateway_and_its_stream(store_url: str, store: Store) -> None:
    environ = environment(store_url, CONSOLE_TOKEN=TOKEN)
    async with run_gateway(environ) as running, run_gateway(environ) as other, http(running) as client:
        stolen = {COOKIE: (await login(client)).cookies[COOKIE]}
        kept = {COOKIE: (await login(client)).cookies[COOKIE]}
        async with http(other, cookies=stolen) as thief, http(other, cookies=kept) as colleague:
            stream = (await post(thief, "token", {})).json()["token"]
            colleagues_stream = (await post(colleague, "token", {})).json()["token"]
            report = f"gateway:{running.node.name}"
            async with (
                open_client(running, report, jwt=stream) as cut,
                open_client(running, report, jwt=colleagues_stream) as uncut,
            ):
                await cut.until("welcome")
                await uncut.until("welcome")
                async with http(running, cookies=stolen) as leaving:
                    answer = await leaving.post("/console/logout", headers={"Origin": running.url})
                    assert answer.status_code == 204
                    assert answer.headers["set-cookie"].startswith(f'{COOKIE}="";')
                assert (await cut.closed())[0] == 4401
                assert uncut.connection.close_code is None

            async def is_out() -> bool:
                return str((await thief.get("/console/api/session")).json().get("code")) == "token_revoked"

            await until(is_out)
            for path in ("look", "token"):
                assert (await post(thief, path, {"topics": []})).status_code == 401
            bearing = {"Authorization": f"Bearer {stream}"}
            assert (await thief.get(f"/v1/state/{report}", headers=bearing)).status_code == 401
            assert (await colleague.get("/console/api/session")).status_code == 200
        async with run_gateway(environ) as later, http(later, cookies=stolen) as thief:
            await until(is_out)
        # It has its time and its place: no revocation of a token is pushed out by logouts.
        assert await store.redis.zcard(keys.ended_logins) == 1
        assert await store.redis.zcard(keys.revoked) == 0
        assert 0 < await store.redis.ttl(keys.ended_logins) <= auth.COOKIE_TTL_S + 1


async def test_a_logout_without_a_login_ends_nothing(store_url: str, store: Store) -> None:
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        for cookies in ({}, {COOKIE: "nonsense"}, {COOKIE: jwt.encode({"jti": "x"}, "x" * 32, "HS256")}):
            async with http(running, cookies=cookies) as client:
                assert (await client.post("/console/logout", headers={"Origin": running.url})).status_code == 204
        assert await store.redis.exists(keys.ended_logins) == 0


async def test_a_logout_that_cannot_be_told_to_others_says_so_and_counts_here(valkey: Server) -> None:
    async with run_gateway(environment(valkey.url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        stolen = {COOKIE: (await login(client)).cookies[COOKIE]}
        valkey.kill()
        answer = await client.post("/console/logout", headers={"Origin": running.url}, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert not client.cookies
        async with http(running, cookies=stolen) as thief:
            assert (await thief.get("/console/api/session")).json()["code"] == "token_revoked"


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
                for path in ("overrides", "links"):
                    answer = await client.get(f"/console/api/{path}/{TOPIC}")
                    assert answer.status_code == (200 if may_see else 403)
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
            (forged | {"iss": auth.STREAM_ISSUER}, holder.stream_key, 403),
            (forged, holder.stream_key, 401),
            (forged | {"iss": "https://app.example"}, holder.stream_key, 401),
            (forged | {"iss": auth.STREAM_ISSUER}, holder.cookie_key, 401),
        ):
            text = jwt.encode(claims, key, "HS256", {"kid": kid})
            answer = await client.get(f"/v1/state/{TOPIC}", headers={"Authorization": f"Bearer {text}"})
            assert answer.status_code == status, claims
        text = jwt.encode(forged | {"iss": auth.STREAM_ISSUER}, holder.stream_key, "HS256")
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


REBOUND = ("http://evil.example", "http://evil.example:8000", "http://console", "http://127.0.0.1.evil.example")
"""Pages of names that anybody may have made to lead to this gateway."""


async def test_a_name_that_was_made_to_lead_here_is_no_page_of_ours(store_url: str) -> None:
    """DNS rebinding: page and Host agree. Over https the certificate would not, and an address cannot be rebound."""
    async with run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running, http(running) as client:
        sure = ("https://console.example", "https://console.example:8443", "http://localhost:8000", "http://[::1]:8000")
        for origin, is_sure in (*((one, False) for one in REBOUND), *((one, True) for one in sure)):
            host = origin.partition("://")[2]
            async with dial(running.port) as wire:
                await wire.send(head({"Origin": origin, "Host": host}))
                assert (await wire.answer()).status == (101 if is_sure else 403), origin
            answer = await login(client, Origin=origin, Host=host)
            assert answer.status_code == (204 if is_sure else 403), origin
            if not is_sure:
                assert "list http://" in answer.json()["detail"]
                assert (
                    await client.post("/console/logout", headers={"Origin": origin, "Host": host})
                ).status_code == 403


async def test_a_name_over_http_is_our_own_where_it_is_listed(store_url: str) -> None:
    name = "http://planwire.lan:8000"
    settings = environment(store_url, CONSOLE_TOKEN=TOKEN, ALLOWED_ORIGINS=name)
    async with run_gateway(settings) as running, http(running) as client:
        async with dial(running.port) as wire:
            await wire.send(head({"Origin": name, "Host": "planwire.lan:8000"}))
            assert (await wire.answer()).status == 101
        assert (await login(client, Origin=name, Host="planwire.lan:8000")).status_code == 204
        # A listed page of another host may open sockets, and has no business in the console.
        answer = await login(client, Origin=name, Host="other.lan:8000")
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_forbidden")
        assert "nginx: $http_host" in answer.json()["detail"]
        for site, status in (("same-origin", 204), ("same-site", 403), ("cross-site", 403), ("none", 403)):
            told = {"Origin": name, "Host": "upstream", "Sec-Fetch-Site": site}
            assert (await login(client, **told)).status_code == status, site
        unlisted = {"Origin": "https://console.example", "Host": "upstream", "Sec-Fetch-Site": "same-origin"}
        assert (await login(client, **unlisted)).status_code == 403


@asynccontextmanager
async def captured() -> AsyncIterator[list[MutableMapping[str, Any]]]:
    """Yield the lines that are logged meanwhile."""
    with capture_logs() as lines:
        yield lines


async def test_a_console_that_fails_stops_no_push_and_comes_back(
    store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "RETRY_MIN_S", 0.05)
    monkeypatch.setattr(observer, "RETRY_MAX_S", 0.1)
    broken = True
    count = TabCounts.count

    async def fails(self: TabCounts) -> None:
        if broken:
            raise RuntimeError("nobody foresaw this")
        await count(self)

    monkeypatch.setattr(TabCounts, "count", fails)
    async with (
        captured() as lines,
        run_gateway(environment(store_url, CONSOLE_TOKEN=TOKEN)) as running,
        http(running, headers={"Authorization": f"Bearer {TOKEN}"}) as client,
        open_client(running, TOPIC) as tab,
    ):
        await tab.until("snapshot")
        # What comes over the control channel is not trusted to be of any form either.
        for message in (b"no JSON", b"[]", b'{"op":"look"}', b'{"op":"look","topics":[1,null]}', b'{"op":"ask"}'):
            await store.publish(keys.control_channel, message)
        await until(lambda: [line["event"] for line in lines].count("console_task_failed") >= 2)
        assert {line["task"] for line in lines if line["event"] == "console_task_failed"} == {"reports"}
        version = await commit(store, {"plan": "pro"})
        assert (await tab.until("snapshot"))["version"] == version
        broken = False

        async def is_back() -> bool:
            answer = await client.get("/console/api/gateways")
            return answer.status_code == 200 and running.node.name in answer.json()["gateways"]

        await until(is_back)
        assert not running.server.should_exit
