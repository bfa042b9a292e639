"""Paddle's API through its official SDK: reads and changes subscriptions, lists events and subscriptions.

The SDK blocks, so calls run in a small thread pool with one SDK client per thread. Callers do their own retries.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import orjson

from planwire_client.core.topic import LIVE
from sync.billing.domain.facts.model import Event, Item, NamePlace
from sync.billing.domain.money.model import Billed
from sync.billing.providers import api_client
from sync.billing.providers.base import ProviderEvent, ProviderPreview, ProviderRejected, RateLimiter, SubscriptionPage
from sync.billing.providers.paddle.money import billed_of
from sync.billing.providers.paddle.payment_list import ADJUSTMENTS, LISTS, TRANSACTIONS, TRANSACTIONS_PER_PAGE
from sync.billing.providers.paddle.webhooks import (
    LISTED_TYPE,
    METADATA,
    PaddleWebhooks,
    checkout_of,
    fetched,
    read_preview,
)
from sync.billing.providers.parsing import customer_names
from sync.core import instants

if TYPE_CHECKING:
    from paddle_billing import Client

THREADS = 8
"""Maximum concurrent calls of one environment."""

THROTTLED_S = 60.0
"""Pause of all calls after a 429 without a Retry-After."""

EVENTS_PER_PAGE = 100
SUBSCRIPTIONS_PER_PAGE = 200
"""Page size; Paddle's maximum is 200."""

LIVE_URL, SANDBOX_URL = "https://api.paddle.com", "https://sandbox-api.paddle.com"
_SILENT = logging.Logger("paddle_billing", logging.CRITICAL + 1)
"""The SDK's logger, which logs nothing: callers log errors themselves, once."""


