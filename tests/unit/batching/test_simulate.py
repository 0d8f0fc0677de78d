"""The simulator itself, its inputs, and its command."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forebay.batching.arrivals import on_off, poisson, trace
from forebay.batching.costs import Linear, Noise, Table, best_rate, minilm
from forebay.batching.inputs import parse_arrivals, parse_cost, parse_duration, parse_lengths
from forebay.batching.simulate import Outcome, Scenario, simulate_scenario
from forebay.cli.main import app
from forebay.cli.simulate import histogram
from forebay.core.errors import SetupError


def simulated(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["simulate", "--seconds", "2", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_same_seed_same_run_and_another_seed_another() -> None:
    def run(seed: int) -> Outcome:
        return simulate_scenario(
            Scenario(Linear(0.02, 0.001), lambda rng: poisson(500, rng), seconds=3, noise=Noise(0.1), seed=seed)
        )

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_every_request_is_counted_once() -> None:
    outcome = simulate_scenario(
        Scenario(Linear(0.02, 0.001), lambda rng: poisson(2000, rng), seconds=3, slo_s=0.1, noise=Noise(0.2, 0.05))
    )
    assert outcome.sent == outcome.good + outcome.late + outcome.refused + outcome.expired
    assert outcome.sent == pytest.approx(6000, rel=0.05)
    assert min(outcome.good, outcome.late, outcome.refused, outcome.expired) > 0


def test_a_lone_client_sees_the_cost_and_the_hand_over() -> None:
    outcome = simulate_scenario(Scenario(Linear(0.02, 0.001), clients=1, seconds=5, hand_over_s=0.002))
    assert outcome.mean_s == pytest.approx(0.023)
    assert outcome.quantile_s(0.99) == pytest.approx(0.023)
    assert outcome.batch_rows == {1: outcome.good}


def test_rates_of_arrivals() -> None:
    for make in (poisson, on_off):
        rng, last, count = random.Random(4), 0.0, 0
        for now in make(200.0, rng):
            assert now > last
            last, count = now, count + 1
            if now > 400:
                break
        assert count == pytest.approx(80_000, rel=0.1)


def test_minilm_agrees_with_what_was_measured() -> None:
    parsed = parse_lengths("text")
    assert parsed is not None
    rng, table = random.Random(1), minilm()
    lengths = [parsed(rng) for _ in range(6400)]

    def rate(size: int, order: list[int]) -> float:
        groups = [order[at : at + size] for at in range(0, len(order), size)]
        return len(order) / sum(table.seconds(len(group), max(group)) for group in groups)

    assert rate(1, lengths) == pytest.approx(79, rel=0.05)
    assert rate(4, lengths) == pytest.approx(41, rel=0.05)
    assert rate(32, lengths) == pytest.approx(16, rel=0.08)
    assert rate(32, sorted(lengths)) == pytest.approx(54, rel=0.05)
    assert best_rate(table, lengths[:500], 32) == pytest.approx(79, rel=0.08)


def test_durations() -> None:
    assert parse_duration("20ms") == pytest.approx(0.02)
    assert parse_duration("1.5s") == 1.5
    assert parse_duration(" 300us ") == pytest.approx(3e-4)


@pytest.mark.parametrize("text", ["", "20", "ms", "1.2.3ms", "-1ms", "20 minutes"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_costs(tmp_path: Path) -> None:
    assert parse_cost("linear:20ms,1ms").seconds(10, 0) == pytest.approx(0.03)
    assert parse_cost("flat:5ms").seconds(64, 0) == pytest.approx(0.005)
    assert parse_cost("minilm").seconds(1, 64) == pytest.approx(0.0113, rel=0.02)
    path = tmp_path / "t.json"
    path.write_text('{"rows": [1, 4], "lengths": [10, 20], "seconds": [[1, 2], [3, 5]]}')
    table = parse_cost(f"table:{path}")
    assert table.seconds(1, 10) == 1
    assert table.seconds(4, 15) == 4
    assert table.seconds(7, 10) == pytest.approx(5)


@pytest.mark.parametrize("text", ["", "linear:20ms", "flat:1ms,2ms", "flat:0ms", "quadratic:1ms", "table:", "minilm:1"])
def test_no_costs(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a (cost|duration)"):
        parse_cost(text)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"rows": [1], "lengths": [0]}',
        '{"rows": [2, 1], "lengths": [0], "seconds": [[1], [2]]}',
        '{"rows": [1], "lengths": [0], "seconds": [[-1]]}',
        '{"rows": [1, 2], "lengths": [0], "seconds": [[1]]}',
    ],
)
def test_bad_tables_are_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="is not a table of costs"):
        Table.from_file(path)


def test_arrivals(tmp_path: Path) -> None:
    assert parse_arrivals("closed:8", 1.0).clients == 8
    path = tmp_path / "trace.txt"
    path.write_text("0.5\n\n0.75\n2\n")
    form = parse_arrivals(f"trace:{path}", 1.0)
    assert form.instants is not None
    assert list(form.instants(random.Random(1))) == [0.5, 0.75, 2.0]
    for bad, why in (("1\nx\n", "'x' is not a number"), ("2\n1\n", "comes before"), ("nan\n", "comes before")):
        path.write_text(bad)
        with pytest.raises(ValueError, match=why):
            list(trace(path))


@pytest.mark.parametrize(
    "text", ["", "uniform", "closed:0", "closed:x", "bursts:x", "bursts:0.5", "trace:", "poisson:3"]
)
def test_no_arrivals(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_arrivals(text, 1.0)


def test_lengths() -> None:
    uniform = parse_lengths("5-7")
    assert uniform is not None
    assert {uniform(random.Random(seed)) for seed in range(50)} == {5, 6, 7}
    assert parse_lengths("fixed") is None
    for text in ("", "7-5", "0-3", "a-b", "long"):
        with pytest.raises(ValueError, match="is not a kind of lengths"):
            parse_lengths(text)


def test_histogram_has_a_line_for_each_power_of_two() -> None:
    assert histogram({}) == []
    lines = histogram({1: 80, 9: 2, 16: 38})
    assert [(label, count) for label, count, _ in lines] == [("1", 80), ("2", 0), ("3-4", 0), ("5-8", 0), ("9-16", 40)]
    assert [len(bar) for _, _, bar in lines] == [40, 0, 0, 0, 20]


def test_command_prints_a_table_and_a_histogram() -> None:
    output = simulated("--rate", "300", "--slo-ms", "105")
    assert "in time/s" in output
    assert "Forebay" in output
    assert "Batches by rows" in output
    assert "size 64" not in output


def test_command_compares_as_json() -> None:
    runs = json.loads(simulated("--rate", "300", "--json", "--compare", "--slo-ms", "105"))
    assert runs[0]["policy"] == "Forebay"
    assert len(runs) > 5
    assert {run["sent"] for run in runs} == {runs[0]["sent"]}
    assert runs[0]["good"] == runs[0]["sent"] - runs[0]["refused"] - runs[0]["late"] - runs[0]["expired"]
    assert sum(runs[0]["batches_by_rows"].values()) == sum(runs[0]["dispatch_reasons"].values())


def test_command_writes_a_plot(tmp_path: Path) -> None:
    target = tmp_path / "x.png"
    simulated("--rate", "100", "--plot", str(target))
    assert target.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SetupError, match=r"--plot .*x.png: there is no folder"):
        simulated("--rate", "100", "--plot", str(tmp_path / "no" / "x.png"))


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SetupError, match=r"pip install 'forebay\[plot\]'"):
        simulated("--plot", str(tmp_path / "x.png"))


def test_bad_inputs_are_one_clear_error() -> None:
    with pytest.raises(SetupError, match="'cubic' is not a cost; the forms are"):
        simulated("--latency", "cubic")
    with pytest.raises(SetupError, match="is not a kind of arrivals"):
        simulated("--arrivals", "now")
