"""Polar's API over plain HTTP: reads and changes subscriptions, and lists them and the deliveries of its webhooks.

Callers do their own retries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx2

from sync.billing.domain.facts.model import Event, Item, NamePlace
from sync.billing.providers import api_client
from sync.billing.providers.base import (
    ListedSubscription,
    ProviderEvent,
    ProviderPreview,
    ProviderRejected,
    ProviderUnavailable,
    SubscriptionPage,
)
from sync.billing.providers.json_client import JsonClient, check_http
from sync.billing.providers.polar.deliveries import KEPT_NS, events_of, own_endpoints
from sync.billing.providers.polar.subscription import PRORATIONS, customer_names
from sync.billing.providers.polar.webhooks import LISTED_TYPE, PolarWebhooks, fetched, order_envelope, refund_envelope
from sync.core import instants

LIVE_URL, SANDBOX_URL = "https://api.polar.sh", "https://sandbox-api.polar.sh"
VERSION = "2026-10"
"""The `Polar-Version` of every request."""

PER_PAGE = 100
"""Page size: Polar's maximum."""

THROTTLED_S = 10.0
"""Pause of all calls after a 429 without a Retry-After: Polar counts calls by the minute."""


class _Listed(NamedTuple):
    """A page of a list: the start of the request, the entries, each with the cursor behind it, and the next page's."""

    began_ns: int
    entries: Sequence[tuple[Any, str]]
    following: str
    total: int | None


def _check(response: httpx2.Response, body: object) -> None:
    """Raise if Polar's answer is an error.

    Raises:
        ProviderUnavailable: Polar is failing, throttling or busy with the subscription.
        ProviderRejected: Polar rejects the call.
    """
    check_http(response, THROTTLED_S)
    status = response.status_code
    if status == 409:
        raise ProviderUnavailable("it is busy with the same subscription")
    if status >= 300:
        said = body if isinstance(body, dict) else {}
        code = "not_found" if status == 404 else str(said.get("error") or f"status_{status}")
        raise ProviderRejected(code, str(said.get("detail") or f"it answered {status}")[:300])


