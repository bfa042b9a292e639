"""What is said of tokens to one gateway holds at every other: revocations, and the keys that tokens are signed with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from gateway.auth import jwks
from gateway.auth.tokens import mint
from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import PUBLISH_KEY, SECRET, Client, Running, environment, open_client, run_gateway, token
from tests.support.jwks import document, signed
from tests.support.wait import until

TOPIC = "tenant:acme"
BOUND_S = 1.0
ROUNDS = 5
"""The middle one of these keeps the bound: a machine that stalls once breaks none."""


@asynccontextmanager
async def two(environ: dict[str, str], other: dict[str, str] | None = None) -> AsyncIterator[tuple[Running, Running]]:
    async with run_gateway(environ) as one, run_gateway(other or environ) as another:
        yield one, another


async def greeted(client: Client, topics: int = 1) -> None:
    assert (await client.receive())["type"] == "welcome"
    for _ in range(topics):
        await client.until("snapshot")


@dataclass
class Revoked:
    """A kind of revocation: what is asked for, a token it hits, one that it spares, and whether it cuts the socket."""

    body: dict[str, str]
    hit: dict[str, str]
    spared: dict[str, str]
    cuts: bool


KINDS = {
    "sub": Revoked({"sub": "u1"}, {"sub": "u1"}, {"sub": "u2"}, True),
    "jti": Revoked({"jti": "t1"}, {"sub": "u1", "jti": "t1"}, {"sub": "u1", "jti": "t2"}, True),
    "topic": Revoked({"topic": TOPIC}, {"sub": "u1"}, {"sub": "u2"}, False),
    "topic of a subject": Revoked({"topic": TOPIC, "sub": "u1"}, {"sub": "u1"}, {"sub": "u2"}, False),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_revocation_reaches_the_sockets_of_all_gateways_within_a_second(store_url: str, kind: str) -> None:
    """Nothing else could bring it: the sweep comes in ten minutes, and heartbeats in a quarter of an hour."""
    what = KINDS[kind]
    async with two(environment(store_url, SWEEP_S="600", HEARTBEAT_S="900")) as gateways:
        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {PUBLISH_KEY}"}, timeout=10) as http:
            took = [await revoked(gateways, http, what, turn) for turn in range(ROUNDS)]
        assert [gateway.node.metrics.revocations for gateway in gateways] == [ROUNDS, ROUNDS]
    assert sorted(took)[ROUNDS // 2] < BOUND_S, took


async def revoked(gateways: tuple[Running, Running], http: httpx2.AsyncClient, what: Revoked, turn: int) -> float:
    """Revoke at one gateway, by turns; return the seconds until the sockets of both were told."""
    # Names of their own in each round: what was revoked stays so.
    own = {name: f"{value}-{turn}" for name, value in what.body.items()}
    topic, other = f"{TOPIC}-{turn}", f"user:{turn}"

    def named(claims: dict[str, str]) -> str:
        return token(topic, other, **{name: f"{value}-{turn}" for name, value in claims.items()})  # type: ignore[arg-type]

    hit, spared = named(what.hit), named(what.spared)
    async with AsyncExitStack() as stack:

        async def opened(gateway: Running, jwt: str) -> Client:
            client = await stack.enter_async_context(open_client(gateway, topic, other, jwt=jwt))
            await greeted(client, 2)
            return client

        hits = [await opened(gateway, hit) for gateway in gateways]
        spares = [await opened(gateway, spared) for gateway in gateways]
        began = time.monotonic()
        answer = await http.post(f"{gateways[turn % 2].url}/v1/sessions/revoke", json=own)
        assert answer.status_code == 200, answer.text
        told = await asyncio.gather(*[client.receive(10) for client in hits])
        took_s = time.monotonic() - began
        for client, frame, gateway in zip(hits, told, gateways, strict=True):
            if what.cuts:
                assert (frame["type"], frame["code"]) == ("error", "token_revoked")
                assert await client.closed() == (4401, "token_revoked")
                async with open_client(gateway, topic, jwt=hit) as again:
                    assert (await again.receive())["code"] == "token_revoked"
            else:
                assert frame == {"type": "gone", "topic": topic, "reason": "revoked"}
                await client.send("subscribe", topic=topic)
                assert (await client.receive())["code"] == "forbidden"
                await client.send("subscribe", topic=other, version=0)
                assert (await client.receive())["topic"] == other
        for client in spares:
            if own == {"topic": topic}:
                assert (await client.receive())["type"] == "gone"
            else:
                await client.send("subscribe", topic=topic, version=0)
                assert (await client.receive())["type"] == "snapshot"
    return took_s


async def test_a_refresh_that_has_expired_never_extends(store_url: str) -> None:
    """Whether it was good once or not: the token in force goes on to its own end, and the socket with it."""
    now = time.time()
    async with run_gateway(environment(store_url)) as running:
        in_force = token(TOPIC, ttl_s=5)
        async with open_client(running, TOPIC, jwt=in_force) as client:
            ends_at = (await client.receive())["token_expires_at"]
            await client.until("snapshot")
            for expired in (
                mint(SECRET, topics=[TOPIC], now=now - 600, ttl_s=599, sub="tester"),
                mint(SECRET, topics=[TOPIC, "user:7"], now=now - 86_400, ttl_s=10, sub="tester"),
            ):
                await client.send("token", token=expired)
                assert (await client.receive())["code"] == "token_expired"
            # Nor does the same one, sent again.
            await client.send("token", token=in_force)
            assert (await client.receive())["token_expires_at"] == ends_at
            await client.send("subscribe", topic="user:7")
            assert (await client.receive())["code"] == "forbidden"
            assert (await client.receive(10))["code"] == "token_expired"
            assert await client.closed() == (4401, "token_expired")
            assert ends_at <= time.time()


# Keys.

OLD, NEW = "a", "b"


@asynccontextmanager
async def issuing(read: Callable[[], bytes]) -> AsyncIterator[str]:
    """Serve what `read` returns over HTTP; gives its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = read()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"


