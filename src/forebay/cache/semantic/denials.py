"""What a text denies: who smokes but does not drink is not who drinks but does not smoke."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from forebay.cache.semantic.grammar import CLAUSES, NEGATIVE_PREFIXES, NEGATORS, SUBJECTS, words_of
from forebay.cache.semantic.lexicon import Lexicon

_CONTRACTED: Final = ("n't", "nt", "cannot")
_TURNED_BY: Final = frozenset(words_of("why when where how"))
"""Behind these the verb stands before the subject: why doesn't the lamp burn."""


class Denial(NamedTuple):
    """`reach`: lemmas of the words with a content to which it reaches, in order. The first is what it denies, unless
    the subject comes first (`turned`): why doesn't the lamp burn, no lamp burns."""

    reach: tuple[str, ...]
    turned: bool


def read_denials(
    words: Sequence[str], lemmas: Sequence[str], small: Sequence[bool], stops: frozenset[int], lexicon: Lexicon
) -> tuple[Denial, ...]:
    """The denials of a text. `small` are the words without a content; before those of `stops` stands punctuation."""
    found = []
    for place, word in enumerate(words):
        if word in NEGATORS or word.endswith("n't") or word.replace("'", "") in NEGATORS:
            reach = _reach(lemmas, small, stops, place)
            found.append(Denial(reach, _is_turned(words, stops, place)))
        elif base := _denied_by_prefix(word, lexicon):
            found.append(Denial((base,), turned=False))
    return tuple(found)


def denied_otherwise(
    mine: Sequence[Denial], my_words: frozenset[str], its: Sequence[Denial], its_words: frozenset[str]
) -> bool:
    """Whether one text denies more often than the other, or what the other says without denying it."""
    return len(mine) != len(its) or _affirmed(mine, its, its_words) or _affirmed(its, mine, my_words)


def _affirmed(mine: Sequence[Denial], its: Sequence[Denial], its_words: frozenset[str]) -> bool:
    denied = {word for denial in its for word in denial.reach}
    for denial in mine:
        said = its_words.intersection(denial.reach if denial.turned else denial.reach[:1])
        if said and denied.isdisjoint(said):
            return True
    return False


def _reach(lemmas: Sequence[str], small: Sequence[bool], stops: frozenset[int], place: int) -> tuple[str, ...]:
    """Lemmas to the end of the clause, or where none comes the one before: `is it open or not`."""
    found: list[str] = []
    for after in range(place + 1, len(lemmas)):
        if after in stops or (lemmas[after] in CLAUSES and found):
            break
        found += [] if small[after] else [lemmas[after]]
    before = (lemmas[at] for at in range(place - 1, -1, -1) if not small[at])
    return tuple(found or [word for word in (next(before, ""),) if word])


def _is_turned(words: Sequence[str], stops: frozenset[int], place: int) -> bool:
    """Whether what denies opens its clause, as `no` and a verb may, so that the subject comes behind it."""
    contracted = words[place].endswith(_CONTRACTED)
    if not contracted and words[place] != "no":
        return False
    if place == 0 or place in stops or words[place - 1] in _TURNED_BY:
        return True
    return contracted and place + 1 < len(words) and words[place + 1] in SUBJECTS


def _denied_by_prefix(word: str, lexicon: Lexicon) -> str:
    """What a word denies by its prefix: `safe` of `unsafe`."""
    lemma = lexicon.lemma(word)
    for prefix in NEGATIVE_PREFIXES:
        base = lemma.removeprefix(prefix)
        if base != lemma and lexicon.knows(base):
            root = lexicon.lemma(base)
            denies = lexicon.opposed(lemma, root) or (prefix == "non" and not lexicon.knows(lemma))
            return root if denies else ""
    return ""
