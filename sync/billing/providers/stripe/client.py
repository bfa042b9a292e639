"""Stripe's API over plain HTTP: the subscription as it is now, its changes, the lists of events and subscriptions.

Stripe's own SDK is not used: it brings a second HTTP stack and a new major version every few months, for five calls.
The API version is pinned, so that answers keep their shape whatever the account's default is. Retries are up to the
callers.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx2
import orjson

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
from sync.billing.providers.parsing import ITEMS_MAX
from sync.billing.providers.single_flight import SingleFlight, within
from sync.billing.providers.stripe.webhooks import LISTED_TYPE, NAME, PRORATIONS, fetched, has_more_items

URL = "https://api.stripe.com"
VERSION = "2026-10-28.endive"
"""The `Stripe-Version` that is asked for."""

TIMEOUT_S = 10.0
"""How long one call may take to connect, and between bytes."""

AWAY_S = 5.0
"""For how long nobody asks after the API could not be reached."""

THROTTLED_S = 5.0
"""The same after a 429 that does not say for how long: Stripe counts calls by the second."""

RETRY_AFTER_MAX_S = 3600.0
"""More is not believed."""

PER_PAGE = 100
"""How many entities one page has; Stripe's most."""

FIRST_PAGES_MAX = 100
"""How many pages of events the first look goes back: the list begins with the newest."""

EVENT_TYPES = (
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "customer.subscription.pending_update_applied",
    "customer.subscription.trial_will_end",
    "checkout.session.completed",
)
"""What is caught up with; the list takes up to 20 types."""

_UNREADABLE = (httpx2.DecodingError, orjson.JSONDecodeError)


