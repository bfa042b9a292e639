"""The simulator's HTTP shell: the Paddle API under `/`, the control routes under `/simulate`. Thin: it reads requests,
checks who asks, and lets `api`, `actions` and `provider` decide.

The API asks for a Bearer key, and the key decides the environment. The control routes are for the machine's own user:
loopback names only (so no rebound DNS name reaches them) and JSON bodies only (so no web page's form does).
"""

from __future__ import annotations

import hmac
from asyncio import TaskGroup, timeout
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from uuid import uuid4

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sync.simulator.courier import TIMEOUT_S, Delivery
from sync.simulator.paddle import api, entities
from sync.simulator.paddle.entities import Body
from sync.simulator.provider import DiskError, Provider, QueueFullError
from sync.simulator.scenarios import scenario
from sync.simulator.world import actions
from sync.simulator.world.actions import ControlError, Params, Scene
from sync.simulator.world.errors import Refusal
from sync.simulator.world.model import Json, Subscription, World
from sync.simulator.world.offers import Offers
from sync.simulator.world.rules import NewId, Outcome

BODY_MAX_BYTES = 65_536
SEED_MAX = 2**31

WAIT_S = 2 * TIMEOUT_S
"""How long an action with `wait` waits for each first attempt."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""The host names under which the simulator answers."""


