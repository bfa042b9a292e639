"""`make sbom`: lists what the software is made of, in CycloneDX, so that a list of known faults can be held against it.

`planwire.cdx.json`: the packages of a production environment (locks/production.txt) with versions, licences, what needs
what, and the SHA-256 of every file of each that the lock admits. `planwire-browser.cdx.json`: the packages that the
browser client is checked and the demo is bundled with; the client itself needs none.

Runs in the tools' environment. The same commit, Python and platform give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from locks.lockfile import ROOT, read

PRODUCTION = ROOT / "locks" / "production.txt"
ENVIRONMENT = ROOT / ".tools" / "production"
BROWSER = ROOT / "clients" / "js-snippet"

Document = dict[str, Any]


class SbomError(Exception):
    """No list can be made; the message says why."""


def commit_time() -> str | None:
    """Return when the newest commit was made, in Unix seconds; None outside a git repository."""
    command = ["git", "log", "-1", "--format=%ct"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def production(environment: Path) -> Document:
    """Return the list for the packages installed in `environment`.

    Raises:
        SbomError: What is installed is not what the lock names for this Python and platform.
    """
    command = [str(Path(sys.executable).parent / "cyclonedx-py"), "environment", "--output-reproducible"]
    command += ["--spec-version", "1.6", "--pyproject", "pyproject.toml", str(environment)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SbomError(f"cyclonedx-py failed: {done.stderr.strip()}")
    document: Document = json.loads(done.stdout)
    locked = {name: entry for name, entry in read(PRODUCTION).items() if entry.is_for_this_python()}
    installed = {canonicalize_name(part["name"]): part for part in document.get("components", ())}
    wanted = {(name, entry.version) for name, entry in locked.items()}
    found = {(name, part["version"]) for name, part in installed.items()}
    if wanted != found:
        differing = ", ".join(sorted(f"{name} {version}" for name, version in wanted ^ found))
        raise SbomError(f"{environment} is not what locks/production.txt names ({differing}); remove it, retry")
    for name, part in installed.items():
        # The address is the package's own name: the files may come from any index.
        part.setdefault("externalReferences", []).append(
            {
                "type": "distribution",
                "url": part["purl"],
                "comment": "each file that may be installed",
                "hashes": [{"alg": "SHA-256", "content": content} for content in locked[name].hashes],
            }
        )
    return document


def browser() -> Document:
    """Return the list for the browser client's package-lock.json.

    Raises:
        SbomError: npm is missing, or older than its `sbom` command (npm 10).
    """
    command = ["npm", "sbom", "--sbom-format", "cyclonedx", "--package-lock-only"]
    try:
        done = subprocess.run(command, cwd=BROWSER, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SbomError("npm is not on PATH") from None
    if done.returncode != 0:
        raise SbomError(f"npm 10 or later is needed: {done.stderr.strip()}")
    document: Document = json.loads(done.stdout)
    # Both would differ from run to run.
    document.pop("serialNumber", None)
    document["metadata"].pop("timestamp", None)
    if stamp := os.environ.get("SOURCE_DATE_EPOCH"):
        document["metadata"]["timestamp"] = datetime.fromtimestamp(int(stamp), UTC).isoformat()
    return document


def leaks(text: str) -> list[str]:
    """Return what `text` says about the machine that it was made on: its paths, addresses only it knows, passwords."""
    paths = "|".join(re.escape(str(path)) for path in (ROOT, Path.home(), Path(sys.prefix)) if len(path.parts) > 1)
    kinds = (
        rf"(?<![\w.-])(?:{paths})(?![\w-])",
        r"file:/",
        r"://(?:localhost|127\.0\.0\.1)\b",
        r"://[^/:\"\s]+:[^/@\"\s]+@",
    )
    return re.findall("|".join(kinds), text)


def invalid(text: str, version: str) -> str | None:
    """Return what CycloneDX's schema of that version says against `text`, None where nothing."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.from_version(version)).validate_str(text)
    return None if error is None else str(error)


def write(path: Path, document: Document) -> None:
    """Write a list that is valid and tells nothing of the machine.

    Raises:
        SbomError: It is not so.
    """
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if found := leaks(text):
        raise SbomError(f"{path.name} would tell of this machine: {', '.join(found)}")
    if error := invalid(text, document["specVersion"]):
        raise SbomError(f"{path.name} is not valid CycloneDX {document['specVersion']}: {error}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    print(f"{path.name}: {len(document['components'])} components, CycloneDX {document['specVersion']}")


def main() -> int:
    """Write both lists. Return 1 where one cannot be made; without npm that is so under CI only."""
    parser = argparse.ArgumentParser(prog="python -m locks.sbom", description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "dist", metavar="FOLDER")
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT, metavar="FOLDER")
    options = parser.parse_args()
    if stamp := os.environ.get("SOURCE_DATE_EPOCH") or commit_time():
        os.environ["SOURCE_DATE_EPOCH"] = stamp
    try:
        write(options.to / "planwire.cdx.json", production(options.environment))
    except SbomError as error:
        print(f"planwire.cdx.json: {error}", file=sys.stderr)
        return 1
    try:
        write(options.to / "planwire-browser.cdx.json", browser())
    except SbomError as error:
        print(f"planwire-browser.cdx.json: {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
