"""A replica whose application's own functions fail, and whose connections fail in ways nobody foresaw: it goes on."""

from __future__ import annotations

import asyncio
import functools
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from planwire_client import NotCurrent, Replica, ReplicaClosed, ReplicaError, Snapshot, Status, ThreadReplica
from planwire_client.replica.connection import Connection
from planwire_client.replica.outgoing import Outgoing
from planwire_client.replica.subscriptions import Subscriptions
from planwire_client.replica.tokens import CALLS_MAX, TOKEN_CHARS_MAX, TokenKeeper
from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import MAX_WAIT_S, Running, environment, run_gateway, token
from tests.support.scripted import Fake, scripted
from tests.support.wait import until

PRO = b'{"features":{"sso":true}}'

Said = list[tuple[Status, str]]


@pytest.fixture
async def gateway(store_url: str) -> AsyncIterator[Running]:
    settings = {"PROBE_S": "10", "SWEEP_S": "600", "RECONNECT_MIN_MS": "10", "RECONNECT_MAX_MS": "40"}
    async with run_gateway(environment(store_url, **settings)) as running:
        yield running


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back soon before a gateway has said how soon."""
    monkeypatch.setattr("planwire_client.replica.subscriptions.RECONNECT_MIN_MS", 10)
    monkeypatch.setattr("planwire_client.replica.subscriptions.RECONNECT_MAX_MS", 40)
    monkeypatch.setattr("planwire_client.replica.tokens.REFRESH_RETRY_S", 0.05)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def reporting(said: Said) -> Callable[[Status, str], None]:
    def on_status(status: Status, cause: str) -> None:
        said.append((status, cause))

    return on_status


async def is_current(replica: Replica, topic: str = "tenant:a") -> Snapshot:
    return await replica.wait_for(topic, timeout_s=MAX_WAIT_S)


# What a token function may return and raise.


class Custom(BaseException):
    """Of a library that wants nobody to catch it."""


ODD = {
    "None": None, "bytes": b"a.b.c", "dict": {"token": "x"}, "int": 7, "list": ["x"], "object": object(),
    "empty": "", "a page": "<html>" + "x" * TOKEN_CHARS_MAX, "not ASCII": "tok\u00e9n", "a lone surrogate": "\ud800",
}  # fmt: skip

RAISED = {
    type(error).__name__: error
    for error in (
        RuntimeError("away"), KeyError("x"), OSError(5, "away"), asyncio.CancelledError(), SystemExit(1),
        StopIteration(), StopAsyncIteration(), GeneratorExit(), TimeoutError(), Custom("x"),
        ExceptionGroup("two", [ValueError("x")]),
    )
}  # fmt: skip


def plain(outcomes: list[object]) -> Callable[[], Any]:
    """A function that returns, or raises, the outcomes in turn, and then tokens."""

    def fetch() -> Any:
        given = outcomes.pop(0) if outcomes else token()
        if isinstance(given, BaseException):
            raise given
        return given

    return fetch


def asynchronous(outcomes: list[object]) -> Callable[[], Any]:
    fetch = plain(outcomes)

    async def fetch_async() -> Any:
        await asyncio.sleep(0)
        return fetch()

    return fetch_async


def returning_awaitables(outcomes: list[object]) -> Callable[[], Any]:
    return functools.partial(lambda fetch: fetch(), asynchronous(outcomes))


class Callback:
    """An object that is called, as those of frameworks are."""

    def __init__(self, outcomes: list[object]) -> None:
        self._fetch = asynchronous(outcomes)

    async def __call__(self) -> Any:
        return await self._fetch()


@pytest.mark.parametrize("kind", [plain, asynchronous, returning_awaitables, Callback])
@pytest.mark.parametrize("name", [*ODD, *RAISED])
async def test_whatever_a_token_function_does_it_is_asked_again_and_told_of(
    name: str, kind: Callable[[list[object]], Callable[[], Any]], gateway: Running, store: Store
) -> None:
    outcome = ODD[name] if name in ODD else RAISED[name]
    said: Said = []
    await store.commit(Change("tenant:a", PRO))
    async with Replica(gateway.url, kind([outcome, outcome]), ["tenant:a"], on_status=reporting(said)) as replica:
        assert (await is_current(replica)).has("sso")
        await until(lambda: said and said[-1] == (Status.FRESH, ""), timeout_s=MAX_WAIT_S)
    status, cause = said[0]
    assert status is Status.CONNECTING
    assert cause.startswith("no token: the token function ")
    assert (name in cause) or (name in ODD and "that are no token" in cause) or "RuntimeError" in cause
    assert said[-1] == (Status.CLOSED, "")


@pytest.mark.parametrize("wrong", [None, b"a.b.c", 7, {"token": "x"}, ["x"]])
def test_what_is_neither_a_token_nor_a_function_is_refused_at_once(wrong: Any) -> None:
    for make in (Replica, ThreadReplica):
        with pytest.raises(TypeError, match="token must be a string or a function"):
            make("http://127.0.0.1:1", wrong)


# Functions that block.


class Blocking:
    """A token function that does not return before it is let go. `running`: its calls now, `most`: at once so far."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.running = self.most = self.calls = 0
        self.threads: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            self.threads.add(threading.get_ident())
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
        was_released = self.released.wait(MAX_WAIT_S)
        with self._lock:
            self.running -= 1
        assert was_released, "it blocks whoever would release it"
        return token()


