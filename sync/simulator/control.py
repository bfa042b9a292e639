"""The control routes under `/simulate`: what a person or a test makes happen, and what has happened.

They are for the machine's own user, and take JSON bodies only, so that no web page's form reaches them.
"""

from __future__ import annotations

from asyncio import timeout
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sync.simulator.courier import TIMEOUT_S, Delivery
from sync.simulator.paddle import entities
from sync.simulator.paddle.entities import Body
from sync.simulator.paddle.routes import read_json
from sync.simulator.provider import Provider
from sync.simulator.scenarios import scenario
from sync.simulator.world import actions
from sync.simulator.world.actions import Scene
from sync.simulator.world.errors import ControlError, invalid_parameter
from sync.simulator.world.model import Json, Subscription

WAIT_S = 2 * TIMEOUT_S
"""How long an action with `wait` waits for each first attempt."""


def routes(provider: Provider) -> list[Route]:
    """Return the routes."""
    control = _Control(provider)
    return [
        Route("/simulate", control.vocabulary),
        Route("/simulate/subscriptions", control.subscriptions),
        Route("/simulate/deliveries", control.deliveries),
        Route("/simulate/replay", control.replay, methods=["POST"]),
        Route("/simulate/scenarios/{name}", control.play, methods=["POST"]),
        Route("/simulate/{action}", control.act, methods=["POST"]),
    ]


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
        """What can be asked for."""
        common = sorted(actions.COMMON)
        return JSONResponse(
            {
                "environments": list(self._provider.envs),
                "actions": {name: [*common, *sorted(takes)] for name, (_, takes) in actions.ACTIONS.items()},
            }
        )

    async def subscriptions(self, request: Request) -> JSONResponse:
        """The subscriptions of a tenant, or of all, in the order they were made."""
        tenant, env = request.query_params.get("tenant"), request.query_params.get("env")
        chosen = [
            subscription
            for subscription in self._provider.world.subscriptions.values()
            if tenant in (None, subscription.tenant) and env in (None, subscription.env)
        ]
        return JSONResponse({"subscriptions": [_summary(subscription) for subscription in chosen]})

    async def deliveries(self, request: Request) -> JSONResponse:
        """The newest attempts, oldest first, and how many deliveries wait."""
        event_id = request.query_params.get("event_id")
        courier = self._provider.courier
        attempts: list[Json] = [asdict(attempt) for attempt in courier.log if event_id in (None, attempt.event_id)]
        return JSONResponse({"webhook_url": courier.webhook_url, "waiting": len(courier), "attempts": attempts})

    async def replay(self, request: Request) -> JSONResponse:
        """An event delivered again, under a new notification id, as Paddle's replay does."""
        params = actions.validated(_Replay, await _values(request))
        event = next((event for event in self._provider.world.events if event.id == params.event_id), None)
        if event is None:
            raise ControlError(404, "no_event", f"no event {params.event_id} is remembered; GET /events lists them")
        delivery = await self._provider.replay(event)
        body: Body = {"event_ids": [event.id], "notification_id": delivery.notification_id}
        if params.wait:
            body["deliveries"] = [await _tried(delivery)]
        return JSONResponse(body)

    async def play(self, request: Request) -> JSONResponse:
        """A bundled scenario, with histories of tenants of its own: what was sent, answered, and found wrong."""
        name = request.path_params["name"]
        bundled = scenario.bundled()
        if name not in bundled:
            raise ControlError(404, "no_scenario", f"no scenario {name}; there are: {', '.join(bundled)}")
        params = actions.validated(_Play, await _values(request))
        try:
            report = await self._provider.play(name, params.seed)
        except scenario.ScenarioError as error:
            raise ControlError(409, "scenario_unusable", str(error)) from error
        return JSONResponse({"ok": report.is_ok, "report": report.lines()})

    async def act(self, request: Request) -> JSONResponse:
        """An action for a tenant: what it made of the subscription, and the events that tell."""
        action = request.path_params["action"]
        params = actions.read(action, await _values(request))
        envs = self._provider.envs
        env = params.env or ("live" if "live" in envs else envs[0])
        if env not in envs:
            known = ", ".join(envs)
            raise ControlError(400, "unknown_environment", f"no signing secret for {env}; there are some for: {known}")
        offers = self._provider.offers(env)
        outcome, deliveries = await self._provider.change(
            lambda turn: actions.act(action, Scene(turn, offers, params)), params.deliver
        )
        body: Body = {
            "subscription_id": outcome.subscription.id,
            "status": outcome.subscription.status,
            "event_ids": [event.id for event in outcome.events],
            "events": [{"event_id": event.id, "event_type": event.type} for event in outcome.events],
        }
        if params.wait:
            body["deliveries"] = [await _tried(delivery) for delivery in deliveries]
        return JSONResponse(body)


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


async def _values(request: Request) -> Mapping[str, Json]:
    """The parameters of a control action; null counts as not given."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ControlError(415, "not_json", "send the parameters as JSON, with Content-Type: application/json")
    body = await read_json(request)
    if not isinstance(body, dict):
        raise invalid_parameter('the parameters must be a JSON object such as {"tenant": "acme"}')
    return {name: value for name, value in body.items() if value is not None}
