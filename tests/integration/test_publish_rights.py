"""What each publish key may do at a running gateway: on every route, item by item in a batch, and at its rate."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import orjson
import pytest

from sync.billing.catalog.watcher import EXAMPLE
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import Facts
from sync.store.models import Change
from sync.store.store import Store
from tests.support import console
from tests.support.bodies import SECRET
from tests.support.gateway import Running, environment, run_gateway, token
from tests.support.paddle import KEY, Paddle, simulating
from tools.docs import openapi

RIGHTS = {
    "prefs": ("publish:prefs:*", "publish:user:42"),
    "sandboxed": ("publish+tenants+admin:sandbox/*",),
    "billing": ("tenants:tenant:acme",),
    "support": ("tenants+admin:tenant:*", "tenants+admin:sandbox/tenant:*"),
    "counter": ("usage:tenant:acme", "usage:sandbox/*"),
    "ops": ("publish+usage+tenants+admin:*",),
    "before": (),
}
"""The keys' entries; `before` has none, as every key had none once."""

SCOPES = {"before": {"publish", "usage", "tenants", "admin"}} | {
    name: {scope for entry in entries for scope in entry.partition(":")[0].split("+")}
    for name, entries in RIGHTS.items()
    if entries
}

ROUTES = {
    ("post", "/v1/publish"): "publish",
    ("post", "/v1/publish/batch"): "publish",
    ("post", "/v1/sessions/revoke"): "admin",
    ("get", "/v1/parked"): "tenants",
    ("post", "/v1/parked/{event_id}/retry"): "tenants",
    ("post", "/v1/parked/{event_id}/drop"): "admin",
    ("get", "/v1/parked-items"): "tenants",
    ("post", "/v1/parked-items/retry"): "tenants",
    ("post", "/v1/parked-items/drop"): "admin",
    ("get", "/v1/drift"): "tenants",
    ("post", "/v1/topics/{topic}/reconcile"): "tenants",
    ("post", "/v1/tenants/{id}/reconcile"): "tenants",
    ("post", "/v1/tenants/{id}/scheduled-change"): "tenants",
    ("delete", "/v1/tenants/{id}/scheduled-change"): "tenants",
    ("get", "/v1/tenants/{id}/overrides"): "tenants",
    ("post", "/v1/tenants/{id}/overrides"): "admin",
    ("delete", "/v1/tenants/{id}/overrides/{kind}/{name}"): "admin",
    ("get", "/v1/plan-versions"): "tenants",
    ("get", "/v1/tenants/{id}/history"): "tenants",
    ("get", "/v1/tenants/{id}/status"): "tenants",
    ("post", "/v1/tenants/{id}/shadow"): "tenants",
    ("get", "/v1/tenants/{id}/shadow"): "tenants",
    ("post", "/v1/shadow/answers"): "tenants",
    ("get", "/v1/shadow"): "tenants",
    ("post", "/v1/shadow/switch"): "admin",
    ("post", "/v1/links"): "admin",
    ("get", "/v1/tenants/{id}/links"): "tenants",
    ("delete", "/v1/tenants/{id}"): "admin",
    ("post", "/v1/tenants/{id}/revive"): "admin",
    ("post", "/v1/tenants/{id}/preview"): "tenants",
    ("post", "/v1/tenants/{id}/preview/{preview_id}/confirm"): "tenants",
    ("get", "/v1/tenants/{id}/usage"): "usage",
    ("get", "/v1/tenants/{id}/usage/{meter}"): "usage",
    ("post", "/v1/tenants/{id}/usage/{meter}/consume"): "usage",
    ("post", "/v1/tenants/{id}/usage/{meter}/release"): "usage",
    ("post", "/v1/tenants/{id}/usage/{meter}/set"): "usage",
    ("post", "/v1/tenants/{id}/usage/{meter}/reserve"): "usage",
    ("post", "/v1/tenants/{id}/usage/{meter}/finalize"): "usage",
    ("post", "/v1/tenants/{id}/usage/{meter}/adjust"): "admin",
    ("post", "/v1/tenants/{id}/usage/{meter}/grant"): "admin",
    ("post", "/v1/usage/batch"): "usage",
    ("get", "/v1/tenants/{id}/usage/{meter}/history"): "usage",
    ("get", "/v1/usage/export"): "usage",
}
"""Every route that a publish key opens, and the scope it needs."""

