"""`planwire catalog`: whether a catalog is usable, whom an edit affects, who has which version, moves to a version."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from gateway.cli.common import (
    Api,
    Failed,
    environment,
    environment_option,
    json_lines_option,
    rejected,
    with_publish_api,
)
from gateway.cli.output import Row, note, say, say_json, say_list
from gateway.cli.tenants import by_option, read_tenant, reason_option

if TYPE_CHECKING:
    from sync.billing.catalog.catalog import Catalog
    from sync.billing.services.background.catalog_effects import Effect

PAGE = 500
"""Tenants per answer of the gateway."""

WAIT_MAX_S = 60.0
"""Maximum wait for a gateway that limits the rate."""

_WHO = {"existing": "existing customers of", "new": "new customers of", "without": "tenants without a subscription:"}
_VERSION_COLUMNS = ("tenant", "plan", "version", "by", "subscription")

file_argument = click.Path(dir_okay=False, path_type=Path)


@click.group()
def catalog() -> None:
    """Check a catalog, see whom an edit affects, and move customers to another version of a plan."""


@catalog.command()
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


@catalog.command()
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
    before, after = _load(old), _load(new or _configured())
    if tenants:
        asyncio.run(_diff_tenants(before, after, environ or "live", as_json))
    else:
        _diff_files(before, after, as_json)


@catalog.command()
@click.argument("plan", required=False)
@environment_option
@json_lines_option
@with_publish_api
def versions(plan: str | None, environ: str | None, as_json: bool, api: Api) -> None:
    """List the tenants that have bought PLAN, or any plan, with the version of it that each has, and why.

    Example: planwire catalog versions pro
    """
    found = list(_held(api, plan or "", environ))
    say_list(as_json, found, _VERSION_COLUMNS, "nobody has bought it")
    if found and not as_json:
        counts = Counter(f"{row['plan']} {row['version']}" for row in found)
        say("\n" + ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))


@catalog.command()
@click.argument("plan")
@click.option("--version", "version", required=True, help="The name of the version in the catalog.")
@click.option("--tenant", "tenants", multiple=True, help="Only this tenant; may be repeated.  [default: all]")
@click.option("--dry-run", is_flag=True, help="Write nothing; list who would be moved.")
@reason_option
@by_option
@environment_option
@json_lines_option
@with_publish_api
def migrate(
    plan: str,
    version: str,
    tenants: tuple[str, ...],
    dry_run: bool,
    reason: str,
    by: str | None,
    environ: str | None,
    as_json: bool,
    api: Api,
) -> None:
    """Move what tenants have bought of PLAN so far to a version of it. Their pages show it at once.

    Each move is in its tenant's history; `planwire overrides TENANT --remove version:PLAN` takes it back. If the
    command is stopped, the same command moves the rest: who has the version already is left out.

    \b
    Example: planwire catalog migrate pro --version 2027 --reason "announced on 1 May" --dry-run
             planwire catalog migrate pro --version 2026 --tenant acme --reason "asked to keep it"
    """
    chosen: list[tuple[str, dict[str, str]]] = [read_tenant(tenant, environ) for tenant in tenants]
    if not tenants:
        held = [row for row in _held(api, plan, environ, version) if row["version"] != version]
        asked = {} if environ is None else {"env": environ}
        chosen = [(tenant, asked) for tenant in dict.fromkeys(str(row["tenant"]) for row in held)]
    body = {"kind": "version", "name": plan, "value": version, "reason": reason, **({"by": by} if by else {})}
    moved = 0
    for tenant, query in chosen:
        answer: Mapping[str, Any] = {"outcome": "would be moved"}
        if not dry_run:
            answer = _patient(api, "POST", f"/v1/tenants/{quote(tenant, safe='')}/overrides", query, body)
        moved += answer["outcome"] == "applied"
        if as_json:
            say_json({"tenant": tenant, **answer})
        else:
            say(f"{tenant}  {answer['outcome']}")
    note(f"{moved} of {len(chosen)} tenants moved to {plan} {version}" if chosen else "nobody has to be moved")


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
    from sync.billing.catalog.difference import affected, version_block

    now_ns = time.time_ns()
    losing = []
    is_same = True
    for row in affected(before, after, now_ns):
        is_gone = not row.becomes
        if not (row.difference.is_any or is_gone):
            continue
        is_same = False
        if as_json:
            say_json({**row._asdict(), "difference": row.difference._asdict()})
            continue
        say(f"{_WHO[row.who]} {row.offer} {row.version}".rstrip())
        if is_gone and row.who == "existing":
            say(f"  the catalog no longer has {', '.join(row.ids)}: what was published stays")
        say("\n".join(_lines(row.difference._asdict())))
        if (
            row.who == "existing"
            and not row.version
            and row.offer in before.plans
            and row.becomes.startswith(row.offer)
        ):
            losing.append(before.plans[row.offer])
    if as_json:
        return
    if is_same:
        say("no difference: nobody gains or loses anything")
    for plan in losing:
        name = time.strftime("%Y-%m-%d", time.gmtime(now_ns // 10**9))
        say(f"\nexisting customers of {plan.key} keep what they have with:\n\n{version_block(plan, name, now_ns)}")


async def _diff_tenants(before: Catalog, after: Catalog, environ: str, as_json: bool) -> None:
    seen, differing = 0, 0
    async for effect in _effects(before, after, environ):
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
        say("\n".join([*_lines(shown["difference"]), *([f"  {effect.problem}"] if effect.problem else [])]))
    note(f"{differing} of {seen} tenants have other entitlements")


async def _effects(before: Catalog, after: Catalog, environ: str) -> AsyncIterator[Effect]:
    from sync.billing.services.background.catalog_effects import effects
    from sync.core.errors import SyncError
    from sync.settings import SettingsError, SyncSettings
    from sync.store.redis.connect import open_store

    try:
        async with open_store(SyncSettings.from_env(environment())) as connected:
            async for effect in effects(connected.store, environ, before, after, time.time_ns()):
                yield effect
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except SyncError as error:
        raise Failed(str(error)) from error


def _lines(difference: Mapping[str, Any]) -> Iterator[str]:
    for word, name in (("gains", "gains"), ("loses", "loses"), ("sees", "renames")):
        if difference[name]:
            yield f"  {word} {', '.join(difference[name])}"


def _held(api: Api, plan: str, environ: str | None, version: str = "") -> Iterator[Row]:
    """Yield the versions that tenants have; each subscription once.

    Raises:
        click.UsageError: the gateway's catalog has no such plan, or no such version of it.
    """
    asked = {"limit": str(PAGE), **({"plan": plan} if plan else {}), **({"env": environ} if environ else {})}
    seen: set[object] = set()
    while True:
        page = _patient(api, "GET", "/v1/plan-versions", asked)
        known = page["catalog"]
        if plan and plan not in known:
            raise click.UsageError(f"the catalog has no plan {plan}: expected one of {', '.join(sorted(known))}")
        if version and version not in known[plan]:
            raise click.UsageError(
                f"the plan {plan} has no version {version}: expected one of {', '.join(known[plan])}"
            )
        for row in page["versions"]:
            if row["subscription"] not in seen:
                seen.add(row["subscription"])
                yield row
        if "next" not in page:
            return
        asked["from"] = page["next"]


def _patient(api: Api, method: str, path: str, query: Mapping[str, str], body: object = None) -> dict[str, Any]:
    """Return the answer of a route; wait as long as the gateway limits the rate.

    Raises:
        Failed, click.UsageError: as `Api.answer`.
    """
    until = time.monotonic() + WAIT_MAX_S
    while True:
        status, answer = api.send(method, path, query, body)
        if status == 200:
            return answer
        if status != 429 or time.monotonic() > until:
            rejected(status, answer)
        time.sleep(1)
