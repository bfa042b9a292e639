"""The Paddle API's routes. A request carries a Bearer key, and the key decides the environment."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from functools import partial
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sync.simulator.http import json_response, read_json
from sync.simulator.paddle import api, entities, envelopes
from sync.simulator.provider import Provider
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import Json, World
from sync.simulator.world.offers import Offers
from sync.simulator.world.turn import NewId, Outcome


def routes(provider: Provider, api_keys: Mapping[str, Sequence[str]]) -> list[Route]:
    """Return the routes. `api_keys`: environment -> its keys."""
    paddle = _Api(provider, api_keys)
    return [
        Route("/subscriptions", paddle.list_subscriptions),
        Route("/subscriptions/{id}", paddle.get_subscription),
        Route("/subscriptions/{id}", paddle.update, methods=["PATCH"]),
        Route("/subscriptions/{id}/preview", paddle.preview, methods=["PATCH"]),
        Route("/subscriptions/{id}/{operation}", paddle.operate, methods=["POST"]),
        Route("/events", paddle.list_events),
    ]


class _Api:
    """The handlers."""

    def __init__(self, provider: Provider, api_keys: Mapping[str, Sequence[str]]) -> None:
        self._provider = provider
        self._keys = tuple((env, key.encode()) for env, keys in api_keys.items() for key in keys)

    async def list_subscriptions(self, request: Request) -> Response:
        return _page(request, api.list_subscriptions(self._provider.world, self._env(request), request.query_params))

    async def list_events(self, request: Request) -> Response:
        return _page(request, api.list_events(self._provider.world, self._env(request), request.query_params))

    async def get_subscription(self, request: Request) -> Response:
        found = api.own(self._provider.world, self._env(request), request.path_params["id"])
        includes = request.query_params.get("include", "").split(",")
        return _answer(entities.api_subscription(found, includes))

    async def update(self, request: Request) -> Response:
        return await self._apply(request, api.update)

    async def operate(self, request: Request) -> Response:
        operation = api.OPERATIONS.get(request.path_params["operation"])
        if operation is None:
            self._env(request)
            raise ApiError("not_found")
        return await self._apply(request, operation)

    async def preview(self, request: Request) -> Response:
        offers = self._provider.offers(self._env(request))
        body = await read_json(request)
        provider = self._provider
        return _answer(api.preview(provider.world, offers, request.path_params["id"], body, provider.now_us()))

    async def _apply(self, request: Request, operation: api.Operation) -> Response:
        offers = self._provider.offers(self._env(request))
        body = await read_json(request)
        outcome, _ = await self._provider.change(
            partial(_operated, operation, offers, request.path_params["id"], body),
        )
        return _answer(entities.api_subscription(outcome.subscription))

    def _env(self, request: Request) -> str:
        """The environment whose key the request carries.

        Raises:
            ApiError: it carries none, or one that is not known.
        """
        header = request.headers.get("authorization")
        if header is None:
            raise ApiError("authentication_missing")
        scheme, _, key = header.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError("authentication_malformed")
        found = [env for env, known in self._keys if hmac.compare_digest(key.encode(), known)]
        if not found:
            raise ApiError("forbidden")
        return found[0]


def _operated(
    operation: api.Operation, offers: Offers, subscription_id: str, body: Json, world: World, now: int, new_id: NewId
) -> Outcome:
    return operation(world, offers, subscription_id, body, now, new_id)


def _answer(data: Json) -> Response:
    return json_response(envelopes.answer(data, str(uuid4())))


def _page(request: Request, page: api.Page) -> Response:
    next_url = f"{request.url.replace(query=page.next_query)}"
    return json_response(envelopes.page(page.data, str(uuid4()), page.per_page, next_url, page.has_more, page.total))