OF_ALL_TENANTS = {
    *("/v1/parked", "/v1/parked/{event_id}/retry", "/v1/drift", "/v1/plan-versions"),
    *("/v1/shadow/answers", "/v1/shadow", "/v1/shadow/switch"),
    *("/v1/parked-items", "/v1/parked-items/retry", "/v1/parked-items/drop", "/v1/usage/export"),
}


def settings(names: Mapping[str, tuple[str, ...]], rate: str = "") -> dict[str, str]:
    return {
        "PUBLISH_KEYS": ",".join(f"{name}:{hashlib.sha256(name.encode()).hexdigest()}{rate}" for name in names),
        "PUBLISH_RIGHTS": ",".join(f"{name}:{entry}" for name, entries in names.items() for entry in entries),
    }


@pytest.fixture
async def paddle(tmp_path: Path) -> AsyncIterator[Paddle]:
    async with simulating(tmp_path) as paddle:
        yield paddle


@pytest.fixture
def with_intake(paddle: Paddle) -> dict[str, str]:
    return {
        "INTAKE": "1",
        "DEV": "1",
        "PADDLE_SECRETS": f"live:{SECRET},sandbox:x{SECRET}",
        "PADDLE_API_KEYS": f"live:{KEY}",
        "PADDLE_API_URL": paddle.url,
    }


@pytest.fixture
async def running(store_url: str, with_intake: dict[str, str]) -> AsyncIterator[Running]:
    async with run_gateway(environment(store_url, **settings(RIGHTS), **with_intake)) as running:
        yield running


class Asked(NamedTuple):
    """A request, and what it is about: a topic, `[env/]tenant:*` for all tenants, or * for everything."""

    method: str
    url: str
    body: object
    about: str


def requests(method: str, path: str) -> list[Asked]:
    """Return requests of a route: about what some keys may touch, and what they may not."""
    if path == "/v1/publish":
        topics = ("prefs:x", "user:42", "user:43", "tenant:acme", "sandbox/prefs:x")
        plain = [Asked(method, path, {"topic": topic, "state": 1}, topic) for topic in topics]
        return plain + [
            Asked(method, path, {
                "specversion": "1.0", "id": "e", "source": "s", "type": "t", "subject": topic, "data": 2,
            }, topic) for topic in topics
        ]  # fmt: skip
    if path in ("/v1/publish/batch", "/v1/usage/batch"):
        return []  # refused item by item: tests of their own
    if path == "/v1/sessions/revoke":
        return [
            Asked(method, path, {"sub": "nobody"}, "*"),
            Asked(method, path, {"jti": "none"}, "*"),
            Asked(method, path, {"topic": "tenant:zzz"}, "tenant:zzz"),
            Asked(method, path, {"topic": "sandbox/tenant:zzz", "sub": "nobody"}, "sandbox/tenant:zzz"),
        ]
    made = path.replace("{event_id}", "evt_none").replace("{preview_id}", "pv_" + "0" * 24).replace("{kind}", "limit")
    made = made.replace("{name}", "seats").replace("{meter}", "api_calls")
    if path in OF_ALL_TENANTS:
        return [Asked(method, f"{made}?env={env}", None, f"{prefix}tenant:*") for env, prefix in ENVIRONMENTS]
    if "{topic}" in path:
        return [Asked(method, made.replace("{topic}", topic), None, topic) for topic in ("tenant:acme", "tenant:b")]
    return [
        Asked(
            method,
            f"{made.replace('{id}', tenant)}?env={env}",
            {} if method == "post" else None,
            f"{prefix}tenant:{tenant}",
        )
        for tenant in ("acme", "b")
        for env, prefix in ENVIRONMENTS
    ]


