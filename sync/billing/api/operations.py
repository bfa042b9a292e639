"""What the operations of the intake share: who may call them, their parameters, their problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sync.http.endpoint import Scope
from sync.http.openapi import Answer, Operation
from sync.http.parameters import Parameter, PathText, QueryText

ENVIRONMENT = QueryText("env", "The provider's environment; default: the first, live.", r"^[a-z][a-z0-9_-]{0,31}$")
TENANT = PathText("id", "The tenant's id: acme for tenant:acme.", r"^[A-Za-z0-9._~@-]{1,128}$", "acme")

GUARDED = (
    "key_missing", "key_invalid", "scope_missing", "topic_forbidden", "request_invalid", "rate_limited",
    "store_unavailable",
)  # fmt: skip
"""The codes that every operation of backends and operators may be answered with."""

CHANGE_PROBLEMS = (
    "effective_at_required", "no_plan", "no_subscription", "not_changed", "nothing_to_change", "plan_not_sold",
    "plan_unknown", "price_unknown",
)  # fmt: skip
"""The codes of a plan change that cannot be made, or foreseen."""


def operation(
    method: str,
    path: str,
    name: str,
    summary: str,
    answer: Answer,
    problems: Sequence[str] = (),
    parameters: Sequence[Parameter] = (),
    *,
    body: Mapping[str, Any] | None = None,
    is_body_required: bool = True,
    scope: Scope = "tenants",
) -> Operation:
    """Return the declaration of an operation for holders of a publish key.

    Args:
        path: with `{id}` the operation is about that tenant, without it about all of an environment.
        scope: what the key needs on the tenant, or on all of them.
    """
    named = (TENANT, *parameters, ENVIRONMENT) if "{id}" in path else (*parameters, ENVIRONMENT)
    return Operation(
        method, path, name, summary, {200: answer}, (*GUARDED, *problems), ("publishKey",), named,
        body=body or {}, is_body_required=is_body_required, scope=scope,
    )  # fmt: skip