async def test_a_function_that_blocks_stops_nobody_else(gateway: Running) -> None:
    fetch = Blocking()
    async with Replica(gateway.url, fetch, ["tenant:a"]) as replica:
        await until(lambda: fetch.running == 1, timeout_s=MAX_WAIT_S)
        fetch.released.set()
        await is_current(replica)
        assert threading.get_ident() not in fetch.threads


async def test_so_many_calls_run_at_once_and_no_more(gateway: Running) -> None:
    fetch = Blocking()
    names = [f"tenant:t{n}" for n in range(3 * CALLS_MAX)]
    async with Replica(gateway.url, fetch, names, topics_per_socket=1, token_timeout_s=MAX_WAIT_S) as replica:
        await until(lambda: fetch.running == CALLS_MAX, timeout_s=MAX_WAIT_S)
        fetch.released.set()
        await asyncio.gather(*(is_current(replica, name) for name in names))
    assert (fetch.most, fetch.running) == (CALLS_MAX, 0)


async def test_calls_that_hang_are_given_up_and_never_pile_up(gateway: Running) -> None:
    fetch = Blocking()
    said: Said = []
    async with Replica(gateway.url, fetch, ["tenant:a"], on_status=reporting(said), token_timeout_s=0.02) as replica:
        await until(
            lambda: any(f"has not returned from {CALLS_MAX} calls" in cause for _, cause in said), timeout_s=MAX_WAIT_S
        )
        assert "did not return within 0.02 s" in said[0][1]
        assert (fetch.most, fetch.calls) == (CALLS_MAX, CALLS_MAX)
        fetch.released.set()
        await is_current(replica)


async def test_an_async_function_that_will_not_be_cancelled_is_given_up_as_well(gateway: Running) -> None:
    released = asyncio.Event()
    running = most = 0

    async def fetch() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        running -= 1
        return token()

    said: Said = []
    async with Replica(gateway.url, fetch, ["tenant:a"], on_status=reporting(said), token_timeout_s=0.02) as replica:
        await until(
            lambda: any(f"has not returned from {CALLS_MAX} calls" in cause for _, cause in said), timeout_s=MAX_WAIT_S
        )
        released.set()
        await is_current(replica)
    await until(lambda: running == 0, timeout_s=MAX_WAIT_S)
    assert most == CALLS_MAX


async def test_closing_does_not_wait_for_a_function_that_hangs(gateway: Running) -> None:
    fetch = Blocking()

    def open_and_close() -> None:
        with ThreadReplica(gateway.url, fetch, ["tenant:a"]):
            assert fetch.released.wait(0) is False

    async with Replica(gateway.url, fetch, ["tenant:a"]):
        await until(lambda: fetch.running == 1, timeout_s=MAX_WAIT_S)
    await asyncio.to_thread(open_and_close)
    fetch.released.set()
    await until(lambda: fetch.running == 0, timeout_s=MAX_WAIT_S)


