"""Signatures of Standard Webhooks: one algorithm, several secrets and signatures, and the time last."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Any

import pytest

from sync.billing.domain.facts.model import Event, Order, Unparsable
from sync.billing.providers.hmac_signature import SIGNATURES_MAX, SignedWebhooks
from sync.billing.providers.standard_webhooks import StandardScheme, any_key, decoded_key, signed_headers
from sync.billing.providers.webhook_adapter import Expired, Invalid, Malformed, Secret, Verified
from tests.support.polar_bodies import signed

KEY = b"a key of the standard, 32 bytes."
TEXT = "whsec_" + base64.b64encode(KEY).decode()
SECRETS = (Secret("sandbox", b"whsec_" + base64.b64encode(b"another key")), Secret("live", TEXT.encode()))
BODY = b'{"type":"a.b"}'
NOW = 1_795_400_000.0


class Parser(SignedWebhooks):
    """What another provider of the standard needs: a name, and what its events mean."""

    name = "dodo"
    scheme = StandardScheme()
    id_field = ""

    def read(self, environment: str, envelope: dict[str, Any], event_id: str, kind: str) -> Event:
        return Event(self.name, environment, event_id, kind, Order(1, 1, event_id))


def headers(*keys: bytes, body: bytes = BODY, at_s: float = NOW, version: str = "v1") -> dict[str, str]:
    return signed(body, "msg_1", *(keys or (KEY,)), at_s=int(at_s), version=version)


def verify(given: dict[str, str], body: bytes = BODY, tolerance_s: float = 300) -> object:
    return Parser().verify(body, given, SECRETS, NOW, tolerance_s)


@pytest.mark.parametrize(
    ("secret", "event_id", "timestamp", "body", "mark"),
    [
        (
            b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            b'{"test": 2432232314}',
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            b"whsec_plJ3nmyCDGBKInavdOK15jsl",
            "msg_loFOjxBNrRLzqYUf",
            "1731705121",
            b'{"event_type":"ping","data":{"success":true}}',
            "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
        ),
    ],
)
def test_the_published_examples(secret: bytes, event_id: str, timestamp: str, body: bytes, mark: str) -> None:
    """The values are those that the standard's own libraries, and the documentation of Svix, are tested with."""
    secrets, now_s = (Secret("live", secret),), float(timestamp)
    for signature in (mark, f"v1,{'A' * 43}= {mark}", f"v2,anything v1a,anything {mark}"):
        given = {"webhook-id": event_id, "webhook-timestamp": timestamp, "webhook-signature": signature}
        assert Parser().verify(body, given, secrets, now_s, 300) == Verified("live", event_id)
        assert Parser().verify(body + b" ", given, secrets, now_s, 300) == Invalid()


def test_the_secret_names_the_environment_and_the_header_the_event() -> None:
    assert verify(headers()) == Verified("live", "msg_1")
    assert verify(headers(b"another key")) == Verified("sandbox", "msg_1")


def test_any_signature_may_match_any_secret() -> None:
    assert verify(headers(b"a key of yesterday", KEY)) == Verified("live", "msg_1")


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp"])
def test_id_and_time_are_signed_too(changed: str) -> None:
    assert verify({**headers(), changed: "1795400001"}) == Invalid()


def test_another_body_or_key_or_algorithm_is_not_genuine() -> None:
    assert verify(headers(), body=BODY + b" ") == Invalid()
    assert verify(headers(b"a key of nobody")) == Invalid()
    assert isinstance(verify(headers(version="v1a")), Malformed)
    sha512 = base64.b64encode(hmac.new(KEY, b"msg_1.1795400000." + BODY, hashlib.sha512).digest()).decode()
    assert isinstance(verify({**headers(), "webhook-signature": f"v1,{sha512}"}), Malformed)


def test_only_a_genuine_signature_is_reported_as_expired() -> None:
    assert verify(headers(at_s=NOW - 301)) == Expired(301)
    assert verify(headers(at_s=NOW + 301)) == Expired(-301)
    assert verify(headers(b"a key of nobody", at_s=NOW - 301)) == Invalid()
    assert verify(headers(at_s=NOW - 9_999), tolerance_s=0) == Verified("live", "msg_1")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("webhook-id", "", "the webhook-id header is missing"),
        ("webhook-id", "with space", "the webhook-id header is not an id"),
        ("webhook-timestamp", "", "the webhook-timestamp header is missing"),
        ("webhook-timestamp", "1795400000.5", "not a time in whole seconds"),
        ("webhook-timestamp", "-1", "not a time in whole seconds"),
        ("webhook-signature", "", "the webhook-signature header is missing"),
        ("webhook-signature", "v1,AAAA", "has no v1 signature of 32 bytes"),
        ("webhook-signature", "v1 v1, ,", "has no v1 signature of 32 bytes"),
        ("webhook-signature", "x" * 3000, "longer than"),
        ("webhook-signature", "v1,x " * (SIGNATURES_MAX + 1), "more than"),
    ],
)
def test_malformed_headers_are_named(name: str, value: str, problem: str) -> None:
    found = verify({**headers(), name: value})
    assert isinstance(found, Malformed)
    assert problem in found.problem


def test_a_secret_stands_for_its_keys() -> None:
    assert list(decoded_key(b"whsec_YWJj")) == [b"abc"]
    assert list(decoded_key(b"YWI")) == [b"ab"], "padding may be left out"
    assert list(decoded_key(b"whsec_not base64")) == [] == list(decoded_key(b"whsec_"))
    assert list(any_key(b"whsec_YWJj")) == [b"whsec_YWJj", b"abc"]
    assert list(any_key(b"whsec_not-base64!")) == [b"whsec_not-base64!"]


def test_an_event_without_an_id_in_its_body_has_that_of_the_headers_or_of_its_bytes() -> None:
    event = Parser().parse(BODY, "live", "msg_1")
    assert event.event_id == "msg_1"
    derived = Parser().parse(BODY, "live").event_id
    assert derived == Parser().parse(BODY, "live").event_id != Parser().parse(BODY + b" ", "live").event_id
    broken = Parser().parse(b"{", "live", "msg_2")
    assert broken == Unparsable("msg_2", "", "the body is not JSON")


def test_the_sender_s_clock_is_the_only_one() -> None:
    assert Parser().verify(BODY, signed(BODY, "msg_1", KEY), SECRETS, time.time(), 5) == Verified("live", "msg_1")


def test_what_is_sent_is_signed_as_the_standard_says() -> None:
    (key,) = decoded_key(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signed_headers((key, KEY), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    first, second = made["webhook-signature"].split(" ")
    assert first == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert second.startswith("v1,")
    assert (made["webhook-id"], made["webhook-timestamp"]) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")


def test_a_receiver_accepts_a_message_that_one_of_its_secrets_has_signed() -> None:
    made = signed_headers((b"the next key", KEY), "msg_1", int(NOW), BODY)
    assert isinstance(verify(made), Verified)
    assert isinstance(verify(signed_headers((b"the next key",), "msg_1", int(NOW), BODY)), Invalid)
