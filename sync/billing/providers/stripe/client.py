"""Stripe's API: reads and changes subscriptions, lists events, subscriptions and payments.

Callers do their own retries. An id `ACCOUNT/ID` is of a connected account (`domain.tenant_naming.of_account`), and is
asked for there. Lists are of the own account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sync.billing.domain.facts.model import Event, Item, NamePlace
from sync.billing.domain.money.model import Billed
from sync.billing.domain.tenant_naming import of_account
from sync.billing.providers import api_client
from sync.billing.providers.base import (
    Checkout,
    ListedSubscription,
    PaidFor,
    ProviderEvent,
    ProviderPreview,
    ProviderRejected,
    SubscriptionPage,
)
from sync.billing.providers.parsing import ITEMS_MAX, customer_names
from sync.billing.providers.stripe import payment_list
from sync.billing.providers.stripe.answers import last_id, listed, path_of, split_account
from sync.billing.providers.stripe.item_changes import item_fields, preview_form
from sync.billing.providers.stripe.money import billed_of, money_of
from sync.billing.providers.stripe.payments import INVOICED, paid_for
from sync.billing.providers.stripe.subscription import SECOND_NS, has_more_items
from sync.billing.providers.stripe.transport import StripeTransport
from sync.billing.providers.stripe.webhooks import (
    AT_ONCE,
    EVENT_TYPES,
    LISTED_TYPE,
    METADATA,
    PRORATIONS,
    StripeWebhooks,
    checkout_of,
    fetched,
)

FIRST_PAGES_MAX = 100
"""Maximum pages of events read without a cursor, since the list begins with the newest."""

_TYPES = {f"types[{index}]": name for index, name in enumerate(EVENT_TYPES)}


class StripeClient(StripeTransport):
    """The API of one Stripe environment, with one API key."""

    _webhooks = StripeWebhooks()
    _fetched = staticmethod(fetched)
    _checkout = staticmethod(checkout_of)
    checkout_prefix = "cs_"

    async def _fetch(self, subscription_id: str, max_wait_s: float) -> Event:
        began_ns, (account, path) = self._now_ns(), path_of("subscriptions", subscription_id)
        data = await self._complete(await self._send("GET", path, None, account=account), max_wait_s, account)
        return self._of(account, data, began_ns)

    def _of(self, account: str, data: object, began_ns: int) -> Event:
        """Return the subscription in an answer about an account; "" for the own one."""
        return of_account(self._read(data, began_ns), account)

    async def checkout(self, checkout_id: str, max_wait_s: float, *, background: bool = False) -> Checkout:
        """Return a checkout session, by one request; see `ApiClient.checkout`."""
        account, _ = split_account(checkout_id)
        found = await super().checkout(checkout_id, max_wait_s, background=background)
        payment, fetched = (each and of_account(each, account) for each in (found.payment, found.fetched))
        return replace(found, payment=payment, fetched=fetched)

    async def _get_checkout(self, checkout_id: str, max_wait_s: float, *, background: bool) -> object:
        account, path = path_of("checkout/sessions", checkout_id)
        path = f"{path}?expand[]=subscription&expand[]=line_items"
        data = await self._send("GET", path, max_wait_s, background=background, account=account)

        async def read(path: str, query: Mapping[str, str]) -> Mapping[str, Any]:
            return await self._list(path, max_wait_s, query, background=background, account=account)

        return await payment_list.with_lines(data, read)

    def _as_event(self, event_id: str, entry: object, began_ns: int) -> Mapping[str, object]:
        return {
            "id": event_id,
            "object": "event",
            "type": LISTED_TYPE,
            "created": began_ns // 1_000_000_000,
            "livemode": entry.get("livemode") if isinstance(entry, dict) else None,
            "data": {"object": entry},
        }

    async def customer_names(
        self, customer_id: str, max_wait_s: float, *, background: bool = False
    ) -> tuple[NamePlace, ...]:
        """Return the places in Stripe's customer that may name a tenant.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: Stripe does not have it, or the API key may not read customers.
        """
        account, path = path_of("customers", customer_id)
        async with api_client.within(max_wait_s):
            data = await self._send("GET", path, max_wait_s, background=background, account=account)
            return customer_names(data, METADATA)

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

        Unchanged items are not sent, so they keep their metered usage and discounts. Stripe bills parts of a period as
        of `at_ns`, as it quoted them then.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds; the change may have been made.
            ProviderRejected: Stripe rejects the change, or the billing mode (`billing_mode_unsupported`).
        """
        account, path = path_of("subscriptions", subscription_id)
        async with api_client.within(max_wait_s):
            began_ns, data, lines = await self._lines(subscription_id, items, billing_mode, max_wait_s)
            if lines:
                form = {f"items{name}": value for name, value in lines.items()}
                form |= {"proration_behavior": PRORATIONS[billing_mode], "payment_behavior": "error_if_incomplete"}
                if at_ns is not None and billing_mode != "do_not_bill":
                    form["proration_date"] = str(at_ns // SECOND_NS)
                began_ns = self._now_ns()
                data = await self._send("POST", path, max_wait_s, form=form, account=account)
            return self._of(account, await self._complete(data, max_wait_s, account), began_ns)

    async def preview_items(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, max_wait_s: float
    ) -> ProviderPreview:
        """Return Stripe's preview of the invoice that such a change would make.

        The preview of a change that is billed at once shows no renewal, so that is previewed by a second call.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: Stripe would reject the change, or the billing mode (`billing_mode_unsupported`).
        """
        async with api_client.within(max_wait_s):
            began_ns, _, lines = await self._lines(subscription_id, items, billing_mode, max_wait_s)
            account, id = split_account(subscription_id)
            at_s, bills_at_once = began_ns // SECOND_NS, bool(lines) and billing_mode in AT_ONCE

            async def previewed(mode: str) -> dict[str, Any]:
                form = preview_form(id, lines, PRORATIONS[mode], at_s)
                return await self._send("POST", "/v1/invoices/create_preview", max_wait_s, form=form, account=account)

            invoice = await previewed(billing_mode)
            renewal = await previewed("do_not_bill") if bills_at_once else None
        money = money_of(invoice, bills_at_once=bills_at_once, at_s=at_s, renewal=renewal)
        return ProviderPreview(invoice, None, money)

    async def bills(self, subscription_id: str, since_ns: int, max_wait_s: float) -> Sequence[Billed]:
        """Return Stripe's invoices of a subscription's changes and renewals since an instant, one page at most.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the API key may not read invoices.
        """
        account, id = split_account(subscription_id)
        query = {"subscription": id, "created[gte]": str(since_ns // SECOND_NS)}
        async with api_client.within(max_wait_s):
            page = await self._list("/v1/invoices", max_wait_s, query, account=account)
        found = [
            billed_of(INVOICED, each)
            for each in page["data"]
            if isinstance(each, dict) and each.get("status") not in ("draft", "void")
        ]
        return [billed._replace(subscription_id=subscription_id) for billed in found if billed is not None]

    async def events(self, after: str, since_ns: int, max_wait_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        """Return a page of events about subscriptions after the id `after` ("": since an instant), and if more follow.

        Stripe keeps events for 30 days. If it no longer has `after`, the page begins at the instant.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the API key lacks a permission.
        """
        async with api_client.within(max_wait_s):
            if after:
                try:
                    page = await self._list("/v1/events", max_wait_s, _TYPES | {"ending_before": after})
                    return listed(page), bool(page.get("has_more"))
                except ProviderRejected as error:
                    if error.code != "not_found":
                        raise
            return await self._oldest(since_ns, max_wait_s)

    async def _oldest(self, since_ns: int, max_wait_s: float) -> tuple[Sequence[ProviderEvent], bool]:
        """Return the oldest page since an instant. Reads back from the newest, at most FIRST_PAGES_MAX pages."""
        query = _TYPES | {"created[gte]": str(since_ns // 1_000_000_000)}
        page = await self._list("/v1/events", max_wait_s, query)
        newer = False
        for _ in range(FIRST_PAGES_MAX - 1):
            if not page.get("has_more") or not page["data"]:
                break
            newer = True
            page = await self._list("/v1/events", max_wait_s, query | {"starting_after": last_id(page)})
        return listed(page), newer

    async def subscriptions(self, after: str, max_wait_s: float) -> SubscriptionPage:
        """Return one page of all subscriptions after the id `after`, newest first.

        A subscription made meanwhile comes before the first page and is missed here; its webhooks bring it.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the API key lacks a permission.
        """
        async with api_client.within(max_wait_s):
            began_ns = self._now_ns()
            query = {"status": "all"} | ({"starting_after": after} if after else {})
            page = await self._list("/v1/subscriptions", max_wait_s, query)
            entries = [self._listed(await self._complete(e, max_wait_s), began_ns) for e in page["data"]]
            return SubscriptionPage(entries, last_id(page) if entries and page.get("has_more") else "")

    async def payments(self, after: str, max_wait_s: float, customer_id: str = "") -> SubscriptionPage:
        """Return one page of paid checkout sessions and invoices, and after them of refunds and disputes.

        Each list begins with the newest. `after` is `LIST:ID`.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the API key lacks a permission.
        """

        async def read(path: str, query: Mapping[str, str]) -> Mapping[str, Any]:
            return await self._list(path, max_wait_s, query)

        kind, id = payment_list.place(after, customer_id)
        path, query = payment_list.LISTS[kind]
        more = {"starting_after": id} if id else {}
        async with api_client.within(max_wait_s):
            now_s = self._now_ns() // SECOND_NS
            page = await read(path, {**query, **more, **({"customer": customer_id} if customer_id else {})})
            found: list[ListedSubscription] = []
            for what, entry in await payment_list.entries(kind, page, read):
                envelope = partial(payment_list.envelope, what, now_s=now_s)
                cursor = f"{kind}:{entry.get('id')}" if what == kind else f"{kind}:{id}"
                found += self._paid(entry, envelope, cursor)
            if page.get("has_more") and page["data"]:
                return SubscriptionPage(found, f"{kind}:{last_id(page)}")
            return SubscriptionPage(found, payment_list.following(kind, customer_id))

    async def paid_for(self, payment_id: str, max_wait_s: float, *, background: bool = False) -> PaidFor | None:
        """Return what the invoice of a payment was for; None for a payment without an invoice.

        Raises:
            ProviderUnavailable: no answer within `max_wait_s` seconds.
            ProviderRejected: the API key may not read invoices.
        """
        account, own = split_account(payment_id)
        kind = "charge" if own.startswith("ch_") else "payment_intent"
        query = {"payment[type]": kind, f"payment[{kind}]": own, "expand[]": "data.invoice"}
        async with api_client.within(max_wait_s):
            page = await self._list("/v1/invoice_payments", max_wait_s, query, background=background, account=account)
        found = paid_for(page["data"])
        return found._replace(id=f"{account}/{found.id}") if found is not None and account else found

    async def _complete(self, data: Any, max_wait_s: float, account: str = "") -> Any:
        """Return the subscription with all its items. A long list of items is read from its own endpoint."""
        if not isinstance(data, dict) or not has_more_items(data):
            return data
        items: list[Any] = []
        query = {"subscription": str(data.get("id"))}
        while len(items) <= ITEMS_MAX:
            page = await self._list("/v1/subscription_items", max_wait_s, query, background=False, account=account)
            items += page["data"]
            if not page.get("has_more") or not page["data"]:
                break
            query["starting_after"] = last_id(page)
        return {**data, "items": {**data["items"], "data": items, "has_more": False}}

    async def _lines(
        self, subscription_id: str, items: Sequence[Item], billing_mode: str, max_wait_s: float
    ) -> tuple[int, Any, dict[str, str]]:
        """Return (start of the read in ns, the subscription, the form fields that change its items to `items`)."""
        if billing_mode not in PRORATIONS:
            raise ProviderRejected(
                "billing_mode_unsupported", f"Stripe does not bill {billing_mode}: use {', '.join(PRORATIONS)}"
            )
        began_ns, (account, path) = self._now_ns(), path_of("subscriptions", subscription_id)
        data = await self._send("GET", path, max_wait_s, account=account)
        data = await self._complete(data, max_wait_s, account)
        self._read(data, began_ns)
        return began_ns, data, item_fields(data["items"]["data"], items)
