"""What a gateway reports is bounded, says what it left out, and needs no nulls."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.console.reports import report, topic_list
from gateway.console.reports.report import Window
from gateway.console.reports.tab_status import Status
from gateway.metric_kinds import Histogram
from gateway.metrics import Metrics


def test_the_worst_topics_come_first_and_no_more_than_asked_for() -> None:
    unhealthy: dict[str, dict[str, int]] = {
        "a": {Status.STALE: 90},
        "b": {Status.BEHIND: 1, Status.SYNCED: 9},
        "c": {Status.NACKED: 1},
        "d": {Status.BEHIND: 5},
        "e": {Status.NACKED: 2, Status.BEHIND: 1},
    }
    assert report.worst_topics(unhealthy) == ["e", "c", "d", "b", "a"]
    assert report.worst_topics(unhealthy, 2) == ["e", "c"]


@pytest.mark.parametrize("size", [10, 200, 5000])
def test_rows_give_way_until_a_report_fits_and_are_counted(size: int) -> None:
    rows = {f"s_{number:04}": {"sub": "x" * size} for number in range(100)}
    encoded = report.fitted({"tabs": dict(rows), "more": 7}, "tabs", "more", 20_000)
    assert len(encoded) <= 20_000
    found: Any = orjson.loads(encoded)
    kept = list(found["tabs"])
    assert kept == list(rows)[: len(kept)], "the last give way"
    assert found["more"] == 7 + 100 - len(kept)
    assert len(kept) == min(100, len(kept) + 1) or len(encoded) + size + 30 > 20_000 * 0.9


def test_what_does_not_fit_without_rows_is_left_as_it_is() -> None:
    assert orjson.loads(report.fitted({"tabs": {"a": 1}, "x": "y" * 99}, "tabs", "", 50)) == {
        "tabs": {},
        "x": "y" * 99,
    }


def test_a_row_has_no_nulls_and_no_empty_texts() -> None:
    tab = {"session": "s", "sub": "", "acked": None, "sent": 0, "blocked": False}
    assert report.rows_by_session([tab, {"session": "t"}]) == {"s": {"sent": 0, "blocked": False}, "t": {}}


def test_latencies_are_of_the_last_minute_in_which_somebody_looked() -> None:
    histogram = Histogram((0.1, 1.0))
    histogram.observe(5.0, 10)
    window = Window(histogram)
    assert window.latency(0.0) == {"count": 10, "p50_beyond_s": 1.0, "p99_beyond_s": 1.0}
    for second in range(1, 60):
        assert window.latency(float(second))["count"] == 10
    histogram.observe(0.05, 98)
    histogram.observe(0.5, 2)
    assert window.latency(60.0) == {"count": 100, "p50_s": 0.1, "p99_s": 1.0}
    assert window.latency(119.0)["count"] == 100
    assert window.latency(120.0) == {"count": 0}
    histogram.observe(0.05, 7)
    assert window.latency(1000.0)["count"] == 7, "what came while nobody looked"
    assert window.latency(1060.0) == {"count": 0}


def test_report_topics_are_topics_whatever_is_looked_at() -> None:
    longest = f"{'e' * 32}/{'k' * 32}:{'i' * 128}"
    names = {report.tabs_topic("0123456789ab", name) for name in (longest, "tenant:acme")}
    assert len(names) == 2
    for name in (*names, report.gateway_topic("0123456789ab")):
        assert not topic_list.is_listed(name), "a topic, and no application's"
    assert topic_list.is_listed(longest)
    assert not topic_list.is_listed("no topic")


def test_counters_are_whole_numbers_by_name() -> None:
    metrics = Metrics()
    metrics.verdicts["stale"] = 2
    metrics.verdicts["applied"] = 3
    metrics.closed[1000] = 4
    found = report.counters(metrics)
    assert (found["publishes"], found["publish_refusals"], found["closed"]) == (5, 2, 4)
    assert {type(value) for value in found.values()} == {int}


def test_a_quantile_is_the_bound_that_the_share_stays_within() -> None:
    histogram = Histogram((0.1, 1.0))
    histogram.observe(0.05, 98)
    histogram.observe(5, 2)
    assert report.quantile(histogram, 0.5) == 0.1
    assert report.quantile(histogram, 0.99) is None
