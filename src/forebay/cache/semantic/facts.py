"""What of a text must be the same in another one, before one answer can serve both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from forebay.cache.semantic.grammar import (
    DEGREES,
    DIRECTIONS,
    FUNCTION_WORDS,
    INTERJECTIONS,
    MODALS,
    NEGATIVE_PREFIXES,
    NEGATORS,
    QUESTION_WORDS,
    RESTRICTORS,
    THIRD_PERSONS,
)
from forebay.cache.semantic.lexicon import Lexicon
from forebay.cache.semantic.quantities import Quantities, read_quantities
from forebay.cache.semantic.tokens import Token, tokenize

_LEAST_TITLE_WORDS: Final = 3


class Facts(NamedTuple):
    """The facts of one text. `names` are in their order; of `openers` the capital letter says nothing."""

    quantities: Quantities
    negations: int
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
    sides: tuple[tuple[str, frozenset[str], str], ...]
    """Prepositions of direction, with the content before them and the word with a content after them."""


def read_facts(text: str, lexicon: Lexicon) -> Facts:
    """The facts of a text."""
    tokens = tokenize(text)
    quantities = read_quantities(tokens)
    plain = [token.word.replace("'", "") for token in tokens]
    small = [one in FUNCTION_WORDS or token.word in FUNCTION_WORDS for one, token in zip(plain, tokens, strict=True)]
    lemmas = [token.word if empty else lexicon.lemma(token.word) for token, empty in zip(tokens, small, strict=True)]
    title = _is_title(tokens)
    named = [
        place
        for place, token in enumerate(tokens)
        if (_is_loud(token) and not title if small[place] else _is_name(token, title, lexicon))
    ]
    named = [place for place in named if place not in quantities.used]
    bare = quantities.used.union(named, (place for place, empty in enumerate(small) if empty))
    return Facts(
        quantities=quantities,
        negations=sum(_denies(token.word, lexicon) for token in tokens),
        asked=_asked(plain),
        small=frozenset(THIRD_PERSONS.get(word, word) for word in plain if word in RESTRICTORS | THIRD_PERSONS.keys()),
        modals=frozenset(MODALS[word] for word in plain if word in MODALS),
        names=tuple(_bare(tokens[place].word) for place in named),
        openers=frozenset(
            _bare(token.word) for token in tokens if token.opens or (title and token.written[0].isupper())
        ),
        words=frozenset(lemmas),
        content=frozenset(lemma for place, lemma in enumerate(lemmas) if place not in bare),
        odd=frozenset(tokens[place].word for place in named if tokens[place].written.islower()),
        spelt=frozenset(token.word for place, token in enumerate(tokens) if place not in bare),
        sides=tuple(_sides(lemmas, small)),
    )


def _denies(word: str, lexicon: Lexicon) -> bool:
    """Whether a word denies: `not`, `don't`, `unsafe`."""
    if word in NEGATORS or word.endswith("n't") or word.replace("'", "") in NEGATORS:
        return True
    lemma = lexicon.lemma(word)
    for prefix in NEGATIVE_PREFIXES:
        base = lemma.removeprefix(prefix)
        if base != lemma and lexicon.knows(base):
            return lexicon.opposed(lemma, lexicon.lemma(base)) or (prefix == "non" and not lexicon.knows(lemma))
    return False


def _asked(words: Sequence[str]) -> frozenset[str]:
    """Question words, `how` with its degree."""
    found = set()
    for word, following in zip(words, [*words[1:], ""], strict=False):
        asked = QUESTION_WORDS.get(word) or QUESTION_WORDS.get(word.removesuffix("s"))
        if asked:
            found.add(f"how {following}" if asked == "how" and following in DEGREES else asked)
    return frozenset(found)


def _is_title(tokens: Sequence[Token]) -> bool:
    """Whether Most Words Have a Capital Letter, which then means nothing."""
    inner = [token for token in tokens if not token.opens and token.written[0].isalpha() and token.word != "i"]
    capital = sum(token.written[0].isupper() for token in inner)
    return len(inner) >= _LEAST_TITLE_WORDS and 2 * capital > len(inner)


def _is_name(token: Token, title: bool, lexicon: Lexicon) -> bool:
    """Whether a capital letter says so, or no dictionary has the word."""
    if not token.written[0].isalpha():
        return False
    capital = _is_loud(token) or (token.written[0].isupper() and not token.opens)
    return (capital and not title) or not lexicon.knows(_bare(token.word))


def _is_loud(token: Token) -> bool:
    """Whether a word is all capital letters, as `US` and `IT` are, and the A of `vitamin A`."""
    if token.word == "a":
        return token.written == "A" and not token.opens
    return len(token.word) > 1 and token.written.isupper() and token.word not in INTERJECTIONS


def _bare(word: str) -> str:
    return word.split("'")[0]


def _sides(lemmas: Sequence[str], small: Sequence[bool]) -> list[tuple[str, frozenset[str], str]]:
    content = [(place, lemma) for place, lemma in enumerate(lemmas) if not small[place]]
    found = []
    for place, word in enumerate(lemmas):
        if word in DIRECTIONS:
            before = frozenset(lemma for at, lemma in content if at < place)
            found.append((word, before, next((lemma for at, lemma in content if at > place), "")))
    return found
