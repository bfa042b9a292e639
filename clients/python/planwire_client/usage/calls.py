"""Calls about usage as values, and the requests that send them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple
from urllib.parse import quote

import orjson

from planwire_client.core.topic import TENANT_KIND, Topic, TopicError, decode_id, shown
from planwire_client.errors import UsageRefused

CALLS_MAX = 500
"""Maximum calls of one batch at a gateway."""

AMOUNT_MAX = 10**12
"""Maximum units of one call at a gateway."""

_METER = re.compile(r"[a-z][a-z0-9_-]{0,63}").fullmatch

Operation = Literal["consume", "release", "set", "reserve", "finalize"]


@dataclass(frozen=True, slots=True)
class UsageCall:
    """One call.

    Attributes:
        tenant: the tenant's topic, such as tenant:acme or sandbox/tenant:acme.
        meter: the meter's key in the catalog.
        amount: units.
        operation: what to do.
        key: makes the call count once, for a day; None: one is generated. Not for `reserve` and `finalize`.
        id: of the reservation; None: one is generated, for `reserve`.
        seconds: of `reserve`: how long the units are held; None: as the gateway does by default.
    """

    tenant: str
    meter: str
    amount: int = 1
    operation: Operation = "consume"
    key: str | None = None
    id: str | None = None
    seconds: int | None = None

    @property
    def name(self) -> str:
        """What makes the call count once: its key, or the id of its reservation."""
        return self.key or self.id or ""

    def identified(self, new_key: str) -> UsageCall:
        """Return the call with a key or an id: its own, or `new_key`."""
        if self.operation in ("reserve", "finalize"):
            return self if self.id is not None else replace(self, id=new_key)
        return self if self.key is not None else replace(self, key=new_key)


class Request(NamedTuple):
    """A request to the gateway. `content`: the JSON body; None for a GET."""

    method: str
    path: str
    content: bytes | None


def request_of(call: UsageCall) -> Request:
    """Return the request for one call.

    Raises:
        UsageRefused: the call names no tenant or no meter, or its amount is none that can be counted.
    """
    # A gateway that is away refuses nothing: the policy would let the call pass.
    least = 0 if call.operation in ("set", "finalize") else 1
    if not isinstance(call.amount, int) or isinstance(call.amount, bool) or not least <= call.amount <= AMOUNT_MAX:
        raise UsageRefused(
            "request_invalid", f"amount is a whole number from {least} to 10^12, not {shown(call.amount)}"
        )
    if not isinstance(call.meter, str) or _METER(call.meter) is None:
        raise UsageRefused("meter_unknown", f"{shown(call.meter)} is not the key of a meter")
    return Request("POST", _path(call.tenant, f"/usage/{call.meter}/{call.operation}"), _content(_body(call)))


def read_request(tenant: str) -> Request:
    """Return the request for a tenant's usage.

    Raises:
        UsageRefused: `tenant` is not the topic of a tenant.
    """
    return Request("GET", _path(tenant, "/usage"), None)


def batch_request(calls: Sequence[UsageCall]) -> Request:
    """Return the request for calls of tenants of one environment.

    Raises:
        UsageRefused: a call names no tenant, or its amount is not a number.
    """
    documents = [
        {
            "tenant": decode_id(tenant_of(call.tenant).id),
            "meter": call.meter,
            "operation": call.operation,
            **_body(call),
        }
        for call in calls
    ]
    return Request("POST", f"/v1/usage/batch?env={tenant_of(calls[0].tenant).env}", _content({"calls": documents}))


def batches(calls: Sequence[UsageCall]) -> list[list[int]]:
    """Return the positions of the calls, as batches: at most CALLS_MAX, each of one environment, in order."""
    by_environment: dict[str, list[int]] = {}
    for at, call in enumerate(calls):
        by_environment.setdefault(tenant_of(call.tenant).env, []).append(at)
    return [all[at : at + CALLS_MAX] for all in by_environment.values() for at in range(0, len(all), CALLS_MAX)]


def tenant_of(name: str) -> Topic:
    """Return the topic of a tenant.

    Raises:
        UsageRefused: `name` is not one.
    """
    if not isinstance(name, str):
        raise UsageRefused("topic_invalid", f"a tenant's topic is text such as tenant:acme, not {shown(name)}")
    try:
        found = Topic.named(name)
    except TopicError as error:
        raise UsageRefused("topic_invalid", str(error)) from None
    if found.kind != TENANT_KIND:
        raise UsageRefused("topic_invalid", f"{found} is not a tenant: usage is counted for topics such as tenant:acme")
    return found


def _path(tenant: str, rest: str) -> str:
    topic = tenant_of(tenant)
    return f"/v1/tenants/{quote(decode_id(topic.id), safe='')}{rest}?env={topic.env}"


def _body(call: UsageCall) -> dict[str, object]:
    fields = (("key", call.key), ("id", call.id), ("seconds", call.seconds))
    return {"amount": call.amount} | {name: value for name, value in fields if value is not None}


def _content(document: object) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError as error:
        raise UsageRefused("request_invalid", f"the call is not JSON: {error}") from None
