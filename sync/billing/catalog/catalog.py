"""The catalog: what each price grants. Parsed from TOML into frozen values; every error names its line. Pure.

The format:

    [policy]
    grace = "7d"                     how long a past_due subscription keeps its access; s, m, h or d
    overdue = "hold"                 or "apply", or a table by kind: { cancel = "apply", trial = "hold" }
    second_customer = "accept"       or "park": a subscription of another customer than the tenant's own
    unsigned_tenant = "accept"       or "park": a tenant that is named without a signed reference

    [plans.KEY]                      name, rank, default?, features?, limits?, per_unit.limits?, modules?, prices?
    [addons.KEY]                     name, features?, limits?, per_unit.limits?, modules?, prices?

    prices.PROVIDER.ENVIRONMENT = ["price id", ...]
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from sync.billing.catalog import positions
from sync.core.errors import SyncError

T = TypeVar("T", bound="Offer")
_Level = Literal["read", "write", "admin"]

LEVELS: tuple[str, ...] = get_args(_Level)
"""A module's levels, each including those before it."""

UNLIMITED = "unlimited"

OVERDUE_KINDS = ("cancel", "pause", "resume", "trial", "change_plan")
"""The changes that can fall due before the provider reports them."""

GRACE_DEFAULT_NS = 7 * 86_400 * 1_000_000_000
NUMBER_MAX = 2**53 - 1
"""The greatest limit or rank: larger integers are not exact in a browser."""

CATALOG_MAX_BYTES = 1_048_576

_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class CatalogError(SyncError, ValueError):
    """The catalog cannot be used: the file's `name`, the `line` from 1, and the `problem` in words."""

    def __init__(self, name: str, line: int, problem: str) -> None:
        super().__init__(f"{name}:{line}: {problem}")


def _wrong(problem: str, *path: str, value: str = "", occurrence: int = 1) -> PydanticCustomError:
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
            raise _wrong(problem) from None

    return WrapValidator(check)


def _duration_ns(value: object) -> int:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _wrong('must be a duration such as "7d", "12h", "30m" or "0s"')
    return int(match[1]) * _UNIT_S[match[2]] * 1_000_000_000


def _rank(rank: object) -> int:
    if not isinstance(rank, int) or isinstance(rank, bool):
        raise _wrong("must be an integer")
    if not 0 <= rank <= NUMBER_MAX:
        raise _wrong(f"must not be negative nor beyond {NUMBER_MAX} (2^53-1)")
    return rank


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise _wrong("must be a list of texts that are not empty")
    repeated = next((entry for index, entry in enumerate(value) if entry in value[:index]), None)
    if repeated is not None:
        raise _wrong(f"has {repeated!r} twice", value=f'"{repeated}"', occurrence=2)
    return tuple(value)


def _check_known(table: Mapping[str, object], names: Collection[str], *path: str) -> None:
    for key in table:
        if key not in names:
            raise _wrong(f"is not known here: expected {', '.join(sorted(names))}", *path, key)


def _each_kind(value: object) -> object:
    if isinstance(value, str):
        return dict.fromkeys(OVERDUE_KINDS, value)
    if isinstance(value, dict):
        _check_known(value, OVERDUE_KINDS)
        return {**dict.fromkeys(OVERDUE_KINDS, "hold"), **value}
    return value


_WHOLE = f"must be a whole number from 0 to {NUMBER_MAX} (2^53-1)"
_Number = Annotated[int, Field(ge=0, le=NUMBER_MAX)]
_Count = Annotated[_Number, _must(_WHOLE)]
_Limit = Annotated[_Number | Literal["unlimited"], _must(f'{_WHOLE}, or "{UNLIMITED}"')]
_Choice = Annotated[Literal["hold", "apply"], _must('must be "hold" or "apply"')]
_Trust = Annotated[Literal["accept", "park"], _must('must be "accept" or "park"')]
_Text = Annotated[str, Field(pattern=r"\S"), _must("must be a text that is not empty")]
_Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
_Environment = Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,31}$"), _must("is not an environment's name")]
_Key = Annotated[
    str, Field(pattern="^[a-z][a-z0-9_-]{0,63}$"), _must("is no key: use a-z, 0-9, _ and -, starting with a letter")
]


