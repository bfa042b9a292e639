"""The answer that says what became of one event."""

from __future__ import annotations

from starlette.responses import Response

from sync.billing.domain.outcome import EventResult
from sync.http.body import json_response


def receipt_response(receipt: EventResult) -> Response:
    """Return the answer that tells the outcome of one event."""
    return json_response(receipt_document(receipt))


def receipt_document(receipt: EventResult) -> dict[str, object]:
    """Return the outcome, and the version and the reason where there are any."""
    document: dict[str, object] = {"outcome": receipt.outcome}
    if receipt.version:
        document["version"] = receipt.version
    if receipt.reason:
        document["reason"] = receipt.reason
    return document
