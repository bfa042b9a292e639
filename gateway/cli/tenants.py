"""Commands about one tenant: its subscriptions' links, what operators grant it, and its return after an erasure."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click

from gateway.cli.common import Api, environment_option, json_lines_option, json_object_option, with_publish_api
from gateway.cli.output import Row, say, say_json, say_list, say_outcome
from sync.core import instants

_LINK_COLUMNS = (
    "subscription",
    "status",
    "plan",
    "plan_version",
    "customer_id",
    "named_by",
    "other_names",
    "second_customer",
    "moved_at",
    "bought",
    "went_back",
)
_COLUMNS = ("kind", "name", "app", "value", "expires_at", "by", "reason")
_SPAN = re.compile(r"(\d{1,5})([hd])")

tenant_argument = click.argument("tenant", metavar="TENANT")
reason_option = click.option("--reason", required=True, help="Why, for the history.")
by_option = click.option("--by", help="Who, for the history.")


def until(text: str) -> str:
    """Return the RFC 3339 time that `text` stands for: a time, a date (at 00:00 UTC), or a span from now (14d, 36h)."""
    match = _SPAN.fullmatch(text)
    if match is not None:
        seconds = int(match[1]) * (86_400 if match[2] == "d" else 3_600)
        return instants.text((time.time_ns() // 10**9 + seconds) * 10**9)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text[:60]!r} is neither a time such as 2027-01-31T12:00:00Z, a date, nor a span such as 14d"
        ) from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


@click.command()
@tenant_argument
@click.argument("plan")
@click.option("--until", "expires_at", type=until, required=True, help="A time, a date, or a span: 14d, 36h.")
@reason_option
@click.option("--units", type=click.IntRange(min=1), help="Of the plan.  [default: as many as are paid for]")
@click.option("--trial", is_flag=True, help="Grant it as a trial, which the state shows.")
@by_option
@environment_option
@json_object_option
@with_publish_api
def grant(
    tenant: str, plan: str, units: int | None, environ: str | None, as_json: bool, api: Api, **fields: Any
) -> None:
    """Grant TENANT a plan until a date, beside what is paid for. It only adds, and ends by itself.

    \b
    Example: planwire grant acme pro --until 14d --reason "outage on Monday" --by eve
             planwire grant acme pro --until 2027-01-31 --trial --reason "reverse trial"
    """
    given = {name: value for name, value in fields.items() if value}
    body = {"kind": "plan", "name": plan, "value": units or True, **given}
    say_outcome(as_json, api.answer("POST", *_asked(tenant, environ, "overrides"), body))


@click.command()
@tenant_argument
@click.option("--remove", metavar="KIND:NAME[@APP]", help="Take this one back, such as plan:pro.")
@click.option("--reason", help="Why it is taken back, for the history.")
@by_option
@environment_option
@json_lines_option
@with_publish_api
def overrides(
    tenant: str, remove: str | None, reason: str | None, by: str | None, environ: str | None, as_json: bool, api: Api
) -> None:
    """List what operators have granted TENANT or taken from it, ended ones included.

    \b
    Example: planwire overrides acme
             planwire overrides acme --remove plan:pro --reason "asked for"
             planwire overrides acme --remove feature:beta@crm --reason "asked for"
    """
    if remove is None:
        found = api.answer("GET", *_asked(tenant, environ, "overrides"))["overrides"]
        say_list(as_json, found, _COLUMNS, "no override: the tenant has what is paid for")
        return
    kind, colon, rest = remove.partition(":")
    name, _, app = rest.partition("@")
    if not colon:
        raise click.BadParameter("expected KIND:NAME, such as plan:pro", param_hint="--remove")
    path, asked = _asked(tenant, environ, f"overrides/{quote(kind, safe='')}/{quote(name, safe='')}")
    body = {name: text for name, text in (("reason", reason), ("by", by)) if text}
    say_outcome(as_json, api.answer("DELETE", path, {**asked, **({"app": app} if app else {})}, body))


@click.command()
@tenant_argument
@reason_option
@by_option
@environment_option
@json_object_option
@with_publish_api
def revive(tenant: str, reason: str, by: str | None, environ: str | None, as_json: bool, api: Api) -> None:
    """Let an erased TENANT come back: the events that wait for it are used. What was erased stays erased.

    Example: planwire revive acme --reason "subscribed again"
    """
    body = {"reason": reason, **({"by": by} if by else {})}
    say_outcome(as_json, api.answer("POST", *_asked(tenant, environ, "revive"), body))


@click.command()
@click.argument("subscription", metavar="SUBSCRIPTION")
@tenant_argument
@reason_option
@by_option
@environment_option
@json_object_option
@with_publish_api
def link(
    subscription: str, tenant: str, reason: str, by: str | None, environ: str | None, as_json: bool, api: Api
) -> None:
    """Give SUBSCRIPTION to TENANT, whatever its metadata says. It is moved at once.

    SUBSCRIPTION is the provider's id, or PROVIDER:ID where several providers are configured. The link holds until the
    metadata names another tenant than now.

    \b
    Example: planwire link sub_01hv8x29kz0t586xy6zn1a62ny acme --reason "bought by the wrong account"
             planwire link stripe:sub_1MowQV acme --reason "two organisations of one customer"
    """
    id, asked = read_tenant(tenant, environ)
    body = {"subscription": subscription, "tenant": id, "reason": reason, **({"by": by} if by else {})}
    answer = api.answer("POST", "/v1/links", asked, body)
    say_outcome(as_json, answer)
    if not as_json:
        was = f", was {answer['was']}" if answer.get("was") not in (None, answer["topic"]) else ""
        overrules = f"; overrules {answer['overrules']} in the metadata" if "overrules" in answer else ""
        say(f"{answer['subscription']} belongs to {answer['topic']}{was}{overrules}")


@click.command()
@tenant_argument
@environment_option
@json_object_option
@with_publish_api
def links(tenant: str, environ: str | None, as_json: bool, api: Api) -> None:
    """List the subscriptions that belong to TENANT, and what names it; and those that were moved away.

    Example: planwire links acme
    """
    path, asked = _asked(tenant, environ, "links")
    answer = api.answer("GET", path, asked)
    if as_json:
        say_json(answer)
        return
    say_list(False, answer["links"], _LINK_COLUMNS, "no subscription belongs to it", _link)
    if answer["moved"]:
        say("")
        say_list(False, answer["moved"], ("subscription", "moved_at", "to"), "")


def _link(row: Row) -> dict[str, object]:
    others = {kind: tenant for kind, tenant in row["names"].items() if kind != row.get("named_by")}
    named = ", ".join(f"{kind} {tenant}" for kind, tenant in sorted(others.items()))
    bought, back = row.get("purchase") or {}, row.get("went_back") or []
    shown = {"bought": _amount(bought, "bought_at", "total"), "went_back": ", ".join(map(_refund, back))}
    until = f" until {bought['expires_at']}" if "expires_at" in bought else ""
    return {**row, "other_names": named, **shown, "bought": f"{shown['bought']}{until}"}


def _refund(one: Row) -> str:
    status = "" if one["status"] == "approved" else f" ({one['status']})"
    return f"{one['kind']}{status} {_amount(one, 'at', 'amount')}"


def _amount(of: Row, at: str, amount: str) -> str:
    """Return an instant and an amount in minor units, if they are known."""
    return " ".join(str(each) for each in (of.get(at), of.get(amount), of.get("currency")) if each not in (None, ""))


def _asked(tenant: str, environ: str | None, what: str) -> tuple[str, dict[str, str]]:
    """Return the path of one of a tenant's routes, and the query."""
    id, asked = read_tenant(tenant, environ)
    return f"/v1/tenants/{quote(id, safe='')}/{what}", asked


def read_tenant(text: str, environ: str | None) -> tuple[str, dict[str, str]]:
    """Return the tenant's id, from that or from its topic's name (sandbox/tenant:acme), and the query with the env."""
    from planwire_client.core.topic import LIVE, TENANT_KIND, TopicError, decode_id, read_topic

    if not text:
        raise click.BadParameter("'' names nobody: give the tenant's id", param_hint="TENANT")
    asked = {} if environ is None else {"env": environ}
    try:
        topic = read_topic(text)
    except TopicError:
        return text, asked
    if topic.kind != TENANT_KIND:
        return text, asked
    return decode_id(topic.id), asked if topic.env == LIVE else {"env": topic.env}
