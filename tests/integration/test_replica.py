"""The Python replica: against real gateways, and against a scripted one for what a real one does only on a bad day."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import pytest
from websockets.exceptions import ConnectionClosedError

from planwire_client import (
    FeatureDenied,
    NotCurrent,
    Policy,
    Replica,
    ReplicaClosed,
    Snapshot,
    Status,
    ThreadReplica,
    TopicRefused,
)
from planwire_client.replica.connection import Connection
from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import Running, environment, run_gateway, token
from tests.support.proxy import run_proxy
from tests.support.scripted import Fake, scripted
from tests.support.servers import Server
from tests.support.wait import until

PRO = b'{"features":{"sso":true},"limits":{"seats":3}}'
FREE = b'{"features":{}}'


@pytest.fixture
async def gateway(store_url: str) -> AsyncIterator[Running]:
    """One whose silence nobody takes for staleness: these tests share a machine that may stand still for a second."""
    async with run_gateway(environment(store_url, PROBE_S="10", SWEEP_S="600")) as running:
        yield running


async def commit(store: Store, topic: str, state: bytes, previous: bool = False) -> int:
    held = await store.read(topic) if previous else None
    return (await store.commit(Change(topic, state, previous=held))).version


# Against a real gateway.


async def test_a_replica_holds_the_newest_and_knows_it(gateway: Running, store: Store) -> None:
    first = await commit(store, "tenant:a", FREE)
    seen: list[tuple[int, int | None]] = []
    statuses: list[Status] = []
    async with Replica(
        gateway.url,
        token,
        ["tenant:a"],
        on_change=lambda new, old: seen.append((new.version, old.version if old is not None else None)),
        on_status=statuses.append,
    ) as replica:
        held = await replica.wait_for("tenant:a", first)
        assert (held.version, held.state) == (first, json.loads(FREE))
        with pytest.raises(FeatureDenied):
            replica.require("tenant:a", "sso")
        second = await commit(store, "tenant:a", PRO)
        assert (await replica.wait_for("tenant:a", second)).limit("seats") == 3
        assert replica.require("tenant:a", "sso", min_version=second) is replica.get("tenant:a")
        assert seen == [(first, None), (second, first)]
        await until(lambda: statuses == [Status.FRESH])
    assert statuses == [Status.FRESH, Status.CLOSED]
    assert not replica.is_fresh("tenant:a")
    kept = replica.get("tenant:a")
    assert kept is not None
    assert kept.version == second, "what is held may still be read, as stale"


async def test_a_patch_makes_the_state_the_store_has(gateway: Running, store: Store) -> None:
    large = {"features": {f"f{n}": True for n in range(100)}}
    await commit(store, "tenant:a", json.dumps(large).encode())
    async with Replica(gateway.url, token, ["tenant:a"]) as replica:
        before = await replica.wait_for("tenant:a")
        large["features"]["f7"] = False
        version = await commit(store, "tenant:a", json.dumps(large).encode(), previous=True)
        after = await replica.wait_for("tenant:a", version)
        assert after.state == large
        assert before.has("f7"), "the older snapshot is as it was"
        assert not after.has("f7")
        assert gateway.node.metrics.patches == 1


async def test_it_acks_what_its_listener_took_and_nacks_what_it_did_not(gateway: Running, store: Store) -> None:
    def changed(new: Snapshot, old: Snapshot | None) -> None:
        if new.has("sso"):
            raise ValueError("cannot use this")

    async with Replica(gateway.url, token, ["tenant:a"], on_change=changed) as replica:
        await replica.wait_for("tenant:a")
        version = await commit(store, "tenant:a", FREE)
        await until(lambda: [one.acked for one in gateway.node.hub.topics[b"pw:{tenant:a}"].subscriptions] == [version])
        bad = await commit(store, "tenant:a", PRO)
        await until(lambda: [one.nacked for one in gateway.node.hub.topics[b"pw:{tenant:a}"].subscriptions] == [bad])
        assert replica.require("tenant:a", "sso", min_version=bad), "a listener's failure is not the state's"


async def test_topics_come_and_go_and_many_share_few_sockets(gateway: Running, store: Store) -> None:
    names = [f"tenant:t{n}" for n in range(130)]
    versions = {name: await commit(store, name, PRO) for name in names}
    async with Replica(gateway.url, token, names[:100]) as replica:
        for name in names:
            replica.watch(name)
        held = await asyncio.gather(*(replica.wait_for(name, timeout_s=20) for name in names))
        assert {one.topic: one.version for one in held} == versions
        assert gateway.node.metrics.sockets == 3
        assert replica.status is Status.FRESH
        replica.unwatch("tenant:t0")
        assert replica.get("tenant:t0") is None
        await until(lambda: not gateway.node.hub.topics[b"pw:{tenant:t0}"].subscriptions)
        replica.watch("tenant:t0")
        await replica.wait_for("tenant:t0")


async def test_waiting_has_an_end_and_says_what_is_held(gateway: Running, store: Store) -> None:
    version = await commit(store, "tenant:a", FREE)
    async with Replica(gateway.url, token, ["tenant:a"]) as replica:
        await replica.wait_for("tenant:a")
        with pytest.raises(NotCurrent) as raised:
            await replica.wait_for("tenant:a", version + 1, timeout_s=0.05)
        assert (raised.value.reason, raised.value.version) == ("behind", version)
        waiting = asyncio.create_task(replica.ensure("tenant:a", "sso", min_version=version + 1))
        await commit(store, "tenant:a", PRO)
        snapshot = await waiting
        assert snapshot is not None
        assert snapshot.has("sso")


async def test_a_topic_without_state_is_known_to_have_none(gateway: Running) -> None:
    async with Replica(gateway.url, token) as replica:
        assert await replica.wait_for("tenant:new") == Snapshot("tenant:new", 0, None)
        with pytest.raises(FeatureDenied):
            replica.require("tenant:new", "sso")


async def test_a_bus_that_is_down_makes_it_stale_and_policies_decide(
    store_url: str, store: Store, valkey: Server
) -> None:
    await commit(store, "tenant:a", PRO)
    async with (
        run_gateway(environment(store_url, PROBE_S="0.2", SWEEP_S="1")) as gateway,
        Replica(gateway.url, token, ["tenant:a"]) as replica,
    ):
        await replica.wait_for("tenant:a")
        valkey.pause()
        try:
            await until(lambda: replica.status is Status.STALE)
            with pytest.raises(NotCurrent) as raised:
                replica.require("tenant:a", "sso")
            assert raised.value.reason == "stale"
            assert replica.require("tenant:a", "sso", policy=Policy.LAST_KNOWN)
            assert replica.require("tenant:a", "export", policy=Policy.FAIL_OPEN)
        finally:
            valkey.resume()
        snapshot = await replica.ensure("tenant:a", "sso", timeout_s=10)
        assert snapshot is not None


async def test_it_comes_back_to_a_gateway_that_was_replaced(store_url: str, store: Store) -> None:
    settings = {"RECONNECT_MIN_MS": "20", "RECONNECT_MAX_MS": "100"}
    async with contextlib.AsyncExitStack() as stack:
        async with run_gateway(environment(store_url, **settings)) as running:
            # The address stays taken between the two: nobody else's server can be met there.
            address = await stack.enter_async_context(run_proxy("127.0.0.1", running.port))
            url = f"http://127.0.0.1:{address.port}"
            replica = await stack.enter_async_context(Replica(url, token, ["tenant:a"]))
            await replica.wait_for("tenant:a")
            address.is_refusing = True
        await until(lambda: replica.status is Status.STALE)
        version = await commit(store, "tenant:a", PRO)
        async with run_gateway(environment(store_url, **settings)) as successor:
            address.target, address.is_refusing = ("127.0.0.1", successor.port), False
            assert (await replica.wait_for("tenant:a", version)).version == version
            await until(lambda: replica.status is Status.FRESH)
            await replica.aclose()


async def test_an_old_token_is_exchanged_before_a_topic_is_refused(gateway: Running, store: Store) -> None:
    """A tenant was granted after the token was minted: nobody may be denied because of that."""
    await commit(store, "tenant:b", PRO)
    granted = [["tenant:a"], ["tenant:a", "tenant:b"]]

    def fetch() -> str:
        return token(*(granted.pop(0) if len(granted) > 1 else granted[0]))

    async with Replica(gateway.url, fetch, ["tenant:a"]) as replica:
        assert (await replica.wait_for("tenant:b")).has("sso")
        assert gateway.node.metrics.sockets == 1
        with pytest.raises(TopicRefused):
            await replica.wait_for("tenant:c")
        for policy in Policy:
            with pytest.raises(TopicRefused):
                replica.require("tenant:c", "sso", policy=policy)
        assert replica.require("tenant:b", "sso"), "the others go on"


async def test_a_revoked_topic_is_not_served_any_more(gateway: Running, store: Store) -> None:
    await commit(store, "tenant:a", PRO)
    async with Replica(gateway.url, token("tenant:a"), ["tenant:a"]) as replica:
        await replica.wait_for("tenant:a")
        from gateway.auth import revocation_store
        from gateway.auth.revocations import Revocation

        await revocation_store.announce(store, Revocation("topic", "tenant:a", time.time() + 1), keep_s=60, limit=100)
        await until(lambda: replica.get("tenant:a") is None)
        with pytest.raises(TopicRefused):
            replica.require("tenant:a", "sso", policy=Policy.LAST_KNOWN)


async def test_a_token_is_exchanged_in_band_before_it_ends(
    gateway: Running, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Early in a long life, so that a machine that stands still does not see its end.
    monkeypatch.setattr("planwire_client.replica.tokens.REFRESH_SHARE", 0.05)
    fetched: list[float] = []

    async def fetch() -> str:
        fetched.append(time.time())
        return token(ttl_s=30)

    statuses: list[Status] = []
    async with Replica(gateway.url, fetch, ["tenant:a"], on_status=statuses.append) as replica:
        await replica.wait_for("tenant:a")
        await until(lambda: len(fetched) >= 3, timeout_s=10)
        assert (statuses, gateway.node.metrics.sockets) == ([Status.FRESH], 1)


async def test_a_refused_token_without_a_function_is_the_end(gateway: Running) -> None:
    async with Replica(gateway.url, "nonsense", ["tenant:a"]) as replica:
        with pytest.raises(ReplicaClosed) as raised:
            await replica.wait_for("tenant:a")
        assert raised.value.code == 4401
        assert replica.status is Status.CLOSED
        with pytest.raises(ReplicaClosed):
            replica.watch("tenant:b")


async def test_a_failing_token_function_is_asked_again(gateway: Running) -> None:
    failures = [RuntimeError("the identity provider is away"), RuntimeError("still")]

    def fetch() -> str:
        if failures:
            raise failures.pop()
        return token()

    async with Replica(gateway.url, fetch, ["tenant:a"]) as replica:
        await replica.wait_for("tenant:a", timeout_s=15)


# Against a scripted gateway.


async def test_it_never_goes_back_but_on_a_reset(caplog: pytest.LogCaptureFixture) -> None:
    async def script(fake: Fake, number: int) -> None:
        await fake.welcome()
        await fake.state(20)
        await fake.state(10)
        await fake.say("patch", topic="tenant:a", base=10, version=15, patch={"n": 15})
        await fake.state(18, reset=True)
        await fake.stay()

    seen: list[int] = []
    async with (
        scripted(script) as (url, _),
        Replica(url, "t", ["tenant:a"], on_change=lambda new, old: seen.append(new.version)) as replica,
    ):
        await until(lambda: (held := replica.get("tenant:a")) is not None and held.version == 18)
        assert seen == [20, 18]


async def test_closing_in_the_turn_in_which_the_connection_is_lost_closes_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(fake: Fake, number: int) -> None:
        await fake.welcome()
        await fake.stay()

    closing: list[asyncio.Task[None]] = []

    async def lost(connection: Connection, socket: object) -> NoReturn:
        """It has not heard of the cancel yet when it ends for the lost connection."""
        task = asyncio.current_task()
        assert task is not None
        closing.append(asyncio.create_task(replica.aclose()))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(20)
        assert task.cancelling() == 1
        task.uncancel()
        task.cancel()
        raise ConnectionClosedError(None, None)

    monkeypatch.setattr(Connection, "_listen", lost)
    async with scripted(script) as (url, hellos):
        replica = Replica(url, "t", ["tenant:a"])
        await replica.open()
        await until(lambda: closing)
        done, _ = await asyncio.wait(closing, timeout=20)
        assert done, "it came back, and whoever closes it waits for good"
    assert len(hellos) == 1


async def test_a_patch_from_another_base_is_answered_by_asking_anew() -> None:
    asked: list[dict[str, Any]] = []

    async def script(fake: Fake, number: int) -> None:
        await fake.welcome(ack={"share": 0, "after_ms": 0})
        await fake.state(10)
        await fake.say("patch", topic="tenant:a", base=11, version=12, patch={"n": 12})
        asked.append(await fake.hear())
        await fake.state(12)
        await fake.stay()

    async with scripted(script) as (url, _), Replica(url, "t", ["tenant:a"]) as replica:
        assert (await replica.wait_for("tenant:a", 12)).state == {"n": 12}
        assert asked == [{"type": "subscribe", "topic": "tenant:a", "version": 10}]


async def test_silence_is_stale_before_the_connection_is_given_up() -> None:
    """Whatever the event loop is doing: freshness is a clock's matter, not a callback's."""
    looked = asyncio.Event()

    async def script(fake: Fake, number: int) -> None:
        if number == 0:
            await fake.welcome(heartbeat_ms=200)
            await fake.state(10)
            await fake.connection.wait_closed()
        await looked.wait()
        await fake.welcome()
        await fake.state(10)
        await fake.stay()

    async with scripted(script) as (url, hellos), Replica(url, "t", ["tenant:a"]) as replica:
        await replica.wait_for("tenant:a", 10)
        deadline = time.monotonic() + 0.6
        while time.monotonic() < deadline:  # nothing else runs meanwhile: no heartbeat is heard, no timer fires
            pass
        assert not replica.is_fresh("tenant:a")
        looked.set()
        await until(lambda: len(hellos) == 2 and replica.is_fresh("tenant:a"))
        assert hellos[1]["topics"] == {"tenant:a": 10}, "it resumes from what it holds"


async def test_a_gateway_that_says_it_is_not_fresh_is_believed() -> None:
    looked = asyncio.Event()

    async def script(fake: Fake, number: int) -> None:
        await fake.welcome(fresh=False)
        await fake.state(10)
        await looked.wait()
        await fake.stay()

    async with scripted(script) as (url, _), Replica(url, "t", ["tenant:a"]) as replica:
        await until(lambda: replica.get("tenant:a") is not None)
        assert not replica.is_fresh("tenant:a")
        looked.set()
        assert (await replica.wait_for("tenant:a", 10)).version == 10
        assert replica.is_fresh("tenant:a")


@pytest.mark.parametrize(("code", "comes_back"), [(1012, True), (4000, True), (4008, True), (4499, True), (4401, True)])
async def test_close_codes_to_come_back_from(code: int, comes_back: bool) -> None:
    tokens: list[str] = []

    def fetch() -> str:
        tokens.append(f"t{len(tokens)}")
        return tokens[-1]

    async def script(fake: Fake, number: int) -> None:
        if number == 0:
            await fake.welcome()
            await fake.connection.close(code, "why")
        else:
            await fake.welcome()
            await fake.state(10)
            await fake.stay()

    async with scripted(script) as (url, hellos), Replica(url, fetch, ["tenant:a"]) as replica:
        await replica.wait_for("tenant:a", 10)
        assert [one["token"] for one in hellos] == ["t0", "t1" if code == 4401 else "t0"]


@pytest.mark.parametrize("code", [4500, 4501, 4503, 4513, 4529, 4999])
async def test_close_codes_that_are_final(code: int) -> None:
    async def script(fake: Fake, number: int) -> None:
        await fake.connection.close(code, "why")

    async with scripted(script) as (url, hellos), Replica(url, "t", ["tenant:a"]) as replica:
        with pytest.raises(ReplicaClosed) as raised:
            await replica.wait_for("tenant:a")
        assert (raised.value.code, raised.value.reason, len(hellos)) == (code, "why", 1)


@pytest.mark.parametrize("status", [403, 404, 426])
async def test_a_handshake_refused_for_good(status: int) -> None:
    async def script(fake: Fake, number: int) -> None:
        raise AssertionError("never open")

    async with scripted(script, refuse=status) as (url, _), Replica(url, "t", ["tenant:a"]) as replica:
        with pytest.raises(ReplicaClosed) as raised:
            await replica.wait_for("tenant:a")
        assert raised.value.code == status


async def test_a_drain_says_when_to_come_back() -> None:
    async def script(fake: Fake, number: int) -> None:
        await fake.welcome(reconnect={"min_ms": 60_000, "max_ms": 60_000})
        if number == 0:
            await fake.say("bye", reconnect_ms=20)
            await fake.connection.close(4000)
        await fake.state(10)
        await fake.stay()

    async with scripted(script) as (url, _), Replica(url, "t", ["tenant:a"]) as replica:
        await replica.wait_for("tenant:a", 10)


async def test_frames_that_make_no_sense_cost_a_connection_not_the_replica() -> None:
    async def script(fake: Fake, number: int) -> None:
        await fake.welcome()
        if number == 0:
            await fake.say("snapshot", topic="tenant:a")
        if number == 1:
            await fake.connection.send("{")
        await fake.say("something_new", topic="tenant:a")
        await fake.state(10)
        await fake.stay()

    async with scripted(script) as (url, hellos), Replica(url, "t", ["tenant:a"]) as replica:
        await replica.wait_for("tenant:a", 10)
        assert len(hellos) == 3


async def test_only_the_newest_version_is_acked(monkeypatch: pytest.MonkeyPatch) -> None:
    # The whole of `after_ms`: drawn near zero, it would be over before the last of the versions is there.
    monkeypatch.setattr("random.uniform", lambda least, most: most)
    heard: list[dict[str, Any]] = []

    async def script(fake: Fake, number: int) -> None:
        await fake.welcome(ack={"share": 1, "after_ms": 1000})
        for version in range(10, 20):
            await fake.state(version)
        heard.append(await fake.hear())
        await fake.say("ack_policy", topic="tenant:a", share=0, after_ms=0)
        await fake.state(30)
        await fake.say("ack_policy", topic="tenant:a", share=1, after_ms=0)
        await fake.state(40)
        heard.append(await fake.hear())
        await fake.stay()

    async with scripted(script) as (url, _), Replica(url, "t", ["tenant:a"]) as replica:
        await replica.wait_for("tenant:a", 40)
        await until(lambda: len(heard) == 2)
        assert [one["version"] for one in heard] == [19, 40]


async def test_nobody_there_is_not_an_error_but_unknown() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with Replica(f"http://127.0.0.1:{taken.getsockname()[1]}", "t", ["tenant:a"]) as replica:
            with pytest.raises(NotCurrent) as raised:
                await replica.wait_for("tenant:a", timeout_s=0.1)
            assert raised.value.reason == "unknown"
            assert replica.status is Status.CONNECTING
            assert await replica.ensure("tenant:a", "sso", policy=Policy.FAIL_OPEN, timeout_s=0.1) is None


# Threads.


async def test_the_threaded_replica_says_the_same(gateway: Running, store: Store) -> None:
    first = await commit(store, "tenant:a", FREE)

    def read() -> None:
        replica = ThreadReplica(gateway.url, token)
        assert replica.get("tenant:a") is None
        with pytest.raises(FeatureDenied):
            replica.ensure("tenant:a", "sso")
        assert replica.wait_for("tenant:a", first).version == first
        assert replica.status is Status.FRESH
        asyncio.run_coroutine_threadsafe(store.commit(Change("tenant:a", PRO)), loop).result()
        snapshot = replica.ensure("tenant:a", "sso", min_version=first + 1)
        assert snapshot is not None
        assert replica.require("tenant:a", "sso") is replica.get("tenant:a")
        replica.watch("tenant:b")
        replica.unwatch("tenant:b")
        replica.close()
        assert str(replica.status) == "closed"
        with pytest.raises(ReplicaClosed):
            replica.wait_for("tenant:a", first + 2)
        assert replica._thread is None

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(read)


def _in_child(pipe: Any, replica: ThreadReplica) -> None:
    before = replica.get("tenant:a")
    pipe.send((before, replica.wait_for("tenant:a").state, os.getpid()))
    pipe.close()
    os._exit(0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_worker_gets_a_connection_of_its_own(gateway: Running, store: Store) -> None:
    await commit(store, "tenant:a", PRO)
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    context = multiprocessing.get_context("fork")
    with ThreadReplica(gateway.url, token) as replica:
        await asyncio.to_thread(replica.wait_for, "tenant:a")
        ours, theirs = context.Pipe()
        child = context.Process(target=_in_child, args=(theirs, replica))
        child.start()
        assert await asyncio.to_thread(ours.poll, 10)
        before, state, pid = ours.recv()
        await asyncio.to_thread(child.join, 10)
        assert (before, state, pid != os.getpid()) == (None, json.loads(PRO), True)
        assert replica.is_fresh("tenant:a")
