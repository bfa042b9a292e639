"""What may be done through the console, each with an entry in the audit, done or refused.

Repairs go through the doors that backends use; the console adds no second way to change a state.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx2
import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway import control
from gateway.body import read_json
from gateway.console import audit, holds
from gateway.console.billing import TENANT, Billing, parked_of, refused
from gateway.console.desk import Desk
from gateway.console.gate import Gate, Visitor
from gateway.console.inner import segment
from gateway.console.node import ConsoleNode
from gateway.console.query import parsed
from gateway.console.scopes import ADMIN
from gateway.problem import Problem
from gateway.publish_routes import revocation_of
from sync.state import canonical, document
from sync.state.announcement import PUBLISHER
from sync.state.store import Change, StoreError, Verdict

BODY_MAX_BYTES = 16_384
RETRIES_MAX = 100
"""Parked events of one topic that are tried again at once."""

SIMULATOR_TIMEOUT_S = 30.0
TARGETS = ("topic", "event_id", "session", "tenant", "sub", "jti")
"""The member of a body that says what an action is about; the first that is there."""

SIMULATED = (
    "upgrade", "downgrade", "cancel", "uncancel", "pause", "resume", "past_due", "recover", "trial", "activate",
    "seats", "addon", "remove_addon", "renew",
)  # fmt: skip
"""What the simulator can do to one subscription."""

SCENARIOS = tuple(f"scenario:{name}" for name in ("drop", "duplicate", "late", "outage", "reorder", "skew", "torture"))
"""And the histories of many tenants that it can play."""

Action = Callable[[Mapping[str, Any], Visitor], Awaitable[dict[str, Any]]]

log = structlog.get_logger("gateway.console")


class Actions:
    """The routes that act. `billing` is there where the process takes webhooks."""

    def __init__(self, node: ConsoleNode, gate: Gate, desk: Desk, billing: Billing | None) -> None:
        self._node = node
        self._gate = gate
        self._desk = desk
        self._billing = billing
        self._actions: dict[str, Action] = {"replay": self._replay, "revoke": self._revoke}
        if billing is not None:
            self._actions |= {"reconcile": self._reconcile, "retry": self._retry, "retry_topic": self._retry_topic}
        if node.settings.dev:
            self._actions |= {"drop": self._hold, "freeze": self._hold, "delay": self._hold}
            if node.settings.simulator_url:
                self._actions["simulate"] = self._simulate

    def names(self, visitor: Visitor) -> list[str]:
        """Return what the visitor may do here."""
        return sorted(self._actions) if ADMIN in visitor.scopes else []

    @property
    def simulated(self) -> tuple[str, ...]:
        """What the simulator can be told to do; nothing where there is none."""
        return (*SIMULATED, *SCENARIOS) if "simulate" in self._actions else ()

    async def act(self, request: Request) -> Response:
        """Answer what an action did."""
        node = self._node
        visitor = self._gate.require(request)
        self._gate.require_page(request, visitor)
        name = request.path_params["action"]
        body = await read_json(request, BODY_MAX_BYTES, node.settings.body_timeout_s)
        if not isinstance(body, dict):
            raise Problem("request_invalid", "the body is a JSON object")
        try:
            found = await self._done(name, {**body, "kind": name} if name in HOLDS else body, visitor)
        except Problem as problem:
            await self._note(visitor, name, body, "refused" if problem.status < 500 else "failed", problem)
            raise
        except StoreError as error:
            log.warning("action_failed", action=name, error=str(error))
            raise
        id = await self._note(visitor, name, body, "done", found)
        return self._desk.json(action=name, outcome="done", audit=id, **found)

    async def _done(self, name: str, body: Mapping[str, Any], visitor: Visitor) -> dict[str, Any]:
        if ADMIN not in visitor.scopes:
            raise Problem("scope_missing", "this needs a console token with the scope admin")
        action = self._actions.get(name)
        if action is None:
            if name in HOLDS or name == "simulate":
                raise Problem(
                    "not_dev", "this is for development only, and the simulator must be configured for its part"
                )
            raise Problem("not_found", "there is no such action in this process")
        return await action(body, visitor)

    async def _note(
        self, visitor: Visitor, name: str, body: Mapping[str, Any], outcome: str, result: Problem | dict[str, Any]
    ) -> str:
        target = next((str(body[member]) for member in TARGETS if body.get(member)), "")
        detail = str(result) if isinstance(result, Problem) else orjson.dumps(result, default=str).decode()
        return await audit.note(
            self._node.store,
            who=visitor.session,
            scopes=visitor.scopes,
            action=name[:64],
            target=target[:300],
            parameters=body,
            outcome=outcome,
            detail=detail[:1000],
            gateway=self._node.name,
        )

    # Repairs.

    async def _reconcile(self, body: Mapping[str, Any], visitor: Visitor) -> dict[str, Any]:
        topic = _only(body, "topic")
        tenant = parsed(topic)
        if tenant.kind != TENANT:
            raise Problem("request_invalid", "only tenants have a provider to compare with")
        told = await self._told(visitor, f"/v1/tenants/{segment(tenant.id)}/reconcile", {"env": tenant.env})
        return {
            "reconciled": told.get("outcome"),
            "version": told.get("version"),
            "drift": told.get("drift", []),
            "asked": told.get("asked", []),
        }

    async def _retry(self, body: Mapping[str, Any], visitor: Visitor) -> dict[str, Any]:
        if not body.keys() <= {"env", "event_id"}:
            raise Problem("request_invalid", "send env and event_id")
        return await self._retried(visitor, _text(body, "env"), _text(body, "event_id"))

    async def _retried(self, visitor: Visitor, environment: str, event_id: str) -> dict[str, Any]:
        told = await self._told(visitor, f"/v1/parked/{segment(event_id)}/retry", {"env": environment})
        return {"event_id": event_id, "became": told.get("outcome")} | {
            name: told[name] for name in ("version", "reason") if name in told
        }

    async def _retry_topic(self, body: Mapping[str, Any], visitor: Visitor) -> dict[str, Any]:
        topic = parsed(_only(body, "topic"))
        results = []
        assert self._billing is not None
        for row in (await parked_of(self._billing, topic))[:RETRIES_MAX]:
            event_id = str(row["event_id"])
            try:
                results.append(await self._retried(visitor, topic.env, event_id))
            except Problem as problem:
                results.append({"event_id": event_id, "became": "failed", "reason": problem.detail})
        return {"retried": len(results), "results": results}

    async def _told(self, visitor: Visitor, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        assert self._billing is not None
        body: dict[str, object] | None = {} if path.endswith("/reconcile") else None
        answer = await self._billing.inner(visitor.session, "POST", path, query, body)
        if answer.status != 200:
            raise refused(answer)
        return answer.document

    # Topics and tokens.

    async def _replay(self, body: Mapping[str, Any], visitor: Visitor) -> dict[str, Any]:
        if body.keys() != {"topic", "version"} or type(body["version"]) is not int:
            raise Problem("request_invalid", "send topic and version")
        topic, store = str(parsed(body["topic"])), self._node.store
        entry = await self._desk.kept(topic, body["version"])
        try:
            # A build from before may have kept numbers that are refused today.
            document.check("state", canonical.decode(entry.state))
        except document.DocumentError as error:
            raise Problem(error.code, error.detail) from None
        current = await store.read(topic)
        cause = {
            "source": "console",
            "event_type": "console.replay",
            "replay_of": str(entry.version),
            "by": f"console:{visitor.session}",
        }
        # Only the public part is kept in the log; the private one stays as it is.
        change = Change(
            topic,
            entry.state,
            current.private,
            if_rev=current.rev,
            cause=orjson.dumps(cause),
            previous=current,
            owner=current.owner or PUBLISHER,
        )
        committed = await store.commit(change)
        await store.wait_durable()
        if committed.verdict is Verdict.CONFLICT:
            raise Problem("conflict", "the topic has changed meanwhile: look again")
        return {"verdict": committed.verdict.value, "version": committed.version}

    async def _revoke(self, body: Mapping[str, Any], _: Visitor) -> dict[str, Any]:
        settings, node = self._node.settings, self._node
        now = time.time()
        revocation = node.auth.covering(revocation_of(body, now), now)
        limit = settings.revocations_max
        await control.announce(node.store, revocation, keep_s=settings.revocation_keep_s, limit=limit)
        node.revoke(revocation)
        return {"revoked": dict(body), "at": revocation.at}

    # Development.

    async def _simulate(self, body: Mapping[str, Any], _: Visitor) -> dict[str, Any]:
        action = body.get("action")
        if action not in self.simulated:
            raise Problem("request_invalid", f"action is one of {', '.join(self.simulated)}")
        path = str(action).replace("scenario:", "scenarios/")
        url = f"{self._node.settings.simulator_url.rstrip('/')}/simulate/{path}"
        wanted = ("seed",) if action in SCENARIOS else body.keys() - {"action", "seed"}
        given = {name: body[name] for name in wanted if name in body}
        try:
            async with httpx2.AsyncClient(timeout=SIMULATOR_TIMEOUT_S, trust_env=False) as client:
                answer = await client.post(url, json=given)
                told = answer.json()
        except (httpx2.HTTPError, ValueError):
            raise Problem("action_failed", "the simulator does not answer") from None
        if answer.status_code >= 400:
            detail = told.get("detail", "") if isinstance(told, dict) else ""
            raise Problem("action_failed", f"the simulator refused: {detail or answer.status_code}")
        return {"status": answer.status_code, "result": told}

    async def _hold(self, body: Mapping[str, Any], _: Visitor) -> dict[str, Any]:
        kind, session = str(body["kind"]), _text(body, "session")
        about: dict[str, Any] = {"action": kind, "session": session}
        for name, (least, most) in HOLDS[kind].items():
            value = body.get(name)
            if type(value) is not int or not least <= value <= most:
                raise Problem("request_invalid", f"{name} is a number from {least} to {most}")
            about[name] = value
        answers = await self._node.survey.ask("socket", **about)
        holder = next((name for name, is_here in answers.of.items() if is_here is True), None)
        if holder is None:
            raise Problem("not_found", "no gateway holds a socket of this session")
        return {"gateway": holder, "session": session}


HOLDS: dict[str, dict[str, tuple[int, int]]] = {
    "drop": {},
    "freeze": {"seconds": (1, holds.SECONDS_MAX)},
    "delay": {"seconds": (1, holds.SECONDS_MAX), "delay_ms": (holds.DELAY_MIN_MS, holds.DELAY_MAX_MS)},
}
"""What is done to a socket, and the numbers it takes."""


def _only(body: Mapping[str, Any], name: str) -> str:
    if body.keys() != {name}:
        raise Problem("request_invalid", f"send {name}, and nothing else")
    return _text(body, name)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 512:
        raise Problem("request_invalid", f"{name} is a string of 1 to 512 characters")
    return value
