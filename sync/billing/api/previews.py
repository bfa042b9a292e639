"""Previews over HTTP: what a change would make of a tenant, and its confirmation while the tenant has not moved on."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sync.billing.api.bodies import answers
from sync.billing.api.bodies.requests import Confirmation, PreviewBody
from sync.billing.api.operations import CHANGE_PROBLEMS, operation
from sync.billing.api.tenant_commands import TenantCommands, asked_topic
from sync.billing.domain.model import Facts, Item, Subscription
from sync.billing.domain.outcome import EventResult
from sync.billing.domain.preview import Preview, PreviewRequest, await_preview, difference, preview
from sync.billing.providers import registry
from sync.billing.providers.base import ProviderClient, ProviderPreview, ProviderRejected
from sync.billing.services.reconcile import PATIENCE_S
from sync.billing.services.reproject import Refresh
from sync.billing.storage.preview_store import PreviewStore
from sync.billing.storage.tenant_facts import facts_of
from sync.core import instants
from sync.http.body import BODY_PROBLEMS, json_response, read_object
from sync.http.endpoint import by
from sync.http.fields import Reader
from sync.http.openapi import VERSION, Answer
from sync.http.parameters import PathText
from sync.http.problem import Problem
from sync.store.models import Snapshot

BILLING_MODE = "prorated_immediately"
"""How a previewed change is billed, unless told otherwise."""


_PREVIEW, _CONFIRMATION = Reader(PreviewBody), Reader(Confirmation)


class Previews:
    """The operations of previews."""

    def __init__(self, commands: TenantCommands) -> None:
        self._commands = commands
        self._store = PreviewStore(commands.services.store)

    @operation(
        "POST",
        "/v1/tenants/{id}/preview",
        "previewChange",
        "What a change would make of the tenant; nothing is done.",
        Answer("What it would be.", answers.Previewed, VERSION),
        (*BODY_PROBLEMS, *CHANGE_PROBLEMS, "provider_refused", "provider_unavailable"),
        body={"application/json": PreviewBody},
    )
    async def preview(self, request: Request, environment: str) -> Response:
        """Answer what a change would make of the tenant as it stands at a version; nothing is changed."""
        topic = asked_topic(request, environment)
        body = _PREVIEW.read(await read_object(request))
        given, billing_mode, asked = body.provider_preview, body.billing_mode or BILLING_MODE, _asked(body)
        snapshot = await self._commands.services.store.read(topic)
        foreseen = self._foresee(snapshot, environment, asked)
        theirs = None
        if given is not None:
            theirs = _read(foreseen, given)
        elif body.ask_provider:
            theirs = await self._ask(environment, foreseen, asked, billing_mode)
        document: dict[str, object] = {
            "preview_id": f"pv_{secrets.token_hex(12)}",
            "version": snapshot.version,
            "taken_at": instants.text(self._commands.services.now_ns()),
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
        await self._store.put(topic, str(document["preview_id"]), kept)
        return json_response(document)

    @operation(
        "POST",
        "/v1/tenants/{id}/preview/{preview_id}/confirm",
        "confirmChange",
        "Await the previewed change, or have the provider make it; refused once the tenant has moved on.",
        Answer("It is awaited, or made.", answers.TenantChanged, VERSION),
        (*BODY_PROBLEMS, *CHANGE_PROBLEMS, "not_found", "preview_stale", "provider_refused", "provider_unavailable"),
        (PathText("preview_id", "What the preview said.", r"^pv_[0-9a-f]{24}$", "pv_0123456789abcdef01234567"),),
        body={"application/json": Confirmation},
        is_body_required=False,
    )
    async def confirm(self, request: Request, environment: str) -> Response:
        """Answer that a previewed change is awaited, or, with `apply`, what the provider made of it.

        Refused where the tenant has moved on since the preview: then it is to be previewed again.
        """
        topic, preview_id = asked_topic(request, environment), request.path_params["preview_id"]
        applies = bool(_CONFIRMATION.read(await read_object(request)).apply)
        kept = await self._store.get(topic, preview_id)
        if kept is None:
            raise Problem("not_found", "no such preview: it is of another tenant, or older than an hour")
        asked = PreviewRequest(**{**kept["asked"], "items": tuple(Item(*item) for item in kept["asked"]["items"])})
        services = self._commands.services
        snapshot = await services.store.read(topic)
        rev = kept.get("rev", kept["version"])  # a build from before `rev` kept the version alone
        if snapshot.rev != rev:
            raise _stale(snapshot.version)
        foreseen = self._foresee(snapshot, environment, asked)
        source = self._source(environment, foreseen, asked) if applies else None

        def change(facts: Facts) -> Facts:
            return await_preview(facts, preview_id, foreseen, services.now_ns())

        try:
            changed = await self._commands.change(
                environment, topic, "preview.confirmed", change, if_rev=rev, who=by(request)
            )
        except Problem as problem:
            if problem.code == "version_conflict":
                raise _stale((await services.store.versions([topic]))[0]) from None
            raise
        result = changed.result
        if source is not None:
            result = await self._apply(environment, topic, source, foreseen, kept["billing_mode"])
        return json_response({"outcome": result.outcome, "version": result.version})

    async def _apply(
        self, environment: str, topic: str, source: ProviderClient, foreseen: Preview, billing_mode: str
    ) -> EventResult:
        """Have the provider make the change; what it answers is changed."""
        reprojection = self._commands.services.reprojection
        try:
            event = await source.change_items(foreseen.body.id, foreseen.body.items, billing_mode, PATIENCE_S)
        # ProviderUnavailable passes: the change may have been made all the same, and then its event arrives.
        except ProviderRejected:
            cause = {"source": "app", "event_type": "preview.refused"}
            await reprojection.refresh(
                environment, topic, Refresh(cause, change=lambda facts: replace(facts, awaited_preview=None))
            )
            raise
        cause = {"source": "app", "event_type": "preview.applied"}
        changed = await reprojection.refresh(environment, topic, Refresh(cause, [event]))
        return changed.result

    def _foresee(self, snapshot: Snapshot, environment: str, asked: PreviewRequest) -> Preview:
        services = self._commands.services
        return preview(facts_of(snapshot), asked, services.catalog_watcher.current, environment, services.now_ns())

    def _source(self, environment: str, foreseen: Preview, asked: PreviewRequest) -> ProviderClient:
        if asked.cancel:
            raise Problem("request_invalid", "a cancel is made with the provider itself; its event will tell")
        source = self._commands.services.clients.get((_provider(foreseen), environment))
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


def _asked(body: PreviewBody) -> PreviewRequest:
    items = tuple(Item(line.price_id, line.quantity or 1) for line in body.items or ())
    return PreviewRequest(body.plan or "", body.quantity, items, body.cancel or "", body.subscription_id or "")


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
