"""The control routes under `/simulate`: what a person or a test makes happen, and what has happened.

They are for the machine's own user, and take JSON bodies only, so that no web page's form reaches them.
"""

from __future__ import annotations

from asyncio import timeout
from contextlib import suppress
from dataclasses import asdict
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sync.simulator.courier import TIMEOUT_S, Delivery
from sync.simulator.http import json_response, read_json
from sync.simulator.paddle import entities
from sync.simulator.paddle.entities import Body
from sync.simulator.provider import Provider
from sync.simulator.scenarios import scenario_file
from sync.simulator.world import actions
from sync.simulator.world.errors import ControlError
from sync.simulator.world.model import Json, Subscription, World
from sync.simulator.world.offers import Offers
from sync.simulator.world.scene import Params, Scene
from sync.simulator.world.turn import NewId, Outcome

SEED_MAX = 2**31

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


class _Control:
    """The handlers."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def vocabulary(self, request: Request) -> Response:
        """What can be asked for."""
        common = sorted(actions.COMMON)
        return json_response(
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
        return json_response({"subscriptions": [_summary(subscription) for subscription in chosen]})

    async def deliveries(self, request: Request) -> Response:
        """The newest attempts, oldest first, and how many deliveries wait."""
        event_id = request.query_params.get("event_id")
        courier = self._provider.courier
        attempts: list[Json] = [asdict(attempt) for attempt in courier.log if event_id in (None, attempt.event_id)]
        return json_response({"webhook_url": courier.webhook_url, "waiting": len(courier), "attempts": attempts})

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
        return json_response(body)

    async def play(self, request: Request) -> Response:
        """A bundled scenario, with histories of tenants of its own: what was sent, answered, and found wrong."""
        name = request.path_params["name"]
        bundled = scenario_file.bundled()
        if name not in bundled:
            raise ControlError(404, "no_scenario", f"no scenario {name}; there are: {', '.join(bundled)}")
        params = await _params(request)
        try:
            report = await self._provider.play(name, params.number("seed", SEED_MAX) or 1)
        except scenario_file.ScenarioError as error:
            raise ControlError(409, "scenario_unusable", str(error)) from error
        return json_response({"ok": report.is_ok, "report": list[Json](report.lines())})

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
        return json_response(body)

    def _control_env(self, params: Params) -> str:
        env = params.text("env") or ("live" if "live" in self._provider.envs else self._provider.envs[0])
        if env not in self._provider.envs:
            known = ", ".join(self._provider.envs)
            raise ControlError(400, "unknown_environment", f"no signing secret for {env}; there are some for: {known}")
        return env


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


async def _params(request: Request) -> Params:
    """The parameters of a control action."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ControlError(415, "not_json", "send the parameters as JSON, with Content-Type: application/json")
    body = await read_json(request)
    if not isinstance(body, dict):
        raise ControlError(400, "invalid_parameter", 'the parameters must be a JSON object such as {"tenant": "acme"}')
    return Params(body)
