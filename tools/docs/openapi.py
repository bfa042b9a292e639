"""The HTTP API as an OpenAPI 3.1 document, generated from the route declarations.

python -m tools.docs.openapi > docs/openapi.json
"""

from __future__ import annotations

import sys
from typing import Any

import orjson

from gateway.api.routes import DECLARING
from sync.billing.api import routes as intake
from sync.billing.api.webhooks import webhook_security
from sync.billing.providers.registry import PROVIDERS
from sync.http import openapi
from sync.usage.api import routes as usage

API_VERSION = "1.0.0"
"""Version of this API, not of the program; it rises when a route changes."""

INFO = {
    "title": "Planwire",
    "version": API_VERSION,
    "summary": "Live plan and entitlement state.",
    "license": {"name": "MIT", "identifier": "MIT"},
}

SECURITY: dict[str, Any] = {
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "publishKey": {"type": "http", "scheme": "bearer", "description": "A publish key; its rights say what it opens."},
    "metricsToken": {"type": "http", "scheme": "bearer", "description": "PLANWIRE_METRICS_TOKEN."},
}


def document() -> dict[str, Any]:
    """Return the document. It includes the intake's routes, which answer 404 on a process without webhooks."""
    own = [operation for kind in DECLARING for operation in openapi.operations(kind)]
    security = dict(SECURITY)
    for spec in PROVIDERS.values():
        security |= webhook_security(spec)
    return openapi.document([*own, *intake.operations(), *usage.operations()], INFO, security)


def encode() -> bytes:
    """Return the document's text: indented, with a final line break."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    sys.stdout.buffer.write(encode())
