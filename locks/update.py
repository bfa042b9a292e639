"""`make lock`: writes all locks anew, and checks that what they name can be had for every platform that is promised.

Versions that still fit stay as they are; `--upgrade` takes the newest of all, `--upgrade-package NAME` of one. The
versions and hashes come from the package indexes that pip's and npm's own settings, or uv's, name.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from locks.lockfile import NPM_FOLDERS, PYTHON_LOCKS, ROOT, Lock, read

UV = ROOT / ".tools" / "supply" / "bin" / "uv"
OLDEST_PYTHON = "3.11"
PYTHONS = (OLDEST_PYTHON, "3.12", "3.13", "3.14")
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")


def compile_lock(lock: Lock, options: Sequence[str]) -> None:
    """Write one Python lock."""
    command = [str(UV), "pip", "compile", "--quiet", "--universal", "--python-version", OLDEST_PYTHON]
    command += ["--generate-hashes", "--custom-compile-command", "make lock", "--output-file", lock.path, *options]
    command += [word for extra in lock.extras for word in ("--extra", extra)]
    if lock.like is not None:
        command += ["--constraint", lock.like]
    if lock.wheels_stated:
        command += ["--only-binary", ":all:", "--emit-build-options"]
    subprocess.run([*command, lock.source], cwd=ROOT, check=True)
    print(f"{lock.path}: {len(read(ROOT / lock.path))} packages")


def check_wheels(lock: Lock) -> list[str]:
    """Return what cannot be installed from wheels alone, a line for each Python and platform."""
    lacking = []
    for python in PYTHONS:
        for platform in PLATFORMS:
            with tempfile.TemporaryDirectory() as target:
                command = [str(UV), "pip", "install", "--quiet", "--dry-run", "--target", target]
                command += ["--python-version", python, "--python-platform", platform]
                command += ["--require-hashes", "--only-binary", ":all:", "--requirement", lock.path]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                lacking.append(f"{lock.path}, Python {python}, {platform}: {done.stderr.strip()}")
    return lacking


def lock_npm(folder: str, upgrade: bool) -> None:
    """Write one package-lock.json, without addresses: npm asks the registry that it is set up with."""
    path = ROOT / folder / "package-lock.json"
    if upgrade:
        path.unlink(missing_ok=True)
    command = ["npm", "install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--loglevel=error"]
    subprocess.run(command, cwd=path.parent, check=True, stdout=subprocess.DEVNULL)
    document = json.loads(path.read_text("utf-8"))
    for package in document["packages"].values():
        # Funding links are of no use to an install; `resolved` is the address a file came from.
        for field in ("funding", "resolved"):
            package.pop(field, None)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(f"{folder}/package-lock.json: {len(document['packages']) - 1} packages")


def main() -> int:
    """Write all locks. Return 1 where a promised platform lacks a wheel."""
    parser = argparse.ArgumentParser(prog="make lock", description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest version of everything")
    parser.add_argument("--upgrade-package", action="append", default=[], metavar="NAME", help="of one Python package")
    options = parser.parse_args()
    passed = ["--upgrade"] if options.upgrade else []
    passed += [word for name in options.upgrade_package for word in ("--upgrade-package", name)]
    for lock in PYTHON_LOCKS:
        compile_lock(lock, passed)
    for folder in NPM_FOLDERS:
        lock_npm(folder, options.upgrade)
    lacking = [line for lock in PYTHON_LOCKS for line in check_wheels(lock)]
    print("\n".join(lacking), file=sys.stderr, end="\n" if lacking else "")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