class _Table(BaseModel):
    """A table that accepts only the model's keys."""

    model_config = ConfigDict(frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise _wrong("must be a table")
        fields = {field.alias or name: field for name, field in cls.model_fields.items() if name != "key"}
        _check_known(value, fields)
        for name, field in fields.items():
            if field.is_required() and name not in value:
                raise _wrong(f"needs a {name}")
        return value


class Policy(_Table):
    """The grace period in nanoseconds; what to do with each kind of change when it is overdue; whom to trust.

    `second_customer` is about subscriptions of another customer than the tenant's own, `unsigned_tenant` about names
    without a signed reference: "accept" or "park".
    """

    grace_ns: Annotated[int, BeforeValidator(_duration_ns)] = Field(default=GRACE_DEFAULT_NS, alias="grace")
    overdue: Annotated[dict[str, _Choice], BeforeValidator(_each_kind)] = dict.fromkeys(OVERDUE_KINDS, "hold")
    second_customer: _Trust = "accept"
    unsigned_tenant: _Trust = "accept"


class PerUnit(_Table):
    """Limits per unit of quantity."""

    limits: dict[str, _Count] = {}


class Offer(_Table):
    """What a plan or an add-on grants, also per unit of quantity. `prices`: provider -> environment -> price ids."""

    key: str = ""
    name: _Text
    features: _Texts = ()
    limits: dict[str, _Limit] = {}
    per_unit: PerUnit = PerUnit()
    modules: dict[str, Annotated[_Level, _must(f"must be one of {', '.join(LEVELS)}")]] = {}
    prices: dict[str, dict[_Environment, _Texts]] = {}


class Addon(Offer):
    """One add-on: adds to the tenant's plan."""


class Plan(Offer):
    """One plan; of several, the highest `rank` wins."""

    rank: Annotated[int, BeforeValidator(_rank)]
    default: Annotated[bool, _must("must be true or false")] = False


class _Document(_Table):
    policy: Policy = Policy()
    plans: dict[_Key, Plan] = {}
    addons: dict[_Key, Addon] = {}


@dataclass(frozen=True, slots=True)
class Catalog:
    """Plans and add-ons by key, the default plan, and the index of prices."""

    plans: Mapping[str, Plan]
    addons: Mapping[str, Addon]
    default: Plan
    policy: Policy
    index: Mapping[tuple[str, str], Mapping[str, Plan | Addon]]

    def prices(self, provider: str, environment: str) -> Mapping[str, Plan | Addon]:
        """Return price id -> what it buys, for one provider's environment."""
        return self.index.get((provider, environment), {})


def load(path: Path, providers: Collection[str] | None = None) -> Catalog:
    """Return the catalog in the file at `path`.

    Args:
        providers: names that prices may be given for; None for any.

    Raises:
        CatalogError: the file cannot be read, is too large or cannot be used.
    """
    try:
        if path.stat().st_size > CATALOG_MAX_BYTES:
            raise CatalogError(str(path), 1, f"the file is larger than {CATALOG_MAX_BYTES} bytes")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise CatalogError(str(path), 1, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CatalogError(str(path), 1, "the file is not UTF-8") from error
    return parse(text, str(path), providers)


def parse(text: str, name: str = "catalog.toml", providers: Collection[str] | None = None) -> Catalog:
    """Return the catalog in the TOML `text`; `name` is the file's name in errors.

    Raises:
        CatalogError: the first problem, with its line.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(name, text, error) from error
    try:
        return _catalog(_Document.model_validate(document), providers)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # An error without `ctx` is pydantic's own: a value is given where a table is required.
        context: Mapping[str, Any] = first.get("ctx") or {"problem": "must be a table"}
        raise _located(name, text, first["loc"], context) from None
    except PydanticCustomError as error:
        raise _located(name, text, (), error.context or {}) from None


def _located(name: str, text: str, location: Sequence[int | str], context: Mapping[str, Any]) -> CatalogError:
    """Return the error that pydantic reports at `location`, with its line."""
    lines = positions.Lines(text)
    steps = (*(str(step) for step in location if step != "[key]"), *context.get("path", ()))
    path = lines.nearest(steps)
    line, problem = lines.of(path, context.get("value", ""), context.get("occurrence", 1)), context["problem"]
    return CatalogError(name, line, f"{positions.dotted(path)} {problem}" if path else problem)


def _syntax_error(name: str, text: str, error: tomllib.TOMLDecodeError) -> CatalogError:
    message = str(error)
    match = re.search(r" \(at line (\d+), column \d+\)$", message)
    if match:
        return CatalogError(name, int(match[1]), message[: match.start()])
    return CatalogError(name, text.rstrip().count("\n") + 1, message.removesuffix(" (at end of document)"))


def _keyed(offers: Mapping[str, T]) -> dict[str, T]:
    return {key: offer.model_copy(update={"key": key}) for key, offer in offers.items()}


def _catalog(document: _Document, providers: Collection[str] | None) -> Catalog:
    """Return the catalog of a document whose tables are valid; see `load`.

    Raises:
        PydanticCustomError: they are inconsistent.
    """
    plans, addons = _keyed(document.plans), _keyed(document.addons)
    defaults = [plan for plan in plans.values() if plan.default]
    if not plans:
        raise _wrong("the catalog has no plans: add at least [plans.free] with default = true")
    if not defaults:
        raise _wrong("has no default: one plan needs default = true", "plans")
    if len(defaults) > 1:
        problem = f"is a second default: plans.{defaults[0].key} is one already"
        raise _wrong(problem, "plans", defaults[1].key, "default")
    index: dict[tuple[str, str], dict[str, Plan | Addon]] = {}
    sold: dict[tuple[str, str], positions.Path] = {}
    offers: list[Plan | Addon] = [*plans.values(), *addons.values()]
    for offer in offers:
        section = "plans" if isinstance(offer, Plan) else "addons"
        if providers is not None:
            _check_known(offer.prices, providers, section, offer.key, "prices")
        for provider, environments in offer.prices.items():
            for environment, ids in environments.items():
                where = (section, offer.key, "prices", provider, environment)
                for price_id in ids:
                    # Providers never use one price id in two environments, so an id must be unique across all of them.
                    first = sold.setdefault((provider, price_id), where)
                    if first is not where:
                        problem = f"has {price_id!r}, which {positions.dotted(first)} has already"
                        raise _wrong(problem, *where, value=price_id)
                    index.setdefault((provider, environment), {})[price_id] = offer
    return Catalog(plans, addons, defaults[0], document.policy, index)
