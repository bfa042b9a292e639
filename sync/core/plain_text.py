"""Foreign text for a terminal, without what the terminal would obey: control characters (C0 and C1) and marks that
reverse or hide what follows (Unicode's categories C and Z, but for the space). Pure."""

from __future__ import annotations

import re
import unicodedata

_PLAIN = re.compile(r"[ -~]*")


def plain(text: object) -> str:
    """Return text on one line, with a replacement character for each of those."""
    shown = str(text)
    if _PLAIN.fullmatch(shown):
        return shown
    return "".join(letter if _is_harmless(letter) else "\N{REPLACEMENT CHARACTER}" for letter in shown)


def plain_lines(text: str) -> str:
    """Return text of several lines with JSON's escapes for each of those; line breaks and tabs stay."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(letter if letter in "\n\t" or _is_harmless(letter) else _escape(letter) for letter in text)


def json_text(value: object) -> str:
    """Return compact JSON on one line, which means `value` and holds none of those: they are escaped.

    Raises:
        TypeError: the value is not JSON's.
    """
    import orjson  # not above: a command line that prints no JSON starts without it

    return plain_lines(orjson.dumps(value).decode())


def _is_harmless(letter: str) -> bool:
    return letter == " " or unicodedata.category(letter)[0] not in "CZ"


def _escape(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[index : index + 2].hex()}" for index in range(0, len(units), 2))
