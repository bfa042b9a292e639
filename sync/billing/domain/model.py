"""The values billing speaks in: a provider's event, and the facts kept per tenant in a snapshot's `private`. Pure.

Every instant is an integer, nanoseconds since 1970, named `_ns`. None stands for "not applicable".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

LIVE_STATUSES = frozenset({"trialing", "active", "past_due"})
"""A subscription's statuses that can grant something (past_due only within its grace)."""

KNOWN_STATUSES = LIVE_STATUSES | {"paused", "canceled"}
KNOWN_ACTIONS = frozenset({"cancel", "pause", "resume"})

CLOCK_SLACK_NS = 5 * 60 * 1_000_000_000
"""How far a body's `updated_at` may lie after its event's `occurred_at` before it is taken for a moved clock."""

FETCHED = "fetched"
"""The type of an event that is no event: the entity as the provider answered when asked."""

FETCHED_ID = "~"
"""The event id in a fetch's order key: behind every id that a provider gives."""

FORMAT = 1
"""The version of the encoding that `encode` writes."""


class Order(NamedTuple):
    """Where an event stands among those of its subscription: tuples compare, the greater is the newer."""

    updated_ns: int
    occurred_ns: int
    event_id: str

    @classmethod
    def of(cls, updated_ns: int | None, occurred_ns: int, event_id: str) -> Order:
        """Return the order key of an event: a function of the event alone, so that no arrival order can change it.

        `updated_at` says which body is newer and `occurred_at` breaks ties. Where `updated_at` is more than
        CLOCK_SLACK_NS ahead, the provider's clock was moved: trusting it would refuse every later event until then.
        """
        if updated_ns is None or updated_ns > occurred_ns + CLOCK_SLACK_NS:
            updated_ns = occurred_ns
        return cls(updated_ns, occurred_ns, event_id)

    @classmethod
    def fetched(cls, updated_ns: int | None, began_ns: int) -> Order:
        """Return the order key of a body that was asked for at `began_ns`.

        Of bodies with one `updated_at` a fetched one is newer than every event that occurred before. Webhooks may carry
        more fraction digits than the API: the whole microsecond counts as one.
        """
        if updated_ns is not None:
            updated_ns = updated_ns // 1000 * 1000 + 999
        return cls.of(updated_ns, began_ns, FETCHED_ID)


class Item(NamedTuple):
    """One line of a subscription: a price and how many units of it."""

    price_id: str
    quantity: int


class Scheduled(NamedTuple):
    """What the provider will do by itself: `cancel`, `pause` (with `resume_ns`, or for good) or `resume`."""

    action: str
    effective_ns: int
    resume_ns: int | None = None


class Period(NamedTuple):
    """A billing period."""

    starts_ns: int
    ends_ns: int


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as one event shows it, whole.

    `status` is the provider's own word and may be one that is not known yet. `trial_ends_ns` is the end of its last
    trial; it means something only while trialing.
    """

    id: str
    status: str
    items: tuple[Item, ...]
    customer_id: str | None = None
    period: Period | None = None
    trial_ends_ns: int | None = None
    scheduled: Scheduled | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One billing fact in the provider-neutral form that adapters make.

    Attributes:
        event_id: the dedupe key, the same on every delivery.
        delivery_id: the provider's id of this one delivery, or None.
        order: where it stands among the events of its subscription.
        tenant_id: the tenant that the event itself names, or None.
        simulated: made by the provider's simulator, hence about nothing real.
        subscription: the body, or None where the event carries none that could be applied.
        ignored: why the event can say nothing about entitlements, or "" if it can.
        unstamped: fetched from a provider that does not say when an entity changed: `order` tells when it was asked.
    """

    provider: str
    environment: str
    event_id: str
    type: str
    order: Order
    delivery_id: str | None = None
    tenant_id: str | None = None
    customer_id: str | None = None
    subscription_id: str | None = None
    simulated: bool = False
    subscription: Subscription | None = None
    ignored: str = ""
    unstamped: bool = False


@dataclass(frozen=True, slots=True)
class SubscriptionFacts:
    """What is known of one subscription.

    Attributes:
        order: of the newest event, whose body `subscription` is.
        settled: the order of the newest event that was not past_due, or None.
        past_due: the orders of the past_due events newer than `settled`, ascending: the current run. Providers have no
            past_due_at, so grace starts at the earliest `occurred_ns` among them. All are kept, because an event that
            arrives late may settle the run anywhere within it.
    """

    provider: str
    subscription: Subscription
    order: Order
    settled: Order | None = None
    past_due: tuple[Order, ...] = ()

    @property
    def past_due_since_ns(self) -> int | None:
        """When the run of past_due events that `subscription` belongs to began; None if it is not past_due."""
        if self.subscription.status != "past_due":
            return None
        return min([mark.occurred_ns for mark in self.past_due], default=self.order.occurred_ns)


