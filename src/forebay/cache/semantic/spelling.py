"""Where the case of a letter says something: mW and MW, -i and -I, codes, names of files, aGVsbG8.

What is written as usual is left out, so that `iPhone` and `iphone`, `5 MB` and `5 megabytes` agree; what is not must be
written so in the other text too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from forebay.cache.semantic.grammar import FUNCTION_WORDS, words_of
from forebay.cache.semantic.lexicon import Lexicon
from forebay.cache.semantic.quantities import ORDINAL_ENDINGS, UNITS, Quantities
from forebay.cache.semantic.signs import Signs
from forebay.cache.semantic.tokens import Token

_CASED_UNITS: Final = {
    written.lower(): tuple(group.split("/"))
    for group in words_of(
        "m g h s b B j/J v/V w/W a/A mm mg ml/mL cl/cL ms MB kB/KB GB TB Mbps kbps/Kbps Gbps Hz kHz MHz GHz Pa mAh kW"
    )
    for written in group.split("/")
}
"""Units that another case makes other ones, or none: how they are written."""
_CASED_SUFFIXES: Final = frozenset(("k", "M", "B", "bn", "mn", "mio"))
"""How thousands, millions and more are written behind a number; 5m may also be 5 metres."""
_NUMBER: Final = re.compile(r"-?\d+(?:[.,]\d+)*([^\W\d_]*)")
_USUAL: Final = re.compile(r"[a-z]?(?:[A-Z][a-z]+)+[A-Z]{0,3}|[A-Z]+s")
"""Names that are written in capital and small letters, and often without: PayPal, iPhone, ChatGPT, PCs."""
_LONGEST_UNIT: Final = 4
_LONGEST_SYMBOL: Final = 2


def read_spelling(tokens: Sequence[Token], quantities: Quantities, signs: Signs, lexicon: Lexicon) -> tuple[str, ...]:
    """The words of a text whose case counts, as they are written and in their order."""
    found = []
    for place, token in enumerate(tokens):
        written = token.written.split("'")[0]
        if not written.isalpha() and any(character.isdigit() for character in written):
            found.append(_after_digits(written))
        elif _is_unit(tokens, place, quantities, lexicon):
            found.append(_unit(written))
        elif signs.code or place in signs.glued:
            found.append("" if _is_plain(tokens, place, signs) else token.written)
        elif written[1:] != written[1:].lower() and not written.isupper() and _USUAL.fullmatch(written) is None:
            found.append(written)
    return (*filter(None, found), *_both_ways(tokens))


def _both_ways(tokens: Sequence[Token]) -> list[str]:
    """Words that a text writes in more than one way, which it then tells apart: `convert Mb to MB`."""
    forms: dict[str, list[str]] = {}
    for token in tokens:
        if token.word not in FUNCTION_WORDS and not (token.opens and token.written[1:] == token.word[1:]):
            forms.setdefault(token.word, []).append(token.written)
    return [written for ways in forms.values() if len(set(ways)) > 1 for written in ways]


def _after_digits(written: str) -> str:
    """Of a number the letters behind it, where they count; of a code all of it."""
    if not any(character.isalpha() for character in written):
        return ""
    match = _NUMBER.fullmatch(written)
    if match is None:
        return written
    suffix = match[1]
    if suffix in _CASED_SUFFIXES or suffix.lower() in ORDINAL_ENDINGS:
        return ""
    return _unit(suffix) if suffix != "m" else suffix


def _is_unit(tokens: Sequence[Token], place: int, quantities: Quantities, lexicon: Lexicon) -> bool:
    """Whether a word may be the sign of a unit: a short one after a number, or one that is no other word."""
    token = tokens[place]
    if token.word in _CASED_UNITS and place in quantities.used:
        return True
    if not token.word.isalpha() or place == 0 or place - 1 not in quantities.counted:
        return False
    if token.word in UNITS:
        return True
    if token.word in FUNCTION_WORDS or place in quantities.used:
        return False
    return len(token.word) <= _LONGEST_SYMBOL or (
        len(token.word) <= _LONGEST_UNIT and not lexicon.knows(token.word) and token.written != token.word.title()
    )


def _unit(written: str) -> str:
    """The sign of a unit, unless its case is the usual one or says nothing."""
    word = written.lower()
    usual = _CASED_UNITS.get(word)
    if usual is None:
        return "" if word in UNITS else written
    return "" if written in usual else written


def _is_plain(tokens: Sequence[Token], place: int, signs: Signs) -> bool:
    """Whether, among signs, a capital letter is only that of a sentence or of `I`."""
    token = tokens[place]
    if token.written == token.word:
        return True
    free = place not in signs.glued
    return free and (token.written == "I" or (token.opens and token.written[1:] == token.word[1:]))
