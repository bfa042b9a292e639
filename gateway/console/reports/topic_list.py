"""The list of topics: the live topics of all gateways with the status of their tabs, and the topics only in the store.

Each gateway answers with its first topics that match, so the merged page is complete up to its last name.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, cast

from redis.exceptions import RedisError

from gateway.console.reports.tab_counts import TabCounts
from gateway.console.reports.tab_status import nonzero, total, worst
from gateway.console.reports.topic_views import age_s
from gateway.hub.hub import Hub
from planwire_client.core.topic import RESERVED_KINDS, Topic, TopicError
from sync.store.models import StoreError
from sync.store.store import Store

STORED_MAX = 50_000
"""Maximum number of topics collected from the store."""

STORED_S = 5.0
"""Seconds for which the names found in the store are reused."""

SCAN_COUNT = 1000

_TAIL = ":snap"


class TopicQuery(NamedTuple):
    """A query for topics: `only` is "", "live" or "trouble"; `search` is in lower case, and `^` marks a prefix."""

    search: str = ""
    only: str = ""
    after: str = ""
    limit: int = 100

    @classmethod
    def read(cls, about: Mapping[str, Any]) -> TopicQuery:
        """Return the query from the members of a control message."""
        defaults = cls._field_defaults.items()
        return cls(**{name: about[name] for name, default in defaults if type(about.get(name)) is type(default)})

    def matching(self, names: Iterable[str]) -> list[str]:
        """Return the names that match, as they are or in their readable form, in order."""
        wanted = self.search.removeprefix("^")
        matches = str.startswith if wanted != self.search else str.__contains__
        return sorted(
            name for name in names
            if matches(name.lower(), wanted) or ("%" in name and matches(Topic.parse(name).readable.lower(), wanted))
        )  # fmt: skip

    def page(self, matching: list[str]) -> list[str]:
        """Return the page of the sorted names."""
        start = bisect_right(matching, self.after)
        return matching[start : start + self.limit]


def live_page(hub: Hub, tab_counts: TabCounts, wanted: TopicQuery) -> dict[str, Any]:
    """Return one gateway's page: `rows` by name, each with version, sockets, watchers and tabs."""
    if wanted.only == "trouble":
        names = list(tab_counts.unhealthy)
    else:
        names = [live.name for live in hub.topics.values() if not live.is_internal]
    matching = wanted.matching(names)
    rows = {}
    for name in wanted.page(matching):
        if (live := hub.topic(name)) is not None:
            rows[name] = {
                "version": live.version,
                "sockets": len(live.subscriptions),
                "watchers": live.readers,
                "tabs": nonzero(tab_counts.topics.get(name, {})),
            }
    return {"rows": rows, "matching": len(matching), "live": hub.topic_count}


class StoredTopics:
    """The names of the topics in the store, found by a scan of its keys at most every `STORED_S`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = asyncio.Lock()
        self._at = float("-inf")
        self.names: list[str] = []
        self.is_complete = True

    async def refresh(self) -> None:
        """Scan the store for names, unless the last scan is recent.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        async with self._lock:
            if time.monotonic() - self._at < STORED_S:
                return
            found: set[str] = set()
            keys = self._store.keys
            try:
                for server in (await self._store.servers()).values():
                    async for key in cast(Any, server).scan_iter(match=keys.head("*") + _TAIL, count=SCAN_COUNT):
                        name = keys.topic_of(key.decode("utf-8", "replace").removesuffix(_TAIL))
                        if is_listed(name):
                            found.add(name)
                        if len(found) > STORED_MAX:
                            break
            except (RedisError, OSError) as error:
                raise StoreError(f"topics: {error}") from error
            self.is_complete = len(found) <= STORED_MAX
            self.names = sorted(found)[:STORED_MAX]
            self._at = time.monotonic()


def is_listed(name: str) -> bool:
    """Return whether `name` is a topic other than the gateways' own."""
    try:
        return Topic.parse(name).kind not in RESERVED_KINDS
    except TopicError:
        return False


def merged(
    pages: Collection[Mapping[str, Any]], stored: list[str], wanted: TopicQuery
) -> tuple[list[dict[str, Any]], str | None, int]:
    """Merge the gateways' pages with `stored`, the sorted matching names in the store.

    Returns:
        The rows of the page by name, the `after` of the next page or None, and the minimum number of matching topics.
    """
    names = {name for page in pages for name in page["rows"]} | set(wanted.page(stored))
    page_names = wanted.page(sorted(names))
    rows = [_row(name, [page["rows"][name] for page in pages if name in page["rows"]]) for name in page_names]
    is_full = len(page_names) == wanted.limit
    following = page_names[-1] if page_names and is_full else None
    return rows, following, max(len(stored), *(page["matching"] for page in pages), 0)


def _row(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    tabs = total(one["tabs"] for one in found)
    return {
        "name": name,
        "version": max((one["version"] for one in found), default=0),
        "is_live": bool(found),
        "sockets": sum(one["sockets"] for one in found),
        "watchers": sum(one["watchers"] for one in found),
        "tabs": nonzero(tabs),
        "status": worst(tabs),
        "gateways": len(found),
    }


def dated(rows: list[dict[str, Any]], versions: list[int], now: float) -> None:
    """Set each row's version to the newer of its live and stored versions, and its age."""
    for row, version in zip(rows, versions, strict=True):
        row["version"] = max(row["version"], version)
        row["age_s"] = age_s(row["version"], now)
