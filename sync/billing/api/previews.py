"""Previews over HTTP: what a change would make of a tenant, and its confirmation while the tenant has not moved on."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sync.billing.api.tenant_commands import Desk, asked_topic
from sync.billing.domain.model import Facts, Item, Subscription
from sync.billing.domain.outcome import EventResult
from sync.billing.domain.preview import ITEMS_MAX, Preview, PreviewRequest, await_preview, difference, preview
from sync.billing.providers import registry
from sync.billing.providers.base import BILLING_MODES, ProviderClient, ProviderPreview, ProviderRejected
from sync.billing.providers.parsing import QUANTITY_MAX
from sync.billing.services.reconcile import PATIENCE_S
from sync.billing.storage.previews import PreviewStore
from sync.billing.storage.tenant_facts import facts_of
from sync.core import instants
from sync.http.body import json_response, read_object
from sync.http.callers import by
from sync.http.fields import Fields
from sync.http.problem import Problem
from sync.store.store import Snapshot

BILLING_MODE = "prorated_immediately"
"""How a previewed change is billed, unless told otherwise."""


class Previews:
    """The routes of previews."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._quotes = PreviewStore(desk.pipeline.store)

    async def preview(self, request: Request, environment: str) -> Response:
        """Answer what a change would make of the tenant as it stands at a version; nothing is changed."""
        topic = asked_topic(request, environment)
        fields = Fields(await read_object(request))
        given = fields.raw("provider_preview")
        asks, billing_mode = fields.flag("ask_provider"), fields.choice("billing_mode", BILLING_MODES, BILLING_MODE)
        asked = _asked(fields)
        fields.end()
        if given is not None and not isinstance(given, dict):
            raise Problem("request_invalid", "provider_preview must be the object that the provider answered")
        snapshot = await self._desk.pipeline.store.read(topic)
        foreseen = self._foresee(snapshot, environment, asked)
        theirs = None
        if given is not None:
            theirs = _read(foreseen, given)
        elif asks:
            theirs = await self._ask(environment, foreseen, asked, billing_mode)
        document: dict[str, object] = {
            "preview_id": f"pv_{secrets.token_hex(12)}",
            "version": snapshot.version,
            "taken_at": instants.text(self._desk.pipeline.now_ns()),
            "subscription_id": foreseen.body.id,
            "state": foreseen.state,
            "diff": difference(orjson.loads(snapshot.state), foreseen.state),
        }
        if theirs is not None:
            document["provider"] = theirs.document
            if theirs.subscription is not None:
                document["provider_differs"] = _disagreement(foreseen.body, theirs.subscription)
        question = {**asdict(asked), "items": [list(item) for item in asked.items]}
        kept = {"version": snapshot.version, "rev": snapshot.rev, "asked": question, "billing_mode": billing_mode}
        await self._quotes.put(topic, str(document["preview_id"]), kept)
        return json_response(document)

    async def confirm(self, request: Request, environment: str) -> Response:
        """Answer that a previewed change is awaited, or, with `apply`, what the provider made of it.

        Refused where the tenant has moved on since the preview: then it is to be previewed again.
        """
        topic, preview_id = asked_topic(request, environment), request.path_params["preview_id"]
        fields = Fields(await read_object(request))
        applies = fields.flag("apply")
        fields.end()
        kept = await self._quotes.get(topic, preview_id)
        if kept is None:
            raise Problem("not_found", "no such preview: it is of another tenant, or older than an hour")
        asked = PreviewRequest(**{**kept["asked"], "items": tuple(Item(*item) for item in kept["asked"]["items"])})
        pipeline = self._desk.pipeline
        snapshot = await pipeline.store.read(topic)
        rev = kept.get("rev", kept["version"])  # a build from before `rev` kept the version alone
        if snapshot.rev != rev:
            raise _stale(snapshot.version)
        foreseen = self._foresee(snapshot, environment, asked)
        source = self._source(environment, foreseen, asked) if applies else None

        def change(facts: Facts) -> Facts:
            return await_preview(facts, preview_id, foreseen, pipeline.now_ns())

        try:
            adopted = await self._desk.change(
                environment, topic, "preview.confirmed", change, if_rev=rev, who=by(request)
            )
        except Problem as problem:
            if problem.code == "version_conflict":
                raise _stale((await pipeline.store.versions([topic]))[0]) from None
            raise
        receipt = adopted.receipt
        if source is not None:
            receipt = await self._apply(environment, topic, source, foreseen, kept["billing_mode"])
        return json_response({"outcome": receipt.outcome, "version": receipt.version})

    async def _apply(
        self, environment: str, topic: str, source: ProviderClient, foreseen: Preview, billing_mode: str
    ) -> EventResult:
        """Have the provider make the change; what it answers is adopted."""
        reprojection = self._desk.reconciliation.reprojection
        try:
            event = await source.change_items(foreseen.body.id, foreseen.body.items, billing_mode, PATIENCE_S)
        # ProviderUnavailable passes: the change may have been made all the same, and then its event arrives.
        except ProviderRejected:
            cause = {"source": "app", "event_type": "preview.refused"}
            await reprojection.adopt(environment, topic, (), cause, lambda facts: replace(facts, awaited_preview=None))
            raise
        adopted = await reprojection.adopt(
            environment, topic, [event], {"source": "app", "event_type": "preview.applied"}
        )
        await reprojection.arm(environment, topic, adopted)
        return adopted.receipt

    def _foresee(self, snapshot: Snapshot, environment: str, asked: PreviewRequest) -> Preview:
        pipeline = self._desk.pipeline
        return preview(facts_of(snapshot), asked, pipeline.catalog_watcher.current, environment, pipeline.now_ns())

    def _source(self, environment: str, foreseen: Preview, asked: PreviewRequest) -> ProviderClient:
        if asked.cancel:
            raise Problem("request_invalid", "a cancel is made with the provider itself; its event will tell")
        source = self._desk.pipeline.sources.get((_provider(foreseen), environment))
        if source is None:
            raise Problem("provider_unavailable", f"no API key is set for {environment}: nobody can be asked")
        return source

    async def _ask(
        self, environment: str, foreseen: Preview, asked: PreviewRequest, billing_mode: str
    ) -> ProviderPreview:
        source = self._source(environment, foreseen, asked)
        return await source.preview_items(foreseen.body.id, foreseen.body.items, billing_mode, PATIENCE_S)


