"""The routes that the intake brings along, for the OpenAPI document: webhooks, parked events, drift, reconciling.

Data only. The gateway does not import the billing side; tests hold this table against its routes and answers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

from gateway.api_docs.operation import (
    TIME,
    TOPIC_PATTERN,
    Model,
    Operation,
    json_answer,
    path_text,
    query_integer,
    query_text,
    ref,
)
from planwire_client.core.limits import VERSION_MAX
from sync.http.fields import RFC3339_PATTERN

ENVIRONMENT_PATTERN = r"^[a-z][a-z0-9_-]{0,31}$"
TENANT_PATTERN = r"^[A-Za-z0-9._~@-]{1,128}$"
PAGE_MAX = 500

QUANTITY_MAX = 1_000_000_000
BillingMode = Literal[
    "prorated_immediately", "prorated_next_billing_period", "full_immediately", "full_next_billing_period",
    "do_not_bill",
]  # fmt: skip
"""Paddle's proration_billing_mode."""

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


class Compared(Model):
    """What comparing one topic with its billing provider, or else with the source, led to.

    Of a source: absent (it has no state; what is stored stays), stale (what is stored is newer by its order), conflict
    (publishes kept coming in between). `asked`, `unasked` and `drift` are billing's, as in Reconciled.
    """

    outcome: Literal[
        "applied", "unchanged", "duplicate", "refused", "parked", "ignored", "stale", "conflict", "absent", "billed"
    ]
    version: int = Field(ge=0, le=VERSION_MAX)
    reason: str | None = None
    asked: int | None = Field(None, ge=0)
    unasked: dict[str, str] | None = None
    drift: list[DriftRecord] | None = None


_Quantity = Annotated[int, Field(ge=0, le=QUANTITY_MAX)]
_Text = Annotated[str, Field(min_length=1, max_length=500, pattern=r"\S")]


_AHEAD: dict[str, JsonValue] = {**TIME, "pattern": f"^(?=19[7-9]|2[01]|22[0-5]){RFC3339_PATTERN}$"}
"""Years that nanoseconds can count."""


class ChangeWish(Model):
    """A plan change that providers cannot hold for later: this plan now, that one from then on."""

    plan: _Text = Field(description="The plan's key in the catalog.")
    effective_at: str | None = Field(
        None, description="RFC 3339; default: the paid period's end.", json_schema_extra=_AHEAD
    )
    subscription_id: _Text | None = Field(None, description="Default: the leading one.")
    keep: _Text | None = Field(None, description="The plan that counts until then. Default: the present one.")
    billing_mode: BillingMode | None = Field(None, description="Default: do_not_bill.")
    if_version: int | None = Field(None, ge=0, le=VERSION_MAX, description="Only if the tenant is at this version.")


class ChangeHeld(Model):
    """The change that is held from now on."""

    outcome: Outcome
    version: int = Field(ge=0, le=VERSION_MAX)
    replaced: bool = Field(description="Whether it took the place of another.")
    executes_at: str = Field(description="When the provider is told.", json_schema_extra=TIME)
    scheduled: dict[str, JsonValue] | None = Field(description="As the tenant's state shows it.")


class PlanItem(Model):
    """One line of a subscription."""

    price_id: _Text
    quantity: _Quantity | None = Field(None, description="Default: 1.")


_PREVIEW_SHAPES: dict[str, JsonValue] = {
    "oneOf": [{"required": ["plan"]}, {"required": ["items"]}, {"required": ["cancel"]}],
    "dependentRequired": {"quantity": ["plan"]},
}


