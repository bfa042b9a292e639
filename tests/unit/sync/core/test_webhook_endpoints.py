"""The setting of endpoints: what it may have, and what is said of a wrong one without showing a secret."""

from __future__ import annotations

import base64

import pytest

from sync.core.webhook_endpoints import parse_endpoints

KEY = b"0123456789abcdefghijklmn"
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


def test_an_endpoint_has_a_name_an_address_and_secrets() -> None:
    app, audit = parse_endpoints(
        f" app https://a.example/hooks {SECRET} {SECRET.rstrip('=')},\naudit http://[::1]:9/ {SECRET},"
    )
    assert (app.name, app.url, app.keys) == ("app", "https://a.example/hooks", (KEY, KEY))
    assert (app.is_confidential, audit.is_confidential) == (True, True)
    assert not parse_endpoints(f"app http://a.example {SECRET}")[0].is_confidential
    assert parse_endpoints("") == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("app", "NAME URL SECRET"),
        ("app https://a.example", "NAME URL SECRET"),
        (f"https://a.example {SECRET}", "NAME URL SECRET"),
        (f"App https://a.example {SECRET}", "NAME URL SECRET"),
        (f"app ftp://a.example {SECRET}", "the address of app"),
        (f"app https:// {SECRET}", "the address of app"),
        (f"app https://a.example:x/ {SECRET}", "the address of app"),
        (f"app https://user:hidden@a.example {SECRET}", "the address of app"),
        (f"app https://a.example/#hidden {SECRET}", "the address of app"),
        ("app https://a.example hidden", "a secret of app must be whsec_"),
        ("app https://a.example whsec_aGlkZGVu", "a secret of app must be whsec_ and 24 to 64 bytes"),
        ("app https://a.example whsec_!!!hidden", "a secret of app must be whsec_"),
        (f"app https://a.example {' '.join([SECRET] * 5)}", "more than 4 secrets"),
        (f"app https://a.example {SECRET}, app https://b.example {SECRET}", "the same name"),
        (",".join(f"a{n} https://a.example {SECRET}" for n in range(17)), "16 endpoints"),
    ],
)
def test_what_is_wrong_is_named_and_never_shown(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as raised:
        parse_endpoints(text)
    assert "hidden" not in str(raised.value)
    assert SECRET not in str(raised.value)
