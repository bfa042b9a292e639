"""Takes a compact JWS apart (RFC 7515 section 3.1), strictly: each token has exactly one spelling. Pure.

Written out here because it costs half of what pyjwt's envelope does.
"""

from __future__ import annotations

import binascii
import re
from typing import NamedTuple

import orjson

_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_LAST_LETTERS = {2: b"AQgw", 3: b"AEIMQUYcgkosw048"}
"""By the length of a last group of base64url: the letters it may end with, because the bits left over are zero."""

_COMPACT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")


class Parts(NamedTuple):
    """A token taken apart; the signature was not checked.

    Attributes:
        header: its members.
        signed: the bytes that are signed.
        payload: the second segment, still encoded.
        signature: the signature; None for an impossible encoding.
    """

    header: dict[str, object]
    signed: bytes
    payload: bytes
    signature: bytes | None


def split(data: bytes) -> Parts | None:
    """Return the parts of a token, or None if it is no compact JWS whose header is an object."""
    match = _COMPACT.fullmatch(data)
    header = None if match is None else decode_object(match[1])
    if match is None or header is None:
        return None
    return Parts(header, data[: match.end(2)], match[2], _decode_base64(match[3]))


def _decode_base64(data: bytes) -> bytes | None:
    """Return what unpadded base64url (RFC 7515 section 2) stands for, or None for an impossible length.

    Each value has one spelling: bits that the last letter has left over must be zero (RFC 4648 section 3.5).
    """
    last = _LAST_LETTERS.get(len(data) % 4)
    if last is not None and data[-1] not in last:
        return None
    try:
        return binascii.a2b_base64(data.translate(_FROM_URL_SAFE) + b"=" * (-len(data) % 4))
    except ValueError:
        return None


def decode_object(data: bytes) -> dict[str, object] | None:
    """Return the JSON object in a segment, or None if it holds none."""
    decoded = _decode_base64(data)
    if decoded is None:
        return None
    try:
        value = orjson.loads(decoded)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