class PreviewWish(Model):
    """A change to be previewed: exactly one of plan, items and cancel."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_PREVIEW_SHAPES)

    plan: _Text | SkipJsonSchema[None] = Field(None, description="The plan's key in the catalog.")
    quantity: _Quantity | SkipJsonSchema[None] = Field(None, description="Default: as many as now.")
    items: Annotated[list[PlanItem], Field(min_length=1, max_length=100)] | SkipJsonSchema[None] = None
    cancel: Literal["now", "period_end"] | SkipJsonSchema[None] = None
    subscription_id: _Text | None = Field(None, description="Default: the leading one.")
    billing_mode: BillingMode | None = Field(None, description="Default: prorated_immediately.")
    ask_provider: bool | None = Field(None, description="Whether to have the provider preview it, too.")
    provider_preview: dict[str, JsonValue] | None = Field(None, description="What the provider's own preview said.")


class Difference(Model):
    """One field that differs; absent: not there."""

    model_config = ConfigDict(extra="allow")

    path: str


class Previewed(Model):
    """What the change would make of the tenant at this version."""

    preview_id: str = Field(description="Good for one hour, and for this version.")
    version: int = Field(ge=0, le=VERSION_MAX)
    taken_at: str = Field(json_schema_extra=TIME)
    subscription_id: str
    state: dict[str, JsonValue]
    diff: list[Difference]
    provider: dict[str, JsonValue] | None = None
    provider_differs: list[Difference] | None = None


class Confirmation(Model):
    """Whether the provider is to be told; without it the change is awaited."""

    apply: bool | None = None


class TenantChanged(Model):
    """What became of the tenant."""

    outcome: Outcome
    version: int = Field(ge=0, le=VERSION_MAX)


Kind = Literal["feature", "limit", "module"]


class OverrideWish(Model):
    """What an operator grants, or takes with `revoke`, over whatever is paid for: exactly one of value and revoke."""

    kind: Kind
    name: _Text
    value: bool | int | str | None = Field(None, description="true for a feature, a limit, or a module's level.")
    revoke: bool | None = None
    reason: _Text
    expires_at: str | None = Field(None, description="RFC 3339; default: never.", json_schema_extra=_AHEAD)
    by: _Text | None = None


class OverrideRemoval(Model):
    """Why an override is taken back, and by whom, for the history."""

    reason: _Text | None = None
    by: _Text | None = None


class Override(Model):
    """An override; expired ones are listed, too."""

    kind: Kind
    name: str
    value: bool | int | str | None = None
    revoke: bool | None = None
    reason: str
    expires_at: str | None = Field(None, json_schema_extra=TIME)


class Overrides(Model):
    """A tenant's overrides."""

    version: int = Field(ge=0, le=VERSION_MAX)
    overrides: list[Override]


class HistoryChange(Model):
    """One version: when and why it was made, and what it changed."""

    version: int = Field(ge=1, le=VERSION_MAX)
    at: str = Field(json_schema_extra=TIME)
    cause: dict[str, JsonValue]
    diff: list[Difference]


class HistoryEvent(Model):
    """One event, and what became of it."""

    model_config = ConfigDict(extra="allow")

    at: str = Field(json_schema_extra=TIME)


class History(Model):
    """The newest first."""

    topic: str
    changes: list[HistoryChange]
    events: list[HistoryEvent]


class ProviderSaid(Model):
    """One subscription as the provider told it when it was asked last."""

    asked_at: str = Field(json_schema_extra=TIME)
    is_held: bool = Field(description="Whether that is what the tenant's facts hold now.")
    subscription: dict[str, JsonValue] | None = Field(None, description="Absent: the provider does not know it.")


class ProviderSide(Model):
    """What the provider said last, by subscription (`paddle:sub_...`); one that was never asked about is not here."""

    can_be_asked: bool = Field(description="Whether an API key is set for the environment.")
    subscriptions: dict[str, ProviderSaid]


class StoreSide(Model):
    """What is published, and the subscriptions that it is made of."""

    version: int = Field(ge=0, le=VERSION_MAX)
    at: str | None = Field(None, json_schema_extra=TIME)
    state: JsonValue
    subscriptions: dict[str, dict[str, JsonValue]] | None = Field(None, description="Absent: it is not billing's.")


class TabsSide(Model):
    """What open tabs show, across all gateways that answered in time. Versions: absent where no tab has said any."""

    sessions: int = Field(ge=0)
    acked_min: int | None = Field(None, ge=1, le=VERSION_MAX)
    acked_max: int | None = Field(None, ge=1, le=VERSION_MAX)
    unacked: int = Field(ge=0, description="Have not said that they show the newest; of a crowd only a share is asked.")
    nacked: int = Field(ge=0, description="Could not use the newest.")
    gateways: int = Field(ge=0, description="Answered.")
    silent: int = Field(ge=0, description="Did not answer within 0.6 s.")


class TenantStatus(Model):
    """Provider, store and tabs as they are known now."""

    topic: str
    version: int = Field(ge=0, le=VERSION_MAX)
    provider: ProviderSide
    store: StoreSide
    tabs: TabsSide


class Erasure(Model):
    """Why a tenant is erased."""

    reason: _Text


MODELS = (
    Compared,
    History,
    HistoryChange,
    HistoryEvent,
    Override,
    Overrides,
    ChangeHeld,
    Difference,
    DriftPage,
    DriftRecord,
    ParkedEvent,
    ParkedEvents,
    Previewed,
    ProviderSaid,
    ProviderSide,
    Receipt,
    Reconciled,
    StoreSide,
    TabsSide,
    TenantChanged,
    TenantStatus,
)