async def opens(running: Running, kid: str) -> bool:
    """Whether a token signed with that key opens a socket."""
    async with open_client(running, TOPIC, jwt=signed(kid, TOPIC)) as client:
        frame = await client.receive()
        assert frame["type"] == "welcome" or frame["code"] in ("token_key_unknown", "token_keys_unavailable")
        return bool(frame["type"] == "welcome")


async def test_keys_rotate_at_every_gateway_from_a_url_and_from_a_file_and_open_sockets_go_on(
    store_url: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "POLL_S", 0.05)
    path = tmp_path / "keys.json"

    def publish(*kids: str) -> None:
        path.with_suffix(".next").write_bytes(document(*kids))
        path.with_suffix(".next").rename(path)

    def environ(location: str) -> dict[str, str]:
        more = {"JWKS": location, "JWKS_REFRESH_S": "0.5", "JWKS_RETRY_S": "0.2", "JWT_ALGORITHMS": "ES256"}
        found = environment(store_url, **more)
        del found["PLANWIRE_JWT_SECRET"]
        return found

    publish(OLD)
    async with issuing(path.read_bytes) as url, two(environ(url), environ(str(path))) as gateways:
        for gateway in gateways:
            await until(lambda: opens(gateway, OLD), timeout_s=10)  # noqa: B023 - awaited here
            assert not await opens(gateway, NEW)
        async with (
            open_client(gateways[0], TOPIC, jwt=signed(OLD, TOPIC)) as by_url,
            open_client(gateways[1], TOPIC, jwt=signed(OLD, TOPIC)) as by_file,
        ):
            for client in (by_url, by_file):
                await greeted(client)
            # Both keys for a while, as a rotation goes; then the old one is withdrawn.
            publish(NEW, OLD)
            for gateway in gateways:
                await until(lambda: opens(gateway, NEW), timeout_s=10)  # noqa: B023
                assert await opens(gateway, OLD)
            publish(NEW)
            for gateway in gateways:

                async def is_withdrawn(gateway: Running = gateway) -> bool:
                    return not await opens(gateway, OLD)

                await until(is_withdrawn, timeout_s=10)
                assert await opens(gateway, NEW)
            # A socket opened before has its token's own time, and refreshes with the new key in band.
            for client in (by_url, by_file):
                await client.send("token", token=signed(OLD, TOPIC))
                assert (await client.receive())["code"] == "token_key_unknown"
                await client.send("token", token=signed(NEW, TOPIC))
                assert (await client.receive())["type"] == "welcome"
            version = (await store.commit(Change(TOPIC, b'{"n":1}'))).version
            for client in (by_url, by_file):
                assert (await client.until("snapshot"))["version"] == version


