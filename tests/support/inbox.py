"""What a worker does with the inbox, step by step."""

from __future__ import annotations

from sync.billing.storage.inbox import Inbox, Record


async def take_up(inbox: Inbox) -> Record:
    """Claim the only event that is due, and begin it."""
    (due,) = await inbox.claim(10)
    record = await inbox.begin(due)
    assert record is not None
    return record
