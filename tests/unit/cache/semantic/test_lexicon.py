"""What the lexicon makes of words."""

from __future__ import annotations

import pytest

from forebay.cache.semantic.lexicon import Lexicon, load_lexicon


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return load_lexicon()


@pytest.mark.parametrize(
    ("word", "lemma"),
    [
        ("plants", "plant"), ("boxes", "box"), ("berries", "berry"), ("children", "child"), ("went", "go"),
        ("running", "run"), ("mended", "mend"), ("coldest", "cold"), ("farmer's", "farmer"), ("zzyx", "zzyx"),
        ("news", "news"), ("number", "number"), ("seed", "seed"), ("king", "king"),
    ],
)  # fmt: skip
def test_lemmas(lexicon: Lexicon, word: str, lemma: str) -> None:
    assert lexicon.lemma(word) == lemma


def test_names_are_no_common_words(lexicon: Lexicon) -> None:
    assert all(map(lexicon.knows, ("bicycle", "bicycles", "went", "quickly", "unsafe")))
    assert not any(map(lexicon.knows, ("einstein", "kilimanjaro", "numpy", "zzyx", "")))


@pytest.mark.parametrize(
    ("one", "other"),
    [("hot", "cold"), ("safe", "unsafe"), ("increase", "decrease"), ("tiny", "large"), ("on", "off"), ("my", "your")],
)
def test_opposites_both_ways(lexicon: Lexicon, one: str, other: str) -> None:
    assert lexicon.opposed(one, other)
    assert lexicon.opposed(other, one)
    assert not lexicon.opposed(one, one)
    assert not lexicon.akin(one, other)


def test_akin_are_synonyms_and_what_is_derived_from_them(lexicon: Lexicon) -> None:
    assert lexicon.akin("buy", "purchase")
    assert lexicon.akin("move", "movement")
    assert lexicon.akin("covered", "cover")
    for one, other in (("lamb", "calf"), ("adult", "child"), ("red", "blue"), ("seed", "see")):
        assert not lexicon.akin(one, other)
