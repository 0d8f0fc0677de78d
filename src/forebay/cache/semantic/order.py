"""Who does what to whom: whether what both texts say stands in another order, or another preposition leads to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from forebay.cache.semantic.grammar import DIRECTIONS, PERSONS, PREPOSITIONS, SAME_PREPOSITIONS

_AGENT: Final = "by"
_END: Final = ""


class Side(NamedTuple):
    """A preposition of direction, with the content before it and the word with a content after it."""

    word: str
    before: frozenset[str]
    after: str


class Roles(NamedTuple):
    """`said`: lemmas of the words with a content, in order, but that a phrase which opens the text (`on Sundays, is it
    open`) comes last. `owned`: the same with `Australia's capital` as `capital of Australia`. `persons`: pronouns, as
    the person they are, in order. `led`: to each such word, and to the end, the prepositions right before it."""

    said: tuple[str, ...]
    owned: tuple[str, ...]
    persons: tuple[str, ...]
    led: dict[str, frozenset[str]]
    sides: tuple[Side, ...]


def read_roles(
    words: Sequence[str], lemmas: Sequence[str], small: Sequence[bool], used: frozenset[int], fronted: int
) -> Roles:
    """Of the words of a text and their lemmas; `small` are those without a content, `used` the places of what counts
    and measures, and the first `fronted` words a phrase that could come last as well."""
    led: dict[str, set[str]] = {}
    waiting = ""
    for lemma, empty in zip(lemmas, small, strict=True):
        if lemma in PREPOSITIONS:
            waiting = lemma
        elif not empty:
            led.setdefault(lemma, set()).add(waiting)
            waiting = ""
    if waiting:
        led[_END] = {waiting}
    places = [*range(fronted, len(lemmas)), *range(fronted)]

    def said(places: Sequence[int]) -> tuple[str, ...]:
        return tuple(lemmas[place] for place in places if not small[place] and place not in used)

    return Roles(
        said=said(places),
        owned=said(_owners_last(places, words, small)),
        persons=tuple(PERSONS[lemmas[place]] for place in places if lemmas[place] in PERSONS),
        led={lemma: frozenset(leading - {""}) for lemma, leading in led.items()},
        sides=tuple(_sides(lemmas, small)),
    )


def _owners_last(places: Sequence[int], words: Sequence[str], small: Sequence[bool]) -> list[int]:
    """Who owns behind what is owned."""
    ordered: list[int] = []
    owners: list[int] = []
    for place in places:
        if small[place]:
            ordered += owners[::-1]
            owners = []
        if words[place].endswith("'s") and not small[place]:
            owners.append(place)
        else:
            ordered.append(place)
    return ordered + owners[::-1]


def _sides(lemmas: Sequence[str], small: Sequence[bool]) -> Iterator[Side]:
    content = [(place, lemma) for place, lemma in enumerate(lemmas) if not small[place]]
    for place, word in enumerate(lemmas):
        if word in DIRECTIONS:
            before = frozenset(lemma for at, lemma in content if at < place)
            yield Side(word, before, next((lemma for at, lemma in content if at > place), ""))


def in_other_order(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether what both have stands in another order. What one alone has is left out."""
    common = set(one) & set(other)
    mine, its = ([word for word in words if word in common] for words in (one, other))
    if Counter(mine) != Counter(its):
        mine, its = list(dict.fromkeys(mine)), list(dict.fromkeys(its))
    return mine != its


def led_otherwise(one: Roles, other: Roles) -> bool:
    """Whether a preposition before the same word is another one: sent `by Anna`, sent `to Anna`.

    One without any may mean the same (`for $5`), but not where the other says who did it: did she sue Anna, was she
    sued `by Anna`.
    """
    return any(
        not (_all_there(mine, its) and _all_there(its, mine)) if mine and its else _AGENT in mine | its
        for word, mine in one.led.items()
        if (its := other.led.get(word)) is not None
    )


def _all_there(words: frozenset[str], others: frozenset[str]) -> bool:
    return all(any(word == other or (word, other) in SAME_PREPOSITIONS for other in others) for word in words)


def turned(one: Roles, other: Roles) -> bool:
    """Whether two sides have changed places: `from A to B` and `from B to A`, `A than B` and `B than A`."""
    return any(
        mine.word == its.word
        and mine.after != its.after
        and (
            (mine.after in its.before and its.after in mine.before)
            or (_follows(one, its.after) and _follows(other, mine.after))
        )
        for mine in one.sides
        for its in other.sides
    )


def _follows(roles: Roles, content: str) -> bool:
    return any(side.after == content for side in roles.sides)