ENVIRONMENTS = (("live", ""), ("sandbox", "sandbox/"))


def may(name: str, scope: str, about: str) -> bool:
    """The rule, spelled out once more and differently."""
    if name == "before":
        return True
    for entry in RIGHTS[name]:
        scopes, pattern = entry.split(":", 1)
        if scope in scopes.split("+") and (about == pattern or (pattern[-1] == "*" and about.startswith(pattern[:-1]))):
            return True
    return False


def test_the_routes_are_all_that_a_publish_key_opens() -> None:
    opened = {
        (method, path)
        for path, item in openapi.document()["paths"].items()
        for method, operation in item.items()
        if {"publishKey": []} in operation["security"]
    }
    assert opened == ROUTES.keys()


@pytest.mark.parametrize("name", RIGHTS)
async def test_a_key_does_what_its_rights_say_on_every_route_and_nothing_else(running: Running, name: str) -> None:
    let_in = 0
    async with httpx2.AsyncClient(base_url=running.url, headers={"Authorization": f"Bearer {name}"}) as http:
        for (method, path), scope in ROUTES.items():
            for asked in requests(method, path):
                answer = await http.request(asked.method, asked.url, json=asked.body)
                if may(name, scope, asked.about):
                    assert answer.status_code not in (401, 403, 429), (asked, answer.text)
                    let_in += 1
                    continue
                code = "topic_forbidden" if scope in SCOPES[name] else "scope_missing"
                assert (answer.status_code, answer.json()["code"]) == (403, code), (asked, answer.text)
                assert answer.headers["content-type"] == "application/problem+json"
                assert name in answer.json()["detail"]
    assert let_in
    refused = running.node.metrics.auth_failures
    assert bool(refused["topic_forbidden"]) == (name not in ("ops", "before"))


async def test_what_was_refused_has_changed_nothing(running: Running, store: Store) -> None:
    await store.commit(Change("tenant:acme", b'{"own":1}', b'{"own":2}'))
    before = await store.read("tenant:acme")
    async with httpx2.AsyncClient(base_url=running.url, headers={"Authorization": "Bearer prefs"}) as http:
        for method, url, body in (
            ("POST", "/v1/publish", {"topic": "tenant:acme", "state": {"plan": "enterprise"}}),
            ("POST", "/v1/tenants/acme/overrides", {"kind": "feature", "name": "sso", "value": True, "reason": "mine"}),
            ("DELETE", "/v1/tenants/acme", {"reason": "mine"}),
            ("POST", "/v1/sessions/revoke", {"sub": "tester"}),
        ):
            assert (await http.request(method, url, json=body)).status_code == 403
        good = {"Authorization": f"Bearer {token('tenant:acme')}"}
        assert (await http.get("/v1/state/tenant:acme", headers=good)).status_code == 200
    assert await store.read("tenant:acme") == before


async def test_a_batch_is_refused_item_by_item(running: Running, store: Store) -> None:
    event = {"specversion": "1.0", "id": "e", "source": "s", "type": "t", "data": 5}
    items = [
        {"topic": "prefs:a", "state": 1},
        {"topic": "tenant:acme", "state": 1},
        {**event, "subject": "user:42"},
        {**event, "subject": "user:43"},
        {"topic": "sandbox/prefs:a", "state": 1},
        {"topic": "nonsense", "state": 1},
    ]
    async with httpx2.AsyncClient(base_url=running.url) as http:
        answer = await http.post("/v1/publish/batch", json=items, headers={"Authorization": "Bearer prefs"})
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [(result["verdict"], result.get("code")) for result in results] == [
            ("applied", None),
            ("error", "topic_forbidden"),
            ("applied", None),
            ("error", "topic_forbidden"),
            ("error", "topic_forbidden"),
            ("error", "topic_invalid"),
        ]
        answer = await http.post("/v1/publish/batch", json=items, headers={"Authorization": "Bearer billing"})
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert await store.versions(["tenant:acme", "user:43", "sandbox/prefs:a"]) == [0, 0, 0]


