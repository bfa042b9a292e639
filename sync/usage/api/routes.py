"""The operations on usage: count a call, reserve, read, correct."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence

import orjson
from starlette.routing import Route

from planwire_client.core.topic import TENANT_KIND, Topic, TopicError, encode_id
from sync.billing.api.operations import ERRORS, Asked, Document, handler, operation
from sync.billing.catalog.catalog import Catalog
from sync.core import instants
from sync.http.endpoint import Count, Guard, guarded, route
from sync.http.openapi import VERSION, Answer as Response, Operation, declared, operations as operations_of
from sync.http.problem import Problem
from sync.usage.api import bodies
from sync.usage.api.records import METER, UsageRecords
from sync.usage.calls import UNLIMITED, Answer, Call, Counting as Kind
from sync.usage.service import UsageService, problem

PROBLEMS = ("meter_unknown", "limit_unknown", "key_reused", "tenant_erased", "not_for_meter")


class UsageOperations:
    """The operations of backends and operators."""

    def __init__(self, service: UsageService, catalog: Callable[[], Catalog]) -> None:
        self._service = service
        self._catalog = catalog

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
        known = self._catalog().meters.get(meter)
        if known is not None and known.kind != "allocated":
            raise Problem("not_for_meter", f"{meter} is {known.kind}: set is for allocated meters; consume or adjust")
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
        ends_us = time.time_ns() // 1000 + body.seconds * 1_000_000
        return await self._count(asked, "reserve", meter, body.amount, id=body.id, ends_us=ends_us)

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
        return await self._count(asked, "finalize", meter, body.amount, id=body.id, key=f"finalize:{body.id}")

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
        if (body.to is None) == (body.by is None):
            raise Problem("request_invalid", "give one of to and by")
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
        "GET",
        "/v1/tenants/{id}/usage",
        "readUsage",
        "What a tenant has used of its limits.",
        Response("All meters.", bodies.Usage, VERSION),
        ("tenant_erased",),
        scope="usage",
    )
    async def read(self, asked: Asked) -> Document:
        """Return the usage, up to date."""
        found = await self._service.call(Call(asked.topic, "show"))
        return {"version": found.usage_version, "entitlements": found.version, "meters": orjson.loads(found.meters)}

    @operation(
        "POST",
        "/v1/usage/batch",
        "batchUsage",
        "Up to 500 calls, of any tenants.",
        Response("One result for each.", bodies.BatchResults),
        (),
        body=bodies.Batch,
        scope="usage",
    )
    async def batch(self, asked: Asked, body: bodies.Batch) -> Document:
        """Count each call for itself, in order."""
        calls: list[Call | Problem] = [_call(asked.environment, one) for one in body.calls]
        sent = [one for one in calls if isinstance(one, Call)]
        answers = iter(await self._service.call_many(sent))
        return {"results": [_result(one if isinstance(one, Problem) else next(answers)) for one in calls]}

    async def _count(
        self, asked: Asked, kind: Kind, meter: str, amount: int, *, id: str = "", ends_us: int = 0, **more: str
    ) -> Document:
        call = Call(asked.topic, kind, meter, amount, id=id, ends_us=ends_us, **more)
        answer = await self._service.call(call)
        await self._service.store.wait_durable()
        return _document(answer)


def _call(environment: str, one: bodies.BatchCall) -> Call | Problem:
    try:
        tenant = str(Topic(environment, TENANT_KIND, encode_id(one.tenant)))
    except TopicError as error:
        return Problem("request_invalid", str(error))
    if one.amount == 0 and one.operation in ("consume", "release"):
        return Problem("request_invalid", "amount must be 1 or more")
    if (one.operation == "finalize") != (one.id is not None):
        return Problem("request_invalid", "id is for finalize, and finalize needs it")
    key = f"finalize:{one.id}" if one.id is not None else one.key or ""
    kind: Kind = "cancel" if one.id is not None and not one.amount else one.operation
    return Call(tenant, kind, one.meter, one.amount, key="" if kind == "cancel" else key, id=one.id or "")


def _result(found: Answer | Exception) -> Document:
    if isinstance(found, Answer):
        return _document(found)
    assert isinstance(found, Exception)
    known = problem(found)  # type: ignore[arg-type]
    return {"code": known.code, "detail": known.detail}


def _document(answer: Answer) -> Document:
    shown: Document = {
        "allowed": answer.is_allowed,
        "used": answer.used,
        "reserved": answer.reserved,
        "limit": "unlimited" if answer.limit == UNLIMITED else answer.limit,
        "remaining": "unlimited" if answer.remaining == UNLIMITED else answer.remaining,
        "version": answer.version,
        "usage_version": answer.usage_version,
    }
    shown |= {"resets_at": instants.text_us(answer.ends_us)} if answer.ends_us else {}
    return shown | ({"over": answer.over} if answer.over else {}) | ({"repeated": True} if answer.is_repeated else {})


def routes(
    service: UsageService, catalog: Callable[[], Catalog], environments: Sequence[str], guard: Guard, count: Count
) -> list[Route]:
    """Return the routes, behind `guard`."""
    found: list[Route] = []
    for one, method in (*declared(UsageOperations(service, catalog)), *declared(UsageRecords(service))):
        admitted: Callable[..., Awaitable[object]] = guarded(guard, handler(one, method, environments))
        found.append(route(one.path, one.method, admitted, count, ERRORS))  # type: ignore[arg-type]
    return found


def operations() -> list[Operation]:
    """Return every operation on usage."""
    return [*operations_of(UsageOperations), *operations_of(UsageRecords)]
