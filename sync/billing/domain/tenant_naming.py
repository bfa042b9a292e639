"""The tenant that an event itself names: the first usable value among its metadata, as a topic id. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from planwire_client.core import reference
from planwire_client.core.limits import SAFE_INTEGER_MAX
from planwire_client.core.topic import TopicError, shown
from sync.billing.domain.facts.model import Event, NamePlace, Order, Unparsable
from sync.billing.domain.outcome import OTHER_ACCOUNT

TENANT_FIELDS = ("tenant_id", "tenantId")
"""The metadata keys that name a tenant, unless PLANWIRE_TENANT_FIELDS says otherwise."""

KEYS_SHOWN_MAX = 5

EventOrNot = TypeVar("EventOrNot", Event, Event | Unparsable)
IdOrNot = TypeVar("IdOrNot", str, str | None)


class Naming(NamedTuple):
    """How an event may name its tenant.

    Attributes:
        secrets: verify signed references.
        is_signed_only: whether a name without a signature is not accepted.
        fields: the metadata keys to look for, in order.
    """

    secrets: Sequence[bytes] = ()
    is_signed_only: bool = False
    fields: Sequence[str] = TENANT_FIELDS


UNSIGNED = Naming()


def of_own_account(
    event: Event | Unparsable, provider: str, environment: str, accounts: Collection[str]
) -> Event | Unparsable:
    """Return the event; if it is about another merchant's account, an ignored one, or the event with ids of it.

    Args:
        provider, environment: the event's.
        accounts: the accounts whose events count, besides the own one; `*` for all.
    """
    if event.account is None:
        return event
    if not {event.account, "*"}.isdisjoint(accounts):
        return event if isinstance(event, Unparsable) else of_account(event, event.account)
    order = Order.of(None, 0, event.event_id) if isinstance(event, Unparsable) else event.order
    setting = f"PLANWIRE_{provider.upper()}_CONNECT_ACCOUNTS"
    reason = f"{OTHER_ACCOUNT}: {event.account[:60]}; to use it, list it in {setting}"
    return Event(provider, environment, event.event_id, event.type, order, account=event.account, ignored=reason)


def of_account(event: Event, account: str) -> Event:
    """Return the event with ids that name the account of another merchant: `ACCOUNT/ID`. They say where to ask.

    Args:
        account: "" for the own one, whose ids stay as they are.
    """

    def qualified(id: IdOrNot) -> IdOrNot:
        return f"{account}/{id}" if account and id else id

    body, billed = event.subscription, event.billed
    if body is not None:
        purchase = body.purchase
        if purchase is not None:
            purchase = purchase._replace(invoice_id=qualified(purchase.invoice_id))
        body = replace(body, id=qualified(body.id), customer_id=qualified(body.customer_id), purchase=purchase)
    if billed is not None:
        billed = billed._replace(subscription_id=qualified(billed.subscription_id))
    return replace(
        event,
        customer_id=qualified(event.customer_id),
        subscription_id=qualified(event.subscription_id),
        subscription=body,
        billed=billed,
        unlisted=qualified(event.unlisted),
    )


def sanitize(event: EventOrNot, naming: Naming = UNSIGNED) -> EventOrNot:
    """Return the event with the topic id of the tenant that it names, or with the reason why it names none.

    A signed reference is verified here. `is_signed`, `unnamed` and `name_problem` say how that ended.
    """
    if isinstance(event, Unparsable) or event.named_by:
        return event
    # An adapter may give the name itself.
    names = event.names or (() if event.tenant_id is None else (NamePlace("tenant_id", event.tenant_id),))
    problems: list[str] = []
    rejected = ""
    for where, value in _candidates(names, naming.fields):
        try:
            tenant_id, is_signed = tenant_of(value, naming, event.environment)
        except reference.TenantReferenceError as error:
            rejected = rejected or f"{where}: {error}"
        except ValueError as error:
            problems.append(f"{where}: {error}")
        else:
            return replace(event, tenant_id=tenant_id, is_signed=is_signed, named_by=where)
    unnamed = "; ".join(problems) or _absence(names, naming.fields)
    return replace(event, names=names, tenant_id=None, unnamed=unnamed, name_problem=rejected)


def tenant_of(value: object, naming: Naming = UNSIGNED, environment: str = "") -> tuple[str, bool]:
    """Return the topic id of the tenant that a value names, and whether a signed reference does.

    Raises:
        ValueError: the value names nobody; the message shows it.
        TenantReferenceError: the name is not accepted for lack of a valid signature.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > SAFE_INTEGER_MAX:
            raise TopicError(f"{value} is beyond 2^53-1, and may have lost digits on its way: send the id as text")
        value = str(value)
    if not isinstance(value, str):
        raise TopicError(f"{shown(value)} is not an id: send the tenant's id as text")
    if is_signed := reference.is_reference(value):
        value = reference.verify(value, naming.secrets, environment)
    tenant_id = reference.checked_tenant(value)
    if naming.is_signed_only and not is_signed:
        problem = f'{shown(value)} is not a signed reference, and [policy] unsigned_tenant is "park"'
        raise reference.TenantReferenceError(problem)
    return tenant_id, is_signed


def _candidates(names: Sequence[NamePlace], fields: Sequence[str]) -> Iterator[tuple[str, object]]:
    """Yield the values that may name the tenant, strongest first, each with its place."""
    for where, value in names:
        if isinstance(value, Mapping):
            yield from ((f"{where}.{field}", value[field]) for field in fields if value.get(field) is not None)
        elif value is not None:
            yield where, value


def _absence(names: Sequence[NamePlace], fields: Sequence[str]) -> str:
    """Return the sentence for an event without any candidate, with the keys that its metadata has instead."""
    where, value = names[0] if names else ("its metadata", None)
    absent = f"{where} has no {' or '.join(fields)}"
    if not isinstance(value, Mapping) or not value:
        return f"{absent}: set it where the checkout is made"
    keys = ", ".join(shown(key) for key in list(value)[:KEYS_SHOWN_MAX])
    return f"{absent}, but {keys}: set it where the checkout is made, or name your key in PLANWIRE_TENANT_FIELDS"
