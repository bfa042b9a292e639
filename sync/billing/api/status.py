"""A tenant's history, and its status: the provider's answers, the stored state and the tabs' versions, side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from sync.billing.api.bodies import tenant_answers
from sync.billing.api.operations import Asked, BillingOperations, Document, operation
from sync.billing.domain.entitlements.preview import difference
from sync.billing.domain.facts.customers import second_customers
from sync.billing.domain.facts.drift import shown_fields
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.records import ProviderSnapshot, load_snapshots
from sync.billing.storage.tenants import FactsError, facts_of, is_shadow
from sync.core import instants
from sync.http.openapi import VERSION, Answer
from sync.http.parameters import LIMIT
from sync.store.command_pipeline import run_commands

HISTORY_MAX = 200
"""Maximum versions and maximum events in a history: as many as the store keeps of a tenant."""

Tabs = Callable[[str], Awaitable[Mapping[str, object]]]
"""Returns how many tabs show which version of a topic, across all gateways."""


class Statuses(BillingOperations):
    """The read-only operations on a tenant."""

    def __init__(self, services: BillingServices, tabs: Tabs | None) -> None:
        """Use `services`; `tabs` is None in a process without gateways."""
        super().__init__(services)
        self._tabs = tabs

    @operation(
        "GET",
        "/v1/tenants/{id}/history",
        "readHistory",
        "What changed, when and why; what was refused or parked.",
        Answer("The newest first.", tenant_answers.History),
        parameters=(LIMIT,),
    )
    async def history(self, asked: Asked, limit: int) -> Document:
        """Return the newest changes with their times and causes, and the events' results (applied, ignored, parked)."""
        store = self._services.store
        limit = min(limit, HISTORY_MAX)
        # One more than shown, to compute the difference of the oldest one shown.
        log = await store.log(asked.topic, limit + 1)
        states = [*(_object(entry.state) for entry in log), {}]
        changes = [
            {
                "version": entry.version,
                "at": instants.text(entry.version * 1000),
                "cause": _object(entry.cause),
                "diff": difference(states[index + 1], states[index]),
            }
            for index, entry in enumerate(log[:limit])
        ]
        (entries,) = await run_commands(store, ("XREVRANGE", store.keys.events(asked.topic), "+", "-", "COUNT", limit))
        return {"topic": asked.topic, "changes": changes, "events": [_event(fields) for _, fields in entries]}

    @operation(
        "GET",
        "/v1/tenants/{id}/status",
        "readStatus",
        "Provider, store and tabs side by side: what the provider said last, what is held, what tabs show.",
        Answer("As known now.", tenant_answers.TenantStatus, VERSION),
    )
    async def status(self, asked: Asked) -> Document:
        """Return the status of provider, store and tabs. Only the store and the gateways are queried.

        Raises:
            StoreError: the store is unreachable or failing.
        """
        store = self._services.store
        snapshot, found = await store.read(asked.topic), await load_snapshots(store, asked.topic)
        held: dict[str, dict[str, object]] = {}
        shown: Document = {"version": snapshot.version, "state": orjson.loads(snapshot.state)}
        if snapshot.version:
            shown["at"] = instants.text(snapshot.version * 1000)
        if is_shadow(snapshot):
            shown["computed"] = orjson.loads(snapshot.beside)
        try:
            facts = facts_of(snapshot)
        except FactsError:
            pass  # not a billed tenant: leave out the fields that come from facts
        else:
            held = {key: shown_fields(entry.subscription) for key, entry in facts.subscriptions.items()}
            shown["subscriptions"] = held
            if second := sorted(second_customers(facts)):
                shown["second_customers"] = second
        provider = {
            "can_be_asked": self._services.can_ask(asked.environment),
            "subscriptions": {key: _provider_said(entry, held.get(key)) for key, entry in found.items()},
        }
        document: Document = {
            "topic": asked.topic, "version": snapshot.version, "provider": provider, "store": shown
        }  # fmt: skip
        return document | ({} if self._tabs is None else {"tabs": await self._tabs(asked.topic)})


def _provider_said(entry: ProviderSnapshot, held: Mapping[str, object] | None) -> Document:
    """Return one subscription as the provider reported it, and whether the facts are equal to it."""
    shown: Document = {"asked_at": instants.text(entry.at_us * 1000), "is_held": entry.body == held}
    return shown | ({} if entry.body is None else {"subscription": entry.body})


def _object(raw: bytes) -> dict[str, Any]:
    value = orjson.loads(raw) if raw else {}
    return value if isinstance(value, dict) else {}


def _event(fields: dict[bytes, bytes]) -> Document:
    shown: Document = {name.decode(): value.decode() for name, value in fields.items() if value}
    return shown | {"at": instants.text(int(fields[b"at"]) * 1000)}
