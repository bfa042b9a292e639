"""How commands call the gateway's HTTP API: its address, the publish key, requests and refusals."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from gateway.cli.common import Command, Failed, environment, secret_options, url_option


def base_url(url: str | None, env: Mapping[str, str]) -> str:
    """Return the gateway's base URL: `url`, or the local one on PORT (8000)."""
    chosen = (url or f"http://127.0.0.1:{env.get('PORT') or 8000}").rstrip("/")
    if not chosen.startswith(("http://", "https://")):
        raise click.BadParameter("expected http://HOST:PORT or https://HOST", param_hint="--url")
    return chosen


def unreachable(url: str, error: Exception, option: str = "--url") -> Failed:
    """Return the failure that says what to do when nothing answers at `url`, which `option` sets."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return Failed(f"nothing answers at {url} ({reason}): start it with `make run`, or name another with {option}")


@dataclass(frozen=True, slots=True)
class Api:
    """A gateway's base URL, and the secret that its requests bear; "" for none."""

    base: str
    secret: str

    def send(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object of an answer, an empty one where it is something else.

        Raises:
            Failed: nothing answers.
        """
        import httpx2
        import orjson

        try:
            response = httpx2.request(
                method,
                f"{self.base}{path}",
                params=query or None,
                content=None if body is None else orjson.dumps(body),
                headers={
                    **({"Authorization": f"Bearer {self.secret}"} if self.secret else {}),
                    **({} if body is None else {"Content-Type": "application/json"}),
                },
                timeout=15,
            )
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeEncodeError) as error:
            raise unreachable(self.base, error) from error
        try:
            answer = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            answer = None
        return response.status_code, answer if isinstance(answer, dict) else {}

    def answer(self, method: str, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the answer to a request that succeeds.

        Raises:
            Failed, click.UsageError: it does not; the text is what the gateway says.
        """
        status, answer = self.send(method, path, query)
        if status != 200:
            refused(status, answer)
        return answer


def refused(status: int, answer: Mapping[str, object]) -> NoReturn:
    """End with what the gateway says: exit 2 where the input is at fault, else 1."""
    said = f"{answer.get('code', 'refused')} ({status}): {answer.get('detail', 'no reason was given')}"
    raise click.UsageError(said) if status in (413, 422) else Failed(said)


def with_publish_api(command: Command) -> Command:
    """Give a command --url and --key-file; they arrive as the one parameter `api`.

    Raises:
        click.UsageError: there is no publish key.
    """

    @functools.wraps(command)
    def with_api(*args: Any, url: str | None, given: str | None, **options: Any) -> Any:
        env = environment()
        base = base_url(url, env)
        key = given or env.get("PLANWIRE_PUBLISH_KEY")
        if not key:
            raise click.UsageError("no publish key: set PLANWIRE_PUBLISH_KEY or give --key-file (`make run` makes one)")
        return command(*args, api=Api(base, key), **options)

    return url_option(secret_options("key", "a publish key", "$PLANWIRE_PUBLISH_KEY")(with_api))
