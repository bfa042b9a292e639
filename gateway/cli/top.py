"""`planwire top`: all gateways and the unhealthy topics on one screen, refreshed as they change."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from gateway.cli.common import Api, Failed, with_console
from gateway.cli.output import say, say_json, span, table
from gateway.console.reports.tab_status import RANK, Status
from sync.core.plain_text import plain

STATUSES = [status.value for status in Status]
_COLOURS = {"NACKED": "red", "BEHIND": "yellow", "STALE": "yellow", "SYNCED": "green"}
_COLUMNS = (
    "gateway", "bus", "sockets", "topics", "nacked", "behind", "stale", "sent", "synced", "deliveries/s", "acks/s",
    "p50", "p99",
)  # fmt: skip
_TROUBLE_COLUMNS = ("topic", "status", "tabs", "of", "gateway")

_ONCE = "Print once and exit. This is what it does when the output is not a terminal."
_JSON = "Print one JSON object per line and interval; with --once a single one."

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_LINE, _END_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command()
@click.option("--once", is_flag=True, help=_ONCE)
@click.option("--interval", "every_s", type=click.FloatRange(0.5, 60), default=1.0, help="Seconds between updates.")
@click.option("--json", "as_json", is_flag=True, help=_JSON)
@with_console
def top(once: bool, every_s: float, as_json: bool, api: Api) -> None:
    """Watch all gateways: tabs by state, rates, latencies, and the topics in trouble, the worst first. q quits.

    Example: planwire top --once --json
    """
    before = api.console("gateways")
    if as_json:
        while True:
            say_json(before)
            if once:
                return
            time.sleep(every_s)
            before = api.console("gateways")
    if once or not sys.stdout.isatty():
        say("\n".join(_lines(before, None, 10_000)))
        return
    with _screen() as has_keys:
        earlier: Mapping[str, Any] | None = None
        while True:
            size = shutil.get_terminal_size()
            _draw(_lines(before, earlier, size.lines - 1), size.columns)
            if _is_left(every_s, has_keys):
                return
            earlier = before
            try:
                before = api.console("gateways")
            except Failed as error:
                # The gateway may be restarting: keep the last figures, marked as out of date.
                before = {**earlier, "failed": error.format_message()}


@contextlib.contextmanager
def _screen() -> Iterator[bool]:
    """Use the terminal's alternate screen while the context is open. Yield whether single keys can be read."""
    import termios
    import tty

    file = sys.stdin.fileno() if sys.stdin.isatty() else -1
    kept = termios.tcgetattr(file) if file >= 0 else None
    try:
        if file >= 0:
            tty.setcbreak(file)
        click.echo(_ENTER, nl=False)
        yield file >= 0
    finally:
        click.echo(_LEAVE, nl=False)
        if kept is not None:
            termios.tcsetattr(file, termios.TCSADRAIN, kept)


def _is_left(wait_s: float, has_keys: bool) -> bool:
    """Wait for `wait_s` seconds; return True as soon as q is pressed."""
    deadline = time.monotonic() + wait_s
    while (left_s := deadline - time.monotonic()) > 0:
        if not has_keys:
            time.sleep(left_s)
        elif select.select([sys.stdin], [], [], left_s)[0]:
            key = os.read(sys.stdin.fileno(), 1)
            if key in (b"q", b"Q", b""):
                return True
    return False


def _draw(lines: list[str], columns: int) -> None:
    shown = _HOME
    for line in lines:
        text = plain(line[:columns])
        status = next((status for status in _COLOURS if f" {status} " in text), None)
        if status is not None:
            text = text.replace(f" {status} ", f" {click.style(status, fg=_COLOURS[status])} ", 1)
        shown += f"{text}{_END_LINE}\r\n"
    click.echo(f"{shown}{_END_SCREEN}", nl=False)


def _lines(now: Mapping[str, Any], before: Mapping[str, Any] | None, limit: int) -> list[str]:
    reports = now["gateways"]
    totals = {status: sum(report["tabs"][status] for report in reports.values()) for status in STATUSES}
    head = f"planwire top  {len(reports)} gateways  " + "  ".join(f"{count} {name}" for name, count in totals.items())
    lines = [head]
    if "failed" in now:
        lines.append(f"not up to date: {now['failed']}")
    lines += [f"gateway {name} does not answer: it is deaf, stopping or gone" for name in now["silent"]]
    earlier = before["gateways"] if before is not None else {}
    elapsed_s = now["at"] - before["at"] if before is not None else 0.0
    gateways = [_row(report, earlier.get(name), elapsed_s) for name, report in sorted(reports.items())]
    lines += ["", *table(_COLUMNS, gateways)]
    rows = _trouble(reports)
    total = sum(report["trouble_total"] for report in reports.values())
    lines += ["", f"topics in trouble: {total}"]
    if rows:
        lines += table(_TROUBLE_COLUMNS, rows)
    if total > len(rows):
        lines.append(f"and {total - len(rows)} more")
    return lines[:limit]


def _row(report: Mapping[str, Any], before: Mapping[str, Any] | None, elapsed_s: float) -> dict[str, object]:
    def rate(name: str) -> str:
        if before is None or elapsed_s <= 0:
            return "-"
        return f"{(report['counters'][name] - before['counters'][name]) / elapsed_s:.0f}"

    latency = report["latency"]["committed_to_acked"]
    tabs = {status.lower(): str(report["tabs"][status]) for status in STATUSES}
    return {
        "gateway": report["gateway"],
        "bus": "stopping" if report["draining"] else "fresh" if report["fresh"] else "STALE",
        "sockets": str(report["sockets"]),
        "topics": str(report["topics"]),
        **tabs,
        "deliveries/s": rate("deliveries"),
        "acks/s": rate("acks"),
        "p50": span(latency.get("p50_s")),
        "p99": span(latency["p99_s"]) if "p99_s" in latency else "-",
    }


def _trouble(reports: Mapping[str, Mapping[str, Any]]) -> list[dict[str, object]]:
    rows = []
    for gateway, report in reports.items():
        for name, row in report["trouble"].items():
            status, count = row["status"], row["tabs"][row["status"]]
            rows.append((RANK[status], -count, plain(name), status, count, row["sockets"], gateway))
    return [dict(zip(_TROUBLE_COLUMNS, row[2:], strict=True)) for row in sorted(rows)]
