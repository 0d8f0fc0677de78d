"""The signs of a text: what is neither word nor number nor the punctuation of prose, and so may be all that differs.

An embedder that has no piece for 👍 or ≤ leaves it out, and texts that differ in it alone are one to it. Whatever is
not known to be mere punctuation counts. Of punctuation counts what prose does not write so (`f(x)`, `a.txt`, `cd ..`),
and in a text with signs of code all of it.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from forebay.cache.semantic.tokens import Token

OPERATORS: Final = frozenset("+*×÷=<>^")
_PROSE: Final = frozenset(".,;:!?'\"()-…¿¡«»‹›„‚、。！？「」『』")
_CODE: Final = re.compile(r"[|~\\{}\[\]_`^=<>]|\$[^\W\d]|\w\(")
"""Where one of them stands, punctuation and capital letters say something."""
_BRACKETS_AND_OPERATORS: Final = OPERATORS | {"(", ")"}
_UNSEEN: Final = frozenset("\u00ad\u200b\u200e\u200f\u2060\ufe0e\ufe0f\ufeff")
"""Characters that change nothing but how a text is broken into lines, or how a sign is painted."""
_TRAILING: Final = " .?!…\n\t\r"
_PLAIN: Final = re.compile(r"(?:[^\W_]+(?:'[^\W_]+)?,? )*[^\W_]+(?:'[^\W_]+)?[.?]*", re.ASCII)
"""Texts without any sign: most of them."""
_RUN: Final = re.compile(r"\S+")
_INDENTED: Final = re.compile(r"\n([^\S\n]+)(?=\S)")


class Signs(NamedTuple):
    """`found`: what counts, in order, each with the word after it. `code`: some of it is code. `glued`: places of
    tokens that a sign is joined to, as those of a file's name, an address or a path."""

    found: tuple[str, ...]
    code: bool
    glued: frozenset[int]


class _Reader:
    """Reads the signs between the tokens of one text."""

    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._starts = [token.start for token in tokens]
        self._code = _CODE.search(text) is not None
        self._reckons = any(token.word in OPERATORS for token in tokens)
        """Whether brackets say something: `(a + b) * c`."""
        self._end = len(text.rstrip(_TRAILING))
        """Where what ends the text begins."""

    def read(self) -> Signs:
        """All of them."""
        found = [(token.start, token.word) for token in self._tokens if token.word in OPERATORS]
        begin = 0
        for token in self._tokens:
            found += self._between(begin, token.start)
            begin = token.end
        found += self._between(begin, len(self._text))
        found += [(match.start(), f"\n{match[1]}") for match in _INDENTED.finditer(self._text)]
        found.sort()
        glued = frozenset(
            place
            for at, sign in found
            if sign.isascii() and sign not in _BRACKETS_AND_OPERATORS
            for place in (self._after(at), self._after(at) - 1)
            if 0 <= place < len(self._tokens) and (self._tokens[place].start == at + 1 or self._tokens[place].end == at)
        )
        return Signs(tuple(self._with_word(at, sign) for at, sign in found), self._code, glued)

    def _between(self, begin: int, end: int) -> list[tuple[int, str]]:
        """What counts between two tokens, and where it stands."""
        found = []
        for run in _RUN.finditer(self._text, begin, end):
            alone = self._at(run.start() - 1).isspace() and _is_alone(run.group())
            for at in range(*run.span()):
                sign = self._text[at]
                if sign not in _UNSEEN and (alone or sign not in _PROSE or self._counts(at)):
                    found.append((at, sign))
        return found

    def _counts(self, at: int) -> bool:
        """Whether a sign of punctuation says something where it stands."""
        sign, before, after = self._text[at], self._at(at - 1), self._at(at + 1)
        if self._code:
            return at < self._end
        joined = not after.isspace() and after not in _PROSE
        if sign in "()":
            return self._reckons or (sign == ")" and joined)
        if sign == "-":
            return self._is_minus(at, before, after)
        if sign in "'\"":
            return before.isdigit() or (joined and before.isalnum())  # feet and inches
        if sign == "!" and before.isalpha() and before not in "iI" and not self._at(at - 2).isalnum():
            return True  # the factorial
        return joined and sign not in "¿¡«»‹›„‚「『"

    def _is_minus(self, at: int, before: str, after: str) -> bool:
        """No hyphen, and no dash between the words of a sentence."""
        if before.isspace() and after.isspace():
            sides = (self._after(at) - 1, self._after(at))
            return all(0 <= place < len(self._tokens) and _is_term(self._tokens[place].word) for place in sides)
        return not (before.isalnum() and (after.isalnum() or after.isspace()))

    def _with_word(self, at: int, sign: str) -> str:
        """A sign with the word that it stands before; a picture, or a mark of a letter, alone."""
        place = self._after(at)
        if place == len(self._tokens) or not (sign.isascii() or unicodedata.category(sign) == "Sm"):
            return sign
        return f"{sign} {self._tokens[place].word}"

    def _after(self, at: int) -> int:
        """The place of the first token behind a sign."""
        return bisect_left(self._starts, at + 1)

    def _at(self, at: int) -> str:
        """The character there; before and after the text are spaces."""
        return self._text[at] if 0 <= at < len(self._text) else " "


def _is_alone(run: str) -> bool:
    """Whether punctuation with a space before it is a sign of its own: the `..` of `cd ..`, the `:(` of a face."""
    return run[0] == "." or (run[0] in ":;" and len(run) > 1)


def _is_term(word: str) -> bool:
    """Whether a word is one that is reckoned with: a number or a letter."""
    return len(word) == 1 or word[-1].isdigit()


def read_signs(text: str, tokens: Sequence[Token]) -> Signs:
    """The signs of a canonical text and its tokens."""
    if _PLAIN.fullmatch(text):
        return Signs((), False, frozenset())
    return _Reader(text, tokens).read()
