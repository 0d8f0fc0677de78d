"""A text as words: what was written, how it is compared, and whether a capital letter there says anything."""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(
    r"(?:(?<![\w.])-|[^\W\d_]+-)?(?=[^\W_]*\d)[^\W_]+(?:[.,:/\-](?=[^\W_]*\d)[^\W_]+)*!?"  # 1,000.5 17:00 A4 A-4 5!
    r"|[^\W\d_]+(?:'[^\W\d_]+)*(?:\+\+|\#)?"  # words, with don't and C++
    r"|°\s?[CFcf]?\b|[%$€£¥₹₩₽+*×÷=<>^]"
    r"|[.!?\n]"
)
_ENDS: Final = frozenset(".!?\n")
_SAME: Final = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-"})


class Token(NamedTuple):
    """`written` as it stands, `word` folded to be compared, `opens` a sentence: its capital letter means nothing."""

    written: str
    word: str
    opens: bool


def canonical(text: str) -> str:
    """The same text in one form of Unicode, with one kind of quote and dash."""
    return unicodedata.normalize("NFKC", text).translate(_SAME)


def tokenize(text: str) -> list[Token]:
    """The words of a text. Punctuation is left out, but for what belongs to a number."""
    tokens: list[Token] = []
    opens = True
    for match in _TOKEN.finditer(canonical(text)):
        written = match.group()
        if written in _ENDS:
            opens = True
            continue
        tokens.append(Token(written, written.casefold(), opens))
        opens = False
    return tokens
