"""The catalog reads its format whole and refuses everything else, naming the line."""

from __future__ import annotations

from pathlib import Path

import pytest

import sync.billing.catalog as catalog_module
from sync.billing.catalog.catalog import CATALOG_MAX_BYTES, NO_PLAN, CatalogError, Ignored, Offer, load, parse
from tests.support.histories import APPS_CATALOG, APPS_TEXT, CATALOG_TEXT

EXAMPLE = Path(catalog_module.__file__).with_name("example.toml")

VALID = """\
[policy]
grace = "36h"
overdue = { cancel = "apply" }

[plans.free]
name = "Free"
rank = 0
default = true

[plans.pro]
name = "Pro"
rank = 20
features = ["sso"]
limits = { seats = 0, projects = "unlimited" }
per_unit.limits = { seats = 1 }
modules = { billing = "write" }
prices.paddle.live = [
  "pri_1",
  "pri_2",
]
prices.paddle.sandbox = ["pri_3"]

[addons.audit]
name = "Audit"
prices.paddle.live = ["pri_4"]

[ignore]
prices.paddle.live = ["pri_8", "pri_9"]
products.paddle.live = ["pro_1"]
products.stripe.live = ["prod_1"]
"""


def test_example_has_what_the_readme_promises() -> None:
    catalog = load(EXAMPLE)
    assert list(catalog.plans) == ["free", "basic", "pro"]
    assert catalog.default.key == "free"
    assert catalog.plans["pro"].per_unit.limits == {"seats": 1}
    assert list(catalog.addons) == ["audit"]
    for environment in ("live", "sandbox"):
        sold = [entry.key for entry in catalog.index["paddle", environment].values() if isinstance(entry, Offer)]
        assert set(sold) == {"basic", "pro", "audit"}


def test_parse_reads_every_part() -> None:
    catalog = parse(VALID)
    assert catalog.policy.grace_ns == 36 * 3600 * 10**9
    assert catalog.policy.overdue == {
        "cancel": "apply",
        "pause": "hold",
        "resume": "hold",
        "trial": "hold",
        "change_plan": "hold",
    }
    pro = catalog.plans["pro"]
    assert (pro.name, pro.rank, pro.default) == ("Pro", 20, False)
    assert pro.limits == {"seats": 0, "projects": "unlimited"}
    assert pro.modules == {"billing": "write"}
    assert pro.prices == {"paddle": {"live": ("pri_1", "pri_2"), "sandbox": ("pri_3",)}}
    assert catalog.find("paddle", "live", "pri_4") is catalog.addons["audit"]
    assert catalog.find("paddle", "live", "pri_3") is None
    assert catalog.find("stripe", "live", "pri_4") is None


def test_other_software_is_known_by_its_prices_and_products() -> None:
    catalog = parse(VALID)

    def ignores(provider: str, environment: str, price_id: str, product_id: str = "") -> bool:
        return isinstance(catalog.find(provider, environment, price_id, "", product_id), Ignored)

    assert ignores("paddle", "live", "pri_9", "pro_7")
    assert ignores("paddle", "live", "pri_7", "pro_1")
    assert ignores("stripe", "live", "price_7", "prod_1")
    assert not ignores("paddle", "sandbox", "pri_9", "pro_1")
    assert not ignores("stripe", "live", "pri_9", "pro_1")
    assert not ignores("paddle", "live", "pri_7")
    assert not ignores("paddle", "live", "pri_1", "pro_1"), "a plan's price"
    assert catalog.ignored == {("paddle", "live"), ("stripe", "live")}


