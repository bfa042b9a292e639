"""Errors of the API, with Paddle's codes, HTTP statuses and wording, and of the control routes. Pure.

The API answers an ApiError in Paddle's shape, the control routes as a problem; both carry the same code.
Source: Paddle's error reference (developer.paddle.com/errors).
"""

from __future__ import annotations

from dataclasses import dataclass

from sync.core.errors import CodedError

API_ERRORS: dict[str, tuple[int, str]] = {
    "not_found": (404, "Entity not found"),
    "invalid_field": (400, "Request does not pass validation."),
    "internal_error": (503, "The simulator cannot do it now."),
    "invalid_json": (400, "Could not parse the JSON body."),
    "request_body_too_large": (413, "The request body is too large."),
    "authentication_missing": (403, "Authentication header missing."),
    "authentication_malformed": (403, "Authentication header included, but incorrectly formatted."),
    "forbidden": (403, "You aren't permitted to perform this request."),
    "subscription_locked_renewal": (409, "unable to update subscription 30m0s before renewal"),
    "subscription_locked_pending_changes": (400, "cannot update subscription, pending scheduled changes"),
    "subscription_update_when_canceled": (400, "cannot update subscription, as subscription is canceled"),
    "subscription_update_when_past_due": (
        400,
        "cannot update subscription, as the subscription status is 'past_due'",
    ),
    "subscription_is_canceled_action_invalid": (400, "action cannot be performed on a canceled subscription"),
    "subscription_cannot_be_paused": (400, "action cannot be performed on a paused subscription"),
    "subscription_must_be_paused": (400, "action can only be performed on paused subscription"),
    "subscription_not_active": (400, "action requires the subscription to be active"),
    "subscription_cannot_activate": (400, "only a trialing subscription can be activated"),
    "subscription_next_billed_at_too_soon": (400, "next_billed_at must be at least 30 minutes from now"),
    "subscription_all_items_removed": (400, "an update cannot remove all items"),
    "subscription_items_update_missing_proration_billing_mode": (
        400,
        "proration_billing_mode is required when updating subscription items",
    ),
    "subscription_duplicate_price_ids": (400, "the same price_id is in the items list more than once"),
    "subscription_new_items_not_valid": (400, "a price in the items list does not exist"),
    "subscription_quantity_missing_for_new_items": (400, "quantity is required for new items"),
    "subscription_quantity_not_valid": (400, "quantity is out of the range of the price"),
    "subscription_scheduled_change_invalid_update": (400, "scheduled_change can only be set to null"),
    "subscription_invalid_billing_mode_for_scheduled_change": (
        400,
        "Subscription can only be updated with `do_not_bill`, `full_immediately`, or `prorated_immediately` as the"
        " `proration_billing_mode` because it has a scheduled change.",
    ),
    "subscription_only_update_items_on_paused_subscription": (
        400,
        "only its items can be updated while it is paused",
    ),
    "subscription_incorrect_proration_on_paused_subscription": (
        400,
        "`proration_billing_mode` must be set to `do_not_bill` when updating a paused subscription",
    ),
    "subscription_trialing_items_update_invalid_options": (
        400,
        "`proration_billing_mode` must be set to `do_not_bill` when updating items of a trialing subscription",
    ),
    "subscription_payment_declined": (400, "the payment was declined, so the change was not made"),
}
"""Code -> (HTTP status, detail)."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One invalid field of a request."""

    field: str
    message: str


class ApiError(CodedError):
    """The provider does not do it; nothing changed. `code` is one of API_ERRORS, `fields` the invalid ones if any."""

    def __init__(self, code: str, detail: str | None = None, fields: tuple[FieldError, ...] = ()) -> None:
        self.status, stated = API_ERRORS[code]
        super().__init__(code, detail or stated)
        self.fields = fields

    def __str__(self) -> str:
        return "; ".join([self.detail, *(f"{field.field}: {field.message}" for field in self.fields)])

    @property
    def documentation_url(self) -> str:
        """Where Paddle explains this code."""
        section = "subscriptions" if self.code.startswith("subscription_") else "shared"
        return f"https://developer.paddle.com/errors/{section}/{self.code}"


class ControlError(CodedError):
    """A control action that cannot be done; `detail` says what to do instead, `status` is the HTTP status."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.status = status

    def __str__(self) -> str:
        return self.detail


def invalid_parameter(detail: str) -> ControlError:
    """Return the error about a parameter of the wrong form."""
    return ControlError(400, "invalid_parameter", detail)
