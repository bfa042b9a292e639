"""A provider that declares a coarse clock gets the rule for events of one instant, whatever it tells of them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from sync.billing.domain.facts.model import FETCHED, NOTHING, Event, Order
from sync.billing.domain.facts.reducer import Reduced, merge_fetched, received, reduce
from sync.billing.domain.facts.steps import Kind
from sync.billing.providers.registry import PROVIDERS
from tests.support.acme import AcmeWebhooks


class CoarseWebhooks(AcmeWebhooks):
    """Acme with a status, and versions that several events share."""

    has_coarse_clock = True

    def read(self, environment: str, envelope: dict[str, Any], event_id: str, kind: str) -> Event:
        event = super().read(environment, envelope, event_id, kind)
        assert event.subscription is not None
        return replace(event, subscription=replace(event.subscription, status=envelope["status"]))


def read(adapter: AcmeWebhooks, event_id: str, status: str = "active") -> Event:
    subscription = {"id": "sub_1", "items": [{"price": {"id": "pri_1"}, "quantity": 1}]}
    envelope = {
        "id": event_id, "type": "changed", "version": 7, "tenant": "acme", "status": status,
        "subscription": subscription,
    }  # fmt: skip
    event = adapter.parse(json.dumps(envelope).encode(), "live")
    assert isinstance(event, Event)
    return event


def test_a_fine_clock_sets_no_step() -> None:
    assert read(AcmeWebhooks(), "evt_1").step is None
    assert not PROVIDERS["paddle"].adapter.has_coarse_clock


def test_an_end_is_the_last_and_the_rest_goes_by_receipt() -> None:
    adapter = CoarseWebhooks()
    events = [read(adapter, "evt_c", "active"), read(adapter, "evt_b", "paused"), read(adapter, "evt_a", "canceled")]
    assert [each.step and each.step.kind for each in events] == [Kind.CHANGE, Kind.CHANGE, Kind.END]
    for count in (2, 3):
        for order in itertools.permutations(events[:count]):
            facts = NOTHING
            for number, event in enumerate(order):
                result = reduce(facts, received(facts, event, 100 + number))
                assert isinstance(result, Reduced)
                facts = result.facts
            expected = "canceled" if count == 3 else order[-1].subscription and order[-1].subscription.status
            assert facts.subscriptions["acme:sub_1"].subscription.status == expected


@pytest.mark.parametrize("updated", [None, 7])
def test_an_answer_shares_the_instant_of_the_events(updated: int | None) -> None:
    """So an end that it does not show yet is newer, and of the rest the answer is the last."""
    adapter = CoarseWebhooks()
    asked, late, ended = (read(adapter, f"evt_{name}", name) for name in ("active", "paused", "canceled"))
    answer = replace(asked, event_id="", type=FETCHED, order=Order.fetched(updated, 9, clock_ns=7), received_ns=9)
    merged = merge_fetched(NOTHING, answer)
    assert isinstance(merged, Reduced)
    for event, status in ((late, "active"), (ended, "canceled")):
        result = reduce(merged.facts, received(merged.facts, event, 100))
        assert isinstance(result, Reduced)
        assert result.facts.subscriptions["acme:sub_1"].subscription.status == status


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_says_what_its_clock_is(name: str) -> None:
    assert isinstance(PROVIDERS[name].adapter.has_coarse_clock, bool)
