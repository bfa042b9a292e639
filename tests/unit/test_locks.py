"""The locks hold versions and hashes of everything, name no host, and are what every install goes by."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from locks.lockfile import DEV, NPM_FOLDERS, PYTHON_LOCKS, ROOT, Entry, Lock, read
from locks.update import PYTHONS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HASH = f"    --hash=sha256:{'0' * 64}"

INSTALLERS = [
    ROOT / "Makefile",
    ROOT / "Dockerfile",
    ROOT / ".ci" / "run",
    ROOT / "clients" / "js-snippet" / "README.md",
    ROOT / "docs" / "operations.md",
    *sorted((ROOT / "benchmarks").glob("*.py")),
    *sorted((ROOT / "locks").glob("*.[ps][yh]")),
    *sorted((ROOT / "tests").glob("**/test_interop.py")),
    ROOT / "tests" / "tools.sh",
]
"""Whatever calls pip or npm on Planwire's own account."""

each_python_lock = pytest.mark.parametrize("lock", PYTHON_LOCKS, ids=lambda lock: lock.path)
each_npm_folder = pytest.mark.parametrize("folder", NPM_FOLDERS)


def entries(lock: Lock) -> dict[str, Entry]:
    return read(ROOT / lock.path)


def asked_for(lock: Lock) -> list[Requirement]:
    """What the lock is made from, planwire's own extras replaced by what they stand for."""
    if lock.source != "pyproject.toml":
        lines = (ROOT / lock.source).read_text().splitlines()
        return [Requirement(line) for line in lines if not line.startswith("#")]
    project = PROJECT["project"]
    texts = list(project["dependencies"])
    extras = list(lock.extras)
    for extra in extras:
        for text in project["optional-dependencies"][extra]:
            wanted = Requirement(text)
            if wanted.name == "planwire":
                extras += wanted.extras - set(extras)
            else:
                texts.append(text)
    return [Requirement(text) for text in texts]


def closure(wanted: Iterable[Requirement]) -> set[str]:
    """The canonical names of all that `wanted` needs here, by the installed distributions' own word."""
    open_, seen = list(wanted), set[tuple[str, str]]()
    while open_:
        requirement = open_.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (requirement.marker and not requirement.marker.evaluate({"extra": ""})) or (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in metadata.requires(name) or ():
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    needed.marker = None
                    open_.append(needed)
    return {name for name, _ in seen}


@each_python_lock
def test_a_python_lock_holds_versions_and_hashes_and_no_host(lock: Lock) -> None:
    assert entries(lock)
    assert "://" not in (ROOT / lock.path).read_text()


@pytest.mark.parametrize(
    "text",
    [
        "click",
        "click>=8",
        "click==8.5.1",
        "click==8.5.1 \\",
        f"click==8.* \\\n{HASH}",
        f"click==8.5.1 \\\n{HASH} \\",
        "click==8.5.1 \\\n    --hash=md5:0123456789abcdef0123456789abcdef",
        f"click==8.5.1 \\\n{HASH[:-1]}",
        f"click==8.5.1 \\\n{HASH}\nClick==8.5.1 \\\n{HASH}",
        f"click @ https://files.example.com/click.whl \\\n{HASH}",
        f"-e . \\\n{HASH}",
        "--index-url https://pypi.example.com/simple",
        "--extra-index-url=https://pypi.example.com/simple",
        "--find-links wheels",
        "--trusted-host pypi.example.com",
        "--no-binary :all:",
        "-r other.txt",
    ],
)
def test_what_is_not_a_version_with_its_hashes_is_no_lock(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock.txt"
    path.write_text(f"idna==3.20 \\\n{HASH}\n    # via anyio\n{text}\n")
    with pytest.raises(ValueError, match=r"lock\.txt"):
        read(path)


@each_python_lock
def test_a_lock_is_in_step_with_what_it_is_made_from(lock: Lock) -> None:
    locked = entries(lock)
    for wanted in asked_for(lock):
        entry = locked.get(canonicalize_name(wanted.name))
        assert entry is not None, f"{wanted.name} is not in {lock.path}: make lock"
        assert wanted.specifier.contains(entry.version), f"{lock.path} has {entry.version} for {wanted}: make lock"


@pytest.mark.parametrize(
    "lock", [lock for lock in PYTHON_LOCKS if lock.like or lock.path == DEV], ids=lambda lock: lock.path
)
def test_a_lock_holds_what_is_needed_and_nothing_else(lock: Lock) -> None:
    """As far as this Python and platform go; the others' entries are there beside."""
    here = {name for name, entry in entries(lock).items() if entry.is_for_this_python()}
    assert here == closure(asked_for(lock)), "make lock"


@each_python_lock
def test_production_gets_the_files_that_were_tested(lock: Lock) -> None:
    if lock.like is None:
        return
    tested = read(ROOT / lock.like)
    for name, entry in entries(lock).items():
        assert (entry.version, set(entry.hashes)) == (tested[name].version, set(tested[name].hashes)), name


def test_what_is_installed_is_what_is_locked() -> None:
    for name, entry in read(ROOT / DEV).items():
        if entry.is_for_this_python():
            assert metadata.version(name) == entry.version, f"{name}: make setup"


def test_the_build_lock_is_for_the_build_backend_that_the_projects_name() -> None:
    (wanted,) = asked_for(next(lock for lock in PYTHON_LOCKS if lock.path == "locks/build.txt"))
    client = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text())
    assert [str(wanted)] == PROJECT["build-system"]["requires"] == client["build-system"]["requires"]


@each_npm_folder
def test_an_npm_lock_holds_versions_and_hashes_and_no_host(folder: str) -> None:
    text = (ROOT / folder / "package-lock.json").read_text()
    assert "://" not in text
    document = json.loads(text)
    assert document["lockfileVersion"] == 3
    packages = {path: package for path, package in document["packages"].items() if path}
    assert packages
    for path, package in packages.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+[\w.+-]*", package["version"]), path
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", package["integrity"]), path
        assert not {"resolved", "link"} & package.keys(), path


@each_npm_folder
def test_an_npm_lock_is_in_step_with_its_package(folder: str) -> None:
    package = json.loads((ROOT / folder / "package.json").read_text())
    root = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"][""]
    for field in ("dependencies", "devDependencies", "optionalDependencies"):
        assert root.get(field) == package.get(field), f"{folder}, {field}: make lock"


@each_npm_folder
def test_npm_is_told_to_run_no_install_scripts(folder: str) -> None:
    lines = (ROOT / folder / ".npmrc").read_text().splitlines()
    assert {"ignore-scripts=true", "omit-lockfile-registry-resolved=true"} <= set(lines)
    assert not [line for line in lines if "registry=" in line or "://" in line]


def test_every_npm_package_with_dependencies_has_a_lock() -> None:
    found = set()
    for place, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name != "node_modules" and not name.startswith(".")]
        if "package.json" in files:
            package = json.loads((Path(place) / "package.json").read_text())
            if package.get("dependencies") or package.get("devDependencies"):
                found.add(Path(place).relative_to(ROOT).as_posix())
    assert found == set(NPM_FOLDERS)


