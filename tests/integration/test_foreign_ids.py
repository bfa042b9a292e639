"""Ids of other systems through real servers: what a path, a frame, a token, a publish and a command may say of them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

import planwire_client
from planwire_client import PublishRefused, topic
from sync.billing.catalog.watcher import EXAMPLE
from sync.store.models import Change
from sync.store.store import Store
from tests.support import console
from tests.support.bodies import ROOT, SECRET as PADDLE_SECRET
from tests.support.certificates import make_certificates
from tests.support.gateway import PUBLISH_KEY, SECRET, Running, environment, run_gateway, token
from tests.support.proxies import run_proxy

IDS = (
    "auth0|5f1c", "auth0%7C5f1c", "auth0%257C5f1c", "jane+work@example.com", "jane work@example.com", "Zoë", "org/42",
    "a/events", "org:42", "two\nlines", "acme",
)  # fmt: skip

SPELLINGS: list[tuple[bytes, str]] = [
    (b"tenant:auth0%7C5f1c", "auth0|5f1c"),
    (b"tenant:auth0%7c5f1c", "auth0|5f1c"),
    (b"tenant%3Aauth0%7C5f1c", "auth0|5f1c"),
    (b"%74enant:%61uth0%7C5f1c", "auth0|5f1c"),
    (b"tenant:auth0%257C5f1c", "auth0%7C5f1c"),
    (b"tenant:auth0%25257C5f1c", "auth0%257C5f1c"),
    (b"tenant:jane+work@example.com", "jane+work@example.com"),
    (b"tenant:jane%2Bwork%40example.com", "jane+work@example.com"),
    (b"tenant:jane%20work@example.com", "jane work@example.com"),
    (b"tenant:Zo%C3%AB", "Zoë"),
    (b"tenant:Zo%c3%ab", "Zoë"),
    (b"tenant:org:42", "org:42"),
    (b"tenant:org%3A42", "org:42"),
    (b"tenant:a%2Fevents", "a/events"),
    (b"tenant:org%2F42", "org/42"),
    (b"tenant:org%2f42", "org/42"),
    (b"tenant:two%0Alines", "two\nlines"),
    (b"tenant:acme", "acme"),
]
"""What stands in a path, and whose it is."""

UNESCAPED = [(b"tenant:auth0|5f1c", "auth0|5f1c"), (b"tenant:org/42", "org/42")]
"""What clients send that do not escape: not every proxy lets it through."""


async def get(port: int, path: bytes, bearer: str, ssl: Any = None) -> tuple[int, dict[str, Any]]:
    """Status and body of a GET whose path is exactly these bytes: HTTP clients would write them in their own way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ssl)
    head = b"GET %s HTTP/1.1\r\nHost: planwire.test\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n"
    writer.write(head % (path, bearer.encode()))
    answer = await reader.read()
    writer.close()
    start, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" in start.lower():
        body = b"".join(body.split(b"\r\n")[1::2])
    return int(start.split()[1]), json.loads(body) if body[:1] == b"{" else {}


async def commit_all(store: Store) -> None:
    for id_ in IDS:
        await store.commit(Change(topic("tenant", id_), json.dumps({"of": id_}).encode()))


@pytest.fixture
def environ(store_url: str) -> dict[str, str]:
    secrets = {"INTAKE": "1", "PADDLE_SECRETS": f"live:{PADDLE_SECRET}", "CATALOG": str(EXAMPLE)}
    return environment(store_url, CONSOLE_TOKEN=console.TOKEN, **secrets)


@pytest.mark.parametrize(("spelling", "id_"), SPELLINGS + UNESCAPED)
async def test_a_path_is_decoded_once(environ: dict[str, str], store: Store, spelling: bytes, id_: str) -> None:
    await commit_all(store)
    async with run_gateway(environ) as running:
        status, answer = await get(running.port, b"/v1/state/" + spelling, token())
        assert (status, answer["topic"], answer["state"]) == (200, topic("tenant", id_), {"of": id_})
        # The token opens exactly that topic, and none whose name would be decoded twice.
        assert (await get(running.port, b"/v1/state/" + spelling, token(topic("tenant", id_))))[0] == 200
        others = [topic("tenant", other) for other in IDS if other != id_]
        assert (await get(running.port, b"/v1/state/" + spelling, token(*others)))[0] == 403


