"""The committed description is the current one, and describes the routes there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from planwire_client.core.topic import Topic
from sync.http.fields import TOPIC_PATTERN
from tools.docs import openapi

ROOT = Path(__file__).parents[4]


def test_the_committed_document_is_in_step() -> None:
    committed = (ROOT / "docs" / "openapi.json").read_bytes()
    assert committed == openapi.encode(), "run: make docs"


def test_every_reference_leads_somewhere() -> None:
    document = openapi.document()

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [ref for child in value.values() for ref in references(child)]
        return [ref for child in value for ref in references(child)] if isinstance(value, list) else []

    found = references(document)
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_operations_have_names_of_their_own() -> None:
    names = [op["operationId"] for path in openapi.document()["paths"].values() for op in path.values()]
    assert len(names) == len(set(names)) >= 9


def test_the_topic_pattern_is_the_topics() -> None:
    import re

    for name in ("tenant:acme", "sandbox/tenant:acme", "t:~@._-"):
        assert re.search(TOPIC_PATTERN, name)
        assert str(Topic.parse(name)) == name
    for name in ("tenant", "Tenant:a", "a/b/c:d", "t:", "t:" + "x" * 129):
        assert not re.search(TOPIC_PATTERN, name)


def test_it_is_json() -> None:
    assert json.loads(openapi.encode())["openapi"] == "3.1.0"
