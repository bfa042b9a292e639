"""Answers of the operations on usage."""

from __future__ import annotations

from sync.billing.api.operations import Document
from sync.core import instants
from sync.http.problem import Problem, problem_of
from sync.store.models import StoreError
from sync.usage.calls import UNLIMITED, Answer


def document(answer: Answer) -> Document:
    """Return what came of a call."""
    shown: Document = {
        "allowed": answer.is_allowed,
        "used": answer.used,
        "reserved": answer.reserved,
        "limit": _bound(answer.limit),
        "remaining": _bound(answer.remaining),
        "version": answer.version,
        "usage_version": answer.usage_version,
    }
    shown |= {"resets_at": instants.text_us(answer.ends_us)} if answer.ends_us else {}
    return shown | ({"over": answer.over} if answer.over else {}) | ({"repeated": True} if answer.is_repeated else {})


def result(found: Answer | Problem | StoreError) -> Document:
    """Return what came of one call of a batch."""
    if isinstance(found, Answer):
        return document(found)
    known = found if isinstance(found, Problem) else problem_of(found)
    return {"code": known.code, "detail": known.detail}


def outcome(found: Answer | Problem | StoreError) -> str:
    """Return what came of a call, as a metric's label. `unknown`: the store gave no answer."""
    if isinstance(found, Answer):
        return "repeated" if found.is_repeated else "allowed" if found.is_allowed else "denied"
    return "rejected" if isinstance(found, Problem) else "unknown"


def _bound(units: int) -> int | str:
    return "unlimited" if units == UNLIMITED else units
