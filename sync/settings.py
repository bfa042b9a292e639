"""The settings of `sync`: the worker's, the outbox relay's, and those of the intake inside the web process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from planwire_client.core.reference import SECRET_MIN_BYTES
from planwire_client.core.topic import LIVE
from sync.billing.catalog.watcher import EXAMPLE
from sync.billing.domain.tenant_naming import TENANT_FIELDS
from sync.billing.providers import registry
from sync.billing.providers.settings import API_RATE_MAX, ProviderSettings, is_confidential, is_url
from sync.process.environment import PREFIX
from sync.process.settings import SettingsError as SettingsError, SettingsModel, StoreSettings, read

TENANT_FIELDS_MAX = 16
TENANT_FIELD_MAX_CHARS = 100


def _url(value: object) -> object:
    if isinstance(value, str) and value and not is_url(value):
        raise ValueError("must be an http or https URL")
    return value


def _source(value: object) -> object:
    """Return the source's URL if it is valid. `{topic}` may be one whole segment of its path."""
    if not isinstance(value, str) or not value:
        return value
    if not is_url(value.replace("{topic}", "topic")):
        raise ValueError("must be an http or https URL")
    split = urlsplit(value)
    segments = split.path.split("/")
    if split.query or split.fragment or "@" in split.netloc or "{" in value.replace("{topic}", "", 1):
        raise ValueError("must have no query, no fragment, no user, and {topic} at most once")
    if "{topic}" in value and "{topic}" not in segments:
        raise ValueError("{topic} must be a whole segment of the path, as in https://app.example.com/plan/{topic}")
    return value


def _shadow(value: object) -> object:
    """Return the other entitlement system's URL if it is valid; `{tenant}` and `{env}` may stand behind its host."""
    if not isinstance(value, str) or not value:
        return value
    bare = value.replace("{tenant}", "tenant", 1).replace("{env}", "env", 1)
    if not is_url(bare):
        raise ValueError("must be an http or https URL")
    split = urlsplit(value)
    if split.fragment or "@" in split.netloc or "{" in bare or "{" in split.netloc:
        raise ValueError("must have no fragment, no user, and {tenant} and {env} at most once, behind the host")
    if split.query and "{tenant}" not in value:
        raise ValueError("must have {tenant} where it has a query, as in https://app.example.com/plan?id={tenant}")
    return value


def _secrets(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = [part for part in map(str.strip, value.split(",")) if part]
    if any(len(secret.encode()) < SECRET_MIN_BYTES for secret in found):
        raise ValueError(f"a secret has at least {SECRET_MIN_BYTES} bytes (several are comma separated)")
    return tuple(map(SecretStr, found))


def _tenant_fields(value: object) -> object:
    if not isinstance(value, str):
        return value
    fields = tuple(dict.fromkeys(part.strip() for part in value.split(",")))
    if not all(0 < len(field) <= TENANT_FIELD_MAX_CHARS for field in fields) or len(fields) > TENANT_FIELDS_MAX:
        raise ValueError(f"must be 1 to {TENANT_FIELDS_MAX} metadata keys, such as tenant_id,tenantId,user_id")
    return fields


_TenantFields = Annotated[tuple[str, ...], BeforeValidator(_tenant_fields)]
_Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_secrets)]
_Url = Annotated[str, BeforeValidator(_url)]
_Source = Annotated[str, BeforeValidator(_source)]
_Shadow = Annotated[str, BeforeValidator(_shadow)]


