"""The operations that read: what is used, what happened to one meter, and the counters of all tenants."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Literal

import orjson
from pydantic import Field
from starlette.requests import Request

from sync.billing.api.operations import Asked, Document, operation
from sync.billing.catalog.catalog import Catalog
from sync.core import instants
from sync.http.fields import Model, Version
from sync.http.openapi import VERSION, Answer as Response
from sync.http.parameters import Moment, PathText, QueryInteger, QueryText
from sync.http.problem import Problem
from sync.usage.api import bodies
from sync.usage.calls import UNLIMITED, Answer, Call
from sync.usage.export import Counter, UsageExport, between
from sync.usage.records import CallRecord, Correction, WindowRecord, read_records
from sync.usage.service import REASONS, UsageService


class _Meter(PathText):
    """The name of a meter in the path."""

    def read(self, request: Request) -> str:
        """Return the name.

        Raises:
            Problem: 404 meter_unknown; no meter can have this name.
        """
        name = super().read(request)
        if re.fullmatch(self.pattern, name) is None:
            raise Problem("meter_unknown", "a meter's key has 1 to 64 of a-z, 0-9, _ and -, and begins with a letter")
        return name


METER = _Meter("meter", "The meter's key in the catalog.", r"^[a-z][a-z0-9_-]{0,63}$", "api_calls")
TENANTS = QueryInteger("limit", "The most tenants in one answer.", minimum=1, maximum=100, default=100)
AFTER = QueryText("after", "What `next` said.", r"^[!-~]{1,300}$")
SINCE = Moment("since", "Leave out windows that had ended by then.", example="2026-11-01T00:00:00Z")
UNTIL = Moment("until", "Leave out windows that began then or later.", example="2026-12-01T00:00:00Z")

Limit = Version | Literal["unlimited"]


class CallShown(Model):
    """One of the newest calls. What was denied was not counted."""

    at: str
    operation: str
    amount: int
    allowed: bool
    used: Version = Field(description="Afterwards, with what is reserved.")
    key: str | None = None


class CorrectionShown(Model):
    """What an operator did."""

    at: str
    operation: Literal["adjust", "grant"]
    how: str = Field(description="Of `adjust`: to or by; of `grant`: the id of the credits.")
    amount: int
    used: Version = Field(description="Afterwards, with what is reserved.")
    reason: str
    by: str | None = None


class WindowShown(Model):
    """What was counted in an ended window."""

    starts_at: str | None = None
    ends_at: str
    used: Version
    limit: Limit | None = Field(None, description="Absent: not known. Without credits that were bought or granted.")


class History(Model):
    """What happened to one meter, each list the newest first."""

    calls: list[CallShown] = Field(description="About 100 of all meters are kept.")
    corrections: list[CorrectionShown] = Field(description="About 200 of all meters are kept.")
    windows: list[WindowShown] = Field(description="About 400 of all meters are kept.")


class CounterShown(Model):
    """What a tenant has used of one meter in one window."""

    tenant: str
    meter: str
    app: str | None = Field(None, description="The application whose limit it is, if the catalog's meter names one.")
    kind: Literal["consumable", "allocated", "credits"]
    starts_at: str | None = None
    ends_at: str | None = Field(None, description="Absent: the window is endless.")
    used: Version = Field(description="Units of the limit and of credits; without what is reserved, if it is open.")
    reserved: Version
    limit: Limit | None = Field(None, description="Absent: not known. Of ended windows without granted credits.")
    open: bool = Field(description="Whether the window goes on: its count is not final.")


class Export(Model):
    """One page. `next`, if there may be more, is the `after` of the next page."""

    counters: list[CounterShown]
    at: str = Field(description="When it was read.")
    next: str | None = None


class UsageRecords:
    """The operations."""

    def __init__(self, service: UsageService, catalog: Callable[[], Catalog]) -> None:
        self._service = service
        self._catalog = catalog
        self._export = UsageExport(service)

    @operation(
        "GET",
        "/v1/tenants/{id}/usage",
        "readUsage",
        "What a tenant has used of its limits.",
        Response("All meters.", bodies.Usage, VERSION),
        ("tenant_erased",),
        scope="usage",
    )
    async def read(self, asked: Asked) -> Document:
        """Return the usage, up to date; meters in the catalog's order."""
        found = await self._shown(asked)
        meters = orjson.loads(found.meters)
        listed = {name: {**meters[name], **self._app(name)} for name in self._catalog().meters if name in meters}
        return {"version": found.usage_version, "entitlements": found.version, "meters": listed}

    @operation(
        "GET",
        "/v1/tenants/{id}/usage/{meter}",
        "readMeterUsage",
        "What a tenant has used of one limit.",
        Response("The meter.", bodies.OneUsage, VERSION),
        ("meter_unknown", "tenant_erased"),
        (METER,),
        scope="usage",
    )
    async def read_meter(self, asked: Asked, meter: str) -> Document:
        """Return the usage of one meter, up to date."""
        found = await self._shown(asked)
        shown: Document | None = orjson.loads(found.meters).get(meter)
        if shown is None:
            raise Problem("meter_unknown", REASONS["meter_unknown"])
        return {"version": found.usage_version, "entitlements": found.version, **shown, **self._app(meter)}

    @operation(
        "GET",
        "/v1/tenants/{id}/usage/{meter}/history",
        "readUsageHistory",
        "What happened to one meter: the newest calls, corrections with reason and actor, ended windows.",
        Response("The newest of each first.", History),
        ("meter_unknown",),
        (METER,),
        scope="usage",
    )
    async def history(self, asked: Asked, meter: str) -> Document:
        """Return what is kept, also of a meter that the catalog has no more.

        Raises:
            Problem: meter_unknown; the catalog has no such meter, and nothing is kept of it.
        """
        found = await read_records(self._service.store, asked.topic, meter)
        if meter not in self._catalog().meters and not (found.calls or found.corrections or found.windows):
            raise Problem("meter_unknown", REASONS["meter_unknown"])
        return {
            "calls": [call_document(one) for one in found.calls],
            "corrections": [correction_document(one) for one in found.corrections],
            "windows": [window_document(one) for one in found.windows],
        }

    @operation(
        "GET",
        "/v1/usage/export",
        "exportUsage",
        "The counters of all tenants, window by window.",
        Response("Those of some tenants; a page may be empty and not the last.", Export),
        (),
        (AFTER, TENANTS, SINCE, UNTIL),
        scope="usage",
    )
    async def export(self, asked: Asked, after: str, tenants_max: int, since_us: int, until_us: int) -> Document:
        """Return one page.

        Raises:
            Problem: request_invalid; the span has no length.
        """
        if since_us and until_us and since_us >= until_us:
            raise Problem("request_invalid", "since must be earlier than until")
        at_us = time.time_ns() // instants.NS_PER_US
        counters, following = await self._export.page(asked.environment, after, tenants_max)
        shown = [self._counter(one) for one in counters if between(one, since_us, until_us)]
        document: Document = {"counters": shown, "at": instants.text_us(at_us)}
        return document | ({"next": following} if following else {})

    async def _shown(self, asked: Asked) -> Answer:
        return await self._service.call(Call(asked.topic, "show"))

    def _app(self, meter: str) -> Document:
        known = self._catalog().meters.get(meter)
        return {"app": known.app} if known is not None and known.app else {}

    def _counter(self, of: Counter) -> Document:
        shown: Document = {"tenant": of.tenant, "meter": of.meter, **self._app(of.meter), "kind": of.kind}
        shown |= {**_window(of.starts_us, of.ends_us), "used": of.used, "reserved": of.reserved}
        return shown | {**_limit(of.limit), "open": of.is_open}


def call_document(of: CallRecord) -> Document:
    """Return a call as JSON."""
    shown: Document = {"at": instants.text_us(of.at_us), "operation": of.operation, "amount": of.amount}
    shown |= {"allowed": of.is_allowed, "used": of.used}
    return shown | ({"key": of.key} if of.key else {})


def correction_document(of: Correction) -> Document:
    """Return a correction as JSON."""
    shown: Document = {"at": instants.text_us(of.at_us), "operation": of.operation, "how": of.how, "amount": of.amount}
    shown |= {"used": of.used, "reason": of.reason}
    return shown | ({"by": of.actor} if of.actor else {})


def window_document(of: WindowRecord) -> Document:
    """Return an ended window as JSON."""
    return {**_window(of.starts_us, of.ends_us), "used": of.used, **_limit(of.limit)}


def _window(starts_us: int, ends_us: int) -> Document:
    found: Document = {"starts_at": instants.text_us(starts_us)} if starts_us else {}
    return found | ({"ends_at": instants.text_us(ends_us)} if ends_us else {})


def _limit(limit: int | None) -> Document:
    return {} if limit is None else {"limit": "unlimited" if limit == UNLIMITED else limit}
