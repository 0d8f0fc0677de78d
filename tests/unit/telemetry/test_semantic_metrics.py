"""The semantic cache's metrics as they are scraped."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from forebay.telemetry.semantic_metrics import SEMANTIC_TABLE, SemanticMetrics, SemanticReading, WayReading


def scraped(metrics: SemanticMetrics) -> list[str]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    return generate_latest(registry).decode().splitlines()


def test_every_figure_of_a_model_is_told() -> None:
    metrics = SemanticMetrics()
    none = WayReading(0, 0, None, False)
    metrics.models["qa", "2"] = lambda: SemanticReading(
        {"semantic": 7, "guard_numbers": 3}, {"semantic": WayReading(4, 1, 0.25, True), "normalised": none}
    )
    metrics.models["new", "1"] = lambda: SemanticReading({}, {"semantic": none})
    lines = scraped(metrics)
    for line in (
        'forebay_semantic_lookups_total{model="qa",outcome="semantic",version="2"} 7.0',
        'forebay_semantic_lookups_total{model="qa",outcome="guard_numbers",version="2"} 3.0',
        'forebay_semantic_compared_total{model="qa",version="2",way="semantic"} 4.0',
        'forebay_semantic_false_hits_total{model="qa",version="2",way="semantic"} 1.0',
        'forebay_semantic_false_hit_rate{model="qa",version="2",way="semantic"} 0.25',
        'forebay_semantic_off{model="qa",version="2",way="semantic"} 1.0',
        'forebay_semantic_off{model="qa",version="2",way="normalised"} 0.0',
        'forebay_semantic_off{model="new",version="1",way="semantic"} 0.0',
    ):
        assert line in lines
    assert not any(line.startswith('forebay_semantic_false_hit_rate{model="new"') for line in lines)
    assert sum(line.startswith("# TYPE") for line in lines) == len(SEMANTIC_TABLE)
