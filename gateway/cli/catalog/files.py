"""Commands about the file of a catalog: whether it can be used, and whom an edit of it affects."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.common import Failed, environment, environment_option, json_lines_option
from gateway.cli.output import note, say, say_json

if TYPE_CHECKING:
    from sync.billing.catalog.catalog import Catalog
    from sync.billing.catalog.difference import Affected
    from sync.billing.catalog.tables import Plan
    from sync.billing.services.background.catalog_effects import Effect

SPARE_S = 3600
"""How long an edit may take until it is in use: the end of the version that `diff` suggests."""

_WHO = {"existing": "existing customers of", "new": "new customers of", "without": "tenants without a subscription:"}

file_argument = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=file_argument, required=False)
def check(file: Path | None) -> None:
    """Check whether the catalog in FILE can be used, and say what is in it.  [default: $PLANWIRE_CATALOG]

    Example: planwire catalog check catalog.toml
    """
    from sync.billing.catalog.versions import TERMS
    from sync.core import instants

    path = file or _configured()
    found = _load(path)
    sold = sum(len(listed) for listed in found.index.values())
    say(
        f"{path}: {len(found.plans)} plans, {len(found.addons)} add-ons, {sold} ids; the default is {found.default.key}"
    )
    for key in found.versions:
        plan = found.plans[key]
        say(f"plan {key}: new customers get version {plan.version}")
        for version in plan.versions:
            until = "" if version.until_ns is None else f" until {instants.text(version.until_ns)}"
            same = [name for name in TERMS if getattr(version, name) is None]
            shared = f"; as in the plan, also after later edits of it: {', '.join(same)}" if same else ""
            say(f"  version {version.version}{until}{shared}")
    for meter in found.meters.values():
        window = "" if meter.reset == "never" else f", anew each {meter.reset}"
        app = f" of {meter.app}" if meter.app else ""
        say(f"meter {meter.key}: {meter.kind}, of the limit {meter.limit}{app}{window}, overage {meter.overage}")


@click.command()
@click.argument("old", metavar="OLD_FILE", type=file_argument)
@click.argument("new", metavar="NEW_FILE", type=file_argument, required=False)
@click.option("--tenants", is_flag=True, help="Compare the entitlements of every tenant in the store.")
@environment_option
@json_lines_option
def diff(old: Path, new: Path | None, tenants: bool, environ: str | None, as_json: bool) -> None:
    """Show who gains and who loses what by an edit of the catalog from OLD_FILE to NEW_FILE.

    NEW_FILE is $PLANWIRE_CATALOG by default. Without --tenants only the two files are read. With it, the store of
    PLANWIRE_REDIS_URL is read too, and every tenant whose entitlements differ is listed; nothing is written. Existing
    customers keep their terms with the lines that are printed at the end.

    \b
    Example: planwire catalog diff catalog.before.toml catalog.toml
             planwire catalog diff catalog.before.toml --tenants
    """
    new = new or _configured()
    before, after = _load(old), _load(new)
    if tenants:
        _check_environment(environ or "live")
        settings = {**environment(), "PLANWIRE_CATALOG": str(new)}
        asyncio.run(_diff_tenants(before, after, environ or "live", settings, as_json))
    else:
        _diff_files(before, after, as_json)


def _check_environment(name: str) -> None:
    """Check that an environment can have this name.

    Raises:
        click.UsageError: none can.
    """
    from planwire_client.core.topic import LIVE, matched

    if name != LIVE and matched(f"{name}/tenant:x") is None:
        raise click.UsageError(f"{name!r} is no environment's name")


def _configured() -> Path:
    """Return the catalog of the environment.

    Raises:
        click.UsageError: there is none.
    """
    text = environment().get("PLANWIRE_CATALOG")
    if not text:
        raise click.UsageError("no catalog: name the file, or set PLANWIRE_CATALOG")
    return Path(text)


def _load(path: Path) -> Catalog:
    """Return the catalog in a file.

    Raises:
        click.UsageError: it cannot be used; the text names the line.
    """
    from sync.billing.catalog.catalog import CatalogError, load
    from sync.billing.providers.registry import PROVIDERS

    try:
        return load(path, PROVIDERS)
    except CatalogError as error:
        raise click.UsageError(str(error)) from error


def _diff_files(before: Catalog, after: Catalog, as_json: bool) -> None:
    from sync.billing.catalog.difference import affected

    now_ns = time.time_ns()
    losing: dict[str, tuple[Plan, Plan]] = {}
    is_same = True
    for row in affected(before, after, now_ns):
        is_gone = not row.becomes
        if not (row.difference.is_any or is_gone):
            continue
        is_same = False
        if as_json:
            say_json({**row._asdict(), "difference": row.difference._asdict()})
            continue
        say("\n".join(_shown(row)))
        plan, edited = before.plans.get(row.offer), after.plans.get(row.offer)
        loses = row.who == "existing" and row.difference.loses and row.becomes.partition(" ")[0] == row.offer
        if loses and plan is not None and edited is not None and row.version in ("", plan.version):
            losing.setdefault(plan.key, (plan, edited))
    if as_json:
        return
    if is_same:
        say("no difference: nobody gains or loses anything")
    for plan, edited in losing.values():
        say(_kept(plan, edited, now_ns))


def _shown(row: Affected) -> Iterator[str]:
    """Yield the lines of what the edit changes for some customers."""
    from sync.billing.catalog.difference import IGNORED, RULES

    if row.who == RULES:
        yield f"[{row.offer}]"
        yield from (f"  changes {line}" for line in row.difference.renames)
        return
    yield f"{_WHO[row.who]} {row.offer} {row.version}".rstrip()
    if row.who == "existing":
        if not row.becomes:
            yield f"  the catalog no longer has {', '.join(row.ids)}: what was published stays"
        elif row.becomes == IGNORED:
            yield f"  the catalog ignores {', '.join(row.ids)}: other software sells it"
        elif row.becomes != f"{row.offer} {row.version}".rstrip():
            yield f"  get {row.becomes} by {', '.join(row.ids)}"
    yield from _lines(row.difference._asdict())


def _kept(plan: Plan, edited: Plan, now_ns: int) -> str:
    """Return the lines that keep the terms of a plan for those who have bought it, and do until the edit is in use."""
    from sync.billing.catalog.difference import version_block
    from sync.billing.catalog.tables import CURRENT

    until_s = (now_ns // 10**9 + SPARE_S) // 60 * 60
    name, also = plan.version, ""
    if plan.version == CURRENT:
        day = time.strftime("%Y-%m-%d", time.gmtime(until_s))
        taken = {edited.version, *[each.version for each in edited.versions]}
        names = chain([day], (f"{day}.{number}" for number in count(2)))
        name = next(name for name in names if name not in taken)
    elif edited.version == plan.version:
        also = f" another version than {name!r} in [plans.{plan.key}], and"
    lines = version_block(plan, name, until_s * 10**9)
    return f"\nexisting customers of {plan.key} keep what they have with{also} these lines:\n\n{lines}"


async def _diff_tenants(
    before: Catalog, after: Catalog, environ: str, settings: Mapping[str, str], as_json: bool
) -> None:
    seen, differing = 0, 0
    async for effect in _effects(before, after, environ, settings):
        seen += 1
        if not (effect.difference.is_any or effect.before != effect.after or effect.problem):
            continue
        differing += 1
        shown = {**effect._asdict(), "difference": effect.difference._asdict()}
        if as_json:
            say_json(shown)
            continue
        moved = effect.before if effect.before == effect.after else f"{effect.before} -> {effect.after}"
        say(f"{effect.tenant}  {moved}")
        for line in (*_lines(shown["difference"]), *([f"  {effect.problem}"] if effect.problem else [])):
            say(line)
    note(f"{differing} of {seen} tenants have other entitlements")


async def _effects(before: Catalog, after: Catalog, environ: str, settings: Mapping[str, str]) -> AsyncIterator[Effect]:
    from sync.billing.domain.entitlements.items import Setting
    from sync.billing.providers.registry import PROVIDERS
    from sync.billing.services.background.catalog_effects import effects
    from sync.core.errors import SyncError
    from sync.settings import SettingsError, SyncSettings
    from sync.store.redis.connect import open_store

    sellers = [name for name, spec in PROVIDERS.items() if spec.adapter.sells_products]
    now_ns = time.time_ns()
    old, new = (Setting(each, environ, (), now_ns, sellers) for each in (before, after))
    try:
        async with open_store(SyncSettings.from_env(settings)) as connected:
            async for effect in effects(connected.store, old, new):
                yield effect
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except SyncError as error:
        raise Failed(str(error)) from error


def _lines(difference: Mapping[str, Any]) -> Iterator[str]:
    for word, name in (("gains", "gains"), ("loses", "loses"), ("sees", "renames")):
        if difference[name]:
            yield f"  {word} {', '.join(difference[name])}"