class SyncSettings(StoreSettings):
    """The configuration of `sync`. `providers` holds the settings of each billing provider, by name."""

    dev: bool = Field(False, description="Set by the development runner only: the example catalog may stand in.")
    intake: bool = Field(True, description="Whether the web process takes webhooks. 0: another one does.")
    webhook_body_max_bytes: int = Field(
        1_048_576, ge=1024, le=16_777_216, description="Largest webhook body; beyond: 413."
    )
    catalog: Path | None = Field(None, description="The catalog's TOML file: what each price grants.")
    source_url: _Source = Field(
        "", description="Your backend, asked by GET URL/TOPIC about a topic without state; {topic} may stand in it."
    )
    source_secret: SecretStr = Field(
        SecretStr(""), description="Signs those requests; at least 32 bytes, and your backend has it too."
    )
    tenant_fields: _TenantFields = Field(
        TENANT_FIELDS,
        description="Metadata keys that name a tenant, looked for in order on the subscription, then on its customer.",
    )
    tenant_secret: _Secrets = Field(
        (),
        description="Verifies signed tenant references in checkouts' metadata; each >= 32 bytes, comma separated for "
        "rotation; your backend signs with the first.",
    )
    source_rate_per_s: float = Field(
        20,
        gt=0,
        le=API_RATE_MAX,
        description="How many topics a second all processes together ask the source about, once a burst is used up.",
    )
    source_timeout_s: float = Field(5, gt=0, le=20, description="Seconds the source has for one whole answer.")
    shadow_url: _Shadow = Field(
        "",
        description="The entitlement system that exists, asked by GET what a tenant has; {tenant} and {env} may stand "
        "in it. Until a tenant is switched, pages do not see what billing computes (docs/migrate.md).",
    )
    shadow_token: SecretStr = Field(SecretStr(""), description="Sent to it as a bearer token.")
    shadow_rate_per_s: float = Field(
        5, gt=0, le=API_RATE_MAX, description="How many tenants a second all processes together ask it about."
    )
    usage_push_per_s: float = Field(
        4,
        ge=0.1,
        le=50,
        description="How often a second a tenant's usage is pushed to pages at most; a threshold, a new window and new "
        "entitlements are pushed at once.",
    )
    simulator_url: _Url = Field("", description="Where the local provider listens. Dev only.")
    webhook_url: _Url = Field("", description="Where the local provider sends webhooks. Dev only.")
    alive_file: Path | None = Field(
        None, description="File that the worker touches every 5 s while its event loop turns, for a liveness probe."
    )
    providers: Mapping[str, ProviderSettings] = Field(default_factory=dict, exclude=True)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for provider in self.providers.values():
            if self.catalog is None and provider.secrets and not self.dev:
                name = provider.variable("secrets")
                raise ValueError(f"{PREFIX}CATALOG must be set where {name} is: without it no price means anything")
        if self.shadow_url and not is_confidential(self.shadow_url) and not self.dev:
            raise ValueError(f"{PREFIX}SHADOW_URL must be https, or http on a loopback host")
        if not self.source_url:
            return self
        if not is_confidential(self.source_url) and not self.dev:
            raise ValueError(f"{PREFIX}SOURCE_URL must be https, or http on a loopback host")
        if len(self.source_secret.get_secret_value().encode()) < SECRET_MIN_BYTES:
            at_least = f"at least {SECRET_MIN_BYTES} bytes"
            raise ValueError(f"{PREFIX}SOURCE_SECRET must have {at_least} where {PREFIX}SOURCE_URL is set")
        return self

    @property
    def catalog_path(self) -> Path:
        """The catalog file; the example if none is set (in development, or without a provider)."""
        return self.catalog or EXAMPLE

    @property
    def environments(self) -> tuple[str, ...]:
        """All environments: live, and those with a provider's signing secret or API key."""
        return (LIVE, *sorted(self.billed_environments - {LIVE}))

    @property
    def billed_environments(self) -> frozenset[str]:
        """The environments whose tenants billing computes: those with a provider's signing secret or API key."""
        return frozenset().union(*(provider.environments for provider in self.providers.values()))

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings that `environ` gives; blank values count as absent.

        Raises:
            SettingsError: a name is unknown, a setting has two values, or a value has the wrong form.
        """
        given = read(environ, cls, *(spec.settings for spec in registry.PROVIDERS.values()))
        providers: dict[str, SettingsModel] = {}
        problems: list[str] = []
        for name, spec in registry.PROVIDERS.items():
            try:
                providers[name] = spec.settings.parse(given)
            except SettingsError as error:
                problems += error.problems
        try:
            settings = cls.parse(given, providers=providers)
        except SettingsError as error:
            problems += error.problems
        if problems:
            raise SettingsError(problems)
        return settings
