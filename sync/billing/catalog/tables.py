"""The tables of a catalog's document as frozen values, and the checks of what is in them. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sync.core import instants

_Level = Literal["read", "write", "admin"]

LEVELS: tuple[str, ...] = get_args(_Level)
"""A module's levels, each including those before it."""

UNLIMITED = "unlimited"

OVERDUE_KINDS = ("cancel", "pause", "resume", "trial", "change_plan")
"""The changes that can fall due before the provider reports them."""

EVERY_LIMIT = "*"
"""Stands for every limit that `Policy.combine` does not name."""

GRACE_DEFAULT_NS = 7 * 86_400 * 1_000_000_000
NUMBER_MAX = 2**53 - 1
"""The greatest limit or rank: larger integers are not exact in a browser."""

_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def wrong(problem: str, *path: str, value: str = "", occurrence: int = 1) -> PydanticCustomError:
    """Return the error about the checked value, or about the value at `path` in it.

    For `value` and `occurrence` see `positions.Lines.of`.
    """
    where = {"path": path, "value": value, "occurrence": occurrence}
    return PydanticCustomError("catalog", "{problem}", {"problem": problem, **where})


def _must(problem: str) -> WrapValidator:
    """Return a validator that reports `problem` for every value of the wrong type."""

    def check(value: object, validate: Callable[[object], object]) -> object:
        try:
            return validate(value)
        except ValidationError:
            raise wrong(problem) from None

    return WrapValidator(check)


def _must_be_list(value: object, validate: Callable[[object], object]) -> object:
    if not isinstance(value, list):
        raise wrong("must be tables: write [[plans.KEY.versions]] above each")
    return validate(value)


def _duration_ns(value: object) -> int:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise wrong('must be a duration such as "7d", "12h", "30m" or "0s"')
    return int(match[1]) * _UNIT_S[match[2]] * 1_000_000_000


def _instant_ns(value: object) -> int:
    try:
        return instants.parse(value.isoformat() if isinstance(value, datetime.datetime) else value)
    except ValueError:
        raise wrong("must be an instant with its offset, such as 2027-01-01T00:00:00Z") from None


def _rank(rank: object) -> int:
    if not isinstance(rank, int) or isinstance(rank, bool):
        raise wrong("must be an integer")
    if not 0 <= rank <= NUMBER_MAX:
        raise wrong(f"must not be negative nor beyond {NUMBER_MAX} (2^53-1)")
    return rank


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise wrong("must be a list of texts that are not empty")
    repeated = next((entry for index, entry in enumerate(value) if entry in value[:index]), None)
    if repeated is not None:
        raise wrong(f"has {repeated!r} twice", value=f'"{repeated}"', occurrence=2)
    return tuple(value)


def check_known(table: Mapping[str, object], names: Collection[str], *path: str) -> None:
    """Check that a table has only keys among `names`.

    Args:
        path: where the table is in the checked value.

    Raises:
        PydanticCustomError: it has another key.
    """
    for key in table:
        if key not in names:
            raise wrong(f"is not known here: expected {', '.join(sorted(names))}", *path, key)


def _each_kind(value: object) -> object:
    if isinstance(value, str):
        return dict.fromkeys(OVERDUE_KINDS, value)
    if isinstance(value, dict):
        check_known(value, OVERDUE_KINDS)
        return {**dict.fromkeys(OVERDUE_KINDS, "hold"), **value}
    return value


def _each_limit(value: object) -> object:
    return {EVERY_LIMIT: value} if isinstance(value, str) else value


_WHOLE = f"must be a whole number from 0 to {NUMBER_MAX} (2^53-1)"
_Number = Annotated[int, Field(ge=0, le=NUMBER_MAX)]
_Count = Annotated[_Number, _must(_WHOLE)]
_Limit = Annotated[_Number | Literal["unlimited"], _must(f'{_WHOLE}, or "{UNLIMITED}"')]
_Choice = Annotated[Literal["hold", "apply"], _must('must be "hold" or "apply"')]
_Refund = Annotated[Literal["keep", "revoke"], _must('must be "keep" or "revoke"')]
_Flag = Annotated[bool, _must("must be true or false")]
_Trust = Annotated[Literal["accept", "park"], _must('must be "accept" or "park"')]
_Combined = Annotated[Literal["sum", "max"], _must('must be "sum" or "max"')]
_Text = Annotated[str, Field(pattern=r"\S"), _must("must be a text that is not empty")]
_Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
_Environment = Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,31}$"), _must("is not an environment's name")]
Ids = dict[str, dict[_Environment, _Texts]]
"""Provider -> environment -> ids."""

_Version = Annotated[
    str,
    Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"),
    _must('must be a name such as "2027", of at most 64 of A-Z a-z 0-9 . _ -'),
]
_Key = Annotated[
    str, Field(pattern="^[a-z][a-z0-9_-]{0,63}$"), _must("is no key: use a-z, 0-9, _ and -, starting with a letter")
]

_App = Annotated[
    str,
    Field(pattern="^[a-z][a-z0-9_-]{0,63}$"),
    _must("must be an application's name: a-z, 0-9, _ and -, starting with a letter"),
]


