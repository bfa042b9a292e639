"""Ints in, Prometheus out."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metric_kinds import Histogram
from gateway.metrics import CLOSE_CODES, DECLARED, Metrics
from planwire_client.core.frames import CloseCode

NOW = 1_800_000_000.0


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def test_every_plain_number_is_exported_under_its_name() -> None:
    metrics = Metrics()
    plain = {name: one for name, one in DECLARED.items() if not one.labels and one.kind != "histogram"}
    for number, attribute in enumerate(plain, start=2):
        setattr(metrics, attribute, number)
    found = samples(metrics)
    for number, declared in enumerate(plain.values(), start=2):
        suffix = "_total" if declared.kind == "counter" else ""
        assert found[f"planwire_{declared.name}{suffix}", ()] == number


def test_every_public_number_is_exported() -> None:
    numbers = {name for name, value in vars(Metrics()).items() if isinstance(value, int | float | Counter | Histogram)}
    assert numbers - {"probe_at"} == set(DECLARED)


def test_labels() -> None:
    metrics = Metrics()
    metrics.closed[4008] += 2
    metrics.requests["/v1/publish", "POST", 200] += 3
    found = samples(metrics)
    assert found["planwire_sockets_closed_total", (("code", "4008"),)] == 2
    labels = (("method", "POST"), ("route", "/v1/publish"), ("status", "200"))
    assert found["planwire_http_requests_total", labels] == 3


def test_a_browser_that_chooses_close_codes_makes_a_bounded_number_of_series() -> None:
    metrics = Metrics()
    for code in range(6000):
        metrics.socket_closed(code)
    found = {
        dict(labels)["code"]: value for (name, labels), value in samples(metrics).items() if "sockets_closed" in name
    }
    assert set(found) == {str(code) for code in CLOSE_CODES} | {"other"}
    assert {str(int(code)) for code in CloseCode} < set(found)
    assert len(found) < 40
    assert found["other"] == 6000 - len(CLOSE_CODES)


def test_versions_tell_their_own_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    metrics = Metrics()
    version = int((NOW - 3) * 1e6)
    metrics.announced(version)
    metrics.acked(version, occurred_at=NOW - 40)
    found = samples(metrics)
    assert found["planwire_publish_to_sent_seconds_bucket", (("le", "2.5"),)] == 0
    assert found["planwire_publish_to_sent_seconds_bucket", (("le", "5.0"),)] == 1
    assert found["planwire_publish_to_acked_seconds_count", ()] == 1
    assert found["planwire_occurred_to_acked_seconds_bucket", (("le", "60.0"),)] == 1
    assert found["planwire_occurred_to_acked_seconds_bucket", (("le", "30.0"),)] == 0


def test_the_age_of_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    metrics = Metrics()
    assert samples(metrics)["planwire_probe_age_seconds", ()] == float("inf")
    metrics.probe_at = NOW - 7
    assert samples(metrics)["planwire_probe_age_seconds", ()] == 7


def test_apps_do_not_share_a_registry() -> None:
    first, second = Metrics(), Metrics()
    first.opened = 5
    assert samples(second)["planwire_sockets_opened_total", ()] == 0