async def test_a_batch_of_usage_is_refused_item_by_item(running: Running) -> None:
    calls = [{"tenant": tenant, "meter": "none"} for tenant in ("acme", "b")]
    async with httpx2.AsyncClient(base_url=running.url) as http:
        for name, env, codes in (
            ("counter", "live", ["meter_unknown", "topic_forbidden"]),
            ("counter", "sandbox", ["meter_unknown", "meter_unknown"]),
            ("ops", "live", ["meter_unknown", "meter_unknown"]),
        ):
            headers = {"Authorization": f"Bearer {name}"}
            answer = await http.post(f"/v1/usage/batch?env={env}", json={"calls": calls}, headers=headers)
            assert [one["code"] for one in answer.json()["results"]] == codes, (name, env)
        answer = await http.post("/v1/usage/batch", json={"calls": calls}, headers={"Authorization": "Bearer billing"})
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")


async def test_each_item_of_a_batch_of_usage_counts(store_url: str, with_intake: dict[str, str]) -> None:
    """A batch that is larger than the rate is let in once, and slows down what follows."""
    environ = environment(store_url, **settings({"k": ("usage:*",)}, ":2"), **with_intake)
    async with run_gateway(environ) as running, httpx2.AsyncClient(base_url=running.url) as http:
        headers = {"Authorization": "Bearer k"}
        calls = {"calls": [{"tenant": "acme", "meter": "none"}] * 20}
        assert (await http.post("/v1/usage/batch", json=calls, headers=headers)).status_code == 200
        answer = await http.get("/v1/tenants/acme/usage", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert 8 <= int(answer.headers["retry-after"]) <= 10


async def test_to_have_the_source_asked_about_a_topic_needs_what_publishing_it_does(running: Running) -> None:
    async with httpx2.AsyncClient(base_url=running.url) as http:
        for name, topic, code in (
            ("prefs", "user:42", "source_unavailable"),
            ("prefs", "user:43", "topic_forbidden"),
            ("billing", "user:42", "scope_missing"),
        ):
            headers = {"Authorization": f"Bearer {name}"}
            answer = await http.post(f"/v1/topics/{topic}/reconcile", headers=headers)
            assert answer.json()["code"] == code


async def test_the_rate_holds_on_every_route(store_url: str, with_intake: dict[str, str]) -> None:
    """A request in a hundred seconds: the first of each key is let in, the second is not, whatever it asks for."""
    names = {f"key{number}": ("publish+usage+tenants+admin:*",) for number in range(len(ROUTES))}
    environ = environment(store_url, **settings(names, ":0.01"), **with_intake)
    async with run_gateway(environ) as running, httpx2.AsyncClient(base_url=running.url) as http:
        for name, (method, path) in zip(names, ROUTES, strict=True):
            headers = {"Authorization": f"Bearer {name}"}
            found = requests(method, path) or [Asked(method, path, [{"topic": "prefs:a", "state": 1}], "")]
            first = await http.request(method, found[0].url, json=found[0].body, headers=headers)
            assert first.status_code != 429, path
            for asked in (*found, Asked(method, found[0].url, "not even an object", "")):
                answer = await http.request(method, asked.url, json=asked.body, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited"), path
                assert 1 <= int(answer.headers["retry-after"]) <= 101


async def test_bodies_that_are_no_batch_are_paid_for(store_url: str) -> None:
    names = {"k": ("publish:*",)}
    environ = environment(store_url, **settings(names, ":0.01"))
    async with run_gateway(environ) as running, httpx2.AsyncClient(base_url=running.url) as http:
        headers = {"Authorization": "Bearer k", "Content-Type": "application/json"}
        statuses = [
            (await http.post("/v1/publish/batch", content=b"[" * 5000, headers=headers)).status_code for _ in range(2)
        ]
        assert statuses == [400, 429]


async def test_the_audit_names_the_key_and_beside_it_who_the_caller_says(
    running: Running, store: Store, paddle: Paddle
) -> None:
    async def cause(topic: str = "tenant:acme") -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads((await store.read(topic)).cause)
        return found

    claim = "cfo@example.com"
    async with httpx2.AsyncClient(base_url=running.url, headers={"Authorization": "Bearer support"}) as http:
        await store.commit(Change("tenant:acme", b'{"plan":{"key":"free"}}', codec.encode(Facts())))
        override = {"kind": "feature", "name": "sso", "value": True, "reason": "promised", "by": claim}
        assert (await http.post("/v1/tenants/acme/overrides", json=override)).status_code == 200
        assert (await cause()).items() >= {"by": "support", "claimed_by": claim}.items()
        history = (await http.get("/v1/tenants/acme/history")).json()["changes"]
        assert history[0]["cause"].items() >= {"by": "support", "claimed_by": claim, "reason": "promised"}.items()
        removal = {"reason": "over", "by": claim}
        path = "/v1/tenants/acme/overrides/feature/sso"
        assert (await http.request("DELETE", path, json=removal)).status_code == 200
        assert (await cause()).items() >= {"by": "support", "claimed_by": claim, "reason": "over"}.items()
        await paddle.act("upgrade", plan="basic")
        assert (await http.post("/v1/tenants/acme/reconcile")).json()["outcome"] == "applied"
        assert (await cause()).items() >= {"source": "reconcile", "event_type": "asked", "by": "support"}.items()
        assert (await http.request("DELETE", "/v1/tenants/acme", json={"reason": "gone"})).status_code == 200
        assert (await cause()).items() >= {"by": "support", "reason": "gone"}.items()
        change = {"topic": "prefs:a", "state": 1, "cause": {"source": "paddle"}}
        headers = {"Authorization": "Bearer prefs"}
        assert (await http.post("/v1/publish", json=change, headers=headers)).status_code == 200
        assert (await cause("prefs:a")).items() >= {"by": "prefs", "source": "paddle"}.items()


async def test_the_console_asks_without_a_key_and_its_session_is_named(
    store_url: str, with_intake: dict[str, str], paddle: Paddle, store: Store
) -> None:
    environ = environment(
        store_url,
        **settings({"prefs": ("publish:prefs:*",)}, ":0.01"),
        **{**with_intake, "DEV": "0", "CATALOG": str(EXAMPLE)},
        CONSOLE_TOKEN=console.TOKEN,
    )
    async with run_gateway(environ) as running, console.http(running) as http:
        assert (await console.login(http)).status_code == 204
        session = (await console.get(http, "session"))["session"]
        await paddle.act("upgrade", plan="basic")
        answer = await console.act(http, "reconcile", topic="tenant:acme")
        assert answer.json()["reconciled"] == "applied", answer.text
        cause = orjson.loads((await store.read("tenant:acme")).cause)
        assert cause["by"] == f"console:{session}"
        for path in ("drift", "overrides/tenant:acme", "status/tenant:acme"):
            assert (await console.get(http, path))["listed"]


@pytest.mark.parametrize("entries", [{}, {"PUBLISH_RIGHTS": "old:publish:*"}])
async def test_keys_without_rights_are_named_at_the_start(
    store_url: str, entries: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    keys = settings({"old": (), "older": ()})["PUBLISH_KEYS"]
    async with run_gateway(environment(store_url, PUBLISH_KEYS=keys, **entries)):
        pass
    said = capfd.readouterr().out
    (line,) = (line for line in said.splitlines() if "publish_keys_without_rights" in line)
    assert "'older'" in line
    assert ("'old'" in line) == (not entries)
    assert "X_PLANWIRE_PUBLISH_RIGHTS" in line