class _Table(BaseModel):
    """A table that accepts only the model's keys."""

    model_config = ConfigDict(frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise wrong("must be a table")
        fields = {field.alias or name: field for name, field in cls.model_fields.items() if name != "key"}
        check_known(value, fields)
        for name, field in fields.items():
            if field.is_required() and name not in value:
                raise wrong(f"needs a {name}")
        return value


class Policy(_Table):
    """The grace period in nanoseconds; what to do with each kind of change when it is overdue; whom to trust.

    `second_customer` is about subscriptions of another customer than the tenant's own, `unsigned_tenant` about names
    without a signed reference: "accept" or "park". `refund` is about subscriptions whose payment went back. `app` is
    the leading application, "" for none. `combine` is about a limit that two subscriptions of one plan have, by the
    limit's name or EVERY_LIMIT: "sum" or "max" (the default).
    """

    grace_ns: Annotated[int, BeforeValidator(_duration_ns)] = Field(default=GRACE_DEFAULT_NS, alias="grace")
    overdue: Annotated[dict[str, _Choice], BeforeValidator(_each_kind)] = dict.fromkeys(OVERDUE_KINDS, "hold")
    second_customer: _Trust = "accept"
    unsigned_tenant: _Trust = "accept"
    refund: _Refund = "keep"
    app: _App = ""
    combine: Annotated[dict[str, _Combined], BeforeValidator(_each_limit)] = {}

    def is_summed(self, limit: str) -> bool:
        """Return whether the amounts of a limit are added up where two subscriptions of one plan have it."""
        return self.combine.get(limit, self.combine.get(EVERY_LIMIT, "max")) == "sum"


class PerUnit(_Table):
    """Limits per unit of quantity."""

    limits: dict[str, _Count] = {}


_Limits = dict[str, _Limit]
_Modules = dict[str, Annotated[_Level, _must(f"must be one of {', '.join(LEVELS)}")]]


class Sold(_Table):
    """By what an item is recognised: its price, the lookup key of that, or its product."""

    prices: Ids = {}
    lookup_keys: Ids = {}
    products: Ids = {}


SOLD_BY = tuple(Sold.model_fields)
"""The tables of `Sold`, the most specific first."""


class Offer(Sold):
    """What a plan or an add-on grants in its application, also per unit of quantity. Without `app`: in each of them.

    `purchase`: whether a one-time purchase buys it; then for `expires_ns` nanoseconds, None for ever.
    """

    key: str = ""
    name: _Text
    app: _App = ""
    features: _Texts = ()
    limits: _Limits = {}
    per_unit: PerUnit = PerUnit()
    modules: _Modules = {}
    purchase: _Flag = False
    expires_ns: Annotated[int | None, BeforeValidator(_duration_ns)] = Field(default=None, alias="expires")

    @model_validator(mode="after")
    def _check_expiry(self) -> Self:
        if self.expires_ns is not None and not (self.purchase and self.expires_ns):
            raise wrong("is for what a purchase buys (purchase = true), and longer than nothing", "expires")
        return self


class Addon(Offer):
    """One add-on: adds to the tenant's plan."""


class PlanVersion(Sold):
    """Earlier terms of a plan, which those keep who have bought them. A field that is None is as in the plan.

    They are those of the prices listed here, and of the plan's own prices if they were bought before `until_ns`.
    """

    version: _Version
    until_ns: Annotated[int | None, BeforeValidator(_instant_ns)] = Field(default=None, alias="until")
    name: _Text | None = None
    features: _Texts | None = None
    limits: _Limits | None = None
    per_unit: PerUnit | None = None
    modules: _Modules | None = None


CURRENT = "current"
"""The name of a plan's present terms, if the plan gives them none."""


class Plan(Offer):
    """One plan; of several, the highest `rank` wins. `version` names the terms that it has for new customers."""

    rank: Annotated[int, BeforeValidator(_rank)]
    default: _Flag = False
    version: _Version = CURRENT
    versions: Annotated[list[PlanVersion], WrapValidator(_must_be_list)] = []


NO_PLAN = Plan.model_construct(key="", name="", rank=-1)
"""The default plan of an application without one: it grants nothing, and no state shows it."""


class Ignored(Sold):
    """What other software sells on the same provider accounts."""


_Path = Annotated[str, Field(pattern=r"^[^.\s][^.]*(\.[^.]+)*$"), _must("must be a path, such as subscription.tier")]


def _ours(fields: dict[str, str]) -> dict[str, str]:
    for name in fields:
        if not _OURS.fullmatch(name):
            raise wrong(f"is no field of a state: expected {OURS}, features.NAME, limits.NAME or modules.NAME", name)
    return fields


OURS = "plan, status, features, limits, modules, period.starts_at, period.ends_at, trial_ends_at, grace_ends_at"
_OURS = re.compile(
    r"(apps\.[a-z][a-z0-9_-]*\.)?"
    r"(plan|status|(features|limits|modules)(\.[^.]+)?|period\.(starts|ends)_at|(trial|grace)_ends_at)"
)


class Shadow(_Table):
    """How the answers of the entitlement system that exists are read, while billing runs in its shadow.

    `fields`: a field of our state -> its path in their answer. `values`: a field of ours -> their word -> ours.
    `ignore`: fields of ours that are not compared.
    """

    fields: Annotated[dict[str, _Path], AfterValidator(_ours)] = {name: name for name in OURS.split(", ")}
    values: dict[str, dict[str, str | int | bool]] = {}
    ignore: _Texts = ()


class Document(_Table):
    """A catalog's whole document."""

    policy: Policy = Policy()
    plans: dict[_Key, Plan] = {}
    addons: dict[_Key, Addon] = {}
    ignore: Ignored = Ignored()
    shadow: Shadow | None = None
