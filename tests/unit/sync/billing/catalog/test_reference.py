"""docs/catalog.md describes every key of the catalog, each with an example that can be used."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from sync.billing.catalog.catalog import Catalog, of_document
from sync.billing.catalog.tables import Addon, Document, Ignored, Meter, Plan, PlanVersion, Policy, Shadow
from sync.billing.providers.registry import PROVIDERS
from tests.support.bodies import ROOT

PAGE = (ROOT / "docs" / "catalog.md").read_text()
SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
TABLES = [("`[plans.KEY]`", Plan), ("`[meters.KEY]`", Meter), ("`[policy]`", Policy), ("`[shadow]`", Shadow)]
AROUND = """
[plans.free]
name = "Free"
rank = 0
default = true

[plans.pro]
name = "Pro"
rank = 20
limits = { api_calls = 1000, contacts = 50, exports = 10, seats = 5 }

[addons.audit]
name = "Audit log"
"""


def merged(whole: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """The document with a part of it laid over it."""
    found = dict(whole)
    for name, value in part.items():
        inner = found.get(name)
        found[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return found


def leaves(document: Mapping[str, Any], table: type[BaseModel]) -> set[str]:
    """The keys of a table in a document, that of an inner table as `per_unit.limits`."""
    fields = {field.alias or name for name, field in table.model_fields.items()} - {"key"}
    shown = {name for name in document if name in fields}
    return {f"{name}.{inner}" for name in shown & {"per_unit"} for inner in document[name]} | shown - {"per_unit"}


def keys_of(table: type[BaseModel]) -> set[str]:
    """All keys of a table."""
    names = {field.alias or name for name, field in table.model_fields.items()} - {"key"}
    return {"per_unit.limits" if name == "per_unit" else name for name in names}


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_can_be_used(example: str) -> None:
    document = merged(tomllib.loads(AROUND), tomllib.loads(example))
    assert isinstance(of_document(Document.model_validate(document), PROVIDERS), Catalog)


@pytest.mark.parametrize(("title", "table"), TABLES, ids=["plans", "meters", "policy", "shadow"])
def test_every_key_has_its_part_with_an_example(title: str, table: type[BaseModel]) -> None:
    (section,) = [each for each in SECTIONS if each.startswith(title)]
    parts = dict(re.findall(r"^### `([\w.]+)`\n(.*?)(?=^### |\Z)", section, re.MULTILINE | re.DOTALL))
    assert set(parts) == keys_of(table)
    for key, text in parts.items():
        shown = [tomllib.loads(example) for example in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
        offers = [offer for each in shown for kind in ("plans", "addons") for offer in each.get(kind, {}).values()]
        meters = [meter for each in shown for meter in each.get("meters", {}).values()]
        named = [each.get(table.__name__.lower(), {}) for each in shown]
        tables = {Plan: offers, Meter: meters}.get(table, named)
        assert any(key in leaves(each, table) for each in tables), key


def test_add_ons_and_the_ignore_list_have_keys_of_a_plan() -> None:
    assert keys_of(Addon) == keys_of(Plan) - {"rank", "default", "version", "versions"}
    assert keys_of(PlanVersion) == keys_of(Addon) - {"app", "purchase"} | {"version", "until"}
    assert keys_of(Ignored) == {"prices", "lookup_keys", "products"}