class PaddleClient(api_client.ApiClient):
    """The API of one Paddle environment, with one API key. `base_url` "": Paddle's own URL for the environment."""

    _webhooks = PaddleWebhooks()
    _fetched = staticmethod(fetched)
    _checkout = staticmethod(checkout_of)
    checkout_prefix = "txn_"

    def __init__(
        self,
        environment: str,
        key: str,
        base_url: str,
        rate_limiter: RateLimiter,
        *,
        timeout_s: float = api_client.TIMEOUT_S,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        # Import here: without API keys the SDK (900 modules) need not be installed or loaded.
        from paddle_billing import Client, Options

        super().__init__(environment, rate_limiter, now_ns)
        where = SimpleNamespace(base_url=base_url or (LIVE_URL if environment == LIVE else SANDBOX_URL))
        options = Options(environment=where)
        self._connect: Callable[[], Client] = lambda: Client(
            key, options, logger=_SILENT, retry_count=0, timeout=timeout_s
        )
        self._pool = ThreadPoolExecutor(THREADS, f"paddle-{environment}")
        self._local = threading.local()
        self._clients: list[Client] = []

    async def _fetch(self, subscription_id: str, max_wait_s: float) -> Event:
        began_ns = self._now_ns()
        answer = await self._ask(None, lambda client: client.get_raw(_path(subscription_id)))
        return self._read(answer["data"], began_ns)

    async def _get_checkout(self, checkout_id: str, max_wait_s: float, *, background: bool) -> object:
        path = f"/transactions/{quote(checkout_id, safe='')}"
        return (await self._ask(max_wait_s, lambda client: client.get_raw(path), background=background))["data"]

    def _as_event(self, event_id: str, entry: object, began_ns: int) -> Mapping[str, object]:
        occurred_at = instants.text(began_ns)
        return {"event_id": event_id, "event_type": LISTED_TYPE, "occurred_at": occurred_at, "data": entry}

    async def customer_names(
        self, customer_id: str, max_wait_s: float, *, background: bool = False
    ) -> tuple[NamePlace, ...]:
        """Return the places in Paddle's customer that may name a tenant.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: Paddle does not have it, or the API key may not read customers.
        """
        path = f"/customers/{quote(customer_id, safe='')}"
        async with api_client.within(max_wait_s):
            answer = await self._ask(max_wait_s, lambda client: client.get_raw(path), background=background)
        if not isinstance(answer["data"], dict):
            raise api_client.unreadable("data is not an object")
        return customer_names(answer["data"], METADATA)

    async def change_items(
        self,
        subscription_id: str,
        items: Sequence[Item],
        billing_mode: str,
        max_wait_s: float,
        *,
        at_ns: int | None = None,
    ) -> Event:
        """Return the subscription with its items replaced by these; a charge that fails prevents the change.

        `at_ns` is not used: Paddle bills a change as of the minute in which it is made.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds; the change may have been made.
            ProviderRejected: Paddle rejects the change.
        """
        began_ns = self._now_ns()
        payload = {**_update(items, billing_mode), "on_payment_failure": "prevent_change"}
        async with api_client.within(max_wait_s):
            answer = await self._ask(max_wait_s, lambda client: client.patch_raw(_path(subscription_id), payload))
        return self._read(answer["data"], began_ns)

    async def preview_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, max_wait_s: float
    ) -> ProviderPreview:
        """Return Paddle's preview of such a change: the resulting subscription and its cost.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: Paddle would reject the change.
        """
        path, payload = f"{_path(subscription_id)}/preview", _update(items, billing_mode)
        async with api_client.within(max_wait_s):
            data = (await self._ask(max_wait_s, lambda client: client.patch_raw(path, payload)))["data"]
        if not isinstance(data, dict):
            raise api_client.unreadable("data is not an object")
        try:
            return read_preview(data, subscription_id, billing_mode)
        except ValueError as error:
            raise api_client.unreadable(error) from error

    async def bills(self, subscription_id: str, since_ns: int, max_wait_s: float) -> Sequence[Billed]:
        """Return Paddle's transactions of a subscription's changes and renewals since an instant, one page at most.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the API key may not read transactions.
        """
        query = {"subscription_id": subscription_id, "created_at[GTE]": instants.text(since_ns)}
        entries, _ = await self._list("/transactions", query, TRANSACTIONS_PER_PAGE, max_wait_s)
        found = [billed_of(f"transaction.{each.get('status')}", each) for each in entries if isinstance(each, dict)]
        return [billed for billed in found if billed is not None]

    async def events(self, after: str, since_ns: int, max_wait_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        """Return one page of Paddle's events after the id `after` ("": since an instant), and whether more follow.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the API key lacks a permission.
        """
        query = {"after": after} if after else {"from": instants.text(since_ns)}
        entries, pagination = await self._list("/events", query, EVENTS_PER_PAGE, max_wait_s)
        events = api_client.listed_events(entries, "event_id", lambda entry: instants.parse(entry.get("occurred_at")))
        return events, bool(pagination.get("has_more"))

    async def subscriptions(self, after: str, max_wait_s: float) -> SubscriptionPage:
        """Return one page of all subscriptions after the id `after`, by ascending id.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the API key lacks a permission.
        """
        began_ns = self._now_ns()
        query = {"after": after} if after else {}
        entries, pagination = await self._list("/subscriptions", query, SUBSCRIPTIONS_PER_PAGE, max_wait_s)
        following = parse_qs(urlsplit(str(pagination.get("next") or "")).query).get("after", [""])[0]
        total = pagination.get("estimated_total")
        return SubscriptionPage(
            [self._listed(entry, began_ns) for entry in entries],
            following if pagination.get("has_more") else "",
            total if isinstance(total, int) else None,
        )

    async def payments(self, after: str, max_wait_s: float, customer_id: str = "") -> SubscriptionPage:
        """Return one page of the paid transactions with one-time items, and after them of the adjustments.

        Renewals and changes of subscriptions have no such items, so they are not read. `after` is `KIND:ID`.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the API key lacks a permission.
        """
        kind, _, id = (after or f"{TRANSACTIONS}:").partition(":")
        if kind not in LISTS:
            raise ProviderRejected("cursor_invalid", f"{after[:60]!r} is no place in Paddle's list")
        path, filters, per_page, envelope = LISTS[kind]
        query = {**filters, **({"after": id} if id else {}), **({"customer_id": customer_id} if customer_id else {})}
        entries, pagination = await self._list(path, query, per_page, max_wait_s)
        found = [each for entry in entries for each in self._paid(entry, envelope, f"{kind}:{entry.get('id')}")]
        following = f"{ADJUSTMENTS}:" if kind == TRANSACTIONS else ""
        if pagination.get("has_more") and entries:
            following = f"{kind}:{entries[-1]['id']}"
        return SubscriptionPage(found, following)

    async def aclose(self) -> None:
        """Wait for running calls, then close every connection."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        for client in self._clients:
            client.client.close()

    async def _list(
        self, path: str, query: Mapping[str, str], per_page: int, max_wait_s: float
    ) -> tuple[list[Any], Mapping[str, Any]]:
        """Return the entries of one page by ascending id, and its pagination object."""
        url = f"{path}?{urlencode({**query, 'order_by': 'id[ASC]', 'per_page': per_page})}"
        async with api_client.within(max_wait_s):
            page = await self._ask(max_wait_s, lambda client: client.get_raw(url), background=True)
        if not isinstance(page["data"], list):
            raise api_client.unreadable("it has no list")
        pagination = (page.get("meta") or {}).get("pagination")
        return page["data"], pagination if isinstance(pagination, dict) else {}

    async def _ask(
        self, max_wait_s: float | None, ask: Callable[[Client], Any], *, background: bool = False
    ) -> Mapping[str, Any]:
        loop = asyncio.get_running_loop()
        return await self._limited(
            max_wait_s, lambda: loop.run_in_executor(self._pool, self._blocking, ask), background=background
        )

    def _blocking(self, ask: Callable[[Client], Any]) -> Mapping[str, Any]:
        """Return the JSON object in Paddle's answer. Runs in a thread of the pool."""
        from paddle_billing.Exceptions.ApiError import ApiError
        from requests import RequestException

        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._connect()
            self._clients.append(client)
        try:
            body = orjson.loads(ask(client).content)
        except ApiError as error:
            api_client.check_status(error.response.status_code, float(error.retry_after or THROTTLED_S))
            raise ProviderRejected(str(error.error_code), str(error.detail)) from None
        except RequestException as error:
            raise api_client.away(type(error).__name__) from None
        except (KeyError, TypeError, ValueError) as error:
            # The SDK parses errors itself, and fails so on an error that is not in Paddle's format.
            raise api_client.away(f"its answer cannot be read: {type(error).__name__}") from None
        if not isinstance(body, dict) or "data" not in body:
            raise api_client.away("its answer has no data")
        return body


def _path(subscription_id: str) -> str:
    return f"/subscriptions/{quote(subscription_id, safe='')}"


def _update(items: Sequence[Item], billing_mode: str) -> dict[str, object]:
    lines = [{"price_id": price_id, "quantity": quantity} for price_id, quantity in items]
    return {"items": lines, "proration_billing_mode": billing_mode}
