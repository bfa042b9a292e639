"""Parked events, the settings, a local run."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import quote

import click

from gateway.cli.common import answered, base_url, environment, publish_key, say, say_json, secret_options, send, table


@click.command()
@click.option("--env", "environ", help="The provider environment.  [default: live]")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The most that are listed.")
@click.option("--retry", metavar="EVENT_ID", help="Try this one again now, and print what becomes of it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--url", help="The gateway.  [default: http://127.0.0.1:$PORT]")
@secret_options("key", "a publish key", "$PLANWIRE_PUBLISH_KEY")
def parked(
    environ: str | None, limit: int, retry: str | None, as_json: bool, url: str | None, given: str | None
) -> None:
    """List the billing events that are kept because they cannot be used yet, the longest parked first, and why.

    \b
    Example: planwire parked
             planwire parked --retry evt_01h8bzakzx3hm2fmen703n5q45
    """
    env = environment()
    base, key = base_url(url, env), publish_key(given, env)
    asked = {} if environ is None else {"env": environ}
    if retry is not None:
        answer = answered(*send("POST", f"{base}/v1/parked/{quote(retry, safe='')}/retry", asked, None, key, base))
        shown = " ".join(str(answer[name]) for name in ("outcome", "version", "reason") if name in answer)
        if as_json:
            say_json(answer)
        else:
            say(shown)
        return
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": ""}
    while "next" in page and len(found) < limit:
        cursor = {"after": page["next"]} if page["next"] else {}
        asked["limit"] = str(min(limit - len(found), PARKED_PAGE))
        page = answered(*send("GET", f"{base}/v1/parked", {**asked, **cursor}, None, key, base))
        found += page.get("parked", [])
    if as_json:
        for event in found:
            say_json(event)
    else:
        say("\n".join(table(_PARKED_COLUMNS, found)) if found else "nothing is parked")


PARKED_PAGE = 500
"""The most that one answer lists."""

_PARKED_COLUMNS = ("parked_at", "event_id", "type", "topic", "attempts", "reason")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array of objects.")
@click.option("--markdown", is_flag=True, help="The page docs/configuration.md.")
def settings(as_json: bool, markdown: bool) -> None:
    """List every setting: its environment name and default, unit and bounds, what it does, who reads it.

    Example: planwire settings --json
    """
    import orjson

    from gateway.cli import settings_reference
    from gateway.settings import SECTIONS, GatewaySettings
    from sync.settings import SyncSettings

    if as_json and markdown:
        raise click.UsageError("--json and --markdown exclude each other")
    found = settings_reference.collect(
        settings_reference.Reader(GatewaySettings, ("web",), SECTIONS),
        settings_reference.Reader(SyncSettings, ("intake", "worker"), {"redis_url": "Billing"}),
    )
    if as_json:
        say(orjson.dumps(settings_reference.document(found), option=orjson.OPT_INDENT_2).decode())
    elif markdown:
        say(settings_reference.page(found).removesuffix("\n"))
    else:
        say("\n".join(settings_reference.lines(found)))


@click.command()
def dev() -> None:
    """Run everything locally: store, gateway, worker, simulator - what `make run` does.

    Example: PORT=8080 planwire dev
    """
    from gateway.dev import run as runner

    sys.exit(runner.main())
