"""The catalog: what each price grants. Parsed from TOML into frozen values; every error names its line. Pure.

The format:

    [policy]
    grace = "7d"                     how long a past_due subscription keeps its access; s, m, h or d
    overdue = "hold"                 or "apply", or a table by kind: { cancel = "apply", trial = "hold" }
    refund = "keep"                  or "revoke": a subscription whose payment went back grants nothing in that period
    second_customer = "accept"       or "park": a subscription of another customer than the tenant's own
    unsigned_tenant = "accept"       or "park": a tenant that is named without a signed reference
    app = "crm"                      the leading application, if plans name applications; see `applications`
    combine = "max"                  or "sum", or a table by limit: two subscriptions of one plan, { seats = "sum" }

    [plans.KEY]                      name, rank, app?, default?, GRANTS and SOLD BY
                                     version?: the name of these terms
    [[plans.KEY.versions]]           version, until?, name?, features?, limits?, per_unit.limits?, modules?, expires?,
                                     and SOLD BY
    [addons.KEY]                     name, app?, GRANTS and SOLD BY

    GRANTS                           features?, limits?, per_unit.limits?, modules?, credits?, purchase?, expires?

    [meters.KEY]                     kind, reset?, limit?, app?, overage?, at_plan_change?, thresholds?

    [ignore]                         SOLD BY: what other software sells on the same accounts
    [shadow]                         fields?, values?, ignore?: how another system's answers are compared

    SOLD BY, each optional; a price counts before its lookup key, and that before its product:

    prices.PROVIDER.ENVIRONMENT = ["price id", ...]
    lookup_keys.PROVIDER.ENVIRONMENT = ["lookup key of a price", ...]
    products.PROVIDER.ENVIRONMENT = ["product id", ...]

docs/catalog.md describes every key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from sync.billing.catalog import applications, meters, positions, versions
from sync.billing.catalog.tables import (
    CURRENT as CURRENT,
    NO_PLAN as NO_PLAN,
    SOLD_BY,
    Addon as Addon,
    Document,
    Ignored as Ignored,
    Meter as Meter,
    Offer as Offer,
    Plan as Plan,
    Policy as Policy,
    Shadow as Shadow,
)
from sync.billing.catalog.values import (
    LEVELS as LEVELS,
    NUMBER_MAX as NUMBER_MAX,
    OVERDUE_KINDS as OVERDUE_KINDS,
    UNLIMITED as UNLIMITED,
    Ids,
    check_known,
    wrong,
)
from sync.billing.catalog.versions import PlanVersions
from sync.core.errors import SyncError

T = TypeVar("T", bound=Offer)

Entry = Plan | Addon | Ignored
"""What an item buys, or that other software sells it."""

_ANOTHER_APP = Ignored()

CATALOG_MAX_BYTES = 1_048_576


class CatalogError(SyncError, ValueError):
    """The catalog cannot be used: the file's `name`, the `line` from 1, and the `problem` in words."""

    def __init__(self, name: str, line: int, problem: str) -> None:
        super().__init__(f"{name}:{line}: {problem}")


@dataclass(frozen=True, slots=True)
class Catalog:
    """Plans and add-ons by key, and the default plan.

    Attributes:
        index: (provider, environment) -> the entry that each (table of `Sold`, id) is listed in.
        ignored: the (provider, environment) pairs in which other software sells something.
        versions: the plans that have versions, by key.
        apps: the catalog of each application, if any plan or add-on names one: what is sold for it alone or for all.
        leading: the application whose plan a state shows first; "" without applications.
        app: the application that this is the catalog of; "" for the whole catalog.
        whole: the catalog that an application's is a part of; None for the whole catalog itself.
        shadow: how another system's answers are read; None if billing does not run in the shadow of one.
        purchases: those in which a one-time purchase buys something.
        meters: how the use of limits is counted, by key.
    """

    plans: Mapping[str, Plan]
    addons: Mapping[str, Addon]
    default: Plan
    policy: Policy
    index: Mapping[tuple[str, str], Mapping[tuple[str, str], Entry]]
    ignored: Collection[tuple[str, str]]
    versions: Mapping[str, PlanVersions]
    apps: Mapping[str, Catalog] = field(default_factory=dict)
    leading: str = ""
    app: str = ""
    whole: Catalog | None = field(default=None, repr=False, compare=False)
    shadow: Shadow | None = None
    purchases: Collection[tuple[str, str]] = ()
    meters: Mapping[str, Meter] = field(default_factory=dict)

    def has_plan(self, key: str, app: str = "") -> bool:
        """Return whether a plan is of this catalog; one that the whole catalog lacks is if it was of its `app`."""
        return key in self.plans or self.whole is None or (key not in self.whole.plans and app in ("", self.app))

    def version_names(self, plan: Plan) -> list[str]:
        """Return the versions of a plan that tenants can be moved to, the present one first, if it has a name.

        Without a name nobody could say, after the next edit, which terms were meant.
        """
        versions = self.versions.get(plan.key)
        return [name for name in (versions.by_name if versions else [plan.version]) if name != CURRENT]

    def find(
        self, provider: str, environment: str, price_id: str, lookup_key: str = "", product_id: str = ""
    ) -> Entry | None:
        """Return what an item is by the most specific of its ids that is listed; None if none is.

        For the catalog of an application, another one's plans and add-ons are as other software's.
        """
        listed = self.index.get((provider, environment))
        if listed is None:
            return None
        found = listed.get(("prices", price_id))
        if found is None and lookup_key:
            found = listed.get(("lookup_keys", lookup_key))
        if found is None and product_id:
            found = listed.get(("products", product_id))
        if self.app and isinstance(found, Offer) and found.app not in ("", self.app):
            return _ANOTHER_APP
        return found


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
        return of_document(Document.model_validate(document), providers)
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
    known = [positions.index(step) if isinstance(step, int) else step for step in location if step != "[key]"]
    steps = (*known, *context.get("path", ()))
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


