"""`planwire catalog check` and `diff`: what they say of files."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
from click.testing import CliRunner, Result

from gateway import cli

FREE = '[plans.free]\nname = "Free"\nrank = 0\ndefault = true\n'
PRO = '[plans.pro]\nname = "Pro"\nrank = 20\nlimits = { seats = 9 }\nprices.paddle.live = ["pri_1", "pri_2"]\n'
VERSION = '[[plans.pro.versions]]\nversion = "2026"\nuntil = 2027-01-01T00:00:00Z\nlimits = { seats = 99 }\n'


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, ["catalog", *arguments])


def written(directory: Path, text: str, name: str = "new.toml") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def test_check_says_what_is_there(tmp_path: Path) -> None:
    path = written(tmp_path, FREE + PRO + VERSION)
    assert run("check", path).output == (
        f"{path}: 2 plans, 0 add-ons, 2 ids; the default is free\n"
        "plan pro: new customers get version current\n"
        "  version 2026 until 2027-01-01T00:00:00Z; as in the plan, also after later edits of it: "
        "name, features, per_unit, modules, credits\n"
    )


METERS = """
[meters.seats]
kind = "allocated"
[meters.calls]
kind = "consumable"
limit = "seats"
reset = "month"
overage = "soft"
"""


def test_check_says_how_use_is_counted(tmp_path: Path) -> None:
    assert run("check", written(tmp_path, FREE + PRO + METERS)).output.splitlines()[1:] == [
        "meter seats: allocated, of the limit seats, overage deny",
        "meter calls: consumable, of the limit seats, anew each month, overage soft",
    ]


def test_diff_says_what_an_edit_of_meters_changes(tmp_path: Path) -> None:
    old = written(tmp_path, FREE + PRO + METERS, "old.toml")
    found = run("diff", old, written(tmp_path, FREE + PRO + METERS.replace("soft", "deny").replace("month", "never")))
    assert found.output == "[meters.calls]\n  changes reset: month -> never\n  changes overage: soft -> deny\n"


def test_what_cannot_be_used_is_bad_input_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, FREE + PRO + VERSION.replace("until", "unto"))
    for arguments in (("check", path), ("diff", path, path)):
        result = run(*arguments)
        assert result.exit_code == 2
        assert f"{path}:12: plans.pro.versions[0].unto is not known here" in result.output
    assert run("check").exit_code == 2
    assert run("check", str(tmp_path / "none.toml")).exit_code == 2


def test_the_catalog_of_the_environment_is_compared_with(tmp_path: Path) -> None:
    old, new = written(tmp_path, FREE + PRO, "old.toml"), written(tmp_path, FREE + PRO + VERSION)
    result = CliRunner(env={"PLANWIRE_CATALOG": new}).invoke(cli.cli, ["catalog", "diff", old])
    assert result.output.startswith(
        "existing customers of pro\n  get pro 2026 by pri_1, pri_2\n  gains limit seats: 9 -> 99\n"
    )


def test_diff_says_what_existing_customers_get(tmp_path: Path) -> None:
    old = written(tmp_path, FREE + PRO, "old.toml")
    basic = '[plans.basic]\nname = "Basic"\nrank = 10\nprices.paddle.live = ["pri_2"]\n'
    moved = run("diff", old, written(tmp_path, FREE + PRO.replace(', "pri_2"', "") + basic))
    assert "existing customers of pro\n  get basic by pri_2\n  loses limit seats: 9 -> none\n" in moved.output
    gone = run("diff", old, written(tmp_path, FREE + PRO.replace(', "pri_2"', "")))
    assert gone.output == ("existing customers of pro\n  the catalog no longer has pri_2: what was published stays\n")
    assert run("diff", old, old).output == "no difference: nobody gains or loses anything\n"


def test_diff_prints_the_lines_that_keep_existing_customers(tmp_path: Path) -> None:
    old, cut = written(tmp_path, FREE + PRO, "old.toml"), FREE + PRO.replace("9", "3")
    found = run("diff", old, written(tmp_path, cut)).output
    lines = found[found.index("[[plans.pro.versions]]") :]
    kept = written(tmp_path, cut + lines)
    assert run("diff", old, kept).output == "new customers of pro\n  loses limit seats: 9 -> 3\n"
    (row,) = map(orjson.loads, run("diff", old, kept, "--json").output.splitlines())
    assert (row["who"], row["offer"], row["difference"]["loses"]) == ("new", "pro", ["limit seats: 9 -> 3"])


def printed_version(*arguments: str) -> str:
    """The lines to add to the catalog, which `diff` prints last."""
    found = run("diff", *arguments).output
    return found[found.index("[[plans.pro.versions]]") :]


def test_the_lines_have_a_name_that_no_version_has(tmp_path: Path) -> None:
    """Also for a second edit on the same day."""
    first = printed_version(written(tmp_path, FREE + PRO, "old.toml"), written(tmp_path, FREE + PRO.replace("9", "7")))
    before = FREE + PRO.replace("9", "7") + re.sub("until = .*", "until = 2026-01-01T00:00:00Z", first)
    old, new = written(tmp_path, before, "old.toml"), before.replace("seats = 7", "seats = 5")
    second = printed_version(old, written(tmp_path, new))
    assert run("check", written(tmp_path, new + second)).exit_code == 0
    found = run("diff", old, written(tmp_path, new + second)).output
    assert found == "new customers of pro\n  loses limit seats: 7 -> 5\n"


def test_a_named_version_needs_another_name_for_the_edited_terms(tmp_path: Path) -> None:
    named = PRO.replace("rank", 'version = "2026"\nrank')
    old, cut = written(tmp_path, FREE + named, "old.toml"), named.replace("9", "3")
    new = written(tmp_path, FREE + cut)
    assert "with another version than '2026' in [plans.pro], and these lines:" in run("diff", old, new).output
    lines = printed_version(old, new)
    kept = written(tmp_path, FREE + cut.replace('"2026"', '"2027"') + lines)
    assert run("diff", old, kept).output == "new customers of pro\n  loses limit seats: 9 -> 3\n"


def test_no_lines_are_printed_that_keep_nothing(tmp_path: Path) -> None:
    """A price that another plan has now is not the plan's any more, whatever versions it has."""
    old = written(tmp_path, FREE + PRO, "old.toml")
    basic = '[plans.basic]\nname = "Basic"\nrank = 10\nprices.paddle.live = ["pri_2"]\n'
    assert "versions]]" not in run("diff", old, written(tmp_path, FREE + PRO.replace(', "pri_2"', "") + basic)).output


