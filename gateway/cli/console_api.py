"""How commands ask the console's API: the token and the requests; and times for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import click

from gateway.cli.common import Failed, answered, base_url, environment, send


@dataclass(frozen=True, slots=True)
class Console:
    """A gateway's console API: its base URL, and a console token; "" in development, where none is needed."""

    base: str
    token: str

    @classmethod
    def of(cls, url: str | None, given: str | None) -> Console:
        """Return the console at `url`, opened by the token that was given or the environment's, if there is one.

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

    def get(self, path: str, query: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Return what the console answers; `query` without its empty members.

        Raises:
            Failed: it refused, or nothing answers.
            click.UsageError: it asks for a token, and there is none.
        """
        asked = {name: str(value) for name, value in (query or {}).items() if value not in (None, "")}
        status, answer = send("GET", f"{self.base}/console/api/{path}", asked, None, self.token, self.base)
        if answer.get("code") == "token_missing":
            raise click.UsageError(
                "the console asks for a token: set PLANWIRE_CONSOLE_TOKEN or give --token-file "
                "(only `make run` needs none)"
            )
        if (status, answer.get("detail")) == (404, "Not Found"):
            raise Failed(f"there is no console at {self.base}: the gateway has no PLANWIRE_CONSOLE_TOKEN")
        return answered(status, answer)


def segment(topic: str) -> str:
    """Return a topic's name as one segment of a path."""
    return quote(topic, safe="")


def seconds(text: str | None) -> float | None:
    """Return an RFC 3339 time in seconds since 1970, None for what is none."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return None


def span(value_s: float | None) -> str:
    """Return a time of so many seconds for people."""
    if value_s is None:
        return "-"
    if abs(value_s) < 1:
        return f"{value_s * 1000:.0f} ms"
    if abs(value_s) < 60:
        return f"{value_s:.1f} s"
    if abs(value_s) < 3600:
        return f"{int(value_s // 60)} min {int(value_s % 60)} s"
    if abs(value_s) < 86_400:
        return f"{int(value_s // 3600)} h {int(value_s % 3600 // 60)} min"
    return f"{int(value_s // 86_400)} d {int(value_s % 86_400 // 3600)} h"
