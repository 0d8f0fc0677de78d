"""Zipf draws, the ideal LRU that hit rates are compared with, and what is made of the counts."""

from __future__ import annotations

import random

import numpy as np
import pytest
from benchmarks import report
from benchmarks.bench_run import spread
from benchmarks.points import points
from benchmarks.workloads.cache_zipf import Watch, compare, kept_bytes, lru_figures
from benchmarks.zipf import LruRun, lru, zipf_draws, zipf_shares

from forebay.bench.connection import Answer


def test_draws_follow_the_law_and_come_again_with_their_seed() -> None:
    keys, count = 1000, 200_000
    draws = zipf_draws(keys, count, seed=3)
    assert draws == zipf_draws(keys, count, seed=3) != zipf_draws(keys, count, seed=4)
    counts = np.bincount(draws, minlength=keys)
    assert len(counts) == keys
    shares = zipf_shares(keys)
    assert shares[0] == pytest.approx(2 * shares[1]) == pytest.approx(10 * shares[9])
    # Six standard deviations: one key of a billion is further off.
    assert np.all(np.abs(counts - count * shares) <= 6 * np.sqrt(count * shares) + 1)


def naive_lru(draws: list[int], room: int) -> list[bool]:
    kept: list[int] = []
    hits: list[bool] = []
    for key in draws:
        hits.append(key in kept)
        if key in kept:
            kept.remove(key)
        kept.append(key)
        del kept[: max(len(kept) - room, 0)]
    return hits


@pytest.mark.parametrize("room", [1, 2, 7, 40])
def test_the_lru_is_exact(room: int) -> None:
    draws = random.Random(room).choices(range(30), weights=range(1, 31), k=2000)
    found = lru(draws, [1] * 30, room)
    assert found.hits.tolist() == naive_lru(draws, room)
    assert found.kept.max() == min(room, 30)


def test_keys_take_their_own_room() -> None:
    a, b, c = 0, 1, 2
    assert lru([a, b, a, c, b, c], [2, 3, 3], room=6).hits.tolist() == [False, False, True, False, False, True]


def test_what_is_larger_than_the_room_is_not_kept() -> None:
    found = lru([0, 1, 0, 1], [9, 1], room=3)
    assert found.hits.tolist() == [False, False, False, False]
    assert found.kept.tolist() == [0, 1, 0, 1]


def test_only_draws_that_count_make_the_figures_of_an_lru() -> None:
    run = LruRun(np.array([False, True, True, False]), np.array([1, 1, 3, 5]))
    assert lru_figures(run, np.array([False, False, True, True])) == {"hit_rate": 0.5, "entries": 4.0}


def test_a_text_takes_its_key_and_its_answer_and_a_long_one_no_more_than_a_digest() -> None:
    short, longer, long, very_long = kept_bytes(["a" * 10, "a" * 50, "a" * 600, "a" * 6000])
    assert longer - short == 40
    assert short > 4 * 384
    assert long == very_long < longer


def test_clients_count_outcomes_and_keep_a_sample_with_its_texts() -> None:
    ranks = [place % 7 for place in range(5000)]
    watch = Watch(ranks, seed=0)
    for place in range(5000):
        outcome = b"miss" if place % 5 == 0 else b"exact"
        assert watch(place, Answer(200, {b"x-cache": outcome}, b"%d" % place)) is None
    assert watch.outcomes == {"miss": 1000, "exact": 4000}
    assert 20 < len(watch.sample) < 100
    assert all(rank == ranks[int(answer.body)] for rank, answer in watch.sample)


def turn(rate: float, **counts: int) -> dict[str, object]:
    return {
        "rate": rate, "checked": 5, "wrong": 0, "cpu_share": 0.2, "clients": counts,
        "server": {f"answers_total {name}": float(count) for name, count in counts.items()} | {"evictions_total": 9.0},
        "kept": {"memory_entries": 40.0, "memory_bytes": 2.0**20},
    }  # fmt: skip


def zipf_result(ideal: float, **server: float) -> dict[str, object]:
    on = [turn(40.0, exact=60, coalesced=20, miss=20), turn(44.0, exact=70, miss=30)]
    on[0]["server"] |= server  # type: ignore[operator]
    ideals = {name: {"hit_rate": ideal, "entries": 50.0} for name in ("answers", "bytes")}
    return {
        "keys": 100, "full_keys": 1000, "memory_bytes": 2**20, "words": {"texts": 47.0, "requests": 50.0},
        "warm_up": {"draws": 200, "texts": 80, "seconds": 2.0, "server": {"answers_total miss": 90.0}},
        "rates": {"off": spread([10.0, 11.0]), "exact": spread([40.0, 44.0])}, "ratio": spread([4.0, 4.0]),
        "turns": {"off": [turn(10.0), turn(11.0)], "exact": on}, "hits": compare(on, ideals),
    }  # fmt: skip


def test_coalesced_answers_are_hits_and_are_told_apart() -> None:
    hits = zipf_result(0.8)["hits"]
    assert isinstance(hits, dict)
    assert hits["clients"] == hits["server"] == {"exact": 130, "coalesced": 20, "miss": 50}
    assert (hits["hit_rate"], hits["exact_rate"], hits["evictions"]) == (0.75, 0.65, 18)
    assert hits["ideals"]["bytes"]["of_ideal"] == pytest.approx(0.9375)
    assert hits["ideals"]["bytes"]["exact_of_ideal"] == pytest.approx(0.8125)


def test_zipf_traffic_is_a_point_and_stands_in_the_report() -> None:
    found = points({"cache_zipf": zipf_result(0.8)})
    assert [(point.measured, point.least_met) for point in found] == [
        ("4.00x", True),
        ("0.94x", False),
        ("0.94x", False),
    ]
    text = "\n".join(report._cache_zipf(zipf_result(0.75)))
    assert "A quick run: 10 times fewer texts" in text
    assert "| exact | 42 (40 to 44) | 4.00x (4.00 to 4.00) | 10 | 0 | 0.20 |" in text
    assert "| bytes | 50 | 0.7500 | 1.000 | 0.867 |" in text
    assert "differ" not in text
    odd = zipf_result(0.75, **{"answers_total miss": 21.0})
    assert "**these differ**" in "\n".join(report._cache_zipf(odd))
