"""What of a text must be the same in another one, before one answer can serve both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from forebay.cache.semantic.denials import Denial, read_denials
from forebay.cache.semantic.grammar import (
    AFTER_ARTICLE,
    CLIPPED,
    CLIPPED_ENDINGS,
    DEGREES,
    FUNCTION_WORDS,
    INTERJECTIONS,
    MODALS,
    PREPOSITIONS,
    QUESTION_WORDS,
    RESTRICTORS,
    THIRD_PERSONS,
)
from forebay.cache.semantic.lexicon import Lexicon
from forebay.cache.semantic.order import Roles, read_roles
from forebay.cache.semantic.quantities import Quantities, read_quantities
from forebay.cache.semantic.signs import Signs, read_signs
from forebay.cache.semantic.spelling import read_spelling
from forebay.cache.semantic.tokens import Token, canonical, tokenize

_STOPS: Final = frozenset(",.;:!?\n")
"""Where a phrase or a clause ends."""
_LEAST_TITLE_WORDS: Final = 3
_SURE_TITLE_WORDS: Final = 5


class Facts(NamedTuple):
    """The facts of one text. `names` are in their order; of `openers` the capital letter says nothing."""

    quantities: Quantities
    signs: tuple[str, ...]
    spelling: tuple[str, ...]
    """Words whose case says something, as they are written."""
    denials: tuple[Denial, ...]
    asked: frozenset[str]
    small: frozenset[str]
    """Words that narrow, third persons."""
    modals: frozenset[str]
    names: tuple[str, ...]
    openers: frozenset[str]
    words: frozenset[str]
    """All words, those with a content as lemmas."""
    content: frozenset[str]
    """Lemmas of the words with a content that are neither numbers nor names."""
    odd: frozenset[str]
    """Words in small letters that no dictionary has: misspelt, or names."""
    spelt: frozenset[str]
    """The words of `content` as they stand, folded."""
    roles: Roles


def read_facts(text: str, lexicon: Lexicon) -> Facts:
    """The facts of a text."""
    text = canonical(text)
    tokens = tokenize(text)
    signs = read_signs(text, tokens)
    stops = _stops(text, tokens)
    fronted = _fronted(text, tokens, stops)
    quantities = read_quantities(tokens, fronted)
    plain = [token.word.replace("'", "") for token in tokens]
    small = [one in FUNCTION_WORDS or token.word in FUNCTION_WORDS for one, token in zip(plain, tokens, strict=True)]
    lemmas = [token.word if empty else lexicon.lemma(token.word) for token, empty in zip(tokens, small, strict=True)]
    title = _is_title(tokens, small)
    named = _named(tokens, small, quantities, signs, title, lexicon)
    called = frozenset(named)
    small = [empty and place not in called for place, empty in enumerate(small)]
    bare = quantities.used.union(called, (place for place, empty in enumerate(small) if empty))
    return Facts(
        quantities=quantities,
        signs=signs.found,
        spelling=read_spelling(tokens, quantities, signs, lexicon),
        denials=read_denials([token.word for token in tokens], lemmas, small, stops, lexicon),
        asked=_asked(plain),
        small=frozenset(THIRD_PERSONS.get(word, word) for word in plain if word in RESTRICTORS | THIRD_PERSONS.keys()),
        modals=frozenset(MODALS[word] for word in plain if word in MODALS),
        names=tuple(_called(tokens[place], title) for place in named),
        openers=frozenset(
            _bare(token.word) for token in tokens if token.opens or (title and token.written[0].isupper())
        ),
        words=frozenset(lemmas),
        content=frozenset(lemma for place, lemma in enumerate(lemmas) if place not in bare),
        odd=frozenset(
            tokens[place].word
            for place in named
            if tokens[place].written.islower() and not lexicon.knows(_bare(tokens[place].word))
        ),
        spelt=frozenset(token.word for place, token in enumerate(tokens) if place not in bare),
        roles=read_roles([token.word for token in tokens], lemmas, small, quantities.used, fronted),
    )


def _named(
    tokens: Sequence[Token],
    small: Sequence[bool],
    quantities: Quantities,
    signs: Signs,
    title: bool,
    lexicon: Lexicon,
) -> list[int]:
    """Places of the names, in their order. What a sign is joined to is one: `report.pdf`, `and/or`, `-i`."""
    return [
        place
        for place, token in enumerate(tokens)
        if place not in quantities.used
        and (
            place in signs.glued
            or _is_letter(tokens, place)
            or (_is_loud(token) and not title if small[place] else _is_name(token, title, lexicon))
        )
    ]


def _asked(words: Sequence[str]) -> frozenset[str]:
    """Question words, `how` with its degree."""
    found = set()
    for word, following in zip(words, [*words[1:], ""], strict=False):
        asked = QUESTION_WORDS.get(word) or QUESTION_WORDS.get(word.removesuffix("s"))
        if asked:
            found.add(f"how {following}" if asked == "how" and following in DEGREES else asked)
    return frozenset(found)


def _is_title(tokens: Sequence[Token], small: Sequence[bool]) -> bool:
    """Whether All Words With a Content Have a Capital Letter, which then means nothing.

    Of a few words they are names (`Did Alice Sue Bob`), unless Small Words Have One Too.
    """
    inner = [
        place for place, one in enumerate(tokens) if not one.opens and one.written[0].isalpha() and one.word != "i"
    ]
    capital = {place for place in inner if tokens[place].written[0].isupper()}
    return (
        len(inner) >= _LEAST_TITLE_WORDS
        and (len(inner) >= _SURE_TITLE_WORDS or any(small[place] for place in capital))
        and 2 * len(capital) > len(inner)
        and all(small[place] or place in capital for place in inner)
    )


def _stops(text: str, tokens: Sequence[Token]) -> frozenset[int]:
    """Places of the tokens before which punctuation stands."""
    return frozenset(
        place
        for place in range(1, len(tokens))
        if not _STOPS.isdisjoint(text[tokens[place - 1].end : tokens[place].start])
    )


def _fronted(text: str, tokens: Sequence[Token], stops: frozenset[int]) -> int:
    """How many words stand before the first comma, where a preposition opens the text: `On Sundays, is it open`."""
    if not stops or tokens[0].word not in PREPOSITIONS:
        return 0
    first = min(stops)
    return first if "," in text[tokens[first - 1].end : tokens[first].start] else 0


def _is_name(token: Token, title: bool, lexicon: Lexicon) -> bool:
    """Whether a capital letter says so, or no dictionary has the word."""
    capital = _is_loud(token) or (token.written[0].isupper() and not token.opens)
    return (capital and not title) or not lexicon.knows(_bare(token.word))


def _is_letter(tokens: Sequence[Token], place: int) -> bool:
    """Whether a word is one letter that stands for something: no article, no pronoun, not what is left of `don't`."""
    token = tokens[place]
    if len(token.word) != 1 or not token.word.isalpha() or token.word == "i":
        return False
    if token.word == "a":
        following = tokens[place + 1] if place + 1 < len(tokens) else None
        return (
            following is None
            or following.start > token.end + 1
            or (following.word in FUNCTION_WORDS and following.word not in AFTER_ARTICLE)
        )
    return not (token.word in CLIPPED_ENDINGS and place > 0 and tokens[place - 1].word in CLIPPED)


def _is_loud(token: Token) -> bool:
    """Whether a word is all capital letters, as `US` and `IT` are, and the A of `vitamin A`."""
    if token.word == "a":
        return token.written == "A" and not token.opens
    return len(token.word) > 1 and token.written.isupper() and token.word not in INTERJECTIONS


def _called(token: Token, title: bool) -> str:
    """A name as it is compared: a letter as it is written, where that says something."""
    return token.written if len(token.written) == 1 and not (token.opens or title) else _bare(token.word)


def _bare(word: str) -> str:
    return word.split("'")[0]
