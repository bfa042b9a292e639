"""docs/scaling.md says what the model says, and the model behaves like one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scaling import Costs, Load, Policy, need, page, spread, storm

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "scaling.md"
MEASURED = (DOCS / "performance.md").read_text()

DRIFT = 1 / 3
"""Of the machine between two measurements; the constants need not follow that."""

IDLE_SOCKETS = 5000
"""What `python -m benchmarks.idle` holds unless it is told otherwise."""


def figures(*cells: str) -> list[float]:
    """Return the numbers of the first row of docs/performance.md that begins with `cells`."""
    head = r"\s*\|\s*".join(map(re.escape, cells))
    row = re.search(rf"(?m)^\|\s*{head}\s*\|(.*)\|$", MEASURED)
    assert row is not None, cells
    return [float(cell.strip().rstrip("%").replace(",", "")) for cell in row[1].split("|")]


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


def test_the_constants_are_what_was_measured_give_or_take_what_a_machine_drifts() -> None:
    costs = Costs()
    delivery = figures("600 B, full rate", "planwire")[0]
    idle = re.search(
        r"(?m)^\| planwire \| +([\d.]+) +\| +[\d.]+ +\| +[\d,]+ +\| +([\d.]+) +\| +[\d,]+ +\| +([\d.]+) +\|$", MEASURED
    )
    assert idle is not None
    socket_kib, connect_us, percent = map(float, idle.groups())
    for assumed, measured in (
        (costs.delivery_us, delivery),
        (costs.socket_kib, socket_kib),
        (costs.connect_us, connect_us),
        (costs.idle_us_per_s, percent / 100 * 1e6 / IDLE_SOCKETS),
    ):
        assert assumed == pytest.approx(measured, rel=DRIFT)


def test_every_gateway_proves_every_shard() -> None:
    load, costs, policy = Load(100_000_000), Costs(), Policy()
    what = need(load, costs, policy)
    assert what.probes_per_s == what.gateways / load.probe_s * what.shards
    seldom = need(replace(load, probe_s=1e9), costs, policy)
    spent = what.store_cores - seldom.store_cores
    assert spent == pytest.approx(what.probes_per_s * (costs.commit_us + costs.announcement_us) / 1e6)
    assert what.store_cores <= what.shards * policy.core
    with pytest.raises(ValueError, match="probe less often"):
        need(replace(load, tabs=2_000_000_000), costs, policy)


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
