"""The table of faults is written between its markers, with the figures and the violations."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from tests.faults.__main__ import BEGIN, END, Measured, markdown, put

ROOT = Path(__file__).resolve().parents[2]


def test_a_page_keeps_what_is_around_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put("new", page)
    assert page.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    alone = tmp_path / "alone.md"
    put("new", alone)
    put("newer", alone)
    assert alone.read_text() == "newer\n"


def test_the_page_has_the_marks() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_what_went_wrong_is_said_and_the_rest_is_kept() -> None:
    measured = Measured(wrong=["tabs_cut: tab0 went back"])
    measured.seconds["store_killed"] += [0.1, 0.3, 0.2]
    names = ["tabs_cut", "store_killed"]
    text = markdown(names, measured, Namespace(rounds=3, rigs=2, seed=1, only=names, minutes=1.5, engine="redis"))
    assert "| tabs_cut | All of a gateway's tabs lose their connection at once. | - | - | 0 |" in text
    assert "| 0.20 | 0.30 | 3 |" in text
    assert "1 violation:\n- tabs_cut: tab0 went back" in text
    said = "--only tabs_cut --only store_killed --engine redis --rigs 2 --minutes 1.5"
    assert f"`python -m tests.faults table --rounds 3 {said}`" in text
