"""Every setting of every process is known by name, and a name that is not known is an error with a hint."""

from __future__ import annotations

import pytest

from gateway.settings import GatewaySettings, variable
from sync.settings import SyncSettings
from sync.state import env
from sync.state.env import PREFIX, UnknownSettingError, check_names

BESIDE_THE_MODELS = {
    "PLANWIRE_OUTBOX_URL",  # the relay's own, beside the settings of sync
    "PLANWIRE_PUBLISH_KEY",  # the plain key, which the command line reads from dev.env
}


def test_the_names_are_those_of_the_two_settings_models() -> None:
    gateway = {variable(field) for field in GatewaySettings.model_fields} - {"PORT"}
    sync = {PREFIX + field.upper() for field in SyncSettings.model_fields} - {"PLANWIRE_PORT"}
    assert gateway | sync | BESIDE_THE_MODELS == env.NAMES
    assert gateway - env.GATEWAY_NAMES == set()
    assert sync - env.SYNC_NAMES == set()


def test_known_names_and_names_of_others_pass() -> None:
    check_names([*env.NAMES, "PATH", "PORT", "planwire_redis_url", "XPLANWIRE_NOPE"])


def test_a_misspelt_name_is_an_error_that_says_what_was_meant() -> None:
    with pytest.raises(UnknownSettingError) as caught:
        check_names({"PLANWIRE_REDIS_ULR": "", "PATH": ""})
    assert caught.value.name == "PLANWIRE_REDIS_ULR"
    assert caught.value.closest == "PLANWIRE_REDIS_URL"
    assert str(caught.value) == "unknown setting PLANWIRE_REDIS_ULR; did you mean PLANWIRE_REDIS_URL?"


def test_a_name_like_no_other_gets_no_hint() -> None:
    with pytest.raises(UnknownSettingError) as caught:
        check_names(["PLANWIRE_QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ"])
    assert "did you mean" not in str(caught.value)


def test_the_alphabetically_first_unknown_name_is_reported() -> None:
    with pytest.raises(UnknownSettingError, match="PLANWIRE_AAAA"):
        check_names(["PLANWIRE_ZZZZ", "PLANWIRE_AAAA"])


def test_a_setting_may_have_the_name_that_older_builds_ignore() -> None:
    given = {"X_PLANWIRE_PUBLISH_RIGHTS": "a", "PLANWIRE_PORT": "1", "X_PLANWIRE_LATER": "b", "X_OTHER": "c"}
    assert env.plain_names(given) == {
        "PLANWIRE_PUBLISH_RIGHTS": "a",
        "PLANWIRE_PORT": "1",
        "X_PLANWIRE_LATER": "b",
        "X_OTHER": "c",
    }
    assert env.ignored_names(given) == ["X_PLANWIRE_LATER"]
    env.check_names(name for name in given if name != "PLANWIRE_PORT")  # as a build does that does not know them
