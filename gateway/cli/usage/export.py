"""`planwire usage export`: the counters of all tenants, as CSV or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import click

from gateway.cli.common import Api, Failed, environment_option, json_lines_option, with_publish_api
from gateway.cli.output import Row, note, say, say_json
from gateway.cli.tenants import until

_COUNTER_COLUMNS = ("tenant", "meter", "app", "kind", "starts_at", "ends_at", "used", "reserved", "limit", "open")


def moment(text: str) -> str:
    """Return the RFC 3339 time that `text` stands for: a time or a date (at 00:00 UTC); a span would begin now."""
    if text[-1:] in ("d", "h"):
        raise click.BadParameter(f"{text[:60]!r} is neither a time such as 2027-01-31T12:00:00Z nor a date")
    return until(text)


@click.command()
@click.option("--since", type=moment, help="Leave out windows that had ended by this time or date.")
@click.option("--until", "before", type=moment, help="Leave out windows that began at this time or later.")
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
