"""The simulator's HTTP application: the Paddle API under `/`, the control routes under `/simulate`.

The control routes start actions, and show what has happened. They are for the machine's own user. The application
answers under loopback names only, against DNS rebinding. The control routes take JSON bodies only, against forms of web
pages.
"""

from __future__ import annotations

from asyncio import TaskGroup, timeout
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Annotated
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sync.simulator.answers import offer_shown, subject_shown
from sync.simulator.courier import TIMEOUT_S, Delivery
from sync.simulator.paddle import entities, routes
from sync.simulator.paddle.entities import Body
from sync.simulator.paddle.routes import error_document, read_json
from sync.simulator.provider import Provider
from sync.simulator.scenarios.scenario import BUNDLED, ScenarioError
from sync.simulator.world import actions
from sync.simulator.world.errors import ApiError, ControlError, invalid_parameter
from sync.simulator.world.model import Json
from sync.simulator.world.parameters import COMMON, validated
from sync.simulator.world.scene import Scene

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Host names that the simulator accepts."""


WAIT_S = 2 * TIMEOUT_S
"""Maximum time that an action with `wait` waits for each first attempt."""


def create_app(provider: Provider, api_keys: Mapping[str, Sequence[str]]) -> Starlette:
    """Return the application. Its lifespan runs the provider: due changes and the delivery of events.

    Args:
        provider: the simulated provider.
        api_keys: environment -> its keys; without any, the API rejects every request.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with TaskGroup() as tasks:
            running = [tasks.create_task(provider.courier.run()), tasks.create_task(provider.run())]
            yield
            for task in running:
                task.cancel()

    async def healthz(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "subscriptions": len(provider.world.subscriptions)})

    control = _Control(provider)
    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/simulate", control.vocabulary),
            Route("/simulate/offers", control.offers),
            Route("/simulate/subscriptions", control.subscriptions),
            Route("/simulate/purchases", control.purchases),
            Route("/simulate/deliveries", control.deliveries),
            Route("/simulate/replay", control.replay, methods=["POST"]),
            Route("/simulate/scenarios/{name}", control.play, methods=["POST"]),
            Route("/simulate/{action}", control.act, methods=["POST"]),
            *routes.routes(provider, api_keys),
        ],
        exception_handlers=dict.fromkeys((ApiError, ControlError, HTTPException), _refused),
        lifespan=lifespan,
    )
    app.add_middleware(_LoopbackOnly)
    return app


class _Replay(BaseModel):
    model_config = ConfigDict(strict=True)

    event_id: str
    wait: bool = False


class _Play(BaseModel):
    model_config = ConfigDict(strict=True)

    seed: Annotated[int, Field(ge=1, le=2**31)] = 1


