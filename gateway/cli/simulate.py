"""Commands for the local provider: single actions, and scenarios against any receiver."""

from __future__ import annotations

import sys
from typing import Any

import click

from gateway.cli.common import EXIT_FAILED, Failed, base_url, environment, mint, unreachable
from gateway.cli.output import say, say_json


@click.command()
@click.argument("action", required=False)
@click.option("--tenant", metavar="ID", help="The tenant's id: acme for tenant:acme.")
@click.option("--plan", help="The plan's key in the catalog.")
@click.option("--quantity", type=click.IntRange(min=0), help="The number of seats or units.")
@click.option("--addon", help="The add-on's key in the catalog.")
@click.option("--app", help="The application.  [default: the plan's or add-on's own, or else the leading one]")
@click.option("--env", help="The provider environment.  [default: live]")
@click.option("--set", "extra", multiple=True, metavar="NAME=VALUE", help="Any other parameter; VALUE is JSON or text.")
@click.option("--url", help="The simulator.  [default: $PLANWIRE_SIMULATOR_URL]")
@click.option("--scenario", metavar="FILE", help="Instead of ACTION: a scenario file, or the name of a bundled one.")
@click.option("--seed", type=int, help="The scenario's seed; the same seed gives the same run.  [default: 1]")
@click.option("--target", help="The URL that a scenario's webhooks go to.  [default: the local gateway's]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def simulate(scenario: str | None, as_json: bool, **options: Any) -> None:
    """Have the local provider perform ACTION for a tenant and deliver the signed webhooks.

    Actions on a subscription: upgrade, downgrade, cancel, uncancel, pause, resume, past_due, recover, trial,
    activate, seats, addon, remove_addon, renew, period, decline, tax, discount.

    Actions on payments: buy (what the catalog sells with purchase = true), refund, chargeback,
    chargeback_reverse. Money goes back of the newest payment, of --plan, --addon or --app if given;
    --set amount=500 takes back a part, --set transaction_id=txn_... names the payment.

    --scenario needs no provider. It sends the scenario's webhooks (histories of many tenants; reordered, duplicated,
    late, forged, ...), signed with PLANWIRE_PADDLE_SECRETS, to --target, and reports everything that a correct
    receiver would not do. Any violation exits 1. The final states are compared if the target is the local gateway.

    \b
    Example: planwire simulate upgrade --tenant acme --plan pro
             planwire simulate cancel --tenant acme --set when=now
             planwire simulate tax --tenant acme --set percent=19
             planwire simulate buy --tenant acme --addon course
             planwire simulate refund --tenant acme --addon course
             planwire simulate --scenario torture --seed 7
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if scenario is None:
        _act(as_json, **given)
    elif given.keys() <= {"seed", "target"}:
        _play(scenario, as_json, **given)
    else:
        raise click.UsageError("--scenario takes --seed, --target and --json only; its file says the rest")


def _act(
    as_json: bool, action: str = "", tenant: str = "", url: str = "", extra: tuple[str, ...] = (), **parameters: Any
) -> None:
    """Run an action of the simulator at `url`, and print the result."""
    from sync.simulator.client import SimulatorError, run_action

    if parameters.keys() & {"seed", "target"}:
        raise click.UsageError("--seed and --target belong to --scenario")
    if not action:
        raise click.UsageError("missing ACTION, such as upgrade, or --scenario FILE")
    if not tenant:
        raise click.UsageError("missing option --tenant")
    base = url or environment().get("PLANWIRE_SIMULATOR_URL")
    if not base:
        raise click.UsageError("no simulator: set PLANWIRE_SIMULATOR_URL or give --url (`make run` starts one)")
    parameters.update(map(_parameter, extra))
    try:
        result = run_action(base, action, tenant, wait=True, **parameters)
    except SimulatorError as error:
        is_usage = error.code not in ("unreachable", "bad_answer")
        raise (click.UsageError(str(error)) if is_usage else Failed(str(error))) from error
    if as_json:
        say_json(result)
        return
    say(f"{result.subscription_id or result.transaction_id} {result.status}")
    for one in result.deliveries:
        took = "" if one.ms is None else f" {one.ms:.0f} ms"
        say(f"{one.event_id} {one.event_type} {one.outcome or one.error or one.status or one.state}{took}")


def _play(name: str, as_json: bool, seed: int = 1, target: str | None = None) -> None:
    """Run a scenario and print its report. Exit with status 1 if it has violations."""
    import asyncio

    import httpx2

    from gateway.dev.run import CATALOG
    from sync.billing.catalog import catalog
    from sync.core.errors import SyncError
    from sync.settings import SyncSettings
    from sync.simulator.scenarios.scenario import ScenarioError, load
    from sync.simulator.scenarios.torture import http_state, torture

    # The system of `make run` sells what its own catalog says, if none is set.
    env = {"PLANWIRE_CATALOG": str(CATALOG)} | environment()
    base = base_url(None, env)
    url = target or f"{base}/webhooks/paddle"
    # Pass only the settings that a scenario needs; the others may be meant for another process.
    wanted = {name: value for name, value in env.items() if name in ("PLANWIRE_PADDLE_SECRETS", "PLANWIRE_CATALOG")}
    try:
        settings = SyncSettings.from_env({"PLANWIRE_DEV": "1", **wanted})
        plans = catalog.load(settings.catalog_path)
        what = load(name)
    except SyncError as error:
        raise click.UsageError(str(error)) from error
    secrets = [secret for environ, secret in settings.providers["paddle"].secrets if environ == what.env]
    if not secrets:
        raise click.UsageError(f"no secret to sign with: set PLANWIRE_PADDLE_SECRETS={what.env}:... (`make run` does)")
    read = None
    if url.startswith(f"{base}/"):
        read = http_state(base, mint(env, ("*",)))
    try:
        httpx2.get(url, timeout=5)  # any answer shows that a receiver is there
        report = asyncio.run(torture(what, seed, url, secrets[0].get_secret_value(), plans, read))
    except ScenarioError as error:
        raise click.UsageError(str(error)) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeEncodeError) as error:
        raise unreachable(url, error, "--target") from error
    if as_json:
        say_json(report)
    else:
        say("\n".join(report.lines()))
    if not report.is_ok:
        sys.exit(EXIT_FAILED)


def _parameter(text: str) -> tuple[str, object]:
    """Return the name and value of NAME=VALUE."""
    import orjson

    name, equals, value = text.partition("=")
    if not equals or not name or name in ("tenant", "wait"):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
    try:
        return name, orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value
