"""Which tenant an event itself names: the keys in their order, foreign ids, and values that name nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, strategies as st

from planwire_client.core.reference import tenant_reference
from sync.billing.domain.facts.model import Event, NamePlace, Order, Unparsable
from sync.billing.domain.tenant_naming import TENANT_FIELDS, Naming, sanitize, tenant_of


def named(event: Event, fields: Sequence[str]) -> Event:
    return sanitize(event, Naming(fields=fields))


BAD: list[Any] = ["undefined", "null", "[object Object]", "NaN", "None", "", "  ", " acme", "acme\n", 2**53, -(2**53)]
BAD += [True, 1.5, [], {}, {"id": 1}, "x" * 129, "\ud800", "\u00e9" * 65]


OF_CUSTOMER = ("customer.metadata", {"tenant_id": "b"})


def naming(*found: tuple[str, object], tenant: str | None = None) -> Event:
    names = tuple(NamePlace(*one) for one in found)
    return Event("paddle", "live", "evt_1", "x", Order(1, 1, "evt_1"), tenant_id=tenant, names=names)


@pytest.mark.parametrize(
    ("names", "fields", "tenant", "by"),
    [
        ([("custom_data", {"tenant_id": "acme"})], TENANT_FIELDS, "acme", "custom_data.tenant_id"),
        ([("metadata", {"tenantId": "acme"})], TENANT_FIELDS, "acme", "metadata.tenantId"),
        ([("metadata", {"tenantId": "b", "tenant_id": "a"})], TENANT_FIELDS, "a", "metadata.tenant_id"),
        ([("metadata", {"tenantId": "b", "tenant_id": "a"})], ("tenantId", "tenant_id"), "b", "metadata.tenantId"),
        ([("custom_data", {"user_id": "u_501"})], ("user_id",), "u_501", "custom_data.user_id"),
        ([("custom_data", {"tenant_id": 42})], TENANT_FIELDS, "42", "custom_data.tenant_id"),
        ([("custom_data", {"tenant_id": "auth0|5f"})], TENANT_FIELDS, "auth0%7C5f", "custom_data.tenant_id"),
        ([("metadata", None), OF_CUSTOMER], TENANT_FIELDS, "b", "customer.metadata.tenant_id"),
        ([("metadata", {"tenant_id": "a"}), OF_CUSTOMER], TENANT_FIELDS, "a", "metadata.tenant_id"),
        ([("metadata", {}), ("client_reference_id", "org:42")], TENANT_FIELDS, "org%3A42", "client_reference_id"),
        ([("metadata", {"tenant_id": "undefined", "tenantId": "a"})], TENANT_FIELDS, "a", "metadata.tenantId"),
        ([("metadata", {"tenant_id": None, "tenantId": "a"})], TENANT_FIELDS, "a", "metadata.tenantId"),
    ],
)
def test_the_first_usable_value_names_the_tenant(
    names: list[tuple[str, object]], fields: tuple[str, ...], tenant: str, by: str
) -> None:
    event = named(naming(*names), fields)
    assert event.tenant_id == tenant
    assert event.named_by.startswith(by)
    assert event.unnamed == ""
    assert named(event, fields) == event


@pytest.mark.parametrize("value", BAD)
def test_a_value_that_names_nobody_is_refused_and_shown(value: object) -> None:
    event = named(naming(("custom_data", {"tenant_id": value})), TENANT_FIELDS)
    assert (event.tenant_id, event.named_by) == (None, "")
    assert event.unnamed.startswith("custom_data.tenant_id: ")
    assert len(event.unnamed) < 250
    if isinstance(value, str):
        assert repr(value[:60]) in event.unnamed


def test_metadata_without_a_name_says_which_keys_it_has_and_what_to_set() -> None:
    assert named(naming(("custom_data", {"user_id": "u_501"})), TENANT_FIELDS).unnamed == (
        "custom_data has no tenant_id or tenantId, but 'user_id': set it where the checkout is made,"
        " or name your key in PLANWIRE_TENANT_FIELDS"
    )
    nothing: object
    for nothing in ({}, None):
        assert named(naming(("metadata", nothing)), ("org",)).unnamed == (
            "metadata has no org: set it where the checkout is made"
        )
    many = named(naming(("metadata", {f"k{number}": "x" * 99 for number in range(50)})), TENANT_FIELDS)
    assert len(many.unnamed) < 300
    assert "xx" not in many.unnamed


def test_a_tenant_that_an_adapter_gives_itself_is_an_id_of_the_outside_world_once() -> None:
    event = named(naming(tenant="auth0|5f%7C"), TENANT_FIELDS)
    assert event.tenant_id == "auth0%7C5f%257C"
    assert named(event, TENANT_FIELDS) == event
    assert named(naming(), TENANT_FIELDS).tenant_id is None
    unparsable = Unparsable("evt_1", "x", "why")
    assert sanitize(unparsable) is unparsable


def test_a_signed_reference_counts_in_the_order_of_the_keys() -> None:
    secret = "s" * 32
    good, bad = tenant_reference(secret, "auth0|5f"), tenant_reference("x" * 32, "evil")
    naming_ = Naming((secret.encode(),), is_signed_only=True)
    event = sanitize(naming(("metadata", {"tenant_id": bad, "tenantId": good})), naming_)
    assert (event.tenant_id, event.is_signed, event.named_by) == ("auth0%7C5f", True, "metadata.tenantId")
    event = sanitize(naming(("metadata", {"tenant_id": bad, "tenantId": "acme"})), naming_)
    assert (event.tenant_id, event.is_signed) == (None, False)
    assert event.name_problem.startswith("metadata.tenant_id: no secret in")
    event = sanitize(naming(("metadata", {"tenant_id": "undefined"})), naming_)
    assert (event.tenant_id, event.name_problem) == (None, "")
    for nobody in ("undefined", " ", "a "):
        with pytest.raises(ValueError, match=r"names nobody|white space"):
            tenant_of(tenant_reference(secret, nobody), naming_, "live")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x)))
def test_any_value_is_a_name_or_refused(value: object) -> None:
    with contextlib.suppress(ValueError):
        assert tenant_of(value) == tenant_of(str(value)) != ("", False)
        assert isinstance(value, str | int)
