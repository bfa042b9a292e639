"""How browsers acknowledge versions: each one soon while they are few; later, and only a share of them, in a crowd.

Three rules, each a share of the versions and a time over which acks are spread:
- of the process: as many acks a second as the settings allow, for all subscriptions together (`rule`);
- of a topic with more browsers than `per_topic`: a smaller share, over at least CROWD_ACK_AFTER_MS;
- of a topic with `ack_all`: every version, however many they are.
"""

from __future__ import annotations

from planwire_client.core.frames import AckRule

CROWD_ACK_AFTER_MS = 2000
"""Minimum time over which the acks of a crowd are spread."""

ACK_STEP_MS = 250
"""Shortest time over which acks are spread because of the number of browsers. It is doubled as often as needed."""

ACK_DOUBLINGS_MAX = 8
"""Where the longest time does not suffice, the share of the versions is halved as often as needed."""


class AckPolicy:
    """The rules of one process, from its settings."""

    def __init__(self, per_topic: int = 100, per_s: int = 2000, after_ms: int = 250) -> None:
        """Take the settings.

        Args:
            per_topic: subscriptions of a topic beyond which it is a crowd.
            per_s: acks a second that the process takes.
            after_ms: milliseconds over which acks are spread where nothing else requires more.
        """
        self.per_topic = per_topic
        self.full = AckRule(1.0, after_ms)
        self._least = AckRule(1, after_ms)
        self._per_s = per_s

    def rule(self, subscriptions: int) -> AckRule:
        """Return the rule for every topic that has none of its own, in a process with so many subscriptions.

        A subscription has at most one ack under way, and a newer version takes its place. So n subscriptions send at
        most n / time acks a second, whatever is published.
        """
        if subscriptions * 1000 <= self._per_s * max(self._least.after_ms, ACK_STEP_MS):
            return self._least
        doublings = (-(-subscriptions * 1000 // (self._per_s * ACK_STEP_MS)) - 1).bit_length()
        spread = min(doublings, ACK_DOUBLINGS_MAX)
        return AckRule(2.0 ** (spread - doublings), ACK_STEP_MS << spread)

    def topic_rule(self, rule: AckRule, subscriptions: int, ack_all: bool) -> AckRule:
        """Return the rule of one topic.

        Each newcomer to a crowd is sent a share that fits the crowd it joins. With the larger shares of those before
        it, a topic of n sockets gets about `per_topic` * (1 + ln(n / `per_topic`)) acks a version.

        Args:
            rule: the rule of the process.
            subscriptions: those of the topic.
            ack_all: every browser is asked to acknowledge every version.
        """
        if ack_all:
            rule = self.full
        if subscriptions <= self.per_topic:
            return rule
        halvings = 0 if ack_all else (subscriptions // self.per_topic).bit_length()
        return AckRule(rule.share * 2.0**-halvings, max(rule.after_ms, CROWD_ACK_AFTER_MS))


def is_outdated(sent: AckRule, rule: AckRule) -> bool:
    """Return whether browsers that were sent the rule `sent` should be sent `rule`.

    One halving of the interval between two acks of a subscription is not worth it: a number of browsers that goes up
    and down would keep it changing.
    """
    before_ms, now_ms = sent.after_ms / sent.share, rule.after_ms / rule.share
    return now_ms > before_ms or now_ms < before_ms / 2
