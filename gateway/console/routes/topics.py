"""What the console reads of topics: the list, one topic across all gateways, its versions, differences and events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

import orjson
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import Response

from gateway.console import audit
from gateway.console.auth import ConsoleAuth
from gateway.console.observer import ConsoleObserver
from gateway.console.reports import lease, report, tab_status, topic_views
from gateway.console.reports.tab_status import Status
from gateway.console.reports.topic_list import LivePage, Stored, dated, merged
from gateway.console.routes.query import console_json, number, parsed, topic_of
from sync.core import instants
from sync.http.body import read_json
from sync.http.parameters import BEFORE
from sync.http.problem import Problem
from sync.store.models import LogEntry, StoreError
from sync.store.store import Store

TOPICS_MAX = 500
TABS_MAX = 500
VERSIONS_MAX = 200
VERSIONS_SHOWN = 50
EVENTS_MAX = 100
AUDIT_MAX = 200
"""Maximum number of rows in one answer."""

LOOK_BODY_MAX_BYTES = 4096
FIXTURE_SHOWN = 20
SEARCH_MAX = 200
LOOKED_MAX = 8
"""Maximum number of topics that one page looks at."""

SILENT_S = 3.0
"""Seconds without a registration, while a console is open, after which a gateway is shown as silent."""

ONLY = ("", "live", "trouble")


class TopicRoutes:
    """Handlers that read what the gateways and the store know. What billing knows is in billing.py."""

    def __init__(self, console: ConsoleObserver, console_auth: ConsoleAuth) -> None:
        self._console = console
        self._node = console.node
        self._console_auth = console_auth
        self._stored = Stored(console.node.store)

    # The stream.

    async def look(self, request: Request) -> Response:
        """Answer which reports there are, and keep them coming: a console is open and looks at some topics."""
        self._console_auth.require_page(request, self._console_auth.require(request))
        body = await read_json(request, LOOK_BODY_MAX_BYTES, self._node.settings.body_timeout_s)
        topics = body.get("topics") if isinstance(body, dict) else None
        if not isinstance(topics, list):
            raise Problem("request_invalid", 'send {"topics": [...]}')
        if len(topics) > LOOKED_MAX:
            raise Problem("request_invalid", f"a page looks at no more than {LOOKED_MAX} topics")
        names = [str(parsed(name)) for name in topics]
        store = self._node.store
        was_watched = self._console.reporter.is_watched
        await lease.touch_lease(store, names)
        self._console.reporter.extend_watch(names)
        if not was_watched:
            # Wakes the other gateways: each answers or is silent.
            await self._console.ask_gateways("overview")
        known = await lease.gateways(store) | {self._node.name: time.time()}
        now = time.time()
        rows = [
            {
                "gateway": name,
                "report": report.gateway_topic(name),
                "age_s": max(0.0, now - at),
                "is_silent": was_watched and now - at > SILENT_S,
            }
            for name, at in sorted(known.items())
        ]
        watched = {name: {node: report.tabs_topic(node, name) for node in known} for name in names}
        return console_json(
            self._node,
            ttl_ms=round(lease.LEASE_S * 1000),
            renew_ms=round(lease.RENEW_S * 1000),
            gateways=rows,
            watched=watched,
        )

    # Across gateways.

    async def counters(self, request: Request) -> Response:
        """Answer this gateway's own report."""
        await self._console.tab_counts.count()
        principal = self._console_auth.require(request)
        return console_json(self._node, **self._console.reporter.overview() | {"has_login": principal.has_login})

    async def gateways(self, _: Request) -> Response:
        """Answer the report of every gateway."""
        answers = await self._console.ask_gateways("overview")
        return console_json(self._node, gateways=answers.documents, silent=answers.silent)

    async def topics(self, request: Request) -> Response:
        """Answer one page of the topics, by name; `next` goes into `after` for the page that follows."""
        query = request.query_params
        only = query.get("only", "")
        if only not in ONLY:
            raise Problem("request_invalid", "only is live or trouble")
        wanted = LivePage(
            query.get("search", "")[:SEARCH_MAX].strip().lower(),
            only,
            query.get("after", ""),
            number(query.get("limit"), TOPICS_MAX, TOPICS_MAX),
        )
        answers = await self._console.ask_gateways("topics", **wanted.about())
        stored: list[str] = []
        if not only:
            await self._stored.refresh()
            stored = wanted.matching(self._stored.names)
        rows, following, matching = merged(answers.documents.values(), stored, wanted)
        dated(rows, await self._node.store.versions([row["name"] for row in rows]), time.time())
        live = max((page["live"] for page in answers.documents.values()), default=0)
        return console_json(
            self._node,
            topics=rows,
            next=following,
            matching=matching,
            live=live,
            stored=len(self._stored.names),
            is_complete=self._stored.is_complete,
            silent=answers.silent,
        )

    async def topic(self, request: Request) -> Response:
        """Answer what the store holds of a topic, what each gateway has, and a page of the tabs."""
        name = str(topic_of(request))
        offset = number(request.query_params.get("after"), 0, 10**9, least=0)
        limit = number(request.query_params.get("limit"), TABS_MAX, TABS_MAX)
        (snapshot,) = await self._node.store.read_many([name])
        answers = await self._console.ask_gateways("tabs", topic=name, newest=snapshot.version)
        found = answers.documents.values()
        gateways = [{name: chain[name] for name in chain if name not in ("tabs", "counts")} for chain in found]
        tabs = [{**row, "gateway": chain["gateway"]} for chain in found for row in chain["tabs"]]
        ranks = {status.value: rank for rank, status in enumerate(Status)}
        tabs.sort(key=lambda tab: ranks[tab["status"]])
        page = tabs[offset : offset + limit]
        return console_json(
            self._node,
            topic=name,
            committed=topic_views.committed(snapshot) | {"age_s": topic_views.age_s(snapshot.version, time.time())},
            gateways=gateways,
            counts=tab_status.total(chain["counts"] for chain in found),
            tabs=page,
            next=offset + limit if offset + limit < len(tabs) else None,
            silent=answers.silent,
        )

    # From the store.

    async def timeline(self, request: Request) -> Response:
        """Answer a topic's newest versions, each with its cause and what it changed."""
        name = str(topic_of(request))
        count = number(request.query_params.get("count"), VERSIONS_SHOWN, VERSIONS_MAX)
        entries = await self._node.store.log(name, count + 1)
        versions = topic_views.timeline(entries, count)
        return console_json(self._node, topic=name, versions=versions, more=len(entries) > count)

    async def diff(self, request: Request) -> Response:
        """Answer the differences between two versions in a topic's log."""
        name = str(topic_of(request))
        old, new = (number(request.query_params.get(key), 0, 2**53) for key in ("from", "to"))
        entries = {entry.version: entry for entry in await self._node.store.log(name, VERSIONS_MAX + 1)}
        if old not in entries or new not in entries:
            raise Problem("not_found", "the log no longer keeps one of these versions, or never did")
        found = topic_views.differences(
            orjson.loads(entries[old].state), orjson.loads(entries[new].state), topic_views.DIFF_MAX + 1
        )
        shown = [item._asdict() for item in found[: topic_views.DIFF_MAX]]
        has_more = len(found) > topic_views.DIFF_MAX
        return console_json(self._node, topic=name, old=old, new=new, differences=shown, more=has_more)

    async def snapshot(self, request: Request) -> Response:
        """Answer one version as it is stored, the newest by default; its private part to those who may see it."""
        name = str(topic_of(request))
        may_see = self._console_auth.may_see_private(request)
        newest = await self._node.store.read(name)
        version = number(request.query_params.get("version"), newest.version, 2**53, least=0)
        is_newest = version == newest.version
        entry = LogEntry(version, newest.state, newest.cause)
        if not is_newest:
            entry = await kept_version(self._node.store, name, version)
        members: dict[str, object] = {}
        if is_newest and may_see and newest.private:
            members["private"] = topic_views.pretty(newest.private)
        return console_json(
            self._node,
            topic=name,
            version=version,
            age_s=topic_views.age_s(version, time.time()),
            state=topic_views.pretty(entry.state),
            cause=topic_views.cause(entry.cause),
            private_hidden=is_newest and bool(newest.private) and not may_see,
            is_newest=is_newest,
            **members,
        )

    async def events(self, request: Request) -> Response:
        """Answer the outcomes of a topic's newest events."""
        name = str(topic_of(request))
        return console_json(self._node, topic=name, events=await self._events(name))

    async def _events(self, name: str) -> list[dict[str, Any]]:
        try:
            entries = await self._node.store.redis.xrevrange(self._node.store.keys.events(name), count=EVENTS_MAX)
        except (RedisError, OSError) as error:
            raise StoreError(f"events of {name}: {error}") from error
        fields = cast(list[tuple[bytes, Mapping[bytes, bytes]]], entries)
        return [topic_views.event(entry) for _, entry in fields]

    async def fixture(self, request: Request) -> Response:
        """Answer a topic's newest versions and events, the oldest first, for a test to replay; nothing private."""
        name = str(topic_of(request))
        count = number(request.query_params.get("count"), FIXTURE_SHOWN, VERSIONS_MAX)
        states = [
            {
                "version": entry.version,
                "at": instants.text_us(entry.version),
                "cause": topic_views.cause(entry.cause),
                "state": orjson.loads(entry.state),
            }
            for entry in reversed(await self._node.store.log(name, count))
        ]
        events = list(reversed(await self._events(name)))
        return console_json(self._node, topic=name, format="planwire-fixture/1", events=events, states=states)

    async def refusals(self, _: Request) -> Response:
        """Answer the rejected webhooks, by provider and code."""
        return console_json(self._node, webhooks=await self._console.rejected_webhooks.listed(), events=[])

    async def audit(self, request: Request) -> Response:
        """Answer the entries of the audit, the newest first."""
        before = BEFORE.read(request)
        limit = number(request.query_params.get("limit"), 50, AUDIT_MAX)
        entries, following = await audit.page(self._node.store, before, limit)
        return console_json(self._node, entries=entries, next=following)


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