READ_MODELS = (ChangeWish, Confirmation, Erasure, OverrideRemoval, OverrideWish, PlanItem, PreviewWish)
"""What is sent rather than answered."""

SIGNATURE: dict[str, Any] = {
    "paddleSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "Paddle-Signature",
        "description": "ts=SECONDS;h1=HEX: HMAC-SHA256 of `ts:body` with a destination's secret.",
    }
}

_VERSION = {"Planwire-Version": {"description": "The topic's version.", "schema": {"type": "integer"}}}
_ENVIRONMENT = query_text("env", "The provider's environment; default: the first, live.", ENVIRONMENT_PATTERN)
_LIMIT = query_integer("limit", "The most that one answer lists.", PAGE_MAX, minimum=1, default=100)
_TENANT = path_text("id", "The tenant's id: acme for tenant:acme.", TENANT_PATTERN, "acme")
_BODY = ("disconnected", "body_timeout", "body_too_large", "content_encoding_unsupported", "charset_unsupported")
_GUARDED = (
    "key_missing", "key_invalid", "scope_missing", "topic_forbidden", "request_invalid", "rate_limited", "internal",
    "store_unavailable",
)  # fmt: skip

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post", "/webhooks/paddle", "paddleWebhook",
        "Take one event that Paddle signed. 200 once it is stored, whatever became of it.",
        {200: json_answer("It is stored.", Receipt, _VERSION)},
        ("signature_malformed", "disconnected", "signature_invalid", "signature_expired", "body_timeout",
         "body_too_large", "store_unavailable", "internal"),
        "paddleSignature",
        body={"application/json": {"schema": {"type": "object", "description": "As Paddle sends it."}}},
        is_body_required=False,
    ),
    Operation(
        "get", "/v1/parked", "listParked", "The events that are kept because they cannot be used yet.",
        {200: json_answer("One page.", ParkedEvents)},
        _GUARDED,
        "publishKey",
        (_ENVIRONMENT, _LIMIT, query_text("after", "What `next` said.", r"^[0-9]{1,16}\.[ -~]{1,200}$")),
    ),
    Operation(
        "post", "/v1/parked/{event_id}/retry", "retryParked", "Try one of them again now.",
        {200: json_answer("What became of it.", Receipt, _VERSION)},
        (*_GUARDED, "not_found"),
        "publishKey",
        (
            path_text("event_id", "The event's id.", r"^[A-Za-z0-9_-]{1,128}$", "evt_01h8bzakzx3hm2fmen703n5q45"),
            _ENVIRONMENT,
        ),
    ),
    Operation(
        "get", "/v1/drift", "listDrift", "What was found to differ from the provider.",
        {200: json_answer("One page.", DriftPage)},
        _GUARDED,
        "publishKey",
        (_ENVIRONMENT, _LIMIT, query_text("before", "What `next` said.", r"^[1-9][0-9]{0,15}-[0-9]{1,16}$")),
    ),
    Operation(
        "post", "/v1/tenants/{id}/reconcile", "reconcile",
        "Compare one tenant with its provider and repair. Unasked, a worker compares each within 24 hours.",
        {200: json_answer("What was found.", Reconciled, _VERSION)},
        (*_GUARDED, "provider_unavailable"),
        "publishKey",
        (_TENANT, _ENVIRONMENT),
    ),
    Operation(
        "post", "/v1/topics/{topic}/reconcile", "reconcileTopic",
        "Compare one topic with its billing provider, or else with the source, and repair.",
        {200: json_answer("What was found.", Compared, _VERSION)},
        (*_GUARDED, "provider_unavailable", "source_unavailable"),
        "publishKey",
        (path_text("topic", "[env/]kind:id.", TOPIC_PATTERN, "user:42"),),
    ),
    Operation(
        "post", "/v1/tenants/{id}/scheduled-change", "scheduleChange",
        "Hold a plan change until its time, in place of one that is held.",
        {200: json_answer("It is held.", ChangeHeld, _VERSION)},
        (*_GUARDED, *_BODY, "billing_mode_unsupported", "cancel_scheduled", "effective_at_invalid",
         "effective_at_required", "no_plan",
         "no_subscription", "not_changed", "nothing_to_change", "plan_not_sold", "plan_unknown", "price_unknown",
         "version_conflict"),
        "publishKey",
        (_TENANT, _ENVIRONMENT),
        body={"application/json": {"schema": ref(ChangeWish)}},
    ),
    Operation(
        "delete", "/v1/tenants/{id}/scheduled-change", "dropChange", "Forget the plan change that is held.",
        {200: json_answer("It is forgotten.", TenantChanged, _VERSION)},
        (*_GUARDED, "already_executed", "not_changed", "not_found", "no_subscription", "version_conflict"),
        "publishKey",
        (_TENANT, _ENVIRONMENT),
    ),
    Operation(
        "get", "/v1/tenants/{id}/overrides", "listOverrides", "What operators have granted or taken.",
        {200: json_answer("All of them.", Overrides, _VERSION)},
        (*_GUARDED, "not_changed"),
        "publishKey",
        (_TENANT, _ENVIRONMENT),
    ),
    Operation(
        "post", "/v1/tenants/{id}/overrides", "grantOverride", "Grant or take something, over whatever is paid for.",
        {200: json_answer("It counts.", TenantChanged, _VERSION)},
        (*_GUARDED, *_BODY, "not_changed", "override_invalid", "too_many_overrides", "version_conflict"),
        "publishKey",
        (_TENANT, _ENVIRONMENT),
        body={"application/json": {"schema": ref(OverrideWish)}},
    ),
    Operation(
        "delete", "/v1/tenants/{id}/overrides/{kind}/{name}", "removeOverride", "Take an override back.",
        {200: json_answer("It is gone.", TenantChanged, _VERSION)},
        (*_GUARDED, *_BODY, "not_changed", "not_found", "version_conflict"),
        "publishKey",
        (
            _TENANT,
            path_text("kind", "feature, limit or module.", "^(feature|limit|module)$", "feature"),
            path_text("name", "Of what.", r"^[^/\s]{1,500}$", "sso"),
            _ENVIRONMENT,
        ),
        body={"application/json": {"schema": ref(OverrideRemoval)}},
        is_body_required=False,
    ),
    Operation(
        "get", "/v1/tenants/{id}/history", "readHistory", "What changed, when and why; what was refused or parked.",
        {200: json_answer("The newest first.", History)},
        _GUARDED,
        "publishKey",
        (_TENANT, _ENVIRONMENT, _LIMIT),
    ),
    Operation(
        "get", "/v1/tenants/{id}/status", "readStatus",
        "Provider, store and tabs side by side: what the provider said last, what is held, what tabs show.",
        {200: json_answer("As known now.", TenantStatus, _VERSION)},
        _GUARDED,
        "publishKey",
        (_TENANT, _ENVIRONMENT),
    ),
    Operation(
        "delete", "/v1/tenants/{id}", "eraseTenant",
        "Erase a tenant: its state becomes null, tabs are told `gone`; history, events and links go. What its provider "
        "sends later is ignored, counted and not kept.",
        {200: json_answer("It is erased.", TenantChanged, _VERSION)},
        (*_GUARDED, *_BODY, "not_changed", "not_found"),
        "publishKey",
        (_TENANT, _ENVIRONMENT),
        body={"application/json": {"schema": ref(Erasure)}},
    ),
    Operation(
        "post", "/v1/tenants/{id}/preview", "previewChange", "What a change would make of the tenant; nothing is done.",
        {200: json_answer("What it would be.", Previewed, _VERSION)},
        (*_GUARDED, *_BODY, "effective_at_required", "no_plan", "no_subscription", "not_changed", "nothing_to_change",
         "plan_not_sold", "plan_unknown", "price_unknown", "provider_refused", "provider_unavailable"),
        "publishKey",
        (_TENANT, _ENVIRONMENT),
        body={"application/json": {"schema": ref(PreviewWish)}},
    ),
    Operation(
        "post", "/v1/tenants/{id}/preview/{preview_id}/confirm", "confirmChange",
        "Await the previewed change, or have the provider make it; refused once the tenant has moved on.",
        {200: json_answer("It is awaited, or made.", TenantChanged, _VERSION)},
        (*_GUARDED, *_BODY, "effective_at_required", "no_plan", "no_subscription", "not_changed", "not_found",
         "nothing_to_change", "plan_not_sold", "plan_unknown", "preview_stale", "price_unknown", "provider_refused",
         "provider_unavailable"),
        "publishKey",
        (
            _TENANT,
            path_text("preview_id", "What the preview said.", r"^pv_[0-9a-f]{24}$", "pv_0123456789abcdef01234567"),
            _ENVIRONMENT,
        ),
        body={"application/json": {"schema": ref(Confirmation)}},
        is_body_required=False,
    ),
)  # fmt: skip
"""They are there where the process takes webhooks (`PLANWIRE_INTAKE`) and elsewhere answer 404."""
