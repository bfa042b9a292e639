"""The request bodies of billing's operations."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema

from planwire_client.core import reference
from planwire_client.core.limits import VERSION_MAX
from planwire_client.core.topic import ID_MAX_BYTES, MISSING_VALUES, shown
from sync.billing.api.bodies.money import Expected
from sync.billing.domain.entitlements.overrides import KINDS
from sync.billing.domain.entitlements.preview import ITEMS_MAX
from sync.billing.domain.facts.instructions import PLAN
from sync.billing.providers.parsing import QUANTITY_MAX, is_id
from sync.billing.providers.spec import BILLING_MODES
from sync.billing.storage.environment import PARKING_QUEUES, WEBHOOKS
from sync.http.fields import Instant, Model, OneOf, Text

_Quantity = Annotated[int, Field(ge=0, le=QUANTITY_MAX)]
BillingMode = Annotated[str, OneOf(BILLING_MODES)]
Kind = Annotated[str, OneOf(KINDS)]
OverrideValue = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "integer"}, {"type": "string"}, {"type": "null"}]})
]


class ScheduleRequest(Model):
    """A plan change at a later date, which providers cannot schedule: one plan now, another from then on."""

    plan: Text = Field(description="The plan's key in the catalog.")
    effective_at: Instant | None = Field(None, description="RFC 3339; default: the paid period's end.")
    subscription_id: Text | None = Field(None, description="Default: the leading one.")
    keep: Text | None = Field(None, description="The plan that counts until then. Default: the present one.")
    billing_mode: BillingMode | None = Field(None, description="Default: do_not_bill.")
    app: Text | None = Field(None, description="The application whose plan is changed. Default: that of the plan.")
    if_version: int | None = Field(None, ge=0, le=VERSION_MAX, description="Only if the tenant is at this version.")


class PlanItem(Model):
    """One line of a subscription."""

    price_id: Text
    quantity: _Quantity | None = Field(None, description="Default: 1.")


_PREVIEW_SHAPES: dict[str, JsonValue] = {
    "oneOf": [{"required": ["plan"]}, {"required": ["items"]}, {"required": ["cancel"]}],
    "dependentRequired": {"quantity": ["plan"]},
}


class PreviewBody(Model, json_schema_extra=_PREVIEW_SHAPES):
    """The change to preview: exactly one of plan, items and cancel."""

    plan: Text | SkipJsonSchema[None] = Field(None, description="The plan's key in the catalog.")
    quantity: _Quantity | SkipJsonSchema[None] = Field(None, description="Default: as many as now.")
    items: Annotated[list[PlanItem], Field(min_length=1, max_length=ITEMS_MAX)] | SkipJsonSchema[None] = None
    cancel: Literal["now", "period_end"] | SkipJsonSchema[None] = None
    subscription_id: Text | None = Field(None, description="Default: the leading one.")
    app: Text | None = Field(None, description="The application. Default: that of the plan, or the leading one.")
    billing_mode: BillingMode | None = Field(None, description="Default: prorated_immediately.")
    ask_provider: bool | None = Field(None, description="Whether to have the provider preview it, too.")
    provider_preview: dict[str, JsonValue] | None = Field(None, description="What the provider's own preview said.")
    expected: Expected | None = Field(
        None, description="What it is expected to cost. Without provider_preview, the provider is asked by default."
    )

    @model_validator(mode="after")
    def _is_one_change(self) -> Self:
        if sum(change is not None for change in (self.plan, self.items, self.cancel)) != 1:
            raise ValueError("exactly one of plan, items and cancel must be there")
        if self.quantity is not None and self.plan is None:
            raise ValueError("quantity goes with plan")
        return self


class Confirmation(Model):
    """Whether the provider is asked to make the change. Otherwise the change is awaited."""

    apply: bool | None = None


class OverrideRequest(Model):
    """What an operator grants, or takes away with `revoke`, whatever is paid for: exactly one of value and revoke."""

    kind: Kind
    name: Text = Field(description="Of the feature, limit or module; the plan's key in the catalog.")
    value: OverrideValue = Field(
        None,
        description="true for a feature, a limit, a module's level; for a plan its units, or true for as many as are "
        "paid for; the name of the plan's version to move the tenant to.",
    )
    revoke: bool | None = Field(None, description="Not for plans and versions.")
    reason: Text
    expires_at: Instant | None = Field(None, description="RFC 3339; default: never.")
    app: Text | None = Field(None, description="The application that it counts in. Default: all, or that of the plan.")
    trial: bool | None = Field(None, description="Whether the plan is granted as a trial, which needs expires_at.")
    by: Text | None = None

    @model_validator(mode="after")
    def _grants_or_revokes(self) -> Self:
        if self.kind == PLAN and self.value is None and not self.revoke:
            self.value = True
        if bool(self.revoke) == (self.value is not None):
            raise ValueError("exactly one of value and revoke must be there")
        return self


class OverrideRemoval(Model):
    """Why an override is removed, and by whom, for the history."""

    reason: Text | None = None
    by: Text | None = None


class Erasure(Model):
    """Why a tenant is erased."""

    reason: Text


class Reasoned(Model):
    """Why something is done, and by whom, for the history."""

    reason: Text
    by: Text | None = None


_QUEUE = rf"^(?:{'|'.join(sorted(PARKING_QUEUES))}|{WEBHOOKS}[a-z][a-z0-9_-]{{0,31}})$"


def _known_queue(name: str) -> str:
    if not re.fullmatch(_QUEUE, name):
        raise ValueError(f"queue must be one of {', '.join(sorted(PARKING_QUEUES))}, {WEBHOOKS}ENDPOINT")
    return name


class QueueItem(Model):
    """One item of one of the worker's queues."""

    queue: Annotated[
        str, AfterValidator(_known_queue), WithJsonSchema({"type": "string", "pattern": _QUEUE, "maxLength": 64})
    ] = Field(description="The queue's name, as listed.")
    item: Text = Field(description="A topic, mostly, as listed.")


class DroppedItem(QueueItem, Reasoned):
    """The item to drop, and why."""


def _id(text: str) -> str:
    if not is_id(text) or text.endswith(":"):
        raise ValueError(f"{shown(text)} is not a subscription's id")
    return text


_MISSING = "|".join(sorted(map(re.escape, MISSING_VALUES))).replace("\\ ", " ")

_SubscriptionId = Annotated[
    str,
    AfterValidator(_id),
    WithJsonSchema({"type": "string", "maxLength": 200, "pattern": "^[!-~]*[!-9;-~]$"}),
]
TenantId = Annotated[
    str,
    AfterValidator(reference.checked_tenant),
    WithJsonSchema(
        {
            "type": "string",
            "maxLength": ID_MAX_BYTES,
            "pattern": rf"^(?!(?:{_MISSING})$)(?!{reference.PREFIX})\S(?:[\s\S]*\S)?(?![\s\S])",
        }
    ),
]
"""An id of the outside world. It is read as the topic's id."""


class LinkRequest(Reasoned):
    """Which subscription belongs to which tenant, by an operator's word."""

    subscription: _SubscriptionId = Field(
        description="The provider's id, or PROVIDER:ID where several providers are configured."
    )
    tenant: TenantId = Field(description="Your id of the tenant, at most 128 bytes.")
