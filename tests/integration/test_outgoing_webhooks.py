"""Outgoing webhooks against a real store: what an endpoint is told after crashes, failures, floods and erasures."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from planwire_client.core.commit import BILLING
from sync.core.webhook_endpoints import parse_endpoints
from sync.store import arming
from sync.store.delayed_queue import DelayedQueue
from sync.store.isolation import ATTEMPTS_MAX
from sync.store.models import Change
from sync.store.redis.connect import connect
from sync.store.store import Store
from sync.webhooks.rounds import Rounds
from sync.webhooks.sender import Sender
from tests.support.receiver import NEXT_SECRET, SECRET, Receiver, receiving

TOPIC = "tenant:acme"


class Worker:
    """The rounds of a worker, done when a test says so."""

    def __init__(self, store: Store, sender: Sender, *receivers: Receiver) -> None:
        self.store = store
        self.endpoints = parse_endpoints(",".join(one.setting(f"r{n}") for n, one in enumerate(receivers)))
        self.rounds = Rounds(store, self.endpoints, sender)
        self.queue = {
            name: DelayedQueue(store, store.keys.webhooks(name)) for name in ("soon", "late", "to:r0", "to:r1")
        }

    async def look(self, name: str = "soon") -> None:
        """Look at all that is armed, as if its time had come."""
        await self._hasten(name)
        await self.rounds.look(self.queue[name])

    async def deliver(self, number: int = 0) -> int:
        """Tell one endpoint all that is due, or was to be tried later; return the number of tenants."""
        name = f"to:r{number}"
        await self._hasten(name)
        claimed = await self.queue[name].claim(100)
        for due in claimed:
            begun = await self.queue[name].begin(due)
            assert begun is not None
            await self.rounds.deliver(self.endpoints[number], begun)
        return len(claimed)

    async def turn(self) -> None:
        """Look, and tell each endpoint."""
        await self.look()
        for number in range(len(self.endpoints)):
            await self.deliver(number)

    async def _hasten(self, name: str) -> None:
        redis: Any = self.store.redis
        key = self.store.keys.webhooks(name)
        for member in await redis.zrange(key, 0, -1):
            await redis.zadd(key, {member: 0})


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    store = connect(store_url, endpoints=("r0", "r1")).store
    yield store
    await store.aclose()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    sender = Sender(timeout_s=1)
    yield sender
    await sender.aclose()


@pytest.fixture
async def worker(store: Store, sender: Sender, receiver: Receiver) -> Worker:
    worker = Worker(store, sender, receiver)
    await worker.rounds.look(worker.queue["soon"])  # from now on changes are news
    return worker


async def publish(store: Store, plan: str, topic: str = TOPIC, **more: Any) -> int:
    state = {"plan": {"key": plan}, "limits": {"seats": len(plan)}}
    return (await store.commit(Change(topic, orjson.dumps(state), private=b'{"secret":1}', **more))).version


async def test_a_change_is_told_with_what_differs(worker: Worker, receiver: Receiver, store: Store) -> None:
    """The first message of a tenant has its state; later ones also say what differs from what was told before."""
    first = await publish(store, "free")
    await worker.turn()
    second = await publish(store, "pro")
    await worker.turn()
    assert receiver.data() == [
        {"tenant": "acme", "env": "live", "version": first, "state": {"plan": {"key": "free"}, "limits": {"seats": 4}}},
        {
            **{"tenant": "acme", "env": "live", "version": second, "previous_version": first},
            "state": {"plan": {"key": "pro"}, "limits": {"seats": 3}},
            "changes": [
                {"path": "limits.seats", "from": 4, "to": 3},
                {"path": "plan.key", "from": "free", "to": "pro"},
            ],
        },
    ]
    assert b"secret" not in orjson.dumps(receiver.messages)


async def test_what_is_told_once_is_not_told_again(worker: Worker, receiver: Receiver, store: Store) -> None:
    await publish(store, "pro")
    await worker.turn()
    await publish(store, "pro")
    await worker.turn()
    await worker.look("late")
    assert await worker.deliver() == 0
    assert len(receiver.messages) == 1


async def test_the_newest_version_is_told_and_those_between_are_skipped(
    worker: Worker, receiver: Receiver, store: Store
) -> None:
    first = await publish(store, "free")
    await worker.turn()
    await publish(store, "basic")
    newest = await publish(store, "scale")
    await worker.turn()
    (_, told) = receiver.data()
    assert (told["previous_version"], told["version"]) == (first, newest)
    assert {"path": "plan.key", "from": "free", "to": "scale"} in told["changes"]


async def test_a_commit_that_lands_after_the_look_is_found_by_the_second_look(
    worker: Worker, receiver: Receiver, store: Store
) -> None:
    """A writer arms, is slow to commit, and ends right after it."""
    await arming.arm_now(store, [TOPIC])
    await worker.turn()
    version = await publish(Store(store.redis, store.keys), "pro")
    await worker.turn()
    assert receiver.messages == []
    await worker.look("late")
    await worker.deliver()
    assert [told["version"] for told in receiver.data()] == [version]


async def test_a_change_during_the_second_look_is_looked_at_again(worker: Worker, store: Store) -> None:
    await arming.arm_now(store, [TOPIC])
    redis: Any = store.redis
    await redis.zadd(store.keys.webhooks("late"), {TOPIC: 0})
    (due,) = await worker.queue["late"].claim(1)
    await arming.arm_now(store, [TOPIC])
    assert not await worker.queue["late"].ack(due)
    assert await redis.zscore(store.keys.webhooks("late"), TOPIC) is not None


async def test_a_worker_that_ends_after_the_delivery_sends_the_same_message_again(
    worker: Worker, receiver: Receiver, store: Store
) -> None:
    await publish(store, "pro")
    await worker.turn()
    await store.redis.delete(store.keys.delivered(TOPIC))
    await arming.arm_now(store, [TOPIC])
    await worker.turn()
    assert len(set(receiver.ids)) == 1
    assert len(receiver.ids) == 2


async def test_a_failing_endpoint_is_tried_again_later_and_then_parked(
    worker: Worker, receiver: Receiver, store: Store
) -> None:
    receiver.status = 500
    await publish(store, "pro")
    await worker.turn()
    redis: Any = store.redis
    for attempt in range(2, ATTEMPTS_MAX + 1):
        assert await redis.zscore(store.keys.webhooks("to:r0"), TOPIC) > 0
        assert await worker.deliver() == 1, attempt
    assert await worker.queue["to:r0"].parked() == {
        TOPIC: {"attempts": ATTEMPTS_MAX, "reason": "entitlements.changed: status 500"}
    }
    assert receiver.attempts == ATTEMPTS_MAX
    receiver.status = 200
    assert await worker.queue["to:r0"].retry(TOPIC)
    assert await worker.deliver() == 1
    assert await worker.queue["to:r0"].parked() == {}
    assert len(receiver.messages) == 1


async def test_a_change_does_not_hasten_an_endpoint_that_is_away(
    worker: Worker, receiver: Receiver, store: Store
) -> None:
    receiver.status = 503
    await publish(store, "pro")
    await worker.turn()
    redis: Any = store.redis
    due = await redis.zscore(store.keys.webhooks("to:r0"), TOPIC)
    await publish(store, "scale")
    await worker.look()
    assert await redis.zscore(store.keys.webhooks("to:r0"), TOPIC) == due
    receiver.status = 200
    await worker.deliver()
    assert [told["state"]["plan"]["key"] for told in receiver.data()] == ["scale"]


async def test_an_endpoint_that_is_gone_is_parked_at_once(worker: Worker, receiver: Receiver, store: Store) -> None:
    receiver.status = 410
    await publish(store, "pro")
    await worker.turn()
    assert receiver.attempts == 1
    assert list(await worker.queue["to:r0"].parked()) == [TOPIC]


async def test_a_worker_whose_clock_is_ahead_misses_no_change(
    store: Store, sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions are made by the store's clock, and what is news is too."""
    ahead_ns = time.time_ns() + 3_600 * 1_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: ahead_ns)
    worker = Worker(store, sender, receiver)
    await worker.look()
    version = await publish(store, "pro")
    await worker.turn()
    assert [told["version"] for told in receiver.data()] == [version]


