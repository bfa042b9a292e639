"""The parsing helpers that all providers share."""

from __future__ import annotations

import pytest

from sync.billing.providers.parsing import item, products


def test_a_product_is_found_where_providers_write_it() -> None:
    assert products(
        [
            {"price": {"id": "pri_1", "product_id": "pro_1"}},
            {"price": {"id": "pri_2"}, "product": {"id": "pro_2"}},
            {"price": {"id": "price_3", "product": "prod_3"}},
            {"price": {"id": "price_4", "product": {"id": "prod_4", "name": "Four"}}},
        ]
    ) == {"pri_1": "pro_1", "pri_2": "pro_2", "price_3": "prod_3", "price_4": "prod_4"}


def test_what_shows_none_is_left_out() -> None:
    assert (
        products([None, {}, {"price": "pri_1"}, {"price": {"id": "pri_1"}}, {"price": {"id": 1, "product": "p"}}]) == {}
    )


@pytest.mark.parametrize("fields", [{}, {"quantity": None}])
def test_a_metered_price_without_a_quantity_counts_as_one_unit(fields: dict[str, object]) -> None:
    assert item({"price": {"id": "price_1"}, **fields}) == ("price_1", 1)
