"""An error reply about a stored value is told from one that any command would get."""

from __future__ import annotations

from typing import Any

import pytest
from redis._parsers.base import BaseParser

from sync.store.command_pipeline import failure
from sync.store.models import StoreRejected

OF_VALUES = (
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "WRONGTYPE Operation against a key holding the wrong kind of value script: 0ab, on @user_script:12.",
    "ERR hash value is not an integer",
    "ERR value is not a valid float",
    "ERR increment or decrement would overflow",
    "ERR The stream has exhausted the last possible ID, unable to add more items",
    "ERR user_script:12: attempt to compare nil with number script: 0ab, on @user_script:12.",
    "ERR Error running script (call to f_0ab): @user_script:12: user_script:12: attempt to compare nil with number",
    "ERR Error running script (call to f_0ab): @user_script:1: -WRONGTYPE Operation against a key holding",
)
OF_THE_SERVER = (
    "OOM command not allowed when used memory > 'maxmemory'.",
    "OOM command not allowed when used memory > 'maxmemory'. script: 0ab, on @user_script:12.",
    "ERR Error running script (call to f_0ab): @user_script:1: -OOM command not allowed when used memory",
    "READONLY You can't write against a read only replica. script: 0ab, on @user_script:12.",
    "MISCONF Errors writing to the AOF file: No space left on device script: 0ab, on @user_script:12.",
    "NOREPLICAS Not enough good replicas to write.",
    "BUSY Redis is busy running a script.",
    "CLUSTERDOWN The cluster is down",
    "LOADING Redis is loading the dataset in memory",
    "NOPERM User planwire has no permissions to run the 'hset' command script: 0ab, on @user_script:12.",
    "ERR max number of clients reached",
)


def parsed(text: str) -> Exception:
    parse: Any = BaseParser.parse_error
    error: Exception = parse(text)
    return error


@pytest.mark.parametrize("text", OF_VALUES)
def test_an_error_about_a_value_is_a_rejection(text: str) -> None:
    assert isinstance(failure(parsed(text)), StoreRejected)


@pytest.mark.parametrize("text", OF_THE_SERVER)
def test_an_error_that_any_command_would_get_is_not(text: str) -> None:
    assert not isinstance(failure(parsed(text)), StoreRejected)
