"""The console's access to billing: parked events, scheduled changes, overrides, drift, provider states, and repairs.

A process without a webhook intake answers `listed: false` and offers no repairs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request

from gateway.console.auth import Principal
from gateway.console.observer import ConsoleObserver
from gateway.console.reports import tab_status
from gateway.console.routes.plan_changes import PlanChanges
from gateway.console.routes.query import Action, Members, forwarded, only_topic, parsed, text_of, topic_of, without
from planwire_client.core.topic import TENANT_KIND, Topic
from sync.core import instants
from sync.http.parameters import AFTER, BEFORE, query_integer
from sync.http.problem import Problem
from sync.store.command_pipeline import run_commands

if TYPE_CHECKING:
    from sync.billing.api.operator_service import OperatorService

PARKED_MAX = 100
DRIFT_MAX = 200
"""Maximum number of rows in one answer."""

PAGE, PAGES_MAX = 500, 20
"""Size and maximum number of the pages of parked events that are searched for a topic."""

RETRIES_MAX = 100
"""Maximum number of a topic's parked events that are retried in one action."""

DRIFT_PRIVATE = ("subject", "here", "there")
"""The private members of a drift record."""

SHOWN_AT_TOP = ("scheduled", "pending", "valid_until", "trial_ends_at", "grace_ends_at")


class BillingRoutes:
    """The handlers. `service` is None in a process without a webhook intake."""

    def __init__(self, console: ConsoleObserver, service: OperatorService | None) -> None:
        self._console = console
        self._store = console.node.store
        self._answered = console.node.metrics.answered
        self._service = service

    async def parked(self, request: Request, _: Principal) -> Members:
        """Answer parked events, the longest parked first, and the parked items of the worker's queues.

        `next` is the `after` of the events' next page of the same `env`.
        """
        service = self._service
        if service is None:
            return {"listed": False, "environments": []}
        if (name := request.query_params.get("topic")) is not None:
            topic = parsed(name)
            rows = await _parked_of(service, topic)
            shown: Members = {"env": topic.env, "total": len(rows), "parked": rows[:PARKED_MAX], "next": None}
            return {"listed": True, "environments": [shown]}
        asked = request.query_params.get("env")
        if asked is not None:
            _require_environment(service, asked)
        after = AFTER.read(request) if asked is not None else None
        found = []
        for environment in service.environments if asked is None else (asked,):
            total, rows = await service.parked(environment, after, PARKED_MAX)
            following = f"{rows[-1]['parked_us']}.{rows[-1]['event_id']}" if len(rows) == PARKED_MAX else None
            items = await service.parked_items(environment, PARKED_MAX)
            found.append({"env": environment, "total": total, "parked": rows, "next": following, "items": items})
        return {"listed": True, "environments": found}

    async def schedule(self, request: Request, _: Principal) -> Members:
        """Answer the changes of a tenant's state that happen by time alone, and when its timers are due."""
        topic = topic_of(request)
        (snapshot,) = await self._store.read_many([str(topic)])
        state = orjson.loads(snapshot.state)
        at_top: Members = {name: state.get(name) if isinstance(state, dict) else None for name in SHOWN_AT_TOP}
        if isinstance(state, dict) and isinstance(state.get("apps"), dict):
            at_top["apps"] = [_shown_app(app, each) for app, each in state["apps"].items() if isinstance(each, dict)]
        keys = self._store.keys
        queues = {"time": keys.timers(topic.env), "audit": keys.audits(topic.env)}
        dues = await run_commands(self._store, *(("ZSCORE", key, str(topic)) for key in queues.values()))
        timers = [
            {"kind": kind, "due_us": int(float(due)), "due_at": instants.text_us(int(float(due)))}
            for kind, due in zip(queues, dues, strict=True)
            if due is not None
        ]
        return {"topic": str(topic), "listed": self._service is not None, "timers": timers, **at_top}

    async def overrides(self, request: Request, principal: Principal) -> Members:
        """Answer the tenant's overrides. Needs the scope private."""
        return await self._of_tenant(request, principal, "overrides")

    async def links(self, request: Request, principal: Principal) -> Members:
        """Answer the tenant's subscriptions and what names the tenant. Needs the scope private."""
        return await self._of_tenant(request, principal, "links")

    async def _of_tenant(self, request: Request, principal: Principal, what: str) -> Members:
        topic, service = topic_of(request), self._service
        if not principal.may_see_private:
            raise Problem("scope_missing", "this needs a console token with the scope private")
        if service is None or topic.kind != TENANT_KIND:
            return {"listed": False, "topic": str(topic), what: []}
        with forwarded(), self.counted("GET", f"/v1/tenants/{{id}}/{what}"):
            document = await (service.links(topic) if what == "links" else service.overrides(topic))
        return {"listed": True, "topic": str(topic), **document}

    async def drift(self, request: Request, principal: Principal) -> Members:
        """Answer the recorded differences between the published and the provider's state, the newest first."""
        query = request.query_params
        service = self._service
        if service is None:
            return {"listed": False, "drift": [], "counts": {}, "next": None}
        env = query.get("env") or service.environments[0]
        limit = query_integer(request, "limit", 50, DRIFT_MAX)
        before = BEFORE.read(request)
        with forwarded(), self.counted("GET", "/v1/drift"):
            document: Members = await service.drift(env, before, limit)
        wanted = query.get("topic")
        hidden = () if principal.may_see_private else DRIFT_PRIVATE
        return {
            "listed": True,
            "env": env,
            "drift": [without(row, *hidden) for row in document["drift"] if wanted in (None, row.get("topic"))],
            "counts": document["counts"],
            "next": document.get("next"),
            "private_hidden": bool(hidden),
        }

    async def status(self, request: Request, principal: Principal) -> Members:
        """Answer the provider's state, the stored state and the tabs' state, side by side."""
        topic = topic_of(request)
        (newest,) = await self._store.versions([str(topic)])
        answers = await self._console.ask_gateways("tabs", topic=str(topic), newest=newest)
        found = answers.documents.values()
        acked = [tab["acked"] or 0 for chain in found for tab in chain["tabs"]]
        document: Members = {}
        problem: Members = {}
        service = self._service if topic.kind == TENANT_KIND else None
        if service is not None:
            try:
                with self.counted("GET", "/v1/tenants/{id}/status"):
                    document = await service.status(topic)
            except Problem as error:
                problem["problem"] = {"code": error.code, "detail": error.detail}
        if document and not principal.may_see_private:
            document = _without_private(document)
        return {
            "topic": str(topic),
            "listed": service is not None,
            "provider": document.get("provider"),
            "store": document.get("store"),
            "tabs": {
                "counts": tab_status.total(chain["counts"] for chain in found),
                "newest_acked": max(acked, default=None),
                "oldest_acked": min(acked, default=None),
            },
            "document": document,
            "private_hidden": not principal.may_see_private,
            **problem,
        }

    # Repairs.

    @property
    def actions(self) -> dict[str, Action]:
        """The actions by name; none in a process without a webhook intake."""
        if self._service is None:
            return {}
        return {
            "reconcile": self._reconcile,
            "retry": self._retry,
            "retry_topic": self._retry_topic,
            **PlanChanges(self._service, self.counted).actions,
        }

    async def _reconcile(self, body: Mapping[str, Any], principal: Principal) -> Members:
        tenant = only_topic(body)
        if tenant.kind != TENANT_KIND:
            raise Problem("request_invalid", "only tenants have a provider to compare with")
        assert self._service is not None, "no such action"
        with forwarded(), self.counted("POST", "/v1/tenants/{id}/reconcile"):
            found = await self._service.reconcile(tenant, f"console:{principal.session}")
        return {"reconciled": found["outcome"], **{name: found[name] for name in ("version", "drift", "asked")}}

    async def _retry(self, body: Mapping[str, Any], _: Principal) -> Members:
        if not body.keys() <= {"env", "event_id"}:
            raise Problem("request_invalid", "send env and event_id")
        return await self._retried(text_of(body, "env"), text_of(body, "event_id"))

    async def _retried(self, environment: str, event_id: str) -> Members:
        assert self._service is not None, "no such action"
        with forwarded(), self.counted("POST", "/v1/parked/{event_id}/retry"):
            found = await self._service.retry(environment, event_id)
        shown: Members = {name: found[name] for name in ("version", "reason") if name in found}
        return {"event_id": event_id, "became": found["outcome"], **shown}

    async def _retry_topic(self, body: Mapping[str, Any], _: Principal) -> Members:
        topic = only_topic(body)
        assert self._service is not None, "no such action"
        results = []
        for row in (await _parked_of(self._service, topic))[:RETRIES_MAX]:
            event_id = str(row["event_id"])
            try:
                results.append(await self._retried(topic.env, event_id))
            except Problem as problem:
                results.append({"event_id": event_id, "became": "failed", "reason": problem.detail})
        return {"retried": len(results), "results": results}

    @contextlib.contextmanager
    def counted(self, method: str, path: str) -> Iterator[None]:
        """Count the console's call to billing in the metrics, as a request of the equivalent route."""
        status = 200
        try:
            yield
        except Problem as problem:
            status = problem.status
            raise
        finally:
            self._answered(path, method, status)