@pytest.mark.parametrize("status", [301, 404])
async def test_only_2xx_is_a_delivery(worker: Worker, receiver: Receiver, store: Store, status: int) -> None:
    receiver.status = status
    await publish(store, "pro")
    await worker.turn()
    assert await store.redis.hgetall(store.keys.delivered(TOPIC)) == {}


async def test_each_endpoint_is_told_for_itself(store: Store, sender: Sender, receiver: Receiver) -> None:
    async with receiving() as other:
        worker = Worker(store, sender, receiver, other)
        await worker.look()
        receiver.status = 500
        await publish(store, "pro")
        await worker.turn()
        assert (len(receiver.messages), len(other.messages)) == (0, 1)
        receiver.status = 200
        await worker.deliver()
    assert len(receiver.messages) == 1
    assert receiver.ids == other.ids


async def test_what_was_before_the_endpoint_is_not_news(store: Store, sender: Sender, receiver: Receiver) -> None:
    await publish(store, "pro")
    worker = Worker(store, sender, receiver)
    await worker.look()
    await publish(store, "pro")
    await worker.turn()
    assert receiver.messages == []


async def test_both_secrets_sign_during_a_rotation(store: Store, sender: Sender) -> None:
    for secret in (SECRET, NEXT_SECRET):
        async with receiving(secret) as receiver:
            worker = Worker(store, sender, receiver)
            worker.endpoints = parse_endpoints(receiver.setting("r0", SECRET, NEXT_SECRET))
            await worker.look()
            await publish(store, secret)
            await worker.turn()
            assert len(receiver.messages) == 1