class _Control:
    """The handlers."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def vocabulary(self, request: Request) -> JSONResponse:
        """Answer with the actions and their parameters."""
        common = sorted(COMMON)
        return JSONResponse(
            {
                "environments": list(self._provider.envs),
                "actions": {name: [*common, *sorted(takes)] for name, (_, takes) in actions.ACTIONS.items()},
            }
        )

    async def offers(self, request: Request) -> JSONResponse:
        """Answer with what the catalog sells in an environment: plans by rising rank, then add-ons."""
        env = self._env(request.query_params.get("env"))
        catalog, sold = self._provider.catalog(), self._provider.offers(env)
        plans = [offer_shown(plan, "plan") for plan in sold.plans]
        return JSONResponse(
            {"env": env, "leading": catalog.leading, "apps": [*catalog.apps]}
            | {"offers": [*plans, *(offer_shown(addon, "addon") for addon in sold.addons)]}
        )

    async def purchases(self, request: Request) -> JSONResponse:
        """Answer with the one-time purchases of one tenant or of all, in order of creation, and what went back."""
        tenant, env = request.query_params.get("tenant"), request.query_params.get("env")
        world = self._provider.world
        chosen = [
            {"tenant": of, "env": paid.env, "paid": paid.amount, "back": world.taken_back(paid)}
            | entities.transaction(paid, world.adjustments_of(paid))
            for of, paid in ((each.tenant, each.payment) for each in world.purchases.values())
            if tenant in (None, of) and env in (None, paid.env)
        ]
        return JSONResponse({"purchases": chosen})

    async def subscriptions(self, request: Request) -> JSONResponse:
        """Answer with the subscriptions of one tenant or of all, in order of creation."""
        tenant, env = request.query_params.get("tenant"), request.query_params.get("env")
        chosen = [
            {"tenant": sub.tenant, "env": sub.env, **entities.subscription(sub)}
            for sub in self._provider.world.subscriptions.values()
            if tenant in (None, sub.tenant) and env in (None, sub.env)
        ]
        return JSONResponse({"subscriptions": chosen})

    async def deliveries(self, request: Request) -> JSONResponse:
        """Answer with the newest attempts, oldest first, and the number of waiting deliveries."""
        event_id = request.query_params.get("event_id")
        courier = self._provider.courier
        attempts: list[Json] = [asdict(attempt) for attempt in courier.log if event_id in (None, attempt.event_id)]
        return JSONResponse({"webhook_url": courier.webhook_url, "waiting": len(courier), "attempts": attempts})

    async def replay(self, request: Request) -> JSONResponse:
        """Deliver an event again under a new notification id, like Paddle's replay."""
        params = validated(_Replay, await _values(request))
        event = next((event for event in self._provider.world.events if event.id == params.event_id), None)
        if event is None:
            raise ControlError(404, "no_event", f"no event {params.event_id} is remembered; GET /events lists them")
        delivery = await self._provider.replay(event)
        body: Body = {"event_ids": [event.id], "notification_id": delivery.notification_id}
        if params.wait:
            body["deliveries"] = [await _tried(delivery)]
        return JSONResponse(body)

    async def play(self, request: Request) -> JSONResponse:
        """Play a bundled scenario with its own tenants. Answer with what was sent, the answers, and the violations."""
        name = request.path_params["name"]
        if name not in BUNDLED:
            raise ControlError(404, "no_scenario", f"no scenario {name}; there are: {', '.join(BUNDLED)}")
        params = validated(_Play, await _values(request))
        try:
            report = await self._provider.play(name, params.seed)
        except ScenarioError as error:
            raise ControlError(409, "scenario_unusable", str(error)) from error
        return JSONResponse({"ok": report.is_ok, "report": report.lines()})

    async def act(self, request: Request) -> JSONResponse:
        """Do an action for a tenant. Answer with the resulting subscription or payment, and the events."""
        action = request.path_params["action"]
        params = actions.read(action, await _values(request))
        offers = self._provider.offers_of_app(
            self._env(params.env), params.app or "", params.plan or params.addon or ""
        )
        outcome, deliveries = await self._provider.change(
            lambda turn: actions.act(action, Scene(turn, offers, params)), params.deliver
        )
        body = subject_shown(outcome) | {
            "event_ids": [event.id for event in outcome.events],
            "events": [{"event_id": event.id, "event_type": event.type} for event in outcome.events],
        }
        if params.wait:
            body["deliveries"] = [await _tried(delivery) for delivery in deliveries]
        return JSONResponse(body)

    def _env(self, asked: str | None) -> str:
        """Return the environment that is asked for; without one, `live` or the first.

        Raises:
            ControlError: it has no signing secret.
        """
        envs = self._provider.envs
        env = asked or ("live" if "live" in envs else envs[0])
        if env not in envs:
            known = ", ".join(envs)
            raise ControlError(400, "unknown_environment", f"no signing secret for {env}; there are some for: {known}")
        return env


async def _tried(delivery: Delivery) -> Json:
    """Return a delivery's first attempt; after WAIT_S without one, the waiting delivery."""
    with suppress(TimeoutError):
        async with timeout(WAIT_S):
            await delivery.tried.wait()
    if delivery.last is None:
        return {"event_id": delivery.event.id, "notification_id": delivery.notification_id, "state": "waiting"}
    return asdict(delivery.last)


async def _values(request: Request) -> Mapping[str, Json]:
    """Return the parameters of a control action; null counts as not given."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ControlError(415, "not_json", "send the parameters as JSON, with Content-Type: application/json")
    body = await read_json(request)
    if not isinstance(body, dict):
        raise invalid_parameter('the parameters must be a JSON object such as {"tenant": "acme"}')
    return {name: value for name, value in body.items() if value is not None}


class _LoopbackOnly:
    """Rejects requests with a Host header other than LOOPBACK. A web page could get in by DNS rebinding otherwise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Request(scope).headers.get("host", "")
            name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
            if name.lower() not in LOOPBACK:
                problem = ControlError(403, "not_loopback", "the simulator answers on this machine's own names only")
                await _problem(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _problem(error: ControlError) -> JSONResponse:
    title = error.code.replace("_", " ")
    document = {"title": title, "status": error.status, "detail": error.detail, "code": error.code}
    return JSONResponse(document, error.status, media_type="application/problem+json")


def _refused(request: Request, error: Exception) -> JSONResponse:
    """Return the error answer: a problem document on control routes, Paddle's error document on the API."""
    path = request.url.path
    if path == "/simulate" or path.startswith("/simulate/"):
        return _problem(_control_error(error))
    if isinstance(error, HTTPException):
        refusal = ApiError("not_found", f"no route {request.method} {path} in the simulator")
        return JSONResponse(error_document(refusal, str(uuid4())), error.status_code)
    refusal = error if isinstance(error, ApiError) else ApiError("internal_error", str(error))
    return JSONResponse(error_document(refusal, str(uuid4())), refusal.status)


def _control_error(error: Exception) -> ControlError:
    match error:
        case ControlError():
            return error
        case ApiError():
            # 409: the request is valid, but not in the subscription's present state.
            status = 409 if error.status == 400 and error.code.startswith("subscription_") else error.status
            return ControlError(status, error.code, str(error))
        case HTTPException(status_code=405):
            return ControlError(405, "no_route", "use POST with JSON parameters")
        case _:
            return ControlError(404, "no_route", "no such route; GET /simulate lists the actions")