@pytest.mark.parametrize("prefix", ["", "/planwire"])
async def test_a_path_is_decoded_once_behind_nginx(
    environ: dict[str, str], store: Store, tmp_path: Path, prefix: str
) -> None:
    await commit_all(store)
    made = make_certificates(tmp_path)
    async with (
        run_gateway(environ | {"PLANWIRE_TRUSTED_PROXIES": "127.0.0.1"}) as running,
        run_proxy("nginx", running.port, made, prefix=prefix) as port,
    ):
        for spelling, id_ in SPELLINGS + UNESCAPED:
            path = prefix.encode() + b"/v1/state/" + spelling
            status, answer = await get(port, path, token(topic("tenant", id_)), made.trust())
            assert (status, answer.get("topic")) == (200, topic("tenant", id_)), (spelling, answer)
        for segment in (b"org%2F42", b"a%2F%2Fb", b"a%2F..%2Fb"):
            path = prefix.encode() + b"/v1/tenants/" + segment + b"/overrides?env=live"
            assert (await get(port, path, PUBLISH_KEY, made.trust()))[0] == 200, segment


async def test_what_is_no_id_is_refused_and_shown(environ: dict[str, str]) -> None:
    async with run_gateway(environ) as running:
        for path, shown in (
            (b"tenant:%FF", "UTF-8"),
            (b"tenant:undefined", "'undefined' names nobody"),
            (b"tenant:%5Bobject%20Object%5D", "'[object Object]' names nobody"),
            (b"tenant:%20", "' ' names nobody"),
            (b"tenant:" + b"%C3%A9" * 65, "130 bytes"),
            (b"Tenant:acme", "'Tenant:acme' is not a topic"),
            (b"live/tenant:acme", "'live/tenant:acme' is not a topic"),
        ):
            status, answer = await get(running.port, b"/v1/state/" + path, token())
            assert (status, shown in answer["detail"]) == (422, True), answer
        async with httpx2.AsyncClient(base_url=running.url, headers=bearer(PUBLISH_KEY)) as http:
            refused = await http.post("/v1/tenants/null/overrides", json=SSO)
            assert (refused.status_code, "'null' names nobody" in refused.json()["detail"]) == (422, True)
            # What earlier releases stored under such a name can be read and erased.
            assert (await http.get("/v1/tenants/null/status")).status_code != 422


SSO = {"kind": "feature", "name": "sso", "value": True, "reason": "promised"}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(
    ("segment", "id_"),
    [
        ("auth0%7C5f1c", "auth0|5f1c"), ("auth0%7c5f1c", "auth0|5f1c"), ("auth0%257C5f1c", "auth0%7C5f1c"),
        ("jane+work@example.com", "jane+work@example.com"), ("org%2F42", "org/42"), ("org:42", "org:42"),
        ("Zo%C3%AB", "Zoë"), ("%F0%9F%99%82", "🙂"), ("a%20b", "a b"),
        ("a%0Ab", "a\nb"),
    ],
)  # fmt: skip
async def test_a_tenant_in_a_path_is_its_id_encoded_once(
    environ: dict[str, str], store: Store, segment: str, id_: str
) -> None:
    name = topic("tenant", id_)
    rights = {"PLANWIRE_PUBLISH_RIGHTS": f"tests:publish+tenants+admin:{name}"}
    async with run_gateway(environ | rights) as running:
        async with httpx2.AsyncClient(base_url=running.url, headers=bearer(PUBLISH_KEY)) as http:
            granted = await http.post(f"/v1/tenants/{segment}/overrides", json=SSO)
            assert granted.status_code == 200, granted.text
            assert (await http.get(f"/v1/tenants/{segment}/overrides")).json()["overrides"][0]["name"] == "sso"
            assert (await http.post("/v1/tenants/other/overrides", json=SSO)).status_code == 403
            compared = await http.post(f"/v1/topics/tenant:{segment}/reconcile")
            assert compared.json()["code"] == "provider_unavailable", "the right covers it, and there is no API key"
        (version,) = await store.versions([name])
        assert version > 0
        async with httpx2.AsyncClient(base_url=running.url) as http:
            await console.login(http)
            found = await console.get(http, f"snapshot/{name}")
            assert (found["topic"], found["version"]) == (name, version)


