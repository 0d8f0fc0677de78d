"""When the tier turns itself off, and when two answers are the same."""

from __future__ import annotations

import random

import numpy as np
import pytest

from forebay.cache.semantic.index import Way
from forebay.cache.semantic.shadow import Shadow, same_outputs
from forebay.core.request import Outputs
from forebay.core.tensors import Array


class Tier:
    """What was turned off, each time."""

    def __init__(self) -> None:
        self.ways: list[Way] = []

    def turn_off(self, way: Way) -> None:
        self.ways.append(way)

    @property
    def turned_off(self) -> int:
        return len(self.ways)


def shadow_of(tier: Tier, limit: float = 0.1, least: int = 50, rate: float = 1.0) -> Shadow:
    return Shadow(
        tier.turn_off, sample_rate=rate, max_false_hit_rate=limit, least_hits=least, draw=random.Random(1).random
    )


def rate_of(shadow: Shadow, way: Way = "semantic") -> float | None:
    return shadow.readings()[way].false_hit_rate


def test_a_share_of_the_hits_is_compared() -> None:
    shadow = shadow_of(Tier(), rate=0.2)
    assert sum(shadow.wants("semantic") for _ in range(5000)) / 5000 == pytest.approx(0.2, abs=0.02)
    assert not any(shadow_of(Tier(), rate=0.0).wants("semantic") for _ in range(100))


def test_a_rate_above_the_limit_turns_the_tier_off_once() -> None:
    tier = Tier()
    shadow = shadow_of(tier, limit=0.1, least=50)
    for number in range(49):
        shadow.record("semantic", same=number % 8 != 0)
    assert (tier.turned_off, shadow.tripped("semantic")) == (0, False), "7 of 49 may be chance"
    shadow.record("semantic", same=True)
    assert (tier.turned_off, shadow.tripped("semantic"), rate_of(shadow)) == (1, True, 0.14)
    shadow.record("semantic", same=False)
    assert (tier.turned_off, shadow.compared, shadow.false_hits) == (1, 51, 8)
    assert not shadow.wants("semantic")


def test_what_is_certain_sooner_turns_it_off_sooner() -> None:
    tier = Tier()
    shadow = shadow_of(tier, limit=0.1, least=1000)
    shadow.record("semantic", same=False)
    assert tier.turned_off == 0, "one wrong hit of one says little: its interval begins at 2.5 %"
    shadow.record("semantic", same=False)
    assert tier.turned_off == 1, "two of two begin at 15.8 %"


def test_a_rate_within_the_limit_never_does() -> None:
    tier = Tier()
    shadow = shadow_of(tier, limit=0.1, least=50)
    for number in range(5000):
        shadow.record("semantic", same=number % 20 != 19)
    assert (tier.turned_off, rate_of(shadow)) == (0, 0.05)


def test_only_the_last_thousand_count_so_that_a_change_shows() -> None:
    tier = Tier()
    shadow = shadow_of(tier, limit=0.1)
    for _ in range(100_000 // 20):
        shadow.record("semantic", same=True)
    wrong = 0
    while not shadow.tripped("semantic"):
        shadow.record("semantic", same=False)
        wrong += 1
    assert wrong == 101


def test_the_way_that_fails_is_turned_off_and_the_other_one_is_compared_on() -> None:
    tier = Tier()
    shadow = shadow_of(tier, limit=0.1, least=1000)
    assert shadow.told("on: all of it") == "on: all of it"
    for _ in range(2):
        shadow.record("normalised", same=False)
        shadow.record("semantic", same=True)
    assert tier.ways == ["normalised"]
    assert (shadow.wants("normalised"), shadow.wants("semantic")) == (False, True)
    assert (rate_of(shadow, "normalised"), rate_of(shadow), shadow.compared, shadow.false_hits) == (1.0, 0.0, 4, 2)
    assert shadow.told("on: all of it") == (
        "on: all of it; off for the same words: 2 of the last 2 compared hits were wrong, more than 0.1"
    )
    for _ in range(9):
        shadow.record("semantic", same=False)
    assert tier.ways == ["normalised", "semantic"]
    assert shadow.told("on: all of it").startswith("off: near texts: ")


def test_right_hits_of_one_way_do_not_hide_wrong_ones_of_the_other() -> None:
    tier = Tier()
    shadow = shadow_of(tier, limit=0.1, least=50)
    for number in range(1000):
        shadow.record("normalised", same=True)
        if number % 20 == 0:
            shadow.record("semantic", same=False)
    assert tier.ways == ["semantic"]
    assert shadow.told("on").startswith("off for near texts: 2 of the last 2 compared hits were wrong")


def outputs(*arrays: Array) -> Outputs:
    return Outputs([f"y{place}" for place in range(len(arrays))], ["?"] * len(arrays), arrays, 1)


def test_numbers_are_the_same_up_to_rounding_and_all_else_exactly() -> None:
    numbers = np.array([[1.0, 0.0, np.nan]], np.float32)
    text, whole = np.array([[b"yes"]], object), np.array([[1, 2]])
    served = outputs(numbers, text, whole)
    assert same_outputs(served, outputs(numbers * np.float32(1.0001), text.copy(), whole.copy()))
    for other in (
        outputs(numbers * np.float32(1.01), text, whole),
        outputs(numbers, np.array([[b"no"]], object), whole),
        outputs(numbers, text, whole + 1),
        outputs(numbers, text, whole.astype(np.int32)),
        outputs(numbers, text, whole[:, :1]),
        outputs(numbers, text),
    ):
        assert not same_outputs(served, other)
