"""Paddle's API through its official SDK: the subscription as it is now, its changes, events and subscriptions listed.

The SDK blocks, so calls run in a small pool of threads, each with a client of its own. Retries are up to callers.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import orjson

from planwire_client.core.topic import LIVE
from sync.billing.domain.model import Event, Item
from sync.billing.providers import parsing
from sync.billing.providers.base import (
    ListedSubscription,
    ProviderEvent,
    ProviderPreview,
    ProviderRejected,
    ProviderUnavailable,
    RateLimiter,
    SubscriptionPage,
)
from sync.billing.providers.paddle.webhooks import LISTED_TYPE, NAME, fetched, read_preview
from sync.billing.providers.single_flight import SingleFlight, within
from sync.core import instants

if TYPE_CHECKING:
    from paddle_billing import Client

THREADS = 4
"""How many calls of one environment run at once."""

TIMEOUT_S = 10.0
"""How long one call may take to connect, and between bytes."""

AWAY_S = 5.0
"""For how long nobody asks after the API could not be reached."""

THROTTLED_S = 60.0
"""The same after a 429 that does not say for how long."""

EVENTS_PER_PAGE = 100
SUBSCRIPTIONS_PER_PAGE = 200
"""How many entities one page has; Paddle's most is 200."""

LIVE_URL, SANDBOX_URL = "https://api.paddle.com", "https://sandbox-api.paddle.com"
_SILENT = logging.Logger("paddle_billing", logging.CRITICAL + 1)
"""The SDK's logger: callers report answers and errors, once."""


