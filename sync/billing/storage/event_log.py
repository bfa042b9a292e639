"""A topic's stream of processed events: what became of each, and why. Support reads it beside the store's versions."""

from __future__ import annotations

from zlib import crc32

from sync.billing.domain.outcome import EventResult
from sync.store.command_pipeline import CommandPipeline, Script

EVENTS_KEPT = 200
"""How many entries a topic's stream keeps, about; the newest."""

_APPEND = Script.load(__package__, "event_log_append")


def append_event(batch: CommandPipeline, topic: str, event_id: str, type: str, result: EventResult, at_us: int) -> None:
    """Add to `batch` an entry in the topic's stream; it is made once, however often the batch is sent."""
    content = f"{event_id} {type} {result.outcome} {at_us}"
    id = f"{at_us // 1000}-{crc32(content.encode())}"
    batch.script(
        _APPEND, (batch.keys.events(topic),), id, EVENTS_KEPT, event_id, type, result.outcome, result.reason, at_us
    )


def query_events(batch: CommandPipeline, topic: str) -> None:
    """Add to `batch` the query for the newest entries; `contains` takes the reply."""
    batch.command("XREVRANGE", batch.keys.events(topic), "+", "-", "COUNT", EVENTS_KEPT)


def contains(reply: list[tuple[bytes, dict[bytes, bytes]]], event_id: str, result: EventResult) -> bool:
    """Return whether an event's result is in the topic's stream: an attempt that was cut off has written it."""
    mine = event_id.encode(), result.outcome.encode(), result.reason.encode()
    return any((entry[b"event_id"], entry[b"outcome"], entry[b"reason"]) == mine for _, entry in reply)
