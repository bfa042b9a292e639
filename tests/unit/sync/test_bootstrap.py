"""What the composition root builds, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["sync.worker", "sync.bootstrap", "sync.billing.services.background.backfill"])
def test_background_work_loads_no_http_server(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{'starlette', 'uvicorn'}} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""