class PaddleClient:
    """One environment of Paddle, asked with one API key. `base_url` "" is Paddle's own for the environment."""

    name = NAME

    def __init__(
        self,
        environment: str,
        key: str,
        base_url: str,
        rate_limiter: RateLimiter,
        *,
        timeout_s: float = TIMEOUT_S,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        # Only here: without API keys the SDK, with its 900 modules, need not be installed nor loaded.
        from paddle_billing import Client, Options

        self._environment = environment
        self._rate_limiter = rate_limiter
        self._now_ns = now_ns
        where = SimpleNamespace(base_url=base_url or (LIVE_URL if environment == LIVE else SANDBOX_URL))
        options = Options(environment=where)
        self._connect: Callable[[], Client] = lambda: Client(
            key, options, logger=_SILENT, retry_count=0, timeout=timeout_s
        )
        self._pool = ThreadPoolExecutor(THREADS, f"paddle-{environment}")
        self._local = threading.local()
        self._clients: list[Client] = []
        self._questions = SingleFlight(rate_limiter)

    async def fetch(self, subscription_id: str, patience_s: float, *, background: bool = False) -> Event:
        """Return the subscription as it is now; callers share requests that have not begun.

        Raises:
            ProviderUnavailable: not within `patience_s`.
            ProviderRejected: it is not there (`not_found`), or the key does not suffice.
        """

        async def call() -> Event:
            began_ns = self._now_ns()
            data = await self._call(lambda client: client.get_raw(_path(subscription_id)))
            return self._read(data.get("data"), began_ns)

        return await self._questions.fetch(subscription_id, patience_s, background, call)

    async def change_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, patience_s: float
    ) -> Event:
        """Return the subscription with its items replaced by these; a charge that fails prevents the change.

        Raises:
            ProviderUnavailable: not within `patience_s`; whether it was done is not known.
            ProviderRejected: Paddle does not do it.
        """
        began_ns = self._now_ns()
        payload = {**_update(items, billing_mode), "on_payment_failure": "prevent_change"}
        data = await self._within(patience_s, lambda client: client.patch_raw(_path(subscription_id), payload))
        return self._read(data.get("data"), began_ns)

    async def preview_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, patience_s: float
    ) -> ProviderPreview:
        """Return Paddle's preview of such a change: the subscription as it would be, and what it would cost.

        Raises:
            ProviderUnavailable: not within `patience_s`.
            ProviderRejected: Paddle would not do it.
        """
        path, payload = f"{_path(subscription_id)}/preview", _update(items, billing_mode)
        data = (await self._within(patience_s, lambda client: client.patch_raw(path, payload))).get("data")
        if not isinstance(data, dict):
            raise ProviderUnavailable("its answer has no data")
        try:
            return read_preview(data, subscription_id)
        except ValueError as error:
            raise ProviderUnavailable(f"its answer cannot be read: {error}") from error

    async def events(self, after: str, since_ns: int, patience_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        """Return one page of Paddle's events behind `after`, or else since an instant, and whether more follow.

        Raises:
            ProviderUnavailable: not within `patience_s`.
            ProviderRejected: the key does not suffice.
        """
        query: dict[str, str | int] = {"order_by": "id[ASC]", "per_page": EVENTS_PER_PAGE}
        query |= {"after": after} if after else {"from": instants.text(since_ns)}
        page = await self._within(
            patience_s, lambda client: client.get_raw(f"/events?{urlencode(query)}"), background=True
        )
        told = [
            ProviderEvent(str(entry["event_id"]), instants.parse(entry["occurred_at"]), orjson.dumps(entry))
            for entry in page["data"]
        ]
        return told, bool(_pagination(page).get("has_more"))

    async def subscriptions(self, after: str, patience_s: float) -> SubscriptionPage:
        """Return one page of all subscriptions behind the id `after`, by rising id.

        Raises:
            ProviderUnavailable: not within `patience_s`.
            ProviderRejected: the key does not suffice.
        """
        query = {"order_by": "id[ASC]", "per_page": str(SUBSCRIPTIONS_PER_PAGE)} | ({"after": after} if after else {})
        began_ns = self._now_ns()
        page = await self._within(
            patience_s, lambda client: client.get_raw(f"/subscriptions?{urlencode(query)}"), background=True
        )
        if not isinstance(page["data"], list):
            raise ProviderUnavailable("its answer has no list")
        pagination = _pagination(page)
        following = parse_qs(urlsplit(str(pagination.get("next") or "")).query).get("after", [""])[0]
        total = pagination.get("estimated_total")
        return SubscriptionPage(
            [_listed(entry, self._environment, began_ns) for entry in page["data"]],
            following if pagination.get("has_more") else "",
            total if isinstance(total, int) else None,
        )

    async def aclose(self) -> None:
        """Close every connection; calls that run are waited for."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        for client in self._clients:
            client.client.close()

    def _read(self, data: object, began_ns: int) -> Event:
        try:
            return fetched(data, self._environment, began_ns)
        except ValueError as error:
            raise ProviderUnavailable(f"its answer cannot be read: {error}") from error

    async def _within(
        self, patience_s: float, ask: Callable[[Client], Any], *, background: bool = False
    ) -> Mapping[str, Any]:
        async def call() -> Mapping[str, Any]:
            await self._rate_limiter.acquire(patience_s, background=background)
            return await self._call(ask)

        return await within(patience_s, call())

    async def _call(self, ask: Callable[[Client], Any]) -> Mapping[str, Any]:
        answer = await asyncio.get_running_loop().run_in_executor(self._pool, self._blocking, ask)
        if isinstance(answer, _Failure):
            if answer.closed_s:
                await self._rate_limiter.pause(answer.closed_s, throttled=answer.throttled)
            raise answer.error
        await self._rate_limiter.resume()
        return answer

    def _blocking(self, ask: Callable[[Client], Any]) -> Mapping[str, Any] | _Failure:
        """The JSON object that Paddle answers, in a thread of the pool."""
        from paddle_billing.Exceptions.ApiError import ApiError
        from requests import RequestException

        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._connect()
            self._clients.append(client)
        try:
            body = orjson.loads(ask(client).content)
        except ApiError as error:
            if error.response.status_code == 429:
                closed_s = float(error.retry_after or THROTTLED_S)
                return _Failure(
                    ProviderUnavailable("it says that it is asked too often", closed_s), closed_s, throttled=True
                )
            if error.response.status_code >= 500:
                return _Failure(ProviderUnavailable(f"it answered {error.response.status_code}"), AWAY_S)
            return _Failure(ProviderRejected(str(error.error_code), str(error.detail)))
        except RequestException as error:
            return _Failure(ProviderUnavailable(type(error).__name__), AWAY_S)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            # The SDK reads errors itself, and trips over those that are not in Paddle's shape.
            return _Failure(ProviderUnavailable(f"its answer cannot be read: {type(error).__name__}"), AWAY_S)
        if not isinstance(body, dict) or "data" not in body:
            return _Failure(ProviderUnavailable("its answer has no data"), AWAY_S)
        return body


@dataclass(frozen=True, slots=True)
class _Failure:
    """What to raise, and for how long nobody should ask."""

    error: ProviderUnavailable | ProviderRejected
    closed_s: float = 0.0
    throttled: bool = False


def _listed(entry: Any, environment: str, began_ns: int) -> ListedSubscription:
    def as_event(event_id: str) -> Mapping[str, object]:
        occurred_at = instants.text(began_ns)
        return {"event_id": event_id, "event_type": LISTED_TYPE, "occurred_at": occurred_at, "data": entry}

    return parsing.listed(entry, lambda data: fetched(data, environment, began_ns), as_event)


def _path(subscription_id: str) -> str:
    return f"/subscriptions/{quote(subscription_id, safe='')}"


def _update(items: Sequence[Item], billing_mode: str) -> dict[str, object]:
    lines = [{"price_id": price_id, "quantity": quantity} for price_id, quantity in items]
    return {"items": lines, "proration_billing_mode": billing_mode}


def _pagination(page: Mapping[str, Any]) -> Mapping[str, Any]:
    found = (page.get("meta") or {}).get("pagination")
    return found if isinstance(found, dict) else {}
