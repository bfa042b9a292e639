"""Slots, owners, and what servers say about them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from redis.crc import key_slot

from sync.store.keys import DEFAULT_KEYS as keys
from sync.store.redis import slots
from sync.store.redis.slots import SLOTS, WHOLE, Layout, parse, redirection, slot_of, variants

THREE = slots.layout(["a:1"] * 5000 + ["b:2"] * 5000 + ["c:3"] * (SLOTS - 10000))


@given(st.binary(max_size=30) | st.text("{}ab", max_size=8).map(str.encode))
def test_a_key_has_the_slot_that_redis_gives_it(key: bytes) -> None:
    assert slot_of(key) == key_slot(key)


def test_a_topics_keys_and_its_channel_share_a_slot() -> None:
    names = [of("sandbox/tenant:acme") for of in (keys.channel, keys.head, keys.snap, keys.log, keys.seen)]
    assert len({slot_of(name.encode()) for name in names}) == 1


def test_one_server_owns_every_slot() -> None:
    assert {WHOLE.owner(slot) for slot in range(SLOTS)} == {""}
    assert WHOLE.first_in("", ["anything"]) == "anything"
    assert WHOLE.moved(1, "") is WHOLE


def test_a_moved_slot_has_its_new_owner_and_no_other_has() -> None:
    for shard in ("b:2", "new:9"):
        moved = THREE.moved(7, shard)
        assert moved.owner(7) == shard
        assert shard in moved.shards
        assert [slot for slot in range(SLOTS) if moved.owner(slot) != THREE.owner(slot)] == [7]
    assert THREE.moved(7, "a:1") is THREE


def test_every_shard_has_a_name_of_its_own_among_the_variants() -> None:
    for shard in THREE.shards:
        name = THREE.first_in(shard, variants("probe"))
        assert name is not None
        assert THREE.owner(slot_of(name.encode())) == shard
    assert THREE.first_in("nobody:1", variants("probe")) is None
    assert next(variants("probe")) == "probe"


def test_an_answer_to_cluster_slots_is_read() -> None:
    reply = [
        [0, 99, [b"10.0.0.1", 7000, b"id1"], [b"10.0.0.9", 7009, b"id9"]],
        [100, 16000, [b"", 7001, b"id2"]],
        [16002, 16383, [None, 7002, b"id3", [b"hostname", b"h"]]],
    ]
    layout = parse(reply, "asked.host")
    assert layout.shards == ("10.0.0.1:7000", "asked.host:7001", "asked.host:7002")
    owners = [layout.owner(slot) for slot in (0, 99, 100, 16000, 16001, 16002, 16383)]
    assert owners == [*["10.0.0.1:7000"] * 2, *["asked.host:7001"] * 2, None, *["asked.host:7002"] * 2]


@pytest.mark.parametrize("reply", [[[0, 99]], [b"OK"], [[0, "x", [b"h", 1]]], [[0, 20000, [b"h", 1]]], 7])
def test_what_is_no_such_answer_is_an_error(reply: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of them
        parse(reply, "h")  # type: ignore[arg-type]


def test_redirections() -> None:
    assert redirection("3999 127.0.0.1:6381", "h") == (3999, "127.0.0.1:6381")
    assert redirection("3999 :6381", "h") == (3999, "h:6381")
    assert redirection("3999 ?:6381", "h") == (3999, "h:6381")
    assert redirection("1 fe80::1:6381", "h") == (1, "fe80::1:6381")
    for text in ("", "x y:1", "16384 h:1", "1 h", "1 h:x"):
        with pytest.raises(ValueError):  # noqa: PT011 - any of them
            redirection(text, "h")


def test_addresses() -> None:
    assert slots.address(slots.shard_name("fe80::1", 7000)) == ("fe80::1", 7000)
    assert slots.address("h:7000") == ("h", 7000)


def test_a_layout_of_nobody() -> None:
    assert Layout((), (None,) * SLOTS).owner(5) is None
