"""The kinds of values in a catalog, each with the check that says what it must be. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WrapValidator
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

THRESHOLD_MAX = 1_000
"""The greatest threshold of a meter, in percent: beyond 100 is for meters that may exceed their limit."""

GRACE_DEFAULT_NS = 7 * 86_400 * 1_000_000_000
NUMBER_MAX = 2**53 - 1
"""The greatest limit or rank: larger integers are not exact in a browser."""

OURS = "plan, status, features, limits, modules, period.starts_at, period.ends_at, trial_ends_at, grace_ends_at"
"""The fields of a state that another system's answer can be compared with."""

_OURS = re.compile(
    r"(apps\.[a-z][a-z0-9_-]*\.)?"
    r"(plan|status|(features|limits|modules)(\.[^.]+)?|period\.(starts|ends)_at|(trial|grace)_ends_at)"
)
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


def duration_text(ns: int) -> str:
    """Return a duration as a catalog writes it, in the greatest unit that is exact."""
    seconds = ns // 1_000_000_000
    unit = next((unit for unit in "dhm" if seconds and seconds % _UNIT_S[unit] == 0), "s")
    return f"{seconds // _UNIT_S[unit]}{unit}"


FOR_EVER = "never"
"""What never expires."""


def _expiry_ns(value: object) -> int:
    """Return a duration that is not empty, or 0 for what never expires."""
    if value == FOR_EVER:
        return 0
    found = _duration_ns(value) if isinstance(value, str) and _DURATION.fullmatch(value) else 0
    if not found:
        raise wrong(f'must be a duration such as "365d" or "12h", or "{FOR_EVER}"')
    return found


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


def _ours(fields: dict[str, str]) -> dict[str, str]:
    for name in fields:
        if not _OURS.fullmatch(name):
            raise wrong(f"is no field of a state: expected {OURS}, features.NAME, limits.NAME or modules.NAME", name)
    return fields


def _thresholds(value: object) -> tuple[int, ...]:
    is_valid = isinstance(value, list) and all(type(one) is int and 1 <= one <= THRESHOLD_MAX for one in value)
    if not isinstance(value, list) or not is_valid or value != sorted(set(value)):
        raise wrong(f"must be a list of rising percentages from 1 to {THRESHOLD_MAX}, such as [80, 100]")
    return tuple(value)


_WHOLE = f"must be a whole number from 0 to {NUMBER_MAX} (2^53-1)"
_Number = Annotated[int, Field(ge=0, le=NUMBER_MAX)]
Count = Annotated[_Number, _must(_WHOLE)]
_Limit = Annotated[_Number | Literal["unlimited"], _must(f'{_WHOLE}, or "{UNLIMITED}"')]
_Choice = Annotated[Literal["hold", "apply"], _must('must be "hold" or "apply"')]
Overdue = Annotated[dict[str, _Choice], BeforeValidator(_each_kind)]
"""Kind of change -> what to do with it when it is overdue."""

Duration = Annotated[int, BeforeValidator(_duration_ns)]
"""In nanoseconds."""

Expiry = Annotated[int, BeforeValidator(_expiry_ns)]
"""In nanoseconds; 0: never."""

Instant = Annotated[int, BeforeValidator(_instant_ns)]
"""In nanoseconds since 1970."""

Rank = Annotated[int, BeforeValidator(_rank)]
Refund = Annotated[Literal["keep", "revoke"], _must('must be "keep" or "revoke"')]
Flag = Annotated[bool, _must("must be true or false")]
Trust = Annotated[Literal["accept", "park"], _must('must be "accept" or "park"')]
_Combination = Annotated[Literal["sum", "max"], _must('must be "sum" or "max"')]
Combined = Annotated[dict[str, _Combination], BeforeValidator(_each_limit)]
"""Limit or EVERY_LIMIT -> how the amounts of two subscriptions are combined."""

Text = Annotated[str, Field(pattern=r"\S"), _must("must be a text that is not empty")]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
_Environment = Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,31}$"), _must("is not an environment's name")]
Ids = dict[str, dict[_Environment, Texts]]
"""Provider -> environment -> ids."""

Version = Annotated[
    str,
    Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"),
    _must('must be a name such as "2027", of at most 64 of A-Z a-z 0-9 . _ -'),
]
Key = Annotated[
    str, Field(pattern="^[a-z][a-z0-9_-]{0,63}$"), _must("is no key: use a-z, 0-9, _ and -, starting with a letter")
]

App = Annotated[
    str,
    Field(pattern="^[a-z][a-z0-9_-]{0,63}$"),
    _must("must be an application's name: a-z, 0-9, _ and -, starting with a letter"),
]

Limits = dict[str, _Limit]
Amounts = dict[str, Count]
"""Meter -> units."""

MeterKind = Annotated[
    Literal["consumable", "allocated", "credits"], _must('must be "consumable", "allocated" or "credits"')
]
Reset = Annotated[Literal["period", "month", "never"], _must('must be "period", "month" or "never"')]
Overage = Annotated[Literal["deny", "soft", "allow"], _must('must be "deny", "soft" or "allow"')]
AtPlanChange = Annotated[Literal["keep", "scale", "reset"], _must('must be "keep", "scale" or "reset"')]
Thresholds = Annotated[tuple[int, ...], BeforeValidator(_thresholds)]
"""Percentages of a limit, rising."""

Modules = dict[str, Annotated[_Level, _must(f"must be one of {', '.join(LEVELS)}")]]

AnswerPath = Annotated[
    str, Field(pattern=r"^[^.\s][^.]*(\.[^.]+)*$"), _must("must be a path, such as subscription.tier")
]
ShadowFields = Annotated[dict[str, AnswerPath], AfterValidator(_ours)]
"""Field of a state -> its path in the other system's answer."""

ENTRIES = WrapValidator(_must_be_list)
"""Checks that the versions of a plan are an array of tables."""