class StripeClient:
    """One environment of Stripe, asked with one API key. `base_url` "" is Stripe's own."""

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
        self._environment = environment
        self._rate_limiter = rate_limiter
        self._now_ns = now_ns
        self._questions = SingleFlight(rate_limiter)
        self._http = httpx2.AsyncClient(
            base_url=base_url or URL,
            headers={"Authorization": f"Bearer {key}", "Stripe-Version": VERSION},
            timeout=timeout_s,
        )

    async def fetch(self, subscription_id: str, patience_s: float, *, background: bool = False) -> Event:
        """Return the subscription as it is now; callers share requests that have not begun.

        Raises:
            ProviderUnavailable: not within `patience_s`.
            ProviderRejected: it is not there (`not_found`), or the key does not suffice.
        """

        async def call() -> Event:
            began_ns = self._now_ns()
            data = await self._complete(await self._send("GET", _path(subscription_id)), patience_s)
            return self._read(data, began_ns)

        return await self._questions.fetch(subscription_id, patience_s, background, call)

    async def change_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, patience_s: float
    ) -> Event:
        """Return the subscription with its items replaced by these; a charge that fails prevents the change.

        Items that stay as they are are not touched, so their metered usage and discounts stay too.

        Raises:
            ProviderUnavailable: not within `patience_s`; whether it was done is not known.
            ProviderRejected: Stripe does not do it, or does not bill so (`billing_mode_unsupported`).
        """

        async def change() -> Event:
            began_ns, data, lines = await self._lines(subscription_id, items, billing_mode, patience_s)
            if lines:
                form = {f"items{name}": value for name, value in lines.items()}
                form |= {"proration_behavior": PRORATIONS[billing_mode], "payment_behavior": "error_if_incomplete"}
                began_ns = self._now_ns()
                data = await self._taken(patience_s, lambda: self._send("POST", _path(subscription_id), form=form))
            return self._read(await self._complete(data, patience_s), began_ns)

        return await within(patience_s, change())

    async def preview_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, patience_s: float
    ) -> ProviderPreview:
        """Return Stripe's preview of the invoice that such a change would make.

        Raises:
            ProviderUnavailable: not within `patience_s`.
            ProviderRejected: Stripe would not do it, or does not bill so (`billing_mode_unsupported`).
        """

        async def preview() -> ProviderPreview:
            _, _, lines = await self._lines(subscription_id, items, billing_mode, patience_s)
            form = {f"subscription_details[items]{name}": value for name, value in lines.items()}
            form |= {
                "subscription": subscription_id,
                "subscription_details[proration_behavior]": PRORATIONS[billing_mode],
            }
            call = partial(self._send, "POST", "/v1/invoices/create_preview", form=form)
            return ProviderPreview(await self._taken(patience_s, call), None)

        return await within(patience_s, preview())

    async def events(self, after: str, since_ns: int, patience_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        """Return one page of the events that are about subscriptions, behind `after`, or else since an instant.

        Stripe keeps events for 30 days; where it does not know `after` any more, the instant counts.

        Raises:
            ProviderUnavailable: not within `patience_s`.
            ProviderRejected: the key does not suffice.
        """

        async def read() -> tuple[Sequence[ProviderEvent], bool]:
            if after:
                try:
                    page = await self._list("/v1/events", patience_s, _types() | {"ending_before": after})
                except ProviderRejected as error:
                    if error.code != "not_found":
                        raise
                else:
                    return _told(page), bool(page.get("has_more"))
            return await self._oldest(since_ns, patience_s)

        return await within(patience_s, read())

    async def _oldest(self, since_ns: int, patience_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        """The oldest page since an instant, by going back through all newer ones, FIRST_PAGES_MAX at most."""
        query = _types() | {"created[gte]": str(since_ns // 1_000_000_000)}
        page = await self._list("/v1/events", patience_s, query)
        newer = False
        for _ in range(FIRST_PAGES_MAX - 1):
            if not page.get("has_more") or not page["data"]:
                break
            newer = True
            page = await self._list("/v1/events", patience_s, query | {"starting_after": str(page["data"][-1]["id"])})
        return _told(page), newer

    async def subscriptions(self, after: str, patience_s: float) -> SubscriptionPage:
        """Return one page of all subscriptions behind the id `after`, the newest first.

        One made meanwhile is before the first page: its webhooks tell of it.

        Raises:
            ProviderUnavailable: not within `patience_s`.
            ProviderRejected: the key does not suffice.
        """

        async def read() -> SubscriptionPage:
            began_ns = self._now_ns()
            query = {"status": "all"} | ({"starting_after": after} if after else {})
            page = await self._list("/v1/subscriptions", patience_s, query)
            entries = [_listed(await self._complete(e, patience_s), self._environment, began_ns) for e in page["data"]]
            return SubscriptionPage(entries, entries[-1].subscription_id if entries and page.get("has_more") else "")

        return await within(patience_s, read())

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    def _read(self, data: object, began_ns: int) -> Event:
        try:
            return fetched(data, self._environment, began_ns)
        except ValueError as error:
            raise _unreadable(str(error)) from error

    async def _complete(self, data: Any, patience_s: float) -> Any:
        """The subscription with all of its items, which are a list of their own where they are many."""
        if not isinstance(data, dict) or not has_more_items(data):
            return data
        items: list[Any] = []
        page: Mapping[str, Any] = {"has_more": True}
        while page["has_more"] and len(items) <= ITEMS_MAX:
            query = {"subscription": str(data["id"])} | ({"starting_after": str(items[-1]["id"])} if items else {})
            page = await self._list("/v1/subscription_items", patience_s, query, background=False)
            items += page["data"]
            page = {"has_more": bool(page.get("has_more") and page["data"])}
        return {**data, "items": {**data["items"], "data": items, "has_more": False}}

    async def _lines(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, patience_s: float
    ) -> tuple[int, Any, dict[str, str]]:
        """When and as what the subscription was read, and the form fields that make its items into `items`."""
        if billing_mode not in PRORATIONS:
            raise ProviderRejected(
                "billing_mode_unsupported", f"Stripe does not bill {billing_mode}: use {', '.join(PRORATIONS)}"
            )
        began_ns = self._now_ns()
        data = await self._taken(patience_s, lambda: self._send("GET", _path(subscription_id)))
        data = await self._complete(data, patience_s)
        self._read(data, began_ns)
        return began_ns, data, _differences(data["items"]["data"], items)

    async def _list(
        self, path: str, patience_s: float, query: Mapping[str, str], *, background: bool = True
    ) -> Mapping[str, Any]:
        page = await self._taken(
            patience_s, lambda: self._send("GET", path, query={**query, "limit": str(PER_PAGE)}), background=background
        )
        entries = page.get("data")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise _unreadable("it has no list")
        return page

    async def _taken(
        self, patience_s: float, call: Callable[[], Awaitable[dict[str, Any]]], *, background: bool = False
    ) -> dict[str, Any]:
        await self._rate_limiter.acquire(patience_s, background=background)
        return await call()

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON object that Stripe answers."""
        try:
            response = await self._http.request(method, path, params=query, data=form)
            body = orjson.loads(response.content)
        except _UNREADABLE:
            await self._rate_limiter.pause(AWAY_S)
            raise _unreadable("it is not JSON") from None
        except httpx2.HTTPError as error:
            await self._rate_limiter.pause(AWAY_S)
            raise ProviderUnavailable(type(error).__name__, AWAY_S) from error
        failure = body.get("error") if isinstance(body, dict) else None
        if response.status_code == 429:
            closed_s = _retry_after_s(response.headers.get("Retry-After"))
            await self._rate_limiter.pause(closed_s, throttled=True)
            raise ProviderUnavailable("it says that it is asked too often", closed_s)
        if response.status_code >= 500:
            await self._rate_limiter.pause(AWAY_S)
            raise ProviderUnavailable(f"it answered {response.status_code}", AWAY_S)
        await self._rate_limiter.resume()
        if response.status_code == 409:
            # Another call works on the same object: it passes.
            raise ProviderUnavailable("it is busy with the same object")
        if response.status_code >= 400:
            raise _refusal(response.status_code, failure if isinstance(failure, dict) else {})
        if not isinstance(body, dict):
            raise _unreadable("it is no object")
        return body


def _path(subscription_id: str) -> str:
    return f"/v1/subscriptions/{quote(subscription_id, safe='')}"


def _types() -> dict[str, str]:
    return {f"types[{index}]": name for index, name in enumerate(EVENT_TYPES)}


def _told(page: Mapping[str, Any]) -> list[ProviderEvent]:
    """A page of events, the oldest first."""
    try:
        return [
            ProviderEvent(str(entry["id"]), int(entry["created"]) * 1_000_000_000, orjson.dumps(entry))
            for entry in reversed(page["data"])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(f"an event has no {error}") from error


def _listed(entry: Mapping[str, Any], environment: str, began_ns: int) -> ListedSubscription:
    def as_event(event_id: str) -> Mapping[str, object]:
        return {
            "id": event_id,
            "object": "event",
            "type": LISTED_TYPE,
            "created": began_ns // 1_000_000_000,
            "livemode": entry.get("livemode"),
            "data": {"object": entry},
        }

    return parsing.listed(entry, lambda data: fetched(data, environment, began_ns), as_event)


def _differences(present: Sequence[Any], wanted: Sequence[Item]) -> dict[str, str]:
    """The form fields, behind `items`, that make the present items into the wanted ones; none where they are.

    An item whose price goes takes over the first price that comes, so that a plan that changes stays one item.
    """
    left = list(wanted)
    going: list[str] = []
    changes: list[dict[str, str]] = []
    for entry in present:
        price_id = str(entry["price"]["id"])
        target = next((item for item in left if item.price_id == price_id), None)
        if target is None:
            going.append(str(entry["id"]))
            continue
        left.remove(target)
        if entry.get("quantity", 1) != target.quantity:
            changes.append({"id": str(entry["id"]), "quantity": str(target.quantity)})
    for item_id in going:
        if left:
            item = left.pop(0)
            changes.append({"id": item_id, "price": item.price_id, "quantity": str(item.quantity)})
        else:
            changes.append({"id": item_id, "deleted": "true"})
    changes += [{"price": item.price_id, "quantity": str(item.quantity)} for item in left]
    return {f"[{index}][{name}]": value for index, change in enumerate(changes) for name, value in change.items()}


def _refusal(status: int, failure: Mapping[str, Any]) -> ProviderRejected:
    code = str(failure.get("code") or failure.get("type") or f"status_{status}")
    if status == 404 or code == "resource_missing":
        code = "not_found"
    return ProviderRejected(code, str(failure.get("message") or f"it answered {status}")[:300])


def _unreadable(problem: str) -> ProviderUnavailable:
    return ProviderUnavailable(f"its answer cannot be read: {problem}")


def _retry_after_s(text: str | None) -> float:
    """The seconds of a Retry-After; other forms than whole seconds are not Stripe's."""
    if text is None or not (text.isascii() and text.isdigit()):
        return THROTTLED_S
    return min(float(text), RETRY_AFTER_MAX_S)
