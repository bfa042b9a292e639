"""The answer bodies about one tenant: its overrides, history, status and links."""

from __future__ import annotations

from typing import Any

from pydantic import Field, JsonValue

from planwire_client.core.limits import VERSION_MAX
from sync.billing.api.bodies.answers import Difference, Time
from sync.billing.api.bodies.requests import Kind
from sync.http.fields import Model, Version


class Override(Model):
    """An override; expired ones are listed too."""

    kind: Kind
    name: str
    value: bool | int | str | None = None
    revoke: bool | None = None
    reason: str
    expires_at: Time | None = None
    app: str | None = Field(None, description="The application that it is for. Absent: all.")
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
    computed: JsonValue = Field(None, description="What billing computes, while pages do not see it (the shadow).")
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


class OneTimePurchase(Model):
    """What only a one-time purchase has."""

    bought_at: Time
    total: int | None = Field(None, description="What was paid, in minor units. Absent: the provider does not say.")
    currency: str | None = None
    expires_at: Time | None = Field(None, description="When it is over by the catalog. Absent: never, or it is over.")
    beside: str | None = Field(None, description="The subscription with whose payment it was bought.")


class WentBack(Model):
    """A refund or chargeback of a payment."""

    kind: str = Field(description="refund, chargeback, or reversal (of a chargeback that was won).")
    status: str = Field(description="pending (or rejected), approved, or reversed (won, or failed): the money stays.")
    at: Time
    amount: int | None = Field(None, description="In minor units. Absent: the provider does not say.")
    currency: str | None = None
    full: bool | None = Field(None, description="Whether the provider says that it is the whole payment.")


class TenantLink(Model):
    """A subscription or one-time purchase of a tenant, and what names the tenant."""

    subscription: str = Field(description="PROVIDER:ID.")
    status: str
    customer_id: str | None = None
    named_by: str | None = Field(None, description="The strongest of `names`, which counts.")
    names: dict[str, str] = Field(
        description="The tenants by what names them: operator, metadata, checkout, guess, ..."
    )
    overrules: str | None = Field(None, description="What the metadata named when an operator linked it.")
    moved_at: Time | None = Field(None, description="When it was moved here.")
    plan: str | None = Field(None, description="The plan that it has, while it is live.")
    plan_version: str | None = Field(None, description="The version of it.")
    version_by: str | None = Field(None, description="Why it has that version: purchase, price or move.")
    purchase: OneTimePurchase | None = Field(None, description="Absent: it is a subscription.")
    went_back: list[WentBack] | None = Field(None, description="Absent: nothing.")
    second_customer: bool | None = Field(
        None, description="Whether its customer is another than the tenant's own: then it only adds to the plan."
    )


class MovedLink(Model):
    """A subscription that belonged to the tenant, and was moved to another one."""

    subscription: str
    moved_at: Time
    to: str | None = Field(None, description="The topic that it belongs to now.")


class TenantLinks(Model):
    """A tenant's subscriptions with their links."""

    topic: str
    version: Version
    links: list[TenantLink]
    moved: list[MovedLink]
