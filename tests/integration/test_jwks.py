"""Key sets from real files and a real server: loaded, rotated, kept when they fail, and never asked for too often."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from gateway.auth import jwks
from gateway.auth.claims import AuthFailure, Claims
from gateway.auth.jwks import Jwks
from gateway.auth.tokens import Auth, mint
from gateway.auth.verify_keys import KeySet, secret_keys
from tests.support.gateway import SECRET, environment, run_gateway
from tests.support.jwks import KEYS, document, signed
from tests.support.wait import until


class Issuer:
    """A tiny HTTP server: answers every request with `status` and `body`, once it `may_answer`."""

    def __init__(self) -> None:
        self.status, self.body, self.requests = 200, document("a"), 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.headers = b""
        self.answers = 0
        self.port = 0
        self._open = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            await self.may_answer.wait()
            head = b"HTTP/1.1 %d X\r\nConnection: close\r\n%bContent-Length: %d\r\n\r\n"
            self.answers += 1
            writer.write(head % (self.status, self.headers, len(self.body)) + self.body)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self._open -= 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Issuer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self
            await until(lambda: not self._open)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer().running() as running:
        yield running


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "POLL_S", 0.02)
    monkeypatch.setattr(jwks, "RETRY_MIN_S", 0.05)


def source(location: str, **options: Any) -> tuple[Auth, Jwks]:
    auth = Auth(KeySet(), awaits_keys=True)
    return auth, Jwks(auth, location, ("ES256",), **options)


@asynccontextmanager
async def kept(keys: Jwks) -> AsyncIterator[None]:
    task = asyncio.create_task(keys.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


def accepts(auth: Auth, kid: str) -> bool:
    return isinstance(auth.verify(signed(kid, "*"), time.time()), Claims)


def code(auth: Auth, kid: str) -> str:
    outcome = auth.verify(signed(kid, "*"), time.time())
    assert isinstance(outcome, AuthFailure)
    return outcome.code


async def test_a_url_is_fetched_at_once(issuer: Issuer) -> None:
    auth, keys = source(issuer.url)
    assert code(auth, "a") == "token_keys_unavailable"
    async with kept(keys):
        await until(lambda: accepts(auth, "a"))
    assert code(auth, "b") == "token_key_unknown"
    assert not auth.awaits_keys


async def test_an_unknown_key_id_fetches_soon_and_not_more_than_that(issuer: Issuer) -> None:
    auth, keys = source(issuer.url, retry_s=0.3)
    async with kept(keys):
        await until(lambda: accepts(auth, "a"))
        fetched = issuer.requests
        for _ in range(50):
            assert code(auth, "b") == "token_key_unknown"
        issuer.body = document("a", "b")
        await until(lambda: accepts(auth, "b"))
        assert issuer.requests == fetched + 1
        started, seen = time.monotonic(), issuer.requests
        forged = jwt.encode({"sub": "x", "exp": 9e9}, KEYS["a"], algorithm="ES256", headers={"kid": "zzz"})
        while time.monotonic() - started < 0.7:
            auth.verify(forged, time.time())
            await asyncio.sleep(0.01)
        assert issuer.requests - seen <= 1 + (time.monotonic() - started) / 0.3


async def test_a_withdrawn_key_ends_with_the_next_fetch(issuer: Issuer) -> None:
    auth, keys = source(issuer.url, refresh_s=0.1)
    async with kept(keys):
        await until(lambda: accepts(auth, "a"))
        issuer.body = document("b")
        await until(lambda: not accepts(auth, "a"))
        assert accepts(auth, "b")


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (500, b"", b""),
        (200, b"<html>", b""),
        (200, b'{"keys":[]}', b""),
        (200, b" " * (jwks.MAX_BYTES + 1), b""),
        (302, b"", b"Location: /elsewhere\r\n"),
    ],
)
async def test_a_bad_answer_leaves_the_last_good_keys(issuer: Issuer, status: int, body: bytes, headers: bytes) -> None:
    auth, keys = source(issuer.url)
    assert await keys.load()
    issuer.status, issuer.body, issuer.headers = status, body, headers
    assert not await keys.load()
    assert accepts(auth, "a")
    assert (keys.failures, auth.awaits_keys) == (1, False)


async def test_it_comes_back_by_itself(issuer: Issuer) -> None:
    issuer.status = 500
    auth, keys = source(issuer.url)
    async with kept(keys):
        await until(lambda: keys.failures >= 2)
        issuer.status = 200
        await until(lambda: accepts(auth, "a"))


async def test_nobody_there_is_a_failure_like_another() -> None:
    auth, keys = source("http://127.0.0.1:1/jwks")
    assert not await keys.load()
    assert auth.awaits_keys


async def test_a_slow_issuer_is_given_up(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT_S", 0.1)
    issuer.may_answer.clear()
    _, keys = source(issuer.url)
    async with asyncio.timeout(20):
        assert not await keys.load()
    assert issuer.answers == 0, "it was not waited for"
    issuer.may_answer.set()


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(document("a"))
    auth, keys = source(str(path))
    async with kept(keys):
        await until(lambda: accepts(auth, "a"))
        path.write_bytes(document("b", "a"))
        await until(lambda: accepts(auth, "b"))
        path.unlink()
        await until(lambda: keys.failures)
        assert accepts(auth, "a")
        new = tmp_path / "new"
        new.write_bytes(document("b"))
        new.rename(path)
        await until(lambda: not accepts(auth, "a"))


async def test_the_shared_secret_stays_beside_the_set(issuer: Issuer) -> None:
    fixed = secret_keys([SECRET])
    auth = Auth(KeySet(fixed), awaits_keys=True)
    shared = mint(SECRET, topics=["*"], now=time.time(), ttl_s=60)
    assert isinstance(auth.verify(shared, time.time()), Claims)
    assert await Jwks(auth, issuer.url, ("ES256",), fixed=fixed).load()
    assert isinstance(auth.verify(shared, time.time()), Claims)
    assert accepts(auth, "a")


async def test_a_gateway_takes_its_keys_from_a_url(issuer: Issuer, store_url: str) -> None:
    environ = environment(store_url, JWKS=issuer.url, JWT_ALGORITHMS="ES256")
    del environ["PLANWIRE_JWT_SECRET"]
    async with run_gateway(environ) as running:
        await until(lambda: accepts(running.node.auth, "a"))
