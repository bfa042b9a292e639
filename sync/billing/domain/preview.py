"""What a change would make of a tenant's entitlements, by the reducer and projection that the real one goes through.

And, once it has come, whether it came as foreseen. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sync.billing.catalog.catalog import Catalog
from sync.billing.domain.model import ENTITLEMENTS, Event, Expected, Facts, Item, Order, Scheduled, Subscription
from sync.billing.domain.projection import Projected, State, Unprojectable, project, settle
from sync.billing.domain.reducer import Reduced, reduce
from sync.billing.domain.scheduled_changes import ChangeRejected, meant, replaced, sold

LANDS_WITHIN_NS = 3_600 * 1_000_000_000
"""How long after its confirmation a change is awaited."""

ITEMS_MAX = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """The change that is asked about: `plan` with its `quantity` (None: as many as now), or all `items`, or `cancel`
    (`now` or `period_end`). `subscription_id` "": the leading one."""

    plan: str = ""
    quantity: int | None = None
    items: tuple[Item, ...] = ()
    cancel: str = ""
    subscription_id: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be: the subscription's key and would-be body, and the state that is published then."""

    key: str
    body: Subscription
    state: State


def preview(facts: Facts, asked: Asked, catalog: Catalog, environment: str, now_ns: int) -> Preview:
    """Return what the change would make of the tenant, if it happened at `now_ns`.

    Raises:
        HeldError: it cannot be done, or the catalog does not know what it would buy; `code` says which.
    """
    key, entry = meant(facts, asked.subscription_id, catalog, environment, now_ns)
    body = _changed(entry.subscription, asked, catalog, entry.provider, environment, now_ns)
    order = Order(max(now_ns, entry.order.updated_ns + 1), max(now_ns, entry.order.occurred_ns), "preview")
    event = Event(entry.provider, environment, "preview", "preview", order, subscription=body)
    result = reduce(facts, event)
    assert isinstance(result, Reduced)
    after, _ = settle(result.facts, catalog, environment, now_ns)
    projected = project(after, catalog, environment, now_ns)
    if isinstance(projected, Unprojectable):
        raise ChangeRejected("price_unknown", f"the catalog does not know {', '.join(projected.price_ids)}")
    return Preview(key, body, projected.state)


def _changed(
    body: Subscription, asked: Asked, catalog: Catalog, provider: str, environment: str, now_ns: int
) -> Subscription:
    if asked.cancel == "now":
        return replace(body, status="canceled", period=None, scheduled=None)
    if asked.cancel:
        if body.period is None:
            raise ChangeRejected("effective_at_required", "there is no period at whose end it could be canceled")
        return replace(body, scheduled=Scheduled("cancel", body.period.ends_ns))
    if asked.items:
        return replace(body, items=asked.items)
    target = sold(catalog, asked.plan, provider, environment)
    first, *others = replaced(body.items, target, provider, environment, catalog.prices(provider, environment))
    return replace(body, items=(first if asked.quantity is None else Item(first.price_id, asked.quantity), *others))


def difference(before: Mapping[str, object], after: Mapping[str, object], path: str = "") -> list[dict[str, object]]:
    """Return what differs between two states, field by field: path, `from` and `to`; absent means not applicable."""
    found: list[dict[str, object]] = []
    for name in sorted({**before, **after}):
        old, new, where = before.get(name), after.get(name), f"{path}{name}"
        if isinstance(old, Mapping | None) and isinstance(new, Mapping | None):
            found += difference(old or {}, new or {}, f"{where}.")
        elif old != new:
            entry: dict[str, object] = {"path": where}
            found.append(entry | ({"from": old} if old is not None else {}) | ({"to": new} if new is not None else {}))
    return found


def expect(facts: Facts, preview_id: str, foreseen: Preview, now_ns: int) -> Facts:
    """Return the facts with the previewed change awaited; it takes the place of another that was."""
    body = foreseen.body
    entitlements = {name: foreseen.state[name] for name in ENTITLEMENTS}
    expected = Expected(
        preview_id, foreseen.key, tuple(sorted(body.items)), body.status, entitlements, now_ns + LANDS_WITHIN_NS
    )
    return replace(facts, expected=expected)


def compare(before: Facts, after: Facts, projected: Projected, now_ns: int) -> tuple[Facts, list[dict[str, object]]]:
    """Return the facts without an expectation that has been met or missed, and where it was missed what differs.

    The change has landed when the subscription's items and status are those foreseen; another change of them, or none
    in time, is a miss.
    """
    expected = before.expected
    if expected is None or after.expected != expected:
        return after, []
    old, new = before.subscriptions.get(expected.subscription), after.subscriptions.get(expected.subscription)
    settled = replace(after, expected=None)
    if new is None:
        return settled, []
    body = new.subscription
    if (tuple(sorted(body.items)), body.status) == (expected.items, expected.status):
        return settled, difference(expected.entitlements, {name: projected.state[name] for name in ENTITLEMENTS})
    moved = old is not None and (old.subscription.items, old.subscription.status) != (body.items, body.status)
    if not moved and now_ns < expected.until_ns:
        return after, []
    foreseen: dict[str, object] = {"items": [list(item) for item in expected.items], "status": expected.status}
    found: dict[str, object] = {"items": [list(item) for item in sorted(body.items)], "status": body.status}
    return settled, difference(foreseen, found)
