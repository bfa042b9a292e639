"""Webhooks with an HMAC-SHA256 signature of a time and the raw body. Pure.

A scheme says where the time and the MACs are, and what is signed. `Scheme` is that of Paddle and Stripe: one header has
both. `standard_webhooks.StandardScheme` is that of Standard Webhooks.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import orjson

from sync.billing.domain.facts.model import Event, Unparsable
from sync.billing.providers import parsing
from sync.billing.providers.parsing import is_id
from sync.billing.providers.webhook_adapter import Expired, Invalid, Malformed, Secret, Verification, Verified

HEADER_MAX_CHARS = 2048
SIGNATURES_MAX = 16
"""Maximum MACs in one header, since each is compared with every secret."""

DIGITS = re.compile(r"[0-9]{1,12}")
_HEX = re.compile(r"[0-9a-f]{64}")


class Signature(NamedTuple):
    """A delivery's signature, not verified yet.

    Attributes:
        timestamp: when it was made, in whole seconds, as text.
        head: what is signed before the body.
        marks: the MACs, each of 32 bytes.
        event_id: the event's id, if the headers have it; "" if the body does.
    """

    timestamp: str
    head: bytes
    marks: Sequence[bytes]
    event_id: str = ""


class SignatureScheme(Protocol):
    """How a provider signs. Pure.

    Attributes:
        header: the name of the header with the MACs.
    """

    @property
    def header(self) -> str: ...  # noqa: D102

    def read(self, headers: Mapping[str, str]) -> Signature | Malformed:
        """Return the signature in a delivery's headers, whose names are in lower case."""

    def keys(self, secret: bytes) -> Sequence[bytes]:
        """Return the keys that a configured secret stands for."""


def header_of(headers: Mapping[str, str], name: str) -> str | Malformed:
    """Return the value of a header that a signature needs."""
    value = headers.get(name.lower())
    if not value:
        return Malformed(f"the {name} header is missing")
    if len(value) > HEADER_MAX_CHARS:
        return Malformed(f"the {name} header is longer than {HEADER_MAX_CHARS} characters")
    return value


@dataclass(frozen=True, slots=True)
class Scheme:
    """A signature in one header, as Paddle and Stripe write it: `time=SECONDS`, and one `mark=HEX` or more.

    Attributes:
        header: the header's name.
        separator: between the header's `key=value` parts.
        time_key, mark_key: the keys of the time and of the MACs.
        joint: separates the time and the body in the signed bytes.
    """

    header: str
    separator: str
    time_key: str
    mark_key: str
    joint: bytes

    def read(self, headers: Mapping[str, str]) -> Signature | Malformed:
        """Return the time and all MACs of the signature header; unknown keys are ignored."""
        header = header_of(headers, self.header)
        if isinstance(header, Malformed):
            return header
        pairs = [part.partition("=") for part in header.split(self.separator)]
        timestamps = [value for key, _, value in pairs if key == self.time_key]
        marks = [value for key, _, value in pairs if key == self.mark_key]
        if len(timestamps) != 1 or not DIGITS.fullmatch(timestamps[0]):
            return Malformed(f"the {self.header} header needs one {self.time_key} in whole seconds")
        if len(marks) > SIGNATURES_MAX:
            return Malformed(f"the {self.header} header has more than {SIGNATURES_MAX} {self.mark_key}")
        marks = [mark for mark in marks if _HEX.fullmatch(mark)]
        if not marks:
            return Malformed(f"the {self.header} header has no {self.mark_key} of 64 lower-case hex digits")
        return Signature(timestamps[0], timestamps[0].encode() + self.joint, [bytes.fromhex(mark) for mark in marks])

    def keys(self, secret: bytes) -> Sequence[bytes]:
        """Return the secret itself."""
        return (secret,)


class SignedWebhooks(ABC):
    """A webhook adapter of a provider whose events are JSON objects with an id and a type, signed by `scheme`.

    A subclass sets the attributes and implements `read`.

    Attributes:
        id_field, type_field: where an event's id and type are; `id_field` "": the id is in the headers only.
        has_coarse_clock: see `WebhookAdapter`. `read` may set `Event.step`; else only an end has a place, the last.
        sells_products: see `WebhookAdapter`.
    """

    name: str
    scheme: SignatureScheme
    id_field = "id"
    type_field = "type"
    has_coarse_clock = False
    sells_products = False

    @abstractmethod
    def read(self, environment: str, envelope: dict[str, Any], event_id: str, kind: str) -> Event:
        """Return the event in a verified JSON object.

        Raises:
            ValueError: it cannot be read; the text says why.
        """

    def account(self, envelope: Mapping[str, Any]) -> str | None:
        """Return the account of another merchant that an event is about; None for the own account."""
        return None

    def split(self, body: bytes, event_id: str) -> Sequence[tuple[str, bytes]]:
        """Return the events, each as its id and its body, that a verified body contains: this one."""
        return ((event_id, body),)

    def parse(self, body: bytes, environment: str, event_id: str = "") -> Event | Unparsable:
        """Return the event in a verified body of `environment`. Never raises.

        A body without an id gets `event_id`, or one that is derived from its bytes.
        """
        try:
            envelope = orjson.loads(body)
        except orjson.JSONDecodeError:
            return _unparsable(body, event_id, "the body is not JSON")
        if not isinstance(envelope, dict):
            return _unparsable(body, event_id, "the body is not a JSON object")
        id = envelope.get(self.id_field) if self.id_field else event_id or _id_of(body)
        kind = envelope.get(self.type_field)
        if not is_id(id):
            return _unparsable(body, event_id, f"{self.id_field} is missing or not an id")
        account = self.account(envelope)
        if not is_id(kind):
            return Unparsable(id, "", f"{self.type_field} is missing or not a name", account)
        try:
            event = self.read(environment, envelope, id, kind)
        except ValueError as error:
            return Unparsable(id, kind, str(error), account)
        event = event if account is None else replace(event, account=account)
        if self.has_coarse_clock and event.step is None and event.subscription is not None:
            return replace(event, step=parsing.step(event.subscription))
        return event

    def verify(
        self, body: bytes, headers: Mapping[str, str], secrets: Sequence[Secret], now_s: float, tolerance_s: float
    ) -> Verification:
        """Return the result of checking the signature of `body`; `tolerance_s` 0 disables the time check. Never raises.

        Any MAC may match any secret (rotation). The time is checked last, so that only a genuine signature is reported
        as expired.
        """
        signature = self.scheme.read(headers)
        if isinstance(signature, Malformed):
            return signature
        signed = signature.head + body
        environment: str | None = None
        for secret in secrets:
            for key in self.scheme.keys(secret.value):
                expected = hmac.digest(key, signed, "sha256")
                for mark in signature.marks:
                    # No early exit: the duration must not depend on which secret matched.
                    if hmac.compare_digest(expected, mark) and environment is None:
                        environment = secret.environment
        if environment is None:
            return Invalid()
        skew_s = int(now_s) - int(signature.timestamp)
        if tolerance_s > 0 and abs(skew_s) > tolerance_s:
            return Expired(skew_s)
        return Verified(environment, signature.event_id)


def _id_of(body: bytes) -> str:
    return f"body_{hashlib.sha256(body).hexdigest()[:32]}"


def _unparsable(body: bytes, event_id: str, problem: str) -> Unparsable:
    return Unparsable(event_id or _id_of(body), "", problem)
