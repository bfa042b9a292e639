"""`GET /v1/tenants/{id}/status`: what the provider said last, what the store holds, what tabs show: side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import orjson
from starlette.requests import Request
from starlette.responses import Response

from sync.billing.api.bodies import answers
from sync.billing.api.operations import operation
from sync.billing.api.tenant_commands import TenantCommands, asked_topic
from sync.billing.domain.drift import shown_fields
from sync.billing.storage.provider_snapshots import ProviderSnapshot, load_snapshots
from sync.billing.storage.tenant_facts import FactsError, facts_of
from sync.core import instants
from sync.http.body import json_response
from sync.http.openapi import VERSION, Answer

Tabs = Callable[[str], Awaitable[Mapping[str, object]]]
"""Tells of a topic how many tabs show which version, across all gateways; whoever mounts the routes knows them."""


class Standing:
    """The route."""

    def __init__(self, commands: TenantCommands, tabs: Tabs | None = None) -> None:
        self._commands = commands
        self._tabs = tabs

    @operation(
        "GET",
        "/v1/tenants/{id}/status",
        "readStatus",
        "Provider, store and tabs side by side: what the provider said last, what is held, what tabs show.",
        Answer("As known now.", answers.TenantStatus, VERSION),
    )
    async def status(self, request: Request, environment: str) -> Response:
        """Answer provider, store and tabs as they are known now. Nobody is asked but the store and the gateways."""
        topic = asked_topic(request, environment)
        return json_response(await status_document(self._commands, environment, topic, self._tabs))


async def status_document(
    commands: TenantCommands, environment: str, topic: str, tabs: Tabs | None
) -> dict[str, object]:
    """Return provider, store and tabs of a tenant as they are known now.

    Raises:
        StoreError: the store is unreachable or failing.
    """
    store = commands.services.store
    snapshot, found = await store.read(topic), await load_snapshots(store, topic)
    try:
        facts = facts_of(snapshot)
    except FactsError:
        held = None
    else:
        held = {key: shown_fields(entry.subscription) for key, entry in facts.subscriptions.items()}
    document: dict[str, object] = {
        "topic": topic,
        "version": snapshot.version,
        "provider": {
            "can_be_asked": commands.services.reconciliation.can_ask(environment),
            "subscriptions": {key: _sighting(entry, (held or {}).get(key)) for key, entry in found.items()},
        },
        "store": {
            "version": snapshot.version,
            "state": orjson.loads(snapshot.state),
            **({"at": instants.text(snapshot.version * 1000)} if snapshot.version else {}),
            **({} if held is None else {"subscriptions": held}),
        },
    }
    if tabs is not None:
        document["tabs"] = await tabs(topic)
    return document


def _sighting(provider_snapshot: ProviderSnapshot, held: Mapping[str, object] | None) -> dict[str, object]:
    """One subscription as the provider told it, and whether that is what is held."""
    shown: dict[str, object] = {
        "asked_at": instants.text(provider_snapshot.at_us * 1000),
        "is_held": provider_snapshot.body == held,
    }
    return shown | ({} if provider_snapshot.body is None else {"subscription": provider_snapshot.body})
