"""The answer that says what became of one event."""

from __future__ import annotations

from starlette.responses import Response

from sync.billing.domain.outcome import EventResult
from sync.http.body import json_response


def result_response(result: EventResult) -> Response:
    """Return the answer that tells the outcome of one event."""
    return json_response(result_document(result))


def result_document(result: EventResult) -> dict[str, object]:
    """Return the outcome, and the version and the reason where there are any."""
    document: dict[str, object] = {"outcome": result.outcome}
    if result.version:
        document["version"] = result.version
    if result.reason:
        document["reason"] = result.reason
    return document
