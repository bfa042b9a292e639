"""Who gains and who loses by an edit of the catalog, from the two files alone."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sync.billing.catalog.catalog import Catalog, parse
from sync.billing.catalog.difference import IGNORED, RULES, Affected, affected, compared, granted, version_block
from sync.core import instants

NOW_NS = instants.parse("2027-01-01T00:00:00Z")
FREE = '[plans.free]\nname = "Free"\nrank = 0\ndefault = true\nlimits = { projects = 3 }\n'
PRO = """
[plans.pro]
name = "Pro"
rank = 20
features = ["sso", "export"]
limits = { seats = 10, projects = "unlimited" }
per_unit.limits = { seats = 1 }
modules = { billing = "write" }
prices.paddle.live = ["pri_1", "pri_2"]
products.stripe.live = ["prod_1"]
"""
CUT = """
[plans.pro]
name = "Pro+"
rank = 20
features = ["sso", "ai"]
limits = { seats = 5, projects = "unlimited", runs = 1 }
modules = { billing = "admin", crm = "read" }
prices.paddle.live = ["pri_1", "pri_2"]
products.stripe.live = ["prod_1"]
"""
AUDIT = '[addons.audit]\nname = "Audit"\nfeatures = ["audit"]\nprices.paddle.live = ["pri_a"]\n'
OLD = parse(FREE + PRO + AUDIT)


def found(new: Catalog, old: Catalog = OLD) -> dict[tuple[str, str, str], Affected]:
    rows = [row for row in affected(old, new, NOW_NS) if row.difference.is_any or not row.becomes]
    return {(row.who, row.offer, row.version): row for row in rows}


def test_an_edit_for_everybody_is_listed_for_new_and_for_existing_customers() -> None:
    rows = found(parse(FREE + CUT + AUDIT))
    assert set(rows) == {("existing", "pro", ""), ("new", "pro", "")}
    row = rows["existing", "pro", ""]
    assert row.difference.gains == [
        *("feature ai", "limit runs: none -> 1", "module billing: write -> admin", "module crm: none -> read"),
    ]
    assert row.difference.loses == ["feature export", "limit seats: 10 -> 5", "limit per unit seats: 1 -> none"]
    assert row.difference.renames == ["name: Pro -> Pro+"]
    assert row.ids == ("pri_1", "pri_2", "prod_1")


def test_with_the_lines_that_it_prints_only_new_customers_are_affected() -> None:
    new = parse(FREE + CUT + version_block(OLD.plans["pro"], "2026", NOW_NS) + "\n" + AUDIT)
    assert set(found(new)) == {("new", "pro", "")}
    # The next edit, of the default plan and of the earlier version.
    again = found(parse(FREE.replace("3", "1") + CUT + AUDIT), new)
    without = {("without", "free", ""), ("new", "free", "")}
    assert set(again) == {*without, ("existing", "pro", "2026"), (RULES, "plans.pro", "")}
    assert again["existing", "pro", "2026"].becomes == "pro"


def test_what_the_catalog_loses_is_named() -> None:
    rows = found(parse(FREE + PRO.replace('"pri_1", ', "")))
    assert (rows["existing", "pro", ""].ids, rows["existing", "pro", ""].becomes) == (("pri_1",), "")
    assert rows["new", "audit", ""].difference.loses == ["feature audit"]
    assert rows["existing", "audit", ""].becomes == ""


def test_a_price_that_moves_to_another_plan_is_listed() -> None:
    basic = '[plans.basic]\nname = "Basic"\nrank = 10\nprices.paddle.live = ["pri_2"]\n'
    row = found(parse(FREE + PRO.replace(', "pri_2"', "") + basic + AUDIT))["existing", "pro", ""]
    assert (row.becomes, row.ids) == ("basic", ("pri_2",))
    assert "feature sso" in row.difference.loses


def test_a_price_that_the_edit_ignores_is_lost_to_other_software() -> None:
    row = found(parse(FREE + PRO.replace(', "pri_2"', "") + AUDIT + '[ignore]\nprices.paddle.live = ["pri_2"]\n'))
    assert row["existing", "pro", ""].becomes == IGNORED
    assert "feature sso" in row["existing", "pro", ""].difference.loses


LIFETIME = '[plans.life]\nname = "Life"\nrank = 30\nprices.paddle.live = ["pri_l"]\n'


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", '[policy]\ngrace = "36h"\n', ("policy", "grace: 7d -> 36h")),
        ("", '[policy]\nrefund = "revoke"\n', ("policy", "refund: keep -> revoke")),
        ("", '[policy]\nsecond_customer = "park"\n', ("policy", "second_customer: accept -> park")),
        ("", '[policy]\noverdue = { trial = "apply" }\n', ("policy", "overdue.trial: hold -> apply")),
        ('[policy]\ncombine = "sum"\n', "", ("policy", "combine.*: sum -> max")),
        ("", '[policy]\ncombine = { seats = "sum" }\n', ("policy", "combine.seats: max -> sum")),
        ("", "[shadow]\n", ("shadow", "on: false -> true")),
        (LIFETIME, LIFETIME.replace("30", "5"), ("plans.life", "rank: 30 -> 5")),
        (LIFETIME + "purchase = true\n", LIFETIME, ("plans.life", "purchase: true -> false")),
        (LIFETIME + "purchase = true\n", LIFETIME + 'purchase = true\nexpires = "90m"\n', None),
    ],
)
def test_a_rule_for_all_tenants_is_listed(before: str, after: str, expected: tuple[str, str] | None) -> None:
    """A sale that is for a time from now on is shorter for those who have bought before, too."""
    rows = [row for row in found(parse(FREE + PRO + after), parse(FREE + PRO + before)).values() if row.who == RULES]
    assert [(row.offer, row.difference.renames) for row in rows] == [
        (expected[0], [expected[1]]) if expected else ("plans.life", ["expires: never -> 90m"])
    ]


CREDITS = """
[plans.pro]
name = "Pro"
rank = 20
credits = { ai = 10 }
prices.paddle.live = ["pri_1"]
[meters.ai]
kind = "credits"
"""


def test_how_use_is_counted_and_credits_are_listed() -> None:
    old = parse(FREE + CREDITS)
    meter = 'overage = "soft"\nreset = "month"\nthresholds = [50]\n[meters.projects]\nkind = "allocated"\n'
    rows = found(parse(FREE + CREDITS.replace("10", "25") + meter), old)
    assert rows["existing", "pro", ""].difference == (["credits ai: 10 -> 25"], [], [])
    assert rows[RULES, "meters.ai", ""].difference.renames == [
        *("reset: period -> month", "overage: deny -> soft", "thresholds: 80, 100 -> 50"),
    ]
    assert rows[RULES, "meters.projects", ""].difference.renames == ["kind: none -> allocated"]
    gone = found(parse(FREE + CREDITS.partition("[meters")[0].replace("credits = { ai = 10 }", "")), old)
    assert gone[RULES, "meters.ai", ""].difference.renames == ["kind: credits -> none"]
    assert gone["new", "pro", ""].difference.loses == ["credits ai: 10 -> none"]


def test_the_lines_keep_that_a_plan_gives_no_credits() -> None:
    plan = parse(FREE + PRO).plans["pro"]
    edited = FREE + CREDITS.partition("[meters")[0]
    text = edited + version_block(plan, "2026", NOW_NS) + "\n[meters.ai]\nkind = 'credits'\n"
    kept = parse(text).versions["pro"].by_name["2026"]
    assert not kept.credits


def test_applications_are_compared_by_themselves() -> None:
    """Whose default plan it is, and which one leads."""
    mail = 'app = "crm"\n[plans.tickets]\nname = "Tickets"\nrank = 9\napp = "mail"\nlimits = { tickets = 7 }\n'
    default = '[plans.start]\nname = "Start"\nrank = 0\ndefault = true\napp = "mail"\nlimits = { tickets = 1 }\n'
    old = parse('[policy]\napp = "crm"\n' + FREE + PRO + mail + default)
    new = parse('[policy]\napp = "mail"\n' + FREE + PRO + mail + default.replace("tickets = 1", "tickets = 2"))
    rows = found(new, old)
    assert rows[RULES, "policy", ""].difference.renames == ["app: crm -> mail"]
    one = parse('[policy]\napp = "crm"\n' + FREE + PRO + 'app = "crm"\n')
    assert found(one, old)[RULES, "policy", ""].difference.renames == ["applications: crm, mail -> crm"]
    assert found(old, one)[RULES, "policy", ""].difference.renames == ["applications: crm -> crm, mail"]


VERSIONS = """
[[plans.pro.versions]]
version = "2026"
until = 2026-06-01T00:00:00Z
limits = { seats = 20 }
[[plans.pro.versions]]
version = "founders"
limits = { seats = 100 }
prices.paddle.live = ["pri_f"]
"""


def test_a_version_that_is_gone_is_named_for_those_who_were_moved_to_it() -> None:
    old = parse(FREE + PRO + VERSIONS)
    renamed = found(parse(FREE + PRO + VERSIONS.replace('"2026"', '"old"')), old)
    assert [(row.offer, row.difference.renames) for row in renamed.values()] == [
        ("plans.pro", ["version 2026: gone, so who was moved to it has what it bought"])
    ]


def test_each_price_is_named_once() -> None:
    """Also if it can have bought several versions."""
    old = parse(FREE + PRO + VERSIONS)
    rows = found(parse(FREE + PRO + VERSIONS[: VERSIONS.index('[[plans.pro.versions]]\nversion = "founders"')]), old)
    assert rows["existing", "pro", "founders"].ids == ("pri_f",)


def test_no_edit_is_no_difference() -> None:
    assert found(OLD) == {}


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(st.dictionaries(NAMES, st.integers(0, 9)), st.lists(NAMES, unique=True), NAMES)
def test_the_lines_mean_the_same_terms_whatever_they_are_called(
    limits: dict[str, int], features: list[str], name: str
) -> None:
    plan = OLD.plans["pro"].model_copy(update={"limits": limits, "features": tuple(features), "name": f"x{name}"})
    text = FREE + CUT + version_block(plan, "2026", NOW_NS)
    kept = parse(text).versions["pro"].by_name["2026"]
    assert not compared(granted(plan), granted(kept)).is_any


@pytest.mark.parametrize("expires", ["never", "365d", "36h"])
def test_the_lines_keep_until_when_a_purchase_lasts(expires: str) -> None:
    sold = '\n[plans.once]\nname = "Once"\nrank = 30\npurchase = true\nprices.paddle.live = ["pri_once"]\nexpires = '
    plan = parse(f'{FREE}{sold}"{expires}"\n').plans["once"]
    kept = parse(f'{FREE}{sold}"30d"\n{version_block(plan, "2026", NOW_NS)}\n').versions["once"].by_name["2026"]
    assert kept.expires_ns == plan.expires_ns
