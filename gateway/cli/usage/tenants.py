"""`planwire usage`: what tenants have used of their limits, and corrections."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import click

from gateway.cli.common import Api, environment_option, json_object_option, with_publish_api
from gateway.cli.output import Row, note, say, say_json, say_list
from gateway.cli.tenants import read_tenant, reason_option, tenant_argument, until

_METER = re.compile(r"[a-z][a-z0-9_-]{0,63}")

NOT_KNOWN = "not known"
"""What stands for a limit that the tenant's state does not say."""

NO_STATE = "this tenant has no state: the limits are those of the default plan"
"""Said of a tenant that nothing is known of, whose name may be mistyped."""

_METER_COLUMNS = ("meter", "app", "used", "reserved", "limit", "remaining", "status", "resets_at", "credits")
_CALL_COLUMNS = ("at", "operation", "amount", "allowed", "used", "key")
_CORRECTION_COLUMNS = ("at", "operation", "how", "amount", "used", "by", "reason")
_WINDOW_COLUMNS = ("starts_at", "ends_at", "used", "limit")


def meter_name(text: str) -> str:
    """Return the key of a meter.

    Raises:
        click.BadParameter: no meter can have this one.
    """
    if _METER.fullmatch(text) is None:
        raise click.BadParameter(f"{text[:70]!r} is no meter's key: `planwire usage show TENANT` lists the meters")
    return text


meter_argument = click.argument("meter", metavar="METER", type=meter_name)
key_option = click.option(
    "--once", "key", metavar="KEY", help="Count it once, for a day: repeat what got no answer with the same key."
)


@click.command()
@tenant_argument
@environment_option
@json_object_option
@with_publish_api
def show(tenant: str, environ: str | None, as_json: bool, api: Api) -> None:
    """Show what TENANT has used of its limits by now.

    Example: planwire usage show acme
    """
    path, asked = _path(tenant, environ)
    answer = api.answer("GET", path, asked)
    if as_json:
        say_json(answer)
        return
    rows = [_meter(name, meter) for name, meter in answer["meters"].items()]
    say_list(False, rows, _without_app(rows, _METER_COLUMNS), "the catalog has no meter: add a table [meters.KEY]")
    if not answer["entitlements"] and rows:
        note(NO_STATE)


@click.command()
@tenant_argument
@meter_argument
@click.argument("amount", type=click.IntRange(min=1), default=1)
@key_option
@environment_option
@json_object_option
@with_publish_api
def consume(
    tenant: str, meter: str, amount: int, key: str | None, environ: str | None, as_json: bool, api: Api
) -> None:
    """Take AMOUNT units of METER for TENANT, if they fit. A denial is exit status 1.

    \b
    Example: planwire usage consume acme api_calls
             planwire usage consume acme api_calls 5 --once import-2027-01-31
    """
    answer = _count(api, (tenant, environ, meter, "consume"), {"amount": amount, "key": key})
    _say_counted(as_json, "allowed" if answer["allowed"] else "denied", answer)
    if not answer["allowed"]:
        sys.exit(1)


@click.command()
@tenant_argument
@meter_argument
@click.option("--to", type=click.IntRange(min=0), help="What is used now.")
@click.option("--change", type=int, help="How many units more, or less: --change -5.")
@reason_option
@key_option
@environment_option
@json_object_option
@with_publish_api
def adjust(
    tenant: str,
    meter: str,
    to: int | None,
    change: int | None,
    reason: str,
    key: str | None,
    environ: str | None,
    as_json: bool,
    api: Api,
) -> None:
    """Correct what TENANT has used of METER. The reason and the name of the publish key go into its history.

    \b
    Example: planwire usage adjust acme api_calls --change -200 --reason "counted twice on Monday"
             planwire usage adjust acme seats --to 3 --reason "as in the directory"
    """
    if (to is None) == (change is None):
        raise click.UsageError("give one of --to and --change")
    body = {"to": to, "by": change, "reason": reason, "key": key}
    _say_counted(as_json, "corrected", _count(api, (tenant, environ, meter, "adjust"), body))


