"""Asks a running simulator to do something: what the command line and the demo use. Synchronous; no retry."""

from __future__ import annotations

from dataclasses import dataclass

import httpx2
import orjson

from sync.core.errors import SyncError
from sync.simulator.world.model import Json

TIMEOUT_S = 60.0
"""How long an action may take; with `wait` it answers after the first attempt to deliver each event."""


class SimulatorError(SyncError):
    """The simulator refused, or could not be asked. `code` is its problem's code, or `unreachable` or `bad_answer`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = " ".join(detail.split())

    def __str__(self) -> str:
        return self.detail


@dataclass(frozen=True, slots=True)
class Delivered:
    """The first attempt to deliver one event. `status` and `outcome` are the receiver's, `error` where it gave none;
    `ms` how long it took."""

    event_id: str
    event_type: str
    state: str
    status: int | None
    outcome: str | None
    error: str | None
    ms: float | None


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What an action did. `events`: (id, type), oldest first; `deliveries` only where it was asked to wait."""

    subscription_id: str
    status: str
    events: tuple[tuple[str, str], ...]
    deliveries: tuple[Delivered, ...]

    @property
    def event_ids(self) -> tuple[str, ...]:
        """The ids of the events."""
        return tuple(event_id for event_id, _ in self.events)


def run_action(base_url: str, action: str, tenant: str, **params: Json) -> ActionResult:
    """The result of one action for one tenant. `params` as the simulator takes them, such as plan, quantity, env, wait.

    Raises:
        SimulatorError: it could not be asked, or refused; its text is one line.
    """
    body = _post(f"{base_url.rstrip('/')}/simulate/{action}", {"tenant": tenant, **params})
    try:
        return _result(body)
    except (KeyError, TypeError, ValueError) as error:
        raise SimulatorError("bad_answer", f"{base_url} answered something else than a simulator does") from error


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
    detail = body.get("detail") if isinstance(body, dict) else None
    code = body.get("code") if isinstance(body, dict) else None
    raise SimulatorError(str(code or "bad_answer"), str(detail or f"{url} answered {response.status_code}"))


def _result(body: Json) -> ActionResult:
    fields = _object(body)
    events = tuple((_text(event, "event_id"), _text(event, "event_type")) for event in _list(fields["events"]))
    kinds = dict(events)
    deliveries = tuple(_delivered(attempt, kinds) for attempt in _list(fields.get("deliveries", [])))
    return ActionResult(_text(body, "subscription_id"), _text(body, "status"), events, deliveries)


def _delivered(attempt: Json, kinds: dict[str, str]) -> Delivered:
    fields = _object(attempt)
    event_id = _text(attempt, "event_id")
    status, ms = fields.get("status"), fields.get("ms")
    outcome, error = fields.get("outcome"), fields.get("error")
    return Delivered(
        event_id,
        kinds.get(event_id, ""),
        _text(attempt, "state"),
        status if isinstance(status, int) else None,
        outcome if isinstance(outcome, str) else None,
        error if isinstance(error, str) else None,
        float(ms) if isinstance(ms, int | float) else None,
    )


def _object(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise TypeError(value)
    return value


def _list(value: Json) -> list[Json]:
    if not isinstance(value, list):
        raise TypeError(value)
    return value


def _text(value: Json, name: str) -> str:
    text = _object(value)[name]
    if not isinstance(text, str):
        raise TypeError(text)
    return text