# The token of a connection that is up.


class Fetch:
    """A token function that gives `topics` at first, and then what `later` does."""

    def __init__(self, *topics: str) -> None:
        self.topics = topics
        self.later: Callable[[], Awaitable[str]] | None = None

    async def __call__(self) -> str:
        return token(*self.topics) if self.later is None else await self.later()


async def fail() -> str:
    raise RuntimeError("the identity provider is away")


async def hang() -> str:
    await asyncio.sleep(3600)
    raise AssertionError("never")


@pytest.mark.parametrize(("trouble", "told"), [(fail, "provider is away"), (hang, "did not return within 0.1 s")])
async def test_without_a_new_token_the_old_one_goes_on_and_frames_do_not_wait_for_it(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[], Awaitable[str]], told: str
) -> None:
    monkeypatch.setattr("planwire_client.replica.tokens.REFRESH_SHARE", 0.0001)
    fetch = Fetch("*")
    said: Said = []
    async with Replica(gateway.url, fetch, ["tenant:a"], on_status=reporting(said), token_timeout_s=0.1) as replica:
        await is_current(replica)
        fetch.later = trouble
        await until(lambda: told in replica.cause, timeout_s=MAX_WAIT_S)
        for n in range(5):
            assert (await is_current(replica, f"tenant:t{n}")).version == 0
        assert replica.status is Status.FRESH
        fetch.later = None
        await until(lambda: replica.cause == "" and (Status.FRESH, "") in said[1:], timeout_s=MAX_WAIT_S)
        assert gateway.node.metrics.sockets == 1


async def test_a_refusal_is_not_believed_while_there_is_no_new_token(gateway: Running, store: Store) -> None:
    """The tenant was granted after the token was minted, and the function that would tell so is away."""
    await store.commit(Change("tenant:b", PRO))
    fetch = Fetch("tenant:a")
    async with Replica(gateway.url, fetch, ["tenant:a"], token_timeout_s=0.1) as replica:
        await is_current(replica)
        fetch.later = hang
        with pytest.raises(NotCurrent):
            await replica.wait_for("tenant:b", timeout_s=0.5)
        fetch.topics, fetch.later = ("tenant:a", "tenant:b"), None
        assert (await is_current(replica, "tenant:b")).has("sso")


async def test_a_topic_refused_while_a_token_is_under_way_gets_a_newer_one(gateway: Running, store: Store) -> None:
    await store.commit(Change("tenant:c", PRO))
    fetch = Fetch("tenant:a")
    answers: list[asyncio.Future[str]] = []

    async def later() -> str:
        answers.append(asyncio.get_running_loop().create_future())
        return await answers[-1]

    async with Replica(gateway.url, fetch, ["tenant:a"], token_timeout_s=MAX_WAIT_S) as replica:
        await is_current(replica)
        fetch.later = later
        replica.watch("tenant:b")
        await until(lambda: len(answers) == 1, timeout_s=MAX_WAIT_S)
        replica.watch("tenant:c")
        held = replica._states["tenant:c"]
        await until(lambda: "tenant:c" in replica._connections[0]._keeper._refused, timeout_s=MAX_WAIT_S)
        answers[0].set_result(token("tenant:a", "tenant:b"))
        await until(lambda: len(answers) == 2, timeout_s=MAX_WAIT_S)
        assert not held.refused
        answers[1].set_result(token("tenant:a", "tenant:b", "tenant:c"))
        assert (await is_current(replica, "tenant:c")).has("sso")


# Errors that nobody foresaw.

