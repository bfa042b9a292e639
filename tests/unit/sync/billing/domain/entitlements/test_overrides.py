"""Operators' overrides: what may be added, and the facts with and without them."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sync.billing.domain.entitlements.evaluation import Setting
from sync.billing.domain.entitlements.overrides import OVERRIDES_MAX, active_overrides, add_override, remove_override
from sync.billing.domain.facts.instructions import PLAN, Override
from sync.billing.domain.facts.model import NOTHING, Facts
from sync.billing.domain.outcome import ChangeRejected
from tests.support.histories import CATALOG

NOW_NS = 1_000
SETTING = Setting(CATALOG, "live", (), NOW_NS)
SSO = Override("feature", "sso", True, "promised")
SEATS = Override("limit", "seats", 5, "promised", NOW_NS + 1)


def test_one_takes_the_place_of_another_of_its_name_and_expired_ones_go() -> None:
    expired = Override("module", "old", "read", "why", NOW_NS)
    facts = add_override(Facts(overrides=(SSO, expired)), Override("feature", "sso", None, "abuse"), SETTING)
    assert facts.overrides == (Override("feature", "sso", None, "abuse"),)


def test_active_ones_are_named() -> None:
    facts = Facts(overrides=(SSO, SEATS))
    assert active_overrides(facts, NOW_NS) == {"overrides": ["feature:sso", "limit:seats"]}
    assert active_overrides(facts, NOW_NS + 1) == {"overrides": ["feature:sso"]}
    assert active_overrides(NOTHING, NOW_NS) == {}


def test_one_that_is_not_there_cannot_be_removed() -> None:
    assert remove_override(Facts(overrides=(SSO, SEATS)), "feature", "sso").overrides == (SEATS,)
    with pytest.raises(ChangeRejected, match="not_found"):
        remove_override(Facts(overrides=(SSO,)), "limit", "sso")


def test_there_is_a_most() -> None:
    facts = Facts(overrides=tuple(Override("feature", f"f{number}", True, "x") for number in range(OVERRIDES_MAX)))
    with pytest.raises(ChangeRejected, match="too_many_overrides"):
        add_override(facts, SSO, SETTING)
    assert len(add_override(facts, Override("feature", "f0", None, "x"), SETTING).overrides) == OVERRIDES_MAX


@pytest.mark.parametrize(
    "override",
    [
        Override("price", "pro", True, "x"),
        Override(PLAN, "pro", None, "x"),
        Override(PLAN, "pro", 0, "x"),
        Override(PLAN, "pro", "unlimited", "x"),
        Override(PLAN, "pro", True, "x", trial=True),
        Override("feature", "sso", True, "x", NOW_NS + 1, trial=True),
        Override("feature", "no spaces", True, "x"),
        Override("feature", "sso", False, "x"),
        Override("module", "billing", "root", "x"),
        Override("limit", "seats", -1, "x"),
        Override("limit", "seats", 2**53, "x"),
        Override("limit", "seats", True, "x"),
        Override("feature", "sso", True, "x", NOW_NS),
    ],
)
def test_bad_ones_are_rejected(override: Override) -> None:
    with pytest.raises(ChangeRejected, match="override_invalid"):
        add_override(NOTHING, override, SETTING)


def test_only_plans_of_the_catalog_are_granted() -> None:
    grant = Override(PLAN, "pro", 9, "promised", NOW_NS + 1, "eve", trial=True)
    assert add_override(Facts(overrides=(grant,)), SSO, SETTING).overrides == (SSO, grant)
    with pytest.raises(ChangeRejected, match=r"plan_unknown.*'gold'.*free, pro"):
        add_override(NOTHING, Override(PLAN, "gold", True, "x"), SETTING)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=8))
def test_the_last_of_each_name_stands(given: list[tuple[str, int]]) -> None:
    facts = NOTHING
    for name, value in given:
        facts = add_override(facts, Override("limit", name, value, "x"), SETTING)
    assert {one.name: one.value for one in facts.overrides} == dict(given)
