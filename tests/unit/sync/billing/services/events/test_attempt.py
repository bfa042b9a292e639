"""The cause of the version that an event creates."""

from __future__ import annotations

import orjson
import pytest

from sync.billing.domain.facts.instructions import Override
from sync.billing.domain.facts.model import Facts
from sync.billing.services.events.attempt import event_cause
from tests.support.histories import at, event


@pytest.mark.parametrize("is_fetched", [False, True])
def test_a_cause_names_the_event_the_fetch_and_the_overrides(is_fetched: bool) -> None:
    facts = Facts(overrides=(Override("limit", "seats", 5, "why"), Override("module", "x", "read", "why", at(1))))
    fetched = event("active", 2) if is_fetched else None
    cause = orjson.loads(event_cause(event("active", 1), fetched, at(3) // 1000, facts, at(20)))
    assert (cause["source"], cause["received_at"]) == ("paddle", "2026-11-04T00:00:00Z")
    assert cause["overrides"] == ["limit:seats"], "those that count"
    assert ("fetched_at" in cause) is is_fetched
