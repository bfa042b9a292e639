"""`planwire catalog check` and `diff`: what they say of files."""

from __future__ import annotations

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
        "name, features, per_unit, modules\n"
    )


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
    assert result.output.startswith("existing customers of pro\n  gains limit seats: 9 -> 99\n")


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