def _shown_app(app: str, state: Mapping[str, Any]) -> Members:
    plan = state.get("plan")
    key = plan.get("key") if isinstance(plan, dict) else None
    shown: Members = {"app": app, "plan": key, "status": state.get("status")}
    return shown | {name: state.get(name) for name in SHOWN_AT_TOP}


async def _parked_of(service: OperatorService, topic: Topic) -> list[dict[str, object]]:
    """Return a topic's parked events, the longest parked first, from the first `PAGES_MAX` pages of its environment.

    Raises:
        Problem: 422 request_invalid for an unknown environment.
    """
    _require_environment(service, topic.env)
    found: list[dict[str, object]] = []
    after: tuple[int, str] | None = None
    for _ in range(PAGES_MAX):
        _, rows = await service.parked(topic.env, after, PAGE)
        found += (row for row in rows if row["topic"] == str(topic))
        if len(rows) < PAGE:
            break
        after = int(str(rows[-1]["parked_us"])), str(rows[-1]["event_id"])
    return found


def _require_environment(service: OperatorService, environment: str) -> None:
    if environment not in service.environments:
        raise Problem("request_invalid", f"env is one of {', '.join(service.environments)}")


def _without_private(document: Members) -> Members:
    """Return a tenant's status without the provider's bodies and ids."""
    provider = document["provider"]
    entries = enumerate(provider["subscriptions"].values(), 1)
    kept = {str(index): without(entry, "subscription") for index, entry in entries}
    return document | {
        "provider": {"can_be_asked": provider["can_be_asked"], "subscriptions": kept},
        "store": without(document["store"], "subscriptions"),
    }
