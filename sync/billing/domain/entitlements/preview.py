"""Previews: predicts a tenant's entitlements after a change, with the same reducer and projection. Pure.

Once a confirmed change has landed, `awaited` compares it with the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sync.billing.domain.entitlements.applications import check_app
from sync.billing.domain.entitlements.evaluation import Setting, bought
from sync.billing.domain.entitlements.projection import State, Unprojectable, project
from sync.billing.domain.entitlements.scheduled_changes import find_subscription, with_plan, without_void_changes
from sync.billing.domain.entitlements.takeover import without_ended_grants
from sync.billing.domain.entitlements.unknown_items import remember_granted
from sync.billing.domain.facts.instructions import ENTITLEMENTS
from sync.billing.domain.facts.model import Event, Facts, Item, Order, Scheduled, Subscription, SubscriptionFacts
from sync.billing.domain.facts.reducer import Reduced, reduce
from sync.billing.domain.outcome import ChangeRejected

ITEMS_MAX = 100


@dataclass(frozen=True, slots=True)
class PreviewRequest:
    """The change to predict: exactly one of `plan`, `items` and `cancel`.

    Attributes:
        quantity: of the plan; None for the current quantity.
        items: all items of the subscription.
        cancel: `now` or `period_end`.
        subscription_id: "" for the leading subscription.
        app: the application whose subscription is meant; "" for that of `plan`, or the leading one.
    """

    plan: str = ""
    quantity: int | None = None
    items: tuple[Item, ...] = ()
    cancel: str = ""
    subscription_id: str = ""
    app: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """The subscription's key, its body after the change, and the state that is published then.

    Attributes:
        app: the application that the change is about; "" without applications, or for all of them.
    """

    key: str
    body: Subscription
    state: State
    app: str = ""

    @property
    def entitlements(self) -> dict[str, object]:
        """What the change is about in the state: the fields ENTITLEMENTS."""
        return entitlements(self.state, self.app)


def preview(facts: Facts, request: PreviewRequest, setting: Setting) -> Preview:
    """Return the prediction for the change, as if it happened at the setting's instant.

    Raises:
        ChangeRejected: the change is impossible, or its prices are not in the catalog.
    """
    within = setting.of_plan(request.plan, check_app(request.app, setting))
    key, entry = find_subscription(facts, request.subscription_id, within)
    body, now_ns = _changed(entry, request, within), setting.now_ns
    order = Order(max(now_ns, entry.order.updated_ns + 1), max(now_ns, entry.order.occurred_ns), "preview")
    event = Event(entry.provider, setting.environment, "preview", "preview", order, subscription=body)
    result = reduce(facts, event)
    assert isinstance(result, Reduced)
    after = without_ended_grants(remember_granted(facts, result.facts, event, setting), (), setting)
    after, _ = without_void_changes(after, setting)
    projected = project(after, setting)
    present = bought(entry.subscription.items, entry, setting).unknown
    unknown = [price for price in bought(body.items, entry, setting).unknown if price not in present]
    if isinstance(projected, Unprojectable) or unknown:
        reason = projected.reason if isinstance(projected, Unprojectable) else projected.unknown
        raise ChangeRejected("price_unknown", reason)
    return Preview(key, body, projected.state, within.catalog.app)


def entitlements(state: State, app: str) -> dict[str, object]:
    """Return the fields ENTITLEMENTS of a state, or of one application in it."""
    part = state.get("apps", {}).get(app, state)
    return {name: part[name] for name in ENTITLEMENTS if name in part}


def _changed(entry: SubscriptionFacts, request: PreviewRequest, setting: Setting) -> Subscription:
    body = entry.subscription
    if request.cancel == "now":
        return replace(body, status="canceled", period=None, scheduled=None)
    if request.cancel:
        if body.period is None:
            raise ChangeRejected("effective_at_required", "there is no period at whose end it could be canceled")
        return replace(body, scheduled=Scheduled("cancel", body.period.ends_ns))
    if request.items:
        return replace(body, items=request.items)
    first, *others = with_plan(body.items, request.plan, entry, setting)
    return replace(body, items=(first if request.quantity is None else Item(first.price_id, request.quantity), *others))


def difference(before: Mapping[str, object], after: Mapping[str, object], path: str = "") -> list[dict[str, object]]:
    """Return the fields that differ between two states: `path`, `from` and `to` (absent where the field is absent)."""
    found: list[dict[str, object]] = []
    for name in sorted({**before, **after}):
        old, new, where = before.get(name), after.get(name), f"{path}{name}"
        if isinstance(old, Mapping | None) and isinstance(new, Mapping | None):
            found += difference(old or {}, new or {}, f"{where}.")
        elif old != new:
            entry: dict[str, object] = {"path": where}
            found.append(entry | ({"from": old} if old is not None else {}) | ({"to": new} if new is not None else {}))
    return found
