"""Makes every fault once, in an order given by the seed, on one system that keeps publishing; then judges the history.

`make soak` does the same for a given time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sync.store.redis.connect import SOCKET_TIMEOUT_S
from tests.faults.clock import LACKING, library
from tests.faults.faults import FAULTS, possible
from tests.faults.history import Claimed, Lost, Shown, Told
from tests.faults.rig import run_rig
from tests.support.servers import missing

pytestmark = pytest.mark.slow

CONVERGE_S = SOCKET_TIMEOUT_S + 2.0
"""Bounds for a loaded machine; a dead connection without a close is dropped after the first of the two.

docs/reliability.md has the figures of an idle machine.
"""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1])
async def test_nothing_stale_nothing_lost(tmp_path: Path, seed: int) -> None:
    async with run_rig(tmp_path, seed=seed) as rig:
        names = possible("valkey")
        rig.chance.shuffle(names)
        for name in names:
            await FAULTS[name](rig)
            await rig.settle(CONVERGE_S)
            found = rig.violations(CONVERGE_S)
            assert not found, f"seed {seed}, after {name}: " + "; ".join(found[:5])
    shown = [fact for fact in rig.history if isinstance(fact, Shown)]
    told = [fact for fact in rig.history if isinstance(fact, Told)]
    # The history contains facts of each kind that is judged.
    assert len(shown) > 1000
    assert {fact.fresh for fact in told} == {True, False}
    assert sum(isinstance(fact, Claimed) and fact.version > 0 for fact in rig.history) > len(names)


@pytest.mark.timeout(240)
async def test_with_a_durable_store_what_was_answered_outlives_everything(tmp_path: Path) -> None:
    async with run_rig(tmp_path, seed=2, durable=True) as rig:
        for name in ("everything_killed", "replica_stopped", "everything_killed"):
            await FAULTS[name](rig)
            await rig.settle(CONVERGE_S)
            found = rig.violations(CONVERGE_S)
            assert not found, f"after {name}: " + "; ".join(found[:5])
    assert not [fact for fact in rig.history if isinstance(fact, Lost)]


def test_the_clock_of_the_store_can_be_set_here() -> None:
    """Without libfaketime the clock faults are skipped; this test reports that."""
    if library("valkey") is None:
        missing(LACKING)
