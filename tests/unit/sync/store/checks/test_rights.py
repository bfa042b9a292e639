"""Which ACL rules are missing, told from which commands are allowed; and that every command in use is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sync.store.checks import rights
from sync.store.keys import DEFAULT_KEYS as KEYS, Keys

ROOT = Path(__file__).resolve().parents[5]
ASKED = rights.commands(KEYS)
CLUSTER = rights.commands(KEYS, is_cluster=True)


def missing(*refused: str, asked: list[rights.Command] = ASKED) -> list[str]:
    """What is missing of a user who may not run these, whatever the arguments."""
    return rights.missing_rules(KEYS, asked, [command[0] not in refused for command in asked])


def test_nothing_is_missing_where_all_is_allowed() -> None:
    assert missing() == []
    assert missing(asked=CLUSTER) == []


@pytest.mark.parametrize(
    ("refused", "rules"),
    [
        (("ZADD",), ["+zadd"]),
        (("ZADD", "TIME", "EVALSHA"), ["+zadd", "+evalsha", "+time"]),
        (("PUBLISH",), ["+publish"]),
        (("SUBSCRIBE",), ["+subscribe"]),
        (("PUBLISH", "SUBSCRIBE"), ["&pw:*"]),
    ],
)
def test_a_command_is_named_and_channels_are_where_none_of_theirs_is_allowed(
    refused: tuple[str, ...], rules: list[str]
) -> None:
    assert missing(*refused) == rules


def test_keys_are_named_where_no_command_on_them_is_allowed() -> None:
    on_keys = {command[0] for command in ASKED if any(word.startswith("pw:") for word in command[1:])}
    refused = on_keys - {"PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"}
    assert missing(*refused) == ["~pw:*"]
    assert missing(*refused, "PUBLISH", "SUBSCRIBE", "PING") == ["~pw:*", "&pw:*", "+ping"]


def test_the_rules_name_the_installations_own_prefix_and_database() -> None:
    keys = Keys("acme", 3)
    asked = rights.commands(keys)
    on_keys = {command[0] for command in asked if any(word.startswith("acme:") for word in command[1:])}
    refused = {*on_keys, "PUBLISH", "SUBSCRIBE"} - {"UNSUBSCRIBE"}
    assert rights.missing_rules(keys, asked, [command[0] not in refused for command in asked]) == [
        "~acme:*",
        "&acme@3:*",
    ]


def test_on_a_cluster_it_is_the_sharded_commands_and_its_own() -> None:
    assert missing("SPUBLISH", "SSUBSCRIBE", asked=CLUSTER) == ["&pw:*"]
    assert missing("CLUSTER", "ASKING", asked=CLUSTER) == ["+cluster|slots", "+cluster|info", "+asking"]
    assert not {"PUBLISH", "SUBSCRIBE"} & {command[0] for command in CLUSTER}


def test_waiting_for_the_disk_is_asked_for_only_where_it_is_done() -> None:
    assert "WAITAOF" not in {command[0] for command in ASKED}
    assert "WAITAOF" in {command[0] for command in rights.commands(KEYS, durable=True)}


def test_the_sentence_names_rules_that_can_be_pasted_and_is_bounded() -> None:
    assert rights.sentence(["&pw:*", "+zadd"]) == (
        "the store's ACL user lacks rights to channels, commands: add &pw:* +zadd (the whole rule: docs/stores.md)"
    )
    everything = rights.sentence(missing(*(command[0] for command in ASKED if command[0] not in ("HSET", "PUBLISH"))))
    assert "and " in everything
    assert len(everything) < 300


def test_every_command_of_a_script_is_asked_for() -> None:
    scripts = [*(ROOT / "sync").rglob("*.lua"), *(ROOT / "gateway").rglob("*.lua")]
    called = {name for path in scripts for name in re.findall(r"redis\.p?call\(\s*'([A-Z]+)'", path.read_text("utf-8"))}
    assert {"HSET", "ZADD", "XADD", "TIME"} <= called
    # INFO is of use and no condition: usage_meters.lua goes on without it.
    assert called - {"INFO"} <= {command[0] for command in ASKED}


def test_every_command_is_complete() -> None:
    """Redis 7.0 ends with a segmentation fault where it is asked about a PUBLISH without a channel."""
    assert all(len(command) > 1 or command[0] in ("PING", "TIME", "ASKING") for command in [*ASKED, *CLUSTER])
