"""docs/integrate.md as a reader would follow it: every shell block, in one session, with the output it promises."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gateway import PUBLISH_KEY, SECRET, environment, run_gateway
from tests.support.postgres import start_postgres
from tests.support.processes import clean_environ
from tests.support.servers import free_port, missing

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "integrate.md"
SETTLE_S = 120


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def script() -> str:
    """All shell blocks as one session, each after the first announced on standard output."""
    parts = ["set -euo pipefail -m", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    parts += [f"echo '=== {n}'\n{text}" for n, (language, text) in enumerate(blocks()) if language == "sh"]
    return "\n".join(parts)


def test_every_block_is_run_or_is_what_one_prints() -> None:
    # The verifier in Python stands in front of a real backend in test_source.py.
    kinds = [language for language, _ in blocks() if language != "python"]
    assert set(kinds) == {"sh", "text"}
    for before, after in itertools.pairwise(kinds):
        assert (before, after) != ("text", "text"), "an output belongs to a command"


@pytest.mark.timeout(SETTLE_S + 30)
async def test_the_page_works_as_it_stands(store_url: str, tmp_path: Path) -> None:
    for program in ("bash", "curl", "psql"):
        if shutil.which(program) is None:
            missing(f"{program} is not on PATH")
    if importlib.util.find_spec("hatchling") is None:
        missing("hatchling, which builds the client, is not installed")
    home = tmp_path / "planwire"
    (home / ".planwire").mkdir(parents=True)
    for name in ("clients", "sync", "gateway", "pyproject.toml"):
        (home / name).symlink_to(ROOT / name)
    # The interpreter that runs the tests stands for the checkout's and for the reader's.
    for folder in (home / ".venv" / "bin", tmp_path / "bin"):
        folder.mkdir(parents=True)
        (folder / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        (folder / "python").chmod(0o755)
    (home / ".planwire" / "dev.env").write_text(
        f"PLANWIRE_JWT_SECRET={SECRET}\nPLANWIRE_PUBLISH_KEY={PUBLISH_KEY}\nPLANWIRE_REDIS_URL={store_url}\n"
    )
    work = tmp_path / "work"
    work.mkdir()
    environ = clean_environ(home / ".planwire", CHECKOUT=str(home), APP_PORT=str(free_port()))
    environ["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{environ['PATH']}"
    environ["PYTHONPATH"] = f"{work}{os.pathsep}{ROOT / 'clients' / 'python'}"
    # Everything it installs is here already: pip builds the client, resolves against that, and stops there.
    environ |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DRY_RUN": "1"}
    with start_postgres() as postgres, postgres.database() as database:
        async with run_gateway(environment(store_url)) as running:
            environ |= {"PORT": str(running.port), "DATABASE_URL": database}
            done = await asyncio.to_thread(
                subprocess.run,
                ["bash", "-c", script()],
                cwd=work,
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SETTLE_S,
            )
    logs = "".join(f"\n{path.name}:\n{path.read_text()[-1500:]}" for path in work.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    printed = dict(zip(*[iter(re.split(r"^=== (\d+)\n", done.stdout, flags=re.MULTILINE)[1:])] * 2, strict=True))
    for number, (language, text) in enumerate(blocks()):
        if language == "text":
            assert printed[str(number - 1)] == text
