"""Commands for billing in the shadow of another entitlement system: what differs, and the switch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click

from gateway.cli.common import Api, environment_option, json_object_option, with_publish_api
from gateway.cli.output import say, say_json, say_list
from gateway.cli.tenants import by_option, read_tenant
from sync.core.plain_text import json_text

_COLUMNS = ("compared_at", "topic", "plan", "field", "here", "there")
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)%?")


def _share(text: str) -> float:
    """Return the percent that `text` stands for: 10%, 10, 0.5%."""
    match = _SHARE.fullmatch(text)
    if match is None or float(match[1]) > 100:
        raise click.BadParameter(f"{text[:60]!r} is no share: expected a percentage from 0 to 100, such as 10%")
    return float(match[1])


@click.group()
def shadow() -> None:
    """Run billing in the shadow of the entitlement system that exists: see what differs, then switch.

    \b
    Example: planwire shadow report
             planwire shadow switch acme
    """


@shadow.command()
@click.option("--limit", type=click.IntRange(min=1, max=500), default=20, help="Maximum number of tenants listed.")
@environment_option
@json_object_option
@with_publish_api
def report(limit: int, environ: str | None, as_json: bool, api: Api) -> None:
    """Show how what billing computes differs from the other system: by field, by plan, and examples, newest first.

    \b
    Example: planwire shadow report
             planwire shadow report --limit 500 --json
    """
    found = api.answer("GET", "/v1/shadow", {**({"env": environ} if environ else {}), "limit": str(limit)})
    if as_json:
        say_json(found)
        return
    for line in _totals(found):
        say(line)
    if found["fields"]:
        say("")
        fields = [{"field": name, **_texts(counts)} for name, counts in found["fields"].items()]
        say_list(False, fields, ("field", "compared", "differing"), "")
    if found["plans"]:
        say("")
        plans = [{"plan": name, "differing": count} for name, count in found["plans"].items()]
        say_list(False, plans, ("plan", "differing"), "")
    rows = [row for example in found["examples"] for row in _rows(example)]
    if rows:
        say("")
        say_list(False, rows, _COLUMNS, "")


def _texts(counts: Mapping[str, int]) -> dict[str, str]:
    """Return counts as cells of a table, in which a zero is shown."""
    return {name: str(count) for name, count in counts.items()}


def _totals(found: Mapping[str, Any]) -> list[str]:
    """Return the lines above the tables: who is in the shadow, what was compared, and what is wrong with it."""
    names = [f"{len(found[name])} by name {how}" for name, how in _BY_NAME.items() if found[name]]
    share = f"{found['share']:g} % of all"
    not_compared = (("absent", "unknown there"), ("not_compared", "with none of the fields"))
    left_out = [f"{found[name]} {what}" for name, what in not_compared if found[name]]
    lines = [
        f"shadow     {'on' if found['is_on'] else 'off'}: {found['unseen']} tenants unseen, {found['seen']} seen",
        f"switched   {', '.join([share, *names])}",
        f"compared   {', '.join([str(found['compared']), *left_out])}",
        f"differing  {found['differing']}",
    ]
    if found["waiting"]:
        lines.append(f"waiting    {found['waiting']}: the worker compares or switches them")
    if problem := found.get("problem"):
        lines.append(f"failing    {problem['topic']} at {problem['at']}: {problem['reason']}")
    return lines


_BY_NAME = {"switched": "on", "switched_back": "back"}


def _rows(example: Mapping[str, Any]) -> list[dict[str, object]]:
    about = {name: example[name] for name in ("compared_at", "topic", "plan")}
    return [{**about, **_difference(one)} for one in example["differences"]]


def _difference(one: Mapping[str, Any]) -> dict[str, object]:
    return {name: _cell(one.get(name)) for name in ("field", "here", "there")}


def _cell(value: object) -> str:
    return (
        {True: "yes", False: "no", None: "-"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)
    )


@shadow.command()
@click.argument("tenant")
@environment_option
@json_object_option
@with_publish_api
def show(tenant: str, environ: str | None, as_json: bool, api: Api) -> None:
    """Show whether pages see what billing computes of a tenant, and how it differs from the other system.

    \b
    Example: planwire shadow show acme
    """
    id, query = read_tenant(tenant, environ)
    found = api.answer("GET", f"/v1/tenants/{quote(id, safe='')}/shadow", query)
    if as_json:
        say_json(found)
        return
    say(f"{found['topic']}: {_place_of(found)}")
    if found["computed"] is not None:
        say(f"computed   {json_text(found['computed'])}")
    if "answered_at" not in found:
        say("compared   not yet: the other system has not answered")
        return
    said = "it does not know the tenant" if found["is_absent"] else ", ".join(found["compared"]) or "none of the fields"
    say(f"compared   with the answer of {found['answered_at']}: {said}")
    say_list(False, [_difference(one) for one in found["differences"]], _COLUMNS[-3:], "differing  nothing")


def _place_of(found: Mapping[str, Any]) -> str:
    """Return where a tenant is, in words."""
    if not found["is_known"]:
        seen = "seen" if found["is_switched"] else "unseen"
        return f"billing does not know it; its first event makes it {seen}"
    return "pages see what billing computes" if found["is_seen"] else "in the shadow: pages do not see what is computed"


@shadow.command()
@click.argument("tenants", metavar="[TENANT]...", nargs=-1)
@click.option("--share", type=_share, help="This share of all tenants, by a stable hash; the others go back: 10%.")
@click.option("--all", "everyone", is_flag=True, help="All tenants.")
@click.option("--back", is_flag=True, help="Switch back: pages show again what they showed before.")
@click.option("--reason", help="Why, for the history.")
@by_option
@environment_option
@json_object_option
@with_publish_api
def switch(
    tenants: tuple[str, ...],
    share: float | None,
    everyone: bool,
    back: bool,
    reason: str | None,
    by: str | None,
    environ: str | None,
    as_json: bool,
    api: Api,
) -> None:
    """Let the pages of tenants show what billing computes; with --back what they showed before.

    \b
    Example: planwire shadow switch acme
             planwire shadow switch --share 10%
             planwire shadow switch --all
             planwire shadow switch --all --back --reason "wrong limits"
    """
    if (bool(tenants), share is not None, everyone).count(True) != 1:
        raise click.UsageError("expected tenants, --share or --all")
    asked = {} if environ is None else {"env": environ}
    body: dict[str, object] = {name: text for name, text in (("reason", reason), ("by", by)) if text}
    body |= {"back": True} if back else {}
    if tenants:
        found = [read_tenant(tenant, environ) for tenant in tenants]
        asked = found[0][1]
        if any(query != asked for _, query in found):
            raise click.UsageError("the tenants are of several environments: name those of one")
        body["tenants"] = [id for id, _ in found]
    elif everyone:
        body["all"] = True
    else:
        body["share"] = share
    answer = api.answer("POST", "/v1/shadow/switch", asked, body)
    if as_json:
        say_json(answer)
        return
    if tenants:
        say_list(False, [_switched(one) for one in answer["tenants"]], ("topic", "outcome", "version", "reason"), "")
    else:
        say(f"the worker brings {answer['queued']} tenants to where they belong now")


def _switched(one: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row of a tenant; of one that failed, with the problem as the reason."""
    return {"topic": one["topic"], "outcome": "failed", "reason": one["detail"]} if "detail" in one else one
