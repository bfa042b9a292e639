"""Paddle's signatures and bodies: every genuine one is understood, anything else is refused without an exception."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given, strategies as st
from paddle_billing.Notifications import Secret as OfficialSecret, Verifier as OfficialVerifier

from sync.billing.domain.facts.model import Event, Item, Period, Scheduled, Unparsable
from sync.billing.domain.tenant_naming import sanitize
from sync.billing.providers.base import Checkout
from sync.billing.providers.hmac_signature import HEADER_MAX_CHARS, SIGNATURES_MAX
from sync.billing.providers.paddle.webhooks import PaddleWebhooks, checkout_of
from sync.billing.providers.webhook_adapter import Expired, Invalid, Malformed, Secret, Verification, Verified
from sync.core import instants
from tests.support.bodies import SANDBOX_SECRET, SECRET, envelope, official, signature, subscription

NOW = 1_795_395_356
BODY = b'{"event_id":"evt_1"}'
SECRETS = [Secret("live", SECRET.encode()), Secret("sandbox", SANDBOX_SECRET.encode())]
SUBSCRIPTION_TYPES = ["activated", "canceled", "created", "past_due", "paused", "resumed", "trialing", "updated"]


def verify(
    header: str | None, body: bytes = BODY, tolerance_s: float = 300, secrets: list[Secret] = SECRETS
) -> Verification:
    headers = {} if header is None else {"paddle-signature": header}
    return PaddleWebhooks().verify(body, headers, secrets, NOW, tolerance_s)


def parse(value: object, environment: str = "live") -> Event | Unparsable:
    return PaddleWebhooks().parse(json.dumps(value).encode(), environment)


def parsed(value: object) -> Event:
    event = parse(value)
    assert isinstance(event, Event)
    return sanitize(event)


class TestVerify:
    """The verifier."""

    def test_s26_the_secret_tells_the_environment(self) -> None:
        assert verify(signature(BODY, NOW, SECRET)) == Verified("live")
        assert verify(signature(BODY, NOW, SANDBOX_SECRET)) == Verified("sandbox")

    def test_s28_any_h1_may_match_any_secret(self) -> None:
        assert verify(signature(BODY, NOW, "old", "older", SANDBOX_SECRET)) == Verified("sandbox")
        rotated = [Secret("live", b"new"), Secret("live", SECRET.encode())]
        assert verify(signature(BODY, NOW, SECRET), secrets=rotated) == Verified("live")
        assert verify(signature(BODY, NOW, SECRET), secrets=rotated[:1]) == Invalid()

    @pytest.mark.parametrize("body", [BODY + b" ", BODY[:-1], b"", b'{"event_id": "evt_1"}'])
    def test_s30_another_body_is_invalid(self, body: bytes) -> None:
        assert verify(signature(BODY, NOW, SECRET), body) == Invalid()

    def test_another_time_in_the_header_is_invalid(self) -> None:
        header = signature(BODY, NOW, SECRET).replace(f"ts={NOW}", f"ts={NOW - 1}")
        assert verify(header) == Invalid()

    @pytest.mark.parametrize(
        ("age_s", "expected"),
        [
            (300, Verified("live")),
            (-300, Verified("live")),
            (301, Expired(301)),
            (-301, Expired(-301)),
        ],
    )
    def test_s29_tolerance_holds_and_the_failure_is_about_the_clock(self, age_s: int, expected: Verification) -> None:
        assert verify(signature(BODY, NOW - age_s, SECRET)) == expected

    def test_tolerance_zero_turns_the_time_check_off(self) -> None:
        assert verify(signature(BODY, 1, SECRET), tolerance_s=0) == Verified("live")

    def test_a_forged_signature_is_invalid_whatever_its_time(self) -> None:
        assert verify(signature(BODY, 1, "wrong")) == Invalid()

    def test_unknown_keys_are_ignored(self) -> None:
        assert verify("v=2;" + signature(BODY, NOW, SECRET) + ";h2=00;x") == Verified("live")

    @pytest.mark.parametrize(
        ("header", "problem"),
        [
            (None, "is missing"),
            ("", "is missing"),
            ("h1=" + "0" * 64, "needs one ts"),
            (f"ts={NOW};ts={NOW};h1=" + "0" * 64, "needs one ts"),
            ("ts=;h1=" + "0" * 64, "needs one ts"),
            ("ts=-1;h1=" + "0" * 64, "needs one ts"),
            ("ts=1.5;h1=" + "0" * 64, "needs one ts"),
            ("ts=²;h1=" + "0" * 64, "needs one ts"),
            ("ts=" + "9" * 13 + ";h1=" + "0" * 64, "needs one ts"),
            (f"ts={NOW}", "no h1"),
            (f"ts={NOW};h1=", "no h1"),
            (f"ts={NOW};h1=" + "A" * 64, "no h1"),
            (f"ts={NOW};h1=" + "é" * 64, "no h1"),
            (f"ts={NOW};" + ";".join(["h1=" + "0" * 64] * (SIGNATURES_MAX + 1)), "more than"),
            ("x" * (HEADER_MAX_CHARS + 1), "longer than"),
        ],
    )
    def test_a_header_that_cannot_be_read_is_malformed(self, header: str | None, problem: str) -> None:
        result = verify(header)
        assert isinstance(result, Malformed)
        assert problem in result.problem

    def test_no_secrets_verify_nothing(self) -> None:
        assert verify(signature(BODY, NOW, SECRET), secrets=[]) == Invalid()

    def test_a_secret_is_not_shown(self) -> None:
        assert SECRET not in repr(SECRETS)

    @given(
        st.text(max_size=300) | st.from_regex(r"(ts=\d{0,14};?|h1=[0-9a-f]{0,70};?|[a-z]=;?){0,8}"),
        st.binary(max_size=50),
    )
    def test_it_never_raises_and_never_passes_what_was_not_signed(self, header: str, body: bytes) -> None:
        assert isinstance(verify(header, body), Malformed | Invalid)


class Request(NamedTuple):
    """What the official verifier reads."""

    body: bytes
    headers: dict[str, str]


@given(
    body=st.text(max_size=200).map(str.encode),
    signed=st.booleans(),
    secrets=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True),
    signing=st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=3),
)
def test_it_agrees_with_the_official_sdk(body: bytes, signed: bool, secrets: list[str], signing: list[str]) -> None:
    """The SDK takes the time check apart: it reads the real clock, so it is off here on both sides."""
    header = signature(body if signed else body + b"x", NOW, *signing)
    request = Request(body, {"Paddle-Signature": header})
    try:
        official_says = OfficialVerifier(0).verify(request, [OfficialSecret(secret) for secret in secrets])
    except ConnectionRefusedError:
        official_says = False
    ours = verify(header, body, 0, [Secret("live", secret.encode()) for secret in secrets])
    assert isinstance(ours, Verified) is official_says


class TestParse:
    """The parser, on bodies made after the official ones."""

    def test_a_subscription_event_is_normalised(self) -> None:
        data = subscription(
            status="trialing",
            items=[("pri_seat", 12), ("pri_pro", 1)],
            updated_at="2026-11-01T00:00:00.123456789Z",
            current_billing_period={"starts_at": "2026-11-01T00:00:00Z", "ends_at": "2026-11-15T00:00:00.5Z"},
            scheduled_change={
                "action": "pause",
                "effective_at": "2026-11-15T00:00:00Z",
                "resume_at": "2026-12-15T00:00:00Z",
            },
        )
        value = envelope(data, occurred_at="2026-11-01T00:00:01Z")
        event = parsed(value)
        assert (event.provider, event.environment, event.type) == ("paddle", "live", "subscription.updated")
        assert (event.event_id, event.delivery_id) == (value["event_id"], value["notification_id"])
        assert (event.tenant_id, event.customer_id, event.subscription_id) == ("acme", "ctm_1", "sub_1")
        assert event.order == (
            instants.parse("2026-11-01T00:00:00.123456789Z"),
            instants.parse("2026-11-01T00:00:01Z"),
            value["event_id"],
        )
        body = event.subscription
        assert body is not None
        assert body.items == (Item("pri_seat", 12), Item("pri_pro", 1))
        assert body.period == Period(instants.parse("2026-11-01T00:00:00Z"), instants.parse("2026-11-15T00:00:00.5Z"))
        assert body.trial_ends_ns == body.period.ends_ns
        assert body.scheduled == Scheduled(
            "pause", instants.parse("2026-11-15T00:00:00Z"), instants.parse("2026-12-15T00:00:00Z")
        )

    def test_a_trial_ends_with_its_longest_item(self) -> None:
        data = subscription(status="trialing", items=[("pri_a", 1), ("pri_b", 1), ("pri_c", 1)])
        data["items"][0]["trial_dates"] = {"starts_at": "2026-11-01T00:00:00Z", "ends_at": "2026-11-08T00:00:00Z"}
        data["items"][1]["trial_dates"] = {"starts_at": "2026-11-01T00:00:00Z", "ends_at": "2026-11-15T00:00:00Z"}
        body = parsed(envelope(data)).subscription
        assert body is not None
        assert body.trial_ends_ns == instants.parse("2026-11-15T00:00:00Z")

    def test_updated_at_may_be_absent(self) -> None:
        event = parsed(envelope(subscription(updated_at=None)))
        assert event.order.updated_ns == event.order.occurred_ns

    @pytest.mark.parametrize(("value", "tenant"), [("acme", "acme"), (42, "42"), (True, None), ("", None), ([], None)])
    def test_s35_the_tenant_is_what_custom_data_says(self, value: object, tenant: str | None) -> None:
        assert parsed(envelope(subscription(custom_data={"tenant_id": value}))).tenant_id == tenant
        assert parsed(envelope(subscription(custom_data=None))).tenant_id is None
        assert parsed(envelope(subscription(custom_data="text"))).tenant_id is None

    def test_s27_simulated_ids_are_marked(self) -> None:
        assert parsed(envelope(subscription(), event_id="ntfsimevt_01h")).simulated
        assert not parsed(envelope(subscription())).simulated

    def test_a_completed_transaction_joins_tenant_and_subscription(self) -> None:
        data = {"id": "txn_1", "subscription_id": "sub_9", "customer_id": "ctm_9", "custom_data": {"tenant_id": "acme"}}
        event = parsed(envelope(data, event_type="transaction.completed"))
        assert (event.tenant_id, event.subscription_id, event.customer_id) == ("acme", "sub_9", "ctm_9")
        assert event.subscription is None
        assert "hint" in event.ignored

    @pytest.mark.parametrize("kind", ["customer.updated", "transaction.billed", "moon.rose"])
    def test_s34_unknown_types_are_events_that_say_nothing(self, kind: str) -> None:
        event = parsed(envelope({"id": "x"}, event_type=kind))
        assert event.ignored
        assert (event.subscription, event.tenant_id) == (None, None)

    @pytest.mark.parametrize("data", [{"status": "inactive"}, {"scheduled_change": {"action": "explode"}}])
    def test_s34_unknown_words_are_passed_on(self, data: dict[str, Any]) -> None:
        if "scheduled_change" in data:
            data = {"scheduled_change": {"action": "explode", "effective_at": "2026-11-15T00:00:00Z"}}
        assert parsed(envelope(subscription(**data))).subscription is not None

    @pytest.mark.parametrize(
        ("fields", "problem"),
        [
            ({"occurred_at": "yesterday"}, "'yesterday' is not an RFC 3339 time"),
            ({"occurred_at": None}, "is not an RFC 3339 time"),
            ({"data": []}, "data is not an object"),
            ({"data": subscription(id=None)}, "data.id is missing"),
            ({"data": subscription(id=7)}, "data.id is not an id"),
            ({"data": subscription(status=None)}, "data.status is missing"),
            ({"data": subscription(items=[("", 1)])}, "an item has no price.id"),
            ({"data": subscription(items=[("pri_1", -1)])}, "the quantity of pri_1"),
            ({"data": subscription(items=[("pri_1", True)])}, "the quantity of pri_1"),
            ({"data": subscription(items=[("pri_1", 1.5)])}, "the quantity of pri_1"),
            ({"data": {**subscription(), "items": "many"}}, "data.items is not a list"),
            ({"data": {**subscription(), "items": ["one"]}}, "an item has no price.id"),
            ({"data": subscription(updated_at="now")}, "'now' is not an RFC 3339 time"),
            ({"data": subscription(current_billing_period=[])}, "current_billing_period is not an object"),
            ({"data": subscription(scheduled_change={"effective_at": "x"})}, "scheduled_change has no action"),
            ({"data": subscription(scheduled_change={"action": "cancel"})}, "is not an RFC 3339 time"),
        ],
    )
    def test_a_body_of_another_shape_is_unparsable_by_its_own_id(self, fields: dict[str, Any], problem: str) -> None:
        value = {**envelope(subscription()), **fields}
        result = parse(value)
        assert isinstance(result, Unparsable)
        assert (result.event_id, result.type) == (value["event_id"], "subscription.updated")
        assert problem in result.problem

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"null", b"\xff", b"{}", b'{"event_id":1}', b'{"event_id":"a b"}']
    )
    def test_a_body_without_an_id_gets_one_of_its_bytes(self, body: bytes) -> None:
        result, again = PaddleWebhooks().parse(body, "live"), PaddleWebhooks().parse(body, "live")
        assert isinstance(result, Unparsable)
        assert result.event_id.startswith("body_")
        assert result == again

    def test_a_body_without_a_type_is_unparsable(self) -> None:
        result = parse({**envelope({}), "event_type": None})
        assert isinstance(result, Unparsable)
        assert result.event_id.startswith("evt_")

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(subscription())), inner),
        )
    )
    def test_it_never_raises(self, data: object) -> None:
        assert isinstance(parse(envelope(data)), Event | Unparsable)


@pytest.mark.parametrize("kind", SUBSCRIPTION_TYPES)
def test_official_subscription_bodies_are_understood(kind: str) -> None:
    data = official(f"subscription.{kind}")
    event = parsed(envelope(data, event_type=f"subscription.{kind}", occurred_at=data["updated_at"]))
    body = event.subscription
    assert body is not None
    assert (body.id, body.status) == (data["id"], data["status"])
    assert [(item.price_id, item.quantity) for item in body.items] == [
        (item["price"]["id"], item["quantity"]) for item in data["items"]
    ]
    assert event.tenant_id is None
    assert (body.period is None) == (data["current_billing_period"] is None)
    assert (body.trial_ends_ns is None) == (kind != "trialing")


def test_the_official_completed_transaction_is_a_hint() -> None:
    data = official("transaction.completed")
    event = parsed(envelope(data, event_type="transaction.completed"))
    assert event.subscription_id == data["subscription_id"]
    assert event.ignored


@pytest.mark.parametrize("status", ["paid", "completed"])
def test_a_paid_transaction_of_the_api_is_the_event_of_its_payment(status: str) -> None:
    data: dict[str, Any] = {"id": "txn_1", "status": status, "customer_id": "ctm_1", "subscription_id": "sub_1"}
    data |= {"custom_data": {"tenant_id": "acme"}, "updated_at": "2026-11-24T00:00:00Z"}
    found = checkout_of(data, "live", 0)
    assert found.payment is not None
    event = sanitize(found.payment)
    assert (event.tenant_id, event.subscription_id, event.customer_id) == ("acme", "sub_1", "ctm_1")
    assert (event.type, event.order.occurred_ns) == (f"transaction.{status}", instants.parse("2026-11-24T00:00:00Z"))
    assert (found.fetched, found.is_final) == (None, status == "completed")
    without = checkout_of({**data, "subscription_id": None}, "live", 0)
    assert without.payment is not None
    assert without.payment.subscription_id is None


@pytest.mark.parametrize("status", ["draft", "ready", "billed", "canceled", "past_due", "something_new"])
def test_any_other_transaction_is_not_paid(status: str) -> None:
    assert checkout_of({"id": "txn_1", "status": status}, "live", 0) == Checkout(is_final=status == "canceled")


@pytest.mark.parametrize("data", [None, [], {}, {"status": 1}, {"id": "txn_1", "status": "paid"}])
def test_what_is_no_transaction_is_said(data: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any text
        checkout_of(data, "live", 0)
