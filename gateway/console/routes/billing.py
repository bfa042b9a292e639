"""What the console reads of billing: parked events, what is scheduled, overrides, drift, and what the provider says.

It asks the intake's own routes, where this process has them; where it has not, it says so (`listed: false`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.console.auth import ConsoleAuth
from gateway.console.in_process_client import Answer, Inner, segment
from gateway.console.observer import ConsoleObserver
from gateway.console.reports import tab_status
from gateway.console.reports.tab_status import Status
from gateway.console.routes.query import moment_cursor, number, parsed, stream_cursor, topic_of
from gateway.console.routes.topics import Desk
from gateway.console.scopes import PRIVATE
from planwire_client.core.topic import Topic
from sync.http.problem import Problem
from sync.store.command_pipeline import run_commands

PARKED_MAX = 100
DRIFT_MAX = 200
"""What one answer lists at most."""

PAGE, PAGES_MAX = 500, 20
"""Parked events of an environment that are looked through for one topic's: 500 at a time, 20 times."""

TENANT = "tenant"
DRIFT_PRIVATE = ("subject", "here", "there")
"""Members of a drift record that hold what only the private part may."""

SHOWN_AT_TOP = ("scheduled", "pending", "valid_until", "trial_ends_at", "grace_ends_at")


@dataclass(frozen=True, slots=True)
class Billing:
    """What a process that takes webhooks knows: its environments, their parked events, and its own routes.

    `page(environment, after, limit)` is how many events are parked, and some of them as JSON objects, the longest
    parked first, behind `after` (microseconds, event id).
    """

    environments: tuple[str, ...]
    page: Callable[[str, tuple[int, str] | None, int], Awaitable[tuple[int, list[dict[str, object]]]]]
    inner: Inner


class BillingDesk:
    """The routes."""

    def __init__(
        self, console: ConsoleObserver, console_auth: ConsoleAuth, desk: Desk, billing: Billing | None
    ) -> None:
        self._console = console
        self._node = console.node
        self._gate = console_auth
        self._json = desk.json
        self._billing = billing

    async def parked(self, request: Request) -> Response:
        """Answer parked events, the longest parked first; `next` goes into `after`, with the same `env`."""
        billing = self._billing
        if billing is None:
            return self._json(listed=False, environments=[])
        if (name := request.query_params.get("topic")) is not None:
            topic = parsed(name)
            found_rows = await parked_of(billing, topic)
            shown = {"env": topic.env, "total": len(found_rows), "parked": found_rows[:PARKED_MAX], "next": None}
            return self._json(listed=True, environments=[shown])
        asked = request.query_params.get("env")
        if asked is not None and asked not in billing.environments:
            raise Problem("request_invalid", f"env is one of {', '.join(billing.environments)}")
        after = moment_cursor(request.query_params.get("after")) if asked is not None else None
        found = []
        for environment in billing.environments if asked is None else (asked,):
            total, rows = await billing.page(environment, after, PARKED_MAX)
            last = rows[-1] if len(rows) == PARKED_MAX else None
            following = f"{last['parked_us']}.{last['event_id']}" if last is not None else None
            found.append({"env": environment, "total": total, "parked": rows, "next": following})
        return self._json(listed=True, environments=found)

    async def schedule(self, request: Request) -> Response:
        """Answer what will change a tenant's state by time alone, and when it is looked at next."""
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
                timers.append({"kind": kind, "due_us": due_us, "due_at": tab_status.instant(due_us)})
        return self._json(topic=str(topic), listed=self._billing is not None, timers=timers, **at_top)

    async def overrides(self, request: Request) -> Response:
        """Answer the tenant's overrides, to those who may see private parts."""
        topic = topic_of(request)
        require_private(self._gate, request)
        answer = await self._asked(request, topic, "/overrides")
        if answer is None:
            return self._json(listed=False, topic=str(topic), overrides=[])
        return self._json(listed=True, topic=str(topic), **_told(answer))

    async def drift(self, request: Request) -> Response:
        """Answer where what was published differed from what the provider said, the newest first."""
        query = request.query_params
        billing = self._billing
        if billing is None:
            return self._json(listed=False, drift=[], counts={}, next=None)
        env = query.get("env") or billing.environments[0]
        limit = number(query.get("limit"), 50, DRIFT_MAX)
        asked = {"env": env, "limit": str(limit)}
        if before := stream_cursor(query.get("before")):
            asked["before"] = before
        told = _told(await billing.inner(self._gate.require(request).session, "GET", "/v1/drift", asked))
        wanted = query.get("topic")
        rows = [row for row in told.get("drift", []) if wanted is None or row.get("topic") == wanted]
        may_see = PRIVATE in self._gate.require(request).scopes
        if not may_see:
            rows = [{name: value for name, value in row.items() if name not in DRIFT_PRIVATE} for row in rows]
        return self._json(
            listed=True,
            env=env,
            drift=rows,
            counts=told.get("counts", {}),
            next=told.get("next") or None,
            private_hidden=not may_see,
        )

    async def status(self, request: Request) -> Response:
        """Answer what the provider says, what is stored and what the tabs have said that they show, side by side."""
        topic = topic_of(request)
        name = str(topic)
        newest = (await self._node.store.versions([name]))[0]
        answers = await self._console.ask_gateways("tabs", topic=name, newest=newest)
        counts = dict.fromkeys(Status, 0)
        acked: list[int] = []
        for found in answers.of.values():
            if isinstance(found, dict):
                acked += (tab["acked"] or 0 for tab in found["tabs"])
                for status, count in found["counts"].items():
                    counts[Status(status)] += count
        tabs = {
            "counts": tab_status.named(counts),
            "newest_acked": max(acked, default=None),
            "oldest_acked": min(acked, default=None),
        }
        answer = await self._asked(request, topic, "/status")
        document: dict[str, Any] = {} if answer is None or answer.status != 200 else answer.document
        may_see = PRIVATE in self._gate.require(request).scopes
        if not may_see:
            document = _without_private(document)
        members: dict[str, Any] = {"private_hidden": not may_see}
        if answer is not None and answer.status != 200:
            members["problem"] = {
                "code": answer.document.get("code", "not_found"),
                "detail": answer.document.get("detail", f"status {answer.status}"),
            }
        return self._json(
            topic=name,
            listed=answer is not None,
            provider=document.get("provider"),
            store=document.get("store"),
            tabs=tabs,
            document=document,
            **members,
        )

    async def _asked(self, request: Request, topic: Topic, path: str) -> Answer | None:
        """Return what the intake says of a tenant; None where this process has no intake."""
        if self._billing is None or topic.kind != TENANT:
            return None
        session, tenant = self._gate.require(request).session, segment(topic.id)
        return await self._billing.inner(session, "GET", f"/v1/tenants/{tenant}{path}", {"env": topic.env})


