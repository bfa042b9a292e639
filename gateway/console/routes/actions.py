"""The console's actions: dispatch by name, with an audit entry for each action, done or rejected.

Repairs use the same code as the routes for backends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx2
import orjson
import structlog
from starlette.requests import Request

from gateway.api.revoke import revocation_of
from gateway.auth import revocation_store
from gateway.console import fault_injection
from gateway.console.auth import Principal
from gateway.console.observer import ConsoleObserver
from gateway.console.routes.query import Action, Members, parsed, text_of
from gateway.console.routes.topics import kept_version
from gateway.console.scopes import ADMIN
from planwire_client.core import document
from planwire_client.core.commit import BILLED, PUBLISHER
from planwire_client.http import NO_ANSWER
from sync.http.body import read_json
from sync.http.parameters import BEFORE, query_integer
from sync.http.problem import Problem
from sync.store.command_pipeline import run_commands
from sync.store.models import Change, StoreError, Verdict

BODY_MAX_BYTES = 16_384

AUDIT_KEPT = 1000
"""Approximate number of stored audit entries, in one capped stream."""

AUDIT_MAX = 200
"""Maximum number of entries in one answer."""

PARAMETERS_MAX_BYTES = 4096
"""Maximum size of the parameters in an entry. Larger parameters are left out."""

TARGETS = ("topic", "event_id", "session", "tenant", "sub", "jti")
"""Members of a body that name the target of an action. The first one present is stored in the audit."""

SIMULATOR_TIMEOUT_S = 30.0

SIMULATED = (
    "upgrade", "downgrade", "cancel", "uncancel", "pause", "resume", "past_due", "recover", "trial", "activate",
    "seats", "addon", "remove_addon", "renew", "tax", "discount", "buy", "refund", "chargeback", "chargeback_reverse",
)  # fmt: skip
"""The simulator's actions on what one tenant has bought."""

SCENARIOS = tuple(f"scenario:{name}" for name in ("drop", "duplicate", "late", "outage", "reorder", "skew", "torture"))
"""The simulator's histories of many tenants."""

SOCKET_ACTIONS: dict[str, dict[str, tuple[int, int]]] = {
    "drop": {},
    "freeze": {"seconds": (1, fault_injection.SECONDS_MAX)},
    "delay": {
        "seconds": (1, fault_injection.SECONDS_MAX),
        "delay_ms": (fault_injection.DELAY_MIN_MS, fault_injection.DELAY_MAX_MS),
    },
}
"""The actions on a socket, with the bounds of their parameters."""

log = structlog.get_logger("gateway.console")


