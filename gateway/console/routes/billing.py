"""What the console reads of billing: parked events, scheduled changes, overrides, drift, and the provider's state.

A process without a webhook intake answers `listed: false`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.console.auth import ConsoleAuth
from gateway.console.observer import ConsoleObserver
from gateway.console.reports import tab_status
from gateway.console.routes.query import console_json, number, parsed, topic_of
from planwire_client.core.topic import TENANT_KIND, Topic
from sync.core import instants
from sync.http.parameters import AFTER, BEFORE
from sync.http.problem import Problem
from sync.store.command_pipeline import run_commands

if TYPE_CHECKING:
    from sync.billing.api.operator_service import OperatorService

PARKED_MAX = 100
DRIFT_MAX = 200
"""Maximum number of rows in one answer."""

PAGE, PAGES_MAX = 500, 20
"""Size and maximum number of the pages of parked events that are searched for one topic."""

DRIFT_PRIVATE = ("subject", "here", "there")
"""Members of a drift record that belong to the private part."""

SHOWN_AT_TOP = ("scheduled", "pending", "valid_until", "trial_ends_at", "grace_ends_at")


class BillingRoutes:
    """The handlers. `service` is None in a process that takes no webhooks."""

    def __init__(self, console: ConsoleObserver, console_auth: ConsoleAuth, service: OperatorService | None) -> None:
        self._console = console
        self._node = console.node
        self._console_auth = console_auth
        self._service = service

    async def parked(self, request: Request) -> Response:
        """Answer parked events, the longest parked first; `next` goes into `after`, with the same `env`."""
        service = self._service
        if service is None:
            return console_json(self._node, listed=False, environments=[])
        if (name := request.query_params.get("topic")) is not None:
            topic = parsed(name)
            found_rows = await parked_of(service, topic)
            shown = {"env": topic.env, "total": len(found_rows), "parked": found_rows[:PARKED_MAX], "next": None}
            return console_json(self._node, listed=True, environments=[shown])
        asked = request.query_params.get("env")
        if asked is not None and asked not in service.environments:
            raise Problem("request_invalid", f"env is one of {', '.join(service.environments)}")
        after = AFTER.read(request) if asked is not None else None
        found = []
        for environment in service.environments if asked is None else (asked,):
            total, rows = await service.parked(environment, after, PARKED_MAX)
            last = rows[-1] if len(rows) == PARKED_MAX else None
            following = f"{last['parked_us']}.{last['event_id']}" if last is not None else None
            found.append({"env": environment, "total": total, "parked": rows, "next": following})
        return console_json(self._node, listed=True, environments=found)

    async def schedule(self, request: Request) -> Response:
        """Answer what will change a tenant's state by time alone, and when its timers are due."""
        topic = topic_of(request)
        (snapshot,) = await self._node.store.read_many([str(topic)])
        state = orjson.loads(snapshot.state)
        at_top = {name: state.get(name) if isinstance(state, dict) else None for name in SHOWN_AT_TOP}
        timers = []
        keys = self._node.store.keys
        for kind, key in (("time", keys.timers(topic.env)), ("audit", keys.audits(topic.env))):
            (due,) = await run_commands(self._node.store, ("ZSCORE", key, str(topic)))
            if due is not None:
                due_us = int(float(due))
                timers.append({"kind": kind, "due_us": due_us, "due_at": instants.text_us(due_us)})
        return console_json(self._node, topic=str(topic), listed=self._service is not None, timers=timers, **at_top)

    async def overrides(self, request: Request) -> Response:
        """Answer the tenant's overrides. Needs the scope private."""
        topic = topic_of(request)
        if not self._console_auth.may_see_private(request):
            raise Problem("scope_missing", "this needs a console token with the scope private")
        if self._service is None or topic.kind != TENANT_KIND:
            return console_json(self._node, listed=False, topic=str(topic), overrides=[])
        with forwarded_problems():
            document = await self._service.overrides(topic)
        return console_json(self._node, listed=True, topic=str(topic), **document)

    async def drift(self, request: Request) -> Response:
        """Answer where the published state differed from the provider's, the newest first."""
        query = request.query_params
        service = self._service
        if service is None:
            return console_json(self._node, listed=False, drift=[], counts={}, next=None)
        env = query.get("env") or service.environments[0]
        limit = number(query.get("limit"), 50, DRIFT_MAX)
        before = BEFORE.read(request)
        with forwarded_problems():
            document: dict[str, Any] = await service.drift(env, before, limit)
        wanted = query.get("topic")
        rows = [row for row in document["drift"] if wanted is None or row.get("topic") == wanted]
        may_see = self._console_auth.may_see_private(request)
        if not may_see:
            rows = [{name: value for name, value in row.items() if name not in DRIFT_PRIVATE} for row in rows]
        return console_json(
            self._node,
            listed=True,
            env=env,
            drift=rows,
            counts=document["counts"],
            next=document.get("next"),
            private_hidden=not may_see,
        )

    async def status(self, request: Request) -> Response:
        """Answer what the provider says, what the store holds and what the tabs show, side by side."""
        topic = topic_of(request)
        name = str(topic)
        newest = (await self._node.store.versions([name]))[0]
        answers = await self._console.ask_gateways("tabs", topic=name, newest=newest)
        found = answers.documents.values()
        acked = [tab["acked"] or 0 for chain in found for tab in chain["tabs"]]
        tabs = {
            "counts": tab_status.total(chain["counts"] for chain in found),
            "newest_acked": max(acked, default=None),
            "oldest_acked": min(acked, default=None),
        }
        document: dict[str, Any] = {}
        members: dict[str, Any] = {}
        is_listed = self._service is not None and topic.kind == TENANT_KIND
        if self._service is not None and is_listed:
            try:
                document = await self._service.status(topic)
            except Problem as problem:
                members["problem"] = {"code": problem.code, "detail": problem.detail}
        may_see = self._console_auth.may_see_private(request)
        if not may_see:
            document = _without_private(document)
        return console_json(
            self._node,
            topic=name,
            listed=is_listed,
            provider=document.get("provider"),
            store=document.get("store"),
            tabs=tabs,
            document=document,
            private_hidden=not may_see,
            **members,
        )


