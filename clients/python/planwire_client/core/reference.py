"""Signed tenant references: a backend names a checkout's tenant beyond doubt in the provider's metadata. Pure.

A browser can write a checkout's metadata, so a plain tenant id there proves nothing. A reference contains the id and a
MAC over the environment and the id. It has at most 197 letters, digits, `-` and `_`, so that Stripe's
`client_reference_id` (200 characters) accepts it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from planwire_client.core.topic import LIVE, TENANT_KIND, WHITE_SPACE, Topic, TopicError, shown, topic

PREFIX = "pwt1_"
"""The beginning of every reference; a tenant id that begins so is always read as one."""

SECRET_MIN_BYTES = 32
"""Minimum length of an HMAC-SHA256 key (RFC 2104 section 3: the hash's length)."""

MAC_BYTES = 16
"""Length of the truncated HMAC-SHA256: half of the hash's, the minimum of RFC 2104 section 5."""


class TenantReferenceError(ValueError):
    """The reference proves no tenant; the text says why."""


def checked_tenant(id: str | int) -> str:
    """Return the topic id of a tenant's id that somebody gives now.

    Raises:
        TopicError: it names nobody, is too long, has white space around it, or is a reference itself.
    """
    topic_id, text = Topic.parse(topic(TENANT_KIND, id)).id, str(id)
    if text != text.strip(WHITE_SPACE):
        raise TopicError(f"{shown(text)} begins or ends with white space: give the id without it")
    if is_reference(text):
        raise TopicError(f"{shown(text)} is a signed reference: give the id of the tenant that it names")
    return topic_id


def tenant_reference(secret: str, tenant_id: str | int, environment: str = LIVE) -> str:
    """Return the reference to a tenant, for the metadata field that names the tenant.

    Args:
        secret: the first of PLANWIRE_TENANT_SECRET.
        tenant_id: as the application has it, not encoded.
        environment: the environment of the provider's account: `live`, `sandbox`.

    Raises:
        ValueError: the secret is too short.
        TopicError: the id names nobody, such as undefined, or is too long.
    """
    key = secret.encode()
    if len(key) < SECRET_MIN_BYTES:
        raise ValueError(f"the secret is shorter than {SECRET_MIN_BYTES} bytes")
    checked_tenant(tenant_id)
    named = str(tenant_id).encode()
    return PREFIX + base64.urlsafe_b64encode(_mac(key, named, environment) + named).rstrip(b"=").decode()


def is_reference(text: str) -> bool:
    """Return whether `text` has the form of a reference; `verify` checks it."""
    return text.startswith(PREFIX)


def verify(reference: str, secrets: Sequence[bytes], environment: str) -> str:
    """Return the tenant id in a reference that one of the secrets signed for the environment.

    Raises:
        TenantReferenceError: it is malformed, or no secret signed it.
    """
    if not secrets:
        raise TenantReferenceError("PLANWIRE_TENANT_SECRET is not set, so the signed reference cannot be verified")
    encoded = reference.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        mac, named = raw[:MAC_BYTES], raw[MAC_BYTES:]
        tenant_id = named.decode()
    except (binascii.Error, ValueError):
        raise TenantReferenceError("the signed reference is damaged") from None
    if not tenant_id or base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != encoded:
        raise TenantReferenceError("the signed reference is damaged")
    # No early exit: the duration must not depend on which secret matched.
    if not sum([hmac.compare_digest(_mac(secret, named, environment), mac) for secret in secrets]):
        problem = f"no secret in PLANWIRE_TENANT_SECRET signed the reference to {tenant_id[:60]!r} for {environment}"
        raise TenantReferenceError(problem)
    return tenant_id


def _mac(secret: bytes, tenant_id: bytes, environment: str) -> bytes:
    signed = b"planwire tenant\n" + environment.encode() + b"\n" + tenant_id
    return hmac.new(secret, signed, hashlib.sha256).digest()[:MAC_BYTES]
