"""The base of all providers' API clients: rate limit, timeout and single flight.

Single flight: fetches of one subscription run one at a time, and callers share a request that has not begun yet.
Callers do their own retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from sync.billing.domain.facts.model import Event
from sync.billing.domain.money.model import Billed
from sync.billing.providers.base import (
    Checkout,
    ListedSubscription,
    PaidFor,
    ProviderEvent,
    ProviderRejected,
    ProviderUnavailable,
    RateLimiter,
    SubscriptionPage,
)
from sync.billing.providers.parsing import LISTED, is_id
from sync.billing.providers.webhook_adapter import WebhookAdapter
from sync.store.keyed_lock import KeyedLock

T = TypeVar("T")

TIMEOUT_S = 10.0
"""Timeout of one call: to connect, and between bytes."""

AWAY_S = 5.0
"""Pause of all calls after the API was unreachable."""


class Throttled(ProviderUnavailable):
    """The provider throttles: it asks for a pause of `retry_s` seconds."""

    def __init__(self, retry_s: float) -> None:
        super().__init__("it says that it is asked too often", retry_s)


def away(reason: str) -> ProviderUnavailable:
    """Return the error for an API that is unreachable or failing; all calls pause after it."""
    return ProviderUnavailable(reason, AWAY_S)


def unreadable(problem: object) -> ProviderUnavailable:
    """Return the error for an answer that cannot be read."""
    return ProviderUnavailable(f"its answer cannot be read: {problem}")


class ApiClient(ABC):
    """The API of one environment of a provider. A subclass sets `_fetched` and implements the calls."""

    _fetched: Callable[[object, str, int], Event]
    """Returns a subscription as an event: (data, environment, start of the request in ns). May raise ValueError."""

    _webhooks: WebhookAdapter
    """Reads the entries of the list of payments, which have the form of webhooks."""

    checkout_prefix: str = ""

    _checkout: Callable[[object, str, int], Checkout]
    """Returns a checkout: (data, environment, start of the request in ns). May raise ValueError."""

    def __init__(self, environment: str, rate_limiter: RateLimiter, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._environment = environment
        self._rate_limiter = rate_limiter
        self._now_ns = now_ns
        self._locks = KeyedLock()
        self._waiting: dict[str, asyncio.Future[Event]] = {}

    @abstractmethod
    async def _fetch(self, subscription_id: str, max_wait_s: float) -> Event:
        """Return the subscription, by a request that begins now. The rate limit has been applied already."""

    async def _get_checkout(self, checkout_id: str, max_wait_s: float, *, background: bool) -> object:
        """Return a checkout of the API, for `_checkout`."""
        raise ProviderRejected("not_found", "its checkouts are not read")

    @abstractmethod
    def _as_event(self, event_id: str, entry: object, began_ns: int) -> Mapping[str, object]:
        """Return the body of a webhook event about an entry of the list of subscriptions."""

    async def fetch(self, subscription_id: str, max_wait_s: float, *, background: bool = False) -> Event:
        """Return the provider's current subscription, by a request that begins after this call.

        Callers share a request only until it begins, so that the answer is never older than a caller's call.
        At most one request per subscription runs at a time.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the provider does not have it (`not_found`), or the API key lacks a permission.
        """
        async with within(max_wait_s):
            waiting = self._waiting.get(subscription_id)
            if waiting is not None:
                return await asyncio.shield(waiting)
            return await self._lead(subscription_id, max_wait_s, background)

    async def checkout(self, checkout_id: str, max_wait_s: float, *, background: bool = False) -> Checkout:
        """Return a checkout, by one request.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the provider does not have it (`not_found`), or the API key lacks a permission.
        """
        async with within(max_wait_s):
            began_ns = self._now_ns()
            data = await self._get_checkout(checkout_id, max_wait_s, background=background)
        try:
            return self._checkout(data, self._environment, began_ns)
        except ValueError as error:
            raise unreadable(error) from error

    async def bills(self, subscription_id: str, since_ns: int, max_wait_s: float) -> Sequence[Billed]:
        """Return nothing: a provider without money in its previews bills nothing that was quoted."""
        return ()

    async def payments(self, after: str, max_wait_s: float, customer_id: str = "") -> SubscriptionPage:
        """Return an empty list: of a provider without one, only webhooks tell of purchases and refunds."""
        return SubscriptionPage((), "")

    async def paid_for(self, payment_id: str, max_wait_s: float, *, background: bool = False) -> PaidFor | None:
        """Return None: the events of refunds say it themselves, unless a subclass asks for it."""
        return None

    async def _lead(self, subscription_id: str, max_wait_s: float, background: bool) -> Event:
        answer = self._waiting[subscription_id] = asyncio.get_running_loop().create_future()
        try:
            async with self._locks.of(subscription_id):
                await self._rate_limiter.acquire(max_wait_s, background=background)
                del self._waiting[subscription_id]
                event = await self._fetch(subscription_id, max_wait_s)
        except (ProviderUnavailable, ProviderRejected) as error:
            answer.set_exception(error)
            raise
        else:
            answer.set_result(event)
            return event
        finally:
            if self._waiting.get(subscription_id) is answer:
                del self._waiting[subscription_id]
            if not answer.done():
                answer.set_exception(ProviderUnavailable("the caller whose request was shared gave up"))
            # Mark the exception as retrieved: there may be no other caller.
            answer.exception()

    async def _limited(
        self, max_wait_s: float | None, call: Callable[[], Awaitable[T]], *, background: bool = False
    ) -> T:
        """Return the result of `call`. A failing or throttling API pauses all calls; any other answer ends the pause.

        Args:
            max_wait_s: maximum wait for the rate limit, in seconds; None: the caller has acquired it already.
        """
        if max_wait_s is not None:
            await self._rate_limiter.acquire(max_wait_s, background=background)
        try:
            answer = await call()
        except (ProviderUnavailable, ProviderRejected) as error:
            if isinstance(error, ProviderUnavailable) and error.retry_s:
                await self._rate_limiter.pause(error.retry_s, throttled=isinstance(error, Throttled))
            else:
                await self._rate_limiter.resume()
            raise
        await self._rate_limiter.resume()
        return answer

    def _listed(self, entry: Any, began_ns: int, cursor: str = "") -> ListedSubscription:
        """Return one entry of the list of subscriptions, even an unreadable one. `began_ns`: start of the request."""
        subscription_id = str(entry.get("id") or "") if isinstance(entry, dict) else ""
        event_id = _listed_id(subscription_id, entry)
        event, problem = None, ""
        try:
            event = self._fetched(entry, self._environment, began_ns)
        except ValueError as error:
            problem = str(error)
        body = orjson.dumps(self._as_event(event_id, entry, began_ns))
        return ListedSubscription(subscription_id, event_id, body, event, problem, cursor)

    def _paid(
        self,
        entry: object,
        envelope: Callable[[Mapping[str, Any], str], Mapping[str, object]],
        cursor: str,
        what: str = "",
    ) -> list[ListedSubscription]:
        """Return the purchases and refunds in one entry of a list of payments.

        Args:
            envelope: (entry, event id) -> the body of the webhook event about it.
            cursor: of the list that begins behind it.
            what: the end of the event's id, where one entry makes two events.
        """
        if not isinstance(entry, dict) or not is_id(entry.get("id")):
            raise unreadable("an entry of its list has no id")
        event_id = _listed_id(entry["id"], entry) + what
        found = []
        for id, body in self._webhooks.split(orjson.dumps(envelope(entry, event_id)), event_id):
            parsed = self._webhooks.parse(body, self._environment, id)
            event, problem = (parsed, "") if isinstance(parsed, Event) else (None, parsed.problem)
            found.append(ListedSubscription(entry["id"], id, body, event, problem, cursor))
        return found

    def _read(self, data: object, began_ns: int) -> Event:
        """Return the subscription in the API's answer. `began_ns`: start of the request."""
        try:
            return self._fetched(data, self._environment, began_ns)
        except ValueError as error:
            raise unreadable(error) from error


