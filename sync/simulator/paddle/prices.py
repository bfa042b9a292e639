"""The JSON of prices and products in Paddle's API and webhooks. Pure."""

from __future__ import annotations

from sync.simulator.world.model import Json, Price
from sync.simulator.world.offers import CURRENCY
from sync.simulator.world.rules import QUANTITY_MAX

Body = dict[str, Json]

LISTED_AT = "2024-01-01T00:00:00.000000Z"
"""Creation time of all prices and products."""

LISTED: Body = {
    "type": "standard",
    "status": "active",
    "custom_data": None,
    "import_meta": None,
    "created_at": LISTED_AT,
    "updated_at": LISTED_AT,
}
"""Members that prices and products share."""

CYCLE: Body = {"interval": "month", "frequency": 1}


def money(amount: int) -> Body:
    """Return an amount in minor units."""
    return {"amount": str(amount), "currency_code": CURRENCY}


def price(of: Price) -> Body:
    """Return a price of the catalog."""
    return {
        "id": of.id,
        "product_id": of.product_id,
        "name": of.name,
        "description": of.name,
        "billing_cycle": CYCLE if of.recurring else None,
        "trial_period": None,
        "tax_mode": "account_setting",
        "unit_price": money(of.amount),
        "unit_price_overrides": [],
        "quantity": {"minimum": 1, "maximum": QUANTITY_MAX},
        **LISTED,
    }


def product(of: Price) -> Body:
    """Return the product of a price."""
    own: Body = {
        "id": of.product_id,
        "name": of.name,
        "description": None,
        "tax_category": "standard",
        "image_url": None,
    }
    return own | LISTED
