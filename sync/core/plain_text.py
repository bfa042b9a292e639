"""Makes foreign text safe to show in a terminal. Pure.

Unsafe are control characters (C0 and C1), and marks that reverse or hide text: all of Unicode's categories C and Z
except the space.
"""

from __future__ import annotations

import re
import unicodedata

_PLAIN = re.compile(r"[ -~]*")


def plain(text: object) -> str:
    """Return text on one line, with a replacement character for each unsafe one."""
    shown = str(text)
    if _PLAIN.fullmatch(shown):
        return shown
    return "".join(letter if _is_harmless(letter) else "\N{REPLACEMENT CHARACTER}" for letter in shown)


def plain_lines(text: str) -> str:
    """Return text of several lines, with JSON's escape for each unsafe character; line breaks and tabs stay."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(letter if letter in "\n\t" or _is_harmless(letter) else _escape(letter) for letter in text)


def json_text(value: object) -> str:
    """Return `value` as compact JSON on one line, with unsafe characters escaped.

    Raises:
        TypeError: the value has no form in JSON.
    """
    import orjson  # imported here so that commands which print no JSON start faster

    return plain_lines(orjson.dumps(value).decode())


def _is_harmless(letter: str) -> bool:
    return letter == " " or unicodedata.category(letter)[0] not in "CZ"


def _escape(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[index : index + 2].hex()}" for index in range(0, len(units), 2))
