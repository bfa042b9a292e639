"""Which origins may be listed, how they are spelt, and which page is the gateway's own."""

from __future__ import annotations

import pytest

from gateway.auth.origins import is_loopback, is_own_page, is_rebinding_proof, parse
from gateway.settings import GatewaySettings, SettingsError

CHROME_ID = "abcdefghijklmnopabcdefghijklmnop"
UUID = "0F5a1c2e-1111-2222-3333-444455556666"


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://App.Example.com:443", "https://app.example.com"),
        ("HTTP://x:80", "http://x"),
        ("http://x:0080", "http://x"),
        ("https://x:80", "https://x:80"),
        ("http://x:443", "http://x:443"),
        ("https://app.example.com.", "https://app.example.com."),
        ("https://under_score.example", "https://under_score.example"),
        ("https://m\N{LATIN SMALL LETTER U WITH DIAERESIS}nchen.example", "https://xn--mnchen-3ya.example"),
        ("https://M\N{LATIN CAPITAL LETTER U WITH DIAERESIS}NCHEN.example:443", "https://xn--mnchen-3ya.example"),
        ("https://fa\N{LATIN SMALL LETTER SHARP S}.de", "https://xn--fa-hia.de"),
        ("https://xn--ls8h.la", "https://xn--ls8h.la"),
        ("https://\N{FULLWIDTH LATIN SMALL LETTER A}pp.example", "https://app.example"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
        ("https://[2001:DB8::1]:443", "https://[2001:db8::1]"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("ionic://localhost", "ionic://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("https://tauri.localhost", "https://tauri.localhost"),
        ("app://bundle", "app://bundle"),
        ("my-app+x.y://host:8080", "my-app+x.y://host:8080"),
        (f"chrome-extension://{CHROME_ID}", f"chrome-extension://{CHROME_ID}"),
        (f"moz-extension://{UUID}", f"moz-extension://{UUID.lower()}"),
        (f"safari-web-extension://{UUID}", f"safari-web-extension://{UUID.lower()}"),
    ],
)
def test_an_origin_is_kept_as_browsers_spell_it(written: str, sent: str) -> None:
    assert parse(written) == sent
    settings = GatewaySettings.from_env({"PLANWIRE_JWT_SECRET": "x" * 32, "PLANWIRE_ALLOWED_ORIGINS": f"{written}\n"})
    assert settings.origin_allowed(sent)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("*", "a wildcard matches none; list the origin of every page"),
        ("https://*.example.com", "a wildcard matches none"),
        ("http://localhost:*", "a wildcard matches none"),
        ("null", "every local file and every sandboxed frame"),
        ("NULL", "every local file"),
        ("example.com", "SCHEME://HOST"),
        ("//example.com", "SCHEME://HOST"),
        ("https:example.com", "SCHEME://HOST"),
        ("1http://x", "SCHEME://HOST"),
        ("https://", "no path, no final slash"),
        ("https://a.com/", "no path, no final slash"),
        ("https://a.com/x", "no path, no final slash"),
        ("https://a.com?x", "no path, no final slash"),
        ("https://a.com#x", "no path, no final slash"),
        ("https://a.com\\x", "no path, no final slash"),
        ("https://user@a.com", "names no user"),
        ("https://user:pass@a.com", "names no user"),
        ("wss://a.com", "the page's own scheme, https"),
        ("ws://a.com", "the page's own scheme, http"),
        ("ftp://a.com", "pages of the scheme ftp"),
        ("file://", "no path"),
        ("file://localhost", "pages of the scheme file"),
        ("data://x", "pages of the scheme data"),
        ("htps://a.com", "did you mean https://"),
        ("httpss://a.com", "did you mean https://"),
        ("https://a.com:0", "the port is a number"),
        ("https://a.com:65536", "the port is a number"),
        ("https://a.com:99999999999", "the port is a number"),
        ("https://a.com:", "the port is a number"),
        ("https://a.com:x", "the port is a number"),
        ("https://a.com:1:2", "the port is a number"),
        ("https://:443", "no host"),
        ("https://a b", "no host"),
        ("https://a..b", "no host"),
        ("https://a%2eb", "no host"),
        ("https://a<b", "no host"),
        ("http://127.1", "four numbers"),
        ("http://127.0.0.01", "four numbers"),
        ("http://0x7f000001", "four numbers"),
        ("http://2130706433", "four numbers"),
        ("http://300.0.0.1", "four numbers"),
        ("http://[::1", "IPv6"),
        ("http://[::1]x", "IPv6"),
        ("http://[fe80::1%eth0]", "IPv6"),
        ("http://[nonsense]", "IPv6"),
        ("http://[::1]:", "the port is a number"),
        ("https://\N{PILE OF POO}.la", "in punycode"),
        ("chrome-extension://x", "the extension's id"),
        (f"chrome-extension://{CHROME_ID}:80", "the extension's id"),
        ("moz-extension://planwire", "the extension's id"),
        ("capacitor://", "no path, no final slash"),
        ("capacitor://local host", "no host"),
    ],
)
def test_what_no_browser_ever_sends_is_refused_and_says_what_to_write(written: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"is not an origin such as https://app\.example\.com: ") as raised:
        parse(written)
    assert says in str(raised.value)
    with pytest.raises(SettingsError, match="PLANWIRE_ALLOWED_ORIGINS: ") as refused:
        GatewaySettings.from_env(
            {"PLANWIRE_JWT_SECRET": "x" * 32, "PLANWIRE_ALLOWED_ORIGINS": f"https://a.com,{written}"}
        )
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("https://console.example", "console.example", True),
        ("https://Console.example", "CONSOLE.example", True),
        ("https://console.example", "console.example:443", True),
        ("http://console.example:9755", "console.example:9755", True),
        ("http://[::1]:80", "[::1]", True),
        ("http://console.example:9755", "console.example", False),
        ("https://console.example", "console.example:80", False),
        ("https://evil.example", "console.example", False),
        ("null", "null", False),
        ("", "", False),
        ("https://", "", False),
        ("file://console.example", "console.example", False),
        ("console.example", "console.example", False),
    ],
)
def test_a_page_is_our_own_where_it_names_the_host_that_it_asks(origin: str, host: str, is_own: bool) -> None:
    assert is_own_page(origin, host) is is_own


@pytest.mark.parametrize(
    ("origin", "is_sure"),
    [
        ("https://console.example", True),
        ("http://localhost:8000", True),
        ("http://console.localhost", True),
        ("http://127.0.0.1:8000", True),
        ("http://[::1]:8000", True),
        ("http://10.1.2.3", True),
        ("http://[2001:db8::1]:8000", True),
        ("http://evil.example", False),
        ("http://evil.example:8000", False),
        ("http://localhost.evil.example", False),
        ("http://10.1.2.3.evil.example", False),
        ("http://planwire", False),
    ],
)
def test_a_name_in_the_clear_may_be_anybodys(origin: str, is_sure: bool) -> None:
    assert is_rebinding_proof(origin) is is_sure


@pytest.mark.parametrize(
    ("authority", "is_local"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("app.localhost:1", True),
        ("127.0.0.1:8000", True),
        ("127.8.9.1", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("", False),
        ("10.0.0.1", False),
        ("notlocalhost", False),
        ("localhost.evil.example", False),
        ("[", False),
    ],
)
def test_hosts_of_this_machine(authority: str, is_local: bool) -> None:
    assert is_loopback(authority) is is_local