def commands(path: Path) -> Iterator[str]:
    """The lines that call pip or npm to install: continued ones joined, lists of words in Python as a shell line."""
    text = re.sub(r"\\\n\s*|(?<=,)\n\s*", " ", path.read_text())
    for line in text.splitlines():
        words = " ".join(re.sub(r"[\"',\[\]()]", " ", line).split())
        if words.startswith(("#", "echo ")):
            continue
        # A shell line may hold several.
        for part in re.split(r"&&|\|\||[;|]", words):
            if re.search(r"(\bpip\b|\bPIP\b).* install\b|\bnpm (install|i|ci|add|update|exec)\b|\bnpx\b", part):
                yield part.strip()


def is_locked(command: str) -> bool:
    """Whether the command takes locked files only, and runs no code of theirs while it installs them."""
    if re.search(r"\bnpm ci\b|\bnpm install --package-lock-only\b", command):
        return "--ignore-scripts" in command
    if "--dry-run" in command:
        return True
    if "--no-deps" in command:  # the project itself
        return "--no-build-isolation" in command or "--no-index" in command
    return "--require-hashes" in command and bool(re.search(r"--only-binary :all:|\$ ?WHEELS", command))


def test_nothing_is_installed_but_what_is_locked() -> None:
    found = {path: list(commands(path)) for path in INSTALLERS}
    assert {"Dockerfile", "Makefile", "environment.sh", "rig.py", "run", "test_interop.py", "tools.sh"} <= {
        path.name for path, lines in found.items() if lines
    }
    for path, lines in found.items():
        for line in lines:
            assert is_locked(line), f"{path.relative_to(ROOT)}: {line}"


@pytest.mark.parametrize(
    "line",
    [
        "pip install -r requirements.txt",
        "pip install --require-hashes -r locks/dev.txt",
        "python -m pip install -q starlette==1.10.0",
        "$(PIP) install -c constraints.txt -e .",
        "npm install",
        "npm ci --no-audit",
        "npx esbuild",
        '    command = [npm, "install", "--no-audit", "ws@8"]',
    ],
)
def test_an_install_past_the_locks_would_be_noticed(tmp_path: Path, line: str) -> None:
    path = tmp_path / "script"
    path.write_text(f"set -e\n{line}\n")
    (command,) = commands(path)
    assert not is_locked(command)


def test_the_image_is_built_on_an_exact_tag() -> None:
    text = (ROOT / "Dockerfile").read_text()
    (tag,) = re.findall(r"(?m)^ARG BASE=(\S+)$", text)
    exact = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-[a-z]+", tag)
    assert exact is not None
    assert exact[1] in PYTHONS
    assert set(re.findall(r"(?m)^FROM (\S+)", text)) == {"${BASE}"}
    # The command that looks its digest up names the same, wherever it stands.
    for path in (ROOT / "Dockerfile", ROOT / "docs" / "operations.md"):
        assert set(re.findall(r"BASE=(python:\S+)", path.read_text())) == {tag}, path.name