@dataclass(frozen=True, slots=True)
class ScheduledPlanChange:
    """A plan change that we hold until `effective_ns`, since the provider has no such thing.

    `keep` are the items that count until then, whatever plan the provider's body shows already. From `execute_ns` on
    the provider is told to change the items, billed by its `billing_mode`, until it has done so (`executed`);
    `problem` is why it would not, the last time it was told.
    """

    subscription: str
    plan: str
    effective_ns: int
    keep: tuple[Item, ...]
    execute_ns: int = 0
    billing_mode: str = "do_not_bill"
    executed: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Override:
    """What an operator grants or takes, over whatever is paid for.

    `kind` is `feature`, `limit` or `module`; `value` is the limit or the module's level, True for a feature, and None
    takes the name away. It ends at `expires_ns`, or never.
    """

    kind: str
    name: str
    value: bool | int | str | None
    reason: str
    expires_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What a confirmed preview said will be, until it has come or `until_ns` has passed.

    `items` and `status` are the subscription's when the change lands; `entitlements` is what is published then, of the
    fields ENTITLEMENTS.
    """

    preview_id: str
    subscription: str
    items: tuple[Item, ...]
    status: str
    entitlements: Mapping[str, Any]
    until_ns: int


ENTITLEMENTS = ("plan", "status", "features", "limits", "modules")
"""The fields of a state that a preview promises; the others depend on when the change happens."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of a tenant, not to be changed in place. `subscriptions` go by `subscription_key`.

    With `erased_ns` the tenant was erased then: there is nothing else, and nothing is to come.
    """

    subscriptions: Mapping[str, SubscriptionFacts] = field(default_factory=dict)
    held: ScheduledPlanChange | None = None
    overrides: tuple[Override, ...] = ()
    expected: Expected | None = None
    erased_ns: int | None = None


NOTHING = Facts()


def subscription_key(provider: str, subscription_id: str) -> str:
    """Return the key of a subscription within a tenant's facts."""
    return f"{provider}:{subscription_id}"


def encode(facts: Facts) -> bytes:
    """Return the facts as canonical JSON for `private`."""
    document: dict[str, object] = {
        "format": FORMAT,
        "subscriptions": {key: _subscription_out(entry) for key, entry in facts.subscriptions.items()},
    }
    if facts.held is not None:
        held = facts.held
        document["held"] = {
            "subscription": held.subscription,
            "plan": held.plan,
            "effective_ns": held.effective_ns,
            "keep": [list(item) for item in held.keep],
            "execute_ns": held.execute_ns,
            "billing_mode": held.billing_mode,
            "executed": held.executed,
            "problem": held.problem,
        }
    if facts.overrides:
        document["overrides"] = [
            {
                name: value
                for name in ("kind", "name", "value", "reason", "expires_ns")
                if (value := getattr(override, name)) is not None
            }
            for override in facts.overrides
        ]
    if facts.expected is not None:
        expected = facts.expected
        document["expected"] = {
            "preview_id": expected.preview_id,
            "subscription": expected.subscription,
            "items": [list(item) for item in expected.items],
            "status": expected.status,
            "entitlements": expected.entitlements,
            "until_ns": expected.until_ns,
        }
    if facts.erased_ns is not None:
        document["erased_ns"] = facts.erased_ns
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def _subscription_out(entry: SubscriptionFacts) -> dict[str, object]:
    body = entry.subscription
    out: dict[str, object] = {
        "provider": entry.provider,
        "id": body.id,
        "status": body.status,
        "items": [list(item) for item in body.items],
        "order": list(entry.order),
    }
    if body.customer_id is not None:
        out["customer_id"] = body.customer_id
    if body.period is not None:
        out["period_ns"] = list(body.period)
    if body.trial_ends_ns is not None:
        out["trial_ends_ns"] = body.trial_ends_ns
    if body.scheduled is not None:
        out["scheduled"] = [part for part in body.scheduled if part is not None]
    if entry.settled is not None:
        # Most often the newest event itself: then the stamp need not be told twice.
        out["settled"] = True if entry.settled == entry.order else list(entry.settled)
    if entry.past_due:
        out["past_due"] = [list(mark) for mark in entry.past_due]
    return out


def decode(private: bytes) -> Facts:
    """Return the facts that `encode` wrote; no bytes are no facts.

    Raises:
        ValueError: the bytes are not such a document, or of a newer format.
    """
    if not private:
        return NOTHING
    try:
        document = orjson.loads(private)
        if document["format"] != FORMAT:
            raise ValueError(f"facts of format {document['format']} cannot be read")
        held = document.get("held")
        return Facts(
            {key: _subscription_in(entry) for key, entry in document["subscriptions"].items()},
            None if held is None else _held_in(held),
            tuple(
                Override(entry["kind"], entry["name"], entry.get("value"), entry["reason"], entry.get("expires_ns"))
                for entry in document.get("overrides", ())
            ),
            None if (expected := document.get("expected")) is None else _expected_in(expected),
            document.get("erased_ns"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a tenant's facts: {error!r}") from error


def _expected_in(expected: dict[str, Any]) -> Expected:
    items = tuple([Item(price, quantity) for price, quantity in expected["items"]])
    return Expected(**{**expected, "items": items})


def _held_in(held: dict[str, Any]) -> ScheduledPlanChange:
    return ScheduledPlanChange(
        held["subscription"],
        held["plan"],
        held["effective_ns"],
        tuple([Item(price, quantity) for price, quantity in held["keep"]]),
        held.get("execute_ns", held["effective_ns"]),
        held.get("billing_mode", "do_not_bill"),
        held.get("executed", False),
        held.get("problem", ""),
    )


def _subscription_in(entry: dict[str, Any]) -> SubscriptionFacts:
    order = Order(*entry["order"])
    settled = entry.get("settled")
    period = entry.get("period_ns")
    scheduled = entry.get("scheduled")
    return SubscriptionFacts(
        entry["provider"],
        Subscription(
            entry["id"],
            entry["status"],
            tuple([Item(price, quantity) for price, quantity in entry["items"]]),
            entry.get("customer_id"),
            Period(*period) if period else None,
            entry.get("trial_ends_ns"),
            Scheduled(*scheduled) if scheduled else None,
        ),
        order,
        order if settled is True else Order(*settled) if settled else None,
        tuple([Order(*mark) for mark in entry.get("past_due", ())]),
    )
