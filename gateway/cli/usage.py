"""`planwire usage`: what tenants have used of their limits, corrections, and the counters of all tenants."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import click

from gateway.cli.common import Api, Failed, environment_option, json_lines_option, json_object_option, with_publish_api
from gateway.cli.output import Row, note, say, say_json, say_list
from gateway.cli.tenants import read_tenant, reason_option, tenant_argument, until

NOT_KNOWN = "not known"
"""What stands for a limit that the tenant's state does not say."""

_METER_COLUMNS = ("meter", "used", "reserved", "limit", "remaining", "status", "resets_at", "credits")
_CALL_COLUMNS = ("at", "operation", "amount", "allowed", "used", "key")
_CORRECTION_COLUMNS = ("at", "operation", "how", "amount", "used", "by", "reason")
_WINDOW_COLUMNS = ("starts_at", "ends_at", "used", "limit")
_COUNTER_COLUMNS = ("tenant", "meter", "kind", "starts_at", "ends_at", "used", "reserved", "limit", "open")

meter_argument = click.argument("meter", metavar="METER")
key_option = click.option(
    "--once", "key", metavar="KEY", help="Count it once, for a day: repeat what got no answer with the same key."
)


@click.group()
def usage() -> None:
    """Read and correct what tenants have used of their limits; export the counters of all.

    Example: planwire usage show acme
    """


@usage.command()
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
    say_list(False, rows, _METER_COLUMNS, "the catalog has no meter: add a table [meters.KEY]")


@usage.command()
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
             planwire usage consume acme api_calls 50 --once import-2027-01-31
    """
    body = {"amount": amount, **({"key": key} if key else {})}
    path, asked = _path(tenant, environ, meter, "consume")
    answer = api.answer("POST", path, asked, body)
    _say_counted(as_json, answer)
    if not answer["allowed"]:
        sys.exit(1)


@usage.command()
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
    how = {"to": to} if to is not None else {"by": change}
    body = {**how, "reason": reason, **({"key": key} if key else {})}
    path, asked = _path(tenant, environ, meter, "adjust")
    _say_counted(as_json, api.answer("POST", path, asked, body))


@usage.command()
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

    Example: planwire usage grant acme ai_credits 500 --until 30d --reason "apology for the outage"
    """
    body = {"amount": amount, "reason": reason, **({"ends_at": ends_at} if ends_at else {})}
    path, asked = _path(tenant, environ, meter, "grant")
    _say_counted(as_json, api.answer("POST", path, asked, {**body, **({"key": key} if key else {})}))


@usage.command()
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


@usage.command()
@click.option("--since", type=until, help="Leave out windows that had ended by this time or date.")
@click.option("--until", "before", type=until, help="Leave out windows that began at this time or later.")
@click.option("--ended", is_flag=True, help="Leave out windows that go on: their counts are not final.")
@click.option("--meter", help="Only this meter.")
@click.option("--after", default="", metavar="CURSOR", help="Go on where an export was stopped, as it said.")
@environment_option
@json_lines_option
@with_publish_api
def export(
    since: str | None,
    before: str | None,
    ended: bool,
    meter: str | None,
    after: str,
    environ: str | None,
    as_json: bool,
    api: Api,
) -> None:
    """Print the counters of all tenants, window by window, as CSV or with --json as one JSON object per line.

    A window with `open` true goes on, and its count is not final. A tenant's newest 400 ended windows are kept. It
    needs a key with the scope usage for all tenants.

    \b
    Example: planwire usage export --since 2027-01-01 --until 2027-02-01 --ended > january.csv
             planwire usage export --meter api_calls --json
    """
    asked = {"env": environ, "after": after, "since": since, "until": before}
    query = {name: value for name, value in asked.items() if value}
    if not as_json:
        _say_csv([_COUNTER_COLUMNS])
    count = 0
    for row in _counters(api, query):
        if (ended and row["open"]) or meter not in (None, row["meter"]):
            continue
        count += 1
        if as_json:
            say_json(row)
        else:
            _say_csv([[_cell(row.get(name)) for name in _COUNTER_COLUMNS]])
    note(f"{count} counters")


def _counters(api: Api, query: dict[str, str]) -> Iterator[Row]:
    """Yield the counters of all tenants; a failure says where to go on."""
    while True:
        try:
            page = api.patient("GET", "/v1/usage/export", query)
        except Failed as error:
            more = f"; go on with --after {query['after']}" if "after" in query else ""
            raise Failed(f"{error.message}{more}") from error
        yield from page["counters"]
        if "next" not in page:
            return
        query["after"] = page["next"]


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


def _limited(row: Row) -> Row:
    return row if "limit" in row else {**row, "limit": NOT_KNOWN}


def _numbers(row: Row) -> Row:
    """Return a row with its numbers as text: 0 is not an empty cell."""
    return {name: str(value) if isinstance(value, int) else value for name, value in row.items()}


def _say_counted(as_json: bool, answer: Row) -> None:
    if as_json:
        say_json(answer)
        return
    repeated = ", counted earlier under this key" if answer.get("repeated") else ""
    of = "" if answer["limit"] == "unlimited" else f" of {answer['limit']}"
    held = f", {answer['reserved']} reserved" if answer["reserved"] else ""
    resets = f", resets at {answer['resets_at']}" if "resets_at" in answer else ""
    over = f", {answer['over']} over the limit" if "over" in answer else ""
    word = "allowed" if answer["allowed"] else "denied"
    say(f"{word}: {answer['used']}{of} used{held}, {answer['remaining']} left{over}{resets}{repeated}")


def _cell(value: Any) -> str:
    """Return a cell; nothing where a value is not known. Text cannot become a formula of a spreadsheet."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@") else text


def _say_csv(rows: Sequence[Sequence[str]]) -> None:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    say(written.getvalue().removesuffix("\n"))