SOLD_BY_MORE = """\
[plans.free]
name = "Free"
rank = 0
default = true

[plans.basic]
name = "Basic"
rank = 10
products.paddle.live = ["pro_app"]
lookup_keys.stripe.live = ["basic_monthly"]
lookup_keys.stripe.sandbox = ["basic_monthly"]

[plans.pro]
name = "Pro"
rank = 20
prices.paddle.live = ["pri_pro"]
prices.stripe.live = ["price_pro"]
lookup_keys.stripe.live = ["pro_monthly"]
products.stripe.live = ["prod_app"]

[ignore]
prices.paddle.live = ["pri_fee"]
lookup_keys.stripe.live = ["course"]
products.paddle.live = ["pro_shop"]
"""


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (("paddle", "live", "pri_deal", "", "pro_app"), "basic"),
        (("paddle", "live", "pri_pro", "", "pro_app"), "pro"),
        (("paddle", "live", "pri_pro", "", "pro_shop"), "pro"),
        (("paddle", "live", "pri_fee", "", "pro_app"), "ignored"),
        (("paddle", "live", "pri_deal", "", "pro_other"), None),
        (("paddle", "live", "pri_deal"), None),
        (("paddle", "sandbox", "pri_deal", "", "pro_app"), None),
        (("stripe", "live", "price_new", "basic_monthly", "prod_app"), "basic"),
        (("stripe", "live", "price_pro", "basic_monthly", "prod_other"), "pro"),
        (("stripe", "live", "price_new", "yearly", "prod_app"), "pro"),
        (("stripe", "live", "price_new", "course", "prod_app"), "ignored"),
        (("stripe", "sandbox", "price_new", "basic_monthly"), "basic"),
        (("stripe", "sandbox", "price_new", "pro_monthly", "prod_app"), None),
        # One kind of id is never taken for another.
        (("paddle", "live", "pro_app", "pro_app"), None),
        (("stripe", "live", "pro_monthly", "", "pro_monthly"), None),
    ],
)
def test_a_price_counts_before_its_lookup_key_and_that_before_its_product(
    item: tuple[str, ...], expected: str | None
) -> None:
    found = parse(SOLD_BY_MORE).find(*item)
    assert (found.key if isinstance(found, Offer) else found and "ignored") == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'products.stripe.live = ["prod_app"]',
            'products.paddle.sandbox = ["pro_app"]',
            "catalog.toml:19: plans.pro.products.paddle.sandbox has 'pro_app', which plans.basic.products.paddle.live",
        ),
        (
            '["pro_shop"]',
            '["pro_app"]',
            "catalog.toml:24: ignore.products.paddle.live has 'pro_app', which plans.basic",
        ),
        ('["pro_monthly"]', '["basic_monthly"]', "catalog.toml:18: plans.pro.lookup_keys.stripe.live has 'basic_month"),
        ("products.paddle.live", "products.padle.live", "catalog.toml:9: plans.basic.products.padle is not known here"),
        ("lookup_keys.stripe.live", "lookup_key.stripe.live", "catalog.toml:10: plans.basic.lookup_key is not known"),
    ],
)
def test_an_id_is_listed_once(old: str, new: str, expected: str) -> None:
    assert old in SOLD_BY_MORE
    with pytest.raises(CatalogError) as raised:
        parse(SOLD_BY_MORE.replace(old, new, 1), providers=["paddle", "stripe"])
    assert str(raised.value).startswith(expected)


def test_what_purchases_buy_is_known_by_provider_and_environment() -> None:
    assert parse(VALID).purchases == set()
    sold = parse(VALID.replace("rank = 20", 'rank = 20\npurchase = true\nexpires = "365d"'))
    assert sold.purchases == {("paddle", "live"), ("paddle", "sandbox")}
    assert (sold.plans["pro"].expires_ns, sold.addons["audit"].purchase) == (365 * 86_400 * 10**9, False)


