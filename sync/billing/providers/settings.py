"""The settings common to all billing providers. Each provider's model adds its prefix, its examples and its rate."""

from __future__ import annotations

import re
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from sync.billing.providers.webhook_adapter import Secret
from sync.process.settings import SettingsModel

TOLERANCE_MAX_S = 86_400
API_RATE_MAX = 1_000
API_RATE = "How many API calls all processes make per second, once a burst is used up."

LOOPBACK_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))

_ENTRY = re.compile(r"([a-z][a-z0-9_-]{0,31}):(\S{1,500})")


def _by_environment(value: object) -> object:
    """Return the (environment, secret) pairs of `live:VALUE,sandbox:VALUE`; an environment may come several times."""
    if not isinstance(value, str):
        return value
    pairs: list[tuple[str, SecretStr]] = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        match = _ENTRY.fullmatch(part)
        if match is None:
            # Do not show the value: it may be a secret without its environment.
            raise ValueError("must be a list such as live:VALUE,sandbox:VALUE")
        environment, secret = match.groups()
        other = next((name for name, known in pairs if known.get_secret_value() == secret), None)
        if other is not None:
            raise ValueError(f"the same value stands for {other} and for {environment}: each may stand for one only")
        pairs.append((environment, SecretStr(secret)))
    return tuple(pairs)


def _urls(value: object) -> object:
    """Return the (environment, URL) pairs of `live:URL,sandbox:URL`, or ("", URL) for one URL."""
    if not isinstance(value, str):
        return value
    pairs: list[tuple[str, str]] = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        match = _ENTRY.fullmatch(part)
        pair = ("", part) if match is None or is_url(part) else (match[1], match[2])
        if not is_url(pair[1]) or any(name in ("", pair[0]) or pair[0] == "" for name, _ in pairs):
            raise ValueError("must be an http or https URL, or one for each environment: live:URL,sandbox:URL")
        pairs.append(pair)
    if not all(is_confidential(url) for _, url in pairs):
        raise ValueError("must be https, or http on a loopback host: the API key is sent there")
    return tuple(pairs)


def is_url(text: str) -> bool:
    """Return whether `text` is an http or https URL with a host."""
    try:
        split = urlsplit(text)
    except ValueError:
        return False
    return split.scheme in ("http", "https") and bool(split.hostname)


def is_confidential(url: str) -> bool:
    """Return whether requests to `url` are safe from eavesdroppers: https, or a loopback host."""
    split = urlsplit(url)
    return split.scheme == "https" or split.hostname in LOOPBACK_HOSTS


ByEnvironment = Annotated[tuple[tuple[str, SecretStr], ...], BeforeValidator(_by_environment)]
"""(environment, secret) pairs."""

_Urls = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_urls)]


class ProviderSettings(SettingsModel):
    """One provider's settings. Each provider's model sets `env_prefix` to `PLANWIRE_<NAME>_`."""

    secrets: ByEnvironment = Field((), description="Signing secrets of webhooks: live:VALUE,sandbox:VALUE.")
    api_keys: ByEnvironment = Field((), description="API keys, one for each environment: live:KEY,sandbox:KEY.")
    api_url: _Urls = Field(
        (), description="Base URL of the API, if not the provider's own: one for all, or live:URL,sandbox:URL."
    )
    api_rate_per_s: float = Field(5, gt=0, le=API_RATE_MAX, description=API_RATE)
    tolerance_s: float = Field(
        300,
        ge=0,
        le=TOLERANCE_MAX_S,
        description="How far a signature's time may be from the clock. 0: any (replays are still deduplicated).",
    )

    @model_validator(mode="after")
    def _one_key_each(self) -> Self:
        named = [name for name, _ in self.api_keys]
        twice = next((name for index, name in enumerate(named) if name in named[:index]), None)
        if twice is not None:
            raise ValueError(f"{self.variable('api_keys')} has two keys for {twice}: one is enough")
        return self

    @property
    def signing_secrets(self) -> tuple[Secret, ...]:
        """The signing secrets in the form that the webhook adapter takes."""
        return tuple(Secret(name, value.get_secret_value().encode()) for name, value in self.secrets)

    @property
    def environments(self) -> frozenset[str]:
        """The environments with a signing secret or an API key."""
        return frozenset(name for name, _ in (*self.secrets, *self.api_keys))

    @property
    def accounts(self) -> frozenset[str]:
        """The connected accounts whose events count, besides those of the own account; `*` for all."""
        return frozenset()

    def base_url(self, environment: str) -> str:
        """Return the base URL of the API for an environment, or "" for the provider's own."""
        urls = dict(self.api_url)
        return urls.get(environment, urls.get("", ""))
