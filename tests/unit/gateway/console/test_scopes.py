"""The tokens of PLANWIRE_CONSOLE_TOKEN and their scopes."""

from __future__ import annotations

import pytest

from gateway.console import scopes
from gateway.console.scopes import ConsoleTokenError


def test_a_token_alone_has_every_scope_and_named_ones_can_always_read() -> None:
    found = scopes.parse("plain, read:r,admin:a,private+admin:p ,private:with:colon")
    assert [(token.text.decode(), token.scopes) for token in found] == [
        ("plain", ("read", "admin", "private")),
        ("r", ("read",)),
        ("a", ("read", "admin")),
        ("p", ("read", "admin", "private")),
        ("with:colon", ("read", "private")),
    ]
    assert scopes.parse("") == ()
    assert scopes.find(found, "a") is found[2]
    assert scopes.find(found, "admin:a") is None
    assert scopes.find(found, "") is None
    assert len({(token.id, token.cookie_key, token.stream_key) for token in found}) == 5
    assert all(token.cookie_key != token.stream_key for token in found)
    assert "plain" not in repr(found[0])


@pytest.mark.parametrize("text", ["a,a", "read:a,admin:a", "read: ,b"])
def test_a_setting_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ConsoleTokenError) as error:
        scopes.parse(text)
    assert "a," not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "hint"),
    [
        ("reed:hunter2", "(did you mean read:?)"),
        ("Admin:hunter2", "(did you mean admin:?)"),
        ("admin+privat:hunter2", "(did you mean admin+private:?)"),
        ("x,admin :hunter2", "(did you mean admin:?)"),
        ("hunter2:hunter3", ""),
        (":hunter2", ""),
        ("https://hunter2", ""),
    ],
)
def test_a_scope_that_there_is_not_is_an_error_that_names_those_that_are(entry: str, hint: str) -> None:
    with pytest.raises(ConsoleTokenError) as raised:
        scopes.parse(entry)
    said = str(raised.value)
    assert "known are read, admin, private" in said
    assert "as admin+private:TOKEN" in said
    assert ("did you mean" in said) is bool(hint)
    assert hint in said
    assert "hunter" not in said
