"""The page of settings and the list of their names are those of the models."""

from __future__ import annotations

from pathlib import Path

from gateway.cli.settings_reference import Setting, everything
from sync.process import environment
from tools.docs.settings import names, page

ROOT = Path(__file__).resolve().parents[4]


def test_a_row_keeps_its_table_whole() -> None:
    facts = ("milliseconds", "above 0, at most 9")
    setting = Setting("PLANWIRE_WAIT_MS", "1.5", *facts, "How <long> | what.", ("one",), "Here")
    row = "| `PLANWIRE_WAIT_MS` | `1.5` | How &lt;long> \\| what. (milliseconds, above 0, at most 9) | one |"
    assert row in page([setting]).splitlines()


def test_the_committed_page_is_in_step() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text("utf-8") == page(everything()), "run: make docs"


def test_the_file_of_names_is_in_step() -> None:
    committed = Path(environment.__file__).with_name("setting_names.txt").read_text("ascii")
    assert committed == names(everything()), "run: make docs"
