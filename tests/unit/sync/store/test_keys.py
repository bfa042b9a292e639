"""All keys of a topic share one Cluster slot, and no two topics share a key."""

from __future__ import annotations

from hypothesis import given, strategies as st
from redis.crc import key_slot

from sync.store.keys import DEFAULT_KEYS as keys

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)
IDS = st.from_regex(r"[A-Za-z0-9._~@-]{1,128}", fullmatch=True)


def test_the_names_are_the_documented_ones() -> None:
    assert keys.channel("sandbox/tenant:acme") == "pw:{sandbox/tenant:acme}"
    assert keys.snap("tenant:acme") == "pw:{tenant:acme}:snap"
    assert keys.log("tenant:acme") == "pw:{tenant:acme}:log"
    assert keys.seen("tenant:acme") == "pw:{tenant:acme}:seen"


@given(kind=NAMES, id_=IDS)
def test_one_topic_is_one_slot(kind: str, id_: str) -> None:
    topic = f"{kind}:{id_}"
    names = (keys.channel(topic), keys.snap(topic), keys.log(topic), keys.seen(topic))
    assert len(set(names)) == 4
    assert len({key_slot(name.encode()) for name in names}) == 1


@given(kind=NAMES, id_=IDS)
def test_the_channel_names_its_topic(kind: str, id_: str) -> None:
    topic = f"{kind}:{id_}"
    assert keys.topic_of(keys.head(topic)) == topic
    assert keys.channel(topic) != keys.control_channel
