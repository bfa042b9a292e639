"""The operations that count: take and give back units, reserve, correct."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from starlette.routing import Route

from sync.billing.api.operations import ERRORS, Asked, Document, handler, operation
from sync.billing.catalog.catalog import Catalog
from sync.core import instants
from sync.http.endpoint import Count, Guard, guarded, route
from sync.http.openapi import VERSION, Answer as Response, Operation, declared, operations as operations_of
from sync.http.problem import Problem
from sync.store.models import StoreError
from sync.usage.api import bodies
from sync.usage.api.answers import document, outcome, result
from sync.usage.api.batch import batched_call, require_allocated
from sync.usage.api.records import METER, UsageRecords
from sync.usage.calls import Answer, Call, Counting as Kind
from sync.usage.service import UsageService
from sync.usage.windows import US_PER_S

PROBLEMS = ("meter_unknown", "limit_unknown", "key_reused", "tenant_erased", "not_for_meter")

OTHER = "other"
"""The label of a meter that the catalog does not have."""

Observe = Callable[[str, str, str, float], None]
"""Counts a call. Takes the operation, the meter, what came of it, and the seconds until it was known."""


def not_observed(operation: str, meter: str, outcome: str, seconds: float) -> None:
    """Count nothing."""


class UsageOperations:
    """The operations of backends and operators."""

    def __init__(self, service: UsageService, catalog: Callable[[], Catalog], observe: Observe = not_observed) -> None:
        self._service = service
        self._catalog = catalog
        self._observe = observe

    @operation(
        "POST",
        "/v1/tenants/{id}/usage/{meter}/consume",
        "consumeUsage",
        "Take units, if they fit into the limit.",
        Response("What came of it; `allowed` is false if they do not fit.", bodies.Counted, VERSION),
        PROBLEMS,
        (METER,),
        body=bodies.Consume,
        is_body_required=False,
        scope="usage",
    )
    async def consume(self, asked: Asked, meter: str, body: bodies.Consume) -> Document:
        """Count units against the tenant's newest entitlements."""
        return await self._count(asked, "consume", meter, body.amount, key=body.key or "")

    @operation(
        "POST",
        "/v1/tenants/{id}/usage/{meter}/release",
        "releaseUsage",
        "Give units back.",
        Response("What is left.", bodies.Counted, VERSION),
        PROBLEMS,
        (METER,),
        body=bodies.Release,
        is_body_required=False,
        scope="usage",
    )
    async def release(self, asked: Asked, meter: str, body: bodies.Release) -> Document:
        """Count units as unused again; never below nothing."""
        return await self._count(asked, "release", meter, body.amount, key=body.key or "")

    @operation(
        "POST",
        "/v1/tenants/{id}/usage/{meter}/set",
        "setUsage",
        "Say how many units of an allocated meter are in use.",
        Response("What came of it; `allowed` is false if there are more than before, and they do not fit.",
                 bodies.Counted, VERSION),
        PROBLEMS,
        (METER,),
        body=bodies.SetTo,
        scope="usage",
    )  # fmt: skip
    async def set_to(self, asked: Asked, meter: str, body: bodies.SetTo) -> Document:
        """Set what is in use."""
        require_allocated(self._catalog(), meter)
        return await self._count(asked, "set", meter, body.amount, key=body.key or "")

    @operation(
        "POST",
        "/v1/tenants/{id}/usage/{meter}/reserve",
        "reserveUsage",
        "Hold units for work of unknown size.",
        Response("What came of it; `allowed` is false if they do not fit.", bodies.Counted, VERSION),
        (*PROBLEMS, "reservations_full"),
        (METER,),
        body=bodies.Reserve,
        scope="usage",
    )
    async def reserve(self, asked: Asked, meter: str, body: bodies.Reserve) -> Document:
        """Take units until the reservation is finalized, or ends and gives them back."""
        return await self._count(asked, "reserve", meter, body.amount, id=body.id, lasts_us=body.seconds * US_PER_S)

    @operation(
        "POST",
        "/v1/tenants/{id}/usage/{meter}/finalize",
        "finalizeUsage",
        "Count what reserved work has used, and give the rest back.",
        Response("What came of it. `allowed` is false only if the reservation had ended and the units do not fit.",
                 bodies.Counted, VERSION),
        (*PROBLEMS, "reservation_unknown"),
        (METER,),
        body=bodies.Finalize,
        scope="usage",
    )  # fmt: skip
    async def finalize(self, asked: Asked, meter: str, body: bodies.Finalize) -> Document:
        """End a reservation."""
        if not body.amount:
            return await self._count(asked, "cancel", meter, 0, id=body.id)
        return await self._count(asked, "finalize", meter, body.amount, id=body.id)

    @operation(
        "POST",
        "/v1/tenants/{id}/usage/{meter}/adjust",
        "adjustUsage",
        "Correct what is used.",
        Response("What is left.", bodies.Counted, VERSION),
        PROBLEMS,
        (METER,),
        body=bodies.Adjust,
        scope="admin",
    )
    async def adjust(self, asked: Asked, meter: str, body: bodies.Adjust) -> Document:
        """Set what is used, or change it; the reason and the caller go into the history."""
        how, amount = ("by", body.by) if body.by is not None else ("to", body.to)
        assert amount is not None
        return await self._count(
            asked,
            "adjust",
            meter,
            amount,
            id=how,
            key=body.key or "",
            reason=body.reason,
            actor=asked.who.get("by", ""),
        )

    @operation(
        "POST",
        "/v1/tenants/{id}/usage/{meter}/grant",
        "grantCredits",
        "Give a tenant credits.",
        Response("What is left.", bodies.Counted, VERSION),
        (*PROBLEMS, "grants_full"),
        (METER,),
        body=bodies.Grant,
        scope="admin",
    )
    async def grant(self, asked: Asked, meter: str, body: bodies.Grant) -> Document:
        """Add credits; the reason and the caller go into the history."""
        known = self._catalog().meters.get(meter)
        if known is not None and known.kind != "credits":
            raise Problem("not_for_meter", f"{meter} is {known.kind}: grant a limit instead (overrides)")
        if body.ends_at is not None and body.ends_at <= time.time_ns():
            raise Problem("request_invalid", "ends_at has passed")
        ends_us = 0 if body.ends_at is None else body.ends_at // instants.NS_PER_US
        return await self._count(
            asked,
            "grant",
            meter,
            body.amount,
            id=secrets.token_hex(8),
            key=body.key or "",
            ends_us=ends_us,
            reason=body.reason,
            actor=asked.who.get("by", ""),
        )

    @operation(
        "POST",
        "/v1/usage/batch",
        "batchUsage",
        "Up to 500 calls, of any tenants.",
        Response("One result for each.", bodies.BatchResults),
        (),
        body=bodies.Batch,
        scope="usage",
        is_batch=True,
    )
    async def batch(self, asked: Asked, body: bodies.Batch) -> Document:
        """Count each call for itself, in order. Those of one tenant see what came of the earlier ones."""
        asked.caller.spend(max(1, len(body.calls)))
        catalog = self._catalog()
        calls = [batched_call(asked, one, catalog) for one in body.calls]
        answers = iter(await self._counted([one for one in calls if isinstance(one, Call)]))
        return {"results": [result(one if isinstance(one, Problem) else next(answers)) for one in calls]}

    async def _count(
        self,
        asked: Asked,
        kind: Kind,
        meter: str,
        amount: int,
        *,
        ends_us: int = 0,
        lasts_us: int = 0,
        **more: str,
    ) -> Document:
        call = Call(asked.topic, kind, meter, amount, ends_us=ends_us, lasts_us=lasts_us, **more)
        (found,) = await self._counted([call])
        if not isinstance(found, Answer):
            raise found
        return document(found)

    async def _counted(self, calls: Sequence[Call]) -> list[Answer | Problem | StoreError]:
        """Return what came of each call, once all are on disk if the store is to be durable."""
        started = time.perf_counter()
        found = await self._service.call_many(calls)
        await self._service.wait_durable()
        seconds, known = time.perf_counter() - started, self._catalog().meters
        for call, one in zip(calls, found, strict=True):
            self._observe(call.operation, call.meter if call.meter in known else OTHER, outcome(one), seconds)
        return found


def routes(
    service: UsageService,
    catalog: Callable[[], Catalog],
    environments: Sequence[str],
    guard: Guard,
    count: Count,
    observe: Observe = not_observed,
) -> list[Route]:
    """Return the routes.

    Args:
        service: counts.
        catalog: returns the present catalog.
        environments: names.
        guard: admits callers.
        count: counts answers.
        observe: counts calls.
    """
    found: list[Route] = []
    counting, reading = UsageOperations(service, catalog, observe), UsageRecords(service, catalog)
    for one, method in (*declared(counting), *declared(reading)):
        admitted = guarded(guard, handler(one, method, environments), is_batch=one.is_batch)
        found.append(route(one.path, one.method, admitted, count, ERRORS))
    return found


def operations() -> list[Operation]:
    """Return every operation on usage."""
    return [*operations_of(UsageOperations), *operations_of(UsageRecords)]