AHEAD_S = 20.0


@pytest.mark.parametrize("kind", KINDS)
async def test_tokens_of_an_issuer_whose_clock_is_ahead_are_revoked_at_every_gateway(store_url: str, kind: str) -> None:
    """Each is used at one gateway and revoked at the other; what that issuer makes afterwards is good."""
    what = KINDS[kind]
    async with two(environment(store_url, TOKEN_LEEWAY_S="30")) as gateways, httpx2.AsyncClient(timeout=10) as http:

        def made(claims: dict[str, str], ahead_s: float = AHEAD_S) -> str:
            now = time.time() + ahead_s
            claims = {"sub": "tester", **claims}
            return mint(SECRET, topics=[TOPIC], now=now, ttl_s=600, **claims)

        async def read(gateway: Running, jwt: str) -> tuple[int, str]:
            answer = await http.get(f"{gateway.url}/v1/state/{TOPIC}", headers={"Authorization": f"Bearer {jwt}"})
            return answer.status_code, answer.json().get("code", "")

        hit, spared = made(what.hit), made(what.spared)
        for jwt in (hit, spared):
            assert await read(gateways[1], jwt) == (200, "")
        async with open_client(gateways[1], TOPIC, jwt=hit) as client:
            await greeted(client)
            headers = {"Authorization": f"Bearer {PUBLISH_KEY}"}
            answer = await http.post(f"{gateways[0].url}/v1/sessions/revoke", json=what.body, headers=headers)
            assert answer.status_code == 200
            if what.cuts:
                assert (await client.receive())["code"] == "token_revoked"
            else:
                assert (await client.receive())["type"] == "gone"

        async def refused_everywhere() -> bool:
            return [await read(gateway, hit) for gateway in gateways] == [(401, "token_revoked")] * 2

        await until(refused_everywhere)
        if kind != "topic":
            assert [await read(gateway, spared) for gateway in gateways] == [(200, "")] * 2
        if kind != "jti":
            afterwards = made(what.hit, AHEAD_S + 2)
            assert [await read(gateway, afterwards) for gateway in gateways] == [(200, "")] * 2
    # And a gateway that starts later reads the same.
    async with run_gateway(environment(store_url, TOKEN_LEEWAY_S="30")) as later, httpx2.AsyncClient() as http:

        async def refused_there() -> bool:
            return await read(later, hit) == (401, "token_revoked")

        await until(refused_there)


async def test_a_revocation_that_is_read_again_takes_no_token_that_was_made_after_it(
    store_url: str, store: Store
) -> None:
    """Whoever lost the bus reads all revocations once more; the tokens it has seen since are not theirs."""
    async with run_gateway(environment(store_url, TOKEN_LEEWAY_S="30")) as running, httpx2.AsyncClient() as http:
        headers = {"Authorization": f"Bearer {PUBLISH_KEY}"}
        answer = await http.post(f"{running.url}/v1/sessions/revoke", json={"sub": "tester"}, headers=headers)
        assert answer.status_code == 200
        now = time.time() + AHEAD_S
        bearer = {"Authorization": f"Bearer {mint(SECRET, topics=[TOPIC], now=now, ttl_s=600, sub='tester')}"}
        assert (await http.get(f"{running.url}/v1/state/{TOPIC}", headers=bearer)).status_code == 200
        before = running.node.metrics.feed_losses
        await store.redis.client_kill_filter(_type="pubsub")
        await until(lambda: running.node.metrics.feed_losses > before and running.node.hub.fresh, timeout_s=20)
        await until(lambda: not running.node._revocation_sync._must_read_all)
        assert (await http.get(f"{running.url}/v1/state/{TOPIC}", headers=bearer)).status_code == 200