def test_a_plan_that_becomes_an_add_on_of_its_name_has_no_versions(tmp_path: Path) -> None:
    old = written(tmp_path, FREE + PRO, "old.toml")
    addon = '[addons.pro]\nname = "Pro"\nprices.paddle.live = ["pri_1", "pri_2"]\n'
    result = run("diff", old, written(tmp_path, FREE + addon))
    assert result.exit_code == 0
    assert "existing customers of pro\n  loses limit seats: 9 -> none\n" in result.output
    assert "versions]]" not in result.output


def test_an_application_without_a_default_plan_is_no_difference(tmp_path: Path) -> None:
    mail = '[plans.mail]\nname = "Mail"\nrank = 10\napp = "mail"\n'
    path = written(tmp_path, f'[policy]\napp = "crm"\n{FREE}app = "crm"\n{mail}')
    assert run("diff", path, path).output == "no difference: nobody gains or loses anything\n"


def test_rules_for_all_and_ignored_prices_are_named(tmp_path: Path) -> None:
    old = written(tmp_path, FREE + PRO, "old.toml")
    ignored = '[ignore]\nprices.paddle.live = ["pri_2"]\n[policy]\ngrace = "1d"\n'
    result = run("diff", old, written(tmp_path, FREE + PRO.replace(', "pri_2"', "") + ignored))
    assert result.output == (
        "[policy]\n  changes grace: 7d -> 1d\n"
        "existing customers of pro\n  the catalog ignores pri_2: other software sells it\n"
        "  loses limit seats: 9 -> none\n"
    )


def test_an_environment_that_cannot_be_is_bad_input(tmp_path: Path) -> None:
    old = written(tmp_path, FREE + PRO, "old.toml")
    result = run("diff", old, old, "--tenants", "--env", "no such!")
    assert result.exit_code == 2
    assert "'no such!' is no environment's name" in result.output


def test_the_version_that_existing_customers_get_is_named(tmp_path: Path) -> None:
    past = VERSION.replace("2027", "2026")
    old = written(tmp_path, FREE + PRO + past, "old.toml")
    new = written(tmp_path, FREE + PRO + past.replace("2026-01", "2025-01"))
    found = run("diff", old, new).output
    assert found == "existing customers of pro 2026\n  get pro current by pri_1, pri_2\n  loses limit seats: 99 -> 9\n"
