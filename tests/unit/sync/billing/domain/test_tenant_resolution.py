"""Which tenant an event belongs to, from what it names and what the links say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planwire_client.core.reference import tenant_reference
from sync.billing.catalog import catalog
from sync.billing.domain.evaluation import Setting
from sync.billing.domain.model import Event, Item, Order, Subscription, Unparsable
from sync.billing.domain.outcome import ERASED, OTHER_SOFTWARE, WAITS_CATALOG, WAITS_SOFTWARE, EventResult, Outcome
from sync.billing.domain.tenant_naming import Naming, sanitize
from sync.billing.domain.tenant_resolution import (
    TOMBSTONE,
    Link,
    is_unreal,
    lookup_subjects,
    named_topic,
    subjects,
    unresolved,
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
    assert lookup_subjects(event) == ("subscription:paddle:sub_1",)
    assert unresolved(event, Link("acme"), SETTING) is None
    result = unresolved(event, Link(None), SETTING)
    assert result is not None
    assert problem in result.reason
    assert result.reason.startswith("no tenant is known for sub_1: tenant_id: ")
    assert result.waits == ("subscription:paddle:sub_1", WAITS_SOFTWARE, WAITS_CATALOG)


def test_a_thin_event_takes_the_signed_reference_that_was_fetched() -> None:
    thin = replace(EVENT, subscription=None, tenant_id=None)
    whole = with_fetched(thin, replace(EVENT, tenant_id=signed("acme")), NAMING)
    assert (whole.tenant_id, whole.is_signed) == ("acme", True)
    whole = with_fetched(thin, replace(EVENT, tenant_id=signed("acme")))
    assert (whole.tenant_id, whole.is_signed, "not set" in whole.name_problem) == (None, False, True)


def test_a_thin_event_takes_what_was_fetched_and_keeps_the_tenant_it_names() -> None:
    thin = replace(EVENT, subscription=None, customer_id=None)
    fetched = replace(EVENT, order=Order(2, 2, "~"), tenant_id="other", customer_id="ctm_2")
    whole = with_fetched(thin, fetched)
    assert (whole.tenant_id, whole.customer_id, whole.order, whole.subscription) == ("acme", "ctm_2", (2, 2, "~"), BODY)
    assert with_fetched(replace(thin, tenant_id=None), fetched).tenant_id == "other"
    assert with_fetched(replace(thin, tenant_id=None), replace(fetched, tenant_id="x" * 129)).tenant_id is None


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
        (Link("acme", conflict=TOMBSTONE), ERASED),
        (
            Link("acme", conflict="other"),
            EventResult(
                Outcome.PARKED, "names tenant acme, but sub_1 belongs to other", waits=("subscription:paddle:sub_1",)
            ),
        ),
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


def test_it_waits_on_a_customer_only_if_it_names_one() -> None:
    assert subjects(replace(EVENT, customer_id=None)) == ("subscription:paddle:sub_1",)