def of_document(document: Document, providers: Collection[str] | None) -> Catalog:
    """Return the catalog of a document whose tables are valid; see `load`.

    Raises:
        PydanticCustomError: they are inconsistent.
    """
    plans, addons = _keyed(document.plans), _keyed(document.addons)
    if not plans:
        raise wrong("the catalog has no plans: add at least [plans.free] with default = true")
    leading = applications.leading(plans, addons, document.policy)
    default = applications.default(plans, leading)
    if default is None:
        raise wrong(f"has no default{f' of {leading}' if leading else ''}: one plan needs default = true", "plans")
    found = versions.versions_of(plans)
    sections: list[tuple[positions.Path, Entry]] = [
        *((("plans", plan.key), plan) for plan in plans.values()),
        *versions.sections(found),
        *((("addons", addon.key), addon) for addon in addons.values()),
        (("ignore",), document.ignore),
    ]
    index = _index(sections, providers)
    ignored = {(each[0], each[1]) for table in SOLD_BY for each in _ids(getattr(document.ignore, table))}
    purchases = {
        where
        for where, entries in index.items()
        if any(isinstance(entry, Offer) and entry.purchase for entry in entries.values())
    }
    apps: dict[str, Catalog] = {}
    whole = Catalog(
        plans,
        addons,
        default,
        document.policy,
        index,
        ignored,
        found,
        apps,
        leading,
        shadow=document.shadow,
        purchases=purchases,
        meters=meters.meters_of(document.meters, (*plans.values(), *addons.values())),
    )
    for app in applications.names(plans, addons):
        apps[app] = replace(
            whole,
            plans=applications.offers(plans, app),
            addons=applications.offers(addons, app),
            default=applications.default(plans, app) or NO_PLAN,
            apps={},
            app=app,
            whole=whole,
        )
    return whole


def _index(
    sections: Iterable[tuple[positions.Path, Entry]], providers: Collection[str] | None
) -> dict[tuple[str, str], dict[tuple[str, str], Entry]]:
    """Return `Catalog.index` of the sections of a document, each with its path.

    Raises:
        PydanticCustomError: a provider is not known, or an id is listed twice.
    """
    index: dict[tuple[str, str], dict[tuple[str, str], Entry]] = {}
    seen: dict[tuple[str, str, str, str], positions.Path] = {}
    for path, entry in sections:
        for table in SOLD_BY:
            listed: Ids = getattr(entry, table)
            if providers is not None:
                check_known(listed, providers, *path, table)
            for provider, environment, id in _ids(listed):
                # Providers never use one price or product in two environments; a lookup key is the user's own word.
                scope = environment if table == "lookup_keys" else ""
                where = (*path, table, provider, environment)
                first = seen.setdefault((table, provider, scope, id), where)
                if first is not where:
                    raise wrong(f"has {id!r}, which {positions.dotted(first)} has already", *where, value=id)
                index.setdefault((provider, environment), {})[table, id] = entry
    return index


def _ids(listed: Ids) -> Iterator[tuple[str, str, str]]:
    """Yield (provider, environment, id)."""
    for provider, environments in listed.items():
        for environment, ids in environments.items():
            for id in ids:
                yield provider, environment, id