async def parked_of(billing: Billing, topic: Topic) -> list[dict[str, object]]:
    """Return a topic's parked events, the longest parked first; of an environment's, the first `PAGES_MAX` pages count.

    Raises:
        Problem: 422 request_invalid for an environment that there is not.
    """
    if topic.env not in billing.environments:
        raise Problem("request_invalid", f"env is one of {', '.join(billing.environments)}")
    found: list[dict[str, object]] = []
    after: tuple[int, str] | None = None
    for _ in range(PAGES_MAX):
        _, rows = await billing.page(topic.env, after, PAGE)
        found += (row for row in rows if row["topic"] == str(topic))
        if len(rows) < PAGE:
            break
        after = int(str(rows[-1]["parked_us"])), str(rows[-1]["event_id"])
    return found


def require_private(console_auth: ConsoleAuth, request: Request) -> None:
    """Return when the visitor may see private parts.

    Raises:
        Problem: 403 scope_missing.
    """
    if PRIVATE not in console_auth.require(request).scopes:
        raise Problem("scope_missing", "this needs a console token with the scope private")


def _without_private(document: dict[str, Any]) -> dict[str, Any]:
    """Return a tenant's standing without what the provider's bodies and ids say."""
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


def _told(answer: Answer) -> dict[str, Any]:
    """Return what the intake said.

    Raises:
        Problem: it refused.
    """
    if answer.status != 200:
        raise refused(answer)
    return answer.document


def refused(answer: Answer) -> Problem:
    """Return the problem that tells of a refusal by the intake."""
    code = str(answer.document.get("code", "refused"))
    detail = str(answer.document.get("detail", f"status {answer.status}"))
    known = {404: "not_found", 409: "conflict", 422: "request_invalid"}.get(answer.status)
    if code == "store_unavailable":
        known = "store_unavailable"
    return Problem(known or "action_failed", f"{code}: {detail}", extra={"cause_code": code})
