"""Shared by all commands: the environment, options, and calls to a gateway and its console."""

from __future__ import annotations

import functools
import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from gateway.cli.output import note

SECRET_MAX_CHARS = 16_384

WAIT_MAX_S = 60.0
"""Maximum wait for a gateway that limits the rate."""

EXIT_FAILED = 1
EXIT_USAGE = 2

Command = Callable[..., Any]

json_object_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
json_lines_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
environment_option = click.option("--env", "environ", help="The provider environment.  [default: live]")


class Failed(click.ClickException):
    """The command failed; the message is one line."""

    exit_code = EXIT_FAILED


def environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the process's environment, completed from the development runner's dev.env if there is one.

    Raises:
        Failed: the file exists but cannot be read.
        click.UsageError: the environment has an unknown setting, or two values for one.
    """
    from gateway.dev import dev_env
    from sync.process import environment as process_environment

    try:
        given = process_environment.read(os.environ if environ is None else environ)
        data_dir = Path(given.get("PLANWIRE_DATA_DIR") or process_environment.DEFAULT_DATA_DIR).expanduser()
        return process_environment.read(dev_env.overlay(given, dev_env.load(data_dir)))
    except process_environment.SettingNameError as error:
        raise click.UsageError(str(error)) from error
    except dev_env.DevEnvError as error:
        raise Failed(str(error)) from error


def mint(env: Mapping[str, str], topics: tuple[str, ...], ttl_s: int = 3600, **claims: Any) -> str:
    """Return a JWT signed with the environment's PLANWIRE_JWT_SECRET, valid for `ttl_s` seconds.

    Args:
        env: the environment.
        topics: the topics that the token opens.
        ttl_s: lifetime in seconds.
        claims: further arguments of `gateway.auth.tokens.mint`.

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
        return mint(secret, topics=topics, now=time.time(), ttl_s=ttl_s, **claims)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def sign_tenant(env: Mapping[str, str], tenant_id: str, provider_environment: str | None) -> str:
    """Return a reference to a tenant, signed with the environment's first PLANWIRE_TENANT_SECRET.

    Raises:
        click.UsageError: there is no usable secret, or the id cannot be a tenant's.
    """
    from planwire_client.core.reference import tenant_reference

    secret = env.get("PLANWIRE_TENANT_SECRET", "").partition(",")[0].strip()
    if not secret:
        raise click.UsageError("no secret to sign with: set PLANWIRE_TENANT_SECRET (`make run` makes one)")
    try:
        return tenant_reference(secret, tenant_id, provider_environment or "live")
    except ValueError as error:
        raise click.UsageError(str(error)) from error


# Calls to a gateway.


def base_url(url: str | None, env: Mapping[str, str]) -> str:
    """Return the gateway's base URL: `url`, else the local gateway on PORT (default 8000)."""
    chosen = (url or f"http://127.0.0.1:{env.get('PORT') or 8000}").rstrip("/")
    if not chosen.startswith(("http://", "https://")):
        raise click.BadParameter("expected http://HOST:PORT or https://HOST", param_hint="--url")
    return chosen


def unreachable(url: str, error: Exception, option: str = "--url") -> Failed:
    """Return the failure for a `url` that does not answer. `option`: the option that sets the URL."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return Failed(f"nothing answers at {url} ({reason}): start it with `make run`, or name another with {option}")


def rejected(status: int, answer: Mapping[str, object]) -> NoReturn:
    """Raise the gateway's answer as an error: exit status 2 if the input is wrong, else 1."""
    said = f"{answer.get('code', 'refused')} ({status}): {answer.get('detail', 'no reason was given')}"
    is_wrong = status in (413, 422) or answer.get("code") == "meter_unknown"
    raise click.UsageError(said) if is_wrong else Failed(said)


@functools.cache
def _verify(base: str) -> ssl.SSLContext | bool:
    """Return how the certificate of a gateway is verified. Reading the authorities takes longer than a request."""
    import httpx2

    return httpx2.create_ssl_context() if base.lower().startswith("https:") else False


