"""Where channels are subscribed: by the layout of the shards, over moves and lost connections. No server is needed."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.bus.connection import ShardConnection
from gateway.bus.subscriber import HOPS_MAX, BusSubscriber
from sync.store.redis.slots import slot_of


class Layout:
    """Two shards; `owners` are the exceptions from "everything is at a:1"."""

    def __init__(self) -> None:
        self.shards = ("a:1", "b:1")
        self.owners: dict[int, str | None] = {}

    def owner(self, slot: int) -> str | None:
        """Return the shard that owns a slot."""
        return self.owners.get(slot, "a:1")


class Bus:
    """A Cluster's bus whose layout a test sets."""

    is_sharded = True

    def __init__(self) -> None:
        self.layout: Layout | None = Layout()

    def listen(self, changed: Any) -> None:
        """Ignore."""

    def listen_left(self, left: Any) -> None:
        """Ignore."""

    def moved(self, slot: int, shard: str) -> None:
        """Record a slot's new owner."""
        assert self.layout is not None
        self.layout.owners[slot] = shard


class Connection:
    """Records what it is asked for."""

    def __init__(self, shard: str) -> None:
        self.shard, self.connected = shard, True
        self.pending: dict[bytes, float] = {}
        self.asked: list[bytes] = []
        self.dropped: list[bytes] = []
        self.resets = 0

    def ask(self, channel: bytes) -> None:
        """Subscribe."""
        self.asked.append(channel)
        self.pending[channel] = 0.0

    def drop(self, channel: bytes) -> None:
        """Unsubscribe."""
        self.dropped.append(channel)

    def reset(self) -> None:
        """Connect anew."""
        self.resets += 1


class Rig:
    """A subscriber with two connections that are up."""

    def __init__(self) -> None:
        self.bus = Bus()
        self.confirmed: list[bytes] = []
        self.lost: list[bytes] = []
        self.subscriber = BusSubscriber(
            self.bus,  # type: ignore[arg-type]
            lambda channel, payload: None,
            self.confirmed.append,
            self.lost.extend,
        )
        self.a, self.b = Connection("a:1"), Connection("b:1")
        self.subscriber._connections = {"a:1": self.a, "b:1": self.b}  # type: ignore[dict-item]

    def confirm(self, connection: Any, channel: bytes) -> None:
        """The server confirms a subscription."""
        connection.pending.pop(channel, None)
        self.subscriber.confirmed(connection, channel)


CHANNEL = b"pw:{tenant:acme}"
OTHER = b"pw:{tenant:other}"


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_channel_is_subscribed_at_its_owner_and_reported_when_confirmed(rig: Rig) -> None:
    rig.subscriber.add(CHANNEL)
    assert (rig.a.asked, rig.b.asked, rig.confirmed) == ([CHANNEL], [], [])
    rig.confirm(rig.a, CHANNEL)
    assert rig.confirmed == [CHANNEL]
    assert rig.subscriber.connected
    rig.subscriber.discard(CHANNEL)
    assert rig.a.dropped == [CHANNEL]


def test_a_confirmation_from_a_shard_that_does_not_own_it_any_more_does_not_count(rig: Rig) -> None:
    rig.subscriber.add(CHANNEL)
    rig.bus.moved(slot_of(CHANNEL), "b:1")
    rig.subscriber.unsubscribed(rig.a, CHANNEL)  # type: ignore[arg-type]
    assert rig.b.asked == [CHANNEL]
    rig.confirm(rig.a, CHANNEL)
    assert rig.confirmed == []
    rig.confirm(rig.b, CHANNEL)
    assert rig.confirmed == [CHANNEL]


def test_moved_is_followed_for_every_channel_of_the_slot_and_a_bounded_number_of_times(rig: Rig) -> None:
    rig.subscriber.add(CHANNEL)
    rig.subscriber.add(OTHER)
    slot = slot_of(CHANNEL)
    there, here = rig.b, rig.a
    for _ in range(HOPS_MAX):
        rig.subscriber.moved(here, f"{slot} {there.shard}")  # type: ignore[arg-type]
        there, here = here, there
    asked = rig.a.asked.count(CHANNEL) + rig.b.asked.count(CHANNEL)
    rig.subscriber.moved(here, f"{slot} {there.shard}")  # type: ignore[arg-type]
    assert rig.a.asked.count(CHANNEL) + rig.b.asked.count(CHANNEL) == asked, "the servers disagree: later"
    assert rig.a.asked.count(OTHER) == 1


def test_a_moved_reply_that_cannot_be_read_makes_a_new_connection(rig: Rig) -> None:
    rig.subscriber.moved(rig.a, "nonsense")  # type: ignore[arg-type]
    assert (rig.a.resets, rig.b.resets) == (1, 0)


def test_the_channels_of_a_lost_connection_are_lost_and_asked_for_by_the_next(rig: Rig) -> None:
    rig.bus.moved(slot_of(OTHER), "b:1")
    rig.subscriber.add(CHANNEL)
    rig.subscriber.add(OTHER)
    rig.subscriber.connection_lost(rig.a)  # type: ignore[arg-type]
    assert rig.lost == [CHANNEL]
    assert not rig.subscriber.connected
    again: Any = Connection("a:1")
    assert rig.subscriber.channels_of(again) == [CHANNEL]


def test_a_slot_without_an_owner_waits_for_the_next_layout(rig: Rig) -> None:
    assert rig.bus.layout is not None
    rig.bus.layout.owners[slot_of(CHANNEL)] = None
    rig.subscriber.add(CHANNEL)
    assert rig.a.asked == rig.b.asked == []
    assert not rig.subscriber.connected
    rig.bus.moved(slot_of(CHANNEL), "b:1")
    rig.subscriber._place_all(rig.bus.layout)  # type: ignore[arg-type]
    assert rig.b.asked == [CHANNEL]


def test_a_reset_is_of_one_shard_or_of_all(rig: Rig) -> None:
    rig.subscriber.reset("b:1")
    assert (rig.a.resets, rig.b.resets) == (0, 1)
    rig.subscriber.reset()
    assert (rig.a.resets, rig.b.resets) == (1, 2)


def test_the_connection_has_what_the_double_has() -> None:
    for name in ("ask", "drop", "reset"):
        assert callable(getattr(ShardConnection, name))
