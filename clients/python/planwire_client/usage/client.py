"""Calls about usage, blocking or for asyncio, through a gateway with a publish key of scope `usage`.

Every call has a key, given or generated, so that a retry after a lost answer counts nothing twice.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from planwire_client.delivery import Retries, Retryable, finished
from planwire_client.errors import PlanwireError, UsageRefused
from planwire_client.meter_usage import MeterUsage, read_meter, units
from planwire_client.usage.answers import Counted
from planwire_client.usage.attempts import USAGE_RETRIES, Answers, OnUnavailable, Outcome, deliver, read
from planwire_client.usage.calls import UsageCall, read_request
from planwire_client.usage.connection import AsyncConnection, Connection
from planwire_client.usage.reservation import AsyncReservation, Reservation


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """What a tenant has used of its limits.

    Attributes:
        version: of the topic `usage:ID`.
        entitlements: the version of the entitlements that the limits are from.
        meters: by their keys in the catalog.
    """

    version: int
    entitlements: int
    meters: dict[str, MeterUsage]


def _checked(url: str, key: str) -> None:
    # What can never work must not look like a gateway that is away for a while: the policy would decide for ever.
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port beyond 65535, half of an IPv6 address
        is_valid = False
    if not is_valid:
        raise PlanwireError(f"usage is counted through a gateway: give its http or https URL, not {url!r}")
    if not key:
        raise PlanwireError("usage needs a publish key with the scope usage")
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise PlanwireError("the publish key has characters that no key has, such as a line's end")


async def _sleep(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - no event loop runs this


def _identified(call: UsageCall) -> UsageCall:
    return call.identified(uuid.uuid4().hex)


def _only(outcomes: Sequence[Outcome]) -> Counted:
    (outcome,) = outcomes
    if isinstance(outcome, UsageRefused):
        raise outcome
    return outcome


def _usage_of(document: dict[str, object]) -> TenantUsage:
    meters = document.get("meters")
    found = {name: read_meter(document, name) for name in (meters if isinstance(meters, dict) else {})}
    return TenantUsage(
        units(document.get("version")) or 0,
        units(document.get("entitlements")) or 0,
        {name: meter for name, meter in found.items() if meter is not None},
    )


class _Counting:
    """The common part of both clients: retries and policy."""

    def __init__(self, on_unavailable: OnUnavailable | str, retries: Retries | None) -> None:
        self._policy = OnUnavailable(on_unavailable)
        self._retries = retries or USAGE_RETRIES


class Usage(_Counting):
    """The blocking client. Thread-safe: one per process is enough. A context manager."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        on_unavailable: OnUnavailable | str = OnUnavailable.RAISE,
        retries: Retries | None = None,
    ) -> None:
        """Count through the gateway `url` (http, https) with a publish `key`.

        Args:
            on_unavailable: what a call does when Planwire does not answer: "raise", "allow" or "deny".
            retries: default: three attempts within three seconds.

        Raises:
            PlanwireError: the URL's scheme is not supported, or the key is missing.
        """
        _checked(url, key)
        super().__init__(on_unavailable, retries)
        self._connection = Connection(url, key)

    def consume(self, tenant: str, meter: str, amount: int = 1, *, key: str | None = None) -> Counted:
        """Take units, if they fit into the limit; the answer is true if they do.

        Args:
            tenant: the tenant's topic, such as tenant:acme.
            key: makes the call count once, for a day. Default: a new one, so that each call counts.

        Raises:
            UsageRefused: the call is invalid or not allowed; nothing was counted.
            UsageUnavailable: no answer, and the policy is to raise; it may have been counted.
        """
        return self.call(UsageCall(tenant, meter, amount, key=key))

    def release(self, tenant: str, meter: str, amount: int = 1, *, key: str | None = None) -> Counted:
        """Give units back, never below nothing. Errors are those of `consume`."""
        return self.call(UsageCall(tenant, meter, amount, "release", key))

    def set(self, tenant: str, meter: str, amount: int, *, key: str | None = None) -> Counted:
        """Say how many units of an allocated meter are in use. Errors are those of `consume`."""
        return self.call(UsageCall(tenant, meter, amount, "set", key))

    def reserve(
        self, tenant: str, meter: str, amount: int, *, seconds: int | None = None, id: str | None = None
    ) -> Reservation:
        """Return a reservation for use with `with`. Nothing is sent before.

        Args:
            seconds: after which the units are given back, if the process ends before it has counted them.
            id: of the reservation. Default: a new one.
        """
        return Reservation(
            self, _identified(UsageCall(tenant, meter, amount, "reserve", None, id, seconds)), self._policy
        )

    def finalize(self, tenant: str, meter: str, id: str, amount: int) -> Counted:
        """Count what reserved work has used, and give the rest back; for a reservation that another process has made.

        The answer is false only if the reservation had ended and the units do not fit. Errors are those of `consume`.
        """
        return self.call(UsageCall(tenant, meter, amount, "finalize", id=id))

    def call(self, call: UsageCall) -> Counted:
        """Make one call.

        Raises:
            UsageRefused: the call is invalid or not allowed; nothing was counted.
            UsageUnavailable: no answer, and the policy is to raise; it may have been counted.
        """
        return _only(self._deliver([call], is_batch=False))

    def batch(self, calls: Sequence[UsageCall]) -> list[Outcome]:
        """Make calls of any tenants in batches of 500; return an outcome for each, in order, each for itself.

        Raises:
            UsageRefused: a whole batch was rejected, for example because of the key.
            UsageUnavailable: some have no outcome, and the policy is to raise; `counted` has the others.
        """
        return self._deliver(calls, is_batch=True)

    def read(self, tenant: str) -> TenantUsage:
        """Return what a tenant has used by now. It is never guessed: the policy does not count.

        Raises:
            UsageRefused: the call is not allowed.
            UsageUnavailable: no answer.
        """
        request = read_request(tenant)

        async def ask(timeout_s: float) -> dict[str, object] | Retryable:
            return self._connection.ask(request, timeout_s)

        return _usage_of(finished(read(ask, self._retries, _sleep, time.monotonic, random.random)))

    def _deliver(self, calls: Sequence[UsageCall], *, is_batch: bool) -> list[Outcome]:
        async def send(some: Sequence[UsageCall], timeout_s: float) -> Answers:
            return self._connection.send(some, timeout_s, is_batch)

        identified = [_identified(call) for call in calls]
        return finished(deliver(identified, self._retries, send, _sleep, time.monotonic, random.random, self._policy))

    def close(self) -> None:
        """Close every connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncUsage(_Counting):
    """The client for asyncio. An async context manager; belongs to one event loop. Its methods are those of `Usage`."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        on_unavailable: OnUnavailable | str = OnUnavailable.RAISE,
        retries: Retries | None = None,
    ) -> None:
        """Count through the gateway `url`; the arguments are those of `Usage`."""
        _checked(url, key)
        super().__init__(on_unavailable, retries)
        self._connection = AsyncConnection(url, key)

    async def consume(self, tenant: str, meter: str, amount: int = 1, *, key: str | None = None) -> Counted:
        """Take units, if they fit into the limit; the answer is true if they do.

        Raises:
            UsageRefused: the call is invalid or not allowed; nothing was counted.
            UsageUnavailable: no answer, and the policy is to raise; it may have been counted.
        """
        return await self.call(UsageCall(tenant, meter, amount, key=key))

    async def release(self, tenant: str, meter: str, amount: int = 1, *, key: str | None = None) -> Counted:
        """Give units back, never below nothing. Errors are those of `consume`."""
        return await self.call(UsageCall(tenant, meter, amount, "release", key))

    async def set(self, tenant: str, meter: str, amount: int, *, key: str | None = None) -> Counted:
        """Say how many units of an allocated meter are in use. Errors are those of `consume`."""
        return await self.call(UsageCall(tenant, meter, amount, "set", key))

    def reserve(
        self, tenant: str, meter: str, amount: int, *, seconds: int | None = None, id: str | None = None
    ) -> AsyncReservation:
        """Return a reservation for use with `async with`; see `Usage.reserve`."""
        call = _identified(UsageCall(tenant, meter, amount, "reserve", None, id, seconds))
        return AsyncReservation(self, call, self._policy)

    async def finalize(self, tenant: str, meter: str, id: str, amount: int) -> Counted:
        """Count what reserved work has used, and give the rest back; see `Usage.finalize`."""
        return await self.call(UsageCall(tenant, meter, amount, "finalize", id=id))

    async def call(self, call: UsageCall) -> Counted:
        """Make one call.

        Raises:
            UsageRefused: the call is invalid or not allowed; nothing was counted.
            UsageUnavailable: no answer, and the policy is to raise; it may have been counted.
        """
        return _only(await self._deliver([call], is_batch=False))

    async def batch(self, calls: Sequence[UsageCall]) -> list[Outcome]:
        """Make calls of any tenants in batches of 500; return an outcome for each, in order, each for itself.

        Raises:
            UsageRefused: a whole batch was rejected, for example because of the key.
            UsageUnavailable: some have no outcome, and the policy is to raise; `counted` has the others.
        """
        return await self._deliver(calls, is_batch=True)

    async def read(self, tenant: str) -> TenantUsage:
        """Return what a tenant has used by now. It is never guessed: the policy does not count.

        Raises:
            UsageRefused: the call is not allowed.
            UsageUnavailable: no answer.
        """
        request = read_request(tenant)

        async def ask(timeout_s: float) -> dict[str, object] | Retryable:
            return await self._connection.ask(request, timeout_s)

        return _usage_of(await read(ask, self._retries, asyncio.sleep, time.monotonic, random.random))

    async def _deliver(self, calls: Sequence[UsageCall], *, is_batch: bool) -> list[Outcome]:
        async def send(some: Sequence[UsageCall], timeout_s: float) -> Answers:
            return await self._connection.send(some, timeout_s, is_batch)

        identified = [_identified(call) for call in calls]
        return await deliver(
            identified, self._retries, send, asyncio.sleep, time.monotonic, random.random, self._policy
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
