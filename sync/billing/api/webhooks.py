"""Webhooks: verifies the raw bytes of a delivery, passes them to the services, and answers.

200 means that the event is stored. Any other answer is a problem document (RFC 9457) with a stable `code`.

A signature covers bytes: middleware that parses and re-writes bodies breaks every signature, as if all webhooks were
forged. So `self_check` posts a body that re-writing would change through the finished app.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable

import httpx2
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sync.billing.api.bodies import answers
from sync.billing.api.operations import RETRY_AFTER_S, result_document
from sync.billing.providers import registry
from sync.billing.providers.settings import ProviderSettings
from sync.billing.providers.spec import ProviderSpec
from sync.billing.providers.webhook_adapter import Expired, Invalid, Malformed, Verified, WebhookAdapter
from sync.billing.services.wiring import BillingServices
from sync.core.errors import SyncError
from sync.http.body import BODY_PROBLEMS, json_response, read_body
from sync.http.endpoint import Count, Handler, not_counted, route
from sync.http.openapi import VERSION, Answer, Operation
from sync.http.problem import Problem
from sync.process import logs
from sync.settings import SyncSettings
from sync.store.models import StoreError

_LOGGER = "sync.billing.api.webhooks"
_log = structlog.get_logger(_LOGGER)

_CHECK_HEADER = "planwire-self-check"
_CHECK_BODY = b'{ "b" : 1.0,\t"a":"\\u00e9\\/", "b":2,\n "n":1E2 }\r\n'
"""A body whose order, spaces, repeated key, escapes, number forms and line ends no serialiser preserves."""

_NONCE = secrets.token_hex(16)

WrapWebhook = Callable[[str, Handler], Handler]
"""(provider, handler of its webhooks) -> the wrapped handler."""


def webhook_operation(spec: ProviderSpec) -> Operation:
    """Return the declaration of a provider's webhooks."""
    return Operation(
        "POST",
        f"/webhooks/{spec.name}",
        f"{spec.name}Webhook",
        f"Take one event that {spec.title} signed. 200 once it is stored, whatever became of it.",
        {200: Answer("It is stored.", answers.Result, VERSION)},
        ("signature_malformed", "signature_invalid", "signature_expired", *BODY_PROBLEMS, "store_unavailable"),
        (f"{spec.name}Signature",),
        body={"application/json": {"type": "object", "description": f"As {spec.title} sends it."}},
        is_body_required=False,
    )  # fmt: skip


def webhook_security(spec: ProviderSpec) -> dict[str, dict[str, str]]:
    """Return the OpenAPI security scheme that the declaration names."""
    header = {"type": "apiKey", "in": "header", "name": spec.signature_header, "description": spec.signature_format}
    return {f"{spec.name}Signature": header}


def routes(
    services: BillingServices, settings: SyncSettings, count: Count = not_counted, wrap: WrapWebhook | None = None
) -> list[Route]:
    """Return one route for each provider that has signing secrets."""
    found: list[Route] = []
    for name, own in settings.providers.items():
        if own.secrets:
            handler = _handler(services, services.adapters[name], own, settings.webhook_body_max_bytes)
            operation = webhook_operation(registry.PROVIDERS[name])
            made = route(operation.path, operation.method, wrap(name, handler) if wrap else handler, count)
            # Providers follow no redirect, and a base URL that ends in a slash makes doubled ones.
            made.path_regex = re.compile(operation.path.replace("/", "/+") + r"/*\Z")
            found.append(made)
    if not found:
        _log.warning("webhooks_off", reason="no signing secrets are set")
    return found


def _handler(
    services: BillingServices, adapter: WebhookAdapter, settings: ProviderSettings, body_max_bytes: int
) -> Handler:
    """Return the handler of one provider's webhooks."""
    secrets = settings.signing_secrets

    async def answer(request: Request) -> Response:
        body = await read_body(request, body_max_bytes)
        nonce, _, digest = request.headers.get(_CHECK_HEADER, "").partition(" ")
        if hmac.compare_digest(nonce.encode(), _NONCE.encode()):
            return Response(status_code=204 if digest == hashlib.sha256(body).hexdigest() else 409)
        verification = adapter.verify(body, request.headers, secrets, time.time(), settings.tolerance_s)
        if not isinstance(verification, Verified):
            raise _rejection(verification, adapter.name, len(body), settings.tolerance_s)
        try:
            environment, event_id = verification.environment, verification.event_id
            result = await services.ingest.receive(adapter, body, environment, event_id)
            await services.committer.wait_durable()
        except StoreError as error:
            logs.limited(_LOGGER, "webhook_not_stored", level="error", provider=adapter.name, error=str(error))
            detail = "the event could not be stored or used: send it again"
            raise Problem("store_unavailable", detail, headers={"Retry-After": RETRY_AFTER_S}) from None
        return json_response(result_document(result))

    return answer


def _rejection(why: Malformed | Invalid | Expired, provider: str, size: int, tolerance_s: float) -> Problem:
    """Return the problem of a delivery whose signature is malformed, invalid or expired."""
    match why:
        case Malformed(problem):
            return Problem("signature_malformed", problem)
        case Invalid():
            logs.limited(_LOGGER, "signature_invalid", provider=provider, bytes=size)
            return Problem("signature_invalid", "no configured secret made this signature of these bytes")
        case Expired(skew_s):
            where = "behind" if skew_s > 0 else "ahead of"
            logs.limited(_LOGGER, "signature_expired", provider=provider, skew_s=skew_s)
            return Problem(
                "signature_expired",
                f"the signature is genuine, but its time is {abs(skew_s)} s {where} this server's clock, which is "
                f"beyond the tolerance of {tolerance_s:g} s: check the clock, or the delivery is a replay",
            )


class SelfCheckError(SyncError):
    """The app does not pass webhook bodies to `path` unchanged; `status` is its answer."""

    def __init__(self, path: str, status: int) -> None:
        super().__init__(
            f"a webhook's bytes do not reach {path} unchanged (it answered {status}): some middleware reads"
            " and re-writes bodies, and every signature would fail; let it pass this path by"
        )


async def self_check(app: ASGIApp, path: str) -> None:
    """Check that a body posted to `path` of `app` arrives there unchanged.

    Raises:
        SelfCheckError: it does not.
    """
    headers = {"Content-Type": "application/json", _CHECK_HEADER: f"{_NONCE} {hashlib.sha256(_CHECK_BODY).hexdigest()}"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1") as client:
        response = await client.post(path, content=_CHECK_BODY, headers=headers)
    if response.status_code != 204:
        raise SelfCheckError(path, response.status_code)
