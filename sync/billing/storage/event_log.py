"""A topic's stream of processed events: what became of each, and why. What support reads beside the versions.

It keeps and decides nothing else; the versions themselves are in the store's log.
"""

from __future__ import annotations

from zlib import crc32

from sync.billing.domain.outcome import EventResult
from sync.store.command_pipeline import CommandPipeline, Script

EVENTS_KEPT = 200
"""How many entries a topic's stream keeps, about."""

_NOTE = Script.load(__package__, "event_log_append")


def note(batch: CommandPipeline, topic: str, event_id: str, type: str, result: EventResult, at_us: int) -> None:
    """Add to `batch` an entry in the topic's stream of processed events, once however often the batch is sent."""
    told = f"{event_id} {type} {result.outcome} {at_us}"
    id = f"{at_us // 1000}-{crc32(told.encode())}"
    batch.script(
        _NOTE, (batch.keys.events(topic),), id, EVENTS_KEPT, event_id, type, result.outcome, result.reason, at_us
    )


def ask_noted(batch: CommandPipeline, topic: str) -> None:
    """Add to `batch` the question what was noted lately; `is_noted` reads the reply."""
    batch.command("XREVRANGE", batch.keys.events(topic), "+", "-", "COUNT", EVENTS_KEPT)


def is_noted(reply: list[tuple[bytes, dict[bytes, bytes]]], event_id: str, result: EventResult) -> bool:
    """Return whether an event's ending is in the topic's stream: an attempt that did not come to its end told it."""
    mine = event_id.encode(), result.outcome.encode(), result.reason.encode()
    return any((entry[b"event_id"], entry[b"outcome"], entry[b"reason"]) == mine for _, entry in reply)