def create_app(provider: Provider, api_keys: Mapping[str, Sequence[str]]) -> Starlette:
    """The application. `api_keys`: environment -> its keys; without any, the API answers nobody.

    While its lifespan runs, due changes happen and events are delivered.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with TaskGroup() as tasks:
            running = [tasks.create_task(provider.courier.run()), tasks.create_task(provider.run())]
            yield
            for task in running:
                task.cancel()

    shell = _Shell(provider, api_keys)
    app = Starlette(
        routes=[
            Route("/healthz", shell.healthz),
            Route("/simulate", shell.vocabulary),
            Route("/simulate/subscriptions", shell.subscriptions),
            Route("/simulate/deliveries", shell.deliveries),
            Route("/simulate/replay", shell.replay, methods=["POST"]),
            Route("/simulate/scenarios/{name}", shell.play, methods=["POST"]),
            Route("/simulate/{action}", shell.act, methods=["POST"]),
            Route("/subscriptions", shell.list_subscriptions),
            Route("/subscriptions/{id}", shell.get_subscription),
            Route("/subscriptions/{id}", shell.update, methods=["PATCH"]),
            Route("/subscriptions/{id}/preview", shell.preview, methods=["PATCH"]),
            Route("/subscriptions/{id}/{operation}", shell.operate, methods=["POST"]),
            Route("/events", shell.list_events),
        ],
        exception_handlers={Refusal: _refused, ControlError: _problem, HTTPException: _no_route}
        | dict.fromkeys((QueueFullError, DiskError), _unavailable),
        lifespan=lifespan,
    )
    app.add_middleware(_LoopbackOnly)
    return app


class _Shell:
    """The routes."""

    def __init__(self, provider: Provider, api_keys: Mapping[str, Sequence[str]]) -> None:
        self._provider = provider
        self._keys = tuple((env, key.encode()) for env, keys in api_keys.items() for key in keys)

    async def healthz(self, request: Request) -> Response:
        return _json({"status": "ok", "subscriptions": len(self._provider.world.subscriptions)})

    # The Paddle API.

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
            raise Refusal("not_found")
        return await self._apply(request, operation)

    async def preview(self, request: Request) -> Response:
        offers = self._provider.offers(self._env(request))
        body = await _body(request)
        provider = self._provider
        return _answer(api.preview(provider.world, offers, request.path_params["id"], body, provider.now_us()))

    async def _apply(self, request: Request, operation: api.Operation) -> Response:
        offers = self._provider.offers(self._env(request))
        body = await _body(request)
        outcome, _ = await self._provider.change(
            partial(_operated, operation, offers, request.path_params["id"], body),
        )
        return _answer(entities.api_subscription(outcome.subscription))

    def _env(self, request: Request) -> str:
        """The environment whose key the request carries.

        Raises:
            Refusal: it carries none, or one that is not known.
        """
        header = request.headers.get("authorization")
        if header is None:
            raise Refusal("authentication_missing")
        scheme, _, key = header.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Refusal("authentication_malformed")
        found = [env for env, known in self._keys if hmac.compare_digest(key.encode(), known)]
        if not found:
            raise Refusal("forbidden")
        return found[0]

    # The control routes.

    async def vocabulary(self, request: Request) -> Response:
        """What can be asked for."""
        common = sorted(actions.COMMON)
        return _json(
            {
                "environments": list(self._provider.envs),
                "actions": {name: [*common, *sorted(takes)] for name, (_, takes) in actions.ACTIONS.items()},
            }
        )

    async def subscriptions(self, request: Request) -> Response:
        """The subscriptions of a tenant, or of all, in the order they were made."""
        tenant, env = request.query_params.get("tenant"), request.query_params.get("env")
        chosen = [
            subscription
            for subscription in self._provider.world.subscriptions.values()
            if tenant in (None, subscription.tenant) and env in (None, subscription.env)
        ]
        return _json({"subscriptions": [_summary(subscription) for subscription in chosen]})

    async def deliveries(self, request: Request) -> Response:
        """The newest attempts, oldest first, and how many deliveries wait."""
        event_id = request.query_params.get("event_id")
        courier = self._provider.courier
        attempts: list[Json] = [asdict(attempt) for attempt in courier.log if event_id in (None, attempt.event_id)]
        return _json({"webhook_url": courier.webhook_url, "waiting": len(courier), "attempts": attempts})

    async def replay(self, request: Request) -> Response:
        """An event delivered again, under a new notification id, as Paddle's replay does."""
        params = await _params(request)
        event_id = params.text("event_id")
        event = next((event for event in self._provider.world.events if event.id == event_id), None)
        if event is None:
            raise ControlError(404, "no_event", f"no event {event_id} is remembered; GET /events lists them")
        delivery = await self._provider.replay(event)
        body: Body = {"event_ids": [event.id], "notification_id": delivery.notification_id}
        if params.flag("wait", False):
            body["deliveries"] = [await _tried(delivery)]
        return _json(body)

    async def play(self, request: Request) -> Response:
        """A bundled scenario, with histories of tenants of its own: what was sent, answered, and found wrong."""
        name = request.path_params["name"]
        if name not in scenario.bundled():
            raise ControlError(404, "no_scenario", f"no scenario {name}; there are: {', '.join(scenario.bundled())}")
        params = await _params(request)
        try:
            report = await self._provider.play(name, params.number("seed", SEED_MAX) or 1)
        except scenario.ScenarioError as error:
            raise ControlError(409, "scenario_unusable", str(error)) from error
        return _json({"ok": report.is_ok, "report": list[Json](report.lines())})

    async def act(self, request: Request) -> Response:
        action = request.path_params["action"]
        params = await _params(request)
        tenant = params.text("tenant")
        if tenant is None:
            raise ControlError(400, "invalid_parameter", "tenant is required: whose subscription is it about?")
        offers = self._provider.offers(self._control_env(params))
        waits, delivers = params.flag("wait", False), params.flag("deliver", True)
        outcome, deliveries = await self._provider.change(
            partial(_acted, action, offers, tenant, params),
            deliver=delivers,
        )
        body: Body = {
            "subscription_id": outcome.subscription.id,
            "status": outcome.subscription.status,
            "event_ids": [event.id for event in outcome.events],
            "events": [{"event_id": event.id, "event_type": event.type} for event in outcome.events],
        }
        if waits:
            body["deliveries"] = [await _tried(delivery) for delivery in deliveries]
        return _json(body)

    def _control_env(self, params: Params) -> str:
        env = params.text("env") or ("live" if "live" in self._provider.envs else self._provider.envs[0])
        if env not in self._provider.envs:
            known = ", ".join(self._provider.envs)
            raise ControlError(400, "unknown_environment", f"no signing secret for {env}; there are some for: {known}")
        return env


