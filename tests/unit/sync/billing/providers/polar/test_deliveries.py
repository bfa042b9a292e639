"""Polar's list of deliveries: which ones are ours, and what each shows of its event."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from sync.billing.providers.base import ProviderEvent
from sync.billing.providers.polar.deliveries import events_of, own_endpoints
from sync.core import instants

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda of: st.lists(of, max_size=3) | st.dictionaries(st.sampled_from(["id", "url", "webhook_event"]), of),
    max_leaves=8,
)


def delivery(at: str = "2026-11-30T12:00:00.000001Z", **fields: Any) -> dict[str, Any]:
    event = {"id": "evt", "payload": '{"type":"a.b"}', **fields}
    return {"id": "made", "created_at": at, "succeeded": False, "webhook_event": event}


@pytest.mark.parametrize(
    ("url", "format", "is_ours"),
    [
        ("https://billing.example.com/webhooks/polar", "raw", True),
        ("https://example.com/planwire/webhooks/polar/?x=1", "raw", True),
        ("https://billing.example.com/webhooks/polar", "discord", False),
        ("https://example.com/api/polar", "raw", False),
        ("https://example.com/webhooks/polarize", "raw", False),
        ("https://[", "raw", False),
        (None, "raw", False),
    ],
)
def test_our_endpoints_are_known_by_their_path(url: object, format: str, is_ours: bool) -> None:
    assert own_endpoints([{"id": "e", "url": url, "format": format}]) == (["e"] if is_ours else [])


def test_the_oldest_comes_first_and_its_instant_is_the_cursor() -> None:
    newer, older = delivery("2026-11-30T12:00:01+00:00", id="b"), delivery(id="a")
    found = events_of([newer, older])
    assert [entry.event_id for entry in found] == ["a", "b"]
    at = "2026-11-30T12:00:00.000001Z"
    assert found[0] == ProviderEvent("a", instants.parse(at), b'{"type":"a.b"}', at)
    assert found[0].after == at


@pytest.mark.parametrize("fields", [{"payload": None}, {"id": None}, {"id": "with space"}])
def test_what_shows_no_event_is_left_out(fields: dict[str, Any]) -> None:
    assert events_of([delivery(**fields), delivery("yesterday"), {}, None, {"webhook_event": 1}]) == []


@given(st.lists(JSON, max_size=4))
def test_whatever_is_listed_nothing_raises(listed: list[object]) -> None:
    own_endpoints(listed)
    events_of(listed)
