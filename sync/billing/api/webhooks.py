"""Webhooks: verifies the raw bytes of a delivery, hands them to the pipeline, answers.

200 means that the event is stored. Everything else is a problem document (RFC 9457) with a stable `code`.
"""

from __future__ import annotations

import time
from typing import assert_never

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sync.billing.api import body_self_check
from sync.billing.api.receipts import receipt_response
from sync.billing.providers.base import Expired, Invalid, Malformed, Secret, Verified, WebhookAdapter
from sync.billing.services.ingest import Pipeline
from sync.http.problem import Refusal, read_body
from sync.process import logs
from sync.settings import SyncSettings
from sync.store.store import StoreError

_LOGGER = "sync.billing.api.webhooks"
_log = structlog.get_logger(_LOGGER)


def routes(pipeline: Pipeline, settings: SyncSettings) -> list[Route]:
    """Return one route for each provider that has signing secrets."""
    found: list[Route] = []
    tolerances_s = {"paddle": settings.paddle_tolerance_s, "stripe": settings.stripe_tolerance_s}
    for name, adapter in pipeline.adapters.items():
        secrets = settings.signing_secrets(name)
        if secrets:
            # An ASGI app, not a function: Starlette's wrapper around functions costs a tenth of a delivery.
            endpoint = _WebhookEndpoint(pipeline, adapter, secrets, tolerances_s[name])
            found.append(Route(f"/webhooks/{name}", endpoint, methods=["POST"]))
    if not found:
        _log.warning("webhooks_off", reason="no signing secrets are set")
    return found


class _WebhookEndpoint:
    """One provider's webhooks."""

    def __init__(
        self, pipeline: Pipeline, adapter: WebhookAdapter, secrets: tuple[Secret, ...], tolerance_s: float
    ) -> None:
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
            logs.limited(_LOGGER, "webhook_not_stored", level="error", provider=self._adapter.name, error=str(error))
            return Refusal("store_unavailable", "the event could not be stored or used: send it again").response()
        return receipt_response(receipt)

    def _environment(self, request: Request, body: bytes) -> str:
        """Return the environment whose secret signed `body`.

        Raises:
            Refusal: no secret did, or too long ago.
        """
        verification = self._adapter.verify(body, request.headers, self._secrets, time.time(), self._tolerance_s)
        match verification:
            case Verified(environment):
                return environment
            case Malformed(problem):
                raise Refusal("signature_malformed", problem)
            case Invalid():
                logs.limited(_LOGGER, "signature_invalid", provider=self._adapter.name, bytes=len(body))
                raise Refusal("signature_invalid", "no configured secret made this signature of these bytes")
            case Expired(skew_s):
                where = "behind" if skew_s > 0 else "ahead of"
                logs.limited(_LOGGER, "signature_expired", provider=self._adapter.name, skew_s=skew_s)
                raise Refusal(
                    "signature_expired",
                    f"the signature is genuine, but its time is {abs(skew_s)} s {where} this server's clock, which is "
                    f"beyond the tolerance of {self._tolerance_s:g} s: check the clock, or the delivery is a replay",
                )
            case _:
                assert_never(verification)
