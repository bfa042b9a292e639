"""Entries of a list of events are read one by one: one that cannot be read does not hide the others."""

from __future__ import annotations

from typing import Any

import pytest

from sync.billing.providers.api_client import listed_events
from sync.billing.providers.base import ProviderUnavailable


def occurred_ns(entry: dict[str, Any]) -> int:
    return int(entry["at"])


def test_an_entry_without_a_time_counts_as_long_past_and_one_without_an_id_is_left_out() -> None:
    entries = [{"id": "a", "at": "5"}, 7, None, {"id": "b", "at": "soon"}, {"id": " "}, {"id": "c", "at": "6"}]
    found = [(event.event_id, event.occurred_ns) for event in listed_events(entries, "id", occurred_ns)]
    assert found == [("a", 5), ("b", 0), ("c", 6)]
    assert listed_events([], "id", occurred_ns) == []


def test_a_page_without_any_id_cannot_be_read() -> None:
    with pytest.raises(ProviderUnavailable, match="no event has an id"):
        listed_events([7], "id", occurred_ns)
