"""What is compared with another system's answer, and how its words are read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from sync.billing.catalog import catalog as catalogs
from sync.billing.domain.shadow.comparison import compare, extract

CATALOG = """
[plans.free]
name = "Free"
rank = 0
default = true

[plans.pro]
name = "Professional"
rank = 20
"""

STATE: dict[str, Any] = {
    "plan": {"key": "pro", "name": "Professional", "rank": 20},
    "status": "active",
    "features": {"sso": True, "export": True},
    "limits": {"seats": 12, "projects": "unlimited"},
    "modules": {"billing": "write"},
    "period": {"starts_at": "2026-11-01T00:00:00Z", "ends_at": "2026-12-01T00:00:00.5Z"},
    "apps": {"crm": {"plan": {"key": "free", "name": "Free", "rank": 0}, "limits": {"seats": 2}}},
}


def differences(answer: dict[str, Any], shadow: str = "[shadow]") -> list[tuple[str, Any, Any]]:
    """What differs between STATE and an answer, by a mapping."""
    known = catalogs.parse(CATALOG + shadow)
    assert known.shadow is not None
    found = compare(STATE, extract(answer, known.shadow), known.shadow, known)
    return [(one.field, one.here, one.there) for one in found.differences]


def one(field: str, value: Any, words: str = "") -> list[tuple[str, Any, Any]]:
    """The same of one field."""
    return differences({"a": {"b": value}}, f'[shadow.fields]\n"{field}" = "a.b"\n{words}')


def test_an_answer_in_our_own_form_needs_no_mapping() -> None:
    assert differences(STATE) == []
    assert differences({**STATE, "status": "past_due"}) == [("status", "active", "past_due")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("plan", value) for value in ("pro", " PRO ", "professional", {"key": "pro"}, {"name": "Professional"})),
        *(("status", value) for value in ("active", "ACTIVE ")),
        *(("features.sso", value) for value in (True, 1, "yes", "On", "true", {"enabled": True})),
        *(("features.audit", value) for value in (False, 0, "no", "OFF", "false")),
        *(("limits.seats", value) for value in (12, 12.0, "12", "12.0", {"limit": 12})),
        *(("limits.projects", value) for value in ("unlimited", -1, "-1", "Infinity")),
        *(("limits.unknown", value) for value in (0, "0")),
        *(("modules.billing", value) for value in ("write", "Edit")),
        *(("modules.other", value) for value in ("none", False)),
        ("features", ["export", "sso"]),
        ("features", "sso, export"),
        ("features", [{"key": "sso"}, {"key": "export"}]),
        ("features", {"sso": "yes"}),
        ("limits", {"seats": "12"}),
        ("modules", {"billing": "write", "other": None}),
        *(
            ("period.ends_at", value)
            for value in ("2026-12-01T01:00:00+01:00", "2026-12-01", 1796083200, "1796083200000")
        ),
        ("apps.crm.plan", "Free"),
        ("apps.crm.limits.seats", 2),
    ],
)
def test_the_same_in_other_words_is_no_difference(field: str, value: Any) -> None:
    assert one(field, value) == []


@pytest.mark.parametrize(
    ("field", "value", "here", "there"),
    [
        ("plan", "gold", "pro", "gold"),
        ("features.sso", False, True, False),
        ("limits.seats", 13, 12, 13),
        ("limits.seats", True, 12, True),
        ("limits.seats", 12.5, 12, 12.5),
        ("limits.unknown", 3, 0, 3),
        ("modules.billing", "read", "write", "read"),
        ("modules.billing", "none", "write", "none"),
        ("period.ends_at", "2026-12-02", "2026-12-01T00:00:00Z", "2026-12-02T00:00:00Z"),
        ("trial_ends_at", "soon", None, "soon"),
        ("trial_ends_at", True, None, True),
        ("trial_ends_at", -60, None, -60),
        ("status", 7, "active", 7),
    ],
)
def test_what_differs_is_shown_in_our_words_or_as_it_is(field: str, value: Any, here: Any, there: Any) -> None:
    assert one(field, value) == [(field, here, there)]


def test_a_list_of_features_says_that_the_others_are_not_granted_and_an_object_does_not() -> None:
    assert one("features", ["sso"]) == [("features.export", True, False)]
    assert one("features", {"sso": True}) == []
    assert one("features", ["sso"], '[shadow]\nignore = ["features.export"]') == []


def test_declared_words_come_before_all_others() -> None:
    words = '[shadow.values]\nplan = { Gold = "pro" }\nfeatures = { single = "sso" }\n"limits.seats" = { many = 12 }'
    assert one("plan", "gold", words) == []
    assert one("features", ["single", "export"], words) == []
    assert one("limits.seats", "many", words) == []


def test_what_they_do_not_have_is_not_compared() -> None:
    for answer in ({}, {"a": None}, {"a": {"b": None}}, {"a": 7}, {"a": [1]}):
        assert differences(answer, '[shadow.fields]\nplan = "a.b"') == []


def test_paths_go_through_lists_and_names_with_dots() -> None:
    answer = {"items": [{"plan": "free"}, {"plan": "pro"}], "quota.seats": 12}
    assert differences(answer, '[shadow.fields]\nplan = "items.1.plan"\n"limits.seats" = "quota.seats"') == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(answer=st.dictionaries(st.sampled_from(sorted([*STATE, "trial_ends_at", "grace_ends_at"])), JSON))
def test_no_answer_whatever_it_is_makes_it_fail(answer: dict[str, Any]) -> None:
    found = differences(answer)
    assert all((here, type(here)) != (there, type(there)) for _, here, there in found)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('[shadow.fields]\nprice = "a"', "shadow.fields.price is no field of a state"),
        ('[shadow.fields]\nplan = ""', "shadow.fields.plan must be a path"),
        ("[shadow]\nfield = 1", "shadow.field is not known here"),
    ],
)
def test_a_wrong_mapping_is_named_with_its_line(table: str, problem: str) -> None:
    with pytest.raises(catalogs.CatalogError, match=problem):
        catalogs.parse(CATALOG + table)
