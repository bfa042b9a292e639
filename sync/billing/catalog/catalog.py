"""The catalog: what each price grants. Parsed from TOML into frozen values; every error names its line. Pure.

Knows plans, add-ons and policy, not tenants. The format:

    [policy]
    grace = "7d"                     how long a past_due subscription keeps its access; s, m, h or d
    overdue = "hold"                 or "apply", or a table by kind: { cancel = "apply", trial = "hold" }

    [plans.KEY]                      name, rank, default?, features?, limits?, per_unit.limits?, modules?, prices?
    [addons.KEY]                     name, features?, limits?, per_unit.limits?, modules?, prices?

    prices.PROVIDER.ENVIRONMENT = ["price id", ...]
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar, cast

from sync.billing.catalog import positions
from sync.core.errors import SyncError

UNLIMITED = "unlimited"
LEVELS = ("read", "write", "admin")
"""A module's levels, each including those before it."""

OVERDUE_KINDS = ("cancel", "pause", "resume", "trial", "change_plan")
"""What may fall due without word from the provider."""

GRACE_DEFAULT_S = 7 * 86_400
NUMBER_MAX = 2**53 - 1
"""The greatest limit or rank: larger integers are not exact in a browser."""

CATALOG_MAX_BYTES = 1_048_576

Limit = int | Literal["unlimited"]
Overdue = Literal["hold", "apply"]
Path_ = tuple[str, ...]
T = TypeVar("T")

_KEY = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_ENVIRONMENT = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class CatalogError(SyncError, ValueError):
    """The catalog cannot be used: `name` of the file, `line` from 1, and `problem` in words."""

    def __init__(self, name: str, line: int, problem: str) -> None:
        super().__init__(name, line, problem)
        self.name = name
        self.line = line
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.name}:{self.line}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a plan or an add-on gives: features, limits, limits per unit of quantity, and module levels."""

    features: tuple[str, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    per_unit: Mapping[str, int] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan; of several, the highest `rank` wins. `prices`: provider -> environment -> price ids."""

    key: str
    name: str
    rank: int
    grant: Grant
    default: bool = False
    prices: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Addon:
    """One add-on: adds to whatever plan there is."""

    key: str
    name: str
    grant: Grant
    prices: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """Grace in nanoseconds, and per kind what to do when its time passes and the provider has not spoken."""

    grace_ns: int = GRACE_DEFAULT_S * 1_000_000_000
    overdue: Mapping[str, Overdue] = field(default_factory=lambda: dict.fromkeys(OVERDUE_KINDS, "hold"))


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
        return self.index.get((provider, environment), _NO_PRICES)


