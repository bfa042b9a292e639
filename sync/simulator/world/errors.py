"""Errors of the API, with Paddle's codes, HTTP statuses and wording; and errors of the control routes. Pure.

The API answers an ApiError in Paddle's format, the control routes as a problem document; the code is the same.
Source: Paddle's error reference (developer.paddle.com/errors).
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from sync.core.errors import CodedError

API_ERRORS = {
    "not_found": "Entity not found",
    "invalid_field": "Request does not pass validation.",
    "internal_error": "The simulator cannot do it now.",
    "invalid_json": "Could not parse the JSON body.",
    "request_body_too_large": "The request body is too large.",
    "authentication_missing": "Authentication header missing.",
    "authentication_malformed": "Authentication header included, but incorrectly formatted.",
    "forbidden": "You aren't permitted to perform this request.",
    "subscription_locked_renewal": "unable to update subscription 30m0s before renewal",
    "subscription_locked_pending_changes": "cannot update subscription, pending scheduled changes",
    "subscription_update_when_canceled": "cannot update subscription, as subscription is canceled",
    "subscription_update_when_past_due": "cannot update subscription, as the subscription status is 'past_due'",
    "subscription_is_canceled_action_invalid": "action cannot be performed on a canceled subscription",
    "subscription_cannot_be_paused": "action cannot be performed on a paused subscription",
    "subscription_must_be_paused": "action can only be performed on paused subscription",
    "subscription_not_active": "action requires the subscription to be active",
    "subscription_cannot_activate": "only a trialing subscription can be activated",
    "subscription_next_billed_at_too_soon": "next_billed_at must be at least 30 minutes from now",
    "subscription_all_items_removed": "an update cannot remove all items",
    "subscription_items_update_missing_proration_billing_mode": (
        "proration_billing_mode is required when updating subscription items"
    ),
    "subscription_duplicate_price_ids": "the same price_id is in the items list more than once",
    "subscription_new_items_not_valid": "a price in the items list does not exist",
    "subscription_quantity_missing_for_new_items": "quantity is required for new items",
    "subscription_quantity_not_valid": "quantity is out of the range of the price",
    "subscription_scheduled_change_invalid_update": "scheduled_change can only be set to null",
    "subscription_invalid_billing_mode_for_scheduled_change": (
        "Subscription can only be updated with `do_not_bill`, `full_immediately`, or `prorated_immediately`"
        " as the `proration_billing_mode` because it has a scheduled change."
    ),
    "subscription_only_update_items_on_paused_subscription": "only its items can be updated while it is paused",
    "subscription_incorrect_proration_on_paused_subscription": (
        "`proration_billing_mode` must be set to `do_not_bill` when updating a paused subscription"
    ),
    "subscription_trialing_items_update_invalid_options": (
        "`proration_billing_mode` must be set to `do_not_bill` when updating items of a trialing subscription"
    ),
    "subscription_payment_declined": "the payment was declined, so the change was not made",
}
"""Code -> detail."""

STATUSES = {
    "not_found": 404,
    "internal_error": 503,
    "request_body_too_large": 413,
    "authentication_missing": 403,
    "authentication_malformed": 403,
    "forbidden": 403,
    "subscription_locked_renewal": 409,
}
"""The HTTP statuses of codes whose status is not 400."""


class ApiError(CodedError):
    """The provider rejects a request; nothing changed. `code` is one of API_ERRORS, `fields`: invalid field -> why."""

    def __init__(self, code: str, detail: str | None = None, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(code, detail or API_ERRORS[code])
        self.status = STATUSES.get(code, 400)
        self.fields = fields or {}

    def __str__(self) -> str:
        return "; ".join([self.detail, *(f"{field}: {message}" for field, message in self.fields.items())])


class ControlError(CodedError):
    """A control action failed; `detail` says what to do instead, `status` is the HTTP status."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.status = status

    def __str__(self) -> str:
        return self.detail


def invalid_parameter(detail: str) -> ControlError:
    """Return the error about a parameter of the wrong form."""
    return ControlError(400, "invalid_parameter", detail)


def in_words(error: ValidationError) -> str:
    """Return the first error, and its place, in one line."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, first['loc']))}: {message[:1].lower()}{message[1:]}"
