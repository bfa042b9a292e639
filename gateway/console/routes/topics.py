"""The console's access to topics: the list, one topic across all gateways, its versions, differences and events."""

from __future__ import annotations

import time
from typing import Any

import orjson
from starlette.requests import Request

from gateway.console.auth import Principal
from gateway.console.observer import ConsoleObserver
from gateway.console.reports import lease, report, tab_status, topic_views
from gateway.console.reports.tab_status import Status
from gateway.console.reports.topic_list import StoredTopics, TopicQuery, dated, merged
from gateway.console.routes.query import Members, parsed, topic_of, without
from sync.core import instants
from sync.http.body import read_json
from sync.http.parameters import query_integer
from sync.http.problem import Problem
from sync.store.command_pipeline import run_commands
from sync.store.models import LogEntry
from sync.store.store import Store

TOPICS_MAX = 500
TABS_MAX = 500
VERSIONS_MAX = 200
VERSIONS_SHOWN = 50
EVENTS_MAX = 100
"""Maximum number of rows in one answer."""

LOOK_BODY_MAX_BYTES = 4096
FIXTURE_SHOWN = 20
SEARCH_MAX = 512
LOOKED_MAX = 8
"""Maximum number of leased topics of one page."""

SILENT_S = 3.0
"""While a console is open, a gateway is shown as silent after this many seconds without a registration."""

ONLY = ("", "live", "trouble")


