"""Which tenant a subscription belongs to, and by which name; an operator gives it to another one."""

from __future__ import annotations

from collections.abc import Sequence

from planwire_client.core.topic import decode_id, shown
from sync.billing.api.bodies import answers, requests, tenant_answers
from sync.billing.api.operations import Asked, BillingOperations, Document, operation
from sync.billing.domain.entitlements.held_versions import HeldVersion, held_versions
from sync.billing.domain.facts.customers import second_customers
from sync.billing.domain.purchases import shown_payments
from sync.billing.domain.tenant_resolution import TOMBSTONE, UNSEEN, Link, Strength, SubscriptionRef, strongest
from sync.billing.services.wiring import BillingServices
from sync.billing.storage.links import read_all_stored
from sync.billing.storage.tenants import facts_of
from sync.core import instants
from sync.http.openapi import VERSION, Answer
from sync.http.problem import Problem


class Links(BillingOperations):
    """The operations on links."""

    def __init__(self, services: BillingServices, providers: Sequence[str]) -> None:
        """Use `services`; `providers` are those that are configured."""
        super().__init__(services)
        self._providers = providers

    @operation(
        "POST",
        "/v1/links",
        "linkSubscription",
        "Give a subscription to a tenant, whatever its metadata says; it is moved at once. It holds until the metadata "
        "names another tenant than now.",
        Answer("It belongs to the tenant.", answers.Linked, VERSION),
        ("no_subscription", "tenant_erased"),
        body=requests.LinkRequest,
        scope="admin",
    )
    async def link(self, asked: Asked, body: requests.LinkRequest) -> Document:
        """Link a subscription to a tenant, move it there, and use the events that waited for its tenant.

        Raises:
            ChangeRejected: the tenant was erased.
            Problem: it is not clear which subscription is meant.
            StoreError: the store is unreachable or failing; a repeated call completes the move.
        """
        services, tenant_id = self._services, body.tenant
        ref = await self._ref(asked.environment, body.subscription)
        who = {**({"claimed_by": body.by} if body.by else {}), **asked.who}
        linked = await services.operator_links.link(ref, tenant_id, body.reason, who)
        await services.committer.wait_durable()
        result = linked.result
        return {
            "outcome": result.outcome,
            "version": result.version,
            "topic": ref.topic(tenant_id),
            "subscription": ref.key,
            **({"reason": result.reason} if result.reason else {}),
            **({"was": ref.topic(linked.was)} if linked.was not in (None, TOMBSTONE) else {}),
            **({"overrules": decode_id(linked.overruled)} if linked.overruled else {}),
        }

    @operation(
        "GET",
        "/v1/tenants/{id}/links",
        "listLinks",
        "The subscriptions that belong to a tenant, and what names it; and those that were moved away.",
        Answer("All of them.", tenant_answers.TenantLinks, VERSION),
        ("not_changed",),
    )
    async def links(self, asked: Asked) -> Document:
        """Return the links of a tenant's subscriptions, and of those that were moved to other tenants.

        Raises:
            FactsError: the tenant's state was not written by billing.
            StoreError: the store is unreachable or failing.
        """
        snapshot = await self._services.store.read(asked.topic)
        facts = facts_of(snapshot)
        refs = [SubscriptionRef(asked.environment, *key.split(":", 1)) for key in (*facts.subscriptions, *facts.moved)]
        stored = await read_all_stored(self._services.store, refs)
        found = {ref.key: (ref, link) for ref, link in zip(refs, stored, strict=True)}
        links: list[Document] = []
        setting = self._services.setting(asked.environment)
        second, held = second_customers(facts), dict[str, HeldVersion]()
        for one in held_versions(facts, setting):
            held.setdefault(one.subscription, one)  # of several applications the leading one's
        for key, entry in facts.subscriptions.items():
            body = entry.subscription
            shown_link: Document = {"subscription": key, "status": body.status, **_names(found[key][1])}
            shown_link |= shown_payments(key, facts, setting)
            shown_link |= {"customer_id": body.customer_id} if body.customer_id else {}
            shown_link |= {"moved_at": instants.text(entry.moved_us * 1000)} if entry.moved_us else {}
            if key in held:
                _, plan, version, by = held[key]
                shown_link |= {"plan": plan, "plan_version": version, "version_by": by}
            shown_link |= {"second_customer": True} if key in second else {}
            links.append(shown_link)
        moved: list[Document] = []
        for key, at_us in facts.moved.items():
            ref, link = found[key]
            to = {} if link.tenant_id in (None, TOMBSTONE) else {"to": ref.topic(str(link.tenant_id))}
            moved.append({"subscription": key, "moved_at": instants.text(at_us * 1000), **to})
        return {"topic": asked.topic, "version": snapshot.version, "links": links, "moved": moved}

    async def _ref(self, environment: str, text: str) -> SubscriptionRef:
        """Return the subscription that `text` means: PROVIDER:ID, or an id if it is clear which provider's.

        Raises:
            Problem: it is not clear.
        """
        provider, colon, id = text.partition(":")
        if colon and provider in self._services.adapters:
            return SubscriptionRef(environment, provider, id)
        refs = [] if colon else [SubscriptionRef(environment, name, text) for name in self._providers]
        stored = await read_all_stored(self._services.store, refs)
        known = [ref for ref, link in zip(refs, stored, strict=True) if link.tenant_id is not None]
        if len(known) == 1 or len(refs) == 1:
            return (known or refs)[0]
        expected = " or ".join(f"{name}:{id or text}" for name in self._providers) or "PROVIDER:ID"
        raise Problem("no_subscription", f"it is not clear whose {shown(text)} is: write {expected}")


def _names(link: Link) -> Document:
    """Return what names the tenant of a subscription: the strongest name's kind, and all names by kind."""
    name = strongest(link)
    named: Document = {"named_by": name[0]} if name is not None else {}
    named |= {"names": {str(kind): decode_id(tenant) for kind, tenant in link.names.items()}}
    is_linked = Strength.OPERATOR in link.names and link.overruled not in ("", UNSEEN)
    return named | ({"overrules": decode_id(link.overruled)} if is_linked else {})
