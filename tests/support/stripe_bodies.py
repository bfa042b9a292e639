"""Stripe's objects and events, as small as they are valid."""

from __future__ import annotations

import json
from typing import Any

NOW = 1_795_400_000


def body(**fields: Any) -> dict[str, Any]:
    return {
        "id": "sub_1",
        "object": "subscription",
        "status": "active",
        "customer": "cus_1",
        "metadata": {"tenant_id": "acme"},
        "cancel_at": None,
        "cancel_at_period_end": False,
        "trial_end": None,
        "items": {
            "object": "list",
            "has_more": False,
            "data": [
                {
                    "id": "si_1",
                    "price": {"id": "price_pro"},
                    "quantity": 3,
                    "current_period_start": NOW - 100,
                    "current_period_end": NOW + 100,
                }
            ],
        },
        **fields,
    }


def envelope(data: object, kind: str = "customer.subscription.updated", **fields: Any) -> bytes:
    made = {"id": "evt_1", "type": kind, "created": NOW, "livemode": True, "data": {"object": data}, **fields}
    return json.dumps(made).encode()