async def test_other_topics_are_not_told(worker: Worker, receiver: Receiver, store: Store) -> None:
    await publish(store, "pro", "user:42")
    await publish(store, "pro", "sandbox/tenant:acme")
    await publish(store, "pro", "tenant:auth0%7C5f1c")
    await worker.turn()
    told = sorted((one["env"], one["tenant"]) for one in receiver.data())
    assert told == [("live", "auth0|5f1c"), ("sandbox", "acme")]


async def test_thresholds_are_told_in_order_after_the_entitlements(
    worker: Worker, receiver: Receiver, store: Store
) -> None:
    await publish(store, "pro")
    for threshold in (80, 100):
        fields = {
            "meter": "api_calls",
            "threshold": threshold,
            "used": threshold,
            "limit": 100,
            "at": 1_796_000_000_000_000,
        }
        await store.redis.xadd(f"{store.keys.head('usage:acme')}:crossings", fields)  # type: ignore[arg-type]
    await arming.arm_now(store, [TOPIC])
    await worker.turn()
    await arming.arm_now(store, [TOPIC])
    await worker.turn()
    assert [message["type"] for message in receiver.messages] == [
        "entitlements.changed",
        *["usage.threshold_reached"] * 2,
    ]
    assert receiver.data("usage.threshold_reached") == [
        {"tenant": "acme", "env": "live", "meter": "api_calls", "threshold": n, "used": n, "limit": 100}
        for n in (80, 100)
    ]


async def test_an_erased_tenant_leaves_nothing(worker: Worker, receiver: Receiver, store: Store) -> None:
    receiver.status = 410
    await publish(store, "pro")
    await worker.turn()
    receiver.status = 200
    await publish(store, "scale", topic="tenant:other")
    await worker.turn()
    await store.commit(Change(TOPIC, b"null", owner=BILLING, erases=True))
    await worker.turn()
    await worker.look("late")
    redis: Any = store.redis
    left = [key async for key in redis.scan_iter("*") if b"webhooks" in key or b"delivered" in key]
    assert [key for key in left if b"acme" in key] == []
    assert await worker.queue["to:r0"].parked() == {}
    assert [told["tenant"] for told in receiver.data()] == ["other"]


async def test_damaged_members_and_records_stop_no_other(worker: Worker, receiver: Receiver, store: Store) -> None:
    redis: Any = store.redis
    await redis.zadd(store.keys.webhooks("soon"), {"not a topic": 0, b"tenant:\xff": 0, "tenant:type": 0})
    await redis.set(store.keys.delivered("tenant:type"), "a string where a hash should be")
    await publish(store, "pro")
    await worker.turn()
    assert len(receiver.messages) == 1


async def test_without_endpoints_nothing_is_armed(store_url: str) -> None:
    store = connect(store_url).store
    await publish(store, "pro")
    assert not [key async for key in store.redis.scan_iter("*webhooks*")]
    await store.aclose()
