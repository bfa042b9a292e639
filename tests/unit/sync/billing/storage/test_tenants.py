"""Whose a snapshot is, and what of it are a tenant's facts, whichever build has written it."""

from __future__ import annotations

import pytest

from planwire_client.core.commit import BILLING, PUBLISHER
from sync.billing.domain.facts import codec
from sync.billing.domain.facts.instructions import Override
from sync.billing.domain.facts.model import NOTHING, Facts
from sync.billing.storage.tenants import FactsError, facts_of, has_facts, tenant_of
from sync.store.models import Snapshot

FACTS = Facts(overrides=(Override("feature", "beta", True, "pilot"),))
STORED, OWN, STATE = codec.encode(FACTS), b'{"signed_up":"2026-11-30"}', b'{"plan":"free"}'


@pytest.mark.parametrize(
    ("owner", "private", "restored", "facts", "is_published"),
    [
        (BILLING, STORED, False, FACTS, False),
        (BILLING, b"", True, NOTHING, False),
        (PUBLISHER, STORED, False, NOTHING, True),
        (PUBLISHER, OWN, False, NOTHING, True),
        (PUBLISHER, b"", True, NOTHING, True),
        # Builds from before the owner.
        ("", STORED, False, FACTS, False),
        ("", OWN, False, NOTHING, True),
        ("", b"", False, NOTHING, True),
        ("", STORED, True, FACTS, False),
        ("", OWN, True, NOTHING, False),
        ("", b"", True, NOTHING, False),
    ],
)
def test_facts_are_billing_s_alone(
    owner: str, private: bytes, restored: bool, facts: Facts, is_published: bool
) -> None:
    snapshot = Snapshot("tenant:acme", 7, STATE, private, b"", 7, owner, restored=restored)
    tenant = tenant_of(snapshot)
    assert (tenant.facts, tenant.is_known) == (facts, facts is FACTS)
    assert tenant.published == ({"plan": "free"} if is_published else None)
    assert tenant.shown == (STATE if facts is FACTS else b"")


def test_facts_that_cannot_be_read_are_an_error_and_known() -> None:
    snapshot = Snapshot("tenant:acme", 7, STATE, b'{"format":99}', b"", 7, BILLING)
    assert has_facts(snapshot)
    with pytest.raises(FactsError, match="tenant:acme: this build cannot read"):
        facts_of(snapshot)
