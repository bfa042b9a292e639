"""The build that landed before this one: its files, and its processes beside ours.

`COMMIT` names it; it moves on with each release. `PLANWIRE_EARLIER` names another, a commit or a directory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from tests.support.processes import ROOT
from tests.support.servers import missing

COMMIT = "b71a02931beac0943197dff8112f6e372dae774c"
"""The last commit before the store's format had a marker."""

PARTS = ("gateway", "sync", "clients", "docs")


@dataclass(frozen=True)
class Build:
    """One build's files in a directory of its own."""

    root: Path

    @property
    def environ(self) -> dict[str, str]:
        """What has Python find this build's modules, and no other's."""
        return {"PYTHONPATH": os.pathsep.join([str(self.root), str(self.root / "clients" / "python")])}

    def run(self, code: str, *arguments: str, timeout_s: float = 60) -> str:
        """Return what a program prints that runs with this build's modules."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, **self.environ},
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout


THIS = Build(ROOT)


def earlier_build(directory: Path) -> Build:
    """Return the earlier build, unpacked into `directory`; without git or its history the test is skipped (failed
    under CI)."""
    named = os.environ.get("PLANWIRE_EARLIER") or COMMIT
    if Path(named).is_dir():
        return Build(Path(named))
    try:
        archive = subprocess.run(
            ["git", "archive", "--format=tar", named, "--", *PARTS], cwd=ROOT, capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        missing(f"the earlier build {named[:12]} cannot be had from git: {getattr(error, 'stderr', b'') or error!r}")
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(directory, filter="data")
    return Build(directory)
