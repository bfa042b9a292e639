"""How browsers acknowledge versions: each one soon while they are few; later, and only a share of them, in a crowd.

Three rules, each a share of the versions and a time over which acks are spread:
- of the process: as many acks a second as the settings allow, for all subscriptions together (`ack_rule`);
- of a topic with more browsers than `per_topic`: a smaller share, over at least CROWD_ACK_AFTER_MS;
- of a topic with `ack_all`: every version, however many they are.
"""

from __future__ import annotations

from typing import NamedTuple

CROWD_ACK_AFTER_MS = 2000
"""Minimum time over which the acks of a crowd are spread."""

ACK_STEP_MS = 250
"""Shortest time over which acks are spread because of the number of browsers. It is doubled as often as needed."""

ACK_DOUBLINGS_MAX = 8

ACK_AFTER_MAX_MS = ACK_STEP_MS << ACK_DOUBLINGS_MAX
"""Longest such time; where it does not suffice, the share of the versions is halved as often as needed."""


class AckRule(NamedTuple):
    """Acknowledge this share of the versions (0 to 1), each at a random time within `after_ms` milliseconds."""

    share: float
    after_ms: int

    @property
    def interval_ms(self) -> float:
        """Milliseconds between two acks of one subscription, at most."""
        return self.after_ms / self.share


def ack_rule(subscriptions: int, after_ms: int, per_s: int) -> AckRule:
    """Return the rule of a process.

    A subscription has at most one ack under way, and a newer version takes its place. So n subscriptions send at most
    n / time acks a second, whatever is published.

    Args:
        subscriptions: number of subscriptions in the process.
        after_ms: the spread that the settings ask for, used while it suffices.
        per_s: maximum number of acks a second.
    """
    if subscriptions * 1000 <= per_s * max(after_ms, ACK_STEP_MS):
        return AckRule(1, after_ms)
    doublings = (-(-subscriptions * 1000 // (per_s * ACK_STEP_MS)) - 1).bit_length()
    spread = min(doublings, ACK_DOUBLINGS_MAX)
    return AckRule(2.0 ** (spread - doublings), ACK_STEP_MS << spread)


def crowd_rule(rule: AckRule, subscriptions: int, per_topic: int, ack_all: bool) -> AckRule:
    """Return the rule of a topic with more than `per_topic` subscriptions, where `rule` is the one of the process.

    Each newcomer is sent a share that fits the crowd it joins. With the larger shares of those before it, a topic of n
    sockets gets about `per_topic` * (1 + ln(n / `per_topic`)) acks a version.
    """
    share = rule.share if ack_all else rule.share * 2.0 ** -(subscriptions // per_topic).bit_length()
    return AckRule(share, max(rule.after_ms, CROWD_ACK_AFTER_MS))


def is_outdated(sent: AckRule, rule: AckRule) -> bool:
    """Return whether browsers that were sent the rule `sent` should be sent `rule`.

    One halving of the interval is not worth it: a number of browsers that goes up and down would keep it changing.
    """
    return rule.interval_ms > sent.interval_ms or rule.interval_ms < sent.interval_ms / 2


class AckPolicy:
    """The rules of one process, from its settings."""

    def __init__(self, per_topic: int = 100, per_s: int = 2000, after_ms: int = 250) -> None:
        """Take the settings.

        Args:
            per_topic: subscriptions of a topic beyond which it is a crowd.
            per_s: acks a second that the process takes.
            after_ms: milliseconds over which acks are spread where nothing else requires more.
        """
        self._per_topic = per_topic
        self._per_s = per_s
        self._after_ms = after_ms

    def is_crowd(self, subscriptions: int) -> bool:
        """Return whether a topic with so many subscriptions is a crowd."""
        return subscriptions > self._per_topic

    def rule(self, subscriptions: int) -> AckRule:
        """Return the rule for every topic that has none of its own, in a process with so many subscriptions."""
        return ack_rule(subscriptions, self._after_ms, self._per_s)

    def topic_rule(self, rule: AckRule, subscriptions: int, ack_all: bool) -> AckRule:
        """Return the rule of one topic.

        Args:
            rule: the rule of the process.
            subscriptions: those of the topic.
            ack_all: every browser is asked to acknowledge every version.
        """
        if ack_all:
            rule = self.full
        return crowd_rule(rule, subscriptions, self._per_topic, ack_all) if self.is_crowd(subscriptions) else rule

    @property
    def full(self) -> AckRule:
        """The rule where nothing limits acks: every version, over the time in the settings."""
        return AckRule(1.0, self._after_ms)
