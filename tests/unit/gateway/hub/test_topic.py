"""What an announcement or a read changes in a topic, and the rounds in which a version is delivered."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from gateway.hub.subscription import Socket, Subscription
from gateway.hub.topic import Announced, LiveTopic, is_break
from planwire_client.core.commit import PUBLISHER
from sync.core.announcement import Announcement
from sync.store.models import Snapshot

ANYBODY = cast(Socket, None)


def topic(**fields: Any) -> LiveTopic:
    return LiveTopic("tenant:a", b"pw:{tenant:a}", **fields)


def announced(version: int, owner: str = PUBLISHER) -> Announcement:
    return Announcement(version, version - 1, b"", b"{}", b'{"n":%d}' % version, owner)


def test_only_a_newer_announcement_changes_anything_and_an_older_one_leads_to_one_read() -> None:
    live = topic()
    assert live.announce(announced(5)) is Announced.NEWER
    assert (live.version, live.base, live.state, live.unproven) == (5, 4, b'{"n":5}', 0)
    assert live.announce(announced(5)) is Announced.KNOWN
    assert live.announce(announced(3)) is Announced.LATE
    assert live.announce(announced(2)) is Announced.KNOWN, "the read for the first one tells of this one too"
    assert live.apply(Snapshot("tenant:a", 5, b'{"n":5}', b"", b""), is_final=True, may_reset=True) == 0
    assert live.announce(announced(2)) is Announced.LATE


def test_an_announcement_without_an_owner_keeps_the_owner_and_is_unproven_until_a_read() -> None:
    live = topic()
    live.announce(announced(5))
    live.announce(announced(6, owner=""))
    assert (live.owner, live.unproven) == (PUBLISHER, 6)
    live.apply(Snapshot("tenant:a", 6, b"{}", b"", b""), is_final=True, may_reset=True)
    assert live.unproven == 0


@pytest.mark.parametrize(
    ("late", "is_final", "stored", "found"),
    [
        (0, True, 3, None),  # the store is older: it may not have the announced version yet
        (4, True, 3, None),
        (3, False, 4, None),  # another read was requested since
        (3, True, 4, 5),  # the store has lost 5 and gone on
        (0, True, 5, 0),
        (0, True, 6, 0),
    ],
)
def test_a_read_gives_a_version_up_only_when_the_store_has_gone_on_without_it(
    late: int, is_final: bool, stored: int, found: int | None
) -> None:
    live = topic(version=5, late_version=late)
    snapshot = Snapshot("tenant:a", stored, b"{}", b"", b"")
    assert live.apply(snapshot, is_final=is_final, may_reset=True) == found
    assert live.version == (5 if found is None else stored)
    assert live.known is (found is not None)


def test_a_topic_of_the_gateways_own_takes_what_the_store_holds_also_if_it_is_older() -> None:
    live = LiveTopic("probe:one", b"pw:{probe:one}", 5)
    assert live.is_internal
    assert live.apply(Snapshot(live.name, 0, b"null", b"", b""), is_final=True, may_reset=True) == 0
    assert live.known


@given(steps=st.lists(st.sampled_from(["come", "leave first", "leave last", "chunk", "version"]), max_size=60))
def test_each_round_serves_everybody_who_stays_whatever_comes_and_goes(steps: list[str]) -> None:
    live, owed = topic(), set[Subscription]()
    present = [live.subscribe(ANYBODY, 0) for _ in range(5)]

    def serve(limit: int) -> None:
        owed.difference_update(live.next_chunk(limit))

    for step in steps:
        match step:
            case "come":
                present.append(live.subscribe(ANYBODY, 0))
            case "leave first" | "leave last" if present:
                gone = present.pop(0 if step == "leave first" else -1)
                live.unsubscribe(gone)
                owed.discard(gone)
            case "chunk" if live.remaining:
                serve(2)
            case "version":
                live.begin_round()
                owed = set(present)
    turns = 0
    while live.remaining:
        serve(2)
        turns += 1
        assert turns <= max(1, len(present))
    assert not owed
    assert [one.index for one in live.subscriptions] == list(range(len(present)))


def usage_state(base: int, since: int, run: str) -> bytes:
    return b'{"base":%d,"since":%d,"run":"%b","entitlements":1,"meters":{}}' % (base, since, run.encode())


@pytest.mark.parametrize(
    ("state", "is_lost"),
    [
        (usage_state(10, 2, "a"), False),
        (usage_state(9, 2, "a"), True),
        (usage_state(14, 2, "a"), False),
        (usage_state(14, 10, "b"), False),
        (usage_state(14, 9, "b"), True),
        (usage_state(14, 2, "b"), True),
        (usage_state(0, 0, "b"), True),
        (b"null", False),
    ],
    ids=[
        "the next version",
        "it follows an older one",
        "announcements were missed, in the same history",
        "another history began with what is held",
        "another history began with less",
        "another history began with as little as the one before",
        "a store that was emptied",
        "an erased tenant",
    ],
)
def test_a_newer_usage_says_whether_the_store_has_lost_what_is_held(state: bytes, is_lost: bool) -> None:
    assert is_break(10, usage_state(8, 2, "a"), state) is is_lost
    assert not is_break(10, b"null", state), "nothing is held that could be restored"
