"""A row that spoils its batch is found out; nobody else pays for it."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.e2e.server import Served, calls, eventually, model, quick, serving, together, values
from tests.models.faulty import HANGS, HOLDS, KILLS, RAISES, SHORT, TEXT

GOOD = [100.0 + i for i in range(31)]
DOUBLED = [[2 * value] for value in GOOD]


@pytest.mark.parametrize(
    ("poison", "code"), [(RAISES, "model_error"), (SHORT, "output_mismatch"), (TEXT, "output_mismatch")]
)
@pytest.mark.parametrize("place", [0, 17, 31])
def test_one_row_that_raises_fails_alone(faulty: Served, poison: float, code: str, place: int) -> None:
    deaths, bound = faulty.metric("forebay_instance_deaths_total", "faulty"), 2 * math.log2(32)
    rows = [*GOOD[:place], poison, *GOOD[place:]]
    searches: list[int] = []
    while not searches or (searches[-1] > bound and len(searches) < 3):  # a machine that is busy gathers them in pieces
        before = len(calls(faulty, "faulty"))
        answers = together(faulty, "faulty", rows, HOLDS)
        bad = answers.pop(place)
        assert bad.status_code == 500
        assert bad.json()["code"] == code
        assert [values(answer) for answer in answers] == DOUBLED
        # The held row, the one behind it, the batch (one or two, by how they gathered); the rest is the search.
        searches.append(len(calls(faulty, "faulty")) - before - 4)
    assert min(searches) <= bound, f"{searches} calls to find one row of 32"
    assert faulty.metric("forebay_instance_deaths_total", "faulty") == deaths


def test_two_rows_that_raise_fail_alone(faulty: Served) -> None:
    rows = [*GOOD[:3], RAISES, *GOOD[3:29], RAISES, *GOOD[29:]]
    answers = together(faulty, "faulty", rows, HOLDS)
    bad = [answers.pop(place) for place in (30, 3)]
    assert [answer.status_code for answer in bad] == [500, 500]
    assert [values(answer) for answer in answers] == DOUBLED


@pytest.mark.parametrize(
    ("rows", "codes"),
    [
        ([RAISES, SHORT], ["model_error", "output_mismatch"]),
        ([SHORT, KILLS], ["output_mismatch", "instance_crashed"]),
        ([KILLS, RAISES, SHORT], ["instance_crashed", "model_error", "output_mismatch"]),
        ([SHORT, 5.0], ["output_mismatch", ""]),
        ([5.0, SHORT], ["", "output_mismatch"]),
    ],
)
def test_each_bad_row_is_told_its_own_error(faulty: Served, rows: list[float], codes: list[str]) -> None:
    answers = together(faulty, "faulty", rows, HOLDS)
    assert [answer.json().get("code", "") for answer in answers] == codes
    for answer in answers:
        assert (
            answer.status_code == 200
            or "number this model likes" in answer.text
            or "mismatch" in answer.text
            or ("exit code 9" in answer.text)
        )


def test_one_row_that_kills_the_process_fails_alone(faulty: Served) -> None:
    answers = together(faulty, "faulty", [*GOOD[:11], KILLS, *GOOD[11:]], HOLDS)
    bad = answers.pop(11)
    assert bad.status_code == 500
    assert bad.json()["code"] == "instance_crashed"
    assert [values(answer) for answer in answers] == DOUBLED
    eventually(lambda: len(faulty.instances()) == 3, "the instance is back")


def test_many_rows_that_kill_do_not_make_a_crash_loop(faulty: Served) -> None:
    for number in range(5):
        answers = together(faulty, "faulty", [*GOOD[:5], KILLS], HOLDS)
        assert [values(answer) for answer in answers[:5]] == DOUBLED[:5]
        assert answers[5].json()["code"] == "instance_crashed", number
    assert faulty.http.get("/v2/models/faulty/ready").status_code == 200
    assert not faulty.logged("keeps crashing")
    assert values(faulty.infer("faulty", [4.0])) == [8.0]


def test_a_lone_row_that_kills_is_tried_once_more_then_told(faulty: Served) -> None:
    deaths = faulty.metric("forebay_instance_deaths_total", "faulty")
    answer = faulty.infer("faulty", [KILLS])
    assert (answer.status_code, answer.json()["code"]) == (500, "instance_crashed")
    assert faulty.metric("forebay_instance_deaths_total", "faulty") == deaths + 2
    assert values(faulty.infer("faulty", [4.0])) == [8.0]


def test_a_poison_row_in_a_large_request_fails_that_request_only(faulty: Served) -> None:
    rows = [float(i) for i in range(1000, 1150)]
    assert faulty.infer("faulty", [*rows[:90], RAISES, *rows[90:]]).json()["code"] == "model_error"
    assert values(faulty.infer("faulty", rows)) == [2 * row for row in rows]


def test_a_broken_model_is_blamed_after_a_few_calls_and_heals(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("broken"), *quick(*model("faulty.py", "Broken"))) as served:
        (served.folder / "raise").touch()
        before = len(calls(served, "broken"))
        answers = served.many("broken", [float(i) for i in range(64)], threads=64)
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(500, "model_error")}
        assert "the weights are wrong" in answers[0].text
        assert len(calls(served, "broken")) - before <= 64 + 7 * 8, "a broken model costs a few calls a batch"
        (served.folder / "raise").unlink()
        assert [values(answer) for answer in served.many("broken", [1.0, 2.0])] == [[2.0], [4.0]]


@pytest.mark.timeout(60)
def test_a_hung_call_is_a_504_and_its_mates_run_again(faulty: Served) -> None:
    deaths = faulty.metric("forebay_instance_deaths_total", "faulty")
    rows = [*GOOD[:3], HANGS, *GOOD[3:6]]
    # One request has little time, its mates have a lot; which of them hangs, nobody knows.
    with ThreadPoolExecutor(10) as pool:
        holder = pool.submit(faulty.infer, "faulty", [HOLDS])
        eventually(lambda: faulty.in_flight("faulty") == 1, "one runs")
        futures = [
            pool.submit(faulty.infer, "faulty", [row], timeout=1_000_000 if row == HANGS else 30_000_000)
            for row in rows
        ]
        answers = [future.result() for future in futures]
        assert holder.result().status_code == 200
    hung = answers.pop(3)
    assert (hung.status_code, hung.json()["stage"]) == (504, "executing")
    assert [values(answer) for answer in answers] == DOUBLED[:6]
    assert faulty.metric("forebay_instance_deaths_total", "faulty") == deaths + 1
    assert faulty.http.get("/v2/models/faulty/ready").status_code == 200


def test_a_batch_that_does_not_fit_into_memory_is_halved(faulty: Served) -> None:
    deaths = faulty.metric("forebay_instance_deaths_total", "hungry")
    answers = together(faulty, "hungry", GOOD, HOLDS)
    assert [values(answer) for answer in answers] == DOUBLED
    assert faulty.metric("forebay_instance_deaths_total", "hungry") == deaths


def test_one_request_whose_rows_do_not_fit_together_is_halved(faulty: Served) -> None:
    assert values(faulty.infer("hungry", GOOD)) == [2 * value for value in GOOD]


def test_a_row_that_never_fits_is_told_and_its_instance_is_replaced(faulty: Served) -> None:
    deaths = faulty.metric("forebay_instance_deaths_total", "hungry")
    for number in range(5):
        answer = faulty.infer("hungry", [1024.0])
        assert (answer.status_code, answer.json()["code"]) == (500, "out_of_memory")
        assert values(faulty.infer("hungry", [1.0])) == [2.0], number
    assert faulty.metric("forebay_instance_deaths_total", "hungry") == deaths + 5
    assert faulty.http.get("/v2/models/hungry/ready").status_code == 200
