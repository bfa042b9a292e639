"""Where each key of a TOML document stands, since `tomllib` does not tell. Pure.

Reads text that `tomllib` has accepted already, so it need not check anything; it knows no values.
"""

from __future__ import annotations

import re

Path = tuple[str, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
    |(?P<text>\"\"\"(?:\\.|[^\\])*?\"{3,5}|'''.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
    |(?P<newline>\n)
    |(?P<mark>[\[\]{}=.,])
    |(?P<word>[^\s\[\]{}=.,\#"']+)""",
    re.VERBOSE | re.DOTALL,
)


def dotted(path: Path) -> str:
    """Return the path as TOML writes a dotted key."""
    return ".".join(part if _BARE.fullmatch(part) else f'"{part}"' for part in path)


class Lines:
    """The line of every table and key of a document, keys of inline tables included."""

    def __init__(self, text: str) -> None:
        self._text = text.split("\n")
        self._lines: dict[Path, int] = {}
        _Scanner(text, self._lines).run()

    def of(self, path: Path, value: str = "", occurrence: int = 1) -> int:
        """Return the line, from 1, of `path`, or of its nearest parent that has one; 1 for none.

        With `value`, the line from there on where this text stands for the `occurrence`-th time, so that one entry of
        a long list is found.
        """
        while path and path not in self._lines:
            path = path[:-1]
        line = self._lines.get(path, 1)
        if value:
            for number in range(line, len(self._text) + 1):
                occurrence -= self._text[number - 1].count(value)
                if occurrence <= 0:
                    return number
        return line


class _Scanner:
    """One pass over the tokens: at each key it notes the line."""

    def __init__(self, text: str, lines: dict[Path, int]) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        self._lines = lines
        self._at = 0
        line = 1
        for match in _TOKEN.finditer(text):
            kind = match.lastgroup or ""
            if kind != "comment":
                self._tokens.append((kind, match[0], line))
            line += match[0].count("\n")

    def run(self) -> None:
        table: Path = ()
        while self._at < len(self._tokens):
            kind, text, line = self._tokens[self._at]
            if kind == "newline":
                self._at += 1
            elif text == "[":
                while self._tokens[self._at][1] == "[":
                    self._at += 1
                table = self._key()
                self._note(table, line)
                while self._at < len(self._tokens) and self._tokens[self._at][0] != "newline":
                    self._at += 1
            else:
                self._pair(table)

    def _pair(self, table: Path) -> None:
        line = self._tokens[self._at][2]
        path = (*table, *self._key())
        for length in range(len(table) + 1, len(path) + 1):
            self._note(path[:length], line)
        self._at += 1  # the equals sign
        self._value(path)

    def _value(self, path: Path) -> None:
        opened = self._tokens[self._at][1]
        if opened == "{":
            self._at += 1
            while self._tokens[self._at][1] != "}":
                if self._tokens[self._at][1] == "," or self._tokens[self._at][0] == "newline":
                    self._at += 1
                else:
                    self._pair(path)
            self._at += 1
        elif opened == "[":
            self._at += 1
            while self._tokens[self._at][1] != "]":
                if self._tokens[self._at][1] == "," or self._tokens[self._at][0] == "newline":
                    self._at += 1
                else:
                    self._value(path)
            self._at += 1
        else:
            # A plain value: dates and floats hold dots and such, so it reaches to what can only follow a value.
            while self._at < len(self._tokens):
                kind, text, _ = self._tokens[self._at]
                if kind == "newline" or (kind == "mark" and text in ",]}"):
                    return
                self._at += 1

    def _key(self) -> Path:
        parts: list[str] = []
        while self._at < len(self._tokens):
            kind, text, _ = self._tokens[self._at]
            if kind == "word":
                parts.append(text)
            elif kind == "text":
                # Escapes in a quoted key are not undone: such a key is refused by the catalog anyway.
                parts.append(text[1:-1])
            elif text != ".":
                break
            self._at += 1
        return tuple(parts)

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], line)
