"""What is installed is what was locked: a changed file is refused, no code runs while installing, the lists are true.

pip and npm themselves are run, with the options that the Makefile gives them, on files that the test makes.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import http.server
import importlib.metadata
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from locks.lockfile import ROOT, read
from locks.sbom import leaks
from tests.support.servers import missing

pytestmark = pytest.mark.slow

MAKEFILE = (ROOT / "Makefile").read_text()
TOOLS = ROOT / ".tools" / "supply" / "bin" / "python"
PRODUCTION = ROOT / ".tools" / "production"
LOCK = ROOT / "locks" / "production.txt"
INSTALL_TIMEOUT_S = 60
SBOM_TIMEOUT_S = 240
"""It computes for ten seconds, and tests run beside one another."""


# ---- pip


def wheel(folder: Path, name: str, text: str, needs: str = "") -> str:
    """Write a wheel of version 1.0 with one module; return the SHA-256 of the file."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    meta = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", text)
        requires = f"Requires-Dist: {needs}\n" if needs else ""
        archive.writestr(f"{meta}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        archive.writestr(
            f"{meta}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{meta}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pip_install(folder: Path, lock: str) -> tuple[int, str]:
    """Install `lock` from the files in `folder` into `folder`/target as `make setup` does; return status and output."""
    path = folder / "lock.txt"
    path.write_text(lock)
    (options,) = re.findall(r"\$\(PIP\) install (--require-hashes .*) -r locks/dev\.txt", MAKEFILE)
    (wheels,) = re.findall(r"(?m)^WHEELS \?= (.*)$", MAKEFILE)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-input"]
    command += ["--no-index", "--find-links", str(folder), "--target", str(folder / "target")]
    command += [*options.replace("$(WHEELS)", wheels).split(), "-r", str(path)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(
        command,
        env=environ | {"PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_file_that_was_locked_is_installed(tmp_path: Path) -> None:
    content = wheel(tmp_path, "probe", "good = True\n")
    status, output = pip_install(tmp_path, f"probe==1.0 \\\n    --hash=sha256:{content}\n")
    assert status == 0, output
    assert (tmp_path / "target" / "probe.py").read_text() == "good = True\n"


def test_another_file_of_the_same_name_and_version_is_refused(tmp_path: Path) -> None:
    content = wheel(tmp_path, "probe", "good = True\n")
    wheel(tmp_path, "probe", "good = False\n")
    status, output = pip_install(tmp_path, f"probe==1.0 \\\n    --hash=sha256:{content}\n")
    assert status != 0
    assert "DO NOT MATCH THE HASHES" in output
    assert not (tmp_path / "target").exists()


def test_what_a_package_needs_beyond_the_lock_is_refused(tmp_path: Path) -> None:
    wheel(tmp_path, "extra", "")
    content = wheel(tmp_path, "probe", "", needs="extra")
    status, output = pip_install(tmp_path, f"probe==1.0 \\\n    --hash=sha256:{content}\n")
    assert status != 0
    assert "--require-hashes" in output
    assert not (tmp_path / "target").exists()


def test_a_source_distribution_is_not_built(tmp_path: Path) -> None:
    """Its build would run code, and fetch a build backend that no lock names."""
    ran = tmp_path / "ran"
    path = tmp_path / "probe-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {
            "PKG-INFO": "Metadata-Version: 2.1\nName: probe\nVersion: 1.0\n",
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
            "backend.py": f"open({str(ran)!r}, 'w')\n",
        }.items():
            entry = tarfile.TarInfo(f"probe-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    status, output = pip_install(tmp_path, f"probe==1.0 \\\n    --hash=sha256:{content}\n")
    assert status != 0
    assert "No matching distribution" in output
    assert not ran.exists()


def test_make_setup_says_what_to_do_about_a_file_that_is_not_the_locked_one(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        missing("make is not on PATH")
    content = wheel(tmp_path, "probe", "good = True\n")
    wheel(tmp_path, "probe", "good = False\n")
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "dev.txt").write_text(f"probe==1.0 \\\n    --hash=sha256:{content}\n")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE"))}
    environ |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    done = subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert "locks/dev.txt could not be installed" in done.stderr
    assert "do not install it" in done.stderr
    assert not list(tmp_path.glob(".venv/lib/python*/site-packages/probe.py"))
    assert not (tmp_path / ".venv" / ".installed").exists()


# ---- npm


class Registry:
    """An npm registry on loopback with one package, `probe` 1.0.0, which has an install script."""

    def __init__(self) -> None:
        self.tarball = b""
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = registry.tarball if self.path.endswith(".tgz") else registry.description()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def publish(self, text: str) -> str:
        """Give out a file with that text from now on; return its integrity."""
        buffer = io.BytesIO()
        script = "node -e \"require('fs').writeFileSync(process.env.PROBE_RAN, '')\""
        package = {"name": "probe", "version": "1.0.0", "scripts": {"postinstall": script}}
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in {"package.json": json.dumps(package), "index.js": text}.items():
                entry = tarfile.TarInfo(f"package/{name}")
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content.encode()))
        self.tarball = buffer.getvalue()
        return self.integrity()

    def integrity(self) -> str:
        return f"sha512-{base64.b64encode(hashlib.sha512(self.tarball).digest()).decode()}"

    def description(self) -> bytes:
        """What the registry says of the package: always in step with the file that it gives out."""
        dist = {"tarball": f"{self.url}probe/-/probe-1.0.0.tgz", "integrity": self.integrity()}
        version = {"name": "probe", "version": "1.0.0", "hasInstallScript": True, "dist": dist}
        return json.dumps({"name": "probe", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}).encode()


@pytest.fixture
def registry() -> Iterator[Registry]:
    if shutil.which("npm") is None:
        missing("npm is not on PATH (Debian: apt-get install npm)")
    registry = Registry()
    thread = threading.Thread(target=registry.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield registry
    registry.server.shutdown()
    registry.server.server_close()
    thread.join()


def npm(folder: Path, registry: Registry, *words: str) -> tuple[int, str, bool]:
    """Run npm in `folder`; return its status, its output, and whether the package's install script ran."""
    ran = folder / "ran"
    environ = {name: value for name, value in os.environ.items() if not name.lower().startswith("npm_config_")}
    environ |= {"PROBE_RAN": str(ran), "npm_config_registry": registry.url, "npm_config_cache": str(folder / "cache")}
    environ |= {"npm_config_userconfig": os.devnull, "npm_config_update_notifier": "false", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        ["npm", *words], cwd=folder, env=environ, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
    )
    return done.returncode, done.stdout + done.stderr, ran.exists()


def npm_project(folder: Path, integrity: str | None) -> None:
    """Write a project that needs `probe`, set up like the browser client's; locked where `integrity` is given."""
    shutil.copy(ROOT / "clients" / "js-snippet" / ".npmrc", folder)
    root = {"name": "project", "version": "1.0.0", "dependencies": {"probe": "1.0.0"}}
    (folder / "package.json").write_text(json.dumps(root))
    if integrity is not None:
        probe = {"version": "1.0.0", "integrity": integrity, "hasInstallScript": True}
        packages = {"": root, "node_modules/probe": probe}
        document = {"name": "project", "version": "1.0.0", "lockfileVersion": 3, "requires": True, "packages": packages}
        (folder / "package-lock.json").write_text(json.dumps(document))


def npm_ci() -> list[str]:
    """The words of the Makefile's npm command."""
    (found,) = re.findall(r"\bnpm (ci(?: --[a-z=-]+)+)", MAKEFILE)
    return str(found).split()


def test_npm_installs_what_was_locked_and_runs_no_install_script(tmp_path: Path, registry: Registry) -> None:
    npm_project(tmp_path, registry.publish("good"))
    (tmp_path / ".npmrc").unlink()
    status, output, ran = npm(tmp_path, registry, *npm_ci())
    assert status == 0, output
    assert (tmp_path / "node_modules" / "probe" / "index.js").read_text() == "good"
    assert not ran


def test_npm_refuses_another_file_of_the_same_version(tmp_path: Path, registry: Registry) -> None:
    locked = registry.publish("good")
    registry.publish("bad")
    npm_project(tmp_path, locked)
    status, output, ran = npm(tmp_path, registry, *npm_ci())
    assert status != 0
    assert "EINTEGRITY" in output
    assert not (tmp_path / "node_modules" / "probe" / "index.js").exists()
    assert not ran


@pytest.mark.parametrize("is_allowed", [False, True])
def test_an_install_by_hand_runs_no_scripts_and_locks_no_address(
    tmp_path: Path, registry: Registry, is_allowed: bool
) -> None:
    """By what stands in .npmrc; where the command line overrules it, the script does run."""
    npm_project(tmp_path, None)
    registry.publish("good")
    status, output, ran = npm(tmp_path, registry, "install", "--no-audit", *["--ignore-scripts=false"][:is_allowed])
    assert status == 0, output
    assert ran is is_allowed
    assert "://" not in (tmp_path / "package-lock.json").read_text()


# ---- the image


def is_sent(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore lets a file through: the last pattern that names it, or a folder above it, decides."""
    sent = True
    above = [str(parent) for parent in Path(path).parents if str(parent) != "."]
    for pattern in patterns:
        bare = pattern.removeprefix("!").removeprefix("**/")
        names = [path, *above]
        if pattern.lstrip("!").startswith("**/"):
            names = [part for name in names for part in Path(name).parts]
        if any(fnmatch.fnmatch(name, bare) for name in names):
            sent = pattern.startswith("!")
    return sent


def build_stage() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile's first stage."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", " ")
    stage = text.split("\nFROM ")[1]
    return re.findall(r"(?m)^(COPY|RUN|WORKDIR) +(.*)$", stage)


@pytest.mark.timeout(SBOM_TIMEOUT_S + 60)
def test_the_images_build_steps_make_an_environment_of_what_is_locked(tmp_path: Path) -> None:
    """The first stage's steps, with folders of the test's own for the image's, and this Python for the image's."""
    source, opt, shims = tmp_path / "src", tmp_path / "opt", tmp_path / "bin"
    for folder in (source, opt, shims):
        folder.mkdir()
    (shims / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (shims / "python").chmod(0o755)
    environ = {**os.environ, "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}"}
    environ.pop("PYTHONPATH", None)
    patterns = (ROOT / ".dockerignore").read_text().split()
    for instruction, rest in build_stage():
        if instruction == "COPY":
            *names, target = rest.split()
            for name in names:
                for path in [ROOT / name] if (ROOT / name).is_file() else sorted((ROOT / name).rglob("*")):
                    relative = path.relative_to(ROOT).as_posix()
                    if path.is_file() and is_sent(relative, patterns):
                        place = (
                            source / target / path.relative_to(ROOT / name if (ROOT / name).is_dir() else path.parent)
                        )
                        place.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(path, place)
        elif instruction == "RUN":
            command = rest.replace("/opt/", f"{opt}/")
            done = subprocess.run(
                command, shell=True, cwd=source, env=environ, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
    (libraries,) = (opt / "planwire" / "lib").glob("python*/site-packages")
    installed = {
        canonicalize_name(found.name): found.version
        for found in importlib.metadata.distributions(path=[str(libraries)])
    }
    locked = {name: entry.version for name, entry in read(LOCK).items() if entry.is_for_this_python()}
    assert installed == locked | {"planwire": importlib.metadata.version("planwire")}
    check = "import gateway.server, paddle_billing, sync.outbox, sync.worker; print(gateway.__file__)"
    done = subprocess.run(
        [opt / "planwire" / "bin" / "python", "-c", check],
        cwd="/",
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(libraries)
    assert (libraries / "gateway" / "_client" / "planwire.js").read_bytes() == (
        ROOT / "clients" / "js-snippet" / "planwire.js"
    ).read_bytes()


# ---- the lists of what the software is made of


def sbom(folder: Path, *options: str, **environ: str) -> tuple[int, str]:
    """Write the lists into `folder`; return the status and what was printed."""
    if not TOOLS.exists() or not PRODUCTION.exists():
        missing("the tools that make the SBOM are not installed (make test-tools; they come from the package index)")
    command = [str(TOOLS), "-m", "locks.sbom", "--to", str(folder), *options]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=SBOM_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def reached(document: Mapping[str, Any]) -> set[str]:
    """The references of all components that the first one needs, itself included."""
    needs = {item["ref"]: item.get("dependsOn", []) for item in document["dependencies"]}
    open_, seen = [document["metadata"]["component"]["bom-ref"]], set[str]()
    while open_:
        if (ref := open_.pop()) not in seen:
            seen.add(ref)
            open_ += needs[ref]
    return seen


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what was made."""
    folder = tmp_path_factory.mktemp("lists")
    status, output = sbom(folder, SOURCE_DATE_EPOCH="1800000000")
    assert status == 0, output
    return folder


@pytest.mark.timeout(SBOM_TIMEOUT_S + 60)
def test_the_list_names_all_that_production_installs(lists: Path) -> None:
    document = json.loads((lists / "planwire.cdx.json").read_text())
    locked = {name: entry for name, entry in read(LOCK).items() if entry.is_for_this_python()}
    components = {canonicalize_name(component["name"]): component for component in document["components"]}
    assert {name: component["version"] for name, component in components.items()} == {
        name: entry.version for name, entry in locked.items()
    }
    for name, component in components.items():
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
        assert component["licenses"], name
        (files,) = [one for one in component["externalReferences"] if one["url"] == component["purl"]]
        assert {one["content"] for one in files["hashes"]} == set(locked[name].hashes)
    assert document["metadata"]["component"]["name"] == "planwire"
    assert reached(document) >= {component["bom-ref"] for component in components.values()}


@pytest.mark.timeout(SBOM_TIMEOUT_S + 60)
def test_the_browsers_list_names_all_that_npm_installs(lists: Path) -> None:
    path = lists / "planwire-browser.cdx.json"
    if not path.exists():
        missing("npm 10 or later is not on PATH")
    components = json.loads(path.read_text())["components"]
    lock = json.loads((ROOT / "clients" / "js-snippet" / "package-lock.json").read_text())["packages"]
    assert len(components) == len(lock) - 1
    for component in components:
        (content,) = [one["content"] for one in component["hashes"] if one["alg"] == "SHA-512"]
        expected = base64.b64encode(bytes.fromhex(content)).decode()
        assert lock[f"node_modules/{component['name']}"]["integrity"] == f"sha512-{expected}"


@pytest.mark.timeout(SBOM_TIMEOUT_S + 60)
def test_the_lists_tell_nothing_of_this_machine(lists: Path) -> None:
    paths = list(lists.iterdir())
    assert paths
    for path in paths:
        text = path.read_text()
        assert json.loads(text)["metadata"]["timestamp"].startswith("2027-01-15T08:00:00")
        assert not re.search(rf"{re.escape(str(ROOT))}|\"{re.escape(str(Path.home()))}|file:", text)
        assert not leaks(text)


@pytest.mark.timeout(SBOM_TIMEOUT_S + 60)
def test_no_list_is_made_of_an_environment_that_is_not_the_locked_one(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (libraries,) = environment.glob("lib/python*/site-packages")
    (libraries / "stranger-1.0.dist-info").mkdir()
    (libraries / "stranger-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n"
    )
    status, output = sbom(tmp_path / "lists", "--environment", str(environment))
    assert status == 1
    assert "stranger 1.0" in output
    assert not (tmp_path / "lists" / "planwire.cdx.json").exists()


def test_a_list_that_is_not_valid_would_be_noticed() -> None:
    if not TOOLS.exists():
        missing("the tools that make the SBOM are not installed (make test-tools; they come from the package index)")
    good = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"type": "library", "name": "click"}]}
    bad = good | {"components": [{"type": "library", "title": "click"}]}
    script = "import sys; from locks.sbom import invalid; print([bool(invalid(text, '1.6')) for text in sys.argv[1:]])"
    command = [str(TOOLS), "-c", script, json.dumps(good), json.dumps(bad)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SBOM_TIMEOUT_S, check=False)
    assert done.stdout.strip() == "[False, True]", done.stderr


@pytest.mark.parametrize(
    "text",
    [
        f'"url": "file://{ROOT}"',
        f'"path": "{Path.home()}/.cache"',
        '"url": "http://localhost:8080/simple/click/"',
        '"url": "http://127.0.0.1/simple/click/"',
        '"url": "https://user:secret@files.example.com/click.whl"',
    ],
)
def test_what_tells_of_the_machine_is_noticed(text: str) -> None:
    assert leaks(text)


def test_public_addresses_are_no_leak() -> None:
    assert not leaks(
        f'"url": "https://example.com{Path.home()}s/x", "vcs": "git+ssh://git@example.com/a/b.git", "p": "a@1"'
    )
