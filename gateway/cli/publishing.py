"""Commands that act as a backend or a page: mint a token, publish a state, watch a topic."""

from __future__ import annotations

import sys
from typing import Any

import click

from gateway.cli.argument_types import json_value, topic_name
from gateway.cli.common import (
    EXIT_FAILED,
    Api,
    api_options,
    environment,
    environment_option,
    json_lines_option,
    mint,
    rejected,
    sign_tenant,
    unreachable,
    with_publish_api,
)
from gateway.cli.output import say
from gateway.cli.tenants import read_tenant

ORDER_DIGITS_MAX = 20
"""Maximum digits of an integer order value. Longer ones are sent as text, so that the gateway reports the error."""

TOKEN_TTL_S = 3600

_TOPICS = 'May be repeated; "*" means all.'
_IF_VERSION = "Only if this is the stored version; 0: none yet. A repeat is a conflict, with --event-id a duplicate."


def _topic_or_all(text: str) -> str:
    return text if text == "*" else topic_name(text)


@click.command()
@click.option("--topic", "topics", type=_topic_or_all, multiple=True, metavar="TOPIC", help=_TOPICS)
@click.option("--tenant", metavar="ID", help="Print a signed reference to this tenant instead, for a checkout.")
@environment_option
@click.option("--scope", multiple=True, default=("read",), help="read, private, console.")
@click.option("--ttl", "ttl_s", type=click.IntRange(min=1), help=f"Lifetime in seconds.  [default: {TOKEN_TTL_S}]")
@click.option("--sub", default="cli", help="The subject.")
@click.option("--jti", default="", show_default=False, help="The id, with which this token can be revoked alone.")
def token(topics: tuple[str, ...], tenant: str | None, environ: str | None, ttl_s: int | None, **claims: Any) -> None:
    """Print a JWT for TOPIC, signed with PLANWIRE_JWT_SECRET (HS256); or a reference to a tenant.

    A tenant reference, signed with PLANWIRE_TENANT_SECRET, takes the place of the tenant id in the provider's metadata
    (tenant_id). It is valid until the secret is removed; what it has named before stays so.

    \b
    Example: planwire token --topic tenant:acme --scope read --scope private --ttl 600
             planwire token --tenant acme --env sandbox
    """
    if (tenant is None) == (not topics):
        raise click.UsageError("give either --topic, for a JWT, or --tenant, for a signed tenant reference")
    if tenant is None:
        if environ is not None:
            raise click.UsageError("--env is for --tenant: a topic's name has its environment (sandbox/tenant:acme)")
        say(mint(environment(), topics, ttl_s or TOKEN_TTL_S, **claims))
    elif ttl_s is not None:
        raise click.UsageError("--ttl is for --topic: a tenant reference does not expire")
    else:
        id, asked = read_tenant(tenant, environ)
        say(sign_tenant(environment(), id, asked.get("env")))


@click.command()
@click.argument("topic", type=topic_name)
@click.argument("state", metavar="JSON", type=json_value)
@click.option("--private", metavar="JSON", type=json_value, help="The backend-only part, JSON.")
@click.option("--event-id", help="Deduplication key: the same one again changes nothing.")
@click.option("--order", help="Order value, an integer or a string; ignored as stale unless above the last one.")
@click.option("--if-version", type=click.IntRange(min=0), help=_IF_VERSION)
@with_publish_api
def publish(
    topic: str, state: tuple[object], private: tuple[object] | None, order: str | None, api: Api, **conditions: Any
) -> None:
    """Publish JSON as TOPIC's whole state; print the verdict and the version. - reads JSON from standard input.

    The verdict is applied, unchanged, duplicate, stale or conflict. A conflict exits 1.

    Billing computes tenants from their purchases: a publish to one of them is refused (planwire grant adds to it).

    Example: planwire publish workspace:acme '{"features":{"export":true}}'
    """
    change: dict[str, object] = {"topic": topic, "state": state[0]}
    if private is not None:
        change["private"] = private[0]
    if order is not None:
        is_number = order.isascii() and order.isdigit() and len(order) <= ORDER_DIGITS_MAX
        change["order"] = int(order) if is_number else order
    change |= {name: value for name, value in conditions.items() if value is not None}
    status, answer = api.send("POST", "/v1/publish", body=change)
    if status != 200 and answer.get("code") != "conflict":
        rejected(status, answer)
    say(f"{answer.get('verdict')} {answer.get('version')}")
    if status != 200:
        sys.exit(EXIT_FAILED)


@click.command()
@click.argument("topic", type=topic_name)
@json_lines_option
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many snapshots.")
@api_options("token", "a token", "one minted with $PLANWIRE_JWT_SECRET", lambda _, given: given or "")
def watch(topic: str, as_json: bool, count: int | None, api: Api) -> None:
    """Print TOPIC's state now and whenever it changes, until interrupted. It reconnects by itself.

    One line per version: its time, the version, the state; with --json an object with topic, version, state and
    cause. News of the connection goes to standard error.

    Example: planwire watch tenant:acme --json
    """
    import asyncio

    from gateway.cli.watch import watch as follow

    env = environment()

    def fresh_token() -> str:
        return mint(env, (topic,))

    if not api.secret:
        fresh_token()  # fails before connecting if the secret is unusable
    try:
        asyncio.run(follow(api.base, topic, api.secret or fresh_token, count, as_json))
    except BrokenPipeError:  # the reader of the output is gone
        raise
    except OSError as error:
        raise unreachable(api.base, error) from error
