"""Commands that explain the state a tenant sees: from its cause to each tab, versions, differences, drift."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from gateway.cli.argument_types import tenant_name
from gateway.cli.common import (
    EXIT_FAILED,
    Api,
    Failed,
    environment_option,
    json_lines_option,
    json_object_option,
    with_console,
)
from gateway.cli.output import say, say_json, say_list, span
from gateway.console.reports.tab_status import UNHEALTHY
from sync.core import instants
from sync.core.plain_text import json_text, plain

TABS_SHOWN = 50
EVENTS_SHOWN = 5
UNUSED = ("parked", "refused", "stale", "ignored")
"""Outcomes of events that did not change a state."""


@click.command()
@click.argument("tenant", type=tenant_name)
@json_object_option
@with_console
def trace(tenant: str, as_json: bool, api: Api) -> None:
    """Show where TENANT's newest state comes from and how far it got: occurred, received, committed, gateways, tabs.

    TENANT is an id (acme) or a topic (sandbox/tenant:acme). Exits 1 if a tab is NACKED, BEHIND or STALE, or a gateway
    is behind or does not answer.

    Example: planwire trace acme
    """
    chain = api.console("topics/", tenant)
    chain["events"] = api.console("events/", tenant)["events"][:EVENTS_SHOWN]
    chain["shadow"] = api.console("shadow/", tenant)
    if as_json:
        say_json(chain)
    else:
        say("\n".join(_chain(chain)))
    is_unhealthy = any(chain["counts"].get(status) for status in UNHEALTHY)
    if is_unhealthy or chain["silent"] or any(gateway["status"] in UNHEALTHY for gateway in chain["gateways"]):
        sys.exit(EXIT_FAILED)


def _chain(chain: Mapping[str, Any]) -> Iterator[str]:
    committed = chain["committed"]
    version, cause = committed["version"], committed["cause"]
    yield f"{chain['topic']}  " + (f"version {version}, {span(committed['age_s'])} old" if version else "has no state")
    if chain["shadow"].get("is_known") and not chain["shadow"]["is_seen"]:
        yield f"  {'shadow':10} {_unseen(chain['shadow'])}"
    previous: float | None = None
    for name, text, note in (
        ("occurred", cause.get("occurred_at"), _why(cause)),
        ("received", cause.get("received_at"), ""),
        ("committed", instants.text_us(version) if version else None, ""),
    ):
        if text is None:
            yield f"  {name:10} -"
            continue
        moment = _seconds(text)
        later = "" if previous is None or moment is None else f"+{span(moment - previous)}"
        previous = moment if moment is not None else previous
        yield f"  {name:10} {plain(text):28} {later:>10}  {note}".rstrip()
    for gateway in chain["gateways"]:
        held = f"{gateway['sockets']} tabs" + (f", {gateway['watchers']} readers" if gateway["watchers"] else "")
        yield f"  gateway {gateway['gateway']}  {gateway['status']}  {held}  {gateway['why']}"
        tabs = [tab for tab in chain["tabs"] if tab["gateway"] == gateway["gateway"]]
        for tab in tabs[:TABS_SHOWN]:
            yield f"    {_tab(tab)}"
        left_out = gateway["sockets"] - len(tabs[:TABS_SHOWN])
        if left_out > 0:
            yield f"    and {left_out} more"
    for silent in chain["silent"]:
        yield f"  gateway {silent}  does not answer: it is deaf, stopping or gone"
    if not chain["gateways"]:
        yield "  no gateway has a tab of it"
    used: set[str] = set()  # the newest outcomes come first: what has been used since waits for nothing
    for event in chain["events"]:
        if event["outcome"] not in UNUSED:
            used.add(event["event_id"])
        elif event["event_id"] not in used:
            shown = "  ".join(plain(event[name]) for name in ("event_id", "outcome", "type", "reason"))
            yield f"  event {shown}"


def _unseen(shadow: Mapping[str, Any]) -> str:
    """Return what billing computes of a tenant whose pages do not see it."""
    computed, differing = shadow["computed"] or {}, len(shadow["differences"])
    plan = computed.get("plan", {}).get("key", "no plan")
    differs = f"; {differing} fields differ from the other system" if differing else ""
    return plain(f"pages do not see what billing computes: {plan}, {computed.get('status')}{differs}")


def _seconds(text: str) -> float | None:
    """Return an RFC 3339 time in seconds since 1970; None for any other text."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _why(cause: Mapping[str, Any]) -> str:
    return plain(" ".join(str(cause[name]) for name in ("event_type", "event_id", "source") if cause.get(name)))


