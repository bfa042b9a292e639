"""Acks are never more than the settings allow, and no later than that needs."""

from __future__ import annotations

from hypothesis import given, strategies as st

from gateway.hub.ack_policy import ACK_DOUBLINGS_MAX, ACK_STEP_MS, AckPolicy, is_outdated
from planwire_client.core.frames import AckRule


@given(subscriptions=st.integers(0, 10**7), after_ms=st.integers(0, 5000), acks_per_s=st.integers(1, 10**5))
def test_a_process_is_never_acked_more_often_than_it_asks_for(
    subscriptions: int, after_ms: int, acks_per_s: int
) -> None:
    share, spread_ms = AckPolicy(per_s=acks_per_s, after_ms=after_ms).rule(subscriptions)
    if (share, spread_ms) == (1, after_ms):
        assert subscriptions * 1000 <= acks_per_s * max(after_ms, ACK_STEP_MS)
    else:
        assert subscriptions * share * 1000 / spread_ms <= acks_per_s
        assert subscriptions * share * 1000 / spread_ms > acks_per_s / 2, "later than it must be"
        assert spread_ms > max(after_ms, ACK_STEP_MS) or share < 1
        assert share == 1 or spread_ms == ACK_STEP_MS << ACK_DOUBLINGS_MAX


@given(subscriptions=st.integers(101, 10**6), ack_all=st.booleans())
def test_a_topic_with_a_crowd_is_acked_by_a_share_unless_all_are_asked(subscriptions: int, ack_all: bool) -> None:
    policy = AckPolicy(per_topic=100, per_s=10**9, after_ms=250)
    share, after_ms = policy.topic_rule(policy.rule(subscriptions), subscriptions, ack_all)
    assert after_ms == 2000
    assert (share == 1) if ack_all else (50 <= subscriptions * share < 100)


def test_a_topic_without_a_crowd_has_the_rule_of_the_process() -> None:
    policy = AckPolicy(per_topic=100, per_s=10, after_ms=250)
    assert policy.topic_rule(AckRule(0.5, 64_000), 100, False) == (0.5, 64_000)
    assert policy.topic_rule(AckRule(0.5, 64_000), 100, True) == (1, 250)


def test_browsers_are_sent_a_new_rule_unless_it_is_one_step_down() -> None:
    sent = AckRule(1, 1000)
    assert not is_outdated(sent, sent)
    assert is_outdated(sent, AckRule(1, 2000))
    assert is_outdated(sent, AckRule(0.5, 1000))
    assert not is_outdated(sent, AckRule(1, 500))
    assert is_outdated(sent, AckRule(1, 250))
