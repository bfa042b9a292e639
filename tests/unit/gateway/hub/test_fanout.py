"""Topics with 10,000 tabs never keep the event loop for more than a chunk of writes, and the newest overtakes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from gateway.hub import fanout
from gateway.hub.ack_policy import AckPolicy
from gateway.hub.fanout import CHUNK
from gateway.hub.hub import Hub
from gateway.hub.subscription import Subscription
from gateway.metrics import Metrics
from planwire_client.core.commit import PUBLISHER
from sync.core.announcement import Announcement
from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.models import Snapshot
from tests.support.announcements import payload_of
from tests.support.wait import until

TABS = 10_000
TOPIC = "tenant:crowd"


class Tab:
    """A socket that takes everything; an even one by its descriptor, an odd one by its transport (as under TLS)."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.pending: dict[Subscription, None] | None = None
        self.deflate = False
        self.opened_at = 0.0
        self.crowd = crowd
        self.number = number

    @property
    def direct_fd(self) -> int:
        return -1 if self.number % 2 else self.number

    def write(self, data: bytes) -> None:
        self.crowd.took(self.number, data)

    def write_remainder(self, data: bytes, sent: int) -> None:
        raise AssertionError("every write was whole")

    def end(self, topic: str, reason: str) -> None:
        raise AssertionError("nothing was erased")


class Crowd:
    """A hub with topics that everybody shares, and a count of its writes in each turn of the event loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, topics: int = 1) -> None:
        self.turns: Counter[int] = Counter()
        self.turn = 0
        self.versions: list[list[int]] = [[] for _ in range(TABS)]
        self._parsed: dict[int, tuple[bytes, int]] = {}
        monkeypatch.setattr(fanout, "write_fd", self._write_fd)
        # No crowd as far as acks go: what is counted here is the fan-out.
        self.hub = Hub(Metrics(), _nothing, _nothing, lambda name: None, AckPolicy(per_topic=TABS))
        self.tabs = [Tab(self, number) for number in range(TABS)]
        self.names = [TOPIC, *(f"{TOPIC}{number}" for number in range(1, topics))]
        self.subscriptions = [self.hub.attach(tab, self.names[tab.number % topics], 0) for tab in self.tabs]
        for name in self.names:
            self.hub.confirmed(keys.channel(name).encode())
        self._mark()

    def _mark(self) -> None:
        """Stands in the loop's queue once per turn, between any two chunks."""
        self.turn += 1
        self._handle = asyncio.get_running_loop().call_soon(self._mark)

    def stop(self) -> None:
        self._handle.cancel()

    def _write_fd(self, fd: int, data: bytes) -> int:
        self.took(fd, data)
        return len(data)

    def took(self, number: int, data: bytes) -> None:
        self.turns[self.turn] += 1
        if id(data) not in self._parsed:
            frame = json.loads(data[2:] if data[1] < 126 else data[4:])
            self._parsed[id(data)] = data, frame.get("version", 0)
        if version := self._parsed[id(data)][1]:
            self.versions[number].append(version)

    def end(self, tab: Tab, ended: Counter[int]) -> None:
        ended[self.turn] += 1
        self.hub.detach(self.subscriptions[tab.number])

    def announce(self, version: int) -> None:
        one = Announcement(version, 0, b"", b"", b'{"n":%d}' % version, PUBLISHER)
        for name in self.names:
            self.hub.announce(keys.channel(name).encode(), payload_of(one))

    async def settle(self) -> None:
        """Return once nothing is left to be written."""
        await until(lambda: not any(live.remaining for live in self.hub.topics.values()), 10, every_s=0)
        await asyncio.sleep(0)


def _nothing(channel: bytes) -> None:
    pass


