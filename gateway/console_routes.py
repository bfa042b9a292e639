"""The console: its door, its page and the JSON that the page polls. Read only: nothing here changes anything.

It shows this gateway's own topics and sockets and what the store keeps of them. It is not there at all unless
PLANWIRE_CONSOLE_TOKEN is set, or in development on loopback.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import jwt
import orjson
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.types import Scope

from gateway import console_data as data
from gateway.assets import Assets
from gateway.body import read_json
from gateway.console_data import Status, View
from gateway.endpoint import Handler, route
from gateway.hub import LiveTopic, Subscription
from gateway.node import Node
from gateway.problem import Problem
from gateway.settings import LOOPBACK_HOSTS, GatewaySettings
from gateway.websocket import SessionSocket
from sync.state import keys
from sync.state.connect import Connected
from sync.state.store import StoreError
from sync.state.topic import Topic, TopicError

PAGES = Path(__file__).parent / "console"

COOKIE = "planwire_console"
COOKIE_TTL_S = 3600
"""How long a login lasts; it is not prolonged."""

AUDIENCE = "planwire-console"
LOGIN_BODY_MAX_BYTES = 4096
LOGIN_TRIES = 10
LOGIN_WINDOW_S = 60.0
"""Logins that one address may try within so many seconds."""

ADDRESSES_MAX = 1000
"""Addresses whose tries are remembered; beyond, the oldest is forgotten."""

TOPICS_MAX = 500
TABS_MAX = 500
VERSIONS_MAX = 200
VERSIONS_SHOWN = 50
EVENTS_MAX = 100
PARKED_MAX = 100
"""What one answer lists at most."""

SEARCH_MAX = 200
NACKS_KEPT = 1000
"""Reasons of nacks remembered; beyond, the oldest is forgotten."""

ACK_GRACE_S = 1.5
"""How long an ack may take beyond the jitter that browsers are told, before a tab counts as behind."""

CENSUS_S = 0.9
"""How long a count of all tabs is good for, whoever asks: many consoles cost no more than one."""

CENSUS_MAX = 20_000
"""Tabs that one count looks at. Beyond, the rest is said to be uncounted."""

SLICE = 1000
"""Tabs looked at before the event loop is given back."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Where parked events are read: their environments, and `page(environment, after, limit)`.

    A page is how many are parked, and the events as JSON objects, the longest parked first, behind `after`
    (microseconds, event id).
    """

    environments: tuple[str, ...]
    page: Callable[[str, tuple[int, str] | None, int], Awaitable[tuple[int, list[dict[str, object]]]]]


def is_on(settings: GatewaySettings) -> bool:
    """Whether there is a console for anybody."""
    return settings.dev or bool(settings.console_token.get_secret_value())


class ConsoleNode(Node):
    """A node that remembers why browsers refused a version."""

    def __init__(self, settings: GatewaySettings, connected: Connected) -> None:
        super().__init__(settings, connected)
        self._reasons: OrderedDict[tuple[str, str], tuple[int, str]] = OrderedDict()

    def nacked(self, subscription: Subscription, version: int, reason: str) -> None:
        """Note that a browser could not use `version`, and why."""
        super().nacked(subscription, version, reason)
        key = _session(subscription).session.id, subscription.live.name
        self._reasons[key] = version, reason
        self._reasons.move_to_end(key)
        if len(self._reasons) > NACKS_KEPT:
            self._reasons.popitem(last=False)

    def nack_reason(self, session: str, topic: str, version: int) -> str:
        """Return why a session refused this version of a topic; empty where it gave no reason or it is forgotten."""
        kept, reason = self._reasons.get((session, topic), (0, ""))
        return reason if kept == version else ""


class Gate:
    """Who may look. The cookie's key comes from the console token, so every process of the deployment reads it."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._token = settings.console_token.get_secret_value().encode()
        self._key = hmac.digest(self._token, b"planwire console cookie v1", "sha256") if self._token else b""
        self._dev = settings.dev
        self._tries: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def is_local(self, request: HTTPConnection) -> bool:
        """Whether it is a developer's own machine. The Host is looked at too: a foreign name that was made to point
        to loopback is a foreign page's."""
        host = _hostname(f"//{request.headers.get('host', '')}")
        return self._dev and request.client is not None and {request.client.host, host} <= LOOPBACK_HOSTS

    def require_visible(self, request: HTTPConnection) -> None:
        """Return when there is a console for this request.

        Raises:
            Problem: 404 not_found.
        """
        if not self._token and not self.is_local(request):
            raise Problem("not_found", "Not Found")

    def require(self, request: Request) -> None:
        """Return when this request may see what the console shows.

        Raises:
            Problem: 404 not_found where there is no console, 401 token_missing or token_expired.
        """
        self.require_visible(request)
        if self.is_local(request):
            return
        try:
            jwt.decode(
                request.cookies.get(COOKIE, ""),
                self._key,
                algorithms=["HS256"],
                audience=AUDIENCE,
                options={"require": ["exp", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise Problem("token_expired", "the login has ended, log in again") from None
        except jwt.InvalidTokenError:
            raise Problem("token_missing", "log in with the console token first") from None

    def login(self, request: Request, presented: object, now: float) -> str:
        """Return a cookie's value for the right token.

        Raises:
            Problem: 429 rate_limited, 401 key_invalid.
        """
        address = request.client.host if request.client is not None else ""
        self._spend(address, now)
        given = presented.encode("utf-8", "replace") if isinstance(presented, str) else b""
        # Of equal length, so that the comparison's time says nothing of the token's.
        if not self._token or not hmac.compare_digest(self._digest(given), self._digest(self._token)):
            raise Problem("key_invalid", "that is not the console token")
        self._tries.pop(address, None)
        return jwt.encode({"aud": AUDIENCE, "iat": int(now), "exp": int(now) + COOKIE_TTL_S}, self._key, "HS256")

    def _digest(self, text: bytes) -> bytes:
        return hmac.digest(self._key, text, "sha256")

    def _spend(self, address: str, now: float) -> None:
        began, count = self._tries.get(address, (now, 0))
        if now - began >= LOGIN_WINDOW_S:
            began, count = now, 0
        if count >= LOGIN_TRIES:
            wait = {"Retry-After": str(max(1, round(began + LOGIN_WINDOW_S - now)))}
            raise Problem("rate_limited", f"{LOGIN_TRIES} tries in {LOGIN_WINDOW_S:g} s are enough", headers=wait)
        self._tries[address] = began, count + 1
        self._tries.move_to_end(address)
        if len(self._tries) > ADDRESSES_MAX:
            self._tries.popitem(last=False)


def require_own_origin(request: Request) -> str:
    """Return the scheme of the page that sent this: it is our own. Every browser names it on a POST.

    Raises:
        Problem: 403 origin_forbidden.
    """
    try:
        origin = urlsplit(request.headers.get("origin", ""))
    except ValueError:
        origin = urlsplit("")
    if origin.scheme not in ("http", "https") or origin.netloc.lower() != request.headers.get("host", "").lower():
        raise Problem("origin_forbidden", "the console answers its own page only")
    return origin.scheme


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


class Census:
    """How many tabs of each topic are in which state; counted at most once every `CENSUS_S`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = asyncio.Lock()
        self._at = float("-inf")
        self.topics: dict[str, dict[Status, int]] = {}
        self.total: Counter[Status] = Counter()
        self.uncounted = 0

    async def count(self) -> None:
        """Return once the counts are recent."""
        async with self._lock:
            if time.monotonic() - self._at < CENSUS_S:
                return
            topics: dict[str, dict[Status, int]] = {}
            total: Counter[Status] = Counter()
            looked, uncounted, slice_end = 0, 0, SLICE
            view = _view(self._node, time.time(), self._node.hub.fresh)
            for live in [live for live in self._node.hub.topics.values() if live.ring]:
                ring = live.ring if looked + len(live.ring) <= CENSUS_MAX else live.ring[: CENSUS_MAX - looked]
                counts = topics[live.name] = _counts(live, ring, view)
                for status, count in counts.items():
                    total[status] += count
                looked += len(ring)
                uncounted += len(live.ring) - len(ring)
                if looked >= slice_end:
                    slice_end = looked + SLICE
                    await asyncio.sleep(0)
                    view = _view(self._node, time.time(), self._node.hub.fresh)
            self.topics, self.total, self.uncounted = topics, total, uncounted
            self._at = time.monotonic()


def _counts(live: LiveTopic, tabs: list[Subscription], view: View) -> dict[Status, int]:
    """Return how many of a topic's tabs are in which state."""
    counts: dict[Status, int] = {}
    version = live.version
    is_plain = live.known and view.is_current
    for tab in tabs:
        # Nearly every tab is in step, and is seen to be so without more ado.
        is_synced = is_plain and tab.sent == version == tab.acked
        status = Status.SYNCED if is_synced else _judge(tab, view).status
        counts[status] = counts.get(status, 0) + 1
    return counts


def console_routes(node: Node, parked: Parked | None) -> list[BaseRoute]:
    """Return the console's routes; without `parked` this process does not list parked events, and says so."""
    gate = Gate(node.settings)
    desk = _Desk(node, parked)

    def guarded(handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            gate.require(request)
            return await handler(request)

        return endpoint

    async def login(request: Request) -> Response:
        gate.require_visible(request)
        scheme = require_own_origin(request)
        body = await read_json(request, LOGIN_BODY_MAX_BYTES, node.settings.body_timeout_s)
        value = gate.login(request, body.get("token") if isinstance(body, dict) else None, time.time())
        response = Response(status_code=204)
        is_secure = "https" in (scheme, request.url.scheme)
        response.set_cookie(
            COOKIE, value, COOKIE_TTL_S, path="/console", secure=is_secure, httponly=True, samesite="strict"
        )
        return response

    async def logout(request: Request) -> Response:
        gate.require_visible(request)
        scheme = require_own_origin(request)
        response = Response(status_code=204)
        is_secure = "https" in (scheme, request.url.scheme)
        response.delete_cookie(COOKIE, path="/console", secure=is_secure, httponly=True, samesite="strict")
        return response

    async def index(request: Request) -> Response:
        gate.require_visible(request)
        return RedirectResponse("/console/")

    api = {
        "counters": desk.counters,
        "topics": desk.topics,
        "topics/{name:path}": desk.topic,
        "timeline/{name:path}": desk.timeline,
        "diff/{name:path}": desk.diff,
        "events/{name:path}": desk.events,
        "parked": desk.parked,
    }
    return [
        route(node, "/console/login", "POST", login),
        route(node, "/console/logout", "POST", logout),
        *(route(node, f"/console/api/{path}", "GET", guarded(handler)) for path, handler in api.items()),
        route(node, "/console", "GET", index),
        Mount("/console", _Pages(gate)),
    ]


class _Pages(Assets):
    """The page's files, where there is a console. They hold no data, so the login is asked for by the API alone."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(PAGES, (".html", ".js", ".css"))
        self._gate = gate

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file, or raise 404."""
        try:
            self._gate.require_visible(HTTPConnection(scope))
        except Problem as problem:
            raise HTTPException(404) from problem
        return await super().get_response(path, scope)


class _Desk:
    """What the page polls."""

    def __init__(self, node: Node, parked: Parked | None) -> None:
        self._node = node
        self._parked = parked
        self._census = Census(node)

    async def counters(self, request: Request) -> Response:
        """Answer the state of this gateway and what it has counted since it started."""
        node, metrics, census = self._node, self._node.metrics, self._census
        await census.count()
        acked = metrics.publish_to_acked
        quantiles = {name: data.quantile(acked, share) for name, share in (("p50", 0.5), ("p99", 0.99))}
        verified = node.hub.verified_at_us
        return self._json(
            has_login=COOKIE in request.cookies,
            fresh=node.hub.fresh,
            probe_age_s=data.age_s(verified, time.time()),
            draining=metrics.draining,
            sockets=metrics.sockets,
            topics=len(node.hub.topics),
            streams=metrics.streams,
            tabs={status.value: census.total[status] for status in Status},
            uncounted=census.uncounted,
            publish_to_acked={
                "count": sum(acked.counts),
                **{name: None if found is None else found._asdict() for name, found in quantiles.items()},
            },
            deliveries=metrics.sent,
            replaced=metrics.replaced,
            acks=metrics.acks,
            nacks=metrics.nacks,
        )

    async def topics(self, request: Request) -> Response:
        """Answer one page of the live topics, by name; `next` goes into `after` for the page that follows."""
        query = request.query_params
        wanted = query.get("search", "")[:SEARCH_MAX].strip().lower()
        census, hub, now = self._census, self._node.hub, time.time()
        await census.count()
        names = hub.live_names()
        if query.get("only") == "trouble":
            names = [name for name in names if _is_trouble(census.topics.get(name, {}))]
        matching = sorted(name for name in names if wanted in name.lower())
        limit = _number(query.get("limit"), TOPICS_MAX, TOPICS_MAX)
        start = bisect_right(matching, query.get("after", ""))
        page = matching[start : start + limit]
        found = [live for name in page if (live := hub.topic(name)) is not None]
        rows = [data.topic_row(live, census.topics.get(live.name, {}), now) for live in found]
        is_last = start + limit >= len(matching)
        return self._json(
            topics=rows, total=len(hub.topics), matching=len(matching), next=None if is_last or not page else page[-1]
        )

    async def topic(self, request: Request) -> Response:
        """Answer one topic's chain: what the store holds, what this gateway has, and a page of its tabs."""
        name = _name(request)
        offset = _number(request.query_params.get("after"), 0, 10**9, least=0)
        limit = _number(request.query_params.get("limit"), TABS_MAX, TABS_MAX)
        (snapshot,) = await self._node.store.read_many([name])
        live = self._node.hub.topic(name)
        now = time.time()
        here: dict[str, Any] | None = None
        tabs: list[dict[str, Any]] = []
        counts: Counter[Status] = Counter()
        following = None
        if live is not None:
            is_current = self._node.hub.fresh and live.known and live.version >= snapshot.version
            view = _view(self._node, now, is_current)
            judged = data.worst_first((tab, _judge(tab, view)) for tab in live.ring[:CENSUS_MAX])
            counts = Counter(judgement.status for _, judgement in judged)
            page = judged[offset : offset + limit]
            tabs = [self._tab(tab, judgement) for tab, judgement in page]
            following = offset + limit if offset + limit < len(judged) else None
            here = self._here(live, snapshot.version, is_current, now)
        return self._json(
            topic=name,
            committed=data.committed(snapshot) | {"age_s": data.age_s(snapshot.version, now)},
            here=here,
            counts={status.value: counts[status] for status in Status},
            tabs=tabs,
            next=following,
        )

    def _here(self, live: LiveTopic, newest: int, is_current: bool, now: float) -> dict[str, Any]:
        if not self._node.hub.fresh:
            why = "The bus is not proved to deliver: this gateway tells its tabs that what they show may be old."
        elif live.version < newest:
            sweep_s = self._node.settings.sweep_s
            why = f"It has not got the newest version; its next sweep, every {sweep_s:g} s, finds it."
        elif not live.known:
            why = "It is reading the topic again."
        else:
            why = "It has the newest version."
        return {
            "version": live.version,
            "age_s": data.age_s(live.version, now),
            "status": Status.SYNCED if is_current else Status.BEHIND if live.version < newest else Status.STALE,
            "why": why,
            "sockets": len(live.ring),
            "watchers": live.watchers,
            "uncounted": max(0, len(live.ring) - CENSUS_MAX),
        }

    def _tab(self, tab: Subscription, judgement: data.Judgement) -> dict[str, Any]:
        socket = _session(tab)
        session, claims = socket.session, socket.session.claims
        reason = ""
        if tab.nacked and isinstance(self._node, ConsoleNode):
            reason = self._node.nack_reason(session.id, tab.live.name, tab.nacked)
        return {
            "session": session.id,
            "sub": "" if claims is None else claims.sub,
            "client": session.client,
            "sent": max(tab.sent, 0),
            "acked": tab.acked,
            "nacked": tab.nacked,
            "reason": reason,
            "status": judgement.status,
            "why": judgement.why,
            "owed_s": judgement.owed_s,
            "blocked": socket.outbox is not None,
            "buffered_bytes": socket.buffered_bytes(),
            "since": socket.opened_at,
        }

    async def timeline(self, request: Request) -> Response:
        """Answer a topic's newest versions, each with its cause and what it changed."""
        name = _name(request)
        count = _number(request.query_params.get("count"), VERSIONS_SHOWN, VERSIONS_MAX)
        entries = await self._node.store.log(name, count + 1)
        return self._json(topic=name, versions=data.timeline(entries, count), more=len(entries) > count)

    async def diff(self, request: Request) -> Response:
        """Answer the differences between two versions in a topic's log."""
        name = _name(request)
        old, new = (_number(request.query_params.get(key), 0, 2**53) for key in ("from", "to"))
        entries = {entry.version: entry for entry in await self._node.store.log(name, VERSIONS_MAX + 1)}
        if old not in entries or new not in entries:
            raise Problem("not_found", "the log no longer keeps one of these versions, or never did")
        found = data.differences(orjson.loads(entries[old].state), orjson.loads(entries[new].state), data.DIFF_MAX + 1)
        shown = [item._asdict() for item in found[: data.DIFF_MAX]]
        return self._json(topic=name, old=old, new=new, differences=shown, more=len(found) > data.DIFF_MAX)

    async def events(self, request: Request) -> Response:
        """Answer what became of a topic's newest events."""
        name = _name(request)
        try:
            entries = await self._node.store.redis.xrevrange(keys.slot(name) + ":events", count=EVENTS_MAX)
        except (RedisError, OSError) as error:
            raise StoreError(f"events of {name}: {error}") from error
        fields = cast(list[tuple[bytes, Mapping[bytes, bytes]]], entries)
        return self._json(topic=name, events=[data.event(entry) for _, entry in fields])

    async def parked(self, request: Request) -> Response:
        """Answer parked events, the longest parked first; `next` goes into `after`, with the same `env`."""
        if self._parked is None:
            return self._json(listed=False, environments=[])
        asked = request.query_params.get("env")
        if asked is not None and asked not in self._parked.environments:
            raise Problem("request_invalid", f"env is one of {', '.join(self._parked.environments)}")
        after = _cursor(request.query_params.get("after")) if asked is not None else None
        found = []
        for environment in self._parked.environments if asked is None else (asked,):
            total, rows = await self._parked.page(environment, after, PARKED_MAX)
            last = rows[-1] if len(rows) == PARKED_MAX else None
            following = f"{last['parked_us']}.{last['event_id']}" if last is not None else None
            found.append({"env": environment, "total": total, "parked": rows, "next": following})
        return self._json(listed=True, environments=found)

    def _json(self, **members: object) -> Response:
        body = {"gateway": self._node.name, "at": time.time(), **members}
        return Response(orjson.dumps(body), media_type="application/json")


def _view(node: Node, now: float, is_current: bool) -> View:
    settings = node.settings
    return View(now, ACK_GRACE_S + settings.ack_after_ms / 1000, settings.acks_per_topic, is_current)


def _session(tab: Subscription) -> SessionSocket:
    """Return the tab's socket as what it is in a running gateway."""
    return cast(SessionSocket, tab.socket)


def _judge(tab: Subscription, view: View) -> data.Judgement:
    return data.judge(tab, _session(tab).opened_at, view)


def _is_trouble(counts: Mapping[Status, int]) -> bool:
    return data.worst(counts) in (Status.NACKED, Status.BEHIND, Status.STALE)


def _name(request: Request) -> str:
    try:
        return str(Topic.parse(request.path_params["name"]))
    except TopicError as error:
        raise Problem("topic_invalid", str(error)) from None


def _number(text: str | None, default: int, most: int, least: int = 1) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 16 or not least <= int(text) <= most:
        raise Problem("request_invalid", f"a number in the query is not one from {least} to {most}")
    return int(text)


def _cursor(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    at, dot, event_id = text.partition(".")
    if not dot or not (at.isascii() and at.isdigit()) or len(at) > 16:
        raise Problem("request_invalid", "after is not a cursor: pass what `next` said")
    return int(at), event_id
