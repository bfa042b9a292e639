"""The command line `planwire`: tokens, publishing, watching, parked events, settings, the simulator, a local run.

It is a caller of the gateway like any other and opens no store. Everything heavy is imported by the command that uses
it, so that --help is quick. Bad input is one line on standard error and exit 2; what failed on the way is exit 1.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import click

DATA_DIR = ".planwire"

EXIT_FAILED = 1
EXIT_USAGE = 2

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Failed(click.ClickException):
    """What was asked for could not be done; the message is one line."""

    exit_code = EXIT_FAILED


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the process's environment, completed from the development runner's dev.env where there is one.

    Raises:
        Failed: that file is there and cannot be read.
    """
    from gateway import dev_env

    given = os.environ if environ is None else environ
    try:
        return dev_env.overlay(given, dev_env.load(Path(given.get("PLANWIRE_DATA_DIR") or DATA_DIR).expanduser()))
    except dev_env.DevEnvError as error:
        raise Failed(str(error)) from error


def base_url(url: str | None, env: Mapping[str, str]) -> str:
    """Return the gateway's base URL: `url`, or the local one on PORT (8000)."""
    chosen = (url or f"http://127.0.0.1:{env.get('PORT') or 8000}").rstrip("/")
    if not chosen.startswith(("http://", "https://")):
        raise click.BadParameter("expected http://HOST:PORT or https://HOST", param_hint="--url")
    return chosen