class Actions:
    """The route of all actions, and the actions that are not about one tenant's billing.

    Attributes:
        simulated: the actions of the simulator; empty without a simulator.
    """

    def __init__(self, console: ConsoleObserver, repairs: Mapping[str, Action]) -> None:
        """Offer `repairs`, the actions on tenants by name, besides its own."""
        self._console = console
        self._node = console.node
        self._audit_key = console.node.store.keys.console("audit")
        self._simulator_url = self._node.settings.simulator_url.rstrip("/")
        self._actions: dict[str, Action] = {"replay": self._replay, "revoke": self._revoke, **repairs}
        self.simulated: tuple[str, ...] = ()
        if self._node.settings.dev:
            self._actions |= {kind: partial(self._on_socket, kind) for kind in SOCKET_ACTIONS}
        if self._node.settings.dev and self._simulator_url:
            self._actions["simulate"] = self._simulate
            self.simulated = (*SIMULATED, *SCENARIOS)

    def names(self, principal: Principal) -> list[str]:
        """Return the actions allowed to the caller here."""
        return sorted(self._actions) if ADMIN in principal.scopes else []

    async def act(self, request: Request, principal: Principal) -> Members:
        """Do an action, and answer its result."""
        name = request.path_params["action"]
        body = await read_json(request, BODY_MAX_BYTES, self._node.settings.body_timeout_s)
        if not isinstance(body, dict):
            raise Problem("request_invalid", "the body is a JSON object")
        try:
            found = await self._done(name, body, principal)
        except Problem as problem:
            await self._note(principal, name, body, "refused" if problem.status < 500 else "failed", str(problem))
            raise
        except StoreError as error:
            log.warning("action_failed", action=name, error=str(error))
            raise
        detail = orjson.dumps(found, default=str).decode()
        id = await self._note(principal, name, body, "done", detail)
        return {"action": name, "outcome": "done", "audit": id, **found}

    async def _done(self, name: str, body: Mapping[str, Any], principal: Principal) -> Members:
        if ADMIN not in principal.scopes:
            raise Problem("scope_missing", "this needs a console token with the scope admin")
        action = self._actions.get(name)
        if action is not None:
            return await action(body, principal)
        if name in (*SOCKET_ACTIONS, "simulate"):
            raise Problem("not_dev", "this is for development only, and the simulator must be configured for its part")
        raise Problem("not_found", "there is no such action in this process")

    async def audit(self, request: Request, _: Principal) -> Members:
        """Answer the entries of the audit, the newest first."""
        before = BEFORE.read(request)
        limit = query_integer(request, "limit", 50, AUDIT_MAX)
        newest = f"({before}" if before else "+"
        (found,) = await run_commands(self._node.store, ("XREVRANGE", self._audit_key, newest, "-", "COUNT", limit))
        entries = [{"id": id.decode(), **orjson.loads(fields[b"entry"])} for id, fields in found]
        return {"entries": entries, "next": entries[-1]["id"] if len(entries) == limit else None}

    async def _note(self, principal: Principal, name: str, body: Mapping[str, Any], outcome: str, detail: str) -> str:
        """Store an entry of the audit, and return its id."""
        target = next((str(body[member]) for member in TARGETS if body.get(member)), "")
        size = len(orjson.dumps(body))
        entry = {
            "at": round(time.time(), 3),
            "who": principal.session,
            "scopes": principal.scopes,
            "action": name[:64],
            "target": target[:300],
            "parameters": body if size <= PARAMETERS_MAX_BYTES else {"left_out": f"{size} bytes"},
            "outcome": outcome,
            "detail": detail[:1000],
            "gateway": self._node.name,
        }
        command = ("XADD", self._audit_key, "MAXLEN", "~", AUDIT_KEPT, "*", "entry", orjson.dumps(entry))
        (id,) = await run_commands(self._node.store, command)
        return str(id.decode())

    async def _replay(self, body: Mapping[str, Any], principal: Principal) -> Members:
        if body.keys() != {"topic", "version"} or type(body["version"]) is not int:
            raise Problem("request_invalid", "send topic and version")
        topic, store = str(parsed(body["topic"])), self._node.store
        entry = await kept_version(store, topic, body["version"])
        try:
            # An older build may have stored numbers that are invalid today.
            document.check("state", orjson.loads(entry.state))
        except document.DocumentError as error:
            raise Problem(error.code, error.detail) from None
        current = await store.read(topic)
        if current.erased:
            raise Problem("conflict", "the topic was erased: nothing of it is replayed")
        cause = {
            "source": "console",
            "event_type": "console.replay",
            "replay_of": str(entry.version),
            "by": f"console:{principal.session}",
        }
        # The log has only the public part, so the private part stays unchanged.
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
        if committed.verdict is Verdict.BILLED:  # an older build has written it last
            raise Problem("topic_is_billed", BILLED)
        return {"verdict": committed.verdict.value, "version": committed.version}

    async def _revoke(self, body: Mapping[str, Any], _: Principal) -> Members:
        settings, node = self._node.settings, self._node
        now = time.time()
        revocation = node.auth.covering(revocation_of(body, now), now)
        limit = settings.revocations_max
        await revocation_store.announce(node.store, revocation, keep_s=settings.revocation_keep_s, limit=limit)
        node.revoke(revocation)
        return {"revoked": dict(body), "at": revocation.at}

    # In development only.

    async def _simulate(self, body: Mapping[str, Any], _: Principal) -> Members:
        action = body.get("action")
        if action not in self.simulated:
            raise Problem("request_invalid", f"action is one of {', '.join(self.simulated)}")
        url = f"{self._simulator_url}/simulate/{str(action).replace('scenario:', 'scenarios/')}"
        names = ("seed",) if action in SCENARIOS else body.keys() - {"action", "seed"}
        given = {name: body[name] for name in names if name in body}
        try:
            async with httpx2.AsyncClient(timeout=SIMULATOR_TIMEOUT_S, trust_env=False) as client:
                answer = await client.post(url, json=given)
                result = answer.json()
        except (httpx2.HTTPError, ValueError, *NO_ANSWER):
            raise Problem("action_failed", "the simulator does not answer") from None
        if answer.status_code >= 400:
            detail = result.get("detail", "") if isinstance(result, dict) else ""
            raise Problem("action_failed", f"the simulator refused: {detail or answer.status_code}")
        return {"status": answer.status_code, "result": result}

    async def _on_socket(self, kind: str, body: Mapping[str, Any], _: Principal) -> Members:
        session = text_of(body, "session")
        about: Members = {"action": kind, "session": session}
        for name, (least, most) in SOCKET_ACTIONS[kind].items():
            value = body.get(name)
            if type(value) is not int or not least <= value <= most:
                raise Problem("request_invalid", f"{name} is a number from {least} to {most}")
            about[name] = value
        answers = await self._console.ask_gateways("socket", **about)
        holder = next((name for name, is_here in answers.of.items() if is_here is True), None)
        if holder is None:
            raise Problem("not_found", "no gateway holds a socket of this session")
        return {"gateway": holder, "session": session}
