"""What operators do with one tenant over HTTP: grant and revoke, read its history, erase it."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sync.billing.api.tenant_commands import Desk, asked_topic
from sync.billing.domain.model import Facts, Override
from sync.billing.domain.overrides import KINDS, add_override, remove_override
from sync.billing.domain.preview import difference
from sync.billing.services.erase import erase
from sync.billing.storage.tenant_facts import facts_of, is_erased
from sync.core import instants
from sync.http.body import json_response, read_object
from sync.http.callers import by
from sync.http.fields import Fields
from sync.http.pagination import page_limit
from sync.http.problem import Problem
from sync.store.command_pipeline import Batch
from sync.store.store import Store

HISTORY_MAX = 200
"""How many versions and how many events a history has: what is kept of a tenant."""


class Operators:
    """The routes of operators."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def grant(self, request: Request, environment: str) -> Response:
        """Answer the version that an override made; `revoke` instead of a value takes the name away."""
        topic = asked_topic(request, environment)
        fields = Fields(await read_object(request))
        revokes, value = fields.flag("revoke"), fields.raw("value")
        override = Override(
            fields.choice("kind", KINDS),
            fields.text("name"),
            _value(value),
            fields.text("reason"),
            fields.instant("expires_at"),
        )
        claimed_by = fields.text("by", "")
        fields.end()
        if revokes == (value is not None):
            raise Problem("request_invalid", "exactly one of value and revoke must be there")
        what = "override.revoked" if revokes else "override.granted"

        def change(facts: Facts) -> Facts:
            return add_override(facts, override, self._desk.pipeline.now_ns())

        adopted = await self._desk.change(
            environment, topic, what, change, about=_about(override, claimed_by), who=by(request)
        )
        return json_response({"outcome": adopted.receipt.outcome, "version": adopted.receipt.version})

    async def remove(self, request: Request, environment: str) -> Response:
        """Answer the version without an override; a body may say the reason, and by whom."""
        topic = asked_topic(request, environment)
        kind, name = request.path_params["kind"], request.path_params["name"]
        fields = Fields(await read_object(request))
        told = {"reason": fields.text("reason", ""), "claimed_by": fields.text("by", "")}
        fields.end()
        about = {"override": f"{kind}:{name}", **{field: text for field, text in told.items() if text}}

        def change(facts: Facts) -> Facts:
            return remove_override(facts, kind, name)

        adopted = await self._desk.change(environment, topic, "override.removed", change, about=about, who=by(request))
        return json_response({"outcome": adopted.receipt.outcome, "version": adopted.receipt.version})

    async def overrides(self, request: Request, environment: str) -> Response:
        """Answer the tenant's overrides, also those that have expired."""
        topic = asked_topic(request, environment)
        return json_response(await overrides_document(self._desk.pipeline.store, topic))

    async def history(self, request: Request, environment: str) -> Response:
        """Answer what changed, when and why, the newest first, and what was refused or parked on the way."""
        topic = asked_topic(request, environment)
        limit = min(page_limit(request.query_params.get("limit")), HISTORY_MAX)
        store = self._desk.pipeline.store
        # One more than shown: the oldest shown differs from it.
        log = await store.log(topic, limit + 1)
        states: list[dict[str, Any]] = [_object(entry.state) for entry in log]
        changes = [
            {
                "version": entry.version,
                "at": instants.text(entry.version * 1000),
                "cause": _object(entry.cause),
                "diff": difference(states[index + 1] if index + 1 < len(states) else {}, states[index]),
            }
            for index, entry in enumerate(log[:limit])
        ]
        batch = Batch(store)
        batch.command("XREVRANGE", batch.keys.events(topic), "+", "-", "COUNT", limit)
        (entries,) = await batch.run()
        return json_response({"topic": topic, "changes": changes, "events": [_event(fields) for _, fields in entries]})

    async def erase(self, request: Request, environment: str) -> Response:
        """Answer when the tenant is erased: its state null, its history gone."""
        topic = asked_topic(request, environment)
        fields = Fields(await read_object(request))
        reason = fields.text("reason")
        fields.end()
        store = self._desk.pipeline.store
        snapshot = await store.read(topic)
        if not snapshot.version:
            raise Problem("not_found", "there is no such tenant")
        if snapshot.private and not is_erased(snapshot):
            facts_of(snapshot)  # raises for what billing did not write
        receipt = await erase(self._desk.pipeline, environment, topic, reason, by(request))
        await store.wait_durable()
        return json_response({"outcome": receipt.outcome, "version": receipt.version})


async def overrides_document(store: Store, topic: str) -> dict[str, object]:
    """Return a tenant's version and overrides, also those that have expired.

    Raises:
        FactsError: billing did not write the tenant's state.
        StoreError: the store is unreachable or failing.
    """
    snapshot = await store.read(topic)
    return {"version": snapshot.version, "overrides": [_override(one) for one in facts_of(snapshot).overrides]}


def _value(value: object) -> bool | int | str | None:
    if value is None or isinstance(value, bool | int | str):
        return value
    raise Problem("override_invalid", "value must be true, a number or a text")


def _about(override: Override, claimed_by: str) -> dict[str, str]:
    about = {"override": f"{override.kind}:{override.name}", "reason": override.reason}
    if override.expires_ns is not None:
        about["expires_at"] = instants.text(override.expires_ns)
    return about | ({"claimed_by": claimed_by} if claimed_by else {})


def _override(override: Override) -> dict[str, object]:
    shown: dict[str, object] = {"kind": override.kind, "name": override.name, "reason": override.reason}
    shown |= {"revoke": True} if override.value is None else {"value": override.value}
    if override.expires_ns is not None:
        shown["expires_at"] = instants.text(override.expires_ns)
    return shown


def _object(raw: bytes) -> dict[str, Any]:
    value = orjson.loads(raw) if raw else {}
    return value if isinstance(value, dict) else {}


def _event(fields: dict[bytes, bytes]) -> dict[str, object]:
    shown: dict[str, object] = {name.decode(): value.decode() for name, value in fields.items() if value}
    return shown | {"at": instants.text(int(fields[b"at"]) * 1000)}
