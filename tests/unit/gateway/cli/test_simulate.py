"""`planwire simulate` either acts or plays a scenario, and takes the options of one of them."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from gateway import cli


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "missing ACTION"),
        ("upgrade", "missing option --tenant"),
        ("upgrade --tenant a --seed 0", "belong to --scenario"),
        ("upgrade --tenant a --target http://x", "belong to --scenario"),
        ("upgrade --scenario torture", "--scenario takes"),
        ("--scenario torture --quantity 0", "--scenario takes"),
        ("--scenario torture --set when=now", "--scenario takes"),
        ("upgrade --tenant a --url http://s --set tenant=b", "is not NAME=VALUE"),
        ("upgrade --tenant a --url http://s --set =b", "is not NAME=VALUE"),
    ],
)
def test_options_that_do_not_go_together_are_bad_input(arguments: str, says: str) -> None:
    result = CliRunner().invoke(cli.cli, ["simulate", *arguments.split()])
    assert result.exit_code == 2
    assert says in result.output
