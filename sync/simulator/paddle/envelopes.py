"""The envelopes that Paddle's API puts around entities, lists and errors. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sync.simulator.paddle.entities import Body
from sync.simulator.world.errors import ApiError
from sync.simulator.world.model import Json


def answer(data: Json, request_id: str) -> Body:
    """One entity in Paddle's envelope."""
    return {"data": data, "meta": {"request_id": request_id}}


def page(data: Sequence[Body], request_id: str, per_page: int, next_url: str, has_more: bool, total: int) -> Body:
    """One page of a list in Paddle's envelope; `next_url` continues after its last entity."""
    return {
        "data": list(data),
        "meta": {
            "request_id": request_id,
            "pagination": {"per_page": per_page, "next": next_url, "has_more": has_more, "estimated_total": total},
        },
    }


def error(refusal: ApiError, request_id: str) -> Body:
    """A refusal in Paddle's envelope."""
    body: Body = {
        "type": "request_error",
        "code": refusal.code,
        "detail": refusal.detail,
        "documentation_url": refusal.documentation_url,
    }
    if refusal.fields:
        body["errors"] = [{"field": bad.field, "message": bad.message} for bad in refusal.fields]
    return {"error": body, "meta": {"request_id": request_id}}
