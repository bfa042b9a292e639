"""The calls that requests ask for, one by one or in a batch."""

from __future__ import annotations

from planwire_client.core.topic import TENANT_KIND, Topic, TopicError, encode_id
from sync.billing.api.operations import Asked
from sync.billing.catalog.catalog import Catalog
from sync.http.fields import Reader
from sync.http.problem import Problem
from sync.usage.api.bodies import HOLD_DEFAULT_S, BatchCall
from sync.usage.calls import Call
from sync.usage.windows import US_PER_S

_ITEM = Reader(BatchCall)
_OF_RESERVATIONS = ("reserve", "finalize")
_WITH_DEFAULT = ("consume", "release")


def batched_call(asked: Asked, item: object, catalog: Catalog) -> Call | Problem:
    """Return the call that one item of a batch asks for, or why it cannot be made."""
    try:
        return _call(asked, _ITEM.read(item), catalog)
    except Problem as problem:
        return problem


def _call(asked: Asked, one: BatchCall, catalog: Catalog) -> Call:
    try:
        tenant = str(Topic(asked.environment, TENANT_KIND, encode_id(one.tenant)))
    except TopicError as error:
        raise Problem("request_invalid", f"tenant: {error}") from None
    denial = asked.caller.denial("usage", tenant)
    if denial is not None:
        raise Problem(*denial)
    amount = _amount(one)
    if one.operation not in _OF_RESERVATIONS:
        if one.operation == "set":
            require_allocated(catalog, one.meter)
        return Call(tenant, one.operation, one.meter, amount, key=one.key or "")
    assert one.id is not None
    if one.operation == "reserve":
        lasts_us = (one.seconds or HOLD_DEFAULT_S) * US_PER_S
        return Call(tenant, "reserve", one.meter, amount, id=one.id, lasts_us=lasts_us)
    if not amount:
        return Call(tenant, "cancel", one.meter, id=one.id)
    return Call(tenant, "finalize", one.meter, amount, id=one.id)


def _amount(one: BatchCall) -> int:
    """Return the amount, after a check of which members an operation takes."""
    is_of_reservation = one.operation in _OF_RESERVATIONS
    if is_of_reservation != (one.id is not None):
        raise Problem("request_invalid", "id: reserve and finalize need it, and no other operation takes it")
    if is_of_reservation and one.key is not None:
        raise Problem("request_invalid", f"key: {one.operation} takes none, its id makes it count once")
    if one.seconds is not None and one.operation != "reserve":
        raise Problem("request_invalid", "seconds: only reserve takes them")
    if one.amount is None and one.operation not in _WITH_DEFAULT:
        raise Problem("request_invalid", f"amount is missing: {one.operation} needs it")
    if one.amount == 0 and one.operation not in ("set", "finalize"):
        raise Problem("request_invalid", f"amount must be 1 or more for {one.operation}")
    return 1 if one.amount is None else one.amount


def require_allocated(catalog: Catalog, meter: str) -> None:
    """Return if `set` may be called for a meter.

    Raises:
        Problem: not_for_meter.
    """
    known = catalog.meters.get(meter)
    if known is not None and known.kind != "allocated":
        raise Problem("not_for_meter", f"{meter} is {known.kind}: set is for allocated meters; consume or adjust")