class _LoopbackOnly:
    """Refuses requests that name a host other than this machine: a rebound DNS name is how a web page would get in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Request(scope).headers.get("host", "")
            name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
            if name.lower() not in LOOPBACK:
                problem = ControlError(403, "not_loopback", "the simulator answers on this machine's own names only")
                await (_problem_response(problem))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _operated(
    operation: api.Operation, offers: Offers, subscription_id: str, body: Json, world: World, now: int, new_id: NewId
) -> Outcome:
    return operation(world, offers, subscription_id, body, now, new_id)


def _acted(
    action: str, offers: Offers, tenant: str, params: Params, world: World, now_us: int, new_id: NewId
) -> Outcome:
    return actions.act(action, Scene(world, offers, tenant, params, now_us, new_id))


async def _tried(delivery: Delivery) -> Json:
    """The first attempt of a delivery; without one in time, the delivery as it waits."""
    with suppress(TimeoutError):
        async with timeout(WAIT_S):
            await delivery.tried.wait()
    if delivery.last is None:
        return {"event_id": delivery.event.id, "notification_id": delivery.notification_id, "state": "waiting"}
    return asdict(delivery.last)


def _summary(subscription: Subscription) -> Body:
    return {"tenant": subscription.tenant, "env": subscription.env, **entities.subscription(subscription)}


async def _body(request: Request) -> Json:
    """The request's JSON; None where it has no body.

    Raises:
        Refusal: it is too large, or not JSON.
    """
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > BODY_MAX_BYTES:
            raise Refusal("request_body_too_large", f"The request body is larger than {BODY_MAX_BYTES} bytes.")
    try:
        return orjson.loads(raw) if raw else None
    except orjson.JSONDecodeError as error:
        raise Refusal("invalid_json") from error


async def _params(request: Request) -> Params:
    """The parameters of a control action."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ControlError(415, "not_json", "send the parameters as JSON, with Content-Type: application/json")
    body = await _body(request)
    if not isinstance(body, dict):
        raise ControlError(400, "invalid_parameter", 'the parameters must be a JSON object such as {"tenant": "acme"}')
    return Params(body)


def _json(body: Json, status: int = 200, media_type: str = "application/json") -> Response:
    return Response(orjson.dumps(body), status, media_type=media_type)


def _answer(data: Json) -> Response:
    return _json(entities.answer(data, str(uuid4())))


def _page(request: Request, page: api.Page) -> Response:
    next_url = f"{request.url.replace(query=page.next_query)}"
    return _json(entities.page(page.data, str(uuid4()), page.per_page, next_url, page.has_more, page.total))


def _is_control(request: Request) -> bool:
    return request.url.path == "/simulate" or request.url.path.startswith("/simulate/")


def _problem_response(problem: ControlError) -> Response:
    body: Body = {"title": problem.code.replace("_", " "), "status": problem.status, "detail": problem.detail}
    return _json(body | {"code": problem.code}, problem.status, "application/problem+json")


def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ControlError)
    return _problem_response(error)


def _refused(request: Request, error: Exception) -> Response:
    """A refusal in the shape of whoever asked: the control routes answer problems, the API Paddle's errors."""
    assert isinstance(error, Refusal)
    if _is_control(request):
        # 409: the request is fine, the subscription is not in a state for it.
        status = 409 if error.status == 400 and error.code.startswith("subscription_") else error.status
        return _problem_response(ControlError(status, error.code, str(error)))
    return _json(entities.error(error, str(uuid4())), error.status)


def _unavailable(request: Request, error: Exception) -> Response:
    if not _is_control(request):
        return _json(entities.error(Refusal("internal_error", str(error)), str(uuid4())), 503)
    code = "queue_full" if isinstance(error, QueueFullError) else "disk"
    return _problem_response(ControlError(503, code, str(error)))


def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if _is_control(request):
        wrong_method = error.status_code == 405
        detail = "use POST with JSON parameters" if wrong_method else "no such route; GET /simulate lists the actions"
        return _problem_response(ControlError(error.status_code, "no_route", detail))
    refusal = Refusal("not_found", f"no route {request.method} {request.url.path} in the simulator")
    return _json(entities.error(refusal, str(uuid4())), error.status_code)
