"""Both distributions install from a wheel, from a source distribution and for editing: alone, and beside each other."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.slow

PROJECTS = {"planwire": ROOT, "planwire-client": ROOT / "clients" / "python"}
TIMEOUT_S = 120

USE_CLIENT = """
import planwire_client
from planwire_client import Publisher, Replica, outbox, store
from planwire_client.core import commit
assert commit.LUA.startswith("-- Commit one change")
print(planwire_client.__version__, planwire_client.__file__)
"""
USE_SERVER = """
import gateway.app, gateway.api.routes, gateway.cli, sync.worker
from sync.store.store import Store
assert (gateway.api.routes.FOLDER / "openapi.json").is_file()
"""


def run(*command: str | Path, cwd: Path) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def built(project: Path, target: Path, kind: str) -> Path:
    """Build a wheel as pip would, from the project's folder or from its source distribution; return its path."""
    hook = "from hatchling import build; print(build.build_{}({!r}))"
    if kind == "sdist":
        name = run(sys.executable, "-c", hook.format("sdist", str(target)), cwd=project).splitlines()[-1]
        with tarfile.open(target / name) as archive:
            archive.extractall(target, filter="data")
        project = target / name.removesuffix(".tar.gz")
    made = hook.format("editable" if kind == "editable" else "wheel", str(target))
    return target / run(sys.executable, "-c", made, cwd=project).splitlines()[-1]


class Environment:
    """A virtual environment that finds what Planwire needs where this Python has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=ROOT)

    def pip(self, *arguments: str | Path) -> None:
        """Run pip on the environment alone: without what `borrow` adds."""
        (libraries,) = self.folder.glob("lib/python*/site-packages")
        (libraries / "borrowed.pth").unlink(missing_ok=True)
        pip = (sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "--no-input")
        run(*pip, "--python", self.bin / "python", *arguments, cwd=self.folder)
        (libraries / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def use(self, code: str) -> str:
        """Return what `code` prints; run from a folder that has no packages of ours."""
        return run(self.bin / "python", "-I", "-c", code, cwd=self.folder)


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_each_alone_and_both_together(tmp_path: Path, kind: str) -> None:
    wheels = {}
    for name, project in PROJECTS.items():
        (tmp_path / name).mkdir()
        wheels[name] = built(project, tmp_path / name, kind)
    home = str(ROOT) if kind == "editable" else str(tmp_path / "venv")

    one = Environment(tmp_path / "venv")
    one.pip("install", "--no-index", "--no-deps", wheels["planwire-client"])
    version, _, where = one.use(USE_CLIENT).partition(" ")
    assert where.startswith(home)

    one.pip("install", "--no-index", "--no-deps", wheels["planwire"])
    assert run(one.bin / "planwire", "--version", cwd=tmp_path) == f"planwire {version}"
    assert one.use(USE_SERVER + USE_CLIENT).endswith(where)

    one.pip("uninstall", "--yes", "planwire-client")
    one.pip("install", "--no-index", "--no-deps", "--force-reinstall", wheels["planwire"])
    assert run(one.bin / "planwire", "--version", cwd=tmp_path) == f"planwire {version}"
    assert one.use(USE_SERVER + USE_CLIENT).endswith(where)
