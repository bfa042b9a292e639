"""Commands for operators: parked events and items, rejected rows of the outbox, the list of settings, a local run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from gateway.cli.common import Api, environment, environment_option, json_lines_option, with_publish_api
from gateway.cli.output import say, say_list, say_outcome
from sync.core.plain_text import json_text

PARKED_PAGE = 500
"""Maximum number of events in one answer of the gateway."""

_PARKED_COLUMNS = ("parked_at", "event_id", "type", "topic", "attempts", "reason")
_ITEM_COLUMNS = ("queue", "item", "attempts", "reason")
_USAGE = "expected: parked, parked items, parked retry ID, or parked drop ID --reason TEXT"


@click.command()
@click.argument("action", type=click.Choice(["items", "retry", "drop"]), required=False)
@click.argument("id", required=False)
@environment_option
@click.option("--limit", type=click.IntRange(min=1), default=100, help="Maximum number of lines.")
@click.option("--queue", help="The queue of the item to retry or drop, as `parked items` lists it.")
@click.option("--retry", metavar="EVENT_ID", help="The same as `retry EVENT_ID`.")
@click.option("--reason", help="Why it is dropped, for its tenant's history or the log.")
@click.option("--by", help="Who drops it.")
@json_lines_option
@with_publish_api
def parked(
    action: str | None,
    id: str | None,
    environ: str | None,
    limit: int,
    queue: str | None,
    retry: str | None,
    reason: str | None,
    by: str | None,
    as_json: bool,
    api: Api,
) -> None:
    """List the billing events that are kept because they cannot be used yet, and why. The longest parked come first.

    `retry EVENT_ID` tries one again now. `drop EVENT_ID --reason TEXT` ends one unused. `items` lists what else the
    worker gave up after failures, such as a tenant's timer; with --queue, `retry` and `drop` are about one of these.

    \b
    Example: planwire parked
             planwire parked retry evt_01h8bzakzx3hm2fmen703n5q45
             planwire parked drop evt_01h8bzakzx3hm2fmen703n5q45 --reason "a test of the shop"
             planwire parked items
             planwire parked retry tenant:acme --queue timers
    """
    asked = {} if environ is None else {"env": environ}
    if retry is not None and action is None:
        action, id = "retry", retry
    if (action in ("retry", "drop")) != (id is not None) or (action == "drop") != (reason is not None):
        raise click.UsageError(_USAGE)
    if queue is not None and id is None:
        raise click.UsageError("--queue goes with retry and drop")
    if action == "items":
        answer = api.answer("GET", "/v1/parked-items", {**asked, "limit": str(min(limit, PARKED_PAGE))})
        say_list(as_json, answer["items"], _ITEM_COLUMNS, "no item is parked")
        return
    if id is not None:
        body = {name: text for name, text in (("reason", reason), ("by", by)) if text and action == "drop"}
        if queue is not None:
            answer = api.answer("POST", f"/v1/parked-items/{action}", asked, {"queue": queue, "item": id, **body})
        else:
            answer = api.answer("POST", f"/v1/parked/{quote(id, safe='')}/{action}", asked, body or None)
        say_outcome(as_json, answer)
        return
    found: list[dict[str, Any]] = []
    has_more = True
    while has_more and len(found) < limit:
        asked["limit"] = str(min(limit - len(found), PARKED_PAGE))
        page = api.answer("GET", "/v1/parked", asked)
        found += page.get("parked", [])
        asked["after"] = page.get("next", "")
        has_more = "next" in page
    say_list(
        as_json, found, _PARKED_COLUMNS, "no event is parked (failed items of other queues: planwire parked items)"
    )
    if not as_json:
        _say_ignore(found)


def _say_ignore(parked: Sequence[Mapping[str, Any]]) -> None:
    """Print the lines for the catalog that ignore the unknown prices and products of these events."""
    unknown: dict[str, list[str]] = {}
    for event in parked:
        for table in ("prices", "products"):
            for id in event.get(f"unknown_{table}", ()):
                ids = unknown.setdefault(f"{table}.{event['provider']}.{event['env']}", [])
                ids += [id] if id not in ids else []
    lines = [f"{name} = {json_text(ids)}" for name, ids in unknown.items()]
    if lines:
        say("\n".join(["", "If other software sells these, ignore them in the catalog:", "", "[ignore]", *lines]))


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": [], "allow_interspersed_args": False}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def outbox(arguments: tuple[str, ...]) -> None:
    """List, retry or drop the rows that the outbox's relay rejected (needs psycopg)."""
    from sync.outbox.rejected_rows import commands

    # These are the relay's own commands; `environment` adds the settings of a local run.
    commands.main(list(arguments), prog_name="planwire outbox", standalone_mode=False, obj=environment())


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array of objects.")
def settings(as_json: bool) -> None:
    """List every setting: its environment name, default, unit and bounds, what it does, and which process reads it.

    Example: planwire settings --json
    """
    import orjson

    from gateway.cli import settings_reference

    found = settings_reference.everything()
    if as_json:
        say(orjson.dumps([setting._asdict() for setting in found], option=orjson.OPT_INDENT_2).decode())
    else:
        say("\n".join(settings_reference.lines(found)))


@click.command()
def dev() -> None:
    """Run the whole system on this machine (store, gateway, worker, simulator), as `make run` does.

    Example: PORT=8080 planwire dev
    """
    from gateway.dev import run as runner

    sys.exit(runner.main())
