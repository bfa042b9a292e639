"""A delayed queue: claims are fenced, requests during one are not lost, the build before works on the same keys."""

from __future__ import annotations

from typing import Any

import pytest

from sync.store.command_pipeline import CommandPipeline, run_commands
from sync.store.delayed_queue import DelayedQueue, Due
from sync.store.store import Store
from tests.support.memory_store import START_US, Clock

KEY = "pw:{timers/live}:due"
OLD_CLAIM = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local lease = string.format('%.0f', now + tonumber(ARGV[1]))
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[2])
for _, member in ipairs(members) do
  redis.call('ZADD', KEYS[1], lease, member)
end
table.insert(members, 1, lease)
return members
"""
OLD_ACK = """
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then
  return 0
end
if ARGV[3] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
end
return 1
"""
"""The scripts of the build before (b71a029)."""


@pytest.fixture
def queue(store: Store) -> DelayedQueue:
    return DelayedQueue(store, KEY, 10)


async def request(store: Store, queue: DelayedQueue, *topics: str) -> None:
    batch = CommandPipeline(store)
    queue.request(batch, topics)
    await batch.run()


async def earlier(store: Store, queue: DelayedQueue, topic: str, due_us: int) -> None:
    batch = CommandPipeline(store)
    queue.schedule_earlier(batch, topic, due_us)
    await batch.run()


async def score(store: Store, topic: str = "tenant:a") -> int | None:
    (found,) = await run_commands(store, ("ZSCORE", KEY, topic))
    return None if found is None else int(found)


async def is_clean(store: Store) -> bool:
    (found,) = await run_commands(store, ("HLEN", f"{KEY}:claims"))
    return bool(found == 0)


async def test_what_is_requested_is_due_at_once_and_in_microseconds(store: Store, queue: DelayedQueue) -> None:
    await request(store, queue, "tenant:a", "tenant:b")
    assert await score(store) == START_US
    assert [due.topic for due in await queue.claim(10)] == ["tenant:a", "tenant:b"]
    assert await queue.claim(10) == []


async def test_who_is_queued_keeps_its_place_and_an_earlier_time_counts(store: Store, queue: DelayedQueue) -> None:
    await earlier(store, queue, "tenant:a", START_US + 500)
    await request(store, queue, "tenant:a")
    assert await score(store) == START_US + 500
    await earlier(store, queue, "tenant:a", START_US + 900)
    assert await score(store) == START_US + 500
    await earlier(store, queue, "tenant:a", START_US + 100)
    assert await score(store) == START_US + 100
    batch = CommandPipeline(store)
    queue.schedule_once(batch, "tenant:a", 1)
    await batch.run()
    assert await score(store) == START_US + 100


async def test_an_ack_removes_or_sets_the_next_time(store: Store, queue: DelayedQueue) -> None:
    await request(store, queue, "tenant:a", "tenant:b")
    one, other = await queue.claim(10)
    assert await queue.ack(one)
    assert await queue.ack(other, START_US + 7)
    assert (await score(store, "tenant:a"), await score(store, "tenant:b")) == (None, START_US + 7)
    assert await is_clean(store)


@pytest.mark.parametrize("next_us", [None, START_US + 10**9])
async def test_a_request_during_a_claim_is_not_lost(store: Store, queue: DelayedQueue, next_us: int | None) -> None:
    await request(store, queue, "tenant:a")
    (due,) = await queue.claim(1)
    await request(store, queue, "tenant:a")
    assert await queue.claim(1) == []  # it is worked on still
    assert await queue.ack(due, next_us)
    (again,) = await queue.claim(1)
    assert await queue.ack(again)
    assert await score(store) is None


async def test_neither_is_an_earlier_time(store: Store, queue: DelayedQueue) -> None:
    await earlier(store, queue, "tenant:a", 1)
    (due,) = await queue.claim(1)
    await earlier(store, queue, "tenant:a", START_US + 60_000_000)
    assert await queue.ack(due, START_US + 10**12)
    assert [due.topic for due in await queue.claim(1)] == ["tenant:a"]


async def test_work_that_is_not_done_is_due_after_its_pause_whatever_was_requested(
    store: Store, queue: DelayedQueue
) -> None:
    await request(store, queue, "tenant:a")
    (due,) = await queue.claim(1)
    await request(store, queue, "tenant:a")
    assert await queue.reschedule(due, 30)
    assert await score(store) == START_US + 30_000_000
    assert await is_clean(store)


async def test_only_the_holder_ends_a_claim(store: Store, queue: DelayedQueue, clock: Clock) -> None:
    await request(store, queue, "tenant:a")
    (slow,) = await queue.claim(1)
    clock.advance(11)
    (successor,) = await queue.claim(1)
    assert not await queue.ack(slow)
    assert not await queue.reschedule(slow, 5)
    assert await queue.ack(successor)
    assert await score(store) is None


async def test_nor_one_whose_lease_ends_at_the_same_instant(store: Store, queue: DelayedQueue) -> None:
    await request(store, queue, "tenant:a")
    (due,) = await queue.claim(1)
    assert not await queue.ack(Due(due.topic, due.lease, "another"))
    assert await queue.ack(due)


async def test_a_late_holder_that_nobody_followed_may_end_its_claim_while_requests_are_noted(
    store: Store, queue: DelayedQueue, clock: Clock
) -> None:
    await request(store, queue, "tenant:a", "tenant:b")
    one, other = await queue.claim(2)
    clock.advance(15)
    await request(store, queue, "tenant:b")
    assert await queue.ack(one)
    assert await queue.ack(other)
    assert (await score(store, "tenant:a"), await score(store, "tenant:b")) == (None, START_US + 15_000_000)


async def test_a_holder_so_late_that_no_request_was_noted_has_lost_its_claim(
    store: Store, queue: DelayedQueue, clock: Clock
) -> None:
    """Its entry has expired: it cannot tell whether the topic was requested since."""
    await request(store, queue, "tenant:a")
    (due,) = await queue.claim(1)
    clock.advance(1000)
    await request(store, queue, "tenant:a")
    assert not await queue.ack(due)
    assert [due.topic for due in await queue.claim(1)] == ["tenant:a"]


class TestAttempts:
    """Attempts count from their beginning, across processes, until the work is done."""

    async def begun(self, store: Store, queue: DelayedQueue, topic: str = "tenant:a") -> Due:
        (due,) = await queue.claim(1)
        begun = await queue.begin(due)
        assert begun is not None
        return begun

    async def attempts(self, store: Store) -> bytes | None:
        (found,) = await run_commands(store, ("HGET", f"{KEY}:attempts", "tenant:a"))
        kept: bytes | None = found
        return kept

    async def test_one_whose_process_ends_counts(self, store: Store, queue: DelayedQueue, clock: Clock) -> None:
        await request(store, queue, "tenant:a")
        for tries in range(1, 4):
            assert (await self.begun(store, queue)).tries == tries
            clock.advance(11)

    async def test_one_that_fails_counts_and_one_that_is_given_back_does_not(
        self, store: Store, queue: DelayedQueue, clock: Clock
    ) -> None:
        await request(store, queue, "tenant:a")
        assert await queue.fail(await self.begun(store, queue), 0)
        assert (await self.begun(store, queue)).tries == 2
        clock.advance(11)
        assert await queue.reschedule(await self.begun(store, queue))
        assert await self.attempts(store) == b"2"
        (due,) = await queue.claim(1)
        assert await queue.reschedule(due), "not begun: nothing to take back"
        assert await self.attempts(store) == b"2"

    async def test_work_that_is_done_ends_the_count(self, store: Store, queue: DelayedQueue) -> None:
        await request(store, queue, "tenant:a")
        assert await queue.fail(await self.begun(store, queue), 0)
        assert await queue.ack(await self.begun(store, queue))
        assert await self.attempts(store) is None

    async def test_a_begun_claim_has_its_whole_lease_and_has_seen_the_requests_so_far(
        self, store: Store, queue: DelayedQueue, clock: Clock
    ) -> None:
        await request(store, queue, "tenant:a")
        (due,) = await queue.claim(1)
        clock.advance(9)
        await request(store, queue, "tenant:a")
        begun = await queue.begin(due)
        assert begun is not None
        clock.advance(9)
        assert await queue.claim(1) == []
        assert await queue.ack(begun)
        assert await score(store) is None

    async def test_who_has_lost_the_claim_does_not_begin(self, store: Store, queue: DelayedQueue, clock: Clock) -> None:
        await request(store, queue, "tenant:a")
        (slow,) = await queue.claim(1)
        clock.advance(11)
        begun = await self.begun(store, queue)
        assert await queue.begin(slow) is None
        assert begun.tries == 1
        assert not await queue.fail(slow, 0)
        assert not await queue.park(slow, "slow")
        assert await queue.ack(begun)

    async def test_what_is_parked_is_queued_again_for_one_attempt(self, store: Store, queue: DelayedQueue) -> None:
        await request(store, queue, "tenant:a")
        for _ in range(3):
            await queue.fail(await self.begun(store, queue), 0)
        assert await queue.park(await self.begun(store, queue), "KeyError('x')")
        assert await queue.claim(1) == []
        assert await queue.parked() == {"tenant:a": {"attempts": 4, "reason": "KeyError('x')"}}
        for way in ("request", "reopen", "earlier"):
            match way:
                case "request":
                    await request(store, queue, "tenant:a")
                case "reopen":
                    assert await queue.reopen() == 1
                case _:
                    await earlier(store, queue, "tenant:a", 1)
            begun = await self.begun(store, queue)
            assert begun.tries == 4
            assert await queue.park(begun, "still")
        await request(store, queue, "tenant:a")
        assert await queue.ack(await self.begun(store, queue))
        assert await queue.parked() == {}

    @pytest.mark.parametrize("way", ["retry", "reopen"])
    async def test_what_is_parked_is_due_now_though_it_was_queued_for_later_since(
        self, store: Store, queue: DelayedQueue, way: str
    ) -> None:
        await request(store, queue, "tenant:a")
        assert await queue.park(await self.begun(store, queue), "KeyError('x')")
        await earlier(store, queue, "tenant:a", START_US + 10**12)
        assert await queue.claim(1) == []
        assert await (queue.retry("tenant:a") if way == "retry" else queue.reopen())
        assert await queue.ack(await self.begun(store, queue))
        assert await queue.parked() == {}

    async def test_a_request_while_it_fails_for_the_last_time_is_not_lost(
        self, store: Store, queue: DelayedQueue
    ) -> None:
        await request(store, queue, "tenant:a")
        begun = await self.begun(store, queue)
        await request(store, queue, "tenant:a")
        assert await queue.park(begun, "KeyError('x')")
        assert [due.topic for due in await queue.claim(1)] == ["tenant:a"]

    async def test_what_is_cancelled_leaves_nothing(self, store: Store, queue: DelayedQueue) -> None:
        await request(store, queue, "tenant:a")
        await queue.park(await self.begun(store, queue), "KeyError('x')")
        batch = CommandPipeline(store)
        queue.cancel(batch, "tenant:a")
        await batch.run()
        assert await run_commands(store, ("KEYS", "*")) == [[]]

    async def test_a_member_that_is_not_text_is_worked_on_like_any_other(
        self, store: Store, queue: DelayedQueue
    ) -> None:
        await run_commands(store, ("ZADD", KEY, 1, b"tenant:\xff"))
        begun = await self.begun(store, queue)
        assert begun.id == "tenant:\\xff"
        assert await queue.fail(begun, 0)
        assert await queue.park(await self.begun(store, queue), "no topic")
        assert list(await queue.parked()) == ["tenant:\\xff"]
        assert await queue.reopen() == 1
        assert await queue.ack(await self.begun(store, queue))
        assert await run_commands(store, ("ZCARD", KEY)) == [0]


async def test_what_is_cancelled_while_it_is_claimed_stays_so(store: Store, queue: DelayedQueue) -> None:
    await request(store, queue, "tenant:a")
    (due,) = await queue.claim(1)
    batch = CommandPipeline(store)
    queue.cancel(batch, "tenant:a")
    await batch.run()
    assert not await queue.ack(due, START_US)
    assert await score(store) is None
    assert await is_clean(store)


async def test_what_a_crashed_worker_leaves_expires(store: Store, queue: DelayedQueue, clock: Clock) -> None:
    await request(store, queue, "tenant:a")
    await queue.claim(1)
    clock.advance(21)
    assert await is_clean(store)


class TestTheBuildBefore:
    """Workers and gateways of the build before, on the same queue."""

    async def claim(self, store: Store) -> tuple[bytes, list[bytes]]:
        redis: Any = store.redis
        lease, *members = await redis.eval(OLD_CLAIM, 1, KEY, 10_000_000, 10)
        return lease, members

    async def test_neither_takes_what_the_other_has_claimed(self, store: Store, queue: DelayedQueue) -> None:
        await request(store, queue, "tenant:a")
        assert (await self.claim(store))[1] == [b"tenant:a"]
        assert await queue.claim(1) == []
        await request(store, queue, "tenant:b")
        assert len(await queue.claim(1)) == 1
        assert (await self.claim(store))[1] == []

    async def test_its_claim_after_ours_is_its_own(self, store: Store, queue: DelayedQueue, clock: Clock) -> None:
        redis: Any = store.redis
        await request(store, queue, "tenant:a")
        (ours,) = await queue.claim(1)
        clock.advance(11)
        lease, _ = await self.claim(store)
        assert not await queue.ack(ours)
        assert await redis.eval(OLD_ACK, 1, KEY, "tenant:a", lease, "") == 1
        assert await score(store) is None

    async def test_ours_after_its_is_ours(self, store: Store, queue: DelayedQueue, clock: Clock) -> None:
        redis: Any = store.redis
        await request(store, queue, "tenant:a")
        lease, _ = await self.claim(store)
        clock.advance(11)
        (ours,) = await queue.claim(1)
        assert await redis.eval(OLD_ACK, 1, KEY, "tenant:a", lease, "") == 0
        assert await queue.ack(ours)

    async def test_an_entry_of_an_ended_claim_of_ours_does_not_swallow_a_request(
        self, store: Store, queue: DelayedQueue, clock: Clock
    ) -> None:
        await request(store, queue, "tenant:a")
        await queue.claim(1)
        clock.advance(11)
        lease, _ = await self.claim(store)
        redis: Any = store.redis
        await redis.eval(OLD_ACK, 1, KEY, "tenant:a", lease, "")
        await request(store, queue, "tenant:a")
        assert [due.topic for due in await queue.claim(1)] == ["tenant:a"]

    async def test_its_requests_in_seconds_are_due(self, store: Store, queue: DelayedQueue) -> None:
        await run_commands(store, ("ZADD", KEY, "NX", START_US // 10**6, "tenant:a"))
        (due,) = await queue.claim(1)
        assert await queue.ack(due)

    async def test_its_timer_during_our_claim_stays(self, store: Store, queue: DelayedQueue) -> None:
        await request(store, queue, "tenant:a")
        (due,) = await queue.claim(1)
        await run_commands(store, ("ZADD", KEY, "LT", START_US + 5, "tenant:a"))
        assert not await queue.ack(due, START_US + 10**12)
        assert await score(store) == START_US + 5
