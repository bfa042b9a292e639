"""Which tenant an event belongs to, from what it names and what the links say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planwire_client.core.reference import tenant_reference
from sync.billing.catalog import catalog
from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.facts.model import Event, Item, NamePlace, Order, Subscription, Unparsable
from sync.billing.domain.facts.steps import Kind, Step
from sync.billing.domain.outcome import ERASED, OTHER_SOFTWARE, WAITS_CATALOG, WAITS_SOFTWARE, EventResult, Outcome
from sync.billing.domain.tenant_naming import Naming, sanitize
from sync.billing.domain.tenant_resolution import (
    TOMBSTONE,
    Link,
    Name,
    Strength,
    is_unreal,
    is_vouched,
    name_in,
    named_topic,
    order_key,
    overruled_by_operator,
    strongest,
    subjects,
    unresolved,
    vouched,
    with_fetched,
)
from tests.support.histories import CATALOG, CATALOG_TEXT

ORDER = Order(1, 1, "evt_1")
BODY = Subscription("sub_1", "active", ())
EVENT = Event(
    "paddle", "live", "evt_1", "x", ORDER, tenant_id="acme", customer_id="ctm_1", subscription_id="sub_1",
    subscription=BODY,
)  # fmt: skip
SECRET = "s" * 32
NAMING = Naming((SECRET.encode(),))
UNPARSABLE = Unparsable("evt_1", "x", "why")
SETTING = Setting(CATALOG, "live", (), 1)


def signed(tenant: str, secret: str = SECRET) -> str:
    return tenant_reference(secret, tenant)


def test_a_signed_reference_names_its_tenant() -> None:
    event = sanitize(replace(EVENT, tenant_id=signed("acme")), NAMING)
    assert isinstance(event, Event)
    assert (event.tenant_id, event.is_signed, event.name_problem) == ("acme", True, "")
    assert sanitize(event, Naming((), is_signed_only=True)) == event


@pytest.mark.parametrize(
    ("tenant", "naming", "problem"),
    [
        (
            signed("acme", "x" * 32),
            NAMING,
            "no secret in PLANWIRE_TENANT_SECRET signed the reference to 'acme' for live",
        ),
        (signed("acme"), Naming(), "PLANWIRE_TENANT_SECRET is not set"),
        (signed("acme")[:-1], NAMING, "signed"),
        ("acme", Naming((SECRET.encode(),), is_signed_only=True), "'acme' is not a signed reference"),
        ("x" * 70, Naming(is_signed_only=True), f"'{'x' * 60}'... is not"),
    ],
)
def test_a_name_that_is_not_accepted_leaves_none_and_no_guess(tenant: str, naming: Naming, problem: str) -> None:
    event = sanitize(replace(EVENT, tenant_id=tenant), naming)
    assert isinstance(event, Event)
    assert (event.tenant_id, event.is_signed) == (None, False)
    assert unresolved(event, Link("acme"), SETTING) is None
    result = unresolved(event, Link(None), SETTING)
    assert result is not None
    assert problem in result.reason
    assert result.reason.startswith("no tenant is known for sub_1: tenant_id: ")
    assert result.waits == ("subscription:paddle:sub_1", WAITS_SOFTWARE, WAITS_CATALOG)


def test_a_thin_event_takes_the_signed_reference_that_was_fetched() -> None:
    thin = replace(EVENT, subscription=None, tenant_id=None)
    whole = with_fetched(thin, sanitize(replace(EVENT, tenant_id=signed("acme")), NAMING))
    assert (whole.tenant_id, whole.is_signed) == ("acme", True)
    whole = with_fetched(thin, sanitize(replace(EVENT, tenant_id=signed("acme"))))
    assert (whole.tenant_id, whole.is_signed, "not set" in whole.name_problem) == (None, False, True)


def test_a_thin_event_takes_what_was_fetched_and_keeps_the_tenant_it_names() -> None:
    thin = replace(EVENT, subscription=None, customer_id=None)
    fetched = replace(EVENT, order=Order(2, 2, "~"), tenant_id="other", customer_id="ctm_2")
    whole = with_fetched(thin, fetched)
    assert (whole.tenant_id, whole.customer_id, whole.order, whole.subscription) == ("acme", "ctm_2", (2, 2, "~"), BODY)
    assert with_fetched(replace(thin, tenant_id=None), fetched).tenant_id == "other"


def test_a_topic_is_named_by_what_may_change_it() -> None:
    assert named_topic(EVENT) == "tenant:acme"
    assert named_topic(replace(EVENT, environment="sandbox")) == "sandbox/tenant:acme"
    for event in (replace(EVENT, tenant_id=None), replace(EVENT, subscription=None), UNPARSABLE):
        assert named_topic(event) is None


def test_a_simulated_event_is_unreal_in_the_live_environment_alone() -> None:
    simulated = replace(EVENT, simulated=True)
    assert is_unreal(simulated)
    assert named_topic(simulated) is None
    assert not is_unreal(replace(simulated, environment="sandbox"))


@pytest.mark.parametrize(
    ("link", "result"),
    [
        (Link("acme"), None),
        (Link(TOMBSTONE), ERASED),
        (
            Link(None),
            EventResult(
                Outcome.PARKED,
                "no tenant is known for sub_1: custom_data has no tenant_id",
                waits=("subscription:paddle:sub_1", "customer:paddle:ctm_1"),
            ),
        ),
    ],
)
def test_what_the_links_say_decides(link: Link, result: EventResult | None) -> None:
    assert unresolved(replace(EVENT, unnamed="custom_data has no tenant_id"), link, SETTING) == result


def test_what_the_catalog_may_come_to_ignore_waits_on_it_too_and_is_ignored_then() -> None:
    event = replace(EVENT, subscription=Subscription("sub_1", "active", (Item("pri_theirs", 1),)))
    result = unresolved(event, Link(None), SETTING)
    assert result is not None
    assert result.waits == ("subscription:paddle:sub_1", "customer:paddle:ctm_1", "catalog")
    ignoring = catalog.parse(CATALOG_TEXT + '[ignore]\nprices.paddle.live = ["pri_theirs"]')
    assert unresolved(event, Link(None), SETTING._replace(catalog=ignoring)) == OTHER_SOFTWARE


@pytest.mark.parametrize("candidates", [[], ["acme", "other"]])
def test_an_event_with_other_metadata_is_retried_by_a_worker_with_other_settings(
    candidates: list[str],
) -> None:
    event = sanitize(replace(EVENT, tenant_id=None, names=(NamePlace("metadata", {"user_id": "u_1"}),)))
    assert isinstance(event, Event)
    result = unresolved(event, Link(None), SETTING, candidates)
    assert result is not None
    assert WAITS_SOFTWARE in result.waits
    bare = unresolved(replace(event, names=(NamePlace("metadata", {}),)), Link(None), SETTING, candidates)
    assert bare is not None
    assert WAITS_SOFTWARE not in bare.waits


def test_it_waits_on_a_customer_only_if_it_names_one() -> None:
    assert subjects(replace(EVENT, customer_id=None)) == ("subscription:paddle:sub_1",)


def test_an_ambiguous_guess_waits_for_a_name_of_its_subscription_or_in_its_customer_s_metadata() -> None:
    unnamed = replace(EVENT, tenant_id=None, unnamed="it has no name")
    assert unresolved(unnamed, Link(None), SETTING, ["acme", "other"]) == EventResult(
        Outcome.PARKED,
        "no tenant is known for sub_1: it has no name; its customer ctm_1 pays for acme and other: it waits until it "
        "is named, or linked",
        waits=("subscription:paddle:sub_1", "customer-metadata:paddle:ctm_1"),
    )


@pytest.mark.parametrize(
    ("event", "strength"),
    [
        (EVENT, Strength.METADATA),
        (replace(EVENT, subscription=replace(BODY, status="past_due")), Strength.METADATA),
        (replace(EVENT, subscription=replace(BODY, status="canceled")), Strength.ENDING),
        (replace(EVENT, subscription=None, ignored="a hint"), Strength.CHECKOUT),
        (replace(EVENT, named_by="customer.metadata.tenant_id"), Strength.CUSTOMER),
        (replace(EVENT, is_signed=True, named_by="customer.metadata.tenant_id"), Strength.SIGNED_CUSTOMER),
        (replace(EVENT, subscription=None, named_by="customer.metadata.tenant_id"), Strength.CUSTOMER),
        (
            replace(EVENT, subscription=None, subscription_id=None, named_by="customer.metadata.tenant_id"),
            Strength.CUSTOMER,
        ),
        (replace(EVENT, subscription=None, subscription_id=None), None),
        (replace(EVENT, is_signed=True), Strength.SIGNED),
        (replace(EVENT, is_signed=True, subscription=None, ignored="a hint"), Strength.SIGNED_CHECKOUT),
        (replace(EVENT, is_signed=True, subscription=replace(BODY, status="canceled")), Strength.ENDING),
        (replace(EVENT, tenant_id=None), None),
    ],
)
def test_a_name_is_as_strong_as_what_carries_it(event: Event, strength: Strength | None) -> None:
    assert name_in(event) == (Name(strength, "acme", ORDER) if strength else None)


def test_within_a_second_the_creation_names_first_and_what_changes_the_metadata_last() -> None:
    """Of a clock in whole seconds, with ids that tell nothing."""

    def key(id: str, kind: Kind, *, renames: bool = False) -> str:
        name = name_in(replace(EVENT, order=Order(1, 1, id), step=Step(kind), renames=renames))
        assert name is not None
        return order_key(name.order)

    in_order = [
        key("evt_z", Kind.CREATION),
        key("evt_a", Kind.CHANGE),
        key("evt_b", Kind.CHANGE),
        key("evt_0", Kind.CHANGE, renames=True),
    ]
    assert sorted(in_order) == in_order
    assert order_key(ORDER) == order_key(name_in(EVENT).order)  # type: ignore[union-attr]


def test_the_strongest_name_counts() -> None:
    names = {strength: strength.value for strength in Strength}
    for strength in Strength:
        assert strongest(Link("x", names, overruled="signed")) == (strength, strength.value)
        del names[strength]
    assert strongest(Link("x")) is None


def test_an_operator_s_link_holds_until_the_metadata_that_it_overruled_changes() -> None:
    operator = {Strength.OPERATOR: "acme"}
    assert strongest(Link("acme", operator)) == ("operator", "acme")
    assert strongest(Link("acme", operator | {Strength.CHECKOUT: "c"})) == ("operator", "acme")
    assert strongest(Link("acme", operator | {Strength.METADATA: "m"}, overruled="m")) == ("operator", "acme")
    assert strongest(Link("acme", operator | {Strength.METADATA: "n"}, overruled="m")) == ("metadata", "n")
    assert strongest(Link("acme", operator | {Strength.METADATA: "n"})) == ("metadata", "n")


def test_an_operator_s_link_overrules_a_signed_reference_until_another_one_comes() -> None:
    names = {Strength.OPERATOR: "acme", Strength.SIGNED: "s", Strength.METADATA: "m"}
    assert overruled_by_operator(Link("acme", names)) == "s"
    assert strongest(Link("acme", names, overruled="s")) == ("operator", "acme")
    assert strongest(Link("acme", names | {Strength.METADATA: "n"}, overruled="s")) == ("operator", "acme")
    assert strongest(Link("acme", names | {Strength.SIGNED: "t"}, overruled="s")) == ("signed", "t")
    checkout = {Strength.OPERATOR: "acme", Strength.SIGNED_CHECKOUT: "c"}
    assert strongest(Link("acme", checkout)) == ("operator", "acme")


@pytest.mark.parametrize("strength", Strength)
def test_only_operators_and_signed_references_vouch_for_a_tenant(strength: Strength) -> None:
    does = strength in (Strength.OPERATOR, Strength.SIGNED, Strength.SIGNED_CHECKOUT, Strength.SIGNED_CUSTOMER)
    assert is_vouched(Link("acme", {strength: "acme"})) is does
    assert vouched(EVENT, Link("acme", {strength: "acme"})).is_signed is does
    assert not is_vouched(Link("acme", {strength: "other"}))
    assert not is_vouched(Link(None))


def test_an_order_s_key_sorts_as_the_order_does() -> None:
    orders = [Order(1, 5, "b"), Order(1, 5, "a"), Order(10**18, 1, "~"), Order(9, 10**18, ""), Order(0, 0, "z")]
    assert sorted(orders) == sorted(orders, key=lambda order: order_key(order).encode())
