"""The HTTP API as an OpenAPI 3.1 document: `python -m gateway.api_docs.openapi` writes docs/openapi.json."""

from __future__ import annotations

import sys
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.api.routes import DECLARING
from gateway.api_docs import openapi_intake
from gateway.api_docs.operation import describe
from sync.http import openapi

API_VERSION = "1.0.0"
"""Of this API, not of the program: rises when a route changes."""

INFO = {
    "title": "Planwire",
    "version": API_VERSION,
    "summary": "Live plan and entitlement state.",
    "license": {"name": "MIT", "identifier": "MIT"},
}

SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "publishKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "A publish key; its rights say what it opens.",
    },
    "metricsToken": {"type": "http", "scheme": "bearer", "description": "PLANWIRE_METRICS_TOKEN."},
    **openapi_intake.SIGNATURE,
}

OPERATIONS = [operation for kind in DECLARING for operation in openapi.operations(kind)]


def document() -> dict[str, Any]:
    """Return the OpenAPI document: the gateway's own routes, and those that the intake brings along."""
    found = openapi.document(OPERATIONS, INFO, SECURITY)
    read: tuple[type[BaseModel], ...] = openapi_intake.READ_MODELS
    _, schemas = models_json_schema(
        [(model, "validation") for model in read] + [(model, "serialization") for model in openapi_intake.MODELS],
        ref_template="#/components/schemas/{model}",
    )
    found["components"]["schemas"] |= schemas["$defs"]
    for operation in openapi_intake.OPERATIONS:
        found["paths"].setdefault(operation.path, {})[operation.method] = describe(operation)
    return found


def encode() -> bytes:
    """Return the document as it is committed: indented, with a final line break."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    sys.stdout.buffer.write(encode())
