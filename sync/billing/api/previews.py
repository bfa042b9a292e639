"""Previews: predicts a change of a tenant, and confirms it if the tenant is unchanged since."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from functools import partial

import orjson

from sync.billing.api.bodies import answers, requests
from sync.billing.api.operations import CHANGE_PROBLEMS, Asked, BillingOperations, Document, changed_document, operation
from sync.billing.domain.entitlements.awaited import await_preview, without_preview
from sync.billing.domain.entitlements.preview import Preview, PreviewRequest, difference, preview
from sync.billing.domain.facts.model import Event, Item, Subscription
from sync.billing.domain.money.differences import from_expected
from sync.billing.domain.money.model import Money
from sync.billing.domain.money.quote import Quote
from sync.billing.domain.tenant_resolution import SubscriptionRef
from sync.billing.providers import registry
from sync.billing.providers.base import ProviderClient, ProviderPreview, ProviderRejected
from sync.billing.services.reproject import Refresh
from sync.billing.services.tenants.reconcile import MAX_WAIT_S
from sync.billing.storage.quoted import drop_quote, store_quote
from sync.billing.storage.records import get_preview, put_preview
from sync.billing.storage.tenants import billed, facts_of
from sync.core import instants
from sync.http.openapi import VERSION, Answer
from sync.http.parameters import PathText
from sync.http.problem import Problem

BILLING_MODE = "prorated_immediately"
"""How a previewed change is billed by default."""


class Previews(BillingOperations):
    """The operations of previews."""

    @operation(
        "POST",
        "/v1/tenants/{id}/preview",
        "previewChange",
        "What a change would make of the tenant; nothing is done.",
        Answer("What it would be.", answers.Previewed, VERSION),
        (*CHANGE_PROBLEMS, "provider_refused", "provider_unavailable"),
        body=requests.PreviewBody,
    )
    async def preview(self, asked: Asked, body: requests.PreviewBody) -> Document:
        """Return the tenant's state after a change, predicted at its current version; nothing is changed."""
        billing_mode = body.billing_mode or BILLING_MODE
        items = tuple(Item(line.price_id, line.quantity or 1) for line in body.items or ())
        change = PreviewRequest(body.plan or "", body.quantity, items, body.cancel or "", body.subscription_id or "")
        change = replace(change, app=body.app or "")
        snapshot = await self._services.store.read(asked.topic)
        foreseen = preview(facts_of(snapshot), change, self._services.setting(asked.environment))
        theirs = await self._providers_preview(asked, body, foreseen, billing_mode)
        preview_id, taken_ns = f"pv_{secrets.token_hex(12)}", self._services.now_ns()
        document: Document = {
            "preview_id": preview_id,
            "version": snapshot.version,
            "taken_at": instants.text(taken_ns),
            "subscription_id": foreseen.body.id,
            "state": foreseen.state,
            "diff": difference(orjson.loads(billed(snapshot).state), foreseen.state),
        }
        kept: Document = {
            "version": snapshot.version,
            "rev": snapshot.rev,
            "asked": {**asdict(change), "items": [list(item) for item in items]},
            "billing_mode": billing_mode,
        }
        if theirs is not None:
            document["provider"] = theirs.document
            if theirs.subscription is not None:
                document["provider_differs"] = difference(_shown(foreseen.body), _shown(theirs.subscription))
        if quoted := _quoted(theirs, taken_ns):
            document["money"] = kept["money"] = quoted
        if body.expected is not None:
            document["money_differs"] = from_expected(body.expected.document(), quoted)
        await put_preview(self._services.store, asked.topic, preview_id, kept)
        return document

    @operation(
        "POST",
        "/v1/tenants/{id}/preview/{preview_id}/confirm",
        "confirmChange",
        "Await the previewed change, or have the provider make it; refused once the tenant has moved on.",
        Answer("It is awaited, or made.", answers.TenantChanged, VERSION),
        (*CHANGE_PROBLEMS, "not_found", "preview_stale", "provider_refused", "provider_unavailable"),
        (PathText("preview_id", "What the preview said.", r"^pv_[0-9a-f]{24}$", "pv_0123456789abcdef01234567"),),
        body=requests.Confirmation,
        is_body_required=False,
    )
    async def confirm(self, asked: Asked, preview_id: str, body: requests.Confirmation) -> Document:
        """Return the version at which a previewed change is awaited or, with `apply`, made by the provider.

        Raises:
            Problem: the tenant has changed since the preview, so a new preview is needed.
        """
        kept = await get_preview(self._services.store, asked.topic, preview_id)
        if kept is None:
            raise Problem("not_found", "no such preview: it is of another tenant, or older than an hour")
        change = PreviewRequest(**{**kept["asked"], "items": tuple(Item(*item) for item in kept["asked"]["items"])})
        services = self._services
        snapshot = await services.store.read(asked.topic)
        rev = kept.get("rev", kept["version"])  # a build from before `rev` stored only the version
        if snapshot.rev != rev:
            raise _stale(snapshot.version)
        foreseen = preview(facts_of(snapshot), change, self._services.setting(asked.environment))
        if body.apply and change.cancel:
            raise Problem("request_invalid", "cancel at the provider itself: its event brings the change")
        client = self._client(asked, foreseen) if body.apply else None
        ref = SubscriptionRef(asked.environment, _provider(foreseen), foreseen.body.id)
        money = Money.of(kept["money"]) if "money" in kept else None
        document = await self.change(
            asked,
            "preview.confirmed",
            lambda facts: await_preview(facts, preview_id, foreseen, services.now_ns(), money),
            if_rev=rev,
            conflict=_stale,
        )
        # Before the provider is asked to make the change: its bill may come first.
        quote = Quote(preview_id, asked.topic, money, services.now_ns())
        await store_quote(services.store, ref, quote, quote.confirmed_ns)
        if client is None:
            return document
        change_items = partial(client.change_items, at_ns=None if money is None else money.at_ns)
        return await self._apply(asked, quote, change_items, foreseen, kept["billing_mode"])

    async def _apply(
        self,
        asked: Asked,
        quote: Quote,
        change_items: Callable[..., Awaitable[Event]],
        foreseen: Preview,
        billing_mode: str,
    ) -> Document:
        """Have the provider make the change, merge its answer, and return the result."""
        reprojection = self._services.reprojection
        try:
            event = await change_items(foreseen.body.id, foreseen.body.items, billing_mode, MAX_WAIT_S)
        # ProviderUnavailable propagates: the change may have been made nevertheless, and then its event arrives.
        except ProviderRejected:
            ref = SubscriptionRef(asked.environment, _provider(foreseen), foreseen.body.id)
            await drop_quote(self._services.store, ref, quote.preview_id)
            cause = {"source": "app", "event_type": "preview.refused"}
            withdraw = Refresh(cause, change=lambda facts: without_preview(facts, quote.preview_id))
            await reprojection.refresh(asked.environment, asked.topic, withdraw)
            raise
        cause = {"source": "app", "event_type": "preview.applied"}
        changed = await reprojection.refresh(asked.environment, asked.topic, Refresh(cause, [event]))
        return changed_document(changed.result)

    def _client(self, asked: Asked, foreseen: Preview) -> ProviderClient:
        client = self._services.clients.get((_provider(foreseen), asked.environment))
        if client is None:
            raise Problem("provider_unavailable", f"no API key is set for {asked.environment}: nobody can be asked")
        return client

    async def _providers_preview(
        self, asked: Asked, body: requests.PreviewBody, foreseen: Preview, billing_mode: str
    ) -> ProviderPreview | None:
        """Return the provider's own preview, as the backend sent it or as fetched; None if neither is requested."""
        subscription = foreseen.body
        if body.provider_preview is not None:
            read_preview = registry.PROVIDERS[_provider(foreseen)].read_preview
            try:
                return read_preview(body.provider_preview, subscription.id, billing_mode)
            except ValueError as error:
                raise Problem("request_invalid", f"provider_preview cannot be read: {error}") from None
        if not (body.expected is not None if body.ask_provider is None else body.ask_provider):
            return None
        if body.cancel:
            raise Problem("request_invalid", "a cancellation is previewed here alone: no ask_provider, no expected")
        client = self._client(asked, foreseen)
        return await client.preview_items(subscription.id, subscription.items, billing_mode, MAX_WAIT_S)


def _quoted(theirs: ProviderPreview | None, taken_ns: int) -> Document:
    """Return what the change costs, for `taken_ns` by default; empty if the provider's preview does not say."""
    if theirs is None or theirs.money is None:
        return {}
    money = theirs.money
    return (money if money.at_ns is not None else replace(money, at_ns=taken_ns)).document()


def _stale(version: int) -> Problem:
    return Problem("preview_stale", f"the tenant is at version {version} by now: preview the change again")


def _provider(foreseen: Preview) -> str:
    return foreseen.key.partition(":")[0]


def _shown(subscription: Subscription) -> Document:
    """Return the fields in which the provider's preview and ours are compared."""
    return {"items": [list(item) for item in sorted(subscription.items)], "status": subscription.status}
