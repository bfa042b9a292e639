"""Polar's webhooks: what each body means in the neutral form, and what names its tenant."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from sync.billing.domain.facts.model import (
    EXPIRED,
    FETCHED,
    NOTHING,
    Event,
    Item,
    NamePlace,
    Period,
    Scheduled,
    Unparsable,
)
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.billing.domain.tenant_naming import sanitize
from sync.billing.providers.polar.webhooks import STATE, PolarWebhooks, fetched, read_preview
from sync.billing.providers.webhook_adapter import Secret, Verified
from sync.core import instants
from tests.support.polar_bodies import (
    PRICES,
    PRODUCTS,
    SANDBOX_SECRET,
    SECRET,
    at,
    customer,
    envelope,
    full_state,
    id_of,
    order,
    price,
    signed,
    subscription,
)

ADAPTER = PolarWebhooks()
ID = "7d2c2d6e-9f0a-4d1b-8a57-0c8b1f0d9a11"


def parsed(body: bytes, event_id: str = ID) -> Event:
    event = ADAPTER.parse(body, "live", event_id)
    assert isinstance(event, Event), event
    return event


def body_of(**fields: Any) -> Any:
    return parsed(envelope(subscription(**fields))).subscription


class TestSignature:
    def test_the_key_is_the_secret_as_polar_shows_it(self) -> None:
        body = envelope(subscription())
        secrets = (Secret("live", SECRET.encode()), Secret("sandbox", SANDBOX_SECRET.encode()))
        now_s = instants.parse(at()) / 1e9
        assert ADAPTER.verify(body, signed(body, ID), secrets, now_s, 300) == Verified("live", ID)
        sandbox = signed(body, ID, SANDBOX_SECRET)
        assert ADAPTER.verify(body, sandbox, secrets, now_s, 300) == Verified("sandbox", ID)

    def test_the_key_is_what_a_newer_secret_encodes(self) -> None:
        """Polar signs so since September 2026, with the secrets that it has made since."""
        body, key = envelope(subscription()), b"a key of 32 bytes, as made since"
        secrets = (Secret("live", SECRET.encode()), Secret("live", b"whsec_" + base64.b64encode(key)))
        now_s = instants.parse(at()) / 1e9
        assert ADAPTER.verify(body, signed(body, ID, key), secrets, now_s, 300) == Verified("live", ID)


class TestSubscription:
    def test_the_whole_of_it(self) -> None:
        data = subscription(seats=7)
        event = parsed(envelope(data, "subscription.created"))
        body = event.subscription
        assert body is not None
        assert (event.event_id, event.type, event.subscription_id) == (ID, "subscription.created", data["id"])
        assert (body.id, body.status, body.customer_id) == (data["id"], "active", data["customer_id"])
        assert body.items == (Item(PRICES["pro"], 7),)
        assert body.products == {PRICES["pro"]: PRODUCTS["pro"]}
        starts, ends = data["current_period_start"], data["current_period_end"]
        assert body.period == Period(instants.parse(starts), instants.parse(ends))
        assert body.created_ns == instants.parse(data["created_at"])
        assert (body.trial_ends_ns, body.scheduled) == (None, None)
        assert event.order.updated_ns == instants.parse(data["modified_at"])

    def test_a_new_one_was_not_modified_yet(self) -> None:
        data = subscription(modified_at=None)
        assert parsed(envelope(data)).order.updated_ns == instants.parse(data["created_at"])

    @pytest.mark.parametrize(
        "kind",
        [
            *("created", "updated", "active", "canceled", "uncanceled", "revoked", "past_due"),
            *("cycled", "paused", "resumed", "something_new"),
        ],
    )
    def test_every_type_carries_the_subscription(self, kind: str) -> None:
        assert parsed(envelope(subscription(), f"subscription.{kind}")).subscription is not None

    @pytest.mark.parametrize(
        ("status", "neutral"),
        [
            *(
                (word, word)
                for word in ("incomplete", "trialing", "active", "past_due", "canceled", "unpaid", "paused")
            ),
            ("incomplete_expired", EXPIRED),
        ],
    )
    def test_statuses(self, status: str, neutral: str) -> None:
        assert body_of(status=status).status == neutral

    def test_seats_or_units_or_one(self) -> None:
        assert body_of(seats=3).items[0].quantity == 3
        assert body_of(units=40).items[0].quantity == 40
        assert body_of(seats=0).items[0].quantity == 0
        assert body_of().items[0].quantity == 1

    def test_the_item_is_the_price_that_recurs(self) -> None:
        metered = price("calls", amount_type="metered_unit")
        assert body_of(prices=[metered, price("pro")]).items == (Item(PRICES["pro"], 1),)
        assert body_of(prices=[metered]).items == (Item("calls", 1),)
        assert body_of(prices=[]).items == (Item(PRODUCTS["pro"], 1),), "a product without a price that is shown"

    def test_what_polar_will_do_by_itself(self) -> None:
        soon, later = at(-86_400), at(-9 * 86_400)
        soon_ns, later_ns = instants.parse(soon), instants.parse(later)
        assert body_of(cancel_at_period_end=True, ends_at=soon).scheduled == Scheduled("cancel", soon_ns)
        assert body_of(cancel_at_period_end=True, current_period_end=soon).scheduled == Scheduled("cancel", soon_ns)
        pause = {"pause_at_period_end": True, "current_period_end": soon}
        assert body_of(**pause).scheduled == Scheduled("pause", soon_ns)
        assert body_of(**pause, resumes_at=later).scheduled == Scheduled("pause", soon_ns, later_ns)
        assert body_of(status="paused", resumes_at=later).scheduled == Scheduled("resume", later_ns)
        assert body_of(status="canceled", cancel_at_period_end=True, ends_at=soon).scheduled is None

    def test_a_trial_ends(self) -> None:
        ends = at(-3 * 86_400)
        assert body_of(status="trialing", trial_end=ends).trial_ends_ns == instants.parse(ends)
        assert body_of(status="active", trial_end=ends).trial_ends_ns is None

    @pytest.mark.parametrize(
        ("fields", "problem"),
        [
            ({"id": None}, "data.id is missing"),
            ({"status": None}, "data.status is missing"),
            ({"product_id": None}, "data.product_id is missing"),
            ({"seats": -1}, "is no whole number"),
            ({"seats": True}, "is no whole number"),
            ({"modified_at": "yesterday"}, "not an RFC 3339 time"),
        ],
    )
    def test_what_cannot_be_read_says_why(self, fields: dict[str, Any], problem: str) -> None:
        found = ADAPTER.parse(envelope(subscription(**fields)), "live", ID)
        assert isinstance(found, Unparsable)
        assert problem in found.problem
        assert found.event_id == ID


class TestNames:
    def tenant(self, data: dict[str, Any], kind: str = "subscription.updated") -> tuple[str | None, str]:
        event = sanitize(parsed(envelope(data, kind)))
        return event.tenant_id, event.named_by

    def test_the_subscription_then_the_customer_then_its_external_id(self) -> None:
        named = customer(metadata={"tenant_id": "by-metadata"}, external_id="by-id")
        assert self.tenant(subscription("acme", customer=named)) == ("acme", "metadata.tenant_id")
        assert self.tenant(subscription(None, customer=named)) == ("by-metadata", "customer.metadata.tenant_id")
        only_id = customer(external_id="auth0|5f1c")
        assert self.tenant(subscription(None, customer=only_id)) == ("auth0%7C5f1c", "customer.external_id")
        assert self.tenant(subscription(None))[0] is None

    def test_a_customer_s_own_events(self) -> None:
        event = parsed(envelope(customer(external_id="acme"), "customer.updated"))
        assert (event.customer_id, event.subscription_id) == (id_of("customer.acme"), None)
        assert NamePlace("customer.external_id", "acme") in event.names
        assert event.ignored

    def test_the_order_of_a_checkout(self) -> None:
        data = subscription(None)
        event = sanitize(parsed(envelope(order(data), "order.paid")))
        assert (event.tenant_id, event.subscription_id, event.subscription) == ("acme", data["id"], None)
        assert event.ignored
        renewal = order(data, billing_reason="subscription_cycle")
        assert parsed(envelope(renewal, "order.paid")).names == ()


class TestOthers:
    @pytest.mark.parametrize("kind", ["checkout.updated", "benefit.updated", "customer.deleted", "refund.created"])
    def test_other_types_say_nothing_of_entitlements(self, kind: str) -> None:
        event = parsed(envelope({"id": ID}, kind))
        assert event.ignored
        assert event.subscription is None

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"type": "subscription.updated"}', b'{"data": {}}'])
    def test_no_body_raises(self, body: bytes) -> None:
        assert isinstance(ADAPTER.parse(body, "live", ID), Unparsable)
        assert ADAPTER.split(body, ID) == ((ID, body),)

    def test_a_fetched_one(self) -> None:
        data, began_ns = subscription(), instants.parse(at())
        event = fetched(data, "live", began_ns)
        assert (event.type, event.subscription_id, event.order.occurred_ns) == (FETCHED, data["id"], began_ns)
        with pytest.raises(ValueError, match="not an object"):
            fetched([], "live", began_ns)

    def test_a_preview(self) -> None:
        assert read_preview({"due_amount": 1}, "sub").subscription is None
        found = read_preview(subscription(), "sub").subscription
        assert found is not None
        assert found.id == "sub"


class TestCustomerState:
    """`customer.state_changed` lists the live subscriptions of a customer."""

    def parts(self, *live: dict[str, Any], **fields: Any) -> list[Event]:
        body = envelope(full_state(customer(**fields), *live), STATE)
        return [parsed(part, event_id) for event_id, part in ADAPTER.split(body, ID)]

    def test_each_live_subscription_is_an_event_and_so_is_the_state(self) -> None:
        one, other = subscription(seats=2), subscription("globex", "basic", status="trialing", trial_end=at(-60))
        first, second, whole = self.parts(one, other, external_id="acme")
        assert first.subscription is not None
        assert second.subscription is not None
        assert first.subscription.items == (Item(PRODUCTS["pro"], 2),)
        assert (second.subscription.status, second.subscription.items) == ("trialing", (Item(PRODUCTS["basic"], 1),))
        assert first.subscription.customer_id == id_of("customer.acme") == whole.customer_id
        assert len({first.event_id, second.event_id, whole.event_id}) == 3
        assert whole.live_subscriptions == frozenset((one["id"], other["id"]))
        assert sanitize(whole).tenant_id == "acme"

    def test_one_without_live_subscriptions(self) -> None:
        (whole,) = self.parts()
        assert whole.live_subscriptions == frozenset()

    def test_a_state_without_quantities_is_a_hint(self) -> None:
        body = full_state(customer(), subscription())
        for entry in body["active_subscriptions"]:
            del entry["seats"], entry["units"]
        first, _ = (parsed(part) for _, part in ADAPTER.split(envelope(body, STATE), ID))
        assert (first.subscription, first.subscription_id) == (None, id_of("subscription.acme"))

    @given(st.permutations(range(4)), st.lists(st.integers(0, 3), max_size=4))
    def test_the_subscription_s_own_event_wins_in_any_order(self, places: list[int], again: list[int]) -> None:
        """The state comes a moment later and shows less of the same modification."""
        older = subscription(modified_at=at(50), seats=1)
        newer = {**older, "modified_at": at(40), "seats": 5, "pause_at_period_end": True}
        arrivals = [
            parsed(envelope(older, ago_s=49), "a"),
            parsed(ADAPTER.split(envelope(full_state(customer(), older), STATE, 45), "b")[0][1], "b"),
            parsed(envelope(newer, ago_s=39), "c"),
            parsed(ADAPTER.split(envelope(full_state(customer(), newer), STATE, 35), "d")[0][1], "d"),
        ]
        facts = NOTHING
        for place in (*places, *again):
            result = reduce(facts, arrivals[place])
            facts = result.facts if isinstance(result, Reduced) else facts
        (entry,) = facts.subscriptions.values()
        assert entry.subscription == arrivals[2].subscription

    @given(
        st.recursive(st.none() | st.booleans() | st.text(max_size=3), lambda x: st.lists(x, max_size=3), max_leaves=5)
    )
    def test_whatever_is_listed_nothing_raises(self, listed: object) -> None:
        body = orjson.dumps({"type": STATE, "timestamp": at(), "data": {"id": "c", "active_subscriptions": listed}})
        for event_id, part in ADAPTER.split(body, ID):
            ADAPTER.parse(part, "live", event_id)
