"""A tenant's facts in which everything is set that facts can have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass

from sync.billing.domain.facts import instructions
from sync.billing.domain.facts.model import (
    Ahead,
    Facts,
    Granted,
    Item,
    Order,
    Period,
    Price,
    Purchase,
    Refund,
    Scheduled,
    Subscription,
    SubscriptionFacts,
)
from sync.billing.domain.facts.payments import RefundKind, RefundStatus
from sync.billing.domain.facts.steps import Kind, Seen, Step
from tests.support.histories import PRO, at

ORDER, EARLIER = Order(at(5), at(5), "evt_2"), Order(at(3), at(3), "evt_1")
ITEM = Item("pri_pro", 2)

SUBSCRIPTION = Subscription(
    "sub_1",
    "past_due",
    (ITEM,),
    customer_id="ctm_1",
    period=Period(at(0), at(30)),
    trial_ends_ns=at(1),
    scheduled=Scheduled("pause", at(30), at(60)),
    products={"pri_pro": "pro_pro"},
    lookup_keys={"pri_pro": "pro_monthly"},
)
PURCHASE = Subscription("txn_1", "active", (ITEM,), "ctm_1", purchase=Purchase(at(2), 1900, "EUR", "in_1", "sub_1"))
REFUND = Refund(
    (at(6), 1, "evt_3"),
    "adj_1",
    RefundKind.CHARGEBACK,
    RefundStatus.REVERSED,
    at(6),
    1900,
    "EUR",
    True,
    True,
    "ch_1",
    "txn_1",
)


def _facts_of(body: Subscription) -> SubscriptionFacts:
    return SubscriptionFacts(
        "paddle",
        body,
        ORDER,
        settled=EARLIER,
        past_due=(ORDER,),
        created_ns=at(0),
        is_vouched=True,
        moved_us=at(4) // 1000,
        granted=Granted(EARLIER, PRO),
        recent=(Seen(EARLIER, Step(Kind.CHANGE, ("a",), ("b",)), at(3), body),),
        ahead=Ahead(EARLIER, ORDER),
        former={"pri_basic": Price("pro_basic", "basic_monthly")},
        first_seen={"pri_pro": at(0)},
        granted_in={"crm": Granted(EARLIER, PRO)},
        apps=("crm",),
        refunds={REFUND.id: REFUND},
    )


FULL = Facts(
    {"paddle:sub_1": _facts_of(SUBSCRIPTION), "paddle:txn_1": _facts_of(PURCHASE)},
    scheduled_changes=tuple(
        instructions.ScheduledPlanChange(
            f"paddle:sub_{number}", "basic", at(9), PRO, at(8), "prorated_immediately", True, "provider_rejected", app
        )
        for number, app in enumerate(("crm", "mail"))
    ),
    overrides=tuple(
        instructions.Override(kind, "pro", True, "asked", at(20), "ann", trial=True, at_ns=at(2), app="crm")
        for kind in ("feature", instructions.PLAN, instructions.VERSION)
    ),
    awaited_previews=tuple(
        instructions.AwaitedPreview(
            f"prv_{number}", f"paddle:sub_{number}", (ITEM,), "active", {"plan": {"key": "pro"}}, at(9), app
        )
        for number, app in enumerate(("crm", "mail"))
    ),
    awaited_bills=(instructions.AwaitedBill("prv_1", "paddle:sub_1", "renewal", at(9)),),
    moved={"paddle:sub_9": at(4) // 1000},
    kept={"plan": {"key": "pro", "name": "Pro", "rank": 20}},
)

UNSET = {"Facts.erased_ns", "Subscription.created_ns"}
"""The fields that FULL does not set: an erased tenant has no other facts, and the second is not stored."""


def fields_of(value: object) -> Iterator[tuple[str, bool]]:
    """Yield each field, as CLASS.FIELD, of a value and of all that it consists of, and whether it is set."""
    named: dict[str, object] = {}
    if is_dataclass(value):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        named = value._asdict()
    for name, part in named.items():
        yield f"{type(value).__name__}.{name}", part not in (None, "", (), {}, False)
    for part in named.values() or _parts(value):
        yield from fields_of(part)


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, tuple) else ()