def test_policy_has_defaults() -> None:
    policy = parse('[plans.a]\nname="A"\nrank=0\ndefault=true').policy
    assert policy.grace_ns == 7 * 86_400 * 10**9
    assert set(policy.overdue.values()) == {"hold"}
    assert policy.second_customer == policy.unsigned_tenant == "accept"
    assert policy.refund == "keep"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rank = 20", 'rank = "20"', "catalog.toml:12: plans.pro.rank must be an integer"),
        ("rank = 20", "rank = true", "catalog.toml:12: plans.pro.rank must be an integer"),
        ("rank = 20", "rank = -1", "catalog.toml:12: plans.pro.rank must not be negative"),
        ("rank = 20\n", "", "catalog.toml:10: plans.pro needs a rank"),
        ('name = "Pro"', 'name = " "', "catalog.toml:11: plans.pro.name must be a text that is not empty"),
        ('name = "Pro"', 'nmae = "Pro"', "catalog.toml:11: plans.pro.nmae is not known here"),
        ("default = true", "default = 1", "catalog.toml:8: plans.free.default must be true or false"),
        ("default = true", "default = false", "catalog.toml:5: plans has no default"),
        ("rank = 20", "rank = 20\ndefault = true", "catalog.toml:13: plans.pro.default is a second default"),
        ('["sso"]', '"sso"', "catalog.toml:13: plans.pro.features must be a list of texts"),
        ('["sso"]', '["sso", "sso"]', "catalog.toml:13: plans.pro.features has 'sso' twice"),
        ("seats = 0", "seats = -1", "catalog.toml:14: plans.pro.limits.seats must be a whole number"),
        ("seats = 0", "seats = 1.5", "catalog.toml:14: plans.pro.limits.seats must be a whole number"),
        ("seats = 0", f"seats = {2**53}", "catalog.toml:14: plans.pro.limits.seats must be a whole number"),
        ('"unlimited"', '"infinite"', "catalog.toml:14: plans.pro.limits.projects must be a whole number"),
        ("per_unit.limits = { seats = 1 }", 'per_unit.limits = { seats = "unlimited" }', "catalog.toml:15: "),
        ("per_unit.limits", "per_unit.features", "catalog.toml:15: plans.pro.per_unit.features is not known here"),
        ('"write"', '"own"', "catalog.toml:16: plans.pro.modules.billing must be one of read, write, admin"),
        ("prices.paddle.live = [\n", "prices.padle.live = [\n", "catalog.toml:17: plans.pro.prices.padle is not known"),
        ('"pri_2"', '"pri_1"', "catalog.toml:19: plans.pro.prices.paddle.live has 'pri_1' twice"),
        ('["pri_3"]', '["pri_1"]', "catalog.toml:21: plans.pro.prices.paddle.sandbox has 'pri_1', which"),
        ('["pri_4"]', '["pri_1"]', "catalog.toml:25: addons.audit.prices.paddle.live has 'pri_1', which"),
        ('"36h"', '"soon"', "catalog.toml:2: policy.grace must be a duration"),
        ('"36h"', "36", "catalog.toml:2: policy.grace must be a duration"),
        ('"apply"', '"act"', 'catalog.toml:3: policy.overdue.cancel must be "hold" or "apply"'),
        ("{ cancel =", "{ cancle =", "catalog.toml:3: policy.overdue.cancle is not known here"),
        (
            'grace = "36h"',
            'second_customer = "hold"',
            'catalog.toml:2: policy.second_customer must be "accept" or "park"',
        ),
        (
            'grace = "36h"',
            "unsigned_tenant = true",
            'catalog.toml:2: policy.unsigned_tenant must be "accept" or "park"',
        ),
        ('grace = "36h"', 'refund = "maybe"', 'catalog.toml:2: policy.refund must be "keep" or "revoke"'),
        ("rank = 20", "rank = 20\npurchase = 1", "catalog.toml:13: plans.pro.purchase must be true or false"),
        ("rank = 20", 'rank = 20\nexpires = "9d"', "catalog.toml:13: plans.pro.expires is for what a purchase buys"),
        ("rank = 20", 'rank = 20\npurchase = true\nexpires = "0s"', "catalog.toml:14: plans.pro.expires must be a dur"),
        ("rank = 20", 'rank = 20\npurchase = true\nexpires = "1y"', "catalog.toml:14: plans.pro.expires must be a dur"),
        ("[plans.pro]", "[plans.Pro]", "catalog.toml:10: plans.Pro is no key"),
        ("[addons.audit]", "[addon.audit]", "catalog.toml:23: addon is not known here"),
        ('"pri_8"', '"pri_1"', "catalog.toml:28: ignore.prices.paddle.live has 'pri_1', which plans.pro.prices.paddle"),
        ('"pri_8"', '"pri_9"', "catalog.toml:28: ignore.prices.paddle.live has 'pri_9' twice"),
        ('"pri_8"', "8", "catalog.toml:28: ignore.prices.paddle.live must be a list of texts"),
        (
            'stripe.live = ["prod_1"]',
            'paddle.sandbox = ["pro_1"]',
            "catalog.toml:30: ignore.products.paddle.sandbox has",
        ),
        ("products.stripe", "products.strip", "catalog.toml:30: ignore.products.strip is not known here"),
        ('["prod_1"]', '["prod_1", "prod_1"]', "catalog.toml:30: ignore.products.stripe.live has 'prod_1' twice"),
        (
            'prices.paddle.live = ["pri_8',
            'price.paddle.live = ["pri_8',
            "catalog.toml:28: ignore.price is not known here",
        ),
        (
            "products.stripe.live",
            "products.stripe.Live",
            "catalog.toml:30: ignore.products.stripe.Live is not an environ",
        ),
        ("rank = 20", "rank = ", "catalog.toml:12: Invalid value"),
        ("rank = 20", "rank = 20\nrank = 21", "catalog.toml:13: Cannot overwrite a value"),
        ('["pri_4"]', '["pri_4"', "catalog.toml:27: "),
    ],
)
def test_parse_names_the_line_of_what_is_wrong(old: str, new: str, expected: str) -> None:
    assert old in VALID
    with pytest.raises(CatalogError) as raised:
        parse(VALID.replace(old, new, 1), providers=["paddle", "stripe"])
    assert str(raised.value).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'app = "crm"\n\n[plans',
            'app = "shop"\n\n[plans',
            "names an app without plans: expected crm, mail",
        ),
        ('app = "crm"\n\n[plans', "\n\n[plans", "policy needs an app, the leading application: one of crm, mail"),
        ('app = "crm"\n\n[plans', 'app = "mail"\n\n[plans', "plans has no default of mail"),
        ('app = "crm"\nrank = 10', 'app = "crm"\ndefault = true\nrank = 10', "plans.crm.default is a second default"),
        ('app = "mail"\nrank', 'app = "Mail"\nrank', "plans.mail.app must be an application's name"),
        ('app = "crm"\n\n[plans', 'app = "crm"\ncombine = "min"\n\n[plans', 'policy.combine must be "sum" or "max"'),
    ],
)
def test_what_is_wrong_with_applications_is_named(old: str, new: str, expected: str) -> None:
    assert APPS_TEXT.count(old) == 1
    with pytest.raises(CatalogError) as raised:
        parse(APPS_TEXT.replace(old, new))
    assert expected in str(raised.value)


