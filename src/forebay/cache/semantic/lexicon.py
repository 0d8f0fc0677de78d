"""What WordNet knows of English words: which are common ones, their lemma, which are akin and which opposed.

`wordnet.txt.gz` is made by `tools/wordnet_lexicon.py`; its licence stands beside it.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Sequence
from importlib import resources
from typing import Final

from forebay.cache.semantic.grammar import OPPOSITES

_ENDINGS: Final = (
    ("ies", "y"), ("sses", "ss"), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
    ("es", "e"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ("iest", "y"), ("ier", "y"), ("est", "e"), ("est", ""), ("er", "e"), ("er", ""),
)  # fmt: skip
"""Endings of inflected forms and what the lemma has instead: WordNet's own rules, and doubled consonants besides."""
_VERBAL: Final = tuple(pair for pair in _ENDINGS if pair[0] in ("ed", "ing"))
_SHORTEST_LEMMA: Final = 2
_SHORTEST_VERB: Final = 4
"""Of `covered`, which is a word itself, `cover` is the verb; of `seed`, `see` is not."""


class Lexicon:
    """Common words, lemmas, what is akin and what is opposed."""

    def __init__(
        self,
        words: frozenset[str],
        irregular: dict[str, str],
        synonyms: Sequence[Sequence[str]],
        derived: Sequence[Sequence[str]],
        opposed: Sequence[tuple[Sequence[str], Sequence[str]]],
    ) -> None:
        """`synonyms`: groups of words; `derived`: pairs; `opposed`: the two sides of each opposition."""
        self._words = words
        self._irregular = irregular
        self._synonyms = _Groups(synonyms)
        self._derived = _Groups(derived)
        self._left = _places([one for one, _ in opposed])
        self._right = _places([other for _, other in opposed])

    def knows(self, word: str) -> bool:
        """Whether a word, in any of its forms, is a common one, and not only the name of something."""
        return word in self._words or word in self._irregular or self.lemma(word) in self._words

    def lemma(self, word: str) -> str:
        """The word without its ending, where that is a word and it is none itself (`news` is not `new`)."""
        word = word.removesuffix("'s")
        found = self._irregular.get(word)
        return found if found is not None else word if word in self._words else self._stem(word, _ENDINGS) or word

    def _stem(self, word: str, endings: Sequence[tuple[str, str]]) -> str:
        for ending, instead in endings:
            if word.endswith(ending):
                stem = word[: -len(ending)] + instead
                if len(stem) > _SHORTEST_LEMMA and stem in self._words:
                    return stem
                if not instead and stem[-1:] == stem[-2:-1] and stem[:-1] in self._words:
                    return stem[:-1]
        return ""

    def opposed(self, one: str, other: str) -> bool:
        """Whether two lemmas, or small words, are opposites."""
        return (one, other) in OPPOSITES or self._faces(one, other) or self._faces(other, one)

    def akin(self, one: str, other: str) -> bool:
        """Whether two lemmas may say the same: they, or what they are derived from or what of them, are synonyms."""
        if one == other:
            return True
        mine, its = self._family(one), self._family(other)
        return not (self._synonyms.of(mine).isdisjoint(its) and self._synonyms.of(its).isdisjoint(mine))

    def _faces(self, one: str, other: str) -> bool:
        return not set(self._left.get(one, ())).isdisjoint(self._right.get(other, ()))

    def _family(self, word: str) -> set[str]:
        stem = self._stem(word, _VERBAL)
        return self._derived.of({word, stem} if len(stem) >= _SHORTEST_VERB else {word})


class _Groups:
    """Groups of words, found by their members."""

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self._groups = groups
        self._places = _places(groups)

    def of(self, words: set[str]) -> set[str]:
        """These words and all that share a group with one of them."""
        return words.union(*(self._groups[place] for word in words for place in self._places.get(word, ())))


def _places(groups: Sequence[Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """In which groups each word stands."""
    found: dict[str, tuple[int, ...]] = {}
    for place, group in enumerate(groups):
        for word in group:
            found[word] = (*found.get(word, ()), place)
    return found


def load_lexicon() -> Lexicon:
    """Read the list that comes with Forebay: part of a second and some 40 MB, so once a process."""
    packed = resources.files("forebay.cache.semantic").joinpath("wordnet.txt.gz").read_bytes()
    parts: dict[str, list[str]] = {}
    for line in gzip.decompress(packed).decode().splitlines():
        if line.startswith("# "):
            part = parts[line[2:]] = []
        else:
            part.append(line)
    sides = [line.split(" / ") for line in parts["opposed"]]
    return Lexicon(
        words=frozenset(parts["words"]),
        irregular=dict(line.split(" ") for line in parts["irregular"]),
        synonyms=[_words(line) for line in parts["synonyms"]],
        derived=[_words(line) for line in parts["derived"]],
        opposed=[(_words(one), _words(other)) for one, other in sides],
    )


def _words(line: str) -> tuple[str, ...]:
    """The words of a line, each kept once in memory."""
    return tuple(map(sys.intern, line.split(" ")))