def _listed_id(id: str, entry: object) -> str:
    """Return the id of the event about an entry of a list. A different body of the same thing is a different event."""
    named = f"{id}_" if re.fullmatch(r"[\x21-\x7e]{1,100}", id) else ""
    return f"{LISTED}_{named}{hashlib.sha256(orjson.dumps(entry)).hexdigest()[:16]}"


def check_status(status: int, retry_after_s: float) -> None:
    """Raise if the HTTP status means that the API is throttling or failing.

    Args:
        retry_after_s: the pause after a 429.

    Raises:
        ProviderUnavailable: the status is 429, or 500 and above.
    """
    if status == 429:
        raise Throttled(retry_after_s)
    if status >= 500:
        raise away(f"it answered {status}")


def listed_events(
    entries: list[Any], id_field: str, occurred_ns: Callable[[dict[str, Any]], int]
) -> list[ProviderEvent]:
    """Return the entries of one page of a provider's list of events.

    An entry without a readable time gets the time 0, so that the inbox stores and shows it. An entry without an id is
    left out, since it cannot be a cursor.

    Args:
        occurred_ns: returns an entry's time; may raise ValueError.

    Raises:
        ProviderUnavailable: no entry has an id.
    """
    found: list[ProviderEvent] = []
    for entry in entries:
        event_id = entry.get(id_field) if isinstance(entry, dict) else None
        if not is_id(event_id):
            continue
        try:
            at_ns = occurred_ns(entry)
        except ValueError:
            at_ns = 0
        found.append(ProviderEvent(event_id, at_ns, orjson.dumps(entry)))
    if entries and not found:
        raise unreadable("no event has an id")
    return found


@contextlib.asynccontextmanager
async def within(max_wait_s: float) -> AsyncIterator[None]:
    """Raise ProviderUnavailable if the block takes longer than `max_wait_s` seconds."""
    try:
        async with asyncio.timeout(max_wait_s):
            yield
    except TimeoutError:
        raise ProviderUnavailable(f"no answer within {max_wait_s:g} s") from None
