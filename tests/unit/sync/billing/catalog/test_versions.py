"""Versions of plans are read whole; what cannot be told apart or bought is refused with its line."""

from __future__ import annotations

import pytest

from sync.billing.catalog.catalog import CatalogError, parse
from sync.core import instants

HEAD = """\
[plans.free]
name = "Free"
rank = 0
default = true

[plans.pro]
name = "Pro"
rank = 20
version = "2027"
features = ["sso"]
limits = { seats = 5 }
prices.paddle.live = ["pri_1"]

[[plans.pro.versions]]
version = "2026"
until = 2027-01-01T00:00:00Z
limits = { seats = 10 }
"""
FOUNDERS = """
[[plans.pro.versions]]
version = "founders"
features = []
prices.paddle.live = ["pri_2"]
products.stripe.live = ["prod_2"]
"""


def test_a_version_is_the_plan_with_other_terms() -> None:
    catalog = parse(HEAD + FOUNDERS)
    versions = catalog.versions["pro"]
    assert list(versions.by_name) == ["2027", "2026", "founders"]
    old, founders = versions.by_name["2026"], versions.by_name["founders"]
    assert (old.key, old.name, old.rank, old.features, old.limits) == ("pro", "Pro", 20, ("sso",), {"seats": 10})
    assert (founders.features, founders.limits) == ((), {"seats": 5})
    assert catalog.find("paddle", "live", "pri_1") is catalog.plans["pro"] is versions.by_name["2027"]
    assert catalog.find("paddle", "live", "pri_2") is founders
    assert catalog.find("stripe", "live", "price_x", "", "prod_2") is founders


def test_the_first_end_after_the_purchase_counts_and_a_price_of_a_version_on_every_day() -> None:
    earlier = '[[plans.pro.versions]]\nversion = "2025"\nuntil = "2026-01-01T01:00:00+01:00"\n'
    catalog = parse(HEAD + FOUNDERS + earlier)
    versions, pro = catalog.versions["pro"], catalog.plans["pro"]
    days = {"2025-12-31T23:59:59Z": "2025", "2026-01-01T00:00:00Z": "2026", "2027-01-01T00:00:00Z": "2027"}
    for day, name in days.items():
        assert versions.bought(pro, instants.parse(day)).version == name
        assert versions.bought(versions.by_name["founders"], instants.parse(day)).version == "founders"


def test_a_plan_without_versions_is_as_it_was() -> None:
    catalog = parse(HEAD[: HEAD.index("[[plans")])
    assert catalog.versions == {}
    assert catalog.plans["free"].version == "current"


@pytest.mark.parametrize(
    ("more", "line", "problem"),
    [
        ("[[plans.pro.versions]]\nuntil = 2026-01-01T00:00:00Z", 19, "plans.pro.versions[1] needs a version"),
        ('[[plans.pro.versions]]\nversion = "x"', 19, "plans.pro.versions[1] needs until (who bought the plan before"),
        ('[[plans.pro.versions]]\nversion = "2026"', 20, "plans.pro.versions[1].version is '2026', the name of anoth"),
        ('[[plans.pro.versions]]\nversion = "2027"', 20, "plans.pro.versions[1].version is '2027', the name of anoth"),
        (
            '[[plans.pro.versions]]\nversion = "x"\nuntil = 2027-01-01T01:00:00+01:00',
            21,
            "plans.pro.versions[1].until is the until of version '2026' too",
        ),
        ('[[plans.pro.versions]]\nversion = "x"\nuntil = 2027-01-01', 21, "until must be an instant with its offset"),
        ('[[plans.pro.versions]]\nversion = "x"\nuntil = 2027-01-01T00:00:00', 21, "must be an instant with its off"),
        ('[[plans.pro.versions]]\nversion = "a b"\nuntil = 2026-01-01T00:00:00Z', 20, "version must be a name such as"),
        ('[[plans.pro.versions]]\nversion = "x"\nrank = 1', 21, "plans.pro.versions[1].rank is not known here: expec"),
        ('[[plans.pro.versions]]\nversion = "x"\nlimits = { seats = -1 }', 21, "plans.pro.versions[1].limits.seats mu"),
        (
            '[[plans.pro.versions]]\nversion = "x"\n\nprices.paddle.live = [\n  "pri_1",\n]',
            23,
            "plans.pro.versions[1].prices.paddle.live has 'pri_1', which plans.pro.prices.paddle.live has already",
        ),
        ('[[plans.pro.versions]]\nversion = "x"\n[plans.pro.versions.prices.nobody]\nlive = ["p"]', 21, "is not known"),
        (
            '[plans.basic]\nname = "Basic"\nrank = 1\nversions = 3',
            22,
            "plans.basic.versions must be tables: write [[pl",
        ),
        ('[addons.audit]\nname = "Audit"\nversions = []', 21, "addons.audit.versions is not known here"),
    ],
)
def test_errors_name_the_line_and_what_to_do(more: str, line: int, problem: str) -> None:
    with pytest.raises(CatalogError) as error:
        parse(f"{HEAD}\n{more}\n", "c.toml", ["paddle", "stripe"])
    assert str(error.value).startswith(f"c.toml:{line}: ")
    assert problem in str(error.value)
