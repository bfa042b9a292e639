"""Every store key and Redis channel of a topic, in one place. The braces are literal: one topic, one Cluster slot."""

from __future__ import annotations

PREFIX = "pw:"
CONTROL_CHANNEL = "pw:control"
"""What every gateway hears besides topics: revocations."""

RECONCILE = "pw:{reconcile}:wanted"
"""A sorted set: topics that somebody wants compared with their provider, by the Unix time of the first asking."""

DURABLE = "pw:durable"
"""Written ahead of WAITAOF; on a Cluster a variant of it in each shard."""

HYDRATE = "pw:{hydrate}:wanted"
"""A sorted set: topics without state that somebody reads, for the worker to ask the source about."""

COMPARE = "pw:{hydrate}:compare"
"""A sorted set: topics that the worker is to compare with the source, whatever they hold."""


def slot(topic: str) -> str:
    """Return the common head of the topic's keys, which is its Redis channel too."""
    return f"pw:{{{topic}}}"


def topic_of(channel: str) -> str:
    """Return the topic announced on `channel` (the inverse of `slot`)."""
    return channel[4:-1]


def snap(topic: str) -> str:
    """Return the key of the hash version, state, private, digest, order, cause."""
    return f"pw:{{{topic}}}:snap"


def log(topic: str) -> str:
    """Return the key of the capped stream of committed versions."""
    return f"pw:{{{topic}}}:log"


def seen(topic: str) -> str:
    """Return the key of the sorted set of event ids committed within the last seven days."""
    return f"pw:{{{topic}}}:seen"


def absent(topic: str) -> str:
    """Return the key that stands for a while after the source has said that it has no state for the topic."""
    return f"pw:{{{topic}}}:absent"
