from __future__ import annotations

from pathlib import Path

import pytest

from sync.simulator.scenarios.scenario import BUNDLED, Faults, ScenarioError, load, parse

LEAST = 'title = "T"\nhistory = [{ do = "upgrade" }]\n'


def test_every_kind_of_torture_comes_along() -> None:
    assert {"reorder", "duplicate", "drop", "late", "skew", "outage", "torture"} <= set(BUNDLED)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_scenarios_can_be_used(name: str) -> None:
    found = load(name)

    assert found.title
    assert found.faults != Faults()


def test_a_file_of_one_s_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(LEAST + "tenants = 3\n[faults]\nreorder = 0.5\n")

    found = load(str(path))

    assert (found.title, found.tenants, found.faults.reorder, found.history) == ("T", 3, 0.5, ({"do": "upgrade"},))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("title = ?", "line 1"),
        ("tenants = 1", "title"),
        (LEAST + "colour = 1", "colour"),
        (LEAST + "tenants = 0", "tenants"),
        (LEAST + "[faults]\nreorder = 1.5", "faults.reorder"),
        (LEAST + "[faults]\nwind = 1", "faults.wind"),
        (LEAST + "[faults]\noutage_from = 0.5\noutage_to = 0.4", "outage_to"),
        ('title = "T"', "nothing happens"),
        ('title = "T"\nactions = 3', "nothing happens"),
        ('title = "T"\nhistory = [{ plan = "pro" }]', "each entry needs an action"),
        ('title = "T"\nhistory = [{ do = "fly" }]', "unknown action fly"),
        ('title = "T"\nactions = 1\nmix = { fly = 1 }', "unknown action fly"),
        ('title = "T"\nactions = 1\nmix = { seats = 0 }', "mix.seats"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(ScenarioError) as error:
        parse(text, "mine.toml")

    assert str(error.value).startswith("mine.toml: ")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_no_such_file_names_the_bundled_ones(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"the bundled scenarios are: .*reorder"):
        load(str(tmp_path / "none.toml"))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(ScenarioError, match="not UTF-8"):
        load(str(tmp_path / "x.toml"))
