"""How commands call the console's API: its token and requests."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click

from gateway.cli.common import Command, Failed, environment, secret_options, url_option
from gateway.cli.gateway_api import Api, base_url, refused


class Console(Api):
    """A gateway's console API. The secret is a console token; "" in development, where none is needed."""

    @classmethod
    def of(cls, url: str | None, given: str | None) -> Console:
        """Return the console at `url`, opened by the token `given` or else by the environment's, if there is one.

        Raises:
            click.UsageError: PLANWIRE_CONSOLE_TOKEN cannot be read.
        """
        from gateway.console import scopes

        env = environment()
        base = base_url(url, env)
        try:
            tokens = scopes.parse(given or env.get("PLANWIRE_CONSOLE_TOKEN", ""))
        except scopes.ConsoleTokenError as error:
            raise click.UsageError(f"PLANWIRE_CONSOLE_TOKEN: {error}") from error
        return cls(base, tokens[0].text.decode() if tokens else "")

    def get(self, path: str, topic: str = "", query: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Return what the console answers.

        Args:
            path: below `/console/api/`.
            topic: a topic that the path continues with; "" for none.
            query: the query; members that are None or empty are left out.

        Raises:
            Failed: it refuses, or nothing answers.
            click.UsageError: it asks for a token, and there is none.
        """
        asked = {name: str(value) for name, value in (query or {}).items() if value not in (None, "")}
        status, answer = self.send("GET", f"/console/api/{path}{quote(topic, safe='')}", asked)
        if answer.get("code") == "token_missing":
            raise click.UsageError(
                "the console asks for a token: set PLANWIRE_CONSOLE_TOKEN or give --token-file "
                "(only `make run` needs none)"
            )
        if (status, answer.get("detail")) == (404, "Not Found"):
            raise Failed(f"there is no console at {self.base}: the gateway has no PLANWIRE_CONSOLE_TOKEN")
        if status != 200:
            refused(status, answer)
        return answer


def with_console(command: Command) -> Command:
    """Give a command --url and --token-file; they arrive as the one parameter `console`."""

    @functools.wraps(command)
    def with_api(*args: Any, url: str | None, given: str | None, **options: Any) -> Any:
        return command(*args, console=Console.of(url, given), **options)

    return url_option(secret_options("token", "a console token", "$PLANWIRE_CONSOLE_TOKEN")(with_api))
