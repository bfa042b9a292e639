"""Everything `sync` is told from outside, read once and passed down. It opens, fetches and creates nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from planwire_client.core.names import DEFAULT_PREFIX, check_prefix
from planwire_client.core.topic import LIVE
from sync.billing.catalog.watcher import EXAMPLE
from sync.billing.providers.base import Secret
from sync.core.errors import SyncError
from sync.process import environment
from sync.process.environment import PREFIX, SettingNameError
from sync.process.logs import Form, Level

TOLERANCE_MAX_S = 86_400
API_RATE_MAX = 1_000
SOURCE_SECRET_MIN_BYTES = 32
"""What an HMAC-SHA256 key should have (RFC 2104 section 3: the hash's length)."""

LOOPBACK_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))

STRIPE_MODE = re.compile(r"[a-z]+_(live|test)_")
"""How Stripe's keys begin: sk_live_, rk_test_ and the like."""

_ENTRY = re.compile(r"([a-z][a-z0-9_-]{0,31}):(\S{1,500})")


class SettingsError(SyncError):
    """The environment does not make a configuration; `problems` has one sentence each, none shows a secret."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(self.problems)


def _by_environment(value: object) -> object:
    """Return the (environment, secret) pairs of `live:VALUE,sandbox:VALUE`; an environment may come several times."""
    if not isinstance(value, str):
        return value
    pairs: list[tuple[str, SecretStr]] = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        match = _ENTRY.fullmatch(part)
        if match is None:
            # The value is not shown: it may be a secret whose environment was forgotten.
            raise ValueError("must be a list such as live:VALUE,sandbox:VALUE")
        environment, secret = match.groups()
        other = next((name for name, known in pairs if known.get_secret_value() == secret), None)
        if other is not None:
            raise ValueError(f"the same value stands for {other} and for {environment}: each may stand for one only")
        pairs.append((environment, SecretStr(secret)))
    return tuple(pairs)


def _url(value: object) -> object:
    if isinstance(value, str) and value and not _is_url(value):
        raise ValueError("must be an http or https URL")
    return value


def _is_url(text: str) -> bool:
    try:
        split = urlsplit(text)
    except ValueError:
        return False
    return split.scheme in ("http", "https") and bool(split.hostname)


def _is_confidential(url: str) -> bool:
    """Return whether nobody on the network can read what is sent to `url`."""
    split = urlsplit(url)
    return split.scheme == "https" or split.hostname in LOOPBACK_HOSTS


def _source(value: object) -> object:
    """Return the address of the source: it ends in a path, of which `{topic}` may be one segment."""
    if not isinstance(value, str) or not value:
        return value
    if not _is_url(value.replace("{topic}", "topic")):
        raise ValueError("must be an http or https URL")
    split = urlsplit(value)
    segments = split.path.split("/")
    if split.query or split.fragment or "@" in split.netloc or "{" in value.replace("{topic}", "", 1):
        raise ValueError("must have no query, no fragment, no user, and {topic} at most once")
    if "{topic}" in value and "{topic}" not in segments:
        raise ValueError("{topic} must be a whole segment of the path, as in https://app.example.com/plan/{topic}")
    return value


def _urls(value: object) -> object:
    """Return the (environment, URL) pairs of `live:URL,sandbox:URL`, or of one URL for all, whose environment is ""."""
    if not isinstance(value, str):
        return value
    pairs: list[tuple[str, str]] = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        match = _ENTRY.fullmatch(part)
        pair = ("", part) if match is None or _is_url(part) else (match[1], match[2])
        if not _is_url(pair[1]) or any(name in ("", pair[0]) or pair[0] == "" for name, _ in pairs):
            raise ValueError("must be an http or https URL, or one for each environment: live:URL,sandbox:URL")
        pairs.append(pair)
    if not all(_is_confidential(url) for _, url in pairs):
        raise ValueError("must be https, or http on a loopback host: the API key is sent there")
    return tuple(pairs)


_Pairs = Annotated[tuple[tuple[str, SecretStr], ...], NoDecode, BeforeValidator(_by_environment)]
_Url = Annotated[str, BeforeValidator(_url)]
_Source = Annotated[str, BeforeValidator(_source)]
_Urls = Annotated[tuple[tuple[str, str], ...], NoDecode, BeforeValidator(_urls)]


class SyncSettings(BaseSettings):
    """The configuration of `sync`, frozen. Field `x` is read from `PLANWIRE_X`. Units are in the names."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, env_prefix=PREFIX)

    redis_url: SecretStr = Field(
        SecretStr(""),
        description="Store: redis://, rediss://, unix://, redis+sentinel://HOST:PORT,.../SERVICE, "
        "redis+cluster://HOST:PORT,..., and rediss+sentinel://, rediss+cluster:// with TLS. Empty: the embedded one.",
    )
    prefix: Annotated[str, AfterValidator(check_prefix)] = Field(
        DEFAULT_PREFIX, description="What every key and channel in the store begins with: one for each installation."
    )
    data_dir: Path = Field(Path(".planwire"), description="Folder of the embedded store and of dev.env.")
    durable: bool = Field(False, description="1: answer a webhook only once it is on the store's disk.")
    dev: bool = Field(False, description="Set by the development runner only: the example catalog may stand in.")
    intake: bool = Field(True, description="Whether the web process takes webhooks. 0: another one does.")
    catalog: Path | None = Field(None, description="The catalog's TOML file: what each price grants.")
    paddle_secrets: _Pairs = Field(
        (), description="Signing secrets of Paddle's notification destinations: live:pdl_ntfset_...,sandbox:..."
    )
    stripe_secrets: _Pairs = Field(
        (), description="Signing secrets of Stripe's webhook endpoints: live:whsec_...,sandbox:..."
    )
    paddle_api_keys: _Pairs = Field((), description="Paddle API keys: live:KEY,sandbox:KEY.")
    paddle_api_url: _Urls = Field(
        (), description="Paddle API's base URL, if not Paddle's own: one for all, or live:URL,sandbox:URL."
    )
    paddle_api_rate_per_s: float = Field(
        3,
        gt=0,
        le=API_RATE_MAX,
        description="How many API calls all processes make per second, once a burst is used up.",
    )
    paddle_tolerance_s: float = Field(
        300,
        ge=0,
        le=TOLERANCE_MAX_S,
        description="How far a signature's time may be from the clock. 0: any (replays are still deduplicated).",
    )
    stripe_api_keys: _Pairs = Field((), description="Stripe API keys: live:sk_live_...,sandbox:sk_test_...")
    stripe_api_url: _Urls = Field(
        (), description="Stripe API's base URL, if not Stripe's own: one for all, or live:URL,sandbox:URL."
    )
    stripe_api_rate_per_s: float = Field(
        10,
        gt=0,
        le=API_RATE_MAX,
        description="How many API calls all processes make per second, once a burst is used up.",
    )
    stripe_tolerance_s: float = Field(
        300,
        ge=0,
        le=TOLERANCE_MAX_S,
        description="How far a signature's time may be from the clock. 0: any (replays are still deduplicated).",
    )
    source_url: _Source = Field(
        "", description="Your backend, asked by GET URL/TOPIC about a topic without state; {topic} may stand in it."
    )
    source_secret: SecretStr = Field(
        SecretStr(""), description="Signs those requests; at least 32 bytes, and your backend has it too."
    )
    source_rate_per_s: float = Field(
        20,
        gt=0,
        le=API_RATE_MAX,
        description="How many topics a second all processes together ask the source about, once a burst is used up.",
    )
    source_timeout_s: float = Field(5, gt=0, le=20, description="Seconds the source has for one whole answer.")
    simulator_url: _Url = Field("", description="Where the local provider listens. Dev only.")
    webhook_url: _Url = Field("", description="Where the local provider sends webhooks. Dev only.")
    alive_file: Path | None = Field(
        None, description="File that the worker touches every 5 s while its event loop turns, for a liveness probe."
    )
    watch_pid: int = Field(0, ge=0, description="Exit when this process ends. 0: none.")
    log_level: Level = Field("info", description="Least level that is logged: debug, info, warning or error.")
    log_format: Form = Field("json", description="json: one object a line. text: for terminals.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in ("paddle_secrets", "stripe_secrets"):
            if self.catalog is None and getattr(self, name) and not self.dev:
                raise ValueError(
                    f"{PREFIX}CATALOG must be set where {PREFIX}{name.upper()} is: without it no price means anything"
                )
        self._check_source()
        for provider in ("paddle", "stripe"):
            named = [name for name, _ in self.api_keys(provider)]
            twice = next((name for index, name in enumerate(named) if name in named[:index]), None)
            if twice is not None:
                raise ValueError(f"{PREFIX}{provider.upper()}_API_KEYS has two keys for {twice}: one is enough")
        for name, key in self.stripe_api_keys:
            mode = STRIPE_MODE.match(key.get_secret_value())
            if mode is not None and (mode[1] == "live") != (name == LIVE):
                raise ValueError(f"{PREFIX}STRIPE_API_KEYS has a key of Stripe's {mode[1]} mode for {name}")
        return self

    def _check_source(self) -> None:
        if not self.source_url:
            return
        if not _is_confidential(self.source_url) and not self.dev:
            raise ValueError(f"{PREFIX}SOURCE_URL must be https, or http on a loopback host")
        if len(self.source_secret.get_secret_value().encode()) < SOURCE_SECRET_MIN_BYTES:
            at_least = f"at least {SOURCE_SECRET_MIN_BYTES} bytes"
            raise ValueError(f"{PREFIX}SOURCE_SECRET must have {at_least} where {PREFIX}SOURCE_URL is set")

    @property
    def catalog_path(self) -> Path:
        """The catalog's file; where none is named (in development, or without a provider) the example."""
        return self.catalog or EXAMPLE

    def signing_secrets(self, provider: str) -> tuple[Secret, ...]:
        """Return a provider's signing secrets in the form that its verifier takes."""
        pairs = self.stripe_secrets if provider == "stripe" else self.paddle_secrets
        return tuple(Secret(name, value.get_secret_value().encode()) for name, value in pairs)

    def api_keys(self, provider: str) -> tuple[tuple[str, SecretStr], ...]:
        """Return a provider's API keys, by environment."""
        return self.stripe_api_keys if provider == "stripe" else self.paddle_api_keys

    def api_url(self, environment: str, provider: str = "paddle") -> str:
        """Return the base URL of a provider's API for an environment, or "" for the provider's own."""
        urls = dict(self.stripe_api_url if provider == "stripe" else self.paddle_api_url)
        return urls.get(environment, urls.get("", ""))

    @property
    def _named(self) -> frozenset[str]:
        pairs = (*self.paddle_secrets, *self.stripe_secrets, *self.paddle_api_keys, *self.stripe_api_keys)
        return frozenset(name for name, _ in pairs)

    @property
    def environments(self) -> tuple[str, ...]:
        """Every environment that events can be in: live, and those that a secret or an API key names."""
        return (LIVE, *sorted(self._named - {LIVE}))

    @property
    def billed_environments(self) -> frozenset[str]:
        """The environments whose tenants billing computes: those that a provider's secret or API key names."""
        return self._named

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the one source there is: what `from_env` passes, never the process's own environment."""
        return (init_settings,)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> SyncSettings:
        """Return the settings that `environ` gives; blank values count as absent.

        Raises:
            SettingsError: a name is unknown, a setting has two values, or a value has the wrong form.
        """
        own = {PREFIX + name.upper(): name for name in cls.model_fields}
        try:
            given = environment.read(environ)
        except SettingNameError as error:
            raise SettingsError([str(error)]) from error
        values: dict[str, Any] = {own[name]: value for name, value in given.items() if name in own and value}
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError([_sentence(detail) for detail in error.errors()]) from None


def _sentence(detail: Mapping[str, Any]) -> str:
    """Return one line for one validation error, without the value: it may be a secret."""
    message = str(detail["msg"]).removeprefix("Value error, ")
    location = detail["loc"]
    return f"{PREFIX}{str(location[0]).upper()}: {message}" if location else message