class TopicRoutes:
    """Handlers that read from the gateways and the store. Those that read from billing are in billing.py."""

    def __init__(self, console: ConsoleObserver) -> None:
        self._console = console
        self._name = console.node.name
        self._settings = console.node.settings
        self._store = console.node.store
        self._stored = StoredTopics(self._store)

    # The stream.

    async def look(self, request: Request, _: Principal) -> Members:
        """Renew the leases of a console and its topics, and answer which reports there are."""
        body = await read_json(request, LOOK_BODY_MAX_BYTES, self._settings.body_timeout_s)
        topics = body.get("topics") if isinstance(body, dict) else None
        if not isinstance(topics, list):
            raise Problem("request_invalid", 'send {"topics": [...]}')
        if len(topics) > LOOKED_MAX:
            raise Problem("request_invalid", f"a page looks at no more than {LOOKED_MAX} topics")
        names = [str(parsed(name)) for name in topics]
        was_watched = self._console.reporter.is_watched
        await lease.touch_lease(self._store, names)
        self._console.reporter.extend_watch(names)
        if not was_watched:
            # Wakes the other gateways, so that each answers or counts as silent.
            await self._console.ask_gateways("overview")
        known = await lease.gateways(self._store) | {self._name: time.time()}
        ages = {name: max(0.0, time.time() - at) for name, at in sorted(known.items())}
        rows = [
            {
                "gateway": name,
                "report": report.gateway_topic(name),
                "age_s": age_s,
                "is_silent": was_watched and age_s > SILENT_S,
            }
            for name, age_s in ages.items()
        ]
        return {
            "ttl_ms": round(lease.LEASE_S * 1000),
            "renew_ms": round(lease.RENEW_S * 1000),
            "gateways": rows,
            "watched": {name: {node: report.tabs_topic(node, name) for node in known} for name in names},
        }

    # Across gateways.

    async def counters(self, _: Request, principal: Principal) -> Members:
        """Answer this gateway's own report."""
        await self._console.tab_counts.count()
        return self._console.reporter.overview() | {"has_login": bool(principal.login)}

    async def gateways(self, _: Request, __: Principal) -> Members:
        """Answer the report of every gateway."""
        answers = await self._console.ask_gateways("overview")
        return {"gateways": answers.documents, "silent": answers.silent}

    async def topics(self, request: Request, _: Principal) -> Members:
        """Answer one page of the topics, by name. Pass `next` as `after` for the next page."""
        query = request.query_params
        only = query.get("only", "")
        if only not in ONLY:
            raise Problem("request_invalid", "only is live or trouble")
        search = query.get("search", "")[:SEARCH_MAX].strip().lower()
        limit = query_integer(request, "limit", TOPICS_MAX, TOPICS_MAX)
        wanted = TopicQuery(search, only, query.get("after", ""), limit)
        answers = await self._console.ask_gateways("topics", **wanted._asdict())
        stored: list[str] = []
        if not only:
            await self._stored.refresh()
            stored = wanted.matching(self._stored.names)
        pages = answers.documents.values()
        rows, following, matching = merged(pages, stored, wanted)
        dated(rows, await self._store.versions([row["name"] for row in rows]), time.time())
        return {
            "topics": rows,
            "next": following,
            "matching": matching,
            "live": max((page["live"] for page in pages), default=0),
            "stored": len(self._stored.names),
            "is_complete": self._stored.is_complete,
            "silent": answers.silent,
        }

    async def topic(self, request: Request, _: Principal) -> Members:
        """Answer a topic's stored state, its state at each gateway, and a page of its tabs."""
        name = str(topic_of(request))
        offset = query_integer(request, "after", 0, 10**9, minimum=0)
        limit = query_integer(request, "limit", TABS_MAX, TABS_MAX)
        (snapshot,) = await self._store.read_many([name])
        answers = await self._console.ask_gateways("tabs", topic=name, newest=snapshot.version)
        found = answers.documents.values()
        tabs = [{**row, "gateway": chain["gateway"]} for chain in found for row in chain["tabs"]]
        ranks = [status.value for status in Status]
        tabs.sort(key=lambda tab: ranks.index(tab["status"]))
        return {
            "topic": name,
            "committed": topic_views.committed(snapshot, time.time()),
            "gateways": [without(chain, "tabs", "counts") for chain in found],
            "counts": tab_status.total(chain["counts"] for chain in found),
            "tabs": tabs[offset : offset + limit],
            "next": offset + limit if offset + limit < len(tabs) else None,
            "silent": answers.silent,
        }

    # From the store.

    async def timeline(self, request: Request, _: Principal) -> Members:
        """Answer a topic's newest versions, each with its cause and its changes."""
        name = str(topic_of(request))
        count = query_integer(request, "count", VERSIONS_SHOWN, VERSIONS_MAX)
        entries = await self._store.log(name, count + 1)
        return {"topic": name, "versions": topic_views.timeline(entries, count), "more": len(entries) > count}

    async def diff(self, request: Request, _: Principal) -> Members:
        """Answer the differences between two versions in a topic's log."""
        name = str(topic_of(request))
        old, new = (query_integer(request, key, 0, 2**53) for key in ("from", "to"))
        states = {entry.version: entry.state for entry in await self._store.log(name, VERSIONS_MAX + 1)}
        if old not in states or new not in states:
            raise Problem("not_found", "the log no longer keeps one of these versions, or never did")
        found = topic_views.differences(orjson.loads(states[old]), orjson.loads(states[new]), topic_views.DIFF_MAX + 1)
        shown = [item._asdict() for item in found[: topic_views.DIFF_MAX]]
        return {"topic": name, "old": old, "new": new, "differences": shown, "more": len(found) > topic_views.DIFF_MAX}

    async def snapshot(self, request: Request, principal: Principal) -> Members:
        """Answer one version as stored, the newest by default, with its private part if the caller may see it."""
        name = str(topic_of(request))
        newest = await self._store.read(name)
        version = query_integer(request, "version", newest.version, 2**53, minimum=0)
        is_newest = version == newest.version
        entry = newest if is_newest else await kept_version(self._store, name, version)
        has_private = is_newest and bool(newest.private)
        members: Members = {
            "topic": name,
            "version": version,
            "age_s": topic_views.age_s(version, time.time()),
            "state": topic_views.pretty(entry.state),
            "cause": topic_views.cause(entry.cause),
            "private_hidden": has_private and not principal.may_see_private,
            "is_newest": is_newest,
        }
        if has_private and principal.may_see_private:
            members["private"] = topic_views.pretty(newest.private)
        return members

    async def events(self, request: Request, _: Principal) -> Members:
        """Answer the outcomes of a topic's newest events."""
        name = str(topic_of(request))
        return {"topic": name, "events": await self._events(name)}

    async def _events(self, name: str) -> list[dict[str, Any]]:
        key = self._store.keys.events(name)
        (entries,) = await run_commands(self._store, ("XREVRANGE", key, "+", "-", "COUNT", EVENTS_MAX))
        return [topic_views.event(fields) for _, fields in entries]

    async def fixture(self, request: Request, _: Principal) -> Members:
        """Answer a topic's newest versions and events, the oldest first, as a test fixture without private parts."""
        name = str(topic_of(request))
        count = query_integer(request, "count", FIXTURE_SHOWN, VERSIONS_MAX)
        states = [
            {
                "version": entry.version,
                "at": instants.text_us(entry.version),
                "cause": topic_views.cause(entry.cause),
                "state": orjson.loads(entry.state),
            }
            for entry in reversed(await self._store.log(name, count))
        ]
        events = (await self._events(name))[::-1]
        return {"topic": name, "format": "planwire-fixture/1", "events": events, "states": states}

    async def refusals(self, _: Request, __: Principal) -> Members:
        """Answer the rejected webhooks, by provider and code."""
        return {"webhooks": await self._console.rejected_webhooks.listed(), "events": []}


async def kept_version(store: Store, topic: str, version: int) -> LogEntry:
    """Return a version in a topic's log.

    Raises:
        Problem: 404 not_found.
        StoreError: the store is unreachable or failing.
    """
    for entry in await store.log(topic, VERSIONS_MAX + 1):
        if entry.version == version:
            return entry
    raise Problem("not_found", "the log no longer keeps this version, or never did")
