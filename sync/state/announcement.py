"""The bus's wire format: what commit.lua announces and a feed reads. Pure.

    VERSION SP BASE SP CAUSE_BYTES SP PATCH_BYTES LF cause patch state

Ready-made JSON bytes, so that a gateway splices frames without parsing any of it.
"""

from __future__ import annotations

from typing import NamedTuple


class Announcement(NamedTuple):
    """One committed version as it travels. `base` is 0 when there is no patch; `cause` may be empty."""

    version: int
    base: int
    cause: bytes
    patch: bytes
    state: bytes


ERASED = "tenant.erased"
"""The event_type of the cause of a topic's last version: null, and nothing is to come."""

_ERASED = f'"event_type":"{ERASED}"'.encode()


def is_erasure(state: bytes, cause: bytes) -> bool:
    """Return whether a version with this state and cause says that its topic was erased."""
    return state == b"null" and _ERASED in cause


def parse(payload: bytes) -> Announcement:
    """Return the announcement in `payload`.

    Raises:
        ValueError: `payload` is not one.
    """
    end = payload.index(b"\n")
    version, base, cause_bytes, patch_bytes = map(int, payload[:end].split(b" "))
    patch_at = end + 1 + cause_bytes
    state_at = patch_at + patch_bytes
    if version < 1 or not 0 <= base < version or cause_bytes < 0 or patch_bytes < 0 or state_at >= len(payload):
        raise ValueError("announcement with impossible numbers")
    if (base > 0) != (patch_bytes > 0):
        raise ValueError("announcement with a base but no patch, or a patch but no base")
    return Announcement(version, base, payload[end + 1 : patch_at], payload[patch_at:state_at], payload[state_at:])


def encode(announcement: Announcement) -> bytes:
    """Return the payload that `parse` reads; commit.lua writes the same."""
    version, base, cause, patch, state = announcement
    return b"%d %d %d %d\n%b%b%b" % (version, base, len(cause), len(patch), cause, patch, state)