def _tab(tab: Mapping[str, Any]) -> str:
    acked = "nothing acked" if not tab.get("acked") else f"acked {tab['acked']}"
    is_owed = tab["status"] != "NACKED" and tab.get("lag_ms")
    lag = f", owes its answer for {span(tab['lag_ms'] / 1000)}" if is_owed else ""
    buffered = f", {tab['buffered_bytes']} bytes wait" if tab.get("buffered_bytes") else ""
    reason = f": {plain(tab['reason'])}" if tab.get("reason") else ""
    why = f"  {tab['why'].rstrip('.')}" if tab["status"] in UNHEALTHY else ""
    who = f"{tab['session']}  {plain(tab['sub'])}  {plain(tab['client'])}"
    return f"{tab['status']:7} {who}  {acked}{lag}{buffered}{why}{reason}"


@click.command()
@click.argument("topic", type=tenant_name)
@click.option("--count", type=click.IntRange(1, 200), default=20, help="Maximum number of versions.")
@json_lines_option
@with_console
def log(topic: str, count: int, as_json: bool, api: Api) -> None:
    """List TOPIC's versions, the newest first: when, why, and what each one changed.

    Example: planwire log tenant:acme --count 5
    """
    found = api.console("timeline/", topic, count=count)["versions"]
    say_list(as_json, found, ("at", "version", "cause", "changed"), "nothing was ever committed", _version)


def _version(line: Mapping[str, Any]) -> dict[str, object]:
    changed = "the oldest kept"
    if line["paths"] is not None:
        more = line["changed"] - len(line["paths"])
        changed = ", ".join(line["paths"]) + (f" and {more} more" if more else "")
    return {"at": line["at"], "version": line["version"], "cause": _why(line["cause"]), "changed": plain(changed)}


@click.command()
@click.argument("topic", type=tenant_name)
@click.argument("v1", type=click.IntRange(min=1), required=False)
@click.argument("v2", type=click.IntRange(min=1), required=False)
@json_lines_option
@with_console
def diff(topic: str, v1: int | None, v2: int | None, as_json: bool, api: Api) -> None:
    """Show the differences between versions V1 and V2 of TOPIC; without them, what the newest version changed.

    One line per difference: ~ changed, + added, - removed. The path is a JSON Pointer.

    Example: planwire diff tenant:acme 1795395356406607 1795395361917033
    """
    if v1 is None or v2 is None:
        if v1 is not None:
            raise click.UsageError("give two versions, or none for the newest two")
        newest = api.console("timeline/", topic, count=2)["versions"]
        if len(newest) < 2:
            raise Failed(f"{topic} has no two versions to compare")
        v2, v1 = (line["version"] for line in newest)
    found = api.console("diff/", topic, **{"from": v1, "to": v2})
    for item in found["differences"]:
        if as_json:
            say_json(item)
        else:
            say(_difference(item))
    if found["more"] and not as_json:
        say("and more")


def _difference(item: Mapping[str, Any]) -> str:
    path = plain(item["path"] or "/")
    if item["old"] is None:
        return f"+ {path}  {plain(item['new'])}"
    if item["new"] is None:
        return f"- {path}  {plain(item['old'])}"
    return f"~ {path}  {plain(item['old'])} -> {plain(item['new'])}"


@click.command()
@environment_option
@click.option("--topic", metavar="TENANT", type=tenant_name, help="Only the drift of this topic.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, help="Maximum number of records to look at.")
@json_lines_option
@with_console
def drift(environ: str | None, topic: str | None, limit: int, as_json: bool, api: Api) -> None:
    """List where the published state differed from the provider's, the newest first, and why it was compared.

    Example: planwire drift --env sandbox --json
    """
    found = api.console("drift", env=environ, topic=topic, limit=limit)
    if not found["listed"]:
        raise Failed("this gateway takes no webhooks (PLANWIRE_INTAKE=0): ask one that does with --url")
    columns = ("at", "kind", "topic", "subject", "why", "here", "there")
    say_list(as_json, found["drift"], columns, "no drift is recorded", _drift)


def _drift(row: Mapping[str, Any]) -> dict[str, object]:
    return {name: plain(json_text(row[name]) if name in ("here", "there") else row[name]) for name in row}
