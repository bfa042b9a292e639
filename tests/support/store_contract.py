"""The contract of a store: verdicts, versions, announcements. It holds for servers and for the store in memory.

A test module subclasses `StoreContract` and has two fixtures: `store`, empty, and `another`, which opens a further
connection to it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import orjson
import pytest
from redis.asyncio import Redis

from planwire_client.core.commit import BILLING, PUBLISHER, order_token
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.model import Facts
from sync.core import announcement
from sync.core.announcement import Announcement
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Change, Committed, Snapshot, StoreError, Verdict
from sync.store.store import Store

TOPIC = "tenant:acme"
STEP_US = 10_000
"""By how much a version rises at most where the clock is behind."""

BIG = {"padding": "x" * 200}

Another = Callable[[], Redis]


def numbers(start: int = 1) -> Iterator[bytes]:
    """Yield states that all differ."""
    for number in itertools.count(start):
        yield b'{"n":%d}' % number


@asynccontextmanager
async def listening(another: Another, *topics: str) -> AsyncIterator[Listener]:
    """Subscribe the topics on a connection of its own."""
    redis = another()
    async with redis, redis.pubsub() as pubsub:
        await pubsub.subscribe(*(keys.channel(topic) for topic in topics))
        for _ in topics:
            assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
        yield Listener(pubsub)


class Listener:
    """What the bus says."""

    def __init__(self, pubsub: object) -> None:
        self._pubsub = pubsub

    async def hear(self) -> Announcement:
        """Return the next announcement."""
        message = await self._pubsub.get_message(timeout=5)  # type: ignore[attr-defined]
        assert message is not None, "nothing was announced"
        return announcement.parse(message["data"])

    async def only(self, store: Store, topic: str = TOPIC) -> list[Announcement]:
        """Return everything announced so far: a last commit tells that there is nothing before it any more."""
        last = await store.commit(Change(topic, b'{"the":"last"}'))
        heard = []
        while (one := await self.hear()).version != last.version:
            heard.append(one)
        return heard


async def clock_us(store: Store) -> int:
    seconds, micros = await store.redis.time()
    return int(seconds * 1_000_000 + micros)


class StoreContract:
    """What every store does."""

    async def test_what_is_committed_is_read_back_whole(self, store: Store) -> None:
        before = await clock_us(store)
        done = await store.commit(Change(TOPIC, b'{"a":1}', private=b'{"p":1}', cause=b'{"source":"x"}'))
        assert done.verdict is Verdict.APPLIED
        assert before <= done.version <= await clock_us(store)
        assert await store.read(TOPIC) == Snapshot(
            TOPIC, done.version, b'{"a":1}', b'{"p":1}', b'{"source":"x"}', done.rev, PUBLISHER
        )

    async def test_a_topic_without_state_is_version_0_and_null(self, store: Store) -> None:
        assert await store.read(TOPIC) == Snapshot(TOPIC, 0, b"null", b"", b"")
        assert await store.log(TOPIC) == []

    async def test_bytes_survive_as_they_are(self, store: Store) -> None:
        state = orjson.dumps({"é\n": "\x00 😀 'quoted' \\ %s %d", "n": 2**53})
        done = await store.commit(Change(TOPIC, state, private=state, cause=state))
        assert await store.read(TOPIC) == Snapshot(TOPIC, done.version, state, state, state, done.rev, PUBLISHER)

    async def test_versions_strictly_rise(self, store: Store) -> None:
        results = await store.commit_many([Change(TOPIC, state) for state in itertools.islice(numbers(), 60)])
        versions = [result.version for result in results if isinstance(result, Committed)]
        assert len(versions) == 60
        assert all(later > earlier for earlier, later in itertools.pairwise(versions))

    async def test_a_version_ahead_of_the_clock_rises_a_little(self, store: Store) -> None:
        """A clock that was set back, or a restored snapshot, never makes a version fall."""
        version = await clock_us(store) + 3_600_000_000
        await store.restore(Snapshot(TOPIC, version, b'{"a":1}', b"", b""))
        for number in range(20):
            done = await store.commit(Change(TOPIC, b"%d" % number))
            assert version < done.version <= version + STEP_US
            version = done.version

    async def test_a_store_that_lost_its_newest_does_not_make_the_same_versions_again(self, store: Store) -> None:
        ahead = Snapshot(TOPIC, await clock_us(store) + 3_600_000_000, b"0", b"", b"")
        made = []
        for _ in range(10):
            await store.expire(TOPIC, 0)
            await store.restore(ahead)
            made += [(await store.commit(Change(TOPIC, b"%d" % number))).version for number in range(1, 5)]
        assert len(set(made)) > 30

    async def test_versions_up_to_the_largest_a_browser_reads_are_exact(self, store: Store) -> None:
        top = 2**53 - 1
        await store.restore(Snapshot(TOPIC, top - STEP_US, b"{}", b"", b""))
        done = await store.commit(Change(TOPIC, b'{"a":1}'))
        assert top - STEP_US < done.version <= top
        assert await store.versions([TOPIC]) == [done.version]
        await store.expire(TOPIC, 0)
        await store.restore(Snapshot(TOPIC, top, b"{}", b"", b""))
        assert await store.versions([TOPIC]) == [top]

    async def test_the_same_event_again_is_a_duplicate_whatever_it_carries(self, store: Store) -> None:
        done = await store.commit(Change(TOPIC, b'{"a":1}', event_id="evt_1"))
        again = await store.commit(Change(TOPIC, b'{"a":2}', event_id="evt_1"))
        assert again == Committed(Verdict.DUPLICATE, done.version, done.rev)
        assert (await store.read(TOPIC)).state == b'{"a":1}'

    async def test_events_of_another_topic_are_no_duplicates(self, store: Store) -> None:
        await store.commit(Change(TOPIC, b'{"a":1}', event_id="evt_1"))
        assert (await store.commit(Change("user:1", b'{"a":1}', event_id="evt_1"))).verdict is Verdict.APPLIED

    async def test_if_version_must_be_the_stored_one(self, store: Store) -> None:
        first = await store.commit(Change(TOPIC, b'{"a":1}', if_version=0))
        assert first.verdict is Verdict.APPLIED
        assert await store.commit(Change(TOPIC, b'{"a":2}', if_version=0)) == replace(first, verdict=Verdict.CONFLICT)
        second = await store.commit(Change(TOPIC, b'{"a":2}', if_version=first.version))
        assert second.verdict is Verdict.APPLIED
        conflict = await store.commit(Change(TOPIC, b'{"a":3}', if_version=first.version))
        assert conflict == replace(second, verdict=Verdict.CONFLICT)
        assert (await store.read(TOPIC)).state == b'{"a":2}'

    async def test_a_conflict_on_a_topic_without_state_says_0(self, store: Store) -> None:
        assert await store.commit(Change(TOPIC, b'{"a":1}', if_version=7)) == Committed(Verdict.CONFLICT, 0)

    @pytest.mark.parametrize(
        ("stored", "later", "verdict"),
        [
            ("5", "5", Verdict.STALE),
            ("5", "4", Verdict.STALE),
            ("5", "6", Verdict.APPLIED),
            (order_token(9), order_token(10), Verdict.APPLIED),
            (order_token(10), order_token(9), Verdict.STALE),
            ("2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:00.000002Z", Verdict.APPLIED),
            ("a", "aa", Verdict.APPLIED),
            ("aa", "a", Verdict.STALE),
            # Bytewise, as no human alphabet has it.
            ("a", "B", Verdict.STALE),
            ("B", "a", Verdict.APPLIED),
            ("a-b", "ab", Verdict.APPLIED),
            ("z", "é", Verdict.APPLIED),
            ("a\x00b", "a\x00c", Verdict.APPLIED),
            ("a\x00c", "a\x00b", Verdict.STALE),
        ],
    )
    async def test_order_tokens_are_compared_bytewise(
        self, store: Store, stored: str, later: str, verdict: Verdict
    ) -> None:
        await store.commit(Change(TOPIC, b'{"a":1}', order=stored))
        assert (await store.commit(Change(TOPIC, b'{"a":2}', order=later))).verdict is verdict

    async def test_a_commit_without_order_is_never_stale_and_keeps_the_stored_order(self, store: Store) -> None:
        await store.commit(Change(TOPIC, b'{"a":1}', order="5"))
        assert (await store.commit(Change(TOPIC, b'{"a":2}'))).verdict is Verdict.APPLIED
        assert (await store.commit(Change(TOPIC, b'{"a":3}', order="4"))).verdict is Verdict.STALE

    async def test_the_same_state_and_private_part_is_unchanged(self, store: Store) -> None:
        done = await store.commit(Change(TOPIC, b'{"a":1}', private=b"{}", cause=b'{"event_id":"1"}'))
        again = await store.commit(Change(TOPIC, b'{"a":1}', private=b"{}", cause=b'{"event_id":"2"}'))
        assert again == replace(done, verdict=Verdict.UNCHANGED)
        assert (await store.read(TOPIC)).cause == b'{"event_id":"1"}'
        assert len(await store.log(TOPIC)) == 1

    async def test_another_private_part_raises_the_rev_alone(self, store: Store, another: Another) -> None:
        first = await store.commit(Change(TOPIC, b'{"a":1}', private=b'{"p":1}', cause=b'{"event_id":"1"}'))
        rev = first.rev
        async with listening(another, TOPIC) as bus:
            for private in (b'{"p":2}', b""):
                done = await store.commit(Change(TOPIC, b'{"a":1}', private=private, event_id="e" + private.decode()))
                assert (done.verdict, done.version) == (Verdict.UNCHANGED, first.version)
                assert done.rev > rev
                rev = done.rev
                stored = Snapshot(TOPIC, first.version, b'{"a":1}', private, b'{"event_id":"1"}', rev, PUBLISHER)
                assert await store.read(TOPIC) == stored
            again = await store.commit(Change(TOPIC, b'{"a":2}', private=b'{"p":9}', event_id="e"))
            assert again.verdict is Verdict.DUPLICATE
            assert await bus.only(store) == []
        assert len(await store.log(TOPIC)) == 2

    async def test_a_version_is_made_exactly_where_the_state_changes(self, store: Store, another: Another) -> None:
        """And the rev rises exactly where the state or the private part does."""
        chance, versions, before = random.Random(15), [], Snapshot(TOPIC, 0, b"", b"", b"")
        async with listening(another, TOPIC) as bus:
            for _ in range(80):
                state, private = b"%d" % chance.randrange(3), b'{"p":%d}' % chance.randrange(3)
                done = await store.commit(Change(TOPIC, state, private, owner=BILLING))
                is_public = state != before.state
                assert (done.version > before.version) is is_public
                assert (done.rev > before.rev) is (is_public or private != before.private)
                assert done.verdict is (Verdict.APPLIED if is_public else Verdict.UNCHANGED)
                versions += [done.version] if is_public else []
                before = await store.read(TOPIC)
                assert (before.state, before.private, before.version) == (state, private, done.version)
            last = await store.commit(Change(TOPIC, b"9", owner=BILLING))
            heard = [await bus.hear() for _ in versions]
            assert [one.version for one in heard] == versions
            assert (await bus.hear()).version == last.version

    async def test_a_version_after_commits_of_facts_alone_is_above_their_rev(self, store: Store) -> None:
        ahead = await clock_us(store) + 3_600_000_000
        await store.restore(Snapshot(TOPIC, ahead, b"1", b"", b""))
        facts = await store.commit(Change(TOPIC, b"1", b'{"p":1}'))
        assert facts.version == ahead < facts.rev
        assert (await store.commit(Change(TOPIC, b"2", b'{"p":1}'))).version > facts.rev

    async def test_a_restore_over_newer_facts_is_noticed_by_who_has_read_them(self, store: Store) -> None:
        old = await store.commit(Change(TOPIC, b"1", b'{"p":1}', owner=BILLING))
        facts = await store.commit(Change(TOPIC, b"1", b'{"p":2}', owner=BILLING))
        lost = Snapshot(TOPIC, old.version + 1, b"2", b"", b"", owner=BILLING)
        assert await store.restore(lost) is True
        late = await store.commit(Change(TOPIC, b"3", b'{"p":3}', owner=BILLING, if_rev=facts.rev))
        assert (late.verdict, late.version) == (Verdict.CONFLICT, lost.version)
        assert late.rev > facts.rev

    async def test_facts_committed_over_a_restored_state_end_its_mark(self, store: Store) -> None:
        await store.restore(Snapshot(TOPIC, 7, b"1", b"", b"", owner=BILLING))
        done = await store.commit(Change(TOPIC, b"1", owner=BILLING))
        assert (done.verdict, done.version) == (Verdict.UNCHANGED, 7)
        found = await store.read(TOPIC)
        assert (found.restored, found.rev) == (False, done.rev)

    async def test_what_lies_between_state_and_private_part_counts(self, store: Store) -> None:
        """The digest of both must not be that of their bytes run together."""
        await store.commit(Change(TOPIC, b"12", private=b"3"))
        assert (await store.commit(Change(TOPIC, b"1", private=b"23"))).verdict is Verdict.APPLIED

    async def test_unchanged_remembers_the_event_so_that_a_late_retry_changes_nothing(self, store: Store) -> None:
        await store.commit(Change(TOPIC, b'{"a":1}', event_id="evt_1"))
        assert (await store.commit(Change(TOPIC, b'{"a":1}', event_id="evt_2"))).verdict is Verdict.UNCHANGED
        await store.commit(Change(TOPIC, b'{"a":3}', event_id="evt_3"))
        assert (await store.commit(Change(TOPIC, b'{"a":1}', event_id="evt_2"))).verdict is Verdict.DUPLICATE
        assert (await store.read(TOPIC)).state == b'{"a":3}'

    async def test_unchanged_remembers_the_order_so_that_an_older_event_changes_nothing(self, store: Store) -> None:
        await store.commit(Change(TOPIC, b'{"a":1}', order="1"))
        assert (await store.commit(Change(TOPIC, b'{"a":1}', order="5"))).verdict is Verdict.UNCHANGED
        assert (await store.commit(Change(TOPIC, b'{"a":3}', order="3"))).verdict is Verdict.STALE
        assert (await store.read(TOPIC)).state == b'{"a":1}'

    async def test_what_was_refused_is_not_remembered(self, store: Store) -> None:
        await store.commit(Change(TOPIC, b'{"a":1}', order="5"))
        assert (await store.commit(Change(TOPIC, b'{"a":2}', event_id="e", order="4"))).verdict is Verdict.STALE
        assert (await store.commit(Change(TOPIC, b'{"a":2}', event_id="e", if_version=1))).verdict is Verdict.CONFLICT
        assert (await store.commit(Change(TOPIC, b'{"a":2}', event_id="e", order="6"))).verdict is Verdict.APPLIED

    async def test_the_order_in_which_verdicts_are_found(self, store: Store) -> None:
        """Each change deserves all verdicts from its own place in the list on."""
        stored = await store.commit(Change(TOPIC, b'{"a":1}', event_id="old", order="5"))
        wrong = stored.version + 1

        async def verdict(event_id: str, if_version: int, order: str) -> Verdict:
            change = Change(TOPIC, b'{"a":1}', event_id=event_id, if_version=if_version, order=order)
            return (await store.commit(change)).verdict

        assert await verdict("old", wrong, "5") is Verdict.DUPLICATE
        assert await verdict("new", wrong, "5") is Verdict.CONFLICT
        assert await verdict("new", stored.version, "5") is Verdict.STALE
        assert await verdict("new", stored.version, "6") is Verdict.UNCHANGED
        assert await store.versions([TOPIC]) == [stored.version]

    async def test_what_is_announced_is_what_is_stored(self, store: Store, another: Another) -> None:
        async with listening(another, TOPIC) as bus:
            done = await store.commit(Change(TOPIC, b'{"a":1}', private=b'{"secret":1}', cause=b'{"source":"x"}'))
            heard = await bus.hear()
            stored = await store.read(TOPIC)
        assert heard == Announcement(done.version, 0, b'{"source":"x"}', b"", b'{"a":1}', PUBLISHER)
        assert (heard.version, heard.state, heard.cause) == (stored.version, stored.state, stored.cause)

    async def test_what_is_suppressed_is_not_announced(self, store: Store, another: Another) -> None:
        await store.commit(Change(TOPIC, b'{"a":1}', event_id="evt_1", order="5"))
        async with listening(another, TOPIC) as bus:
            verdicts = [
                (await store.commit(change)).verdict
                for change in (
                    Change(TOPIC, b'{"a":2}', event_id="evt_1"),
                    Change(TOPIC, b'{"a":2}', if_version=1),
                    Change(TOPIC, b'{"a":2}', order="5"),
                    Change(TOPIC, b'{"a":1}'),
                )
            ]
            assert verdicts == [Verdict.DUPLICATE, Verdict.CONFLICT, Verdict.STALE, Verdict.UNCHANGED]
            assert await bus.only(store) == []

    async def test_a_patch_goes_along_when_it_starts_from_what_is_stored(self, store: Store, another: Another) -> None:
        await store.commit(Change(TOPIC, orjson.dumps({"a": 1, **BIG})))
        previous = await store.read(TOPIC)
        state = orjson.dumps({"a": 2, **BIG})
        async with listening(another, TOPIC) as bus:
            done = await store.commit(Change(TOPIC, state, previous=previous))
            assert await bus.hear() == Announcement(done.version, previous.version, b"", b'{"a":2}', state, PUBLISHER)

    async def test_no_patch_when_somebody_else_was_quicker(self, store: Store, another: Another) -> None:
        await store.commit(Change(TOPIC, orjson.dumps({"a": 1, **BIG})))
        previous = await store.read(TOPIC)
        await store.commit(Change(TOPIC, orjson.dumps({"b": 1, **BIG})))
        state = orjson.dumps({"a": 2, **BIG})
        async with listening(another, TOPIC) as bus:
            done = await store.commit(Change(TOPIC, state, previous=previous))
            assert await bus.hear() == Announcement(done.version, 0, b"", b"", state, PUBLISHER)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ({"a": 1}, {"a": 22}),  # the patch is as large
            ({"a": 1, **BIG}, {"a": None, **BIG}),  # a null cannot be said
            ([1, BIG], [2, BIG]),  # nor an array
        ],
    )
    async def test_no_patch_where_it_is_no_use(self, store: Store, another: Another, old: object, new: object) -> None:
        await store.commit(Change(TOPIC, orjson.dumps(old)))
        previous = await store.read(TOPIC)
        async with listening(another, TOPIC) as bus:
            await store.commit(Change(TOPIC, orjson.dumps(new), previous=previous))
            heard = await bus.hear()
        assert (heard.base, heard.patch, heard.state) == (0, b"", orjson.dumps(new))

    async def test_no_patch_from_nothing(self, store: Store, another: Another) -> None:
        previous = await store.read(TOPIC)
        async with listening(another, TOPIC) as bus:
            await store.commit(Change(TOPIC, b'{"a":1}', previous=previous))
            assert (await bus.hear()).base == 0

    async def test_patches_of_a_long_run_lead_from_state_to_state(self, store: Store, another: Another) -> None:
        from planwire_client.core import canonical_json, merge_patch

        held: object = None
        async with listening(another, TOPIC) as bus:
            for number in range(20):
                state = canonical_json.encode({"n": number, "even": {"yes": True} if number % 2 == 0 else {}, **BIG})
                previous = await store.read(TOPIC)
                await store.commit(Change(TOPIC, state, previous=previous))
                heard = await bus.hear()
                if heard.base:
                    assert heard.base == previous.version
                    held = merge_patch.apply(held, orjson.loads(heard.patch))
                else:
                    held = orjson.loads(heard.state)
                assert canonical_json.encode(held) == state
        assert heard.base

    async def test_commit_many_gives_a_verdict_each_in_order(self, store: Store) -> None:
        results = await store.commit_many(
            [
                Change("tenant:a", b"1", event_id="e"),
                Change("tenant:a", b"2", event_id="e"),
                Change("tenant:b", b"1", if_version=9),
                Change("tenant:a", b"1"),
                Change("tenant:c", b"1"),
            ]
        )
        assert [result.verdict for result in results if isinstance(result, Committed)] == [
            Verdict.APPLIED,
            Verdict.DUPLICATE,
            Verdict.CONFLICT,
            Verdict.UNCHANGED,
            Verdict.APPLIED,
        ]
        assert await store.commit_many([]) == []

    async def test_commit_many_on_a_server_that_knows_no_scripts(self, store: Store) -> None:
        """After a restart or a failover the first answers are NOSCRIPT; order and verdicts are those of a first try."""
        await store.commit(Change(TOPIC, b"0"))
        await store.redis.script_flush()
        results = await store.commit_many([Change(TOPIC, state, event_id="e") for state in (b"1", b"2")])
        assert [result.verdict for result in results if isinstance(result, Committed)] == [
            Verdict.APPLIED,
            Verdict.DUPLICATE,
        ]
        assert (await store.read(TOPIC)).state == b"1"
        await store.redis.script_flush()
        assert (await store.commit(Change(TOPIC, b"3"))).verdict is Verdict.APPLIED
        await store.redis.script_flush()
        assert await store.versions([TOPIC]) == [(await store.read(TOPIC)).version]

    async def test_one_refused_change_of_many_does_not_stop_the_others(self, store: Store) -> None:
        await store.redis.set(keys.snap("tenant:broken"), "not a hash")
        first, broken, last = await store.commit_many([Change(f"tenant:{name}", b"1") for name in ("a", "broken", "b")])
        assert isinstance(first, Committed)
        assert isinstance(last, Committed)
        assert isinstance(broken, StoreError)
        assert "tenant:broken" in str(broken)

    async def test_read_many_and_versions_keep_the_order_asked_for(self, store: Store) -> None:
        done = {
            name: await store.commit(Change(name, orjson.dumps(name), private=b"1"))
            for name in ("tenant:a", "tenant:b")
        }
        names = ["tenant:b", "tenant:none", "tenant:a", "tenant:b"]
        versions = [done[name].version if name in done else 0 for name in names]
        assert await store.versions(names) == versions
        snapshots = await store.read_many(names)
        assert [snapshot.topic for snapshot in snapshots] == names
        assert [snapshot.version for snapshot in snapshots] == versions
        assert [snapshot.state for snapshot in snapshots] == [b'"tenant:b"', b"null", b'"tenant:a"', b'"tenant:b"']
        assert {snapshot.private for snapshot in snapshots} == {b""}
        assert await store.versions([]) == []
        assert await store.read_many([]) == []

    async def test_the_log_is_newest_first_and_capped(self, store: Store) -> None:
        states = [b'{"n":%d}' % number for number in range(450)]
        changes = [Change(TOPIC, state, cause=b'{"event_id":"e"}') for state in states]
        # In parts: each round trip has its own time limit, and the store in memory is slow on a busy machine.
        results = [result for at in range(0, 450, 50) for result in await store.commit_many(changes[at : at + 50])]
        entries = await store.log(TOPIC, 5)
        assert [entry.state for entry in entries] == states[:-6:-1]
        assert [entry.version for entry in entries] == [
            result.version for result in results[:-6:-1] if isinstance(result, Committed)
        ]
        assert entries[0].cause == b'{"event_id":"e"}'
        assert 200 <= len(await store.log(TOPIC, 1000)) <= 300

    async def test_the_log_never_holds_the_private_part(self, store: Store) -> None:
        await store.commit(Change(TOPIC, b"{}", private=b'"hush"'))
        entries = await store.redis.xrange(keys.log(TOPIC))
        assert entries
        assert b"hush" not in repr(entries).encode()

    async def test_event_ids_older_than_seven_days_are_forgotten(self, store: Store) -> None:
        await store.commit(Change(TOPIC, b"1", event_id="old"))
        await store.commit(Change(TOPIC, b"2", event_id="young"))
        now = await clock_us(store)
        day_us = 24 * 3600 * 1_000_000
        await store.redis.zadd(
            keys.seen(TOPIC), {"old": now - 7 * day_us - 1_000_000, "young": now - 7 * day_us + 60_000_000}
        )
        await store.commit(Change(TOPIC, b"3", event_id="new"))
        assert await store.redis.zrange(keys.seen(TOPIC), 0, -1) == [b"young", b"new"]
        assert (await store.commit(Change(TOPIC, b"4", event_id="young"))).verdict is Verdict.DUPLICATE
        assert (await store.commit(Change(TOPIC, b"4", event_id="old"))).verdict is Verdict.APPLIED
        assert 0 < await store.redis.pttl(keys.seen(TOPIC)) <= 7 * 24 * 3600 * 1000

    async def test_event_ids_beyond_ten_thousand_are_forgotten_the_oldest_first(self, store: Store) -> None:
        now = await clock_us(store)
        await store.redis.zadd(keys.seen(TOPIC), {f"e{number}": now - 20_000 + number for number in range(10_000)})
        assert (await store.commit(Change(TOPIC, b"1", event_id="new"))).verdict is Verdict.APPLIED
        assert await store.redis.zcard(keys.seen(TOPIC)) == 10_000
        assert (await store.commit(Change(TOPIC, b"2", event_id="e1"))).verdict is Verdict.DUPLICATE
        assert (await store.commit(Change(TOPIC, b"2", event_id="new"))).verdict is Verdict.DUPLICATE
        assert (await store.commit(Change(TOPIC, b"2", event_id="e0"))).verdict is Verdict.APPLIED

    async def test_restoring_keeps_the_version_and_only_goes_forward(self, store: Store, another: Another) -> None:
        done = await store.commit(Change(TOPIC, b"1", private=b"{}", event_id="e", order="5"))
        newer = Snapshot(TOPIC, done.version + 1000, b"2", b"", b'{"source":"x"}')
        async with listening(another, TOPIC) as bus:
            assert await store.restore(newer) is True
            assert await store.restore(newer) is False
            assert await store.restore(Snapshot(TOPIC, done.version, b"0", b"", b"")) is False
            assert await store.restore(Snapshot(TOPIC, done.version + 999, b"0", b"", b"")) is False
            assert await bus.only(store) == []
        entries = await store.log(TOPIC)
        assert [entry.version for entry in entries[1:]] == [newer.version, done.version]
        assert (entries[1].state, entries[1].cause) == (b"2", b'{"source":"x"}')

    async def test_a_restored_topic_is_to_be_reconciled_and_its_next_commit_is_never_unchanged(
        self, store: Store
    ) -> None:
        done = await store.commit(Change(TOPIC, b"1", private=b"{}"))
        assert await store.restore(Snapshot(TOPIC, done.version, b"0", b"", b"")) is False
        assert await store.redis.zcard(keys.reconcile) == 0
        assert await store.restore(Snapshot(TOPIC, done.version + 1, b"2", b"", b"")) is True
        assert await store.redis.zrange(keys.reconcile, 0, -1) == [TOPIC.encode()]
        # What was stored before the restore is not what is stored now.
        again = await store.commit(Change(TOPIC, b"1", private=b"{}"))
        assert again.verdict is Verdict.APPLIED
        assert again.version > done.version + 1

    async def test_an_empty_store_takes_a_snapshot_back(self, store: Store) -> None:
        assert await store.restore(Snapshot(TOPIC, 5, b"1", b"", b"")) is True
        assert await store.read(TOPIC) == Snapshot(TOPIC, 5, b"1", b"", b"", 5, restored=True)

    async def test_asking_twice_for_a_reconcile_is_asking_once(self, store: Store) -> None:
        await store.want_reconcile([TOPIC])
        first = await store.redis.zscore(keys.reconcile, TOPIC)
        await store.want_reconcile([TOPIC, "tenant:b"])
        assert await store.redis.zscore(keys.reconcile, TOPIC) == first
        assert await store.redis.zcard(keys.reconcile) == 2

    async def test_expire_lets_all_keys_go(self, store: Store) -> None:
        await store.commit(Change(TOPIC, b"1", event_id="e"))
        await store.expire(TOPIC, 100)
        for key in (keys.snap(TOPIC), keys.log(TOPIC), keys.seen(TOPIC)):
            assert 0 < await store.redis.ttl(key) <= 100

    async def test_billing_takes_a_topic_over_and_no_publish_takes_it_back(
        self, store: Store, another: Another
    ) -> None:
        published = await store.commit(Change(TOPIC, b"1"))
        assert (await store.read(TOPIC)).owner == PUBLISHER
        taken = await store.commit(Change(TOPIC, b"2", b'{"facts":1}', owner=BILLING))
        assert (taken.verdict, (await store.read(TOPIC)).owner) == (Verdict.APPLIED, BILLING)
        before = await store.read(TOPIC)
        async with listening(another, TOPIC) as bus:
            for change in (
                Change(TOPIC, b"3"),
                Change(TOPIC, b"2", b'{"facts":1}'),
                Change(TOPIC, b"3", if_version=taken.version),
                Change(TOPIC, b"3", order="9", event_id="e"),
            ):
                refused = await store.commit(change)
                assert refused == replace(taken, verdict=Verdict.BILLED)
            assert (await store.commit_many([Change(TOPIC, b"3")])) == [replace(taken, verdict=Verdict.BILLED)]
            assert await store.read(TOPIC) == before
            assert await store.redis.zcard(keys.seen(TOPIC)) == 0
            last = await store.commit(Change(TOPIC, b"4", owner=BILLING))
            heard = await bus.hear()
            assert (heard.version, heard.owner) == (last.version, BILLING)
        assert published.version < taken.version

    async def test_facts_of_a_build_from_before_the_owner_are_billings(self, store: Store) -> None:
        facts = codec.encode(Facts())
        await store.commit(Change(TOPIC, b"1", facts, owner=BILLING))
        await store.redis.hdel(keys.snap(TOPIC), "owner")
        assert (await store.commit(Change(TOPIC, b"2"))).verdict is Verdict.BILLED
        assert (await store.read(TOPIC)).private == facts
        assert (await store.commit(Change(TOPIC, b"2", facts, owner=BILLING))).verdict is Verdict.APPLIED
        # A publisher's own private part is no facts, whatever it looks like.
        await store.commit(Change("user:42", b"1", facts))
        assert (await store.commit(Change("user:42", b"2"))).verdict is Verdict.APPLIED

    async def test_billing_takes_no_notice_of_a_publishers_event_ids(self, store: Store) -> None:
        """A backend may publish under the ids of the provider's events, which billing receives as well."""
        for number in range(3):
            await store.commit(Change(TOPIC, b"%d" % number, event_id=f"evt_{number}"))
        for number in range(3):
            change = Change(TOPIC, b'"billing %d"' % number, b"{}", event_id=f"evt_{number}", owner=BILLING)
            assert (await store.commit(change)).verdict is Verdict.APPLIED
            assert (await store.commit(change)).verdict is Verdict.DUPLICATE
        assert (await store.commit(Change(TOPIC, b"0", event_id="evt_0"))).verdict is Verdict.BILLED

    async def test_the_owner_is_that_of_the_newest_commit(self, store: Store) -> None:
        """A build from before the owner may have written the topic since: its commits raise the version alone."""
        facts = codec.encode(Facts())
        for before, private, verdict in (
            (PUBLISHER, facts, Verdict.BILLED),
            (PUBLISHER, b'{"mine":1}', Verdict.APPLIED),
            (BILLING, facts, Verdict.BILLED),
            (BILLING, b'{"mine":1}', Verdict.BILLED),
        ):
            await store.redis.flushall()
            done = await store.commit(Change(TOPIC, b"1", b'{"mine":0}', owner=before))
            fields = {"version": str(done.version + 1), "state": "2", "private": private}
            await store.redis.hset(keys.snap(TOPIC), mapping=fields)  # type: ignore[arg-type]
            found = await store.read(TOPIC)
            assert (found.owner, found.version, found.private) == ("", done.version + 1, private)
            lost = Snapshot(TOPIC, found.version + 1, b"2", b"", b"", owner=BILLING)
            assert (await store.commit(Change(TOPIC, b"3", if_version=found.version))).verdict is verdict
            if verdict is Verdict.BILLED and await store.restore(lost):
                kept = b"" if before == PUBLISHER and private != facts else private
                assert (await store.read(TOPIC)).private == kept

    async def test_billing_takes_over_what_it_finds_as_it_would_leave_it(self, store: Store) -> None:
        first = await store.commit(Change(TOPIC, b"1"))
        same = await store.commit(Change(TOPIC, b"1", owner=BILLING))
        assert same == replace(first, verdict=Verdict.UNCHANGED)
        assert (await store.read(TOPIC)).owner == BILLING
        assert (await store.commit(Change(TOPIC, b"2"))).verdict is Verdict.BILLED

    async def test_every_commit_raises_rev_and_writers_are_told_whose_was_first(self, store: Store) -> None:
        first = await store.commit(Change(TOPIC, b"1", if_rev=0))
        assert (first.rev, first.rev >= first.version) == ((await store.read(TOPIC)).rev, True)
        assert (await store.commit(Change(TOPIC, b"2", if_rev=0))).verdict is Verdict.CONFLICT
        second = await store.commit(Change(TOPIC, b"1", b'{"p":1}', if_rev=first.rev))
        assert second.rev > first.rev
        late = await store.commit(Change(TOPIC, b"1", b'{"p":2}', if_rev=first.rev))
        assert late == replace(second, verdict=Verdict.CONFLICT)
        assert (await store.read(TOPIC)).private == b'{"p":1}'

    async def test_an_erasure_is_a_field_of_its_own_until_something_else_is_committed(
        self, store: Store, another: Another
    ) -> None:
        text = b'{"source":"x","event_type":"tenant.erased"}'
        async with listening(another, TOPIC) as bus:
            await store.commit(Change(TOPIC, b"null", cause=text))
            assert (await store.read(TOPIC)).erased is (await bus.hear()).erased is False
            await store.commit(Change(TOPIC, b"null", b"{}", erases=True))
            assert (await store.read(TOPIC)).erased is (await bus.hear()).erased is True
            await store.commit(Change(TOPIC, b"1"))
            assert (await store.read(TOPIC)).erased is (await bus.hear()).erased is False

    async def test_a_restore_brings_owner_and_erasure_back(self, store: Store) -> None:
        for owner, erased in ((BILLING, False), (PUBLISHER, True), (BILLING, True), (PUBLISHER, False)):
            await store.redis.flushall()
            gone = Snapshot(TOPIC, 7, b"null", b"", b"", owner=owner, erased=erased)
            assert await store.restore(gone) is True
            assert await store.read(TOPIC) == replace(gone, rev=7, restored=True)
            verdict = (await store.commit(Change(TOPIC, b"1"))).verdict
            assert verdict is (Verdict.BILLED if owner == BILLING else Verdict.APPLIED)

    async def test_a_restore_takes_no_topic_from_billing_and_makes_no_facts_of_a_publisher_s(
        self, store: Store
    ) -> None:
        """The store has lost the takeover; or it was emptied, published to, and set back."""
        first = await store.commit(Change(TOPIC, b"1", b'{"mine":1}'))
        newer = Snapshot(TOPIC, first.version + 9, b"2", b"", b"", owner=BILLING)
        assert await store.restore(newer) is True
        found = await store.read(TOPIC)
        assert (found.owner, found.private, found.restored) == (BILLING, b"", True)
        facts = await store.commit(Change(TOPIC, b"3", b'{"facts":1}', owner=BILLING))
        assert await store.restore(Snapshot(TOPIC, facts.version + 9, b"4", b"", b"", owner=PUBLISHER)) is True
        found = await store.read(TOPIC)
        assert (found.owner, found.private, found.state) == (BILLING, b'{"facts":1}', b"4")
        assert (await store.commit(Change(TOPIC, b"5"))).verdict is Verdict.BILLED

    async def test_without_durable_nothing_is_waited_for(self, store: Store) -> None:
        await store.wait_durable()

    async def test_the_scripts_touch_only_the_keys_they_are_given(self, store: Store) -> None:
        """On Cluster a script may touch the slot of its keys alone."""
        await store.commit(Change(TOPIC, b"1", event_id="e", order="1", cause=b"{}"))
        await store.restore(Snapshot(TOPIC, 2**52, b"2", b"", b""))
        names = set(await store.redis.keys("*"))
        assert names == {
            name.encode()
            for name in (keys.snap(TOPIC), keys.log(TOPIC), keys.seen(TOPIC), keys.reconcile, keys.searches)
        }
