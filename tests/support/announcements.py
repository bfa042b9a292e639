"""Announcements as commit.lua writes them."""

from __future__ import annotations

from planwire_client.core.commit import BILLING, PUBLISHER
from sync.core.announcement import Announcement


def payload_of(announcement: Announcement) -> bytes:
    """Return the payload that `parse` reads; commit.lua writes the same."""
    version, base, cause, patch, state, owner, erased = announcement
    flags = {BILLING: b"\t", PUBLISHER: b"\r"}.get(owner, b"") + (b"\v" if erased else b"")
    return b"%d %d %d %d%b\n%b%b%b" % (version, base, len(cause), len(patch), flags, cause, patch, state)