def unreachable(url: str, error: Exception) -> Failed:
    """Return the failure that says what to do when nothing answers at `url`."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return Failed(f"nothing answers at {url} ({reason}): start it with `make run`, or name another with --url")


class TopicType(click.ParamType):  # type: ignore[type-arg] # generic from click 8.5 on, ours works before too
    """A topic's name, checked before anything is sent."""

    name = "topic"

    def __init__(self, *, wildcard: bool = False) -> None:
        """`wildcard`: take "*" too."""
        self._wildcard = wildcard

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or fail with one line."""
        from sync.state.topic import Topic, TopicError

        if not (self._wildcard and value == "*"):
            try:
                Topic.parse(value)
            except TopicError as error:
                self.fail(str(error), param, ctx)
        return str(value)


class JsonType(click.ParamType):  # type: ignore[type-arg]
    """A JSON value, `-` for the one on standard input; converted to the value."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """Return the value, or fail with one line."""
        import orjson

        text = sys.stdin.buffer.read() if value == "-" else str(value).encode("utf-8", "surrogateescape")
        try:
            decoded: object = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            self.fail(f"not JSON: {error}", param, ctx)
        # Wrapped: click takes a bare None for "not given".
        return (decoded,)


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="planwire", message="planwire %(version)s")
def cli() -> None:
    """Live plan and entitlement state, from the command line.

    Secrets and addresses come from the environment (PLANWIRE_JWT_SECRET, PLANWIRE_PUBLISH_KEY, PORT, ...), completed
    from dev.env in PLANWIRE_DATA_DIR (default .planwire), which `make run` writes.
    """


@cli.command()
@click.option(
    "--topic", "topics", multiple=True, required=True, type=TopicType(wildcard=True), help='May repeat; "*": all.'
)
@click.option("--scope", "scopes", multiple=True, default=("read",), show_default=True, help="read, private, console.")
@click.option("--ttl", "ttl_s", type=click.IntRange(min=1), default=3600, show_default=True, help="Seconds it lives.")
@click.option("--sub", default="cli", show_default=True, help="Its subject.")
@click.option("--jti", default="", help="Its id, by which it alone can be revoked.")
def token(topics: tuple[str, ...], scopes: tuple[str, ...], ttl_s: int, sub: str, jti: str) -> None:
    """Print a JWT for TOPIC, signed with PLANWIRE_JWT_SECRET (HS256).

    Example: planwire token --topic tenant:acme --scope read --scope private --ttl 600
    """
    click.echo(_mint(environment(), topics, scopes, ttl_s, sub, jti))


@cli.command()
@click.argument("topic", type=TopicType())
@click.argument("state", metavar="JSON", type=JsonType())
@click.option("--private", type=JsonType(), help="The backend-only part, JSON.")
@click.option("--event-id", help="Dedupe key: the same one again changes nothing.")
@click.option("--order", help="Order value, an integer or a string; refused as stale unless above the last.")
@click.option("--if-version", type=click.IntRange(min=0), help="Only if this is the stored version; 0: none yet.")
@click.option("--url", help="The gateway.  [default: http://127.0.0.1:$PORT]")
@click.option("--key", help="A publish key.  [default: $PLANWIRE_PUBLISH_KEY]")
def publish(
    topic: str,
    state: tuple[object],
    private: tuple[object] | None,
    event_id: str | None,
    order: str | None,
    if_version: int | None,
    url: str | None,
    key: str | None,
) -> None:
    """Publish JSON (- reads it from standard input) as TOPIC's whole state; print the verdict and the version.

    The verdict is applied, unchanged, duplicate, stale or conflict; conflict exits 1.

    Example: planwire publish tenant:acme '{"plan":{"key":"pro","name":"Pro"}}'
    """
    env = environment()
    base, key = base_url(url, env), _publish_key(key, env)
    change: dict[str, object] = {"topic": topic, "state": state[0]}
    if private is not None:
        change["private"] = private[0]
    if order is not None:
        change["order"] = int(order) if order.isascii() and order.isdigit() else order
    change.update(
        {name: value for name, value in (("event_id", event_id), ("if_version", if_version)) if value is not None}
    )
    status, answer = _post(f"{base}/v1/publish", change, key, base)
    if status != 200 and answer.get("code") != "conflict":
        _refused(status, answer)
    click.echo(f"{answer.get('verdict')} {answer.get('version')}")
    if status != 200:
        sys.exit(EXIT_FAILED)


@cli.command()
@click.argument("topic", type=TopicType())
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: topic, version, state, cause.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many snapshots.")
@click.option("--url", help="The gateway.  [default: http://127.0.0.1:$PORT]")
@click.option("--token", "given", help="A token.  [default: one minted with $PLANWIRE_JWT_SECRET]")
def watch(topic: str, as_json: bool, count: int | None, url: str | None, given: str | None) -> None:
    """Print TOPIC's state now and whenever it changes, until interrupted; reconnects by itself.

    One line a version: its time, the version, the state. What happens to the connection goes to standard error.

    Example: planwire watch tenant:acme --json
    """
    from gateway import watcher

    env = environment()
    base = base_url(url, env)

    def fresh_token() -> str:
        return given or _mint(env, (topic,), ("read",), 3600, "cli", "")

    fresh_token()  # what is wrong with the secret is said before anything is dialled
    try:
        watcher.watch(base, topic, fresh_token, _printer(as_json), _note, count)
    except watcher.Refused as error:
        raise Failed(str(error)) from error
    except OSError as error:
        raise unreachable(base, error) from error


@cli.command()
@click.argument("action", required=False)
@click.option("--tenant", metavar="ID", help="The tenant's id: acme for tenant:acme.")
@click.option("--plan", help="The plan's key in the catalog.")
@click.option("--quantity", type=click.IntRange(min=0), help="How many seats or units.")
@click.option("--addon", help="The add-on's key in the catalog.")
@click.option("--env", "environ", help="The provider environment.  [default: live]")
@click.option("--set", "extra", multiple=True, metavar="NAME=VALUE", help="Any other parameter; VALUE is JSON or text.")
@click.option("--url", help="The simulator.  [default: $PLANWIRE_SIMULATOR_URL]")
@click.option("--scenario", metavar="FILE", help="Instead of ACTION: a scenario's file, or a bundled one's name.")
@click.option("--seed", type=int, help="Of the scenario; the same one does the same again.  [default: 1]")
@click.option("--target", help="Where a scenario's webhooks go.  [default: the local gateway's]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def simulate(
    action: str | None,
    tenant: str | None,
    plan: str | None,
    quantity: int | None,
    addon: str | None,
    environ: str | None,
    extra: tuple[str, ...],
    url: str | None,
    scenario: str | None,
    seed: int | None,
    target: str | None,
    as_json: bool,
) -> None:
    """Let the local provider do ACTION to a tenant's subscription and deliver the signed webhooks.

    Among the actions: upgrade, downgrade, cancel, uncancel, pause, resume, past_due, recover, trial, activate, seats,
    addon, remove_addon, renew.

    With --scenario it needs no provider: it sends what the scenario says (histories of many tenants; reordered,
    duplicated, late, forged, ...), signed with PLANWIRE_PADDLE_SECRETS, to --target, and reports what a correct
    receiver would not have done; any such thing exits 1. The final states are compared where the target is the local
    gateway.

    \b
    Example: planwire simulate upgrade --tenant acme --plan pro
             planwire simulate cancel --tenant acme --set when=now
             planwire simulate --scenario torture --seed 7
    """
    import orjson

    from sync.simulator.client import SimulatorError, run_action

    optional = {"plan": plan, "quantity": quantity, "addon": addon, "env": environ}
    given: dict[str, Any] = {name: value for name, value in optional.items() if value is not None}
    if scenario is not None:
        if action or tenant or given or extra or url:
            raise click.UsageError("--scenario takes --seed, --target and --json only; its file says the rest")
        _play(scenario, 1 if seed is None else seed, target, as_json)
        return
    if seed is not None or target is not None:
        raise click.UsageError("--seed and --target belong to --scenario")
    if not action:
        raise click.UsageError("missing ACTION, such as upgrade, or --scenario FILE")
    if not tenant:
        raise click.UsageError("missing option --tenant")
    base = url or environment().get("PLANWIRE_SIMULATOR_URL")
    if not base:
        raise click.UsageError("no simulator: set PLANWIRE_SIMULATOR_URL or give --url (`make run` starts one)")
    given.update(_parameter(text) for text in extra)
    try:
        result = run_action(base, action, tenant, wait=True, **given)
    except SimulatorError as error:
        failure = click.UsageError(str(error)) if error.code not in _NOT_USAGE else Failed(str(error))
        raise failure from error
    if as_json:
        click.echo(orjson.dumps(result))
        return
    click.echo(f"{result.subscription_id} {result.status}")
    for one in result.deliveries:
        took = "" if one.ms is None else f" {one.ms:.0f} ms"
        click.echo(f"{one.event_id} {one.event_type} {one.outcome or one.error or one.status or one.state}{took}")


def _play(name: str, seed: int, target: str | None, as_json: bool) -> None:
    """Run a scenario and print its report; exit 1 where something was violated."""
    import httpx2
    import orjson

    from sync.errors import SyncError
    from sync.settings import SyncSettings
    from sync.simulator import scenario

    env = environment()
    base = base_url(None, env)
    url = target or f"{base}/webhooks/paddle"
    # Only what a scenario needs: the rest of the environment may be another process's.
    wanted = ("PLANWIRE_PADDLE_SECRETS", "PLANWIRE_CATALOG")
    try:
        from sync.billing import catalog

        settings = SyncSettings.from_env({"PLANWIRE_DEV": "1", **{one: env[one] for one in wanted if one in env}})
        plans = catalog.load(settings.catalog_path)
        what = scenario.load(name)
    except SyncError as error:
        raise click.UsageError(str(error)) from error
    secret = next((value.get_secret_value() for where, value in settings.paddle_secrets if where == what.env), None)
    if secret is None:
        raise click.UsageError(f"no secret to sign with: set PLANWIRE_PADDLE_SECRETS={what.env}:... (`make run` does)")
    read = None
    if url.startswith(f"{base}/"):
        read = scenario.http_state(base, _mint(env, ("*",), ("read",), 3600, "cli", ""))
    try:
        httpx2.get(url, timeout=5)  # whatever it answers: a receiver is there
        report = scenario.run_scenario(name, seed, url, secret, plans, read)
    except scenario.ScenarioError as error:
        raise click.UsageError(str(error)) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeEncodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Failed(
            f"nothing answers at {url} ({reason}): start it with `make run`, or name another with --target"
        ) from error
    click.echo(orjson.dumps(report) if as_json else "\n".join(report.lines()))
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


_NOT_USAGE = ("unreachable", "bad_answer")


@cli.command()
@click.option("--env", "environ", help="The provider environment.  [default: live]")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The most that are listed.")
@click.option("--retry", metavar="EVENT_ID", help="Try this one again now, and print what becomes of it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--url", help="The gateway.  [default: http://127.0.0.1:$PORT]")
@click.option("--key", help="A publish key.  [default: $PLANWIRE_PUBLISH_KEY]")
def parked(environ: str | None, limit: int, retry: str | None, as_json: bool, url: str | None, key: str | None) -> None:
    """List the billing events that are kept because they cannot be used yet, the longest parked first, and why.

    \b
    Example: planwire parked
             planwire parked --retry evt_01h8bzakzx3hm2fmen703n5q45
    """
    import orjson

    env = environment()
    base, key = base_url(url, env), _publish_key(key, env)
    asked = {} if environ is None else {"env": environ}
    if retry is not None:
        answer = _answer(*_send("POST", f"{base}/v1/parked/{quote(retry, safe='')}/retry", asked, None, key, base))
        shown = " ".join(str(answer[name]) for name in ("outcome", "version", "reason") if name in answer)
        click.echo(orjson.dumps(answer) if as_json else shown)
        return
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": ""}
    while "next" in page and len(found) < limit:
        cursor = {"after": page["next"]} if page["next"] else {}
        asked["limit"] = str(min(limit - len(found), PARKED_PAGE))
        page = _answer(*_send("GET", f"{base}/v1/parked", {**asked, **cursor}, None, key, base))
        found += page.get("parked", [])
    if as_json:
        for event in found:
            click.echo(orjson.dumps(event))
    else:
        click.echo("\n".join(_table(_PARKED_COLUMNS, found)) if found else "nothing is parked")


PARKED_PAGE = 500
"""The most that one answer lists."""

_PARKED_COLUMNS = ("parked_at", "event_id", "type", "topic", "attempts", "reason")


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the lines of a table; what a row lacks is `-`."""
    cells = [list(columns), *([str(row.get(name) or "-") for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array of objects.")
@click.option("--markdown", is_flag=True, help="The page docs/configuration.md.")
def settings(as_json: bool, markdown: bool) -> None:
    """List every setting: its environment name and default, unit and bounds, what it does, who reads it.

    Example: planwire settings --json
    """
    import orjson

    from gateway import reference
    from gateway.settings import SECTIONS, GatewaySettings
    from sync.settings import SyncSettings

    if as_json and markdown:
        raise click.UsageError("--json and --markdown exclude each other")
    found = reference.collect(
        reference.Reader(GatewaySettings, ("web",), SECTIONS),
        reference.Reader(SyncSettings, ("intake", "worker"), {"redis_url": "Billing"}),
    )
    if as_json:
        click.echo(orjson.dumps(reference.document(found), option=orjson.OPT_INDENT_2))
    elif markdown:
        click.echo(reference.page(found), nl=False)
    else:
        click.echo("\n".join(reference.lines(found)))


@cli.command()
def dev() -> None:
    """Run everything locally: store, gateway, worker, simulator - what `make run` does.

    Example: PORT=8080 planwire dev
    """
    from gateway import dev as runner

    sys.exit(runner.main())


def _mint(
    env: Mapping[str, str], topics: tuple[str, ...], scopes: tuple[str, ...], ttl_s: int, sub: str, jti: str
) -> str:
    from gateway.auth import mint
    from gateway.settings import SECRET_MIN_BYTES

    secret = env.get("PLANWIRE_JWT_SECRET", "").partition(",")[0].strip()
    if not secret:
        raise click.UsageError("no secret to sign with: set PLANWIRE_JWT_SECRET (`make run` makes one)")
    if len(secret.encode()) < SECRET_MIN_BYTES:
        raise click.UsageError(f"PLANWIRE_JWT_SECRET is shorter than {SECRET_MIN_BYTES} bytes")
    try:
        return mint(secret, topics=topics, scope=scopes, now=time.time(), ttl_s=ttl_s, sub=sub, jti=jti)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _publish_key(given: str | None, env: Mapping[str, str]) -> str:
    key = given or env.get("PLANWIRE_PUBLISH_KEY")
    if not key:
        raise click.UsageError("no publish key: set PLANWIRE_PUBLISH_KEY or give --key (`make run` makes one)")
    return key


def _post(url: str, body: object, key: str, base: str) -> tuple[int, dict[str, Any]]:
    return _send("POST", url, {}, body, key, base)


def _send(
    method: str, url: str, query: Mapping[str, str], body: object, key: str, base: str
) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON object of an answer, an empty one where it is something else."""
    import httpx2
    import orjson

    try:
        response = httpx2.request(
            method,
            url,
            params=query or None,
            content=None if body is None else orjson.dumps(body),
            headers={
                "Authorization": f"Bearer {key}",
                **({} if body is None else {"Content-Type": "application/json"}),
            },
            timeout=15,
        )
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeEncodeError) as error:
        raise unreachable(base, error) from error
    try:
        answer = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        answer = None
    return response.status_code, answer if isinstance(answer, dict) else {}


def _answer(status: int, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request that was served; end with what was said where it was not."""
    if status != 200:
        _refused(status, answer)
    return answer


def _refused(status: int, answer: Mapping[str, object]) -> NoReturn:
    """End with what the gateway said: exit 2 where the input was at fault, else 1."""
    said = f"{answer.get('code', 'refused')} ({status}): {answer.get('detail', 'no reason was given')}"
    raise click.UsageError(said) if status in (413, 422) else Failed(said)


def _printer(as_json: bool) -> Callable[[dict[str, Any]], None]:
    import orjson

    from sync.state import canonical

    def show(snapshot: dict[str, Any]) -> None:
        if as_json:
            click.echo(orjson.dumps(snapshot))
            return
        version = snapshot["version"]
        state = canonical.encode(snapshot["state"]).decode()
        click.echo(f"{_instant(version)} {version} {state}" if version else f"{'-':27} 0 {state}")

    return show


def _instant(version: int) -> str:
    """Return the instant that a version tells: RFC 3339 UTC with microseconds."""
    from datetime import UTC, datetime, timedelta

    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=version)
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _note(text: str) -> None:
    click.echo(f"planwire: {text}", err=True)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    try:
        sys.exit(cli.main(prog_name="planwire", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else str(error), err=True)
        sys.exit(EXIT_USAGE)
    except click.ClickException as error:
        # One line, whatever click would add: usage is a --help away.
        click.echo(f"planwire: {' '.join(error.format_message().split())}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe went away; keep the interpreter from complaining when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
