"""The bodies that the intake reads: each type checks what is sent, and is its description."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema

from planwire_client.core.limits import VERSION_MAX
from sync.billing.domain.overrides import KINDS
from sync.billing.domain.preview import ITEMS_MAX
from sync.billing.providers.base import BILLING_MODES
from sync.billing.providers.parsing import QUANTITY_MAX
from sync.http.fields import Instant, Model, OneOf, Text

_Quantity = Annotated[int, Field(ge=0, le=QUANTITY_MAX)]
BillingMode = Annotated[str, OneOf(BILLING_MODES)]
Kind = Annotated[str, OneOf(KINDS)]
OverrideValue = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "integer"}, {"type": "string"}, {"type": "null"}]})
]


class ScheduleRequest(Model):
    """A plan change that providers cannot hold for later: this plan now, that one from then on."""

    plan: Text = Field(description="The plan's key in the catalog.")
    effective_at: Instant | None = Field(None, description="RFC 3339; default: the paid period's end.")
    subscription_id: Text | None = Field(None, description="Default: the leading one.")
    keep: Text | None = Field(None, description="The plan that counts until then. Default: the present one.")
    billing_mode: BillingMode | None = Field(None, description="Default: do_not_bill.")
    if_version: int | None = Field(None, ge=0, le=VERSION_MAX, description="Only if the tenant is at this version.")


class PlanItem(Model):
    """One line of a subscription."""

    price_id: Text
    quantity: _Quantity | None = Field(None, description="Default: 1.")


_PREVIEW_SHAPES: dict[str, JsonValue] = {
    "oneOf": [{"required": ["plan"]}, {"required": ["items"]}, {"required": ["cancel"]}],
    "dependentRequired": {"quantity": ["plan"]},
}


class PreviewBody(Model):
    """A change to be previewed: exactly one of plan, items and cancel."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_PREVIEW_SHAPES)

    plan: Text | SkipJsonSchema[None] = Field(None, description="The plan's key in the catalog.")
    quantity: _Quantity | SkipJsonSchema[None] = Field(None, description="Default: as many as now.")
    items: Annotated[list[PlanItem], Field(min_length=1, max_length=ITEMS_MAX)] | SkipJsonSchema[None] = None
    cancel: Literal["now", "period_end"] | SkipJsonSchema[None] = None
    subscription_id: Text | None = Field(None, description="Default: the leading one.")
    billing_mode: BillingMode | None = Field(None, description="Default: prorated_immediately.")
    ask_provider: bool | None = Field(None, description="Whether to have the provider preview it, too.")
    provider_preview: dict[str, JsonValue] | None = Field(None, description="What the provider's own preview said.")

    @model_validator(mode="after")
    def _is_one_change(self) -> Self:
        if sum(change is not None for change in (self.plan, self.items, self.cancel)) != 1:
            raise ValueError("exactly one of plan, items and cancel must be there")
        if self.quantity is not None and self.plan is None:
            raise ValueError("quantity goes with plan")
        return self


class Confirmation(Model):
    """Whether the provider is to be told; without it the change is awaited."""

    apply: bool | None = None


class OverrideRequest(Model):
    """What an operator grants, or takes with `revoke`, over whatever is paid for: exactly one of value and revoke."""

    kind: Kind
    name: Text
    value: OverrideValue = Field(None, description="true for a feature, a limit, or a module's level.")
    revoke: bool | None = None
    reason: Text
    expires_at: Instant | None = Field(None, description="RFC 3339; default: never.")
    by: Text | None = None

    @model_validator(mode="after")
    def _grants_or_revokes(self) -> Self:
        if bool(self.revoke) == (self.value is not None):
            raise ValueError("exactly one of value and revoke must be there")
        return self


class OverrideRemoval(Model):
    """Why an override is taken back, and by whom, for the history."""

    reason: Text | None = None
    by: Text | None = None


class Erasure(Model):
    """Why a tenant is erased."""

    reason: Text
