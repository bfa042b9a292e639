"""The console's actions: dispatch by name, with an entry in the audit for each one, done or rejected.

Repairs use the code that backends' routes use; the console has no second way to change a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.console import audit
from gateway.console.auth import ConsoleAuth, Principal
from gateway.console.observer import ConsoleObserver
from gateway.console.routes import dev_actions
from gateway.console.routes.dev_actions import DevActions
from gateway.console.routes.query import Action, console_json
from gateway.console.routes.repairs import Repairs
from gateway.console.routes.topic_actions import TopicActions
from gateway.console.scopes import ADMIN
from sync.http.body import read_json
from sync.http.problem import Problem
from sync.store.models import StoreError

if TYPE_CHECKING:
    from sync.billing.api.operator_service import OperatorService

BODY_MAX_BYTES = 16_384

TARGETS = ("topic", "event_id", "session", "tenant", "sub", "jti")
"""Members of a body that name the target of an action; the first one present goes into the audit."""

log = structlog.get_logger("gateway.console")


class Actions:
    """The route of all actions. `service` is None in a process that takes no webhooks."""

    def __init__(self, console: ConsoleObserver, console_auth: ConsoleAuth, service: OperatorService | None) -> None:
        self._node = console.node
        self._console_auth = console_auth
        development = DevActions(console)
        self.simulated = development.simulated
        self._actions: dict[str, Action] = {
            **TopicActions(console.node).by_name,
            **({} if service is None else Repairs(service).by_name),
            **development.by_name,
        }

    def names(self, principal: Principal) -> list[str]:
        """Return the actions that the caller may do here."""
        return sorted(self._actions) if ADMIN in principal.scopes else []

    async def act(self, request: Request) -> Response:
        """Answer the result of an action."""
        node = self._node
        principal = self._console_auth.require(request)
        self._console_auth.require_page(request, principal)
        name = request.path_params["action"]
        body = await read_json(request, BODY_MAX_BYTES, node.settings.body_timeout_s)
        if not isinstance(body, dict):
            raise Problem("request_invalid", "the body is a JSON object")
        try:
            found = await self._done(name, body, principal)
        except Problem as problem:
            await self._note(principal, name, body, "refused" if problem.status < 500 else "failed", problem)
            raise
        except StoreError as error:
            log.warning("action_failed", action=name, error=str(error))
            raise
        id = await self._note(principal, name, body, "done", found)
        return console_json(self._node, action=name, outcome="done", audit=id, **found)

    async def _done(self, name: str, body: Mapping[str, Any], principal: Principal) -> dict[str, Any]:
        if ADMIN not in principal.scopes:
            raise Problem("scope_missing", "this needs a console token with the scope admin")
        action = self._actions.get(name)
        if action is None:
            if name in dev_actions.NAMES:
                raise Problem(
                    "not_dev", "this is for development only, and the simulator must be configured for its part"
                )
            raise Problem("not_found", "there is no such action in this process")
        return await action(body, principal)

    async def _note(
        self, principal: Principal, name: str, body: Mapping[str, Any], outcome: str, result: Problem | dict[str, Any]
    ) -> str:
        target = next((str(body[member]) for member in TARGETS if body.get(member)), "")
        detail = str(result) if isinstance(result, Problem) else orjson.dumps(result, default=str).decode()
        return await audit.note(
            self._node.store,
            who=principal.session,
            scopes=principal.scopes,
            action=name[:64],
            target=target[:300],
            parameters=body,
            outcome=outcome,
            detail=detail[:1000],
            gateway=self._node.name,
        )
