"""Backfill: what a billing provider has, into the store that the environment names. It needs no gateway that runs."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.common import Failed, environment
from gateway.cli.output import note, say, say_json

if TYPE_CHECKING:
    from sync.billing.services.backfill import Report

EXIT_INTERRUPTED = 130
DRAW_S = 0.1
"""How often the bar is drawn at most."""

EXAMPLES_SHOWN, REASONS_SHOWN, DRIFT_SHOWN = 3, 20, 20
"""How many events the report names for each reason why some are parked, how many reasons, and how much drift."""


class _ProviderName(click.Choice[str]):
    """The name of a registered provider. The registry is loaded on use: other commands start without it."""

    def __init__(self) -> None:
        self.case_sensitive = True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names."""
        from sync.billing.providers.registry import PROVIDERS

        return tuple(PROVIDERS)


@click.command()
@click.argument("provider", type=_ProviderName())
@click.option("--env", "environ", default="live", help="The provider environment.")
@click.option("--dry-run", is_flag=True, help="Write nothing; report what would be done.")
@click.option("--restart", is_flag=True, help="Begin at the beginning, not where the last run stopped.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many subscriptions.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def backfill(provider: str, environ: str, as_json: bool, **how: Any) -> None:
    """Take every subscription that PROVIDER has into the store, once; for those who have customers already.

    It works on the store itself, with the settings of the worker (PLANWIRE_REDIS_URL, PLANWIRE_CATALOG,
    PLANWIRE_PADDLE_API_KEYS, ...), beside webhooks that come in; what they brought and is newer stands. Stopped or
    killed, the next run goes on behind the last subscription. What cannot be used yet is parked: see planwire parked.

    \b
    Example: planwire backfill paddle --dry-run
             planwire backfill stripe --env sandbox --limit 100
    """
    import logging

    import structlog

    from sync.billing.catalog.catalog import CatalogError
    from sync.billing.providers.base import ProviderRejected, SdkMissingError
    from sync.billing.services.backfill import BackfillError
    from sync.core.errors import SyncError
    from sync.settings import SettingsError

    # What goes wrong is in the report, or the one line that ends it.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    screen = _Screen(visible=not as_json and sys.stderr.isatty())
    again = "" if how["dry_run"] else "; run the same command again to resume"
    try:
        report = asyncio.run(_run(environment(), provider, environ, screen, **how))
    except (SettingsError, BackfillError, CatalogError, SdkMissingError) as error:
        raise click.UsageError(str(error)) from error
    except ProviderRejected as error:
        # A place that the provider does not know any more.
        hint = "; --restart begins at the beginning" if error.code == "not_found" else ""
        raise Failed(f"{provider} refused: {error}{hint}") from error
    except SyncError as error:
        raise Failed(f"{error}{again}") from error
    if as_json:
        say_json(report.shown())
    else:
        say("\n".join(_lines(report)))
    if screen.is_interrupted:
        note(f"stopped{again}")
        sys.exit(EXIT_INTERRUPTED)


async def _run(env: Mapping[str, str], provider: str, environ: str, screen: _Screen, **how: Any) -> Report:
    from sync.billing.services.backfill import Backfill
    from sync.bootstrap import open_backfill
    from sync.settings import SyncSettings

    if "pdl_dev_apikey_" in env.get("PLANWIRE_PADDLE_API_KEYS", ""):
        # The keys are those that a local run has made up: the provider is the simulator.
        env = {"PLANWIRE_DEV": "1", "PLANWIRE_PADDLE_API_URL": env.get("PLANWIRE_SIMULATOR_URL", ""), **env}
    settings = SyncSettings.from_env(env)
    async with open_backfill(settings, provider, environ, dry_run=how["dry_run"]) as services:
        run = Backfill(services, provider, environ, screen)

        def stop() -> None:
            screen.is_interrupted = True
            run.stop()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            return await run.run(**how)
        finally:
            screen.end()


class _Screen:
    """A progress bar on standard error, where that is a terminal; waits are noted in any case."""

    def __init__(self, *, visible: bool) -> None:
        self._visible = visible
        self._bar: Any = None
        self._undrawn = 0
        self._drawn_at = 0.0
        self.is_interrupted = False

    def begin(self, seen: int, total: int | None) -> None:
        """Draw the bar; without a total it counts."""
        if not self._visible:
            return
        self._bar = click.progressbar(
            # Of an iterator nobody knows the length.
            (_ for _ in ()) if total is None else None,
            length=total,
            label="subscriptions",
            show_pos=True,
            show_percent=total is not None,
            file=sys.stderr,
        )
        self._bar.__enter__()
        if seen:
            self._bar.update(seen)

    def advance(self) -> None:
        """Move the bar."""
        self._undrawn += 1
        if time.monotonic() - self._drawn_at >= DRAW_S:
            self._draw()

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.update(self._undrawn)
        self._undrawn, self._drawn_at = 0, time.monotonic()

    def wait(self, seconds: float, reason: str) -> None:
        """Say so on a line of its own."""
        note(f"waiting {seconds:.1f} s: {reason}")

    def end(self) -> None:
        """Draw what is left, and leave the bar."""
        self._draw()
        if self._bar is not None:
            self._bar.render_finish()


def _lines(report: Report) -> list[str]:
    """The report for people."""
    what = "complete" if report.complete else "not complete"
    if report.dry_run:
        what = "a dry run: nothing was written" + ("" if report.complete else "; not complete")
    if report.resumed:
        what += ", gone on from an earlier run"
    rows = [
        ("subscriptions", report.seen, ""),
        ("taken", report.taken, "new, or other than they were known"),
        ("unchanged", report.unchanged, "known already"),
        ("parked", len(report.parked), "cannot be used yet"),
        ("tenants made", report.tenants_made, ""),
        ("drift", report.drift, "tenants that were there differed from the provider"),
    ]
    lines = [f"{report.provider} {report.environment}: {what} ({report.seconds:.1f} s)"]
    lines += [f"  {name:14} {count:>8}  {text}".rstrip() for name, count, text in rows]
    by_reason: dict[str, list[str]] = {}
    for event_id, reason in report.parked.items():
        known, _, rest = reason.partition(": ")
        # The reason may name a subscription that is not of interest here.
        shown = f"no tenant is known: {rest}" if known.startswith("no tenant is known") else reason
        by_reason.setdefault(shown, []).append(event_id)
    reasons = sorted(by_reason.items(), key=lambda pair: -len(pair[1]))
    for reason, ids in reasons[:REASONS_SHOWN]:
        more = f" and {len(ids) - EXAMPLES_SHOWN} more" if len(ids) > EXAMPLES_SHOWN else ""
        lines.append(f"  parked {len(ids)}: {reason} ({', '.join(ids[:EXAMPLES_SHOWN])}{more})")
    if len(reasons) > REASONS_SHOWN:
        lines.append(f"  and {len(reasons) - REASONS_SHOWN} more reasons: planwire parked")
    lines += [f"  drift: {drift.kind} {drift.topic} {drift.subject}" for drift in report.records[:DRIFT_SHOWN]]
    return lines