async def test_frames_and_tokens_take_names_alone_and_say_how_they_are_written(environ: dict[str, str]) -> None:
    async with run_gateway(environ) as running:
        first = await answered(running, {"tenant:auth0|5f1c": 0}, token())
        assert (first["type"], first["code"]) == ("error", "bad_topic")
        assert "write tenant:auth0%7C5f1c" in first["message"]
        wrong = {"sub": "ann", "exp": time.time() + 60, "topics": ["tenant:auth0|5f1c"]}
        first = await answered(running, {"tenant:auth0%7C5f1c": 0}, jwt.encode(wrong, SECRET))
        assert (first["code"], "percent-encoded" in first["message"]) == ("token_claims", True)
        assert (await answered(running, {topic("tenant", "auth0|5f1c"): 0}, token()))["type"] == "welcome"


async def answered(running: Running, topics: dict[str, int], bearer: str) -> dict[str, Any]:
    """The first frame after a hello."""
    async with connect(running.ws_url, subprotocols=[Subprotocol("planwire.v1")]) as connection:
        await connection.send(json.dumps({"type": "hello", "token": bearer, "topics": topics, "client": "t"}))
        frame: dict[str, Any] = json.loads(await connection.recv())
        return frame


async def test_a_publish_names_the_topic_and_its_refusal_says_how(environ: dict[str, str]) -> None:
    async with run_gateway(environ) as running:
        publisher = planwire_client.Publisher(running.url, PUBLISH_KEY)
        good = await asyncio.to_thread(publisher.publish, topic("user", "auth0|5f1c"), {"n": 1})
        assert good.topic == "user:auth0%7C5f1c"
        for name, shown in (("user:auth0|5f1c", "write user:auth0%7C5f1c"), ("user:undefined", "names nobody")):
            with pytest.raises(PublishRefused, match=shown):
                await asyncio.to_thread(publisher.publish, name, {"n": 1})
            async with httpx2.AsyncClient(base_url=running.url, headers=bearer(PUBLISH_KEY)) as http:
                refused = await http.post("/v1/publish", json={"topic": name, "state": 1})
                assert (refused.status_code, refused.json()["code"]) == (422, "topic_invalid")
                assert shown in refused.json()["detail"]
        await asyncio.to_thread(publisher.close)


async def test_the_command_line_takes_either_spelling(environ: dict[str, str], store: Store, tmp_path: Path) -> None:
    version = (await store.commit(Change(topic("tenant", "auth0|5f1c"), b'{"n":1}'))).version
    async with run_gateway(environ) as running:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PLANWIRE_")}
        clean |= {
            "PLANWIRE_DATA_DIR": str(tmp_path),
            "PLANWIRE_CONSOLE_TOKEN": console.TOKEN,
            "PORT": str(running.port),
        }
        clean |= {"PLANWIRE_JWT_SECRET": SECRET, "PLANWIRE_PUBLISH_KEY": PUBLISH_KEY}

        async def planwire(*arguments: str) -> tuple[int, str]:
            pipe, out = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway.cli", *arguments, cwd=ROOT, env=clean, stdout=pipe, stderr=out
            )
            output, _ = await process.communicate()
            assert process.returncode is not None
            return process.returncode, output.decode()

        for spelling in ("auth0|5f1c", "tenant:auth0|5f1c", "tenant:auth0%7C5f1c", "tenant:auth0%7c5f1c"):
            status, output = await planwire("log", spelling)
            assert (status, str(version) in output) == (0, True), output
        status, output = await planwire("token", "--topic", "tenant:auth0|5f1c")
        claims = jwt.decode(output.strip(), options={"verify_signature": False})
        assert claims["topics"] == ["tenant:auth0%7C5f1c"]
        assert (await planwire("publish", "user:a b", "{}"))[0] == 0
        assert await store.versions(["user:a%20b"]) != [0]
        status, output = await planwire("publish", "user:undefined", "{}")
        assert (status, "'undefined' names nobody" in output) == (2, True)
