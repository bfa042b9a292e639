"""The signature of Standard Webhooks, which Polar, Dodo and others send. Pure.

`webhook-signature: v1,BASE64[ v1,BASE64...]`: HMAC-SHA256 of `webhook-id`, a dot, `webhook-timestamp`, a dot and the
raw body. Other versions, such as `v1a`, are ignored: the algorithm is pinned. The event's id is in the headers only.
The package `standardwebhooks` is not used: it takes one secret, checks the time first, and has a fixed tolerance.
Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sync.billing.providers.hmac_signature import DIGITS, SIGNATURES_MAX, Signature, header_of
from sync.billing.providers.parsing import is_id
from sync.billing.providers.webhook_adapter import Malformed

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
PREFIX = b"whsec_"

_MARK = re.compile(r"v1,([A-Za-z0-9+/]{43}=)")


def decoded_key(secret: bytes) -> Sequence[bytes]:
    """Return the key of a secret as the standard writes it, `whsec_BASE64`; none if it is not base64."""
    text = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return ()
    return (key,) if key else ()


def any_key(secret: bytes) -> Sequence[bytes]:
    """Return the bytes of a secret, and the key that it is as the standard writes it: Polar's SDK accepts both."""
    return (secret, *(key for key in decoded_key(secret) if key != secret))


def signed_headers(keys: Sequence[bytes], id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message that each of `keys` signs.

    Args:
        keys: one signature is made with each; a receiver accepts a message if it knows one of them.
        id: the message's; the same when it is sent again.
        at_s: the time of this attempt, seconds since 1970.
        body: the raw body.
    """
    signed = f"{id}.{at_s}.".encode() + body
    macs = (base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys)
    return {ID: id, TIMESTAMP: str(at_s), SIGNATURE: " ".join(f"v1,{mac}" for mac in macs)}


@dataclass(frozen=True, slots=True)
class StandardScheme:
    """The signature of Standard Webhooks.

    Attributes:
        header: the header with the MACs.
        keys: returns the keys that a configured secret stands for.
    """

    keys: Callable[[bytes], Sequence[bytes]] = decoded_key
    header: str = SIGNATURE

    def read(self, headers: Mapping[str, str]) -> Signature | Malformed:
        """Return the signature in the three headers."""
        values = [header_of(headers, name) for name in (ID, TIMESTAMP, self.header)]
        problem = next((value for value in values if isinstance(value, Malformed)), None)
        if problem is not None:
            return problem
        event_id, timestamp, signatures = map(str, values)
        if not is_id(event_id):
            return Malformed(f"the {ID} header is not an id")
        if not DIGITS.fullmatch(timestamp):
            return Malformed(f"the {TIMESTAMP} header is not a time in whole seconds")
        parts = signatures.split(" ")
        if len(parts) > SIGNATURES_MAX:
            return Malformed(f"the {self.header} header has more than {SIGNATURES_MAX} signatures")
        marks = [base64.b64decode(match[1]) for part in parts if (match := _MARK.fullmatch(part))]
        if not marks:
            return Malformed(f"the {self.header} header has no v1 signature of 32 bytes in base64")
        return Signature(timestamp, f"{event_id}.{timestamp}.".encode(), marks, event_id)
