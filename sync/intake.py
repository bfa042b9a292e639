"""The door that billing webhooks come in by: verifies the raw bytes, hands them to the pipeline, answers.

It trusts nothing before the signature and understands nothing after it. 200 is said only of what is stored; the reasons
for anything else are problem documents (RFC 9457) with a stable `code`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import assert_never

import orjson
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from sync.billing import instants
from sync.billing.inbox import Record
from sync.billing.pipeline import Pipeline, Receipt
from sync.billing.providers import Adapter, Expired, Invalid, Malformed, Verified
from sync.billing.providers.paddle import Paddle
from sync.billing.shelf import Shelf
from sync.errors import SyncError
from sync.settings import SyncSettings
from sync.state.store import Store, StoreError

BODY_MAX_BYTES = 65_536
BODY_TIMEOUT_S = 10.0
"""How long a delivery may take to send its whole body."""

RETRY_AFTER_S = 5
"""What the provider is told to wait after a 503."""

PAGE_DEFAULT, PAGE_MAX = 100, 500
"""How many parked events one answer lists."""

STATUSES = {
    "signature_malformed": 400,
    "disconnected": 400,
    "signature_invalid": 403,
    "signature_expired": 403,
    "not_found": 404,
    "body_timeout": 408,
    "body_too_large": 413,
    "request_invalid": 422,
    "store_unavailable": 503,
}
"""Every code this door answers with, and its HTTP status."""

Guard = Callable[[Request], Awaitable[Response | None]]
"""Returns None to let a request in, or the answer that refuses it."""

_log = structlog.get_logger("sync.intake")


class Refusal(SyncError):
    """A request that is refused: `code` is one of STATUSES, `detail` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    def response(self) -> Response:
        """Return the problem document."""
        status = STATUSES[self.code]
        document = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "code": self.code,
            "detail": self.detail,
        }
        headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
        return Response(orjson.dumps(document), status, headers, "application/problem+json")


async def pipeline(store: Store, settings: SyncSettings) -> Pipeline:
    """Return the pipeline that `settings` describe, on an open store.

    Raises:
        CatalogError: the catalog cannot be used.
    """
    shelf = await asyncio.to_thread(Shelf, settings.catalog_path)
    paddle = Paddle()
    return Pipeline(store, shelf, {paddle.name: paddle})


def routes(pipeline: Pipeline, settings: SyncSettings, guard: Guard | None = None) -> list[Route]:
    """Return the routes of the door; those that show or retry parked events only with a `guard` for them."""
    found: list[Route] = []
    if settings.paddle_secrets:
        door = _Door(pipeline, pipeline.adapters["paddle"], settings)
        found.append(Route("/webhooks/paddle", door.webhook, methods=["POST"]))
    else:
        _log.warning("paddle_webhooks_off", reason="PLANWIRE_PADDLE_SECRETS is not set")
    if guard is not None:
        desk = _Desk(pipeline, settings.environments, guard)
        found.append(Route("/v1/parked", desk.listing, methods=["GET"]))
        found.append(Route("/v1/parked/{event_id}/retry", desk.retry, methods=["POST"]))
    return found


class _Door:
    """One provider's webhooks."""

    def __init__(self, pipeline: Pipeline, adapter: Adapter, settings: SyncSettings) -> None:
        self._pipeline = pipeline
        self._adapter = adapter
        self._secrets = settings.signing_secrets
        self._tolerance_s = settings.paddle_tolerance_s

    async def webhook(self, request: Request) -> Response:
        """Answer one delivery."""
        try:
            body = await _body(request)
            environment = self._environment(request, body)
            receipt = await self._pipeline.receive(self._adapter, body, environment)
            await self._pipeline.store.wait_durable()
        except Refusal as refusal:
            return refusal.response()
        except StoreError as error:
            _log.error("webhook_not_stored", provider=self._adapter.name, error=str(error))
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
                raise Refusal("signature_invalid", "no configured secret made this signature of these bytes")
            case Expired(skew_s):
                where = "behind" if skew_s > 0 else "ahead of"
                _log.warning("signature_expired", provider=self._adapter.name, skew_s=skew_s)
                raise Refusal(
                    "signature_expired",
                    f"the signature is genuine, but its time is {abs(skew_s)} s {where} this server's clock, which is "
                    f"beyond the tolerance of {self._tolerance_s:g} s: check the clock, or the delivery is a replay",
                )
            case _:
                assert_never(verification)


class _Desk:
    """The parked events, for operators."""

    def __init__(self, pipeline: Pipeline, environments: tuple[str, ...], guard: Guard) -> None:
        self._pipeline = pipeline
        self._environments = environments
        self._guard = guard

    async def listing(self, request: Request) -> Response:
        """Answer one page: the longest parked first; `next` goes into `after` for the page that follows."""
        refused = await self._guard(request)
        if refused is not None:
            return refused
        try:
            environment = self._asked(request)
            after, limit = _cursor(request.query_params.get("after")), _limit(request.query_params.get("limit"))
            records = await self._pipeline.environment(environment).inbox.parked(after, limit)
        except Refusal as refusal:
            return refusal.response()
        except StoreError:
            return Refusal("store_unavailable", "the store did not answer").response()
        document: dict[str, object] = {"parked": [_shown(record, environment) for record in records]}
        if len(records) == limit:
            document["next"] = f"{records[-1].parked_us}.{records[-1].event_id}"
        return _json(document)

    async def retry(self, request: Request) -> Response:
        """Answer what becomes of one parked event now."""
        refused = await self._guard(request)
        if refused is not None:
            return refused
        try:
            receipt = await self._pipeline.retry(self._asked(request), request.path_params["event_id"])
        except Refusal as refusal:
            return refusal.response()
        except StoreError:
            return Refusal("store_unavailable", "the store did not answer").response()
        if receipt is None:
            return Refusal("not_found", "no event of this id is parked").response()
        return _receipt(receipt)

    def _asked(self, request: Request) -> str:
        environment = request.query_params.get("env", self._environments[0])
        if environment not in self._environments:
            raise Refusal("request_invalid", f"env must be one of {', '.join(self._environments)}")
        return environment


async def _body(request: Request) -> bytes:
    """Return the raw body.

    Raises:
        Refusal: it is too large, comes too slowly, or its sender went away.
    """
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > BODY_MAX_BYTES:
        raise Refusal("body_too_large", f"a webhook has at most {BODY_MAX_BYTES} bytes")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > BODY_MAX_BYTES:
                    raise Refusal("body_too_large", f"a webhook has at most {BODY_MAX_BYTES} bytes")
                chunks.append(chunk)
    except TimeoutError:
        raise Refusal("body_timeout", f"the body took longer than {BODY_TIMEOUT_S:g} s") from None
    except ClientDisconnect:
        raise Refusal("disconnected", "the sender went away") from None
    return b"".join(chunks)


def _receipt(receipt: Receipt) -> Response:
    document: dict[str, object] = {"outcome": receipt.outcome}
    if receipt.version:
        document["version"] = receipt.version
    if receipt.reason:
        document["reason"] = receipt.reason
    return _json(document)


def _json(document: object) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


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


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_DEFAULT
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:6]) <= PAGE_MAX:
        raise Refusal("request_invalid", f"limit must be a number from 1 to {PAGE_MAX}")
    return int(text)
