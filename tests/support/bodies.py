"""Signed Paddle webhooks for tests: envelopes around made or official bodies."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sync.core import instants

ROOT = Path(__file__).resolve().parents[2]
SECRET = "pdl_ntfset_live"
SANDBOX_SECRET = "pdl_ntfset_sandbox"

_serial = itertools.count(1)


def signature(body: bytes, timestamp: int, *secrets: str) -> str:
    """The Paddle-Signature header of a body, with one h1 for each secret."""
    signed = f"{timestamp}:".encode() + body
    marks = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ";".join([f"ts={timestamp}", *(f"h1={mark}" for mark in marks)])


def subscription(**fields: Any) -> dict[str, Any]:
    """A subscription as Paddle sends it; `items` are (price id, quantity) pairs, `tenant` goes into custom_data."""
    items = fields.pop("items", [("pri_pro", 3)])
    tenant = fields.pop("tenant", "acme")
    return {
        "id": "sub_1",
        "status": "active",
        "customer_id": "ctm_1",
        "updated_at": "2026-11-01T00:00:00.000000Z",
        "custom_data": None if tenant is None else {"tenant_id": tenant},
        "current_billing_period": None,
        "scheduled_change": None,
        "items": [{"status": "active", "quantity": number, "price": {"id": price}} for price, number in items],
        **fields,
    }


def envelope(data: object, **fields: Any) -> dict[str, Any]:
    """An event around `data`, with an id of its own."""
    number = next(_serial)
    return {
        "event_id": f"evt_{number:026d}",
        "event_type": "subscription.updated",
        "occurred_at": "2026-11-01T00:00:00.000000Z",
        "notification_id": f"ntf_{number:026d}",
        "data": data,
        **fields,
    }


def webhook(day: float = 0, kind: str = "subscription.updated", event_id: str | None = None, **fields: Any) -> bytes:
    """The body of a subscription event that happened `day` days after 2026-11-01."""
    moment = instants.text(instants.parse("2026-11-01T00:00:00Z") + int(day * 86_400) * 1_000_000_000)
    made = envelope(subscription(**{"updated_at": moment, **fields}), event_type=kind, occurred_at=moment)
    return json.dumps({**made, **({"event_id": event_id} if event_id else {})}).encode()


def official_directory() -> Path:
    """Where the official event bodies lie; skips the test, saying so, where they do not."""
    directory = Path(os.environ.get("PADDLE_BODIES") or ROOT.parent / "shared" / "paddle")
    if not directory.is_dir():
        pytest.skip(f"no official Paddle bodies in {directory}: name their directory in PADDLE_BODIES")
    return directory


def official(kind: str) -> dict[str, Any]:
    """The official `data` object of an event type."""
    data: dict[str, Any] = json.loads((official_directory() / f"{kind}.data.json").read_text())
    return data
