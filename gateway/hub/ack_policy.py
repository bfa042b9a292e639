"""The rate of acks: few browsers acknowledge every version and soon; in a crowd, acks are sampled and spread in time.

There are three rules. Each is a share of the versions to acknowledge and a time over which the acks are spread:
- for the process: limits the acks per second of all subscriptions together to the settings (`rule`);
- for a topic with more browsers than `per_topic`: a smaller share, over at least CROWD_ACK_AFTER_MS;
- for a topic with `ack_all`: every browser acknowledges every version.
"""

from __future__ import annotations

from planwire_client.core.frames import AckRule

CROWD_ACK_AFTER_MS = 2000
"""Minimum time over which the acks of a crowd are spread, in milliseconds."""

ACK_STEP_MS = 250
"""Shortest spread because of the number of browsers, in milliseconds. It is doubled as often as needed."""

ACK_DOUBLINGS_MAX = 8
"""Maximum number of doublings. If that is not enough, the share of the versions is halved as often as needed."""


class AckPolicy:
    """The rules of one process, from its settings."""

    def __init__(self, per_topic: int = 100, per_s: int = 2000, after_ms: int = 250) -> None:
        """Create the policy from the settings.

        Args:
            per_topic: number of subscriptions above which a topic is a crowd.
            per_s: maximum acks per second of the process.
            after_ms: default spread of acks, in milliseconds.
        """
        self.per_topic = per_topic
        self.full = AckRule(1.0, after_ms)
        self._least = AckRule(1, after_ms)
        self._per_s = per_s

    def rule(self, subscriptions: int) -> AckRule:
        """Return the rule for every topic without a rule of its own, in a process with this many subscriptions.

        A subscription has at most one pending ack, and a newer version replaces it. So n subscriptions send at most
        n / time acks per second, at any rate of publishes.
        """
        if subscriptions * 1000 <= self._per_s * max(self._least.after_ms, ACK_STEP_MS):
            return self._least
        doublings = (-(-subscriptions * 1000 // (self._per_s * ACK_STEP_MS)) - 1).bit_length()
        spread = min(doublings, ACK_DOUBLINGS_MAX)
        return AckRule(2.0 ** (spread - doublings), ACK_STEP_MS << spread)

    def topic_rule(self, rule: AckRule, subscriptions: int, ack_all: bool) -> AckRule:
        """Return the rule of one topic.

        Each subscription that joins a crowd gets a share for the crowd's size at that time; earlier ones keep their
        larger shares. So a topic of n sockets gets about `per_topic` * (1 + ln(n / `per_topic`)) acks per version.

        Args:
            rule: the rule of the process.
            subscriptions: number of subscriptions of the topic.
            ack_all: whether every browser acknowledges every version.
        """
        if ack_all:
            rule = self.full
        if subscriptions <= self.per_topic:
            return rule
        halvings = 0 if ack_all else (subscriptions // self.per_topic).bit_length()
        return AckRule(rule.share * 2.0**-halvings, max(rule.after_ms, CROWD_ACK_AFTER_MS))


def is_outdated(sent: AckRule, rule: AckRule) -> bool:
    """Return whether browsers with the rule `sent` should be sent `rule`.

    A single halving of the interval between two acks is ignored: otherwise the rule would change all the time when the
    number of browsers goes up and down.
    """
    before_ms, now_ms = sent.after_ms / sent.share, rule.after_ms / rule.share
    return now_ms > before_ms or now_ms < before_ms / 2
