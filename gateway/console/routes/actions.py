"""The console's actions: dispatch by name, with an entry in the audit for each one, done or rejected.

Repairs use the code that backends' routes use; the console has no second way to change a state.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from starlette.requests import Request

from gateway.api.revoke import revocation_of
from gateway.auth import revocation_store
from gateway.console import audit
from gateway.console.auth import Principal
from gateway.console.observer import ConsoleObserver
from gateway.console.routes import dev_actions
from gateway.console.routes.billing import BillingRoutes
from gateway.console.routes.dev_actions import DevActions
from gateway.console.routes.query import Action, Members, parsed
from gateway.console.routes.topics import kept_version
from gateway.console.scopes import ADMIN
from planwire_client.core import canonical_json, document
from planwire_client.core.commit import PUBLISHER
from sync.http.body import read_json
from sync.http.problem import Problem
from sync.store.models import Change, StoreError, Verdict

BODY_MAX_BYTES = 16_384

TARGETS = ("topic", "event_id", "session", "tenant", "sub", "jti")
"""Members of a body that name the target of an action; the first one present goes into the audit."""

log = structlog.get_logger("gateway.console")


class Actions:
    """The route of all actions, and those on topics and tokens: commit a version of the log again, revoke."""

    def __init__(self, console: ConsoleObserver, billing: BillingRoutes) -> None:
        self._node = console.node
        development = DevActions(console)
        self.simulated = development.simulated
        self._actions: dict[str, Action] = {
            "replay": self._replay,
            "revoke": self._revoke,
            **billing.actions,
            **development.by_name,
        }

    def names(self, principal: Principal) -> list[str]:
        """Return the actions that the caller may do here."""
        return sorted(self._actions) if ADMIN in principal.scopes else []

    async def act(self, request: Request, principal: Principal) -> Members:
        """Answer the result of an action."""
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
        if name in dev_actions.NAMES:
            raise Problem("not_dev", "this is for development only, and the simulator must be configured for its part")
        raise Problem("not_found", "there is no such action in this process")

    async def _note(self, principal: Principal, name: str, body: Mapping[str, Any], outcome: str, detail: str) -> str:
        target = next((str(body[member]) for member in TARGETS if body.get(member)), "")
        entry = {
            "at": round(time.time(), 3),
            "who": principal.session,
            "scopes": principal.scopes,
            "action": name[:64],
            "target": target[:300],
            "parameters": body,
            "outcome": outcome,
            "detail": detail[:1000],
            "gateway": self._node.name,
        }
        return await audit.note(self._node.store, entry)

    async def _replay(self, body: Mapping[str, Any], principal: Principal) -> Members:
        if body.keys() != {"topic", "version"} or type(body["version"]) is not int:
            raise Problem("request_invalid", "send topic and version")
        topic, store = str(parsed(body["topic"])), self._node.store
        entry = await kept_version(store, topic, body["version"])
        try:
            # An older build may have stored numbers that are invalid today.
            document.check("state", canonical_json.decode(entry.state))
        except document.DocumentError as error:
            raise Problem(error.code, error.detail) from None
        current = await store.read(topic)
        cause = {
            "source": "console",
            "event_type": "console.replay",
            "replay_of": str(entry.version),
            "by": f"console:{principal.session}",
        }
        # The log keeps the public part only, so the private part stays as it is.
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

    async def _revoke(self, body: Mapping[str, Any], _: Principal) -> Members:
        settings, node = self._node.settings, self._node
        now = time.time()
        revocation = node.auth.covering(revocation_of(body, now), now)
        limit = settings.revocations_max
        await revocation_store.announce(node.store, revocation, keep_s=settings.revocation_keep_s, limit=limit)
        await node.store.wait_durable()
        node.revoke(revocation)
        return {"revoked": dict(body), "at": revocation.at}
