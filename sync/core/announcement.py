"""The bus's wire format: commit.lua writes an announcement, a subscriber parses it. Pure.

    VERSION SP BASE SP CAUSE_BYTES SP PATCH_BYTES FLAGS LF cause patch state

`cause`, `patch` and `state` are JSON bytes that a gateway copies into frames without parsing them. FLAGS are blanks:
TAB (billing) or CR (publisher) for the owner, then VT if the topic was erased. Builds from before the flags write none,
and read them as blanks around the last number.
"""

from __future__ import annotations

from typing import NamedTuple

from planwire_client.core.commit import BILLING, PUBLISHER


class Announcement(NamedTuple):
    """One committed version on the bus.

    Attributes:
        version: microseconds since 1970.
        base: the version that `patch` starts from; 0 when there is no patch.
        cause: JSON, or empty.
        owner: BILLING or PUBLISHER; empty in an announcement of a build from before the owner.
        erased: whether the topic was erased: its state is null, and no version follows.
    """

    version: int
    base: int
    cause: bytes
    patch: bytes
    state: bytes
    owner: str = ""
    erased: bool = False


_DIGITS_FROM = ord(" ")
"""Every blank is at or below this byte, every digit above it."""


def parse(payload: bytes) -> Announcement:
    """Return the announcement in `payload`.

    Raises:
        ValueError: `payload` is not an announcement.
    """
    end = payload.index(b"\n")
    version, base, cause_bytes, patch_bytes = map(int, payload[:end].split(b" "))
    patch_at = end + 1 + cause_bytes
    state_at = patch_at + patch_bytes
    if version < 1 or not 0 <= base < version or cause_bytes < 0 or patch_bytes < 0 or state_at >= len(payload):
        raise ValueError("announcement with impossible numbers")
    if (base > 0) != (patch_bytes > 0):
        raise ValueError("announcement with a base but no patch, or a patch but no base")
    cause, patch, state = payload[end + 1 : patch_at], payload[patch_at:state_at], payload[state_at:]
    if payload[end - 1] > _DIGITS_FROM:
        return Announcement(version, base, cause, patch, state)
    flags = payload[payload.rindex(b" ", 0, end) : end]
    owner = BILLING if b"\t" in flags else PUBLISHER if b"\r" in flags else ""
    return Announcement(version, base, cause, patch, state, owner, b"\v" in flags)
