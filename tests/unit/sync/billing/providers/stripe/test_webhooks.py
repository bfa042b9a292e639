"""Stripe's signature, events and subscriptions."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import given, strategies as st

from sync.billing.domain.facts.model import Event, Item, Period, Scheduled, Unparsable
from sync.billing.domain.tenant_naming import sanitize
from sync.billing.providers.base import Checkout
from sync.billing.providers.hmac_signature import HEADER_MAX_CHARS, SIGNATURES_MAX
from sync.billing.providers.stripe.subscription import subscription_of
from sync.billing.providers.stripe.webhooks import StripeWebhooks, checkout_of, fetched
from sync.billing.providers.webhook_adapter import Expired, Invalid, Malformed, Secret, Verified
from tests.support.stripe_bodies import NOW, body, envelope

SECRETS = (Secret("live", b"whsec_a"), Secret("sandbox", b"whsec_b"))
BODY = b'{"id":"evt_1"}'
STRIPE = StripeWebhooks()


def mark(secret: str = "whsec_a", timestamp: int = NOW, body: bytes = BODY) -> str:
    return hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def verify(header: str | None, tolerance_s: float = 300, now_s: float = NOW) -> object:
    return STRIPE.verify(BODY, {} if header is None else {"stripe-signature": header}, SECRETS, now_s, tolerance_s)


def parse(raw: bytes) -> Event:
    event = STRIPE.parse(raw, "live")
    assert isinstance(event, Event), event
    return sanitize(event)


class TestSignature:
    """`Stripe-Signature: t=SECONDS,v1=HEX`."""

    def test_a_known_one(self) -> None:
        """Computed apart from this code, with openssl dgst -sha256 -hmac."""
        secret = (Secret("live", b"whsec_test"),)
        header = "t=1492774577,v1=2a55874e33dedb30da6fac02873208f53a243141599a71c0d52a1d5b89656823"
        assert STRIPE.verify(b'{"a":1}', {"stripe-signature": header}, secret, 1492774577, 300) == Verified("live")
        assert STRIPE.verify(b'{"a":2}', {"stripe-signature": header}, secret, 1492774577, 300) == Invalid()

    def test_the_secret_tells_the_environment(self) -> None:
        assert verify(f"t={NOW},v1={mark()}") == Verified("live")
        assert verify(f"t={NOW},v1={mark('whsec_b')}") == Verified("sandbox")
        assert verify(f"t={NOW},v1={mark('whsec_c')}") == Invalid()

    def test_s28_any_of_several_and_other_schemes_are_ignored(self) -> None:
        assert verify(f"t={NOW},v1={'0' * 64},v1={mark()},v0={'1' * 64}, x=y") == Verified("live")

    @pytest.mark.parametrize("skew_s", [-301, 301])
    def test_s29_time_is_judged_last(self, skew_s: int) -> None:
        header = f"t={NOW - skew_s},v1={mark(timestamp=NOW - skew_s)}"
        assert verify(header) == Expired(skew_s)
        assert verify(header, tolerance_s=0) == Verified("live")
        assert verify(f"t={NOW - skew_s},v1={'0' * 64}") == Invalid()

    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "v1=" + "0" * 64,
            f"t={NOW}",
            f"t={NOW},t={NOW},v1={'0' * 64}",
            f"t=-1,v1={'0' * 64}",
            f"t={NOW},v1={'G' * 64}",
            f"t={NOW}" + f",v1={'0' * 64}" * (SIGNATURES_MAX + 1),
            f"t={NOW},v1={'0' * 64}," + "x" * HEADER_MAX_CHARS,
        ],
    )
    def test_malformed(self, header: str | None) -> None:
        assert isinstance(verify(header), Malformed)

    @given(st.text(max_size=200))
    def test_anything_is_answered(self, header: str) -> None:
        assert isinstance(verify(header), Malformed | Invalid | Expired)


class TestEvents:
    """What an event says."""

    def test_a_subscription(self) -> None:
        event = parse(envelope(body()))
        assert (event.tenant_id, event.customer_id, event.subscription_id, event.ignored) == (
            "acme",
            "cus_1",
            "sub_1",
            "",
        )
        assert event.order == (NOW * 10**9, NOW * 10**9, "evt_1")
        assert event.subscription is not None
        assert event.subscription.items == (Item("price_pro", 3),)
        assert event.subscription.period == Period((NOW - 100) * 10**9, (NOW + 100) * 10**9)
        assert not event.simulated

    def test_the_test_mode_is_nothing_real(self) -> None:
        assert parse(envelope(body(), livemode=False)).simulated

    def test_a_thin_event_has_to_be_fetched(self) -> None:
        raw = {
            "id": "evt_2",
            "object": "v2.core.event",
            "type": "v1.billing.subscription.updated",
            "created": "2026-11-23T02:13:20.000Z",
            "livemode": True,
            "related_object": {"id": "sub_1", "type": "billing.subscription", "url": "/v1/subscriptions/sub_1"},
        }
        event = parse(json.dumps(raw).encode())
        assert (event.subscription, event.subscription_id, event.ignored) == (None, "sub_1", "")
        assert isinstance(STRIPE.parse(json.dumps({**raw, "related_object": None}).encode(), "live"), Unparsable)

    def test_a_thin_event_about_something_else_is_ignored(self) -> None:
        """A schedule's id is no subscription's: asked for, it would not be found, and the event be parked for ever."""
        raw = {
            "id": "evt_3",
            "object": "v2.core.event",
            "type": "v1.subscription_schedule.updated",
            "created": "2026-11-23T02:13:20.000Z",
            "related_object": {"id": "sub_sched_1", "type": "subscription_schedule", "url": "/v1/..."},
        }
        event = parse(json.dumps(raw).encode())
        assert (event.subscription_id, "not about a subscription" in event.ignored) == (None, True)

    def test_an_event_that_shows_not_all_items_has_to_be_fetched(self) -> None:
        event = parse(envelope(body(items={"data": [], "has_more": True})))
        assert (event.subscription, event.subscription_id, event.tenant_id, event.ignored) == (None, "sub_1", None, "")
        with pytest.raises(ValueError, match="more items"):
            subscription_of(body(items={"data": [], "has_more": True}))

    def test_a_body_of_test_mode_is_not_live(self) -> None:
        assert fetched(body(livemode=False), "sandbox", 1).subscription_id == "sub_1"
        with pytest.raises(ValueError, match="of test mode"):
            fetched(body(livemode=False), "live", 1)

    def test_a_checkout_joins_tenant_and_subscription(self) -> None:
        session = {"id": "cs_1", "subscription": "sub_1", "customer": {"id": "cus_1"}, "client_reference_id": "acme"}
        event = parse(envelope(session, "checkout.session.completed"))
        assert (event.tenant_id, event.subscription_id, event.customer_id) == ("acme", "sub_1", "cus_1")
        assert event.ignored

    def test_others_are_ignored(self) -> None:
        assert "say nothing" in parse(envelope({"id": "in_1"}, "invoice.paid")).ignored

    @pytest.mark.parametrize(
        ("raw", "problem"),
        [
            (b"no", "not JSON"),
            (b"[]", "not a JSON object"),
            (b"{}", "id is missing"),
            (b'{"id":"evt_1"}', "type is missing"),
            (envelope(body(), created=None), "created is no Unix time"),
            (envelope(None), "data.object"),
            (envelope(body(id=None)), "no id"),
            (envelope(body(status=1)), "no status"),
            (envelope(body(items=[])), "items.data"),
            (envelope(body(items={"data": [{}]})), "no price.id"),
            (envelope(body(items={"data": [{"price": "p", "quantity": -1}]})), "quantity of p"),
            (envelope(body(customer=5)), "customer is not an id"),
        ],
    )
    def test_unparsable(self, raw: bytes, problem: str) -> None:
        found = STRIPE.parse(raw, "live")
        assert isinstance(found, Unparsable)
        assert problem in found.problem

    @given(
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda s: (
                st.dictionaries(
                    st.sampled_from(["id", "status", "items", "data", "price", "quantity", "trial_end", "cancel_at"]), s
                )
                | st.lists(s, max_size=3)
            ),
        )
    )
    def test_anything_is_answered(self, data: object) -> None:
        STRIPE.parse(envelope(data), "live")


class TestSubscription:
    """The neutral form."""

    @pytest.mark.parametrize(
        ("status", "neutral"),
        [
            ("active", "active"),
            ("trialing", "trialing"),
            ("past_due", "past_due"),
            ("unpaid", "unpaid"),
            ("incomplete", "incomplete"),
            ("incomplete_expired", "expired"),
            ("canceled", "canceled"),
            ("odd", "odd"),
        ],
    )
    def test_statuses(self, status: str, neutral: str) -> None:
        assert subscription_of(body(status=status)).status == neutral

    @pytest.mark.parametrize(
        ("status", "behavior", "neutral"),
        [
            ("active", "void", "paused"),
            ("active", "keep_as_draft", "uncollected"),
            ("active", "mark_uncollectible", "uncollected"),
            ("trialing", "void", "trialing"),
            ("past_due", "void", "past_due"),
            ("canceled", "void", "canceled"),
        ],
    )
    def test_a_paused_collection(self, status: str, behavior: str, neutral: str) -> None:
        collection = {"behavior": behavior, "resumes_at": NOW + 50}
        found = subscription_of(body(status=status, pause_collection=collection))
        is_paused = neutral in ("paused", "uncollected")
        assert (found.status, found.scheduled) == (
            neutral,
            Scheduled("resume", (NOW + 50) * 10**9) if is_paused else None,
        )
        assert subscription_of(body(pause_collection={"behavior": behavior})).scheduled is None

    def test_the_next_of_two_scheduled_changes_is_shown(self) -> None:
        collection = {"behavior": "void", "resumes_at": NOW + 50}
        for cancel_at, expected in ((NOW + 40, "cancel"), (NOW + 60, "resume")):
            found = subscription_of(body(pause_collection=collection, cancel_at=cancel_at)).scheduled
            assert found is not None
            assert found.action == expected

    def test_a_cancel_at_the_period_s_end_or_at_a_time(self) -> None:
        assert subscription_of(body(cancel_at_period_end=True)).scheduled == Scheduled("cancel", (NOW + 100) * 10**9)
        assert subscription_of(body(cancel_at=NOW + 5)).scheduled == Scheduled("cancel", (NOW + 5) * 10**9)
        assert subscription_of(body(cancel_at=NOW + 5, status="canceled")).scheduled is None

    def test_older_api_versions_have_the_period_on_the_subscription(self) -> None:
        items = {"data": [{"price": {"id": "price_pro"}}]}
        found = subscription_of(body(items=items, current_period_start=NOW, current_period_end=NOW + 9))
        assert (found.period, found.items) == (Period(NOW * 10**9, (NOW + 9) * 10**9), (Item("price_pro", 1),))

    def test_a_trial_ends(self) -> None:
        assert subscription_of(body(status="trialing", trial_end=NOW + 7)).trial_ends_ns == (NOW + 7) * 10**9
        assert subscription_of(body(trial_end=NOW - 7)).trial_ends_ns is None

    def test_fetched(self) -> None:
        event = sanitize(fetched(body(), "live", NOW * 10**9))
        assert (event.tenant_id, event.order) == ("acme", (NOW * 10**9, NOW * 10**9, "~"))
        with pytest.raises(ValueError, match="not an object"):
            fetched(None, "live", 1)


class TestCheckout:
    """A checkout session of the API."""

    SESSION = {  # noqa: RUF012 - never changed
        "id": "cs_live_1",
        "object": "checkout.session",
        "livemode": True,
        "status": "complete",
        "created": NOW,
        "customer": "cus_1",
        "subscription": "sub_1",
        "client_reference_id": "acme",
        "metadata": {},
    }

    def test_a_complete_one_is_the_event_of_its_completion(self) -> None:
        found = checkout_of(self.SESSION, "live", 0)
        assert found.payment is not None
        assert (found.fetched, found.is_final) == (None, True)
        event = sanitize(found.payment)
        assert (event.tenant_id, event.subscription_id, event.customer_id) == ("acme", "sub_1", "cus_1")
        webhook = parse(envelope(self.SESSION, "checkout.session.completed"))
        assert (event.type, event.order.occurred_ns) == (webhook.type, webhook.order.occurred_ns)
        assert event.named_by == webhook.named_by == "client_reference_id"

    @pytest.mark.parametrize("status", ["open", "expired", "something_new"])
    def test_any_other_is_not(self, status: str) -> None:
        assert checkout_of({**self.SESSION, "status": status}, "live", 0) == Checkout(is_final=status == "expired")

    def test_an_expanded_subscription_is_fetched_with_it(self) -> None:
        shown = body()
        found = checkout_of({**self.SESSION, "subscription": shown}, "live", 7)
        assert found.payment is not None
        assert found.fetched == fetched(shown, "live", 7)
        assert found.payment.subscription_id == shown["id"]
        # More items than are shown: it has to be fetched with all of them.
        shown["items"]["has_more"] = True
        assert checkout_of({**self.SESSION, "subscription": shown}, "live", 7).fetched is None

    def test_one_of_test_mode_is_simulated(self) -> None:
        event = checkout_of({**self.SESSION, "livemode": False}, "live", 0).payment
        assert event is not None
        assert event.simulated

    @pytest.mark.parametrize("data", [None, [], {}, {"status": None}, {"status": "complete", "created": "now"}])
    def test_what_is_no_session_is_said(self, data: object) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - any text
            checkout_of(data, "live", 0)
