"""What batches of single sizes say of the rate of all sizes together."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from forebay.engine.mix import Ended, Mix


@dataclass(frozen=True)
class Asked:
    nbytes: int
    rows: int = 1


def ends_of(mix: Mix, batches: list[tuple[list[Asked], float]]) -> list[Ended]:
    """One instance, busy without a pause: its batches, and seconds of each. The first only says when the next began."""
    now = 0.0
    ends: list[Ended] = []
    for items, seconds in batches:
        now += seconds
        ends.append((now, mix.counted(items)))
    return ends


def test_rows_of_one_size_are_counted() -> None:
    mix = Mix([Asked(100), Asked(110), Asked(400, rows=4)])
    series = [ends_of(mix, [([Asked(100)] * rows, rows * 0.01) for rows in (3, 1, 4, 2)]) for _ in range(2)]
    assert mix.rate(series) == pytest.approx(200.0)
    assert mix.fewest(series) == 6


def test_instances_of_their_own_pace_add_up() -> None:
    mix = Mix([Asked(8)])
    series = [ends_of(mix, [([Asked(8)] * 10, 4.0 / batches)] * (batches + 1)) for batches in (2, 4, 8)]
    assert mix.rate(series) == pytest.approx(5.0 + 10.0 + 20.0)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_no_matter_whose_turn_it_was(seed: int) -> None:
    """Three kinds as often as each other, of 1, 4 and 16 ms a row: 1,000 rows in 7 s, whichever batches were seen."""
    kinds = {10: 0.001, 40: 0.004, 160: 0.016}
    mix = Mix([Asked(size) for size in kinds] * 16)
    rng = random.Random(seed)
    sizes = [*kinds, *rng.choices(list(kinds), k=9)]
    batches = [([Asked(size)] * rows, rows * kinds[size]) for size in sizes for rows in [rng.randint(1, 32)]]
    ends = ends_of(mix, [([Asked(10)], 0.001), *batches])
    assert mix.rate([ends]) == pytest.approx(1000 / 7)
    counted = sum(sum(rows) for _, rows in ends[1:]) / (ends[-1][0] - ends[0][0])
    assert counted != pytest.approx(1000 / 7, rel=0.05), "it would be no test"


def test_a_batch_of_several_sizes_is_shared_by_rows() -> None:
    mix = Mix([Asked(10), Asked(100)])
    ends = ends_of(mix, [([Asked(10)], 1.0), ([Asked(10), Asked(100)], 2.0)])
    assert ends[1][1] == [1, 1]
    assert mix.rate([ends]) == pytest.approx(1.0)


def test_fewest_tells_of_the_size_that_was_seen_least() -> None:
    mix = Mix([Asked(10), Asked(100)])
    short, long = [Asked(10)], [Asked(100)]
    assert mix.fewest([ends_of(mix, [(long, 1.0), (short, 1.0), (short, 1.0)])]) == 0
    assert mix.fewest([ends_of(mix, [(short, 1.0), (short, 1.0), (long, 1.0)])]) == 1


def test_a_size_that_was_not_seen_is_left_out() -> None:
    mix = Mix([Asked(10), Asked(100)])
    assert mix.rate([ends_of(mix, [([Asked(10)], 0.5)] * 3)]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("sizes", "kinds"),
    [
        ([8] * 48, 1),
        ([100, 120], 1),
        ([100, 126], 2),
        ([10] * 47 + [1000], 2),
        ([10] * 20 + [20] * 20, 2),
        ([*range(100, 148)], 4),
        ([], 1),
    ],
)
def test_sizes_that_differ_are_told_apart_and_not_too_finely(sizes: list[int], kinds: int) -> None:
    mix = Mix([Asked(size) for size in sizes])
    counts = mix.counted([Asked(size) for size in sizes])
    assert (len(counts), sum(counts)) == (kinds, len(sizes))
    assert all(counts) or not sizes


def test_the_size_of_a_request_is_that_of_a_row() -> None:
    mix = Mix([Asked(10), Asked(100)])
    assert mix.counted([Asked(100, rows=10), Asked(300, rows=3)]) == [10, 3]
