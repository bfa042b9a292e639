"""The catalog: what each price grants. Parsed from TOML into frozen values; every error names its line. Pure.

The format:

    [policy]
    grace = "7d"                     how long a past_due subscription keeps its access; s, m, h or d
    overdue = "hold"                 or "apply", or a table by kind: { cancel = "apply", trial = "hold" }
    second_customer = "accept"       or "park": a subscription of another customer than the tenant's own
    unsigned_tenant = "accept"       or "park": a tenant that is named without a signed reference

    [plans.KEY]                      name, rank, default?, features?, limits?, per_unit.limits?, modules?, prices?
    [addons.KEY]                     name, features?, limits?, per_unit.limits?, modules?, prices?

    [ignore]                         prices?, products?: what other software sells on the same accounts

    prices.PROVIDER.ENVIRONMENT = ["price id", ...]
    products.PROVIDER.ENVIRONMENT = ["product id", ...]
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from sync.billing.catalog import positions
from sync.billing.catalog.tables import (
    LEVELS as LEVELS,
    NUMBER_MAX as NUMBER_MAX,
    OVERDUE_KINDS as OVERDUE_KINDS,
    UNLIMITED as UNLIMITED,
    Addon as Addon,
    Document,
    Offer as Offer,
    Plan as Plan,
    Policy as Policy,
    Prices,
    check_known,
    wrong,
)
from sync.core.errors import SyncError

T = TypeVar("T", bound=Offer)

CATALOG_MAX_BYTES = 1_048_576


class CatalogError(SyncError, ValueError):
    """The catalog cannot be used: the file's `name`, the `line` from 1, and the `problem` in words."""

    def __init__(self, name: str, line: int, problem: str) -> None:
        super().__init__(f"{name}:{line}: {problem}")


@dataclass(frozen=True, slots=True)
class Catalog:
    """Plans and add-ons by key, the default plan, the index of prices, and other software's prices and products."""

    plans: Mapping[str, Plan]
    addons: Mapping[str, Addon]
    default: Plan
    policy: Policy
    index: Mapping[tuple[str, str], Mapping[str, Plan | Addon]]
    ignored: Mapping[tuple[str, str], Mapping[tuple[str, str], None]]

    def prices(self, provider: str, environment: str) -> Mapping[str, Plan | Addon]:
        """Return price id -> what it buys, for one provider's environment."""
        return self.index.get((provider, environment), {})

    def ignores(self, provider: str, environment: str, price_id: str, product_id: str = "") -> bool:
        """Return whether other software sells the price, alone or with its product. A plan or add-on wins over that."""
        found = self.ignored.get((provider, environment), {})
        is_listed = ("prices", price_id) in found or ("products", product_id) in found
        return is_listed and price_id not in self.prices(provider, environment)


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
        return _catalog(Document.model_validate(document), providers)
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


def _catalog(document: Document, providers: Collection[str] | None) -> Catalog:
    """Return the catalog of a document whose tables are valid; see `load`.

    Raises:
        PydanticCustomError: they are inconsistent.
    """
    plans, addons = _keyed(document.plans), _keyed(document.addons)
    defaults = [plan for plan in plans.values() if plan.default]
    if not plans:
        raise wrong("the catalog has no plans: add at least [plans.free] with default = true")
    if not defaults:
        raise wrong("has no default: one plan needs default = true", "plans")
    if len(defaults) > 1:
        problem = f"is a second default: plans.{defaults[0].key} is one already"
        raise wrong(problem, "plans", defaults[1].key, "default")
    index: dict[tuple[str, str], dict[str, Plan | Addon]] = {}
    ignored: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
    seen: dict[tuple[str, str, str], positions.Path] = {}
    sections: list[tuple[positions.Path, Prices, Plan | Addon | None]] = [
        *((("plans", plan.key, "prices"), plan.prices, plan) for plan in plans.values()),
        *((("addons", addon.key, "prices"), addon.prices, addon) for addon in addons.values()),
        (("ignore", "prices"), document.ignore.prices, None),
        (("ignore", "products"), document.ignore.products, None),
    ]
    for path, listed, offer in sections:
        if providers is not None:
            check_known(listed, providers, *path)
        kind = path[-1]
        for provider, environment, id in _entries(listed):
            # Providers never use one id in two environments, so an id must be unique across all of them.
            where = (*path, provider, environment)
            first = seen.setdefault((kind, provider, id), where)
            if first is not where:
                raise wrong(f"has {id!r}, which {positions.dotted(first)} has already", *where, value=id)
            if offer is None:
                ignored.setdefault((provider, environment), {})[kind, id] = None
            else:
                index.setdefault((provider, environment), {})[id] = offer
    return Catalog(plans, addons, defaults[0], document.policy, index, ignored)


def _entries(listed: Prices) -> Iterator[tuple[str, str, str]]:
    """Yield (provider, environment, id)."""
    for provider, environments in listed.items():
        for environment, ids in environments.items():
            for id in ids:
                yield provider, environment, id
