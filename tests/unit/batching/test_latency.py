"""The latency model: what it predicts before, while and after it learns."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.batching.costs import Linear, minilm
from forebay.batching.fit import ROW_EDGES, Interpolation, Line, Point, Surface
from forebay.batching.latency import APART, Curve, LatencyModel, round_length


def learned(cost: Linear, rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64), times: int = 3) -> LatencyModel:
    model = LatencyModel(64)
    for _ in range(times):
        for count in rows:
            model.observe(count, 0, cost.seconds(count, 0))
    return model


def test_before_any_data_it_is_short_rising_and_lets_batches_grow() -> None:
    model = LatencyModel(256)
    assert 0 < model.predict(1) < model.predict(256) < 0.1
    assert model.curve(0).best_rows == 256
    assert model.predict99(1) >= model.predict(1)


def test_one_measured_size_sets_the_scale_and_more_rows_are_tried_by_doubling() -> None:
    model = LatencyModel(64)
    model.observe(1, 0, 0.5)
    assert model.predict(1) == pytest.approx(0.5)
    assert 0.5 < model.predict(10) < 5
    assert model.curve(0).best_rows == 2
    for rows in (2, 4, 8, 16, 32):
        model.observe(rows, 0, 0.5)
        assert model.curve(0).best_rows == 2 * rows


def test_long_rows_are_not_batched_because_short_ones_may_be() -> None:
    model = LatencyModel(64)
    for rows in (1, 2, 4, 8, 16):
        model.observe(rows, 32, 0.005 + 0.001 * rows)
    model.observe(1, 512, 0.1)
    assert model.curve(32).best_rows == 32
    assert model.curve(512).best_rows == 2


def test_between_and_beyond_the_measured_sizes() -> None:
    model = learned(Linear(0.02, 0.001))
    for rows in (1, 3, 5, 11, 40, 64, 200):
        assert model.predict(rows) == pytest.approx(0.02 + 0.001 * rows, rel=1e-3)


def test_a_stair_is_followed_by_interpolation_not_by_the_line() -> None:
    model = LatencyModel(64)
    for _ in range(40):
        for rows in (1, 4, 8, 12, 16, 32):
            model.observe(rows, 0, 0.01 if rows <= 8 else 0.03)
    assert model.predict(8) == pytest.approx(0.01, rel=0.02)
    assert model.predict(12) == pytest.approx(0.03, rel=0.02)


def test_noise_is_smoothed_by_the_line() -> None:
    rng = random.Random(7)
    model, cost = LatencyModel(64), Linear(0.02, 0.001)
    for _ in range(3000):
        rows = rng.randint(1, 64)
        model.observe(rows, 0, cost.seconds(rows, 0) * rng.lognormvariate(0, 0.15))
    misses = [abs(model.predict(rows) / cost.seconds(rows, 0) - 1) for rows in range(1, 65)]
    assert max(misses) < 0.08


def test_lengths_are_learned_too() -> None:
    rng = random.Random(3)
    model, cost = LatencyModel(32), minilm()
    for _ in range(1500):
        length = rng.randint(8, 256)
        model.observe(1, length, cost.seconds(1, length))
    for length in (10, 33, 100, 180, 250):
        assert model.predict(1, length) == pytest.approx(cost.seconds(1, length), rel=0.04)


def test_best_size_is_where_a_row_costs_least() -> None:
    model = LatencyModel(64)
    for _ in range(5):
        for rows in (1, 2, 4, 8, 12, 16, 24, 32, 64):
            model.observe(rows, 0, 0.01 + 0.00005 * rows * rows)  # least a row at 14
    assert 10 <= model.curve(0).best_rows <= 17


def test_band_follows_the_spread_and_ignores_a_rare_stall() -> None:
    def band(sigma: float, stalls: float) -> float:
        rng = random.Random(11)
        model = learned(Linear(0.02, 0.001))
        for _ in range(3000):
            stall = 3.0 if rng.random() < stalls else 1.0
            model.observe(8, 0, 0.028 * rng.lognormvariate(0, sigma) * stall)
        return model.band

    assert band(0.0, 0.0) < 1.02
    assert 1.1 < band(0.1, 0.0) < 1.5  # a normal 99 % quantile would be 1.26
    assert band(0.1, 0.01) < 1.6


def test_a_slow_spell_moves_every_prediction_at_once() -> None:
    model = learned(Linear(0.02, 0.001), times=30)
    for turn in range(25):
        rows = (1, 4, 8, 16)[turn % 4]
        model.observe(rows, 0, 2 * (0.02 + 0.001 * rows))
    assert model.predict(8) == pytest.approx(2 * 0.028, rel=0.15)
    assert model.predict(32) == pytest.approx(2 * 0.052, rel=0.3)  # not seen since, but moved along


class Counted(LatencyModel):
    """How often its curves were made anew."""

    made = 0

    def _refresh(self) -> None:
        self.made += 1
        super()._refresh()


def texts_learned() -> Counted:
    model = Counted(64)
    for _ in range(10):
        for length in (16, 32, 64):
            for rows in (1, 4, 8):
                model.observe(rows, length, minilm().seconds(rows, length))
    made = model.made
    while model.made == made:
        model.observe(8, 64, minilm().seconds(8, 64))
    return model


def test_costs_of_texts_follow_a_pace_that_never_rests_without_being_made_anew_each_time() -> None:
    model, steps, batches = texts_learned(), 0, 1600
    made = model.made
    for number in range(batches):
        version = model.version
        model.observe(8, 64, minilm().seconds(8, 64) * (1.6 if number // 8 % 2 else 0.6))
        steps += model.version != version
    assert steps > batches / 8
    assert model.made - made <= batches / APART


def test_a_slow_spell_moves_the_costs_of_texts_before_they_are_made_anew() -> None:
    model, expected = texts_learned(), minilm().seconds
    before, made = model.curve(32, 4), model.made
    for _ in range(6):
        model.observe(8, 64, 2 * expected(8, 64))
    assert model.made == made
    assert 1.1 * expected(4, 32) < model.predict(4, 32) < 2 * expected(4, 32)
    after = model.curve(32, 4)
    assert after.unit_s == pytest.approx(after.seconds[after.best_rows] / after.best_rows)
    assert (after.best_rows, after.enough_rows) == (before.best_rows, before.enough_rows)


def test_slow_spells_leave_the_shape_alone() -> None:
    """Sizes that are not run meanwhile cost what they did, however often the machine slows down and recovers."""
    model = LatencyModel(256)
    for rows in (1, 4, 16, 64, 256):
        for _ in range(5):
            model.observe(rows, 0, 0.001 * rows)
    for turn in range(200):
        for _ in range(30):
            model.observe(256, 0, 0.256 if turn % 2 else 0.05)
    for _ in range(300):
        model.observe(256, 0, 0.256)
    for rows in (1, 4, 16, 64, 256):
        assert model.predict(rows) / rows == pytest.approx(0.001, rel=0.1)


def test_what_lasts_goes_over_into_the_costs() -> None:
    model = learned(Linear(0.02, 0.001), times=30)
    for _ in range(300):
        model.observe(8, 0, 3 * 0.028)
    assert model.predict(8) == pytest.approx(3 * 0.028, rel=0.05)
    assert model.pace == pytest.approx(1.0, rel=0.15)


def test_one_stall_is_not_a_slow_machine() -> None:
    model = learned(Linear(0.02, 0.001), times=30)
    model.observe(8, 0, 100 * 0.028)
    assert model.pace == 1.0


def test_nothing_is_refused_for_a_cost_that_was_only_extrapolated() -> None:
    model = LatencyModel(256)
    for length in (8, 512):
        model.observe(1, length, 0.001 + 1e-5 * length)
    assert model.predict(1, 1024) > 1.5 * model.predict(1, 512)
    assert model.predict(1, 2_000_000) < 3 * model.predict(1, 512)
    model.observe(1, 2_000_000, 0.5)
    assert model.predict(1, 2_000_000) > 0.4


def test_how_much_company_is_enough() -> None:
    assert Curve([0.0, *(0.01 * rows for rows in range(1, 65))], 64).enough_rows == 1
    assert Curve([0.0, *(0.02 + 0.001 * rows for rows in range(1, 65))], 64).enough_rows == 46


def test_impossible_costs_are_not_read_back() -> None:
    data = LatencyModel(256).to_json() | {"cells": [[1.0, 0.0, 7.2e-163, 1]]}
    with pytest.raises(ValueError, match="cell"):
        LatencyModel.from_json(data)


def test_steady_noise_does_not_change_the_pace() -> None:
    rng = random.Random(5)
    model = learned(Linear(0.02, 0.001), times=10)
    for _ in range(5000):
        model.observe(8, 0, 0.028 * rng.lognormvariate(0, 0.2))
        assert 0.75 < model.pace < 1.3


def test_a_disturbed_first_measurement_is_replaced() -> None:
    model = LatencyModel(64)
    model.observe(4, 0, 1.0)
    model.observe(4, 0, 0.01)
    assert model.predict(4) == pytest.approx(0.01)


def test_round_trip_through_json() -> None:
    model = learned(Linear(0.02, 0.001))
    again = LatencyModel.from_json(json.loads(json.dumps(model.to_json())), 64)
    for rows in (1, 5, 64):
        assert again.predict(rows) == pytest.approx(model.predict(rows))
    assert again.band == pytest.approx(model.band)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"format": 2, "band": 1.1, "cells": []},
        {"format": 1, "band": 99, "cells": []},
        {"format": 1, "band": 1.1, "cells": [[0, 0, 1.0, 1]]},
        {"format": 1, "band": 1.1, "cells": [[1, 0, -1.0, 1]]},
        {"format": 1, "band": 1.1, "cells": [[1, 0, float("nan"), 1]]},
        {"format": 1, "band": 1.1, "cells": [["a", 0, 1.0, 1]]},
        {"format": 1, "band": 1.1, "cells": [[1, 2]]},
    ],
)
def test_bad_json_is_told(data: object) -> None:
    with pytest.raises(ValueError, match="not a table of measured costs"):
        LatencyModel.from_json(data)


POINTS = st.lists(
    st.builds(
        Point,
        st.sampled_from([1.0, 2.0, 3.5, 8.0, 20.0, 64.0]),
        st.sampled_from([0.0, 8.0, 16.0, 64.0, 200.0]),
        st.floats(1e-5, 10),
        st.integers(1, 30),
    ),
    min_size=1,
    max_size=12,
)


@given(POINTS, st.sampled_from([0, 4, 16, 100, 500]))
def test_a_table_of_predictions_is_the_predictions(points: list[Point], length: int) -> None:
    for predictor in (Interpolation(points), Line(points)):
        table = predictor.tabulate(70, length)
        for rows in range(1, 71):
            assert table[rows] == pytest.approx(predictor.predict(rows, length), rel=1e-6, abs=1e-9)
    surface = Surface(points)
    table = surface.tabulate(70, length)
    for rows in (edge for edge in ROW_EDGES if edge <= 70):
        assert table[rows] == pytest.approx(max(surface.predict(rows, length), 0.1 * min(table[1:3])), rel=1e-6)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.sampled_from([0, 7, 100]), st.floats(0, 1e3)), max_size=40),
    st.sampled_from([0, 7, 50, 1000]),
)
def test_predictions_are_positive_finite_and_never_fall(seen: list[tuple[int, int, float]], length: int) -> None:
    model = LatencyModel(128)
    for rows, at, seconds in seen:
        model.observe(rows, at, seconds)
    values = [model.predict(rows, length) for rows in range(1, 200)]
    assert all(value > 0 and math.isfinite(value) for value in values)
    assert values[:128] == sorted(values[:128])
    assert 1 <= model.curve(length).best_rows <= 128


def test_nonsense_observations_are_ignored() -> None:
    model = LatencyModel()
    for rows, seconds in ((0, 1.0), (1, float("nan")), (1, float("inf"))):
        model.observe(rows, 0, seconds)
    assert model.observations == 0


@given(st.integers(1, 10**9))
def test_rounded_lengths_are_close_and_never_shorter(length: int) -> None:
    assert length <= round_length(length) <= length * (1 + 1 / 16) + 1