_NO_PRICES: Mapping[str, Plan | Addon] = MappingProxyType({})


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
    """Return the catalog that TOML `text` describes; `name` is what errors call it.

    Raises:
        CatalogError: the first thing wrong, with its line.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(name, text, error) from error
    return _Reader(name, positions.Lines(text), providers).catalog(document)


def _syntax_error(name: str, text: str, error: tomllib.TOMLDecodeError) -> CatalogError:
    message = str(error)
    match = re.search(r" \(at line (\d+), column \d+\)$", message)
    if match:
        return CatalogError(name, int(match[1]), message[: match.start()])
    return CatalogError(name, text.rstrip().count("\n") + 1, message.removesuffix(" (at end of document)"))


class _Reader:
    """Turns the parsed document into values; raises at the first thing that is wrong."""

    def __init__(self, name: str, lines: positions.Lines, providers: Collection[str] | None) -> None:
        self._name = name
        self._providers = providers
        self._lines = lines
        self._sold: dict[tuple[str, str], Path_] = {}
        self._index: dict[tuple[str, str], dict[str, Plan | Addon]] = {}

    def _error(self, path: Path_, problem: str, *, value: str = "", occurrence: int = 1) -> CatalogError:
        line = self._lines.of(path, value, occurrence)
        return CatalogError(self._name, line, f"{positions.dotted(path)} {problem}" if path else problem)

    def catalog(self, document: Mapping[str, object]) -> Catalog:
        self._known(document, (), {"policy", "plans", "addons"})
        policy = self._policy(self._table(document, (), "policy"))
        plans = {key: self._plan(key, body) for key, body in self._entries(document, "plans")}
        addons = {key: self._addon(key, body) for key, body in self._entries(document, "addons")}
        defaults = [plan for plan in plans.values() if plan.default]
        if not plans:
            raise self._error((), "the catalog has no plans: add at least [plans.free] with default = true")
        if not defaults:
            raise self._error(("plans",), "has no default: one plan needs default = true")
        if len(defaults) > 1:
            raise self._error(
                ("plans", defaults[1].key, "default"),
                f"is a second default: plans.{defaults[0].key} is one already",
            )
        return Catalog(plans, addons, defaults[0], policy, self._index)

    # The parts of the document, from the outside in.

    def _entries(self, document: Mapping[str, object], section: str) -> Iterable[tuple[str, Mapping[str, object]]]:
        table = self._table(document, (), section)
        for key in table:
            if not _KEY.fullmatch(key):
                raise self._error((section, key), "is no key: use a-z, 0-9, _ and -, starting with a letter")
            yield key, self._table(table, (section,), key)

    def _policy(self, table: Mapping[str, object]) -> Policy:
        path = ("policy",)
        self._known(table, path, {"grace", "overdue"})
        grace_s = self._duration_s(table, path, "grace", GRACE_DEFAULT_S)
        overdue: dict[str, Overdue] = dict.fromkeys(OVERDUE_KINDS, "hold")
        value = table.get("overdue", "hold")
        if isinstance(value, str):
            overdue = dict.fromkeys(OVERDUE_KINDS, self._overdue(value, (*path, "overdue")))
        else:
            kinds = self._table(table, path, "overdue")
            self._known(kinds, (*path, "overdue"), set(OVERDUE_KINDS))
            for kind, choice in kinds.items():
                overdue[kind] = self._overdue(choice, (*path, "overdue", kind))
        return Policy(grace_s * 1_000_000_000, overdue)

    def _overdue(self, value: object, path: Path_) -> Overdue:
        if value not in ("hold", "apply"):
            raise self._error(path, 'must be "hold" or "apply"')
        return value

    def _plan(self, key: str, table: Mapping[str, object]) -> Plan:
        path = ("plans", key)
        self._known(table, path, {"name", "rank", "default", "features", "limits", "per_unit", "modules", "prices"})
        rank = self._required(table, path, "rank")
        if not _is_int(rank):
            raise self._error((*path, "rank"), "must be an integer")
        if not 0 <= cast(int, rank) <= NUMBER_MAX:
            raise self._error((*path, "rank"), f"must not be negative nor beyond {NUMBER_MAX} (2^53-1)")
        default = table.get("default", False)
        if not isinstance(default, bool):
            raise self._error((*path, "default"), "must be true or false")
        plan = Plan(
            key,
            self._text(table, path, "name"),
            cast(int, rank),
            self._grant(table, path),
            default,
            self._prices(table, path),
        )
        self._sell(plan, path)
        return plan

    def _addon(self, key: str, table: Mapping[str, object]) -> Addon:
        path = ("addons", key)
        self._known(table, path, {"name", "features", "limits", "per_unit", "modules", "prices"})
        addon = Addon(key, self._text(table, path, "name"), self._grant(table, path), self._prices(table, path))
        self._sell(addon, path)
        return addon

    def _grant(self, table: Mapping[str, object], path: Path_) -> Grant:
        per_unit = self._table(table, path, "per_unit")
        self._known(per_unit, (*path, "per_unit"), {"limits"})
        modules = self._table(table, path, "modules")
        for module, level in modules.items():
            if level not in LEVELS:
                raise self._error((*path, "modules", module), f"must be one of {', '.join(LEVELS)}")
        return Grant(
            self._texts(table, path, "features"),
            self._limits(self._table(table, path, "limits"), (*path, "limits")),
            cast(
                Mapping[str, int],
                self._limits(
                    self._table(per_unit, (*path, "per_unit"), "limits"), (*path, "per_unit", "limits"), counted=True
                ),
            ),
            cast(Mapping[str, str], dict(modules)),
        )

    def _limits(self, table: Mapping[str, object], path: Path_, *, counted: bool = False) -> Mapping[str, Limit]:
        for name, value in table.items():
            if value == UNLIMITED and not counted:
                continue
            if not _is_int(value) or not 0 <= cast(int, value) <= NUMBER_MAX:
                expected = f"must be a whole number from 0 to {NUMBER_MAX} (2^53-1)"
                raise self._error((*path, name), expected if counted else f'{expected}, or "{UNLIMITED}"')
        return cast(Mapping[str, Limit], dict(table))

    def _prices(self, table: Mapping[str, object], path: Path_) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        providers = self._table(table, path, "prices")
        if self._providers is not None:
            self._known(providers, (*path, "prices"), set(self._providers))
        prices: dict[str, dict[str, tuple[str, ...]]] = {}
        for provider in providers:
            environments = self._table(providers, (*path, "prices"), provider)
            for environment in environments:
                if not _ENVIRONMENT.fullmatch(environment):
                    raise self._error((*path, "prices", provider, environment), "is not an environment's name")
            prices[provider] = {
                environment: self._texts(environments, (*path, "prices", provider), environment)
                for environment in environments
            }
        return prices

    def _sell(self, offer: Plan | Addon, path: Path_) -> None:
        for provider, environments in offer.prices.items():
            for environment, ids in environments.items():
                for price_id in ids:
                    where = (*path, "prices", provider, environment)
                    # One id means one thing, in all environments: providers never use an id in two of them.
                    first = self._sold.setdefault((provider, price_id), where)
                    if first is not where:
                        raise self._error(
                            where, f"has {price_id!r}, which {positions.dotted(first)} has already", value=price_id
                        )
                    self._index.setdefault((provider, environment), {})[price_id] = offer

    # Single values.

    def _known(self, table: Mapping[str, object], path: Path_, names: set[str]) -> None:
        for key in table:
            if key not in names:
                raise self._error((*path, key), f"is not known here: expected {', '.join(sorted(names))}")

    def _table(self, table: Mapping[str, object], path: Path_, key: str) -> Mapping[str, object]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            raise self._error((*path, key), "must be a table")
        return value

    def _required(self, table: Mapping[str, object], path: Path_, key: str) -> object:
        if key not in table:
            raise self._error(path, f"needs a {key}")
        return table[key]

    def _text(self, table: Mapping[str, object], path: Path_, key: str) -> str:
        value = self._required(table, path, key)
        if not isinstance(value, str) or not value.strip():
            raise self._error((*path, key), "must be a text that is not empty")
        return value

    def _texts(self, table: Mapping[str, object], path: Path_, key: str) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
            raise self._error((*path, key), "must be a list of texts that are not empty")
        repeated = next((entry for index, entry in enumerate(value) if entry in value[:index]), None)
        if repeated is not None:
            raise self._error((*path, key), f"has {repeated!r} twice", value=f'"{repeated}"', occurrence=2)
        return tuple(value)

    def _duration_s(self, table: Mapping[str, object], path: Path_, key: str, default: int) -> int:
        value = table.get(key)
        if value is None:
            return default
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise self._error((*path, key), 'must be a duration such as "7d", "12h", "30m" or "0s"')
        return int(match[1]) * _UNIT_S[match[2]]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
