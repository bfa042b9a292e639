"""Signed tenant references: what is signed is what is read, and nothing else passes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

from planwire_client.core.reference import (
    PREFIX,
    TenantReferenceError,
    checked_tenant,
    is_reference,
    tenant_reference,
    verify,
)
from planwire_client.core.topic import TopicError
from tests.support.bodies import ROOT

SECRET = "s" * 32
OLD, NEW = "o" * 40, "n" * 40
VECTORS = json.loads((ROOT / "tests" / "vectors" / "tenant_reference.json").read_text())


def _is_id(text: str) -> bool:
    try:
        return bool(checked_tenant(text))
    except TopicError:
        return False


ids = st.text(min_size=1, max_size=128).filter(_is_id)


@given(ids, st.sampled_from(["live", "sandbox"]))
def test_a_reference_names_the_tenant_it_was_signed_for(tenant_id: str, environment: str) -> None:
    reference = tenant_reference(SECRET, tenant_id, environment)
    assert verify(reference, (SECRET.encode(),), environment) == tenant_id
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,197}", reference)
    assert is_reference(reference)


def test_a_reference_is_of_one_environment() -> None:
    with pytest.raises(TenantReferenceError, match="signed the reference to 'acme' for live"):
        verify(tenant_reference(SECRET, "acme", "sandbox"), (SECRET.encode(),), "live")


def test_any_of_several_secrets_verifies() -> None:
    both = NEW.encode(), OLD.encode()
    assert (
        verify(tenant_reference(OLD, "acme"), both, "live")
        == verify(tenant_reference(NEW, "acme"), both, "live")
        == "acme"
    )
    with pytest.raises(TenantReferenceError, match="signed"):
        verify(tenant_reference(OLD, "acme"), both[:1], "live")


def test_without_a_secret_nothing_is_proved() -> None:
    with pytest.raises(TenantReferenceError, match="PLANWIRE_TENANT_SECRET is not set"):
        verify(tenant_reference(SECRET, "acme"), (), "live")


@given(st.data())
def test_no_changed_character_passes(data: st.DataObject) -> None:
    reference = tenant_reference(SECRET, data.draw(ids))
    at = data.draw(st.integers(len(PREFIX), len(reference) - 1))
    other = data.draw(
        st.sampled_from("ABCDEFabcdef0123456789_-=+/. \N{SNOWMAN}").filter(lambda one: one != reference[at])
    )
    with pytest.raises(TenantReferenceError):
        verify(reference[:at] + other + reference[at + 1 :], (SECRET.encode(),), "live")


@given(st.text())
def test_no_other_text_passes(text: str) -> None:
    with pytest.raises(TenantReferenceError):
        verify(PREFIX + text, (SECRET.encode(),), "live")


def test_a_short_secret_and_what_a_program_has_instead_of_an_id_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter than 32 bytes"):
        tenant_reference("short", "acme")
    missing: list[Any] = [None, True, 1.5, {}]
    for id_ in missing:
        with pytest.raises(TopicError):
            tenant_reference(SECRET, id_)


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: str(row["tenant"]))
def test_every_client_signs_alike(row: dict[str, Any]) -> None:
    if row["reference"] is not None:
        assert tenant_reference(row["secret"], row["tenant"], row["environment"]) == row["reference"]
        return
    with pytest.raises(TopicError):
        tenant_reference(row["secret"], row["tenant"], row["environment"])