SURPRISES = {
    type(error).__name__: error
    for error in (
        RuntimeError("a fault"), RecursionError(), MemoryError(), asyncio.CancelledError(), LookupError("x"),
        ExceptionGroup("g", [ValueError("inside")]),
    )
}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "where"),
    [
        (Subscriptions, "_welcome"),
        (Subscriptions, "_snapshot"),
        (Outgoing, "_next_frame"),
        (Connection, "_talk"),
        (Connection, "_listen"),
        (Connection, "_connect_once"),
        (TokenKeeper, "run"),
    ],
)
@pytest.mark.parametrize("name", SURPRISES)
async def test_an_error_that_nobody_foresaw_costs_a_connection_and_is_told_of(
    name: str, part: type, where: str, gateway: Running, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(part, where)
    left = [SURPRISES[name]] * 2

    @functools.wraps(right)
    def wrong(*given: Any) -> Any:
        if left:
            raise left.pop()
        return right(*given)

    monkeypatch.setattr(part, where, wrong)
    said: Said = []
    await store.commit(Change("tenant:a", PRO))
    async with Replica(gateway.url, token, ["tenant:a"], on_status=reporting(said)) as replica:
        await until(lambda: not left, timeout_s=MAX_WAIT_S)
        assert (await is_current(replica)).has("sso")
        replica.watch("tenant:b")
        await is_current(replica, "tenant:b")
    causes = [cause for _, cause in said if cause]
    expected = {"CancelledError": "cancelled from inside", "ExceptionGroup": "ValueError: inside"}.get(name, name)
    assert any(expected in cause for cause in causes), causes


async def test_frames_nested_beyond_any_stack_cost_a_connection() -> None:
    async def script(fake: Fake, number: int) -> None:
        await fake.welcome()
        await fake.state(10)
        if number == 0:
            patch = '{"a":' * 1000 + "1" + "}" * 1000
            await fake.connection.send(f'{{"type":"patch","topic":"tenant:a","base":10,"version":11,"patch":{patch}}}')
        else:
            await fake.state(11)
        await fake.stay()

    said: Said = []
    async with scripted(script) as (url, hellos), Replica(url, "t", ["tenant:a"], on_status=reporting(said)) as replica:
        assert (await replica.wait_for("tenant:a", 11, timeout_s=MAX_WAIT_S)).state == {"n": 11}
        assert len(hellos) == 2
    assert any("RecursionError" in cause for _, cause in said)


async def test_pauses_grow_while_it_fails(monkeypatch: pytest.MonkeyPatch, nowhere: str) -> None:
    monkeypatch.setattr("planwire_client.replica.subscriptions.RECONNECT_MAX_MS", 1000)
    most: list[float] = []

    def uniform(least: float, greatest: float) -> float:
        most.append(greatest)
        return 0.001

    monkeypatch.setattr("random.uniform", uniform)

    async def fetch() -> str:
        await asyncio.sleep(3600)
        return ""

    async with Replica(nowhere, fetch, ["tenant:a"], token_timeout_s=0.005):
        await until(lambda: len(most) >= 9, timeout_s=MAX_WAIT_S)
    assert most[:9] == [min(1.0, 0.01 * 2**n) for n in range(1, 10)]


async def test_what_status_callbacks_do_is_their_own_affair(gateway: Running) -> None:
    said: list[object] = []

    def on_status(status: Status) -> None:
        said.append(status)
        raise ValueError("cannot use this")

    async with Replica(gateway.url, plain([RuntimeError("x")]), ["tenant:a"], on_status=on_status) as replica:
        await is_current(replica)
        await until(lambda: said[-1:] == [Status.FRESH], timeout_s=MAX_WAIT_S)
        assert replica.cause == ""
    assert said[-1] is Status.CLOSED


# Threads.


def started(*works: Callable[[], object]) -> tuple[list[threading.Thread], list[BaseException]]:
    """Run each in a thread; returns the threads, and what was raised, as it comes."""
    raised: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads, raised


def waiting(replica: ThreadReplica) -> int:
    """How many calls of other threads wait in the replica's."""
    return len(replica._calls or ())


async def all_end(threads: list[threading.Thread]) -> None:
    await until(lambda: not any(thread.is_alive() for thread in threads), timeout_s=MAX_WAIT_S)


async def test_closing_tells_every_thread_that_waits(nowhere: str) -> None:
    replica = ThreadReplica(nowhere, "t")
    works = [functools.partial(replica.wait_for, f"tenant:t{n % 3}", timeout_s=3600) for n in range(8)]
    ensure = functools.partial(replica.ensure, "tenant:a", "sso", timeout_s=3600)
    threads, raised = started(*works, ensure)
    await until(lambda: waiting(replica) == len(threads), timeout_s=MAX_WAIT_S)
    await asyncio.to_thread(replica.close)
    await all_end(threads)
    assert sorted(type(error).__name__ for error in raised) == ["NotCurrent"] + ["ReplicaClosed"] * 8
    with pytest.raises(ReplicaClosed):
        replica.wait_for("tenant:a", 1)


async def test_closing_at_any_instant_leaves_nobody_waiting(nowhere: str) -> None:
    for seed in range(25):
        replica = ThreadReplica(nowhere, "t")
        chance = random.Random(seed)

        def ask(pause_s: float, replica: ThreadReplica = replica) -> None:
            time.sleep(pause_s)
            replica.watch("tenant:b")
            replica.wait_for("tenant:a", timeout_s=3600)

        works = [functools.partial(ask, chance.uniform(0, 0.004)) for _ in range(6)]
        threads, raised = started(*works)
        await asyncio.sleep(chance.uniform(0, 0.006))
        await asyncio.to_thread(replica.close)
        await all_end(threads)
        assert [type(error) for error in raised] == [ReplicaClosed] * 6


async def test_a_replica_may_be_closed_by_its_callback_and_not_be_waited_for_in_one(
    gateway: Running, store: Store
) -> None:
    await store.commit(Change("tenant:a", PRO))
    raised: list[ReplicaError] = []

    def on_change(new: Snapshot, before: Snapshot | None) -> None:
        for ask in (lambda: replica.wait_for("tenant:b"), lambda: replica.watch("tenant:b")):
            try:
                ask()
            except ReplicaError as error:
                raised.append(error)
        replica.close()

    replica = ThreadReplica(gateway.url, token, ["tenant:a"], on_change=on_change)
    threads, _ = started(functools.partial(replica.wait_for, "tenant:never", 2**53, timeout_s=3600))
    await all_end(threads)
    assert raised
    assert {str(error) for error in raised} == {"a callback cannot wait for the replica whose thread it runs in"}
    await asyncio.to_thread(replica.close)
    assert replica.status is Status.CLOSED


async def test_a_thread_that_ends_by_itself_leaves_nobody_waiting(gateway: Running, store: Store) -> None:
    await store.commit(Change("tenant:a", PRO))

    def on_change(new: Snapshot, before: Snapshot | None) -> None:
        if new.topic == "tenant:a":
            raise SystemExit("a callback that ends its thread")

    replica = ThreadReplica(gateway.url, token, on_change=on_change)
    wait = functools.partial(replica.wait_for, "tenant:never", 2**53, timeout_s=3600)
    threads, raised = started(wait, wait)
    await until(lambda: waiting(replica) == 2, timeout_s=MAX_WAIT_S)
    threads += started(functools.partial(replica.watch, "tenant:a"))[0]
    await all_end(threads)
    assert [type(error) for error in raised] == [ReplicaClosed] * 2
    assert replica.status is Status.CLOSED
    with pytest.raises(ReplicaClosed):
        replica.watch("tenant:b")
    await asyncio.to_thread(replica.close)


async def test_a_callback_that_blocks_the_thread_does_not_keep_others_waiting(
    gateway: Running, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planwire_client.replica.thread.CLOSE_TIMEOUT_S", 0.1)
    await store.commit(Change("tenant:a", PRO))
    released, is_blocking = threading.Event(), threading.Event()

    def on_change(new: Snapshot, before: Snapshot | None) -> None:
        if new.topic == "tenant:a":
            is_blocking.set()
            released.wait(MAX_WAIT_S)

    replica = ThreadReplica(gateway.url, token, on_change=on_change)
    threads, raised = started(functools.partial(replica.wait_for, "tenant:never", 2**53, timeout_s=3600))
    await until(lambda: waiting(replica) == 1, timeout_s=MAX_WAIT_S)
    await asyncio.to_thread(replica.watch, "tenant:a")
    await until(is_blocking.is_set, timeout_s=MAX_WAIT_S)
    thread = replica._thread
    await asyncio.to_thread(replica.close)
    await all_end(threads)
    assert [type(error) for error in raised] == [ReplicaClosed]
    released.set()
    assert thread is not None
    await all_end([thread])
