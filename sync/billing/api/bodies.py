"""The request and answer bodies of the intake's operations. The OpenAPI document is generated from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema

from planwire_client.core.limits import VERSION_MAX
from sync.billing.domain.entitlements.overrides import KINDS
from sync.billing.domain.entitlements.preview import ITEMS_MAX
from sync.billing.domain.facts.model import PLAN
from sync.billing.domain.outcome import Outcome
from sync.billing.providers.base import BILLING_MODES
from sync.billing.providers.parsing import QUANTITY_MAX
from sync.http.fields import TIME, Instant, Model, OneOf, Text, Version
from sync.http.parameters import PAGE_MAX

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
    """Whether the provider is asked to make the change. Otherwise the change is awaited."""

    apply: bool | None = None


class OverrideRequest(Model):
    """What an operator grants, or takes away with `revoke`, whatever is paid for: exactly one of value and revoke."""

    kind: Kind
    name: Text = Field(description="Of the feature, limit or module; the plan's key in the catalog.")
    value: OverrideValue = Field(
        None,
        description="true for a feature, a limit, a module's level; for a plan its units, or true for as many as are "
        "paid for.",
    )
    revoke: bool | None = Field(None, description="Not for plans.")
    reason: Text
    expires_at: Instant | None = Field(None, description="RFC 3339; default: never.")
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


OUTCOMES = [outcome.value for outcome in Outcome if outcome is not Outcome.CONFLICT]

_Outcome = Annotated[str, OneOf(OUTCOMES)]
Time = Annotated[str, Field(json_schema_extra=TIME)]


class Result(Model):
    """The result of an event. `reason`: why it was not applied."""

    outcome: _Outcome
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
    received_at: Time
    parked_at: Time
    attempts: int = Field(ge=0)
    unknown_prices: list[str] | None = Field(None, description="Its prices that the catalog neither sells nor ignores.")


class ParkedEvents(Model):
    """One page, the longest parked first. `next`, if there may be more, is the next page's `after`."""

    parked: list[ParkedEvent] = Field(max_length=PAGE_MAX)
    next: str | None = None


class DriftRecord(Model):
    """One difference that was found between Planwire and the provider, or between a state and its facts."""

    kind: str
    topic: str
    subject: str | None = None
    why: str | None = None
    at: Time
    here: JsonValue = None
    there: JsonValue = None
    version: int | None = Field(None, ge=1, le=VERSION_MAX, description="The one that repaired it, if one did.")


class DriftPage(Model):
    """One page, the newest first. `next`, if there may be more, is the next page's `before`."""

    drift: list[DriftRecord] = Field(max_length=PAGE_MAX)
    counts: dict[str, int] = Field(description="How many of each kind were ever found.")
    next: str | None = None


class Reconciled(Model):
    """The result of comparing one tenant with its provider. The differences are already repaired."""

    outcome: _Outcome
    version: Version
    reason: str | None = None
    asked: int = Field(ge=0, description="Subscriptions that the provider was asked for.")
    unasked: dict[str, str] = Field(description="Those it could not be asked for, and why.")
    drift: list[DriftRecord]


class Compared(Model):
    """The result of comparing one topic with its billing provider, or else with the source.

    Outcomes of a source: absent (it has no state; the stored one stays), stale (the stored state is newer by its
    order), conflict (other publishes kept coming first). `asked`, `unasked` and `drift` as in Reconciled: billing only.
    """

    outcome: Annotated[str, OneOf([*OUTCOMES, "stale", "conflict", "absent", "billed"])]
    version: Version
    reason: str | None = None
    asked: int | None = Field(None, ge=0)
    unasked: dict[str, str] | None = None
    drift: list[DriftRecord] | None = None


class TenantChanged(Model):
    """The result for the tenant."""

    outcome: _Outcome
    version: Version


class ChangeScheduled(Model):
    """The scheduled change."""

    outcome: _Outcome
    version: Version
    replaced: bool = Field(description="Whether it took the place of another.")
    executes_at: Time = Field(description="When the provider is asked to apply it.")
    scheduled: dict[str, JsonValue] | None = Field(description="As the tenant's state shows it.")


class Difference(Model, extra="allow"):
    """One field that differs; absent: not there."""

    path: str


class Previewed(Model):
    """The predicted effect of the change on the tenant at this version."""

    preview_id: str = Field(description="Good for one hour, and for this version.")
    version: Version
    taken_at: Time
    subscription_id: str
    state: dict[str, JsonValue]
    diff: list[Difference]
    provider: dict[str, JsonValue] | None = None
    provider_differs: list[Difference] | None = None


class Override(Model):
    """An override; expired ones are listed too."""

    kind: Kind
    name: str
    value: bool | int | str | None = None
    revoke: bool | None = None
    reason: str
    expires_at: Time | None = None
    trial: bool | None = None
    by: str | None = None


class Overrides(Model):
    """A tenant's overrides."""

    version: Version
    overrides: list[Override]


class HistoryChange(Model):
    """One version: when and why it was made, and what it changed."""

    version: int = Field(ge=1, le=VERSION_MAX)
    at: Time
    cause: dict[str, JsonValue]
    diff: list[Difference]


class HistoryEvent(Model, extra="allow"):
    """One event and its result."""

    at: Time


class History(Model):
    """The newest first."""

    topic: str
    changes: list[HistoryChange]
    events: list[HistoryEvent]


class ProviderSaid(Model):
    """One subscription, as in the provider's last answer."""

    asked_at: Time
    is_held: bool = Field(description="Whether that is what the tenant's facts hold now.")
    subscription: dict[str, JsonValue] | None = Field(None, description="Absent: the provider does not know it.")


class ProviderSide(Model):
    """The provider's last answers, by subscription (`paddle:sub_...`). One that was never fetched is absent."""

    can_be_asked: bool = Field(description="Whether an API key is set for the environment.")
    subscriptions: dict[str, ProviderSaid]


class StoreSide(Model):
    """The published state, and the subscriptions behind it."""

    version: Version
    at: Time | None = None
    state: JsonValue
    subscriptions: dict[str, dict[str, Any]] | None = Field(None, description="Absent: it is not billing's.")
    second_customers: list[str] | None = Field(
        None, description="The subscriptions of other customers than the tenant's own: they only add to its plan."
    )


class TabsSide(Model):
    """What open tabs show, across all gateways that answered in time. Versions are absent if no tab reported one."""

    sessions: int = Field(ge=0)
    acked_min: int | None = Field(None, ge=1, le=VERSION_MAX)
    acked_max: int | None = Field(None, ge=1, le=VERSION_MAX)
    unacked: int = Field(ge=0, description="Have not said that they show the newest; of a crowd only a share is asked.")
    nacked: int = Field(ge=0, description="Could not use the newest.")
    gateways: int = Field(ge=0, description="Answered.")
    silent: int = Field(ge=0, description="Did not answer within 0.6 s.")


class TenantStatus(Model):
    """The current status of provider, store and tabs."""

    topic: str
    version: Version
    provider: ProviderSide
    store: StoreSide
    tabs: TabsSide
