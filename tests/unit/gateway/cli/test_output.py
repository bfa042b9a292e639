"""What commands print."""

from __future__ import annotations

import pytest

from gateway.cli import output


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0.0401, "40 ms"),
        (2.54, "2.5 s"),
        (200, "3 min 20 s"),
        (3 * 3600 + 61, "3 h 1 min"),
        (2 * 86_400 + 3600, "2 d 1 h"),
        (-0.2, "-200 ms"),
    ],
)
def test_a_duration_is_shown_for_people(seconds: float | None, shown: str) -> None:
    assert output.span(seconds) == shown


def test_a_table_without_rows_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.say_list(False, [], ("a",), "nothing is parked")
    output.say_list(False, [{"a": 1}], ("a",), "nothing is parked")
    assert capsys.readouterr().out == "nothing is parked\na\n1\n"


def test_json_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.say_list(True, [{"a": 1}, {"a": "\x1b"}], ("a",), "nothing is parked")
    assert capsys.readouterr().out == '{"a":1}\n{"a":"\\u001b"}\n'
