"""Planwire for backends: publish plan state, read it locally, and know whether what is read is current."""

from __future__ import annotations

from planwire_client.change import Outcome, Publish, Published, Rejected, Retries, Verdict
from planwire_client.errors import (
    PlanwireError,
    PublishRefused,
    RateLimited,
    Unavailable,
)
from planwire_client.publisher import AsyncPublisher, Publisher

__all__ = [
    "AsyncPublisher",
    "Outcome",
    "PlanwireError",
    "Publish",
    "PublishRefused",
    "Published",
    "Publisher",
    "RateLimited",
    "Rejected",
    "Retries",
    "Unavailable",
    "Verdict",
]