def _stale(version: int) -> Problem:
    return Problem("preview_stale", f"the tenant is at version {version} by now: preview the change again")


def _asked(fields: Fields) -> PreviewRequest:
    """The change that a preview is asked about: exactly one of plan, items and cancel."""
    plan, cancel, items = fields.text("plan", ""), fields.text("cancel", ""), fields.raw("items")
    quantity = fields.number("quantity", QUANTITY_MAX)
    if sum([bool(plan), bool(cancel), items is not None]) != 1:
        raise Problem("request_invalid", "exactly one of plan, items and cancel must be there")
    if cancel not in ("", "now", "period_end"):
        raise Problem("request_invalid", "cancel must be now or period_end")
    if quantity is not None and not plan:
        raise Problem("request_invalid", "quantity goes with plan")
    return PreviewRequest(plan, quantity, _items(items), cancel, fields.text("subscription_id", ""))


def _items(value: object) -> tuple[Item, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not 1 <= len(value) <= ITEMS_MAX:
        raise Problem("request_invalid", f"items must be a list of 1 to {ITEMS_MAX}")
    found = []
    for entry in value:
        if not isinstance(entry, dict):
            raise Problem("request_invalid", "an item must be an object of price_id and quantity")
        line = Fields(entry)
        found.append(Item(line.text("price_id"), line.number("quantity", QUANTITY_MAX) or 1))
        line.end()
    return tuple(found)


def _read(foreseen: Preview, given: Mapping[str, object]) -> ProviderPreview:
    """Return the preview that the backend got from the provider itself.

    Raises:
        Problem: it cannot be read.
    """
    try:
        return registry.PROVIDERS[_provider(foreseen)].read_preview(given, foreseen.body.id)
    except ValueError as error:
        raise Problem("request_invalid", f"provider_preview cannot be read: {error}") from None


def _provider(foreseen: Preview) -> str:
    return foreseen.key.partition(":")[0]


def _disagreement(ours: Subscription, theirs: Subscription) -> list[dict[str, object]]:
    """Return what the provider's own preview says otherwise, of items and status."""
    foreseen, told = (
        {"items": [list(item) for item in sorted(body.items)], "status": body.status} for body in (ours, theirs)
    )
    return difference(foreseen, told)
