"""The Paddle API's routes and envelopes. The Bearer key of a request selects the environment."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from functools import partial
from uuid import uuid4

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sync.simulator.paddle import api, entities, reads
from sync.simulator.paddle.entities import Body
from sync.simulator.provider import Provider
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import Json

BODY_MAX_BYTES = 65_536


def routes(provider: Provider, api_keys: Mapping[str, Sequence[str]]) -> list[Route]:
    """Return the routes. `api_keys`: environment -> its keys."""
    paddle = _Api(provider, api_keys)
    return [
        Route("/subscriptions", partial(paddle.list, reads.list_subscriptions)),
        Route("/subscriptions/{id}", paddle.get_subscription),
        Route("/customers/{id}", paddle.get_customer),
        Route("/subscriptions/{id}", partial(paddle.apply, api.update), methods=["PATCH"]),
        Route("/subscriptions/{id}/preview", paddle.preview, methods=["PATCH"]),
        *(
            Route(f"/subscriptions/{{id}}/{name}", partial(paddle.apply, operation), methods=["POST"])
            for name, operation in api.OPERATIONS.items()
        ),
        Route("/transactions", partial(paddle.list, reads.list_transactions)),
        Route("/transactions/{id}", paddle.get_transaction),
        Route("/adjustments", partial(paddle.list, reads.list_adjustments)),
        Route("/events", partial(paddle.list, reads.list_events)),
    ]


async def read_json(request: Request) -> Json:
    """Return the request's JSON; None if it has no body.

    Raises:
        ApiError: the body is too large, or not JSON.
    """
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > BODY_MAX_BYTES:
            raise ApiError("request_body_too_large", f"The request body is larger than {BODY_MAX_BYTES} bytes.")
    try:
        return orjson.loads(raw) if raw else None
    except orjson.JSONDecodeError as error:
        raise ApiError("invalid_json") from error


def error_document(refusal: ApiError, request_id: str) -> Body:
    """Return an error in Paddle's envelope."""
    section = "subscriptions" if refusal.code.startswith("subscription_") else "shared"
    body: Body = {
        "type": "request_error",
        "code": refusal.code,
        "detail": refusal.detail,
        "documentation_url": f"https://developer.paddle.com/errors/{section}/{refusal.code}",
    }
    if refusal.fields:
        body["errors"] = [{"field": field, "message": message} for field, message in refusal.fields.items()]
    return {"error": body, "meta": {"request_id": request_id}}


class _Api:
    """The handlers."""

    def __init__(self, provider: Provider, api_keys: Mapping[str, Sequence[str]]) -> None:
        self._provider = provider
        self._keys = tuple((env, key.encode()) for env, keys in api_keys.items() for key in keys)

    async def list(self, listing: reads.Listing, request: Request) -> JSONResponse:
        return _page(request, listing(self._provider.world, self._env(request), request.query_params))

    async def get_subscription(self, request: Request) -> JSONResponse:
        found = api.own(self._provider.world, self._env(request), request.path_params["id"])
        includes = request.query_params.get("include", "").split(",")
        return _answer(entities.api_subscription(found, includes))

    async def get_customer(self, request: Request) -> JSONResponse:
        return _answer(reads.customer(self._provider.world, self._env(request), request.path_params["id"]))

    async def get_transaction(self, request: Request) -> JSONResponse:
        world, env, query = self._provider.world, self._env(request), request.query_params
        return _answer(reads.transaction(world, env, request.path_params["id"], query))

    async def preview(self, request: Request) -> JSONResponse:
        offers = self._provider.offers(self._env(request))
        body = await read_json(request)
        provider = self._provider
        return _answer(api.preview(provider.world, offers, request.path_params["id"], body, provider.now_us()))

    async def apply(self, operation: api.Operation, request: Request) -> JSONResponse:
        offers = self._provider.offers(self._env(request))
        body = await read_json(request)
        subscription_id = request.path_params["id"]
        outcome, _ = await self._provider.change(lambda turn: operation(turn, offers, subscription_id, body))
        return _answer(entities.api_subscription(outcome.subscription))

    def _env(self, request: Request) -> str:
        """Return the environment of the request's key.

        Raises:
            ApiError: the key is missing or unknown.
        """
        header = request.headers.get("authorization")
        if header is None:
            raise ApiError("authentication_missing")
        scheme, _, key = header.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError("authentication_malformed")
        for env, known in self._keys:
            if hmac.compare_digest(key.encode(), known):
                return env
        raise ApiError("forbidden")


def _answer(data: Json, **meta: Json) -> JSONResponse:
    """Return an entity or a list in Paddle's envelope."""
    return JSONResponse({"data": data, "meta": {"request_id": str(uuid4()), **meta}})


def _page(request: Request, page: reads.Page) -> JSONResponse:
    pagination: Body = {
        "per_page": page.per_page,
        "next": f"{request.url.replace(query=page.next_query)}",
        "has_more": page.has_more,
        "estimated_total": page.total,
    }
    return _answer([*page.data], pagination=pagination)
