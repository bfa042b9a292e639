"""The rules of the protocol, as a model that is searched in full; and that each rule is needed.

`docs/model/planwire.pml` says what is claimed. Spin makes a program of it that visits every reachable state.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.servers import missing

pytestmark = pytest.mark.slow

MODEL = Path(__file__).parents[2] / "docs" / "model" / "planwire.pml"

NEVER_BACK, CONVERGES = "assertion violated", "acceptance cycle"
"""What the search says of a claim that fails."""


@pytest.fixture(autouse=True)
def tools() -> None:
    for name, package in (("spin", "spin"), ("cc", "gcc")):
        if shutil.which(name) is None:
            missing(f"{name} is missing, the model is not searched (Debian: apt-get install {package})")


def search(folder: Path, *defines: str) -> str:
    """Return what the search of the model with these definitions prints."""
    flags = [f"-D{define}" for define in defines]
    made = subprocess.run(["spin", *flags, "-a", str(MODEL)], cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    # -w: what spin generates is not ours to mend. DEPTH beyond any path, so that nothing is cut off unseen.
    subprocess.run(["cc", "-O2", "-w", "-DCOLLAPSE", "-DMEMLIM=4000", "-o", "pan", "pan.c"], cwd=folder, check=True)
    return subprocess.run(["./pan", "-a", "-m100000"], cwd=folder, capture_output=True, text=True, check=True).stdout


def verdict(printed: str) -> tuple[int, str]:
    """Return how many errors there were, and which claim failed first."""
    errors = re.search(r"errors: (\d+)", printed)
    assert errors is not None, printed
    assert "max search depth too small" not in printed
    assert "out of memory" not in printed
    return int(errors[1]), next((claim for claim in (NEVER_BACK, CONVERGES) if f"pan:1: {claim}" in printed), "")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "defines",
    [
        pytest.param((), id="losses, cuts, kills, moves"),
        pytest.param(("EXACT",), id="without the sweep, where nothing is lost"),
        pytest.param(("EXACT", "COMMITS=3"), id="the same, for longer"),
    ],
)
def test_both_claims_hold_in_every_reachable_state(tmp_path: Path, defines: tuple[str, ...]) -> None:
    printed = search(tmp_path, *defines)
    assert verdict(printed) == (0, "")
    stored = re.search(r"([\d.e+]+) states, stored", printed)
    assert stored is not None
    assert float(stored[1]) > 50_000, "so few states: a guard is never true"


@pytest.mark.parametrize(
    ("defines", "claim"),
    [
        pytest.param(("READ_FIRST", "EXACT"), CONVERGES, id="read, then subscribe"),
        pytest.param(("NO_SWEEP",), CONVERGES, id="no sweep"),
        pytest.param(("NO_RESET",), CONVERGES, id="no reset"),
        pytest.param(("NO_RESTORE",), CONVERGES, id="nobody puts back what the store lost"),
        pytest.param(("GATEWAY_VERSIONS",), CONVERGES, id="versions from the gateways"),
        pytest.param(("ANY_ORDER",), NEVER_BACK, id="versions are not compared"),
        pytest.param(("NO_REREAD", "LOSSES=0", "CUTS=0"), NEVER_BACK, id="reset without asking the store again"),
    ],
)
def test_without_one_of_its_rules_a_claim_fails(tmp_path: Path, defines: tuple[str, ...], claim: str) -> None:
    assert verdict(search(tmp_path, *defines)) == (1, claim)
