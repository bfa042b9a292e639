"""Webhooks with an HMAC signature as Paddle and Stripe write it: one header with a time and one or more MACs. Pure.

Both sign the time, a separator and the raw body with HMAC-SHA256. A `Scheme` holds their names and separators.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from sync.billing.domain.facts.model import Event, Unparsable
from sync.billing.providers import parsing
from sync.billing.providers.base import Expired, Invalid, Malformed, Secret, Verification, Verified
from sync.billing.providers.parsing import is_id

HEADER_MAX_CHARS = 2048
SIGNATURES_MAX = 16
"""Maximum MACs in one header, since each is compared with every secret."""

_DIGITS = re.compile(r"[0-9]{1,12}")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a provider writes its signature.

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

    def read(self, header: str) -> tuple[str, list[str]] | Malformed:
        """Return the time as text and all MACs of a signature header."""
        if len(header) > HEADER_MAX_CHARS:
            return Malformed(f"the {self.header} header is longer than {HEADER_MAX_CHARS} characters")
        pairs = [part.partition("=") for part in header.split(self.separator)]
        timestamps = [value for key, _, value in pairs if key == self.time_key]
        marks = [value for key, _, value in pairs if key == self.mark_key]
        if len(timestamps) != 1 or not _DIGITS.fullmatch(timestamps[0]):
            return Malformed(f"the {self.header} header needs one {self.time_key} in whole seconds")
        if len(marks) > SIGNATURES_MAX:
            return Malformed(f"the {self.header} header has more than {SIGNATURES_MAX} {self.mark_key}")
        marks = [mark for mark in marks if _HEX.fullmatch(mark)]
        if not marks:
            return Malformed(f"the {self.header} header has no {self.mark_key} of 64 lower-case hex digits")
        return timestamps[0], marks


class SignedWebhooks(ABC):
    """A webhook adapter of a provider whose events are JSON objects with an id and a type, signed by `scheme`.

    A subclass sets the attributes and implements `read`.

    Attributes:
        id_field, type_field: where an event's id and type are.
        has_coarse_clock: see `WebhookAdapter`. `read` may set `Event.step`; else only an end has a place, the last.
    """

    name: str
    scheme: Scheme
    id_field = "id"
    type_field = "type"
    has_coarse_clock = False

    @abstractmethod
    def read(self, environment: str, envelope: dict[str, Any], event_id: str, kind: str) -> Event:
        """Return the event in a verified JSON object.

        Raises:
            ValueError: it cannot be read; the text says why.
        """

    def account(self, envelope: Mapping[str, Any]) -> str | None:
        """Return the account of another merchant that an event is about; None for the own account."""
        return None

    def parse(self, body: bytes, environment: str) -> Event | Unparsable:
        """Return the event in a verified body of `environment`. Never raises.

        A body without an id gets one that is derived from its bytes.
        """
        try:
            envelope = orjson.loads(body)
        except orjson.JSONDecodeError:
            return _unparsable(body, "the body is not JSON")
        if not isinstance(envelope, dict):
            return _unparsable(body, "the body is not a JSON object")
        event_id, kind = envelope.get(self.id_field), envelope.get(self.type_field)
        if not is_id(event_id):
            return _unparsable(body, f"{self.id_field} is missing or not an id")
        account = self.account(envelope)
        if not is_id(kind):
            return Unparsable(event_id, "", f"{self.type_field} is missing or not a name", account)
        try:
            event = self.read(environment, envelope, event_id, kind)
        except ValueError as error:
            return Unparsable(event_id, kind, str(error), account)
        event = event if account is None else replace(event, account=account)
        if self.has_coarse_clock and event.step is None and event.subscription is not None:
            return replace(event, step=parsing.step(event.subscription))
        return event

    def verify(
        self, body: bytes, headers: Mapping[str, str], secrets: Sequence[Secret], now_s: float, tolerance_s: float
    ) -> Verification:
        """Return the result of checking the signature of `body`; `tolerance_s` 0 disables the time check. Never raises.

        Any MAC may match any secret (rotation); unknown keys are ignored. The time is checked last, so that only a
        genuine signature is reported as expired.
        """
        header = headers.get(self.scheme.header.lower())
        if not header:
            return Malformed(f"the {self.scheme.header} header is missing")
        parsed = self.scheme.read(header)
        if isinstance(parsed, Malformed):
            return parsed
        timestamp, marks = parsed
        signed = timestamp.encode() + self.scheme.joint + body
        environment: str | None = None
        for secret in secrets:
            expected = hmac.digest(secret.value, signed, "sha256").hex()
            for mark in marks:
                # No early exit: the duration must not depend on which secret matched.
                if hmac.compare_digest(expected, mark) and environment is None:
                    environment = secret.environment
        if environment is None:
            return Invalid()
        skew_s = int(now_s) - int(timestamp)
        if tolerance_s > 0 and abs(skew_s) > tolerance_s:
            return Expired(skew_s)
        return Verified(environment)


def _unparsable(body: bytes, problem: str) -> Unparsable:
    return Unparsable(f"body_{hashlib.sha256(body).hexdigest()[:32]}", "", problem)
