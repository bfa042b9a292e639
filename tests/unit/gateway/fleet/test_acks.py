"""The parts of several gateways become one answer."""

from __future__ import annotations

from gateway.fleet.acks import summary, together


def test_a_topic_that_is_not_live_here_has_no_tabs() -> None:
    assert summary(None) == {"sessions": 0, "unacked": 0, "nacked": 0}


def test_counts_are_added_and_versions_span_all_gateways() -> None:
    here = {"sessions": 2, "unacked": 1, "nacked": 0, "acked_min": 5, "acked_max": 7}
    there = {"sessions": 1, "unacked": 0, "nacked": 1, "acked_min": 3, "acked_max": 3}
    nothing = {"sessions": 0, "unacked": 0, "nacked": 0}
    assert together([here, there, nothing], 2) == {
        "sessions": 3, "unacked": 1, "nacked": 1, "acked_min": 3, "acked_max": 7, "gateways": 3, "silent": 2,
    }  # fmt: skip


def test_versions_that_nobody_has_acknowledged_are_left_out() -> None:
    assert together([], 1) == {"sessions": 0, "unacked": 0, "nacked": 0, "gateways": 0, "silent": 1}
