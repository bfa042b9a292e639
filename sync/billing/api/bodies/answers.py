"""The answer bodies of billing's operations; for what is known about one tenant see `tenant_answers`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from planwire_client.core.limits import VERSION_MAX
from sync.billing.api.bodies.money import Quoted
from sync.billing.domain.outcome import Outcome
from sync.http.fields import TIME, Model, OneOf, Version
from sync.http.parameters import PAGE_MAX

OUTCOMES = [outcome.value for outcome in Outcome if outcome is not Outcome.CONFLICT]
_Outcome = Annotated[str, OneOf(OUTCOMES)]
Time = Annotated[str, Field(json_schema_extra=TIME)]


class Result(Model):
    """The result of an event. `reason`: why it was not applied, or made no version."""

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
    unknown_products: list[str] | None = Field(
        None, description="The same of a provider that sells products, such as Polar."
    )


class ParkedEvents(Model):
    """One page, the longest parked first. `next`, if there may be more, is the next page's `after`."""

    parked: list[ParkedEvent] = Field(max_length=PAGE_MAX)
    next: str | None = None


class ParkedItem(Model):
    """An item that failed until the worker gave it up."""

    queue: str
    item: str
    env: str
    reason: str
    attempts: int = Field(ge=0)


class ParkedItems(Model):
    """The first ones."""

    items: list[ParkedItem] = Field(max_length=PAGE_MAX)


class Done(Model):
    """It is done."""

    outcome: Literal["queued", "dropped"]


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
    money: Quoted | None = Field(None, description="Absent: the provider was not asked, or does not say.")
    money_differs: list[Difference] | None = Field(
        None, description="How `money` (to) differs from `expected` (from). Without `to`, the provider does not say."
    )


class Linked(TenantChanged):
    """What a link has done. `parked`: one of the tenants cannot be computed now; the next event completes the move."""

    topic: str
    subscription: str = Field(description="PROVIDER:ID.")
    reason: str | None = None
    was: str | None = Field(None, description="The topic that it belonged to before.")
    overrules: str | None = Field(
        None, description="The tenant that its metadata names. The link holds until that changes."
    )
