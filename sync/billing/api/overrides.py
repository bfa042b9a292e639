"""What operators do with one tenant over HTTP: grant and revoke, read its history, erase it."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sync.billing.api.bodies import answers
from sync.billing.api.bodies.requests import Erasure, OverrideRemoval, OverrideRequest
from sync.billing.api.operations import operation
from sync.billing.api.tenant_commands import TenantCommands, asked_topic
from sync.billing.domain.model import Facts, Override
from sync.billing.domain.overrides import add_override, remove_override
from sync.billing.domain.preview import difference
from sync.billing.storage.tenant_facts import facts_of, is_erased
from sync.core import instants
from sync.http.body import BODY_PROBLEMS, json_response, read_object
from sync.http.endpoint import by
from sync.http.fields import Reader
from sync.http.openapi import VERSION, Answer
from sync.http.parameters import LIMIT, PathText
from sync.http.problem import Problem
from sync.store.command_pipeline import CommandPipeline
from sync.store.store import Store

HISTORY_MAX = 200
"""How many versions and how many events a history has: what is kept of a tenant."""


_OVERRIDE, _REMOVAL, _ERASURE = Reader(OverrideRequest), Reader(OverrideRemoval), Reader(Erasure)


class Operators:
    """The operations of operators."""

    def __init__(self, commands: TenantCommands) -> None:
        self._commands = commands

    @operation(
        "POST",
        "/v1/tenants/{id}/overrides",
        "grantOverride",
        "Grant or take something, over whatever is paid for.",
        Answer("It counts.", answers.TenantChanged, VERSION),
        (*BODY_PROBLEMS, "not_changed", "override_invalid", "too_many_overrides", "version_conflict"),
        body={"application/json": OverrideRequest},
        scope="admin",
    )
    async def grant(self, request: Request, environment: str) -> Response:
        """Answer the version that an override made; `revoke` instead of a value takes the name away."""
        topic = asked_topic(request, environment)
        body = _OVERRIDE.read(await read_object(request))
        override = Override(body.kind, body.name, _value(body.value), body.reason, body.expires_at)
        what = "override.revoked" if body.revoke else "override.granted"

        def change(facts: Facts) -> Facts:
            return add_override(facts, override, self._commands.services.now_ns())

        changed = await self._commands.change(
            environment, topic, what, change, about=_about(override, body.by or ""), who=by(request)
        )
        return json_response({"outcome": changed.result.outcome, "version": changed.result.version})

    @operation(
        "DELETE",
        "/v1/tenants/{id}/overrides/{kind}/{name}",
        "removeOverride",
        "Take an override back.",
        Answer("It is gone.", answers.TenantChanged, VERSION),
        (*BODY_PROBLEMS, "not_changed", "not_found", "version_conflict"),
        (
            PathText("kind", "feature, limit or module.", "^(feature|limit|module)$", "feature"),
            PathText("name", "Of what.", r"^[^/\s]{1,500}$", "sso"),
        ),
        body={"application/json": OverrideRemoval},
        is_body_required=False,
        scope="admin",
    )
    async def remove(self, request: Request, environment: str) -> Response:
        """Answer the version without an override; a body may say the reason, and by whom."""
        topic = asked_topic(request, environment)
        kind, name = request.path_params["kind"], request.path_params["name"]
        body = _REMOVAL.read(await read_object(request))
        given = {"reason": body.reason, "claimed_by": body.by}
        about = {"override": f"{kind}:{name}", **{field: text for field, text in given.items() if text}}

        def change(facts: Facts) -> Facts:
            return remove_override(facts, kind, name)

        changed = await self._commands.change(
            environment, topic, "override.removed", change, about=about, who=by(request)
        )
        return json_response({"outcome": changed.result.outcome, "version": changed.result.version})

    @operation(
        "GET",
        "/v1/tenants/{id}/overrides",
        "listOverrides",
        "What operators have granted or taken.",
        Answer("All of them.", answers.Overrides, VERSION),
        ("not_changed",),
    )
    async def overrides(self, request: Request, environment: str) -> Response:
        """Answer the tenant's overrides, also those that have expired."""
        topic = asked_topic(request, environment)
        return json_response(await overrides_document(self._commands.services.store, topic))

    @operation(
        "GET",
        "/v1/tenants/{id}/history",
        "readHistory",
        "What changed, when and why; what was refused or parked.",
        Answer("The newest first.", answers.History),
        parameters=(LIMIT,),
    )
    async def history(self, request: Request, environment: str) -> Response:
        """Answer what changed, when and why, the newest first, and what was refused or parked on the way."""
        topic = asked_topic(request, environment)
        limit = min(LIMIT.read(request), HISTORY_MAX)
        store = self._commands.services.store
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
        batch = CommandPipeline(store)
        batch.command("XREVRANGE", batch.keys.events(topic), "+", "-", "COUNT", limit)
        (entries,) = await batch.run()
        return json_response({"topic": topic, "changes": changes, "events": [_event(fields) for _, fields in entries]})

    @operation(
        "DELETE",
        "/v1/tenants/{id}",
        "eraseTenant",
        "Erase a tenant: its state becomes null, tabs are told `gone`; history, events and links go. What its provider "
        "sends later is ignored, counted and not kept.",
        Answer("It is erased.", answers.TenantChanged, VERSION),
        (*BODY_PROBLEMS, "not_changed", "not_found"),
        body={"application/json": Erasure},
        scope="admin",
    )
    async def erase(self, request: Request, environment: str) -> Response:
        """Answer when the tenant is erased: its state null, its history gone."""
        topic = asked_topic(request, environment)
        reason = _ERASURE.read(await read_object(request)).reason
        store = self._commands.services.store
        snapshot = await store.read(topic)
        if not snapshot.version:
            raise Problem("not_found", "there is no such tenant")
        if snapshot.private and not is_erased(snapshot):
            facts_of(snapshot)  # raises for what billing did not write
        result = await self._commands.services.erasure.erase(environment, topic, reason, by(request))
        await store.wait_durable()
        return json_response({"outcome": result.outcome, "version": result.version})


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