def test_a_leading_application_without_any_is_wrong() -> None:
    with pytest.raises(CatalogError, match=r"policy.app names an app without plans: expected none"):
        parse('[policy]\napp = "crm"\n[plans.free]\nname = "Free"\nrank = 0\ndefault = true')


def test_the_only_application_leads() -> None:
    assert parse(CATALOG_TEXT.replace("\nname =", '\napp = "only"\nname =')).leading == "only"


def test_the_catalog_of_an_application_has_what_is_sold_for_it_or_for_all() -> None:
    mail = APPS_CATALOG.apps["mail"]
    assert (sorted(mail.plans), sorted(mail.addons), mail.default) == (["mail", "suite"], ["audit", "inboxes"], NO_PLAN)
    assert isinstance(mail.find("paddle", "live", "pri_crm"), Ignored)
    assert mail.find("paddle", "live", "pri_mail") is APPS_CATALOG.plans["mail"]
    assert mail.find("paddle", "live", "pri_new") is None


def test_parse_wants_a_plan() -> None:
    with pytest.raises(CatalogError, match=r"catalog.toml:1: the catalog has no plans"):
        parse("")


def test_load_calls_the_file_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "plans.toml"
    with pytest.raises(CatalogError, match=r"plans.toml:1: cannot be read: No such file"):
        load(path)
    path.write_text("x = ")
    with pytest.raises(CatalogError, match=r"plans.toml:1: Invalid value"):
        load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(CatalogError, match=r"not UTF-8"):
        load(path)
    path.write_bytes(b"#" * (CATALOG_MAX_BYTES + 1))
    with pytest.raises(CatalogError, match=r"larger than"):
        load(path)