async def test_between_two_turns_of_the_loop_there_is_one_chunk_of_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first greeting of all, what is announced, and what a sweep found: it is all the same loop."""
    assert CHUNK <= 256, "a write takes some 8 us, and a turn is to take less than 5 ms with all that is around it"
    crowd = Crowd(monkeypatch)
    try:
        for what in ("greeting", "announcement", "sweep"):
            crowd.turns.clear()
            match what:
                case "greeting":
                    crowd.hub.apply_snapshot(Snapshot(TOPIC, 1, b'{"n":1}', b"", b""))
                case "announcement":
                    crowd.announce(2)
                case "sweep":
                    crowd.hub.apply_snapshot(Snapshot(TOPIC, 3, b'{"n":3}', b"", b""))
            await crowd.settle()
            assert sum(crowd.turns.values()) == TABS
            assert max(crowd.turns.values()) <= CHUNK, what
            assert len(crowd.turns) >= TABS / CHUNK
        assert all(versions == [1, 2, 3] for versions in crowd.versions)
    finally:
        crowd.stop()


async def test_a_newer_version_overtakes_an_unfinished_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """From where the loop stands, once round: who has not had the older one never gets it, nobody is served twice."""
    crowd = Crowd(monkeypatch)
    try:
        crowd.hub.apply_snapshot(Snapshot(TOPIC, 1, b'{"n":1}', b"", b""))
        await crowd.settle()
        crowd.turns.clear()
        crowd.announce(2)
        for _ in range(9):
            await asyncio.sleep(0)
        served = sum(crowd.turns.values())
        assert CHUNK < served < TABS / 2, "the older one is under way"
        crowd.announce(3)
        await crowd.settle()
        assert max(crowd.turns.values()) <= CHUNK
        assert sum(crowd.turns.values()) == served + TABS
        first = [versions for versions in crowd.versions if 2 in versions]
        assert len(first) == served
        assert all(versions == [1, 2, 3] for versions in first)
        assert all(versions == [1, 3] for versions in crowd.versions if 2 not in versions)
    finally:
        crowd.stop()


async def test_a_stream_of_versions_ends_with_everybody_at_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in every turn, more than there is time for: each turn is one chunk all the same, and nobody is left out."""
    crowd = Crowd(monkeypatch)
    try:
        crowd.hub.apply_snapshot(Snapshot(TOPIC, 1, b'{"n":1}', b"", b""))
        await crowd.settle()
        crowd.turns.clear()
        turns = 4 * TABS // CHUNK
        for version in range(2, turns + 2):
            crowd.announce(version)
            await asyncio.sleep(0)
        # While they come each tab is served once a round, in turn: nobody waits for the end of the stream.
        assert all(len(versions) >= 1 + 3 for versions in crowd.versions)
        await crowd.settle()
        assert max(crowd.turns.values()) <= CHUNK
        assert {versions[-1] for versions in crowd.versions} == {turns + 1}
        assert all(versions == sorted(set(versions)) for versions in crowd.versions)
    finally:
        crowd.stop()


async def test_what_is_said_to_a_whole_crowd_is_said_in_chunks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """That every version is to be acknowledged, since a console looks; and that there is nothing any more to hold."""
    crowd = Crowd(monkeypatch)
    crowd.hub.acks._policy = AckPolicy(per_topic=100)
    try:
        crowd.hub.apply_snapshot(Snapshot(TOPIC, 1, b'{"n":1}', b"", b""))
        await crowd.settle()
        live = crowd.hub.topic(TOPIC)
        assert live is not None
        crowd.turns.clear()
        crowd.hub.acks.set_all(live, True)
        await until(lambda: sum(crowd.turns.values()) == TABS, 10, every_s=0)
        assert max(crowd.turns.values()) <= CHUNK
        ended: Counter[int] = Counter()
        monkeypatch.setattr(Tab, "end", lambda tab, topic, reason: crowd.end(tab, ended))
        monkeypatch.setattr(type(live), "erased", True)
        crowd.hub._fan_out.close_erased_soon(live)
        await until(lambda: not live.subscriptions, 10, every_s=0)
        assert sum(ended.values()) == TABS
        assert max(ended.values()) <= CHUNK
    finally:
        crowd.stop()


async def test_several_crowds_with_news_at_once_share_the_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk of one of them in each turn, in rotation: none waits until another is done."""
    crowd = Crowd(monkeypatch, topics=5)
    try:
        for name in crowd.names:
            crowd.hub.apply_snapshot(Snapshot(name, 1, b'{"n":1}', b"", b""))
        await crowd.settle()
        crowd.turns.clear()
        crowd.announce(2)
        for _ in range(10):
            await asyncio.sleep(0)
        served = [sum(2 in crowd.versions[number] for number in range(first, TABS, 5)) for first in range(5)]
        assert min(served) >= CHUNK
        assert max(served) - min(served) <= CHUNK
        crowd.announce(3)
        await crowd.settle()
        assert max(crowd.turns.values()) <= CHUNK
        assert all(versions[-1] == 3 and versions == sorted(set(versions)) for versions in crowd.versions)
    finally:
        crowd.stop()
