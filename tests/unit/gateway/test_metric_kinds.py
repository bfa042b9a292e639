"""The kinds of metrics."""

from __future__ import annotations

import pytest

from gateway.metric_kinds import Histogram


def test_a_histogram_counts_up_to_and_including_its_bounds() -> None:
    histogram = Histogram((1, 2))
    for value in (-5, 0.5, 1, 1.5, 2, 3):
        histogram.observe(value)
    assert histogram.buckets() == [("1", 3), ("2", 5), ("+Inf", 6)]
    assert histogram.total == pytest.approx(8.0)
