"""What browsers acknowledge: how often they are told to, and what their acks count. Does no I/O but to sockets."""

from __future__ import annotations

from collections.abc import Callable

from gateway.hub.ack_policy import AckPolicy
from gateway.hub.fanout import in_chunks
from gateway.hub.observer import HubObserver, Observers
from gateway.hub.subscription import Subscription
from gateway.hub.topic import LiveTopic
from gateway.metrics import Metrics
from planwire_client.core.frames import AckRule
from sync.process import logs

LOGGER = "gateway.node"
"""Logger of acks and nacks."""


class Acknowledgements:
    """The acks of all subscriptions of a hub."""

    def __init__(
        self, metrics: Metrics, observers: Observers, policy: AckPolicy, subscription_count: Callable[[], int]
    ) -> None:
        """Count by `metrics`, tell `observers`.

        Args:
            metrics: counts acks and nacks.
            observers: are called on each.
            policy: the rules for acks.
            subscription_count: returns the number of subscriptions of all sockets together.
        """
        self._metrics = metrics
        self._observers = observers
        self._policy = policy
        self._subscription_count = subscription_count

    def rule(self) -> AckRule:
        """Return the rule for every topic without a rule of its own."""
        return self._policy.rule(self._subscription_count())

    def is_sampled(self, live: LiveTopic) -> bool:
        """Return whether the topic has too many browsers for all of them to acknowledge every version."""
        return len(live.subscriptions) > self._policy.per_topic

    def policy_frame(self, live: LiveTopic) -> bytes:
        """Return the frame that tells a browser the topic's rule."""
        return live.ack_policy_frame(self._policy.topic_rule(self.rule(), len(live.subscriptions), live.ack_all))

    def send_policy(self, subscription: Subscription) -> None:
        """Send a browser the topic's rule again, if its socket drains and the subscription is open."""
        live, index = subscription.live, subscription.index
        is_open = live.subscriptions[index : index + 1] == [subscription]
        if is_open and subscription.socket.pending is None:
            subscription.socket.write(self.policy_frame(live))

    def has_own_rule(self, live: LiveTopic) -> bool:
        """Return whether the topic's rule may differ from `rule`."""
        return live.ack_all or self.is_sampled(live)

    def set_all(self, live: LiveTopic, ack_all: bool) -> None:
        """Have every browser of the topic acknowledge every version from now on; False: follow the rules again."""
        is_change, live.ack_all = live.ack_all != ack_all, ack_all
        if is_change and (self.is_sampled(live) or self.rule() != self._policy.full):
            in_chunks(list(live.subscriptions), self.send_policy)

    def record(self, subscription: Subscription, version: int) -> None:
        """Count that a browser's listeners ran with `version`."""
        if not subscription.acked < version <= subscription.sent:
            return  # a repetition, or a version that was not sent
        subscription.acked = version
        self._observers.call(HubObserver.version_acked, subscription)
        live = subscription.live
        if live.is_internal:
            return
        self._metrics.acks += 1
        # A page opened after the commit did not wait for the version: its ack would measure age, not latency.
        if version / 1e6 >= subscription.socket.opened_at:
            self._metrics.acked(version, live.occurred_at() if version == live.version else None)

    def record_nack(self, subscription: Subscription, version: int, reason: str) -> None:
        """Count that a browser could not use `version`; a version that was not sent is ignored."""
        if version > subscription.live.version:
            return
        subscription.nacked = version
        self._metrics.nacks += 1
        logs.limited(LOGGER, "nack", topic=subscription.live.name, version=version, reason=reason)
        self._observers.call(HubObserver.version_nacked, subscription, reason)
