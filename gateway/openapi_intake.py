"""The routes that the intake brings along, for the OpenAPI document: webhooks, parked events, drift, reconciling.

Data only. The gateway does not import the billing side; tests hold this table against its routes and answers.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, JsonValue

from gateway.change import VERSION_MAX
from gateway.operation import (
    INTAKE_STATUSES,
    TIME,
    Model,
    Operation,
    json_answer,
    path_text,
    query_integer,
    query_text,
)

ENVIRONMENT_PATTERN = r"^[a-z][a-z0-9_-]{0,31}$"
TENANT_PATTERN = r"^[A-Za-z0-9._~@-]{1,128}$"
PAGE_MAX = 500

Outcome = Literal["applied", "unchanged", "duplicate", "refused", "parked", "ignored"]


class Receipt(Model):
    """What became of an event. `reason`: why it was not applied."""

    outcome: Outcome
    version: int | None = Field(None, ge=1, le=VERSION_MAX, description="The topic's, where one was touched or read.")
    reason: str | None = None


class ParkedEvent(Model):
    """An event that is kept because it cannot be used yet."""

    event_id: str
    env: str
    provider: str
    type: str
    topic: str | None = None
    reason: str
    waits_on: list[str] = Field(description="What has to change before it is tried again by itself.")
    received_at: str = Field(json_schema_extra=TIME)
    parked_at: str = Field(json_schema_extra=TIME)
    attempts: int = Field(ge=0)


class ParkedEvents(Model):
    """One page, the longest parked first. `next`, where there may be more, goes into `after`."""

    parked: list[ParkedEvent] = Field(max_length=PAGE_MAX)
    next: str | None = None


class DriftRecord(Model):
    """One thing that was found to differ between here and the provider, or between a state and its facts."""

    kind: str
    topic: str
    subject: str | None = None
    why: str | None = None
    at: str = Field(json_schema_extra=TIME)
    here: JsonValue = None
    there: JsonValue = None
    version: int | None = Field(None, ge=1, le=VERSION_MAX, description="The one that repaired it, if one did.")


class DriftPage(Model):
    """One page, the newest first. `next`, where there may be more, goes into `before`."""

    drift: list[DriftRecord] = Field(max_length=PAGE_MAX)
    counts: dict[str, int] = Field(description="How many of each kind were ever found.")
    next: str | None = None


class Reconciled(Model):
    """What comparing one tenant with its provider found; what differed is repaired by then."""

    outcome: Outcome
    version: int = Field(ge=0, le=VERSION_MAX)
    reason: str | None = None
    asked: int = Field(ge=0, description="Subscriptions that the provider was asked for.")
    unasked: dict[str, str] = Field(description="Those it could not be asked for, and why.")
    drift: list[DriftRecord]


MODELS = (DriftPage, DriftRecord, ParkedEvent, ParkedEvents, Receipt, Reconciled)

SIGNATURE: dict[str, Any] = {
    "paddleSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "Paddle-Signature",
        "description": "ts=SECONDS;h1=HEX: HMAC-SHA256 of `ts:body` with a destination's secret.",
    }
}

_ENVIRONMENT = query_text("env", "The provider's environment; default: the first, live.", ENVIRONMENT_PATTERN)
_LIMIT = query_integer("limit", "The most that one answer lists.", PAGE_MAX, minimum=1, default=100)
_GUARDED = ("key_missing", "key_invalid", "request_invalid", "internal", "store_unavailable")

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post", "/webhooks/paddle", "paddleWebhook",
        "Take one event that Paddle signed. 200 once it is stored, whatever became of it.",
        {200: json_answer("It is stored.", Receipt)},
        ("signature_malformed", "disconnected", "signature_invalid", "signature_expired", "body_timeout",
         "body_too_large", "store_unavailable", "internal"),
        "paddleSignature",
        body={"application/json": {"schema": {"type": "object", "description": "As Paddle sends it."}}},
        statuses=INTAKE_STATUSES,
        is_body_required=False,
    ),
    Operation(
        "get", "/v1/parked", "listParked", "The events that are kept because they cannot be used yet.",
        {200: json_answer("One page.", ParkedEvents)},
        _GUARDED,
        "publishKey",
        (_ENVIRONMENT, _LIMIT, query_text("after", "What `next` said.", r"^[0-9]{1,16}\.[ -~]{1,200}$")),
        statuses=INTAKE_STATUSES,
    ),
    Operation(
        "post", "/v1/parked/{event_id}/retry", "retryParked", "Try one of them again now.",
        {200: json_answer("What became of it.", Receipt)},
        (*_GUARDED, "not_found"),
        "publishKey",
        (
            path_text("event_id", "The event's id.", r"^[A-Za-z0-9_-]{1,128}$", "evt_01h8bzakzx3hm2fmen703n5q45"),
            _ENVIRONMENT,
        ),
        statuses=INTAKE_STATUSES,
    ),
    Operation(
        "get", "/v1/drift", "listDrift", "What was found to differ from the provider.",
        {200: json_answer("One page.", DriftPage)},
        _GUARDED,
        "publishKey",
        (_ENVIRONMENT, _LIMIT, query_text("before", "What `next` said.", r"^[0-9]{1,20}-[0-9]{1,20}$")),
        statuses=INTAKE_STATUSES,
    ),
    Operation(
        "post", "/v1/tenants/{id}/reconcile", "reconcile", "Compare one tenant with its provider and repair.",
        {200: json_answer("What was found.", Reconciled)},
        (*_GUARDED, "provider_unavailable"),
        "publishKey",
        (path_text("id", "The tenant's id: acme for tenant:acme.", TENANT_PATTERN, "acme"), _ENVIRONMENT),
        statuses=INTAKE_STATUSES,
    ),
)  # fmt: skip
"""They are there where the process takes webhooks (`PLANWIRE_INTAKE`) and elsewhere answer 404."""
