"""The Python publisher against real gateways and stores: verdicts, batches, and repeating without doing it twice."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import redis

from planwire_client import (
    AsyncPublisher,
    PlanwireError,
    Publish,
    Published,
    Publisher,
    PublishRefused,
    RateLimited,
    Rejected,
    Retries,
    Unavailable,
    Verdict,
)
from planwire_client.commit_batch import Batch
from planwire_client.core import commit
from planwire_client.core.commit import BILLING
from planwire_client.store import StoreTransport
from sync.store.models import Change
from sync.store.store import Store
from tests.support.gateway import PUBLISH_KEY, Running, environment, open_client, run_gateway
from tests.support.servers import Server

FAST = Retries(attempts=3, total_timeout_s=5, backoff_min_s=0.01, backoff_max_s=0.05)


@pytest.fixture
async def gateway(store_url: str) -> AsyncIterator[Running]:
    # No sweep: one that came before the bus would bring the whole state where a patch is looked for.
    async with run_gateway(environment(store_url, SWEEP_S="600")) as running:
        yield running


@pytest.fixture(params=["http", "store"])
async def publisher(request: pytest.FixtureRequest, store_url: str) -> AsyncIterator[AsyncPublisher]:
    """One through a gateway, one straight to the store: they must not differ."""
    if request.param == "store":
        async with AsyncPublisher(store_url, retries=FAST) as direct:
            yield direct
    else:
        async with (
            run_gateway(environment(store_url)) as running,
            AsyncPublisher(running.url, PUBLISH_KEY, retries=FAST) as through,
        ):
            yield through


async def test_every_verdict(publisher: AsyncPublisher, store: Store) -> None:
    first = await publisher.publish("tenant:a", {"n": 1}, private={"p": 1}, event_id="e1", order=5)
    assert (first.verdict, first.event_id, first.is_effective) == (Verdict.APPLIED, "e1", True)
    found = await store.read("tenant:a")
    assert (found.version, found.state, found.private) == (first.version, b'{"n":1}', b'{"p":1}')
    assert json.loads(found.cause)["event_id"] == "e1"
    again = await publisher.publish("tenant:a", {"n": 9}, event_id="e1")
    same = await publisher.publish("tenant:a", {"n": 1}, private={"p": 1})
    old = await publisher.publish("tenant:a", {"n": 0}, order=5)
    lost = await publisher.publish("tenant:a", {"n": 2}, if_version=1)
    assert [one.verdict for one in (again, same, old, lost)] == ["duplicate", "unchanged", "stale", "conflict"]
    assert {one.version for one in (again, same, old, lost)} == {first.version}
    won = await publisher.publish("tenant:a", {"n": 2}, if_version=first.version)
    assert (won.verdict, won.version > first.version) == (Verdict.APPLIED, True)


async def test_a_topic_that_billing_computes_is_refused_and_the_others_of_its_batch_are_not(
    publisher: AsyncPublisher, store: Store
) -> None:
    billed = await store.commit(Change("tenant:a", b'{"plan":"pro"}', b'{"facts":1}', owner=BILLING))
    with pytest.raises(PublishRefused) as raised:
        await publisher.publish("tenant:a", {"plan": "free"})
    assert (raised.value.code, "grant" in raised.value.detail) == ("topic_is_billed", True)
    outcomes = await publisher.publish_many([Publish("tenant:a", 1), Publish("tenant:b", 2)])
    assert [getattr(one, "code", None) or getattr(one, "verdict", None) for one in outcomes] == [
        "topic_is_billed",
        "applied",
    ]
    found = await store.read("tenant:a")
    assert (found.version, found.state, found.private) == (billed.version, b'{"plan":"pro"}', b'{"facts":1}')


async def test_a_batch_of_more_than_one_request_with_bad_ones_among_it(publisher: AsyncPublisher, store: Store) -> None:
    items = [Publish(f"tenant:t{index}", {"n": index}) for index in range(700)]
    items[3] = Publish("nothing", 1)
    items[600] = Publish("tenant:big", "x" * 40_000)
    outcomes = await publisher.publish_many(items)
    assert len(outcomes) == 700
    refused = {index: one.code for index, one in enumerate(outcomes) if isinstance(one, Rejected)}
    assert refused == {3: "topic_invalid", 600: "state_too_large"}
    assert (await store.read("tenant:t699")).state == b'{"n":699}'


async def test_a_wrong_publish_is_refused_once_and_for_all(publisher: AsyncPublisher) -> None:
    for topic, code in (("nothing", "topic_invalid"), ("probe:a", "topic_reserved")):
        with pytest.raises(PublishRefused) as raised:
            await publisher.publish(topic, 1)
        assert raised.value.code == code


async def test_a_number_that_a_browser_reads_as_another_is_never_sent(publisher: AsyncPublisher, store: Store) -> None:
    unsafe: list[tuple[object, object]] = [(2**53, None), ({"a": [float("nan")]}, None), (1, 2**64), (-(2**70), None)]
    for state, private in unsafe:
        with pytest.raises(PublishRefused) as raised:
            await publisher.publish("tenant:a", state, private=private)
        assert (raised.value.code, raised.value.status) == ("number_unsafe", 0)
    items = [Publish("tenant:a", state, private) for state, private in unsafe] + [Publish("tenant:b", -0.0, 2**64 - 1)]
    outcomes = await publisher.publish_many(items)
    assert [getattr(one, "code", "applied") for one in outcomes] == ["number_unsafe"] * 4 + ["applied"]
    stored = await store.read("tenant:b")
    assert (stored.state, stored.private) == (b"0.0", b"18446744073709551615")
    assert (await store.read("tenant:a")).version == 0


@pytest.mark.parametrize("kind", ["http", "store"])
async def test_the_blocking_publisher_says_the_same(kind: str, gateway: Running, store_url: str, store: Store) -> None:
    def work() -> tuple[Published, Published, int]:
        where = (gateway.url, PUBLISH_KEY) if kind == "http" else (store_url, "")
        with Publisher(*where, retries=FAST) as publisher:
            first = publisher.publish("tenant:a", {"n": 1}, event_id="e1")
            again = publisher.publish("tenant:a", {"n": 2}, event_id="e1")
            many = publisher.publish_many([Publish(f"user:{index}", index) for index in range(3)])
            return first, again, sum(isinstance(one, Published) for one in many)

    first, again, count = await asyncio.to_thread(work)
    assert (first.verdict, again.verdict, count) == ("applied", "duplicate", 3)
    assert (await store.read("user:2")).state == b"2"


async def test_a_wrong_key_is_not_tried_again(gateway: Running) -> None:
    async with AsyncPublisher(gateway.url, "wrong", retries=FAST) as publisher:
        with pytest.raises(PublishRefused) as raised:
            await publisher.publish("tenant:a", 1)
    assert (raised.value.code, raised.value.status) == ("key_invalid", 401)


async def test_the_rate_of_a_key_is_waited_for(store_url: str) -> None:
    digest = hashlib.sha256(PUBLISH_KEY.encode()).hexdigest()
    async with (
        run_gateway(environment(store_url, PUBLISH_KEYS=f"slow:{digest}:2")) as running,
        AsyncPublisher(running.url, PUBLISH_KEY) as publisher,
        AsyncPublisher(running.url, PUBLISH_KEY, retries=Retries(total_timeout_s=0.5)) as hasty,
    ):
        started = asyncio.get_running_loop().time()
        verdicts = [(await publisher.publish("tenant:a", {"n": n})).verdict for n in range(4)]
        assert verdicts == ["applied"] * 4
        assert asyncio.get_running_loop().time() - started > 0.5

        async def overdraw() -> None:
            """Where the machine has stood still the first batch is taken, and leaves a debt of twenty seconds."""
            for turn in range(2):
                await hasty.publish_many([Publish("tenant:a", {"hasty": n, "turn": turn}) for n in range(40)])

        with pytest.raises(RateLimited) as raised:
            await overdraw()
        assert raised.value.retry_after_s >= 1


@contextlib.asynccontextmanager
async def forgetful(port: int, is_lost: Callable[[int], bool]) -> AsyncIterator[str]:
    """A proxy that carries a request to the gateway and, where `is_lost(its number)`, cuts before the answer."""
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(
                    int(one.split(b":")[1]) for one in head.split(b"\r\n") if one.lower().startswith(b"content-l")
                )
                body = await reader.readexactly(size)
                number += 1
                lost = is_lost(number)
                upstream, out = await asyncio.open_connection("127.0.0.1", port)
                out.write(head.replace(b"keep-alive", b"close") + body)
                answer = await upstream.read()
                out.close()
                if lost:
                    writer.transport.abort()
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice(gateway: Running, store: Store) -> None:
    async with (
        forgetful(gateway.port, lambda number: number % 2 == 1) as url,
        AsyncPublisher(url, PUBLISH_KEY, retries=FAST) as publisher,
    ):
        outcome = await publisher.publish("tenant:a", {"n": 1}, if_version=0)
        assert outcome.verdict is Verdict.DUPLICATE, "the first attempt arrived"
        assert outcome.is_effective
        await publisher.publish_many([Publish("tenant:b", {"n": n}) for n in range(3)])
    assert [one.version for one in await store.log("tenant:a")] == [outcome.version]
    assert [one.state for one in await store.log("tenant:b")] == [b'{"n":2}', b'{"n":1}', b'{"n":0}']


async def test_a_store_that_restarts_has_forgotten_the_script_but_not_the_publisher(
    valkey: Server, store_url: str
) -> None:
    retries = Retries(backoff_min_s=0.01, backoff_max_s=0.1)
    async with AsyncPublisher(store_url, retries=retries) as publisher:
        assert (await publisher.publish("tenant:a", {"n": 1})).verdict is Verdict.APPLIED
        await asyncio.to_thread(valkey.restart)
        many = await publisher.publish_many([Publish(f"tenant:{n}", {"n": n}) for n in range(20)])
        assert {one.verdict for one in many if isinstance(one, Published)} == {Verdict.APPLIED}
        assert len(many) == 20


async def test_a_dead_gateway_and_a_dead_store_are_told(gateway: Running, valkey: Server, store_url: str) -> None:
    await asyncio.to_thread(valkey.kill)
    for where in ((gateway.url, PUBLISH_KEY), (store_url, ""), ("http://127.0.0.1:9", "key")):
        async with AsyncPublisher(*where, retries=FAST) as publisher:
            with pytest.raises(Unavailable) as raised:
                await publisher.publish("tenant:a", 1, event_id="mine")
            assert raised.value.event_ids == ("mine",)


async def test_a_direct_publish_is_pushed_like_any_other(gateway: Running, store_url: str, store: Store) -> None:
    with gateway.node.hub.reader("tenant:a") as live:
        async with AsyncPublisher(store_url) as publisher:
            published = await publisher.publish("tenant:a", {"n": 1.5})
        assert await live.newer_than(0, 5)
        assert (live.version, live.state) == (published.version, b'{"n":1.5}')
    same = await store.commit(Change("tenant:a", b'{"n":1.5}'))
    assert same.verdict == "unchanged", "the same bytes, so the same digest"


@pytest.mark.parametrize("where", [("http://127.0.0.1:1", ""), ("ftp://x", "k"), ("", "")])
def test_a_url_that_cannot_be_published_to_is_refused_at_once(where: tuple[str, str]) -> None:
    with pytest.raises(PlanwireError):
        Publisher(*where)


async def test_browsers_get_patches_of_what_is_published_straight_to_the_store(
    gateway: Running, store_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state(n: int) -> dict[str, object]:
        return {"n": n, "pad": "x" * 2000}

    async with AsyncPublisher(store_url, retries=FAST) as publisher, open_client(gateway, "tenant:a") as tab:
        await tab.until("snapshot")
        first = await publisher.publish("tenant:a", state(1))
        assert (await tab.until("snapshot"))["version"] == first.version
        second = await publisher.publish("tenant:a", state(2))
        patch = await tab.until("patch")
        assert (patch["base"], patch["version"], patch["patch"]) == (first.version, second.version, {"n": 2})

        def work() -> Published:
            with Publisher(store_url, retries=FAST) as blocking:
                return blocking.publish("tenant:a", state(3))

        third = await asyncio.to_thread(work)
        assert (await tab.until("patch"))["base"] == second.version
        # Another writer comes between the read and the commit: a patch from what is gone must not be announced.
        complete = Batch.complete
        other = redis.Redis.from_url(store_url)

        def late(batch: Batch, replies: Sequence[object]) -> None:
            complete(batch, replies)
            with Publisher(transport=StoreTransport(other)) as blocking:
                monkeypatch.undo()
                blocking.publish("tenant:a", state(99))

        monkeypatch.setattr(Batch, "complete", late)
        last = await publisher.publish("tenant:a", state(4))
        other.close()
        between = await tab.until("patch")
        assert (between["base"], between["patch"]) == (third.version, {"n": 99})
        whole = await tab.receive()
        assert (whole["type"], whole["version"], whole["state"]) == ("snapshot", last.version, state(4))


@pytest.mark.parametrize("needs", ["2", "3"])
async def test_a_client_that_is_too_old_for_the_stores_data_says_so(store: Store, store_url: str, needs: str) -> None:
    await store.redis.hset(store.keys.schema, "needs", needs)
    with Publisher(store_url) as blocking:
        async with AsyncPublisher(store_url) as publisher:
            if int(needs) > commit.FORMAT:
                with pytest.raises(PublishRefused, match="format 3"):
                    await publisher.publish("tenant:a", {"n": 1})
                with pytest.raises(PublishRefused, match="format 3"):
                    await asyncio.to_thread(blocking.publish, "tenant:a", {"n": 1})
            else:
                assert (await publisher.publish("tenant:a", {"n": 1})).verdict is Verdict.APPLIED
                published = await asyncio.to_thread(blocking.publish, "tenant:a", {"n": 1})
                assert published.verdict is Verdict.UNCHANGED
