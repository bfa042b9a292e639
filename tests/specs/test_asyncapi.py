"""AsyncAPI's own parser finds nothing wrong with the description of the sockets' protocol."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from planwire_client.core.frames import INBOUND, OUTBOUND
from tests.support.servers import missing
from tools.docs import asyncapi

HERE = Path(__file__).resolve().parent
PARSER = HERE / "node_modules" / "@asyncapi" / "parser"


def validate(document: Path) -> tuple[int, dict[str, Any]]:
    """Return the exit status and what was found."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("Node is not on PATH (Debian: apt-get install nodejs npm): AsyncAPI's parser needs it")
    if not PARSER.is_dir():
        missing("AsyncAPI's parser is not installed (make test-tools; it comes from the npm registry)")
    done = subprocess.run(
        ["node", str(HERE / "validate.mjs"), str(document)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, found


def test_the_document_is_valid() -> None:
    status, found = validate(HERE.parents[1] / "docs" / "asyncapi.json")
    assert [one for one in found["diagnostics"] if one["severity"] in ("error", "warning")] == []
    assert status == 0
    assert set(found["messages"]) == {*INBOUND, *OUTBOUND}


@pytest.mark.parametrize("breaking", ["channels", "payload"])
def test_an_invalid_one_would_be_noticed(tmp_path: Path, breaking: str) -> None:
    document = asyncapi.document()
    if breaking == "channels":
        document["operations"]["send"]["channel"]["$ref"] = "#/channels/nowhere"
    else:
        document["channels"]["connect"]["messages"]["ack"]["payload"]["type"] = "nonsense"
    path = tmp_path / "asyncapi.json"
    path.write_text(json.dumps(document))
    status, found = validate(path)
    assert status == 1
    assert any(one["severity"] == "error" for one in found["diagnostics"])
