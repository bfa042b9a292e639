"""The bodies of the operations on usage, and the calls that they ask for."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema

from sync.http.fields import UNREAD, WHOLE, Instant, Model, Text, Version
from sync.http.openapi import CODES
from sync.usage.meters import AMOUNT_MAX

CALLS_MAX = 500
"""Maximum calls in a batch."""

HOLD_MAX_S = 86_400
HOLD_DEFAULT_S = 300
"""Seconds for which units are reserved."""

_Amount = Annotated[int, Field(ge=1, le=AMOUNT_MAX), WHOLE]
_Whole = Annotated[int, Field(ge=0, le=AMOUNT_MAX), WHOLE]
_Seconds = Annotated[int, Field(ge=1, le=HOLD_MAX_S), WHOLE]
_KEY_PATTERN = r"^[!-~]{1,200}$"


def _named(key: str) -> str:
    if re.fullmatch(_KEY_PATTERN, key) is None:
        raise ValueError("it has 1 to 200 printable ASCII characters, and no blank")
    return key


_Key = Annotated[str, AfterValidator(_named), WithJsonSchema({"type": "string", "pattern": _KEY_PATTERN})]
KEY = "Makes the call count once, for a day: repeat it with the same key when its answer is lost."


class Consume(Model):
    """Units to take."""

    amount: _Amount = 1
    key: _Key | None = Field(None, description=KEY)


class Release(Model):
    """Units to give back."""

    amount: _Amount = 1
    key: _Key | None = Field(None, description=KEY)


class SetTo(Model):
    """How many are in use now."""

    amount: _Whole
    key: _Key | None = Field(None, description=KEY)


class Reserve(Model):
    """Units to hold for work whose size is not known yet."""

    amount: _Amount
    id: _Key = Field(description="Your id of the reservation; repeating it reserves nothing more.")
    seconds: _Seconds = Field(HOLD_DEFAULT_S, description="Then they are given back.")


class Finalize(Model):
    """What reserved work has used."""

    id: _Key = Field(description="Of the reservation.")
    amount: _Whole = Field(description="What it used; 0 gives everything back.")


_ONE_OF: dict[str, JsonValue] = {"oneOf": [{"required": ["to"]}, {"required": ["by"]}]}


class Adjust(Model, json_schema_extra=_ONE_OF):
    """A correction by an operator: exactly one of `to` and `by`."""

    to: _Whole | SkipJsonSchema[None] = Field(None, description="What is used now.")
    by: Annotated[int, Field(ge=-AMOUNT_MAX, le=AMOUNT_MAX), WHOLE] | SkipJsonSchema[None] = Field(
        None, description="How many units more, or less."
    )
    reason: Text
    key: _Key | None = Field(None, description=KEY)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.to is None) == (self.by is None):
            raise ValueError("exactly one of to and by must be there")
        return self


class Grant(Model):
    """Credits that an operator gives."""

    amount: _Amount
    ends_at: Instant | None = Field(None, description="RFC 3339. Default: never.")
    reason: Text
    key: _Key | None = Field(None, description=KEY)


class BatchCall(Model):
    """One call of a batch."""

    tenant: Annotated[str, Field(min_length=1, max_length=500)] = Field(description="Your id of the tenant.")
    meter: Text
    operation: Literal["consume", "release", "set", "reserve", "finalize"] = "consume"
    amount: _Whole | None = Field(
        None, description="Units. Default: 1 for consume and release; required for the others."
    )
    key: _Key | None = Field(None, description=f"Of consume, release and set. {KEY}")
    id: _Key | None = Field(None, description="Of the reservation, for reserve and finalize.")
    seconds: _Seconds | None = Field(None, description=f"How long reserve holds the units. Default: {HOLD_DEFAULT_S}.")


class Batch(Model):
    """Calls, each for itself: a malformed one has its own result. Those of one tenant are counted in this order."""

    max_bytes = 1_048_576

    calls: list[Annotated[BatchCall, UNREAD]] = Field(max_length=CALLS_MAX)


class Counted(Model):
    """What came of a call, and what is left."""

    allowed: bool = Field(description="Whether it was counted. A denial changes nothing.")
    used: Version
    reserved: Version
    limit: Version | Literal["unlimited"]
    remaining: Version | Literal["unlimited"]
    resets_at: str | None = Field(None, description="When the count begins anew; absent if it does not.")
    version: Version = Field(description="Of the entitlements that it was counted against; 0: the default plan's.")
    usage_version: Version = Field(description="Of the topic usage:ID.")
    over: int | None = Field(None, description="Units beyond the limit.")
    repeated: bool | None = Field(None, description="It was counted earlier, under the same key.")


class BatchResult(Model):
    """What came of one call of a batch; `code` and `detail` if it could not be counted."""

    allowed: bool | None = None
    used: Version | None = None
    reserved: Version | None = None
    limit: Version | Literal["unlimited"] | None = None
    remaining: Version | Literal["unlimited"] | None = None
    resets_at: str | None = None
    version: Version | None = None
    usage_version: Version | None = None
    over: int | None = None
    repeated: bool | None = None
    code: str | None = Field(None, json_schema_extra=CODES)
    detail: str | None = None


class BatchResults(Model):
    """One result for each call, in order."""

    results: list[BatchResult]


class CreditGrant(Model):
    """Credits that were bought or granted once."""

    id: str
    amount: Version
    remaining: Version
    ends_at: str | None = None


class Window(Model):
    """The window in which usage counts."""

    starts_at: str
    ends_at: str


class MeterUsage(Model):
    """The usage of one meter."""

    app: str | None = Field(None, description="The application whose limit it is, if the catalog's meter names one.")
    kind: Literal["consumable", "allocated", "credits"]
    used: Version
    counted: Version | None = Field(None, description="Credits used in the present window, of any grant.")
    reserved: Version
    limit: Version | Literal["unlimited"] | None = Field(None, description="Absent: not known.")
    remaining: Version | Literal["unlimited"] | None = None
    status: Literal["ok", "near", "reached", "over", "unknown"]
    period: Window | None = None
    grants: list[CreditGrant] | None = None


class OneUsage(MeterUsage):
    """The usage of one meter by now."""

    version: Version = Field(description="Of the topic usage:ID.")
    entitlements: Version = Field(description="The version of the entitlements that the limit is from.")


class Usage(Model):
    """What a tenant has used of its limits by now. The topic usage:ID shows it, too, at most a few times a second."""

    version: Version = Field(description="Of the topic usage:ID.")
    entitlements: Version = Field(description="The version of the entitlements that the limits are from.")
    meters: dict[str, MeterUsage]