@dataclass(frozen=True, slots=True)
class Api:
    """A client of one gateway.

    Attributes:
        base: the gateway's base URL.
        secret: sent as bearer token; "" for none.
    """

    base: str
    secret: str

    def send(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object of an answer; an empty object if the body is not one.

        Raises:
            Failed: nothing answers.
        """
        import httpx2
        import orjson

        headers = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        content = None
        if body is not None:
            headers["Content-Type"], content = "application/json", orjson.dumps(body)
        url = f"{self.base}{path}"
        try:
            verify = _verify(self.base)
            response = httpx2.request(
                method, url, params=query or None, content=content, headers=headers, timeout=15, verify=verify
            )
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeEncodeError) as error:
            raise unreachable(self.base, error) from error
        try:
            answer = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            answer = None
        return response.status_code, answer if isinstance(answer, dict) else {}

    def answer(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> dict[str, Any]:
        """Return the JSON object of a successful answer.

        Raises:
            Failed, click.UsageError: the gateway rejects the request; the text is its reason.
        """
        status, answer = self.send(method, path, query, body)
        if status != 200:
            rejected(status, answer)
        return answer

    def patient(self, method: str, path: str, query: Mapping[str, str], body: object = None) -> dict[str, Any]:
        """Return the answer as `answer` does; wait as long as the gateway limits the rate.

        Raises:
            Failed, click.UsageError: as `answer`.
        """
        until = time.monotonic() + WAIT_MAX_S
        while True:
            status, answer = self.send(method, path, query, body)
            if status == 200:
                return answer
            if status != 429 or time.monotonic() > until:
                rejected(status, answer)
            time.sleep(1)

    def console(self, path: str, topic: str = "", /, **query: object) -> dict[str, Any]:
        """Return the answer of the console's API.

        Args:
            path: the path below `/console/api/`.
            topic: a topic to append to the path; "" for none.
            query: the query; members that are None are left out.

        Raises:
            Failed: the console refuses, or nothing answers.
            click.UsageError: the console needs a token, and there is none.
        """
        asked = {name: str(value) for name, value in query.items() if value is not None}
        status, answer = self.send("GET", f"/console/api/{path}{topic}", asked)
        if answer.get("code") == "token_missing":
            raise click.UsageError(
                "the console asks for a token: set PLANWIRE_CONSOLE_TOKEN or give --token-file "
                "(only `make run` needs none)"
            )
        if (status, answer.get("detail")) == (404, "Not Found"):
            raise Failed(f"there is no console at {self.base}: the gateway has no PLANWIRE_CONSOLE_TOKEN")
        if status != 200:
            rejected(status, answer)
        return answer


def api_options(
    name: str, what: str, default: str, secret_of: Callable[[dict[str, str], str | None], str]
) -> Callable[[Command], Command]:
    """Return a decorator that adds --url and options for a secret to a command. The command gets them as `api`.

    Args:
        name: name of the secret's options: `--NAME-file`, and the deprecated `--NAME`.
        what: the secret, with an article, for the help text.
        default: where the secret comes from without these options, for the help text.
        secret_of: returns the secret, from the environment and the value of the options (None without them).
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_api(*args: Any, url: str | None, secret_file: str | None, secret: str | None, **options: Any) -> Any:
            if secret_file is not None and secret is not None:
                raise click.UsageError(f"--{name} and --{name}-file exclude each other")
            if secret is not None:
                note(f"--{name} shows the secret to every user of this machine, and goes away: use --{name}-file")
            given = _read_secret(secret_file, f"--{name}-file") if secret_file is not None else secret
            env = environment()
            return command(*args, api=Api(base_url(url, env), secret_of(env, given)), **options)

        described = f"A file that holds {what}; - for standard input.  [default: {default}]"
        click.option(f"--{name}", "secret", metavar="TEXT", hidden=True)(with_api)
        click.option(f"--{name}-file", "secret_file", metavar="FILE", help=described)(with_api)
        return click.option("--url", help="The gateway.  [default: http://127.0.0.1:$PORT]")(with_api)

    return decorate


def _read_secret(file: str, option: str) -> str:
    """Return the single line in a file, without surrounding white space."""
    try:
        with click.open_file(file, encoding="utf-8") as stream:
            text = str(stream.read(SECRET_MAX_CHARS + 1)).strip()
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{option}: cannot read {file}: {error}") from error
    if not text or len(text) > SECRET_MAX_CHARS or len(text.split()) != 1:
        raise click.UsageError(f"{option}: {file} must hold one line of 1 to {SECRET_MAX_CHARS} characters, no blanks")
    return text


def _publish_key(env: Mapping[str, str], given: str | None) -> str:
    key = given or env.get("PLANWIRE_PUBLISH_KEY")
    if not key:
        raise click.UsageError("no publish key: set PLANWIRE_PUBLISH_KEY or give --key-file (`make run` makes one)")
    return key


def _console_token(env: Mapping[str, str], given: str | None) -> str:
    """Return the first console token; "" if there is none, as in development."""
    from gateway.console import scopes

    try:
        tokens = scopes.parse(given or env.get("PLANWIRE_CONSOLE_TOKEN", ""))
    except scopes.ConsoleTokenError as error:
        raise click.UsageError(f"PLANWIRE_CONSOLE_TOKEN: {error}") from error
    return tokens[0].text.decode() if tokens else ""


with_publish_api = api_options("key", "a publish key", "$PLANWIRE_PUBLISH_KEY", _publish_key)
with_console = api_options("token", "a console token", "$PLANWIRE_CONSOLE_TOKEN", _console_token)
