"""The counters of all tenants, window by window, for reports and bills."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson

from planwire_client.core.topic import Topic, decode_id
from sync.core import instants
from sync.http.problem import Problem
from sync.store.command_pipeline import run_commands
from sync.store.models import StoreError
from sync.usage.calls import UNLIMITED, Call
from sync.usage.records import WindowRecord, read_windows
from sync.usage.service import UsageService


@dataclass(frozen=True, slots=True)
class Counter:
    """What a tenant has used of a meter in one window.

    Attributes:
        tenant: the application's id of the tenant.
        starts_us, ends_us: the window, microseconds since 1970; 0: it has no start or end.
        used: units of the limit and of granted credits; of an open window without those reserved.
        limit: UNLIMITED (-1) for no bound; None: it is not known. Without granted credits, if the window has ended.
        is_open: whether the window goes on.
    """

    tenant: str
    meter: str
    kind: str
    starts_us: int
    ends_us: int
    used: int
    reserved: int
    limit: int | None
    is_open: bool


class UsageExport:
    """Reads the counters of an environment in pages of tenants."""

    def __init__(self, service: UsageService) -> None:
        self._service = service
        self._store = service.store

    async def page(self, environment: str, after: str, tenants_max: int) -> tuple[list[Counter], str]:
        """Return the counters of one page of tenants, and the `after` of the next page; "" if this is the last.

        Tenants are in order of their names. A tenant that counts for the first time meanwhile may be left out. Windows
        that have ended unnoticed, because nothing was counted since, are ended first.

        Args:
            environment: the provider's environment.
            after: the last tenant of the page before; "" for the first page.
            tenants_max: maximum tenants in the page.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        key = self._store.keys.usage_tenants(environment)
        least = f"({after}" if after else "-"
        (names,) = await run_commands(self._store, ("ZRANGEBYLEX", key, least, "+", "LIMIT", 0, tenants_max))
        tenants = [name.decode() for name in names]
        answers = await self._service.call_many([Call(tenant, "show") for tenant in tenants])
        found: list[Counter] = []
        erased: list[str] = []
        ended = await read_windows(self._store, tenants)
        for tenant, answer, windows in zip(tenants, answers, ended, strict=True):
            if isinstance(answer, StoreError):
                raise answer
            if isinstance(answer, Problem):
                erased.append(tenant)
                continue
            id = decode_id(Topic.parse(tenant).id)
            found += (_ended(id, window) for window in windows)
            found += _open(id, orjson.loads(answer.meters))
        if erased:
            await run_commands(self._store, ("ZREM", key, *erased))
        return found, tenants[-1] if len(tenants) == tenants_max else ""


def between(counter: Counter, since_us: int, until_us: int) -> bool:
    """Return whether a window overlaps a span, in microseconds since 1970; 0 for a span without start or end.

    What has no window overlaps every span.
    """
    is_late_enough = not since_us or not counter.ends_us or counter.ends_us > since_us
    return is_late_enough and (not until_us or counter.starts_us < until_us)


def _ended(tenant: str, window: WindowRecord) -> Counter:
    return Counter(
        tenant, window.meter, window.kind, window.starts_us, window.ends_us, window.used, 0, window.limit, is_open=False
    )


def _open(tenant: str, meters: dict[str, Any]) -> Iterator[Counter]:
    for name, meter in meters.items():
        limit = meter.get("limit")
        found = Counter(
            tenant,
            name,
            meter["kind"],
            0,
            0,
            meter.get("counted", meter["used"]),
            meter["reserved"],
            UNLIMITED if limit == "unlimited" else limit,
            is_open=True,
        )
        period = meter.get("period")
        yield replace(found, starts_us=_us(period["starts_at"]), ends_us=_us(period["ends_at"])) if period else found


def _us(instant: str) -> int:
    return instants.parse(instant) // instants.NS_PER_US
