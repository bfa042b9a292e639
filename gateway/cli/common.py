"""What all commands share: the environment, argument types, and options."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from gateway.cli.output import note

DATA_DIR = ".planwire"

SECRET_MAX_CHARS = 16_384

EXIT_FAILED = 1
EXIT_USAGE = 2

Command = Callable[..., Any]

url_option = click.option("--url", help="The gateway.  [default: http://127.0.0.1:$PORT]")
json_object_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
json_lines_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
environment_option = click.option("--env", "environ", help="The provider environment.  [default: live]")


class Failed(click.ClickException):
    """The command could not do what it was asked for; the message is one line."""

    exit_code = EXIT_FAILED


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the process's environment, completed from the development runner's dev.env where there is one.

    Raises:
        Failed: the file exists and cannot be read.
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


class TopicType(click.ParamType):  # type: ignore[type-arg] # generic from click 8.5 on, ours works before too
    """A topic's name. It is checked before anything is sent."""

    name = "topic"

    def __init__(self, *, wildcard: bool = False) -> None:
        """`wildcard`: accept "*" as well."""
        self._wildcard = wildcard

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or fail with one line."""
        from planwire_client.core.topic import Topic, TopicError

        if not (self._wildcard and value == "*"):
            try:
                Topic.parse(value)
            except TopicError as error:
                self.fail(str(error), param, ctx)
        return str(value)


class JsonType(click.ParamType):  # type: ignore[type-arg]
    """A JSON value, or `-` for the one on standard input. The parameter is a tuple that holds the decoded value."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """Return the value, or fail with one line."""
        import orjson

        from planwire_client.core import canonical_json

        text = sys.stdin.buffer.read() if value == "-" else str(value).encode("utf-8", "surrogateescape")
        try:
            decoded = canonical_json.parse(text)
            orjson.dumps(decoded)
        except ValueError as error:
            self.fail(f"not JSON: {error}", param, ctx)
        except TypeError as error:
            self.fail(f"cannot be sent: {error}; send an integer beyond 64 bits as a string", param, ctx)
        # Wrapped, because click takes None for "not given".
        return (decoded,)


def mint(
    env: Mapping[str, str], topics: tuple[str, ...], scopes: tuple[str, ...], ttl_s: int, sub: str, jti: str
) -> str:
    """Return a JWT signed with the environment's PLANWIRE_JWT_SECRET, valid for `ttl_s` seconds.

    Raises:
        click.UsageError: there is no usable secret, or a scope is unknown.
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
    """Return a decorator that gives a command its options for a secret; they arrive as the one parameter `given`.

    Args:
        name: of the options: `--NAME-file`, and `--NAME`, which is deprecated.
        what: the secret, with an article.
        default: the source of the secret without them.
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
