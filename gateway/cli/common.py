"""What all commands share: the environment, addresses, argument types, secrets, requests to the gateway, and output."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from sync.core.plain_text import json_text, plain_lines

DATA_DIR = ".planwire"

SECRET_MAX_CHARS = 16_384

EXIT_FAILED = 1
EXIT_USAGE = 2


Command = Callable[..., Any]


class Failed(click.ClickException):
    """What was asked for could not be done; the message is one line."""

    exit_code = EXIT_FAILED


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the process's environment, completed from the development runner's dev.env where there is one.

    Raises:
        Failed: that file is there and cannot be read.
        click.UsageError: the environment names a setting that does not exist, or gives one two values.
    """
    from gateway.dev import dev_env
    from sync.process import environment as process_environment

    try:
        given = process_environment.read(os.environ if environ is None else environ)
    except process_environment.SettingNameError as error:
        raise click.UsageError(str(error)) from error
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
        from sync.core.topic import Topic, TopicError

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

        from sync.core import canonical_json

        text = sys.stdin.buffer.read() if value == "-" else str(value).encode("utf-8", "surrogateescape")
        try:
            decoded = canonical_json.parse(text)
            orjson.dumps(decoded)
        except ValueError as error:
            self.fail(f"not JSON: {error}", param, ctx)
        except TypeError as error:
            self.fail(f"cannot be sent: {error}; send an integer beyond 64 bits as a string", param, ctx)
        # Wrapped: click takes a bare None for "not given".
        return (decoded,)


def mint(
    env: Mapping[str, str], topics: tuple[str, ...], scopes: tuple[str, ...], ttl_s: int, sub: str, jti: str
) -> str:
    """Return a JWT signed with the environment's PLANWIRE_JWT_SECRET, alive for `ttl_s` seconds.

    Raises:
        click.UsageError: there is no usable secret, or no such scope.
    """
    from gateway.auth.tokens import mint
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


def secret_options(name: str, what: str, default: str) -> Callable[[Command], Command]:
    """Return the decorator that gives a command its options for a secret; they arrive as the one parameter `given`.

    Args:
        name: of the options: `--NAME-file`, and `--NAME`, which is going away.
        what: the secret, with an article.
        default: where the secret comes from without them.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_secret(*args: Any, **options: Any) -> Any:
            file, text = options.pop("secret_file"), options.pop("secret_text")
            if file is not None and text is not None:
                raise click.UsageError(f"--{name} and --{name}-file exclude each other")
            if text is not None:
                note(f"--{name} shows the secret to every user of this machine, and goes away: use --{name}-file")
            return command(*args, given=_read_secret(file, f"--{name}-file") if file is not None else text, **options)

        described = f"A file that holds {what}; - for standard input.  [default: {default}]"
        click.option(f"--{name}", "secret_text", metavar="TEXT", hidden=True)(with_secret)
        click.option(f"--{name}-file", "secret_file", metavar="FILE", help=described)(with_secret)
        return with_secret

    return decorate


def _read_secret(file: str, option: str) -> str:
    """Return the one line in a file, without the white space around it."""
    try:
        with click.open_file(file, encoding="utf-8") as stream:
            text = str(stream.read(SECRET_MAX_CHARS + 1)).strip()
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{option}: cannot read {file}: {error}") from error
    if not text or len(text) > SECRET_MAX_CHARS or len(text.split()) != 1:
        raise click.UsageError(f"{option}: {file} must hold one line of 1 to {SECRET_MAX_CHARS} characters, no blanks")
    return text


def publish_key(given: str | None, env: Mapping[str, str]) -> str:
    """Return the publish key that was given, or the environment's PLANWIRE_PUBLISH_KEY.

    Raises:
        click.UsageError: there is none.
    """
    key = given or env.get("PLANWIRE_PUBLISH_KEY")
    if not key:
        raise click.UsageError("no publish key: set PLANWIRE_PUBLISH_KEY or give --key-file (`make run` makes one)")
    return key


def post(url: str, body: object, key: str, base: str) -> tuple[int, dict[str, Any]]:
    """Return what `send` does for a POST of `body`."""
    return send("POST", url, {}, body, key, base)


def send(
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
                **({"Authorization": f"Bearer {key}"} if key else {}),
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


def answered(status: int, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request that was served; end with what was said where it was not."""
    if status != 200:
        refused(status, answer)
    return answer


def refused(status: int, answer: Mapping[str, object]) -> NoReturn:
    """End with what the gateway said: exit 2 where the input was at fault, else 1."""
    said = f"{answer.get('code', 'refused')} ({status}): {answer.get('detail', 'no reason was given')}"
    raise click.UsageError(said) if status in (413, 422) else Failed(said)


def table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the lines of a table; what a row lacks is `-`."""
    cells = [list(columns), *([str(row.get(name) or "-") for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]


def instant(version: int) -> str:
    """Return the instant that a version tells: RFC 3339 UTC with microseconds."""
    from datetime import UTC, datetime, timedelta

    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=version)
    return instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def note(text: str) -> None:
    """Say something on standard error, where it is in nobody's pipe."""
    say(f"planwire: {text}", err=True)


def say(text: str, *, err: bool = False) -> None:
    """Print lines, in which foreign text may stand: whatever the terminal would obey is escaped."""
    click.echo(plain_lines(text), err=err)


def say_json(value: object) -> None:
    """Print a value as one line of JSON that the terminal cannot be harmed by."""
    click.echo(json_text(value))
