"""What a drift record shows."""

from __future__ import annotations

from dataclasses import replace

from sync.billing.domain.facts.drift import Drift, differences, shown_fields, subscription_drift
from sync.billing.domain.facts.model import NOTHING, Item, Scheduled
from sync.billing.domain.facts.reducer import Reduced, reduce
from tests.support.histories import BASIC, PRO, at, event


def test_only_what_differs_is_shown_by_field() -> None:
    here, there = event("active", 1, PRO).subscription, event("active", 2, BASIC).subscription
    assert differences(here, there) == ({"items": [["pri_pro", 3]]}, {"items": [["pri_basic", 1]]})
    assert differences(here, here) == ({}, {})


def test_a_side_without_a_body_has_no_fields() -> None:
    body = event("active", 1).subscription
    assert body is not None
    assert differences(None, body) == (None, shown_fields(body))
    assert differences(body, None) == (shown_fields(body), None)


def test_instants_are_shown_as_text() -> None:
    body = event("active", 1, period=(0, 30)).subscription
    assert body is not None
    shown = shown_fields(replace(body, scheduled=Scheduled("pause", at(5), at(9)), items=(Item("pri_pro", 1),)))
    assert shown["period"] == ["2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"]
    assert shown["scheduled"] == ["pause", "2026-11-06T00:00:00Z", "2026-11-10T00:00:00Z"]


def test_a_record_leaves_out_what_is_empty() -> None:
    drift = Drift("unknown_there", "tenant:acme", "paddle:sub_1", "audit", at(1) // 1000)
    assert drift.shown() == {
        "kind": "unknown_there",
        "topic": "tenant:acme",
        "subject": "paddle:sub_1",
        "why": "audit",
        "at": "2026-11-02T00:00:00Z",
    }


def test_a_fetched_body_has_drifted_if_it_replaced_another_or_was_unknown() -> None:
    first, second = event("active", 1, PRO), event("active", 2, BASIC)
    before = reduce(NOTHING, first)
    assert isinstance(before, Reduced)
    after = reduce(before.facts, second)
    assert isinstance(after, Reduced)
    differs = subscription_drift("tenant:acme", "audit", second, before.facts, after.facts, 1)
    unknown = subscription_drift("tenant:acme", "audit", first, NOTHING, before.facts, 1)
    assert differs is not None
    assert unknown is not None
    assert (differs.kind, unknown.kind, unknown.here) == ("differs", "unknown_here", None)
    assert subscription_drift("tenant:acme", "audit", first, before.facts, before.facts, 1) is None
