"""The door that billing webhooks come in by: verifies the raw bytes, hands them to the pipeline, answers.

It trusts nothing before the signature and understands nothing after it. 200 is said only of what is stored; the reasons
for anything else are problem documents (RFC 9457) with a stable `code`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import assert_never

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sync.billing.api import body_self_check, tenants, topics
from sync.billing.api.status import Tabs
from sync.billing.catalog.catalog import CatalogError
from sync.billing.catalog.watcher import CatalogWatcher
from sync.billing.providers import Adapter, Expired, Invalid, Malformed, Secret, Source, Verified
from sync.billing.providers.paddle.client import PaddleApi, SdkMissingError, is_sdk_installed
from sync.billing.providers.paddle.webhooks import Paddle
from sync.billing.providers.rate_limit import RateLimiter, RedisRateLimiter
from sync.billing.providers.stripe.client import StripeApi
from sync.billing.providers.stripe.webhooks import Stripe
from sync.billing.services.ingest import Pipeline, Receipt
from sync.billing.storage.inbox import Record
from sync.core import instants
from sync.http.endpoint import Guard, guarded, require_all_tenants
from sync.http.problem import BODY_MAX_BYTES as BODY_MAX_BYTES
from sync.http.problem import Refusal, asked_environment, json_response, page_limit, read_body
from sync.process import logs
from sync.settings import SettingsError, SyncSettings
from sync.source.hydration import Hydration
from sync.store.store import Store, StoreError

_log = structlog.get_logger("sync.billing.api.webhooks")


MakeRateLimiter = Callable[[str, str, float], RateLimiter]
"""Returns what a provider's environment may be asked, from its names and the calls per second."""


def check(settings: SyncSettings) -> None:
    """Return when what `settings` name is there: the catalog, and what asks the providers.

    Raises:
        SettingsError, SdkMissingError: it is not, or cannot be used.
    """
    open_catalog(settings)
    if settings.paddle_api_keys and not settings.dev and not is_sdk_installed():
        raise SdkMissingError


def open_catalog(settings: SyncSettings) -> CatalogWatcher:
    """Return the catalog that `settings` name.

    Raises:
        SettingsError: it cannot be read, or is no catalog; the text says in which line.
    """
    try:
        return CatalogWatcher(settings.catalog_path)
    except CatalogError as error:
        raise SettingsError([f"PLANWIRE_CATALOG: {error}"]) from error


async def pipeline(store: Store, settings: SyncSettings, rate_limiter: MakeRateLimiter | None = None) -> Pipeline:
    """Return the pipeline that `settings` describe, on an open store; all processes share its budgets by default.

    Raises:
        SettingsError: the catalog cannot be used.
        SdkMissingError: API keys are set, and what asks the provider is not installed.
    """
    catalog_watcher = await asyncio.to_thread(open_catalog, settings)
    adapters: tuple[Adapter, ...] = (Paddle(), Stripe())
    return Pipeline(
        store,
        catalog_watcher,
        {adapter.name: adapter for adapter in adapters},
        await asyncio.to_thread(sources, settings, rate_limiter or partial(RedisRateLimiter, store)),
    )


def sources(settings: SyncSettings, rate_limiter: MakeRateLimiter) -> dict[tuple[str, str], Source]:
    """Return the environments of providers that can be asked, each within what `budget` makes of its rate.

    Blocks for a second where Paddle's SDK has to be imported.

    Raises:
        SdkMissingError: API keys of Paddle are set, and what asks it is not installed.
    """
    found: dict[tuple[str, str], Source] = {}
    for name, key in settings.stripe_api_keys:
        limiter = rate_limiter("stripe", name, settings.stripe_api_rate_per_s)
        url = settings.api_url(name, "stripe")
        found["stripe", name] = StripeApi(name, key.get_secret_value(), url, limiter)
    try:
        for name, key in settings.paddle_api_keys:
            limiter = rate_limiter("paddle", name, settings.paddle_api_rate_per_s)
            found["paddle", name] = PaddleApi(name, key.get_secret_value(), settings.api_url(name), limiter)
    except SdkMissingError as error:
        if not settings.dev:
            raise
        # A development machine has made-up keys: there it is enough that events carry whole bodies.
        _log.warning("paddle_api_off", reason=str(error))
    return found


def routes(
    pipeline: Pipeline,
    settings: SyncSettings,
    guard: Guard | None = None,
    hydration: Hydration | None = None,
    tabs: Tabs | None = None,
) -> list[Route]:
    """Return the routes of the door; those for operators and backends only with a `guard` for them.

    `tabs` tells which versions open tabs show; a process that knows no gateways has none to tell.
    """
    found: list[Route] = []
    tolerances_s = {"paddle": settings.paddle_tolerance_s, "stripe": settings.stripe_tolerance_s}
    for name, adapter in pipeline.adapters.items():
        secrets = settings.signing_secrets(name)
        if secrets:
            door = _Door(pipeline, adapter, secrets, tolerances_s[name])
            # An ASGI app of its own: what Starlette wraps around functions costs a tenth of a delivery.
            found.append(Route(f"/webhooks/{name}", door, methods=["POST"]))
    if not found:
        _log.warning("webhooks_off", reason="no signing secrets are set")
    if guard is not None:
        desk = _Desk(pipeline, settings.environments)
        found.append(Route("/v1/parked", guarded(guard, desk.listing), methods=["GET"]))
        found.append(Route("/v1/parked/{event_id}/retry", guarded(guard, desk.retry), methods=["POST"]))
        found += tenants.routes(pipeline, settings.environments, guard, tabs)
        found += topics.routes(pipeline, settings.billed_environments, hydration, guard)
    return found