@click.command()
@tenant_argument
@meter_argument
@click.argument("amount", type=click.IntRange(min=1))
@click.option("--until", "ends_at", type=until, help="A time, a date, or a span: 14d, 36h.  [default: they stay]")
@reason_option
@key_option
@environment_option
@json_object_option
@with_publish_api
def grant(
    tenant: str,
    meter: str,
    amount: int,
    ends_at: str | None,
    reason: str,
    key: str | None,
    environ: str | None,
    as_json: bool,
    api: Api,
) -> None:
    """Give TENANT credits of METER, until a date or for good. What ends first is used first.

    Example: planwire usage grant acme ai 500 --until 30d --reason "apology for the outage"
    """
    body = {"amount": amount, "ends_at": ends_at, "reason": reason, "key": key}
    _say_counted(as_json, "granted", _count(api, (tenant, environ, meter, "grant"), body))


@click.command()
@tenant_argument
@meter_argument
@click.option("--limit", type=click.IntRange(min=1), default=20, help="Maximum number of lines of each list.")
@environment_option
@json_object_option
@with_publish_api
def history(tenant: str, meter: str, limit: int, environ: str | None, as_json: bool, api: Api) -> None:
    """Show what happened to METER of TENANT: ended windows, corrections with their reason, the newest calls.

    Example: planwire usage history acme api_calls
    """
    path, asked = _path(tenant, environ, meter, "history")
    answer = api.answer("GET", path, asked)
    if as_json:
        say_json(answer)
        return
    shown = [{**row, "allowed": "yes" if row["allowed"] else "denied"} for row in answer["calls"][:limit]]
    windows = list(map(_limited, answer["windows"][:limit]))
    say("Ended windows, the newest first:")
    say_list(False, windows, _WINDOW_COLUMNS, "none", _numbers)
    say("\nCorrections:")
    say_list(False, answer["corrections"][:limit], _CORRECTION_COLUMNS, "none", _numbers)
    say("\nCalls:")
    say_list(False, shown, _CALL_COLUMNS, "none", _numbers)


def _count(api: Api, where: tuple[str, str | None, str, str], body: Mapping[str, object]) -> Row:
    """Return what came of a call.

    Args:
        api: the gateway.
        where: the arguments of `_path`.
        body: of the request; members that are None are left out.
    """
    path, asked = _path(*where)
    given = {name: value for name, value in body.items() if value is not None}
    return api.answer("POST", path, asked, given)


def _path(tenant: str, environ: str | None, *more: str) -> tuple[str, dict[str, str]]:
    id, asked = read_tenant(tenant, environ)
    return "/".join(["/v1/tenants", quote(id, safe=""), "usage", *(quote(one, safe="") for one in more)]), asked


def _meter(name: str, meter: Row) -> Row:
    unknown = {} if "limit" in meter else {"limit": NOT_KNOWN, "remaining": NOT_KNOWN}
    credits = ", ".join(
        f"{one['remaining']} of {one['amount']}" + (f" until {one['ends_at']}" if "ends_at" in one else "")
        for one in meter.get("grants", ())
    )
    resets = {"resets_at": meter["period"]["ends_at"]} if "period" in meter else {}
    return _numbers({"meter": name, **meter, **unknown, **resets, "credits": credits})


def _without_app(rows: Sequence[Row], columns: Sequence[str]) -> Sequence[str]:
    """Return the columns, without that of the application if no meter names one."""
    return columns if any("app" in row for row in rows) else [name for name in columns if name != "app"]


def _limited(row: Row) -> Row:
    return row if "limit" in row else {**row, "limit": NOT_KNOWN}


def _numbers(row: Row) -> Row:
    """Return a row with its numbers as text: 0 is not an empty cell."""
    return {name: str(value) if isinstance(value, int) else value for name, value in row.items()}


def _say_counted(as_json: bool, word: str, answer: Row) -> None:
    if as_json:
        say_json(answer)
        return
    repeated = ", counted earlier under this key" if answer.get("repeated") else ""
    of = "" if answer["limit"] == "unlimited" else f" of {answer['limit']}"
    held = f", {answer['reserved']} reserved" if answer["reserved"] else ""
    resets = f", resets at {answer['resets_at']}" if "resets_at" in answer else ""
    over = f", {answer['over']} over the limit" if "over" in answer else ""
    say(f"{word}: {answer['used']}{of} used{held}, {answer['remaining']} left{over}{resets}{repeated}")
    if not answer["version"]:
        note(NO_STATE)
