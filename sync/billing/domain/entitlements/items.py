"""What the catalog says of items: which plan or add-on each buys, and which ones other software sells. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

from sync.billing.catalog.catalog import Catalog, Entry, Ignored, Offer
from sync.billing.domain.facts.model import NO_PRICE, Event, SubscriptionFacts

UNNAMED_PURCHASE = "a one-time purchase that names no tenant, of things that the catalog does not sell by purchase"


class Setting(NamedTuple):
    """The inputs of a tenant's state besides its facts.

    Attributes:
        askable: the (provider, environment) pairs with an API client.
        product_sellers: the providers whose subscriptions buy a product: what a change asks for is a product's id.
    """

    catalog: Catalog
    environment: str
    askable: Collection[tuple[str, str]]
    now_ns: int
    product_sellers: Collection[str] = ()

    def within(self, app: str) -> Setting:
        """Return the setting of one application; of the leading one for "", or the setting itself without any."""
        apps = self.catalog.apps
        return self._replace(catalog=apps[app or self.catalog.leading]) if apps else self

    def of_plan(self, key: str, app: str = "") -> Setting:
        """Return the setting of an application, or else of a plan's; the setting itself for a plan of all."""
        plan = self.catalog.plans.get(key)
        app = app if app in self.catalog.apps else "" if plan is None else plan.app
        return self.within(app) if app else self


def is_ignored(of: Event | SubscriptionFacts, setting: Setting) -> bool:
    """Return whether other software sells all the items of a subscription, by the catalog's ignore list."""
    body = of.subscription
    if body is None or not body.items or (of.provider, setting.environment) not in setting.catalog.ignored:
        return False
    return all([isinstance(entry_of(id, of, setting), Ignored) for id, _ in body.items])


def unknown_prices(of: Event | SubscriptionFacts, setting: Setting) -> list[str]:
    """Return the ids of a subscription's items that the catalog neither sells nor ignores, as it would list them.

    An item of quantity 0 is not asked for.
    """
    items = () if of.subscription is None else of.subscription.items
    unknown = [price_id for price_id, quantity in items if quantity and entry_of(price_id, of, setting) is None]
    return [listed_id(price_id, of, setting) for price_id in unknown]


def listed_id(price_id: str, of: Event | SubscriptionFacts, setting: Setting) -> str:
    """Return the id by which the catalog would list an item: its price's, or its product's if products are sold."""
    if of.subscription is None or of.provider not in setting.product_sellers:
        return price_id
    return of.subscription.products.get(price_id, price_id)


def entry_of(price_id: str, of: Event | SubscriptionFacts, setting: Setting) -> Entry | None:
    """Return the catalog's entry of a price in a subscription, by all that is known of the price; None if none."""
    catalog, provider, body = setting.catalog, of.provider, of.subscription
    # First by the price alone: most catalogs list prices, and every event runs this.
    found = catalog.find(provider, setting.environment, price_id)
    if found is None and body is not None:
        key, product_id = body.lookup_keys.get(price_id, ""), body.products.get(price_id, "")
        if isinstance(of, SubscriptionFacts) and of.former:
            former = of.former.get(price_id, NO_PRICE)
            key, product_id = key or former.lookup_key, product_id or former.product_id
        product_id = product_id or (price_id if provider in setting.product_sellers else "")
        found = catalog.find(provider, setting.environment, price_id, key, product_id)
    if body is not None and body.purchase is not None and isinstance(found, Offer) and not found.purchase:
        return None
    return found


def as_hint_unless_sold(event: Event, setting: Setting) -> Event:
    """Return the event; a purchase that names no tenant, and of which the catalog sells nothing, without its body.

    Accounts sell more than what entitlements are about. Of such a purchase nothing has to wait for anything.
    """
    body = event.subscription
    if not event.unlisted and (body is None or body.purchase is None):
        return event
    if event.tenant_id is not None or event.name_problem or is_ignored(event, setting):
        return event
    if body is None:
        is_sold = (event.provider, setting.environment) in setting.catalog.purchases
    else:
        is_sold = any(isinstance(entry_of(item.price_id, event, setting), Offer) for item in body.items)
    if is_sold:
        return event
    return replace(event, subscription=None, subscription_id=None, unlisted="", ignored=UNNAMED_PURCHASE)


def without_ignored_names(event: Event, setting: Setting) -> Event:
    """Return the event; if other software sells all its items, without the tenant and the customer that it names."""
    return replace(event, tenant_id=None, customer_id=None, checkout_id=None) if is_ignored(event, setting) else event
