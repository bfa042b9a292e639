"""Tokens, publishing, watching: what a backend or a page does, from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from gateway.cli.common import (
    EXIT_FAILED,
    Failed,
    JsonType,
    TopicType,
    base_url,
    environment,
    instant,
    mint,
    note,
    post,
    publish_key,
    refused,
    say,
    say_json,
    secret_options,
    unreachable,
)

ORDER_DIGITS_MAX = 20
"""Longer numbers are no order value; the gateway says so."""


@click.command()
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
    say(mint(environment(), topics, scopes, ttl_s, sub, jti))


@click.command()
@click.argument("topic", type=TopicType())
@click.argument("state", metavar="JSON", type=JsonType())
@click.option("--private", type=JsonType(), help="The backend-only part, JSON.")
@click.option("--event-id", help="Dedupe key: the same one again changes nothing.")
@click.option("--order", help="Order value, an integer or a string; refused as stale unless above the last.")
@click.option(
    "--if-version",
    type=click.IntRange(min=0),
    help="Only if this is the stored version; 0: none yet. A repeat is told conflict, with --event-id duplicate.",
)
@click.option("--url", help="The gateway.  [default: http://127.0.0.1:$PORT]")
@secret_options("key", "a publish key", "$PLANWIRE_PUBLISH_KEY")
def publish(
    topic: str,
    state: tuple[object],
    private: tuple[object] | None,
    event_id: str | None,
    order: str | None,
    if_version: int | None,
    url: str | None,
    given: str | None,
) -> None:
    """Publish JSON (- reads it from standard input) as TOPIC's whole state; print the verdict and the version.

    The verdict is applied, unchanged, duplicate, stale or conflict; conflict exits 1.

    Example: planwire publish tenant:acme '{"plan":{"key":"pro","name":"Pro"}}'
    """
    env = environment()
    base, key = base_url(url, env), publish_key(given, env)
    change: dict[str, object] = {"topic": topic, "state": state[0]}
    if private is not None:
        change["private"] = private[0]
    if order is not None:
        is_number = order.isascii() and order.isdigit() and len(order) <= ORDER_DIGITS_MAX
        change["order"] = int(order) if is_number else order
    change.update(
        {name: value for name, value in (("event_id", event_id), ("if_version", if_version)) if value is not None}
    )
    status, answer = post(f"{base}/v1/publish", change, key, base)
    if status != 200 and answer.get("code") != "conflict":
        refused(status, answer)
    say(f"{answer.get('verdict')} {answer.get('version')}")
    if status != 200:
        sys.exit(EXIT_FAILED)


@click.command()
@click.argument("topic", type=TopicType())
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: topic, version, state, cause.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many snapshots.")
@click.option("--url", help="The gateway.  [default: http://127.0.0.1:$PORT]")
@secret_options("token", "a token", "one minted with $PLANWIRE_JWT_SECRET")
def watch(topic: str, as_json: bool, count: int | None, url: str | None, given: str | None) -> None:
    """Print TOPIC's state now and whenever it changes, until interrupted; reconnects by itself.

    One line a version: its time, the version, the state. What happens to the connection goes to standard error.

    Example: planwire watch tenant:acme --json
    """
    from gateway.cli import terminal_tab

    env = environment()
    base = base_url(url, env)

    def fresh_token() -> str:
        return given or mint(env, (topic,), ("read",), 3600, "cli", "")

    fresh_token()  # what is wrong with the secret is said before anything is dialled
    try:
        terminal_tab.watch(base, topic, fresh_token, _printer(as_json), note, count)
    except terminal_tab.Refused as error:
        raise Failed(str(error)) from error
    except OSError as error:
        raise unreachable(base, error) from error


def _printer(as_json: bool) -> Callable[[dict[str, Any]], None]:
    from sync.core import canonical_json

    def show(snapshot: dict[str, Any]) -> None:
        if as_json:
            say_json(snapshot)
            return
        version = snapshot["version"]
        state = canonical_json.encode(snapshot["state"]).decode()
        say(f"{instant(version)} {version} {state}" if version else f"{'-':27} 0 {state}")

    return show