class PolarClient(JsonClient):
    """The API of one Polar environment, with one access token. `base_url` "": Polar's own URL for the environment."""

    _webhooks = PolarWebhooks()
    _fetched = staticmethod(fetched)
    _urls = (LIVE_URL, SANDBOX_URL)
    _version = ("Polar-Version", VERSION)
    _check = staticmethod(_check)

    async def _fetch(self, subscription_id: str, max_wait_s: float) -> Event:
        began_ns = self._now_ns()
        return self._read(await self._send("GET", _path(subscription_id), None), began_ns)

    def _as_event(self, event_id: str, entry: object, began_ns: int) -> Mapping[str, object]:
        return {"type": LISTED_TYPE, "timestamp": instants.text(began_ns), "data": entry}

    async def customer_names(
        self, customer_id: str, max_wait_s: float, *, background: bool = False
    ) -> tuple[NamePlace, ...]:
        """Return the places in Polar's customer that may name a tenant.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: Polar does not have it, or the token may not read customers.
        """
        async with api_client.within(max_wait_s):
            path = f"/v1/customers/{quote(customer_id, safe='')}"
            return customer_names(await self._send("GET", path, max_wait_s, background=background))

    async def change_items(
        self,
        subscription_id: str,
        items: Sequence[Item],
        billing_mode: str,
        max_wait_s: float,
        *,
        at_ns: int | None = None,
    ) -> Event:
        """Return the subscription with another product, or another number of seats or units.

        Polar changes one of the two at a time, so a change of both is two calls. `at_ns` is not used: Polar bills a
        change as of the instant at which it is made.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds; the change may have been made.
            ProviderRejected: Polar rejects the change, or cannot make it: `items_unsupported`, `quantity_unsupported`,
                `billing_mode_unsupported`.
        """
        if len(items) != 1:
            raise ProviderRejected("items_unsupported", "a subscription of Polar buys one product")
        if billing_mode not in PRORATIONS:
            detail = f"Polar does not bill {billing_mode}: use {', '.join(PRORATIONS)}"
            raise ProviderRejected("billing_mode_unsupported", detail)
        path, (wanted,) = _path(subscription_id), items
        async with api_client.within(max_wait_s):
            began_ns = self._now_ns()
            data = await self._send("GET", path, max_wait_s)
            event = self._read(data, began_ns)
            assert event.subscription is not None
            (present,) = event.subscription.items
            changes: list[dict[str, object]] = []
            if wanted.price_id not in (present.price_id, data["product_id"]):
                changes.append({"product_id": wanted.price_id})
            if wanted.quantity != present.quantity:
                changes.append({_quantity_field(data): wanted.quantity})
            for change in changes:
                began_ns = self._now_ns()
                body = {**change, "proration_behavior": PRORATIONS[billing_mode]}
                event = self._read(await self._send("PATCH", path, max_wait_s, body=body), began_ns)
            return event

    async def preview_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, max_wait_s: float
    ) -> ProviderPreview:
        """Raise ProviderRejected: Polar's public API has no preview of a change."""
        raise ProviderRejected("preview_unsupported", "Polar's public API has no preview of a change")

    async def events(self, after: str, since_ns: int, max_wait_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        """Return one page of the events that Polar tried to deliver to us, oldest first, and whether more follow.

        `after` is an instant. Polar lists the newest delivery first, so the oldest are on the last page.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the token lacks the scope `webhooks:read`, or `after` is no instant (`cursor_invalid`).
        """
        now_ns = self._now_ns()
        try:
            begins_ns = max(instants.parse(after) if after else since_ns, now_ns - KEPT_NS)
        except ValueError:
            raise ProviderRejected("cursor_invalid", f"{after[:60]!r} is no instant") from None
        # The end is fixed, so that a delivery that is made meanwhile does not shift the pages.
        query: dict[str, Any] = {"start_timestamp": instants.text(begins_ns), "end_timestamp": instants.text(now_ns)}
        async with api_client.within(max_wait_s):
            endpoints, *_ = await self._page("/v1/webhooks/endpoints", {}, 1, max_wait_s)
            query["endpoint_id"] = own_endpoints(endpoints)
            if not query["endpoint_id"]:
                return (), False
            entries, last, _ = await self._page("/v1/webhooks/deliveries", query, 1, max_wait_s)
            if last > 1:
                entries, *_ = await self._page("/v1/webhooks/deliveries", query, last, max_wait_s)
        found = events_of(entries)
        if entries and not found:
            raise api_client.unreadable("no delivery shows its event")
        return found, last > 1

    async def subscriptions(self, after: str, max_wait_s: float) -> SubscriptionPage:
        """Return one page of all subscriptions, the oldest first; `after` is `PAGE.ENTRIES` that are left out.

        A subscription made meanwhile comes at the end, so that the pages before it do not shift.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the token lacks a scope.
        """
        found = await self._entries("/v1/subscriptions/", {"sorting": "started_at"}, after, max_wait_s)
        entries = [self._listed(entry, found.began_ns, cursor) for entry, cursor in found.entries]
        return SubscriptionPage(entries, found.following, found.total)

    async def payments(self, after: str, max_wait_s: float, customer_id: str = "") -> SubscriptionPage:
        """Return one page of all orders, the oldest first; each is a purchase or a hint, and what went back of it.

        `after` is as that of `subscriptions`.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the token lacks a scope.
        """
        query = {"sorting": "created_at", **({"customer_id": customer_id} if customer_id else {})}
        page = await self._entries("/v1/orders/", query, after, max_wait_s)
        found: list[ListedSubscription] = []
        for entry, cursor in page.entries:
            found += self._paid(entry, order_envelope, cursor)
            if isinstance(entry, dict) and entry.get("refunded_amount"):
                found += self._paid(entry, refund_envelope, cursor, ".refund")
        return SubscriptionPage(found, page.following, page.total)

    async def _entries(self, path: str, query: Mapping[str, str], after: str, max_wait_s: float) -> _Listed:
        """Return one page of a list; `after` is `PAGE.ENTRIES` that are left out."""
        number, skipped = _cursor(after)
        async with api_client.within(max_wait_s):
            began_ns = self._now_ns()
            entries, last, total = await self._page(path, query, number, max_wait_s)
        return _Listed(
            began_ns,
            [(entry, f"{number}.{index}") for index, entry in enumerate(entries, 1) if index > skipped],
            f"{number + 1}.0" if entries and number < last else "",
            total,
        )

    async def _page(
        self, path: str, query: Mapping[str, Any], page: int, max_wait_s: float
    ) -> tuple[list[Any], int, int | None]:
        """Return the entries of a page of one of Polar's lists, the number of pages, and of all entries if known."""
        query = {**query, "page": str(page), "limit": str(PER_PAGE)}
        data = await self._send("GET", path, max_wait_s, query=query, background=True)
        entries, pagination = data.get("items"), data.get("pagination")
        if not isinstance(entries, list) or not isinstance(pagination, dict):
            raise api_client.unreadable("it has no list")
        last, total = pagination.get("max_page"), pagination.get("total_count")
        return entries, last if isinstance(last, int) else 1, total if isinstance(total, int) else None

    async def _send(
        self,
        method: str,
        path: str,
        max_wait_s: float | None,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, object] | None = None,
        background: bool = False,
    ) -> dict[str, Any]:
        """Return the JSON object in Polar's answer. `max_wait_s`: see `_limited`."""
        return await self._call(method, path, max_wait_s, background=background, params=query, json=body)


def _path(subscription_id: str) -> str:
    return f"/v1/subscriptions/{quote(subscription_id, safe='')}"


def _quantity_field(data: Mapping[str, Any]) -> str:
    """Return the field of the quantity of a subscription.

    Raises:
        ProviderRejected: its product has no quantity.
    """
    for name in ("seats", "units"):
        if data.get(name) is not None:
            return name
    raise ProviderRejected("quantity_unsupported", "the product has neither seats nor units")


def _cursor(after: str) -> tuple[int, int]:
    """Return the page of a cursor, and how many of its entries to leave out.

    Raises:
        ProviderRejected: it is none.
    """
    page, _, skipped = after.partition(".")
    if not after:
        return 1, 0
    if not (page.isdecimal() and skipped.isdecimal() and int(page)):
        raise ProviderRejected("cursor_invalid", f"{after[:60]!r} is no place in Polar's list")
    return int(page), int(skipped)
