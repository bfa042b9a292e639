"""The bodies and answers of the operations on the shadow."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator
from pydantic.json_schema import SkipJsonSchema

from sync.billing.api.bodies.answers import TenantChanged
from sync.billing.api.bodies.requests import TenantId
from sync.http.fields import Instant, Model, OneOf, Text, Time

SHADOW_BATCH_MAX, SWITCH_MAX = 500, 100
"""Maximum answers of a batch, and tenants of a switch by name."""


class ShadowAnswer(Model):
    """What the entitlement system that exists says of a tenant, as it says it; the catalog's [shadow] reads it."""

    answer: dict[str, JsonValue] | None = Field(description="null: it does not know the tenant.")
    at: Instant | None = Field(
        None, description="RFC 3339, when it said so; an older answer is not used. Default, and at most: now."
    )


class TenantShadowAnswer(ShadowAnswer):
    """The same, with the tenant."""

    tenant: TenantId = Field(description="Your id of the tenant, at most 128 bytes.")


class ShadowAnswers(Model):
    """Answers about several tenants; the body may have 4 MiB."""

    max_bytes = 4_194_304

    answers: Annotated[list[TenantShadowAnswer], Field(min_length=1, max_length=SHADOW_BATCH_MAX)]


_SWITCH_SHAPES: dict[str, JsonValue] = {
    "oneOf": [{"required": ["tenants"]}, {"required": ["share"]}, {"required": ["all"]}],
    "dependentSchemas": {"share": {"properties": {"back": {"enum": [False, None]}}}},
}


class SwitchRequest(Model, json_schema_extra=_SWITCH_SHAPES):
    """Which tenants are switched, so that pages see what billing computes: exactly one of tenants, share and all."""

    tenants: Annotated[list[TenantId], Field(min_length=1, max_length=SWITCH_MAX)] | SkipJsonSchema[None] = None
    share: Annotated[float, Field(ge=0, le=100)] | SkipJsonSchema[None] = Field(
        None, description="Percent of all tenants; those above it are switched back. By a stable hash."
    )
    all: Literal[True] | SkipJsonSchema[None] = None
    back: bool | None = Field(None, description="Whether they are switched back. Not with share.")
    reason: Text | None = None
    by: Text | None = None

    @model_validator(mode="after")
    def _is_one_choice(self) -> Self:
        given = self.model_fields_set & {"tenants", "share", "all"}
        if len(given) != 1 or all(choice is None for choice in (self.tenants, self.share, self.all)):
            raise ValueError("exactly one of tenants, share and all must be there")
        if self.back and self.share is not None:
            raise ValueError("back does not go with share: give the share that stays")
        return self


class ShadowDifference(Model):
    """A field that differs: what billing computes, and what the other system says."""

    field: str
    here: JsonValue = None
    there: JsonValue = None


class ShadowCompared(Model):
    """The comparison of one tenant with the other system's answer."""

    topic: str
    outcome: Annotated[str, OneOf(["equal", "differs", "stale", "not_compared"])] = Field(
        description="stale: the stored answer is newer. not_compared: the answer is null or has none of the declared "
        "fields, or the tenant was erased."
    )
    compared: list[str] = Field(description="The fields that both sides have.")
    differences: list[ShadowDifference]


class ShadowFailed(Model):
    """A tenant that could not be compared, or switched now."""

    topic: str
    code: str
    detail: str


class ShadowResults(Model):
    """One result for each answer, in order."""

    results: list[ShadowCompared | ShadowFailed]


class ShadowExample(Model):
    """A tenant that differs."""

    topic: str
    plan: str = Field(description="The plan that billing computes.")
    compared_at: Time
    answered_at: Time
    differences: list[ShadowDifference]
    is_known: bool | None = Field(
        None, description="False if billing knows nothing of it: the default plan is compared."
    )


class TenantShadow(Model):
    """What billing computes of a tenant, and how it differs from the other system's last answer."""

    topic: str
    is_known: bool = Field(description="Whether billing knows the tenant.")
    is_seen: bool = Field(description="Whether pages see what billing computes.")
    is_switched: bool = Field(description="Whether they see it from its next event on, by its name or the share.")
    computed: JsonValue = Field(description="The state that billing computes; null if it does not know the tenant.")
    compared_at: Time | None = None
    answered_at: Time | None = Field(None, description="Absent: there is no answer.")
    is_absent: bool | None = Field(None, description="Whether the other system does not know the tenant.")
    compared: list[str] = Field(description="The fields that both sides have.")
    differences: list[ShadowDifference]


class ShadowField(Model):
    """A field of the state, or a name in one of its tables."""

    compared: int = Field(ge=0, description="Tenants of which both sides have it. 0: its path may be wrong.")
    differing: int = Field(ge=0)


class ShadowProblem(Model):
    """The other system's last failure, within ten minutes."""

    topic: str
    reason: str
    at: Time


class ShadowReport(Model):
    """How billing compares with the other system now."""

    is_on: bool = Field(description="Whether new tenants go into the shadow, unless they are switched.")
    unseen: int = Field(ge=0, description="Tenants of billing in the shadow: pages do not see what it computes.")
    seen: int = Field(ge=0, description="Tenants of billing that pages see.")
    compared: int = Field(ge=0, description="Tenants that it has answered for.")
    differing: int = Field(ge=0)
    absent: int = Field(ge=0, description="Tenants that it does not know.")
    not_compared: int = Field(ge=0, description="Tenants whose answer has none of the declared fields.")
    waiting: int = Field(ge=0, description="Tenants that wait to be compared or switched now.")
    problem: ShadowProblem | None = None
    fields: dict[str, ShadowField] = Field(description="By the compared field.")
    plans: dict[str, int] = Field(description="Number of tenants that differ, by the plan that billing computes.")
    examples: list[ShadowExample] = Field(description="The newest first.")
    share: float = Field(ge=0, le=100, description="Percent of the tenants that are switched.")
    switched: list[str] = Field(description="Tenants switched by name.")
    switched_back: list[str] = Field(description="Tenants switched back by name.")


class TenantSwitched(TenantChanged):
    """A tenant that was switched by name."""

    topic: str
    reason: str | None = None


class ShadowSwitched(Model):
    """What has become of the switch."""

    tenants: list[TenantSwitched | ShadowFailed]
    queued: int = Field(ge=0, description="Tenants that the worker brings to where they belong now.")
