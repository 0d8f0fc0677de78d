"""A text as words: what was written, how it is compared, and whether a capital letter there says anything."""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(
    r"(?<![\w.])(?:[^\W\d_]\.){2,}(?!\w)"  # a.m., e.g.
    r"|(?:(?<![\w.])-|[^\W\d_]+-)?(?=[^\W_]*\d)[^\W_]+(?:[.,:/\-](?=[^\W_]*\d)[^\W_]+)*!?"  # 1,000.5 17:00 A4 A-4 5!
    r"|[^\W\d_]+(?:'[^\W\d_]+)*(?:\+\+|\#)?"  # words, with don't and C++
    r"|°\s?[CFcf]?\b|[%$€£¥₹₩₽+*×÷=<>^]"
    r"|[!?\n]|\.(?=\s|$|[\"')\]])"
)
_ENDS: Final = frozenset(".!?\n")
_SAME: Final = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-", "⁄": "/"})
_GRAVE: Final = re.compile(r"(?<=[^\W\d_])`(?=[^\W\d_])")
_RAISED: Final = {"<super>": "^", "<sub>": "_"}
_LETTERS_OF_A_WIDTH: Final = frozenset(("<wide>", "<narrow>", "<font>"))


class Token(NamedTuple):
    """`written` as it stands, `word` in small letters to be compared, `opens` a sentence: its capital letter means
    nothing. `start`: where it stands in the canonical text."""

    written: str
    word: str
    opens: bool
    start: int = 0

    @property
    def end(self) -> int:
        """Where what follows it begins."""
        return self.start + len(self.written)


def canonical(text: str) -> str:
    """The same text in one form of Unicode, with one kind of quote and dash.

    Compatibility forms are folded (NFKC), but not into their neighbours: 10² becomes 10^2 and not 102, 1½ is 1 1/2.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _set_apart(text)).translate(_SAME)
    return _GRAVE.sub("'", text) if "`" in text else text


def _set_apart(text: str) -> str:
    """Small figures and letters that are raised or lowered, with a sign for it; figures of one character, with spaces.

    What is lowered behind a letter needs no sign: CO₂ is CO2.
    """
    parts: list[str] = []
    last = ""  # the sign of the run in which the loop is
    for character in text:
        tag = unicodedata.decomposition(character).partition(" ")[0]
        sign = _RAISED.get(tag, "")
        if last and not sign and character.isalnum():
            parts.append(" ")
        if sign and sign != last and not (tag == "<sub>" and parts and parts[-1][-1:].isalpha()):
            parts.append(sign)
        if tag.startswith("<") and not sign and tag not in _LETTERS_OF_A_WIDTH:
            character = _one_figure(character)
        parts.append(character)
        last = sign
    return "".join(parts)


def _one_figure(character: str) -> str:
    """A character that stands for a number, or for several signs with one among them: ½, ①, ㎡."""
    folded = unicodedata.normalize("NFKC", character)
    if not any(one.isdigit() for one in folded):
        return character
    plain = unicodedata.decomposition(character).split()[1:]
    return f" {_set_apart(''.join(chr(int(code, 16)) for code in plain))} "


def tokenize(text: str) -> list[Token]:
    """The words of a canonical text. Signs and punctuation are left to `signs.py`, but for what belongs to a number."""
    tokens: list[Token] = []
    opens = True
    for match in _TOKEN.finditer(text):
        written = match.group()
        if written in _ENDS:
            opens = True
            continue
        tokens.append(Token(written, written.lower(), opens, match.start()))
        opens = False
    return tokens
