"""Retries of a command; and pools that go where the name leads, with all their connections."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError, ResponseError

from planwire_client.core.commit import WRONG_SERVER_CODES, wrong_server_code
from sync.store.models import StoreError
from sync.store.redis import connect as connecting
from sync.store.redis.connect import connect
from sync.store.redis.retry import CLOSED, CancelSafeRetry, WrongServerError
from tests.support.proxy import Proxy, run_proxy
from tests.support.resp import LOGIN, FakeStore, fake_store
from tests.support.wait import until


async def attempts(times: int, text: str) -> tuple[int, int]:
    """How often a command was tried that fails `times` over, and how often that was told."""
    tried = told = 0

    async def do() -> str:
        nonlocal tried
        tried += 1
        if tried <= times:
            raise RuntimeError(text)
        return "done"

    async def fail(error: Exception) -> None:
        nonlocal told
        assert isinstance(error, RedisConnectionError)
        told += 1

    assert await CancelSafeRetry(NoBackoff(), 3).call_with_retry(do, fail) == "done"
    return tried, told


async def test_a_closed_transport_is_tried_again() -> None:
    assert await attempts(2, f"unable to perform operation on <TCPTransport closed=True>; {CLOSED}") == (3, 2)


async def test_more_often_than_set_it_is_a_lost_connection() -> None:
    with pytest.raises(RedisConnectionError, match=CLOSED):
        await attempts(9, CLOSED)


async def test_what_else_goes_wrong_is_not_covered_up() -> None:
    with pytest.raises(RuntimeError, match="something else"):
        await attempts(1, "something else")


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancel_that_comes_as_a_command_ends_is_not_lost(fails: bool) -> None:
    """Cancelled in the very turn in which the sending ends: `asyncio.wait_for` of CPython 3.11 says nothing of it."""
    loop = asyncio.get_running_loop()
    commands = 0

    async def do() -> None:
        nonlocal commands
        commands += 1
        sent = loop.create_future()

        def end() -> None:
            sent.set_result(None)
            if commands == 2:
                task.cancel()

        loop.call_soon(end)
        await asyncio.wait_for(sent, 5)
        if fails and commands == 2:
            raise RedisConnectionError("lost")

    async def fail(error: Exception) -> None: ...

    async def ask_for_ever() -> None:
        while True:
            await CancelSafeRetry(NoBackoff(), 2).call_with_retry(do, fail)
            assert commands < 9

    task = asyncio.create_task(ask_for_ever())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert commands == 2


async def test_a_bound_set_around_a_command_is_told_as_one() -> None:
    """What `asyncio.timeout` cancels is its own: it comes out as TimeoutError, and nothing is left cancelled."""

    async def fail(error: Exception) -> None: ...

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await CancelSafeRetry(NoBackoff(), 0).call_with_retry(asyncio.Event().wait, fail)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


WRONG = [
    "READONLY You can't write against a read only replica.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "LOADING Redis is loading the dataset in memory",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "NOREPLICAS Not enough good replicas to write.",
    "NOAUTH Authentication required.",
    "REDIRECT 10.0.0.2:6379",
    "FAILOVER in progress",
    "ERR Error running script (call to f_ab): @user_script:1: @user_script: 1: -READONLY You can't write against a"
    " read only replica.",
]
RIGHT = [
    "ERR unknown command 'X'",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "NOPERM this user has no permissions to run the 'set' command",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "BUSY Redis is busy running a script.",
    "ERR a READONLY in the text says nothing",
]
TALKERS = 5


def error(text: str) -> bytes:
    return f"-{text}\r\n".encode()


@asynccontextmanager
async def name_of_two() -> AsyncIterator[tuple[FakeStore, FakeStore, Proxy]]:
    """Two servers, and a proxy as the name that leads to the first."""
    async with fake_store() as first, fake_store() as second, run_proxy("127.0.0.1", first.port) as name:
        yield first, second, name


def moved(name: Proxy, to: FakeStore) -> None:
    """Have new connections go there; those that are open stay where they are."""
    name.target = ("127.0.0.1", to.port)


@pytest.mark.parametrize("text", WRONG)
async def test_what_a_wrong_server_has_not_run_is_run_by_the_right_one(text: str) -> None:
    """At once, and without an error: the name has been moved by then."""
    async with name_of_two() as (first, second, name):
        store = connect(f"redis://127.0.0.1:{name.port}").store
        await _talk(store.redis, TALKERS)
        first.answer = lambda command: error(text)
        moved(name, second)
        asked = len(first.commands)
        assert await store.redis.set("key", "value")
        assert len(first.commands) == asked + 1
        assert [command[0] for command in second.commands] == [b"SET"]
        # The others, which nobody has told anything, go there too.
        await _talk(store.redis, TALKERS)
        assert len(first.commands) == asked + 1
        await store.aclose()


@pytest.mark.parametrize("text", RIGHT)
async def test_any_other_error_is_the_callers_and_keeps_the_connection(text: str) -> None:
    async with fake_store() as server:
        store = connect(f"redis://127.0.0.1:{server.port}").store
        server.answer = lambda command: error(text)
        with pytest.raises(ResponseError):
            await store.redis.set("key", "value")
        with pytest.raises(ResponseError):
            await store.redis.set("key", "value")
        assert server.connections == 1
        await store.aclose()


async def test_the_wrong_server_is_tried_a_bounded_number_of_times() -> None:
    async with fake_store() as server:
        store = connect(f"redis://127.0.0.1:{server.port}").store
        server.answer = lambda command: error(WRONG[0])
        with pytest.raises(WrongServerError, match="READONLY You can't write"):
            await store.redis.set("key", "value")
        assert len(server.commands) == connecting.RETRIES + 1
        with pytest.raises(StoreError, match="READONLY"):
            await store.ping()
        await store.aclose()


async def test_one_of_a_pipeline_is_enough() -> None:
    async with name_of_two() as (first, second, name):
        store = connect(f"redis://127.0.0.1:{name.port}").store
        await _talk(store.redis, 1)
        first.answer = lambda command: b"$-1\r\n" if command[0] == b"GET" else error(WRONG[0])
        moved(name, second)
        pipeline = store.redis.pipeline(transaction=False)
        pipeline.get("key")
        pipeline.set("key", "value")
        assert await pipeline.execute() == [b"OK", True]
        assert [command[0] for command in second.commands] == [b"GET", b"SET"]
        await store.aclose()


async def test_a_login_that_is_refused_closes_no_connection_that_is_logged_in() -> None:
    """After a rotation they work on, and the password may be made good before they are closed."""
    async with fake_store() as server:
        store = connect(f"redis://:old@127.0.0.1:{server.port}").store
        await _talk(store.redis, 2)
        server.login[b"HELLO"] = error("WRONGPASS invalid username-password pair or user is disabled.")
        asked = await asyncio.gather(*(store.redis.set("key", "value") for _ in range(3)), return_exceptions=True)
        assert [str(one) for one in asked].count("True") == 2
        assert "invalid username-password pair or user is disabled." in [str(one) for one in asked]
        await until(lambda: server.open == 2)
        server.login = dict(LOGIN)
        await _talk(store.redis, 3)
        assert server.open == 3, "two were never closed, and the third got in at last"
        await store.aclose()


async def test_what_hears_the_server_is_told_once_for_all_its_connections() -> None:
    async with name_of_two() as (first, second, name):
        connected = connect(f"redis://127.0.0.1:{name.port}")
        told = 0

        def tell() -> None:
            nonlocal told
            told += 1

        connected.bus.listen_left(tell)
        await _talk(connected.store.redis, TALKERS)
        first.answer = lambda command: error(WRONG[0])
        moved(name, second)
        await _talk(connected.store.redis, TALKERS)
        assert told == 1
        await connected.store.aclose()


async def test_of_connections_that_are_half_open_only_the_first_costs_a_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connecting, "SOCKET_TIMEOUT_S", 1.0)
    async with fake_store() as server, run_proxy("127.0.0.1", server.port) as wire:
        store = connect(f"redis://127.0.0.1:{wire.port}").store
        await _talk(store.redis, TALKERS)
        wire.half_open()
        assert await store.redis.set("key", "value")
        lost = wire.bytes_lost
        assert lost, "the first of them has asked in vain"
        await _talk(store.redis, TALKERS)
        assert wire.bytes_lost == lost
        await store.aclose()


async def test_the_name_is_looked_up_for_every_connection_and_never_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No address is kept: a name that is moved leads elsewhere at once. A slow name server holds nobody else up."""
    lookups: list[int] = []
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host == "store.test":
            lookups.append(threading.get_ident())
            host = "127.0.0.1"
        return real(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with fake_store() as server:
        store = connect(f"redis://store.test:{server.port}").store
        await _talk(store.redis, 1)
        assert len(lookups) == 1
        replies = iter([error(WRONG[0])])
        server.answer = lambda command: next(replies, b"+OK\r\n")
        await store.redis.set("key", "value")
        assert len(lookups) == 2
        assert threading.get_ident() not in lookups
        await store.aclose()


async def test_of_the_sentinels_too_a_retry_asks_who_is_the_primary_by_now() -> None:
    """redis-py alone would go back to the address it had."""
    async with fake_store() as first, fake_store() as second, fake_store() as sentinel:
        sentinel.answer = lambda command: masters(first)
        store = connect(f"redis+sentinel://127.0.0.1:{sentinel.port}/plans").store
        await _talk(store.redis, TALKERS)

        def demoted(command: list[bytes]) -> bytes:
            sentinel.answer = lambda command: masters(second)
            return error(WRONG[0])

        first.answer = demoted
        asked = len(first.commands)
        assert await store.redis.set("key", "value")
        assert (len(first.commands), len(second.commands)) == (asked + 1, 1)
        await _talk(store.redis, TALKERS)
        assert len(first.commands) == asked + 1
        await store.aclose()


def masters(primary: FakeStore) -> bytes:
    """The reply to SENTINEL MASTERS."""
    fields = {"name": "plans", "ip": "127.0.0.1", "port": str(primary.port), "flags": "master"}
    fields |= {"num-other-sentinels": "0", "num-slaves": "0", "quorum": "1"}
    return f"*1\r\n%{len(fields)}\r\n".encode() + b"".join(
        b"$%d\r\n%b\r\n" % (len(text), text) for pair in fields.items() for text in map(str.encode, pair)
    )


def test_codes_are_told_from_texts() -> None:
    assert {wrong_server_code(ResponseError(text)) for text in WRONG} == WRONG_SERVER_CODES
    assert {wrong_server_code(ResponseError(text)) for text in RIGHT} == {""}
    assert wrong_server_code(None) == ""
    assert wrong_server_code([b"applied", b"1"]) == ""


async def _talk(redis: Any, count: int) -> None:
    """Have so many connections in use at once."""
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(redis.set("key", "value"))
