"""Asks the entitlement system that exists what a tenant has: one GET with a bearer token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from planwire_client.core import canonical_json
from planwire_client.core.topic import LIVE, Topic, decode_id
from sync.billing.providers.rate_limit import RedisRateLimiter
from sync.settings import SyncSettings
from sync.source.backend import Backend, SourceError
from sync.store.store import Store

TENANT_FIELD, ENVIRONMENT_FIELD = "{tenant}", "{env}"
"""Placeholders in the URL. Without the first, the tenant is added to the end of the path; without the second, only
tenants of the environment live are asked about."""


class ShadowSource:
    """The other system at one address. Safe to share between tasks."""

    def __init__(self, url: str, token: str, backend: Backend) -> None:
        """Ask `url`; `token` may be empty."""
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._backend = backend

    def serves(self, topic: Topic) -> bool:
        """Return whether the system is asked about a tenant."""
        return topic.env == LIVE or ENVIRONMENT_FIELD in self._url

    async def ask(self, topic: Topic, max_wait_s: float) -> Mapping[str, Any] | None:
        """Return the system's answer about a tenant; None if it does not know it (404).

        Args:
            topic: the tenant's.
            max_wait_s: maximum wait for the rate limit.

        Raises:
            SourceError: the system is unreachable, or its answer cannot be used.
            StoreError: the store, which has the rate limit's state, is unreachable or failing.
        """
        body = await self._backend.get(url_of(self._url, topic), lambda: self._headers, max_wait_s)
        if body is None:
            return None
        try:
            found = canonical_json.parse(body)
            orjson.dumps(found)
        except (ValueError, TypeError):
            raise SourceError("the answer is not JSON") from None
        if not isinstance(found, dict):
            raise SourceError("the answer is not an object")
        return found

    async def aclose(self) -> None:
        """Close every connection."""
        await self._backend.aclose()


def url_of(base: str, topic: Topic) -> str:
    """Return the URL for a tenant; its id, as the application has it, is percent-encoded.

    Raises:
        SourceError: the id means another place in a path.
    """
    id = decode_id(topic.id)
    if id in (".", ".."):
        raise SourceError(f"{id!r} cannot be asked about: it is no segment of a path")
    tenant = quote(id, safe="")
    url = base.replace(ENVIRONMENT_FIELD, topic.env)
    return url.replace(TENANT_FIELD, tenant) if TENANT_FIELD in url else f"{url.rstrip('/')}/{tenant}"


def shadow_source(store: Store, settings: SyncSettings) -> ShadowSource | None:
    """Return the other system of `settings`, or None if they name none."""
    if not settings.shadow_url:
        return None
    limiter = RedisRateLimiter(store, "shadow", "all", settings.shadow_rate_per_s)
    backend = Backend(timeout_s=settings.source_timeout_s, rate_limiter=limiter)
    return ShadowSource(settings.shadow_url, settings.shadow_token.get_secret_value(), backend)
