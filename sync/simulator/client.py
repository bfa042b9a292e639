"""A client for a running simulator, for the command line and the demo. Synchronous, without retries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from sync.core.errors import CodedError
from sync.simulator.world.model import Json

TIMEOUT_S = 60.0
"""Maximum time of an action. With `wait` the answer comes after the first delivery attempt of each event."""


class SimulatorError(CodedError):
    """An action failed. `code` is the simulator's problem code, or `unreachable` or `bad_answer`."""

    def __str__(self) -> str:
        return " ".join(self.detail.split())


@dataclass(frozen=True, slots=True)
class Delivered:
    """The first attempt to deliver one event.

    `status` and `outcome` are from the receiver's answer, `error` is set if there was none. `ms`: its duration.
    """

    event_id: str
    event_type: str
    state: str
    status: int | None = None
    outcome: str | None = None
    error: str | None = None
    ms: float | None = None


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What an action did. `events`: (id, type), oldest first; `deliveries` only with the parameter `wait`.

    `subscription_id`: "" for a purchase. `transaction_id`: the payment that was made or that money went back of.
    """

    subscription_id: str
    status: str
    events: tuple[tuple[str, str], ...]
    deliveries: tuple[Delivered, ...]
    transaction_id: str = ""

    @property
    def event_ids(self) -> tuple[str, ...]:
        """The ids of the events."""
        return tuple(event_id for event_id, _ in self.events)


class _Event(BaseModel):
    event_id: str
    event_type: str


class _Answer(BaseModel):
    subscription_id: str | None
    transaction_id: str = ""
    status: str
    events: list[_Event]
    deliveries: list[dict[str, Any]] = []


_DELIVERED = TypeAdapter(Delivered)


def run_action(base_url: str, action: str, tenant: str, **params: Json) -> ActionResult:
    """Do one action for one tenant and return the result.

    Args:
        base_url: the simulator's URL.
        action: the action's name.
        tenant: the tenant.
        params: the action's parameters, such as plan, quantity, env, wait.

    Raises:
        SimulatorError: the simulator is unreachable or rejected the action; the text is one line.
    """
    body = _post(f"{base_url.rstrip('/')}/simulate/{action}", {"tenant": tenant, **params})
    try:
        answer = _Answer.model_validate(body)
        events = {event.event_id: event.event_type for event in answer.events}
        deliveries = [
            _DELIVERED.validate_python({"event_type": events.get(one.get("event_id", ""), ""), **one})
            for one in answer.deliveries
        ]
    except ValidationError as error:
        raise SimulatorError("bad_answer", f"{base_url} answered something else than a simulator does") from error
    told = tuple(events.items())
    return ActionResult(answer.subscription_id or "", answer.status, told, tuple(deliveries), answer.transaction_id)


def _post(url: str, params: dict[str, Json]) -> Json:
    headers = {"Content-Type": "application/json"}
    try:
        response = httpx2.post(url, content=orjson.dumps(params), headers=headers, timeout=TIMEOUT_S, trust_env=False)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise SimulatorError("unreachable", f"no simulator at {url}: {error}; is it running?") from error
    try:
        body: Json = orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise SimulatorError("bad_answer", f"{url} answered {response.status_code} and no JSON") from error
    if response.status_code == 200:
        return body
    problem = body if isinstance(body, dict) else {}
    detail = problem.get("detail") or f"{url} answered {response.status_code}"
    raise SimulatorError(str(problem.get("code") or "bad_answer"), str(detail))
