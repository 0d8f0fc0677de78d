"""The exposition: it parses, it holds the whole table, and its numbers are the events that were counted."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from forebay.telemetry.metrics import ROWS, SECONDS, TABLE, Histogram, Metrics, ModelMetrics, count

GAUGES = {name: float(place) for place, (name, (kind, _, _)) in enumerate(TABLE.items()) if kind == "gauge"}


def parsed(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name to label values (in the order of their names) to value."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), "a sample twice"
            found[sample.name][labels] = sample.value
    return found


def test_an_empty_exposition_names_every_metric_of_the_table() -> None:
    families = {family.name: family for family in text_string_to_metric_families(Metrics().text().decode())}
    assert set(families) == set(TABLE)
    assert {name: (family.type, family.documentation) for name, family in families.items()} == {
        name: (kind, text) for name, (kind, text, _) in TABLE.items()
    }


def test_counters_gauges_and_histograms_of_two_models() -> None:
    metrics = Metrics()
    one, two = ModelMetrics("one", "1", lambda: GAUGES), ModelMetrics('two "quoted"\n\\', "1", lambda: GAUGES)
    metrics.add(one)
    metrics.add(two)
    count(one.answered, "ok")
    count(one.answered, "ok")
    count(one.answered, "model_error")
    count(two.refused, "queue_full")
    count(one.dispatched, "idle")
    one.canceled, two.deaths, one.padding_rows = 3, 4, 2.5
    one.queue_s.observe(0.003)
    one.batch_rows.observe(32)
    found = parsed(metrics)
    assert found["forebay_requests_total"] == {("ok", "one", "1"): 2, ("model_error", "one", "1"): 1}
    assert found["forebay_refused_total"] == {("queue_full", 'two "quoted"\n\\', "1"): 1}
    assert found["forebay_dispatch_total"] == {("one", "idle", "1"): 1}
    assert found["forebay_canceled_total"][("one", "1")] == 3
    assert found["forebay_instance_deaths_total"] == {("one", "1"): 0, ('two "quoted"\n\\', "1"): 4}
    assert found["forebay_padding_rows_total"][("one", "1")] == 2.5
    assert {name: found[name][("one", "1")] for name in GAUGES} == GAUGES
    assert found["forebay_queue_seconds_count"] == {("one", "1"): 1, ('two "quoted"\n\\', "1"): 0}
    assert found["forebay_batch_rows_sum"][("one", "1")] == 32


def test_the_labels_are_those_of_the_table() -> None:
    metrics, model = Metrics(), ModelMetrics("m", "1", lambda: GAUGES)
    metrics.add(model)
    for table in (model.answered, model.refused, model.dispatched):
        count(table, "x")
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(TABLE[family.name][2]), sample.name


def test_what_takes_anothers_place_goes_on_counting() -> None:
    old, new = ModelMetrics("m", "1", lambda: GAUGES), ModelMetrics("m", "1", lambda: GAUGES)
    for one, value in ((old, 0.003), (new, 20.0)):
        count(one.answered, "ok")
        one.canceled, one.deaths, one.padding_rows = 1, 2, 0.5
        for histogram in (one.request_s, one.queue_s, one.compute_s, one.batch_rows):
            histogram.observe(value)
    count(old.answered, "model_error")
    metrics = Metrics()
    metrics.add(old)
    metrics.remove(old)
    new.absorb(old)
    metrics.add(new)
    found = parsed(metrics)
    assert found["forebay_requests_total"] == {("ok", "m", "1"): 2, ("model_error", "m", "1"): 1}
    for name, total in (("canceled_total", 2), ("instance_deaths_total", 4), ("padding_rows_total", 1)):
        assert found[f"forebay_{name}"] == {("m", "1"): total}
    for name in ("request_seconds", "queue_seconds", "compute_seconds", "batch_rows"):
        assert found[f"forebay_{name}_count"] == {("m", "1"): 2}
        assert found[f"forebay_{name}_sum"][("m", "1")] == pytest.approx(20.003)
    metrics.remove(new)
    assert "forebay_requests_total" not in parsed(metrics)


def test_a_scrape_shows_what_is_true_now() -> None:
    metrics, depth = Metrics(), 1.0
    metrics.add(ModelMetrics("m", "1", lambda: dict.fromkeys(GAUGES, depth)))
    assert parsed(metrics)["forebay_queue_depth_rows"][("m", "1")] == 1
    depth = 5.0
    assert parsed(metrics)["forebay_queue_depth_rows"][("m", "1")] == 5


@pytest.mark.parametrize("bounds", [SECONDS, ROWS])
@given(values=st.lists(st.floats(0, 2000, allow_nan=False), max_size=30))
def test_buckets_hold_what_was_observed(bounds: tuple[float, ...], values: list[float]) -> None:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    for text, cumulative in histogram.buckets():
        assert cumulative == sum(value <= float(text) for value in values)
    assert histogram.total == pytest.approx(sum(values))


@given(st.lists(st.floats(0, 40, allow_nan=False), min_size=1, max_size=20))
def test_many_ages_are_counted_as_one_by_one(born: list[float]) -> None:
    together, alone, now = Histogram(SECONDS), Histogram(SECONDS), 40.0
    ages = [now - instant for instant in born]
    together.observe_ages(born, now, min(ages), max(ages), sum(ages))
    for age in ages:
        alone.observe(age)
    assert together.counts == alone.counts
    assert together.total == pytest.approx(alone.total)


def test_a_value_on_a_bound_is_inside_it() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.0)
    assert Counter(dict(histogram.buckets())) == Counter({"1.0": 1, "2.0": 1, "+Inf": 1})
