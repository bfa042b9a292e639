"""Commands about versions of plans: who has which, and moving tenants to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from gateway.cli.common import Api, environment_option, json_lines_option, with_publish_api
from gateway.cli.output import Row, note, say, say_json, say_list
from gateway.cli.tenants import by_option, read_tenant, reason_option

PAGE = 500
"""Tenants per answer of the gateway."""

_VERSION_COLUMNS = ("tenant", "plan", "version", "by", "subscription")


@click.command()
@click.argument("plan", required=False)
@environment_option
@json_lines_option
@with_publish_api
def versions(plan: str | None, environ: str | None, as_json: bool, api: Api) -> None:
    """List the tenants that have PLAN, or any plan, with the version of it that each has, and why.

    Example: planwire catalog versions pro
    """
    found = sorted(_held(api, plan or "", environ), key=lambda row: (row["tenant"], row["plan"]))
    say_list(as_json, found, _VERSION_COLUMNS, "nobody has it")
    if found and not as_json:
        counts = Counter(f"{row['plan']} {row['version']}" for row in found)
        say("\n" + ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))


@click.command()
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
    """Move what tenants have bought of PLAN so far, or were granted, to a version of it. Their pages show it at once.

    Each move is in its tenant's history; `planwire overrides TENANT --remove version:PLAN` takes it back. If the
    command is stopped, the same command moves the rest: who has the version already is left out.

    \b
    Example: planwire catalog migrate pro --version 2027 --reason "announced on 1 May" --dry-run
             planwire catalog migrate pro --version 2026 --tenant acme --reason "asked to keep it"
    """
    chosen = _chosen(api, plan, version, tenants, environ)
    body = {"kind": "version", "name": plan, "value": version, "reason": reason, **({"by": by} if by else {})}
    moved = 0
    for tenant, query in chosen:
        answer: Mapping[str, Any] = {"outcome": "would be moved"}
        if not dry_run:
            answer = api.patient("POST", f"/v1/tenants/{quote(tenant, safe='')}/overrides", query, body)
        moved += answer["outcome"] == "applied"
        if as_json:
            say_json({"tenant": tenant, **answer})
        else:
            say(f"{tenant}  {answer['outcome']}")
    done = f"{len(chosen)} tenants would be moved" if dry_run else f"{moved} of {len(chosen)} tenants moved"
    note(f"{done} to {plan} {version}" if chosen else "nobody has to be moved")


def _chosen(
    api: Api, plan: str, version: str, tenants: Sequence[str], environ: str | None
) -> list[tuple[str, dict[str, str]]]:
    """Return the tenants to move, each with its query: these, or else all that have another version.

    Raises:
        click.UsageError: a tenant is no name; or as `_page`.
    """
    if not tenants:
        asked = {} if environ is None else {"env": environ}
        held = [row for row in _held(api, plan, environ, version) if row["version"] != version]
        return [(tenant, asked) for tenant in sorted({str(row["tenant"]) for row in held})]
    named: list[tuple[str, dict[str, str]]] = []
    for tenant in tenants:
        one = read_tenant(tenant, environ)
        named += [] if one in named else [one]
    having: dict[str | None, set[object]] = {}
    for tenant, query in named:
        env = query.get("env")
        if env not in having:
            having[env] = {row["tenant"] for row in _held(api, plan, env, version)}
        if tenant not in having[env]:
            note(f"{tenant} has no {plan} now: a move counts once it has again what it bought before")
    return named


def _held(api: Api, plan: str, environ: str | None, version: str = "") -> Iterator[Row]:
    """Yield the versions that tenants have; each subscription and grant once.

    Raises:
        click.UsageError: as `_page`.
    """
    asked = {"limit": str(PAGE), **({"plan": plan} if plan else {}), **({"env": environ} if environ else {})}
    seen: set[object] = set()
    while True:
        page = _page(api, asked, version)
        for row in page["versions"]:
            held = (row["tenant"], row.get("subscription"), row["plan"])
            if held not in seen:
                seen.add(held)
                yield row
        if "next" not in page:
            return
        asked["from"] = page["next"]


def _page(api: Api, asked: Mapping[str, str], version: str) -> dict[str, Any]:
    """Return one page of the versions that tenants have.

    Raises:
        click.UsageError: the gateway's catalog has no such plan, or no such version of it; "" for any version.
    """
    page, plan = api.patient("GET", "/v1/plan-versions", asked), asked.get("plan", "")
    known = page["catalog"]
    if plan and plan not in known:
        raise click.UsageError(f"the catalog has no plan {plan}: expected one of {', '.join(sorted(known))}")
    if version and version not in known[plan]:
        names = f"expected one of {', '.join(known[plan])}" if known[plan] else "it names none"
        raise click.UsageError(f"the plan {plan} has no version {version}: {names} (version = ... in [plans.{plan}])")
    return page
