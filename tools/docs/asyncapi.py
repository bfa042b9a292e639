"""The socket protocol as an AsyncAPI 3 document (docs/asyncapi.json), generated from the frame declarations.

python -m tools.docs.asyncapi > docs/asyncapi.json
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import orjson

from planwire_client.core.fields import ABSENT, fields_of
from planwire_client.core.frames import CONNECT_PATH, INBOUND, OUTBOUND, SUBPROTOCOL


def schema(declared: type[Any], **fixed: Any) -> dict[str, Any]:
    """Return the JSON Schema of a frame, or of an object in one. `fixed`: fields placed before the declared ones."""
    properties, required = dict(fixed), [*fixed]
    for name, rule, default in fields_of(declared):
        part = rule.schema.get("object")
        found = schema(part) if part is not None else {**rule.schema, "title": name.replace("_", " ").title()}
        properties[name] = dict(sorted(found.items()))
        required += [name] if default is ABSENT else []
    return {
        "description": inspect.getdoc(declared),
        "properties": properties,
        "required": required,
        "title": declared.__name__,
        "type": "object",
    }


def message(name: str, declared: type[Any], **more: Any) -> dict[str, Any]:
    """Return a frame as AsyncAPI's message; `more`: further members of its schema."""
    payload = schema(declared, type={"const": name, "title": "Type", "type": "string"})
    return {
        "name": name,
        "summary": payload["description"].splitlines()[0],
        "contentType": "application/json",
        "payload": {**more, **payload},
    }


def document() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document."""

    def references(types: Mapping[str, type[Any]]) -> list[dict[str, str]]:
        return [{"$ref": f"#/channels/connect/messages/{name}"} for name in types]

    # Clients and gateways ignore unknown members, so a frame may have more.
    received = {name: message(name, declared, additionalProperties=True) for name, declared in INBOUND.items()}
    sent = {name: message(name, declared) for name, declared in OUTBOUND.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Planwire",
            "version": SUBPROTOCOL.rpartition(".")[2],
            "description": "Live plan and entitlement state. docs/protocol.md is normative; this page describes it.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "{host}",
                "protocol": "wss",
                "description": "Any gateway; ws on loopback.",
                "variables": {"host": {"default": "127.0.0.1:8000"}},
            }
        },
        "channels": {
            "connect": {
                "address": CONNECT_PATH,
                "description": f"One WebSocket, subprotocol {SUBPROTOCOL}, JSON text frames.",
                "bindings": {
                    "ws": {
                        "method": "GET",
                        "headers": {
                            "type": "object",
                            "properties": {"Sec-WebSocket-Protocol": {"type": "string", "const": SUBPROTOCOL}},
                            "required": ["Sec-WebSocket-Protocol"],
                        },
                    }
                },
                "messages": received | sent,
            }
        },
        "operations": {
            "receive": {
                "action": "receive",
                "channel": {"$ref": "#/channels/connect"},
                "summary": "What the gateway takes.",
                "messages": references(INBOUND),
            },
            "send": {
                "action": "send",
                "channel": {"$ref": "#/channels/connect"},
                "summary": "What the gateway sends.",
                "messages": references(OUTBOUND),
            },
        },
    }


def encode() -> bytes:
    """Return the document's text: indented, with a final line break."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    sys.stdout.buffer.write(encode())
