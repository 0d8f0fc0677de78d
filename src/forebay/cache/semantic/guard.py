"""Whether two texts that lie near each other may have one answer.

Embeddings see what a text is about, not what it says about it: "turn on" and "turn off", order 48213 and order 48231
are nearly the same vector, and a sign that an embedder does not know is nothing to it. The guard compares what is lost.
It only ever says no: what it cannot tell is left to the threshold, and what it does not understand (another language, a
misspelt word) makes it stricter, never laxer.
"""

from __future__ import annotations

from functools import lru_cache, partial

from forebay.cache.semantic.denials import denied_otherwise
from forebay.cache.semantic.facts import Facts, read_facts
from forebay.cache.semantic.lexicon import Lexicon
from forebay.cache.semantic.order import Roles, in_other_order, led_otherwise, turned
from forebay.cache.semantic.prompt import turns_of

GUARD_VERSION = 3
"""Raised whenever the guard decides otherwise than before: calibrations are made for one version."""
_SHORTEST_MISSPELT = 6
_MOST_KEPT = 64
_LONGEST_KEPT = 1000
"""A text is read once for all that it is compared with: facts of so many texts of so many characters are kept."""


class Guard:
    """Compares the facts of texts."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._recent = lru_cache(_MOST_KEPT)(partial(read_facts, lexicon=lexicon))

    def read(self, text: str) -> Facts:
        """The facts of a text, to be compared."""
        return self._recent(text) if len(text) <= _LONGEST_KEPT else read_facts(text, self._lexicon)

    def compare(self, one: str, other: str) -> str | None:
        """Why two texts must not share an answer, in a word; None: nothing speaks against it. Chats (`prompt.py`) are
        compared turn by turn."""
        if one == other:
            return None
        ours, theirs = turns_of(one), turns_of(other)
        if [role for role, _ in ours] != [role for role, _ in theirs]:
            return "turns"
        objections = (
            self.objection(self.read(text), self.read(kept))
            for (_, text), (_, kept) in zip(ours, theirs, strict=True)
            if text != kept
        )
        return next((found for found in objections if found is not None), None)

    def objection(self, one: Facts, other: Facts) -> str | None:
        """The same for facts that were read before."""
        if one.quantities.numbers != other.quantities.numbers:
            return "numbers"
        if one.quantities.units != other.quantities.units or one.quantities.measured != other.quantities.measured:
            return "units"
        if one.quantities.dates != other.quantities.dates:
            return "dates"
        if one.signs != other.signs:
            return "signs"
        if one.spelling != other.spelling:
            return "spelling"
        if denied_otherwise(one.denials, one.words, other.denials, other.words):
            return "negation"
        if one.small != other.small:
            return "restriction"
        if one.modals and other.modals and one.modals.isdisjoint(other.modals):
            return "duty"
        if one.asked - other.asked and other.asked - one.asked:
            return "question"
        if not _names_agree(one, other):
            return "names"
        if self._opposed(one, other):
            return "opposites"
        if _ordered_otherwise(one.roles, other.roles):
            return "order"
        if led_otherwise(one.roles, other.roles):
            return "prepositions"
        return "substitution" if self._substituted(one, other) else None

    def _opposed(self, one: Facts, other: Facts) -> bool:
        rest = other.words - one.words
        return any(self._lexicon.opposed(word, against) for word in one.words - other.words for against in rest)

    def _substituted(self, one: Facts, other: Facts) -> bool:
        """Whether each says something that nothing in the other is akin to: `adults` here, `children` there."""
        return self._alone(one, other) and self._alone(other, one)

    def _alone(self, one: Facts, other: Facts) -> bool:
        return any(
            not any(self._lexicon.akin(word, there) for there in other.words) for word in one.content - other.words
        )


def _names_agree(one: Facts, other: Facts) -> bool:
    mine, its = set(one.names), set(other.names)
    missing = {word for word in mine - its - other.openers if not (word in one.odd and _misspelt(word, other))}
    missing |= {word for word in its - mine - one.openers if not (word in other.odd and _misspelt(word, one))}
    common = mine & its
    return not missing and _first_seen(one.names, common) == _first_seen(other.names, common)


def _first_seen(names: tuple[str, ...], among: set[str]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name in among))


def _misspelt(word: str, other: Facts) -> bool:
    """Whether an unknown word is one slip away from a common word of the other text."""
    return len(word) >= _SHORTEST_MISSPELT and any(_one_slip(word, known) for known in other.spelt)


def _one_slip(one: str, other: str) -> bool:
    """One letter more, less, or other, or two letters exchanged."""
    if abs(len(one) - len(other)) > 1:
        return False
    begin = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    a, b = one[begin:], other[begin:]
    return a[1:] == b or a == b[1:] or a[1:] == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def _ordered_otherwise(one: Roles, other: Roles) -> bool:
    """Whether what both say stands in another order, so that another one may do it, or to another one."""
    if turned(one, other) or (in_other_order(one.said, other.said) and in_other_order(one.owned, other.owned)):
        return True
    return set(one.persons) == set(other.persons) and in_other_order(one.persons, other.persons)
