"""The form fields that change a Stripe subscription's items. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sync.billing.domain.facts.model import Item


def item_fields(present: Sequence[Any], wanted: Sequence[Item]) -> dict[str, str]:
    """Return the form fields, without the prefix `items`, that change the present items to the wanted ones.

    A removed price is replaced by the first new price in the same item, so that a plan change keeps the item.
    """
    left = list(wanted)
    going: list[str] = []
    changes: list[dict[str, str]] = []
    for entry in present:
        price_id = str(entry["price"]["id"])
        target = next((item for item in left if item.price_id == price_id), None)
        if target is None:
            going.append(str(entry["id"]))
            continue
        left.remove(target)
        if entry.get("quantity", 1) != target.quantity:
            changes.append({"id": str(entry["id"]), "quantity": str(target.quantity)})
    for item_id in going:
        if left:
            item = left.pop(0)
            changes.append({"id": item_id, "price": item.price_id, "quantity": str(item.quantity)})
        else:
            changes.append({"id": item_id, "deleted": "true"})
    changes += [{"price": item.price_id, "quantity": str(item.quantity)} for item in left]
    return {f"[{index}][{name}]": value for index, change in enumerate(changes) for name, value in change.items()}


def preview_form(
    subscription_id: str, changes: Mapping[str, str], proration: str, at_s: int | None = None
) -> dict[str, str]:
    """Return the form that previews a subscription's next invoice with changed items; without changes, as it is.

    Args:
        proration: Stripe's `proration_behavior`.
        at_s: the instant as of which parts of a period are billed; None for that of the request.
    """
    form = {f"subscription_details[items]{name}": value for name, value in changes.items()}
    if changes:
        form["subscription_details[proration_behavior]"] = proration
        if at_s is not None and proration != "none":
            form["subscription_details[proration_date]"] = str(at_s)
    return form | {"subscription": subscription_id}