class _Door:
    """One provider's webhooks."""

    def __init__(self, pipeline: Pipeline, adapter: Adapter, secrets: tuple[Secret, ...], tolerance_s: float) -> None:
        self._pipeline = pipeline
        self._adapter = adapter
        self._secrets = secrets
        self._tolerance_s = tolerance_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one delivery."""
        response = await self._webhook(Request(scope, receive))
        await response(scope, receive, send)

    async def _webhook(self, request: Request) -> Response:
        try:
            body = await read_body(request)
            if body_self_check.asked(request.headers):
                return Response(status_code=204 if body_self_check.is_intact(request.headers, body) else 409)
            environment = self._environment(request, body)
            receipt = await self._pipeline.receive(self._adapter, body, environment)
            await self._pipeline.wait_durable()
        except Refusal as refusal:
            return refusal.response()
        except StoreError as error:
            logs.limited(
                "sync.billing.api.webhooks",
                "webhook_not_stored",
                level="error",
                provider=self._adapter.name,
                error=str(error),
            )
            return Refusal("store_unavailable", "the event could not be stored or used: send it again").response()
        return _receipt(receipt)

    def _environment(self, request: Request, body: bytes) -> str:
        verification = self._adapter.verify(body, request.headers, self._secrets, time.time(), self._tolerance_s)
        match verification:
            case Verified(environment):
                return environment
            case Malformed(problem):
                raise Refusal("signature_malformed", problem)
            case Invalid():
                logs.limited(
                    "sync.billing.api.webhooks", "signature_invalid", provider=self._adapter.name, bytes=len(body)
                )
                raise Refusal("signature_invalid", "no configured secret made this signature of these bytes")
            case Expired(skew_s):
                where = "behind" if skew_s > 0 else "ahead of"
                logs.limited(
                    "sync.billing.api.webhooks", "signature_expired", provider=self._adapter.name, skew_s=skew_s
                )
                raise Refusal(
                    "signature_expired",
                    f"the signature is genuine, but its time is {abs(skew_s)} s {where} this server's clock, which is "
                    f"beyond the tolerance of {self._tolerance_s:g} s: check the clock, or the delivery is a replay",
                )
            case _:
                assert_never(verification)


class _Desk:
    """The parked events, for operators."""

    def __init__(self, pipeline: Pipeline, environments: tuple[str, ...]) -> None:
        self._pipeline = pipeline
        self._environments = environments

    async def listing(self, request: Request) -> Response:
        """Answer one page: the longest parked first; `next` goes into `after` for the page that follows."""
        environment = self._asked(request)
        after, limit = _cursor(request.query_params.get("after")), page_limit(request.query_params.get("limit"))
        records = await self._pipeline.environment(environment).inbox.parked(after, limit)
        document: dict[str, object] = {"parked": [_shown(record, environment) for record in records]}
        if len(records) == limit:
            document["next"] = f"{records[-1].parked_us}.{records[-1].event_id}"
        return json_response(document)

    async def retry(self, request: Request) -> Response:
        """Answer what becomes of one parked event now."""
        receipt = await self._pipeline.retry(self._asked(request), request.path_params["event_id"])
        if receipt is None:
            raise Refusal("not_found", "no event of this id is parked")
        return _receipt(receipt)

    def _asked(self, request: Request) -> str:
        """Return the environment that is asked about. The tenant of an event may be unknown, so all are required."""
        environment = asked_environment(request, self._environments)
        require_all_tenants(request, environment)
        return environment


def _receipt(receipt: Receipt) -> Response:
    document: dict[str, object] = {"outcome": receipt.outcome}
    if receipt.version:
        document["version"] = receipt.version
    if receipt.reason:
        document["reason"] = receipt.reason
    return json_response(document)


def _shown(record: Record, environment: str) -> dict[str, object]:
    shown: dict[str, object] = {
        "event_id": record.event_id,
        "env": environment,
        "provider": record.provider,
        "type": record.type,
        "reason": record.reason,
        "waits_on": list(record.waits),
        "received_at": instants.text(record.received_us * 1000),
        "parked_at": instants.text(record.parked_us * 1000),
        "attempts": record.attempts,
    }
    return shown | ({"topic": record.topic} if record.topic else {})


def _cursor(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    parked_us, dot, event_id = text.partition(".")
    if not dot or not (parked_us.isascii() and parked_us.isdigit()) or len(parked_us) > 16:
        raise Refusal("request_invalid", "after is not a cursor: pass what `next` said")
    return int(parked_us), event_id
