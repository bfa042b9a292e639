"""What installing relies on: Procfiles that name what exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "processes"), [("Procfile", ["web", "worker"]), ("Procfile.dev", ["store", "web", "worker", "simulator"])]
)
def test_procfile_names_modules_that_exist(name: str, processes: list[str]) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if line]
    assert [line.partition(":")[0] for line in lines] == processes
    for line in lines:
        module = re.search(r"python -m ([\w.]+)$", line)
        assert module, line
        assert importlib.util.find_spec(module[1]), line
