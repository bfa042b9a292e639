"""docs/scaling.md says what the model says, and the model behaves like one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scaling import Costs, Load, Policy, need, page, spread, storm

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def test_the_page_has_the_tables_of_the_script() -> None:
    made = re.search(r"<!-- made by python -m benchmarks\.scaling -->\n(.*)\n<!-- end -->", PAGE.read_text(), re.S)
    assert made is not None
    assert made[1] == page(), "run python -m benchmarks.scaling, and put what it prints between the marks"


def test_the_page_names_the_constants_of_the_script() -> None:
    costs, text = Costs(), PAGE.read_text()
    assert f"{costs.delivery_us}, {costs.ack_us}, {costs.connect_us:.0f} us" in text
    assert f"{costs.socket_kib} KiB, {costs.idle_us_per_s} us a second" in text
    assert f"{costs.sweep_us} us of a gateway" in text
    assert f"{costs.commit_us:.0f}, {costs.version_read_us:.1f}, {costs.announcement_us} us" in text


@pytest.mark.parametrize("field", ["tabs", "changes_per_tenant_per_day", "topics_per_tab", "opens_per_tab_per_hour"])
def test_more_of_anything_never_needs_less(field: str) -> None:
    load, costs, policy = Load(5_000_000), Costs(), Policy()
    more = replace(load, **{field: getattr(load, field) * 3})
    before, after = need(load, costs, policy), need(more, costs, policy)
    assert after.gateways >= before.gateways
    assert after.store_cores > before.store_cores


def test_a_tenant_is_on_no_more_gateways_than_it_has_tabs() -> None:
    assert spread(5, 1) == 1
    assert 4.9 < spread(5, 10_000) < 5
    assert spread(5, 3) < 3


def test_a_storm_lasts_at_least_as_long_as_its_connects_take_and_less_with_more_hands() -> None:
    half, nearly = storm(20_000, 4000, 2.0)
    assert nearly >= 20_000 * 0.99 / 4000
    assert half < nearly
    assert storm(20_000, 40_000, 2.0)[1] < nearly
    assert storm(20_000, 4000, 2.0) == (half, nearly)