async def parked_of(service: OperatorService, topic: Topic) -> list[dict[str, object]]:
    """Return a topic's parked events, the longest parked first, among the first `PAGES_MAX` pages of its environment.

    Raises:
        Problem: 422 request_invalid for an unknown environment.
    """
    if topic.env not in service.environments:
        raise Problem("request_invalid", f"env is one of {', '.join(service.environments)}")
    found: list[dict[str, object]] = []
    after: tuple[int, str] | None = None
    for _ in range(PAGES_MAX):
        _, rows = await service.parked(topic.env, after, PAGE)
        found += (row for row in rows if row["topic"] == str(topic))
        if len(rows) < PAGE:
            break
        after = int(str(rows[-1]["parked_us"])), str(rows[-1]["event_id"])
    return found


def _without_private(document: dict[str, Any]) -> dict[str, Any]:
    """Return a tenant's status without the provider's bodies and ids."""
    shown = dict(document)
    if isinstance(provider := shown.get("provider"), dict):
        found = provider.get("subscriptions")
        entries = list(found.values()) if isinstance(found, dict) else []
        kept = {
            str(index): {name: entry[name] for name in ("asked_at", "is_held") if name in entry}
            for index, entry in enumerate(entries, 1)
        }
        shown["provider"] = {"can_be_asked": provider.get("can_be_asked"), "subscriptions": kept}
    if isinstance(store := shown.get("store"), dict):
        shown["store"] = {name: value for name, value in store.items() if name != "subscriptions"}
    return shown


@contextlib.contextmanager
def forwarded_problems() -> Iterator[None]:
    """Raise a problem of billing as one of the console: its code goes into the detail and into `cause_code`."""
    try:
        yield
    except Problem as problem:
        code = {404: "not_found", 409: "conflict", 422: "request_invalid"}.get(problem.status, "action_failed")
        if problem.code == "store_unavailable":
            code = problem.code
        raise Problem(code, str(problem), extra={"cause_code": problem.code}) from problem
