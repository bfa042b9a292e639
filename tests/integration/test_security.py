"""What an attacker tries that no other test tries: reading secrets off logs and process lists, guessing topics,
names made to break keys, logs or lines, and JSON made to break the parser. docs/security.md lists all.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from gateway.auth.tokens import mint
from sync.store.models import Change
from sync.store.store import Store
from tests.support.bodies import signature, webhook
from tests.support.gateway import PUBLISH_KEY, Running, environment, open_client, run_gateway, token
from tests.support.processes import ROOT, alive_with, clean_environ, python, running
from tests.support.wait import until

JWT_SECRET = "jwt-secret-0123456789abcdef0123456789"
PADDLE_SECRET = "pdl_ntfset_secret_0123456789abcdef"
CONSOLE_TOKEN = "console-token-0123456789abcdef01234567"
API_KEY = "pdl_apikey_secret_0123456789abcdef"
KEY = "publish-key-in-plain-0123456789"
STORE_PASSWORD = "store-password-0123456789"

HOSTILE_NAMES = [
    "tenant:a\r\nPUBLISH x y",
    "tenant:a}:snap{b",
    "tenant:*",
    "tenant:../../etc/passwd",
    "tenant:a\x00b",
    "tenant:<script>alert(1)</script>",
    "tenant:'; DROP TABLE topics;--",
    "tenant:\u202egnp",
    "tenant:" + "a" * 129,
    "Tenant:a",
    "evil/env/tenant:a",
    ":a",
    "tenant:",
]

DEEP = "[" * 200_000 + "]" * 200_000
"""Beyond any recursion; as small as a body may be."""


async def test_no_secret_is_in_a_log_or_a_process_list(store_url: str, tmp_path: Path) -> None:
    environ = clean_environ(
        tmp_path,
        PORT="0",
        PLANWIRE_REDIS_URL=store_url,
        PLANWIRE_JWT_SECRET=JWT_SECRET,
        PLANWIRE_PUBLISH_KEYS=f"tests:{hashlib.sha256(KEY.encode()).hexdigest()}",
        PLANWIRE_PADDLE_SECRETS=f"live:{PADDLE_SECRET}",
        PLANWIRE_PADDLE_API_KEYS=f"live:{API_KEY}",
        PLANWIRE_PADDLE_API_URL="http://127.0.0.1:9",
        PLANWIRE_CATALOG=str(ROOT / "sync" / "billing" / "catalog" / "example.toml"),
        PLANWIRE_CONSOLE_TOKEN=CONSOLE_TOKEN,
        PLANWIRE_LOG_LEVEL="debug",
        PLANWIRE_DRAIN_S="0",
    )
    good = mint(JWT_SECRET, topics=("tenant:a",), now=time.time(), ttl_s=600, sub="tester")
    with (
        running(python("-m", "gateway.server"), environ) as web,
        running(python("-m", "sync.worker"), environ) as worker,
    ):
        await until(lambda: "http://" in web.text or web.status() is not None, timeout_s=15)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", web.text)
        assert found, web.text
        url = f"http://127.0.0.1:{found[1]}"
        body = webhook()
        async with httpx2.AsyncClient(base_url=url) as client:
            for key in (KEY, "wrong-" + KEY):
                await client.post(
                    "/v1/publish", json={"topic": "user:a", "state": {}}, headers={"Authorization": f"Bearer {key}"}
                )
            for jwt in (good, good[:-4] + "AAAA"):
                await client.get("/v1/state/tenant:a", headers={"Authorization": f"Bearer {jwt}"})
            for secret in (PADDLE_SECRET, "pdl_ntfset_wrong"):
                signed = signature(body, int(time.time()), secret)
                answer = await client.post("/webhooks/paddle", content=body, headers={"Paddle-Signature": signed})
                assert answer.status_code == (200 if secret == PADDLE_SECRET else 403)
            await client.post("/console/api/session", json={"token": CONSOLE_TOKEN}, headers={"Origin": url})
            await client.post("/console/api/session", json={"token": "wrong-" + CONSOLE_TOKEN}, headers={"Origin": url})
        for jwt in (good, good[:-4] + "AAAA"):
            async with connect(f"ws{url[4:]}/v1/connect", subprotocols=[Subprotocol("planwire.v1")]) as socket:
                await socket.send(json.dumps({"type": "hello", "token": jwt, "topics": {"tenant:a": 0}, "client": "x"}))
                await socket.recv()
        await until(lambda: '"close"' in web.text or "closed" in web.text, timeout_s=5)
        listed = "\n".join(alive_with(tmp_path).values())
        assert "gateway.server" in listed
        assert '"connect"' in web.text  # it is what was done that is logged here
        said = web.text + worker.text + listed
    for secret in (JWT_SECRET, PADDLE_SECRET, API_KEY, CONSOLE_TOKEN, KEY, good, good.rpartition(".")[2]):
        assert secret not in said


async def test_a_store_password_is_in_no_message(tmp_path: Path) -> None:
    environ = clean_environ(
        tmp_path,
        PORT="0",
        PLANWIRE_REDIS_URL=f"redis://:{STORE_PASSWORD}@127.0.0.1:9/0",
        PLANWIRE_JWT_SECRET=JWT_SECRET,
        PLANWIRE_LOG_LEVEL="debug",
    )
    with (
        running(python("-m", "gateway.server"), environ) as web,
        running(python("-m", "sync.worker"), environ) as worker,
    ):
        await until(lambda: web.text.count("\n") > 2 and bool(worker.text), timeout_s=15)
        said = web.text + worker.text + "\n".join(alive_with(tmp_path).values())
    assert STORE_PASSWORD not in said


async def test_who_guesses_topics_learns_nothing(store_url: str, store: Store) -> None:
    await store.commit(Change("tenant:there", b'{"plan":"pro"}'))
    answers: dict[str, list[Any]] = {"tenant:there": [], "tenant:absent": []}
    jwt = token("tenant:mine")
    async with run_gateway(environment(store_url)) as running_, httpx2.AsyncClient(base_url=running_.url) as client:
        bearer = {"Authorization": f"Bearer {jwt}"}
        for topic, told in answers.items():
            for path in (
                f"/v1/state/{topic}",
                f"/v1/state/{topic}/events",
                f"/v1/state/{topic}?min_version=1&wait_ms=1",
            ):
                answer = await client.get(path, headers=bearer)
                told.append((answer.status_code, answer.text.replace(topic, "TOPIC")))
            async with open_client(running_, topic, jwt=jwt) as browser:
                await browser.until("welcome")
                frame = await browser.receive()
                told.append(json.dumps(frame).replace(topic, "TOPIC"))
    assert answers["tenant:there"] == answers["tenant:absent"]
    assert all(status == 403 for status, _ in answers["tenant:there"][:3])


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
async def test_a_hostile_name_reaches_neither_keys_nor_logs(
    gateway: Running, store: Store, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(await store.redis.keys("pw:*"))
    async with httpx2.AsyncClient(base_url=gateway.url) as client:
        answer = await client.post(
            "/v1/publish", json={"topic": name, "state": {}}, headers={"Authorization": f"Bearer {PUBLISH_KEY}"}
        )
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
    async with open_client(gateway) as browser:
        await browser.until("welcome")
        await browser.send("subscribe", topic=name)
        assert (await browser.until("error"))["code"] in ("bad_topic", "bad_frame")
    after = [key for key in sorted(await store.redis.keys("pw:*")) if b"probe" not in key]
    assert after == [key for key in before if b"probe" not in key]
    # Every line of the log is one JSON object, whatever a name holds.
    for line in capfd.readouterr().out.splitlines():
        if line.startswith("{"):
            json.loads(line)


@pytest.fixture
async def gateway(store_url: str) -> Any:
    async with run_gateway(environment(store_url)) as running_:
        yield running_


async def test_json_nested_beyond_any_stack_is_refused_and_survived(gateway: Running) -> None:
    async with httpx2.AsyncClient(base_url=gateway.url) as client:
        deep = '{"topic":"user:a","state":' + "[" * 30_000 + "]" * 30_000 + "}"
        for body in (deep, DEEP[:60_000], '{"a":' * 10_000):
            answer = await client.post("/v1/publish", content=body, headers={"Authorization": f"Bearer {PUBLISH_KEY}"})
            assert answer.status_code in (400, 413, 422), answer.text
            assert answer.json()["code"]
        async with open_client(gateway) as browser:
            await browser.until("welcome")
            await browser.connection.send('{"type":"subscribe","topic":' + "[" * 30_000 + "]" * 30_000 + "}")
            assert (await browser.until("error"))["code"] in ("bad_json", "bad_frame", "bad_topic")
        assert (await client.get("/healthz")).status_code == 200


async def test_a_credential_in_a_url_counts_for_nothing(gateway: Running, store: Store) -> None:
    await store.commit(Change("tenant:a", b"{}"))
    async with httpx2.AsyncClient(base_url=gateway.url) as client:
        for name in ("token", "access_token", "jwt", "authorization"):
            answer = await client.get(f"/v1/state/tenant:a?{name}={token()}")
            assert answer.status_code == 401
        answer = await client.post(f"/v1/publish?key={PUBLISH_KEY}", json={"topic": "tenant:a", "state": 1})
        assert answer.status_code == 401
    async with connect(f"{gateway.ws_url}?token={token()}", subprotocols=[Subprotocol("planwire.v1")]) as socket:
        await socket.send(json.dumps({"type": "subscribe", "topic": "tenant:a"}))
        async with asyncio.timeout(5):
            await socket.wait_closed()
        assert socket.close_code == 4501
