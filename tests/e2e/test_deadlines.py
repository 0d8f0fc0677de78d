"""Deadlines: what is hopeless is refused at once, what is late is told so, and nobody waits for ever."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.e2e.server import Served, eventually, values

MS = 1000
"""The protocol's `timeout` counts microseconds."""


def test_a_generous_timeout_changes_nothing(house: Served) -> None:
    assert values(house.infer("sleep", [[2.0]], timeout=10_000 * MS)) == [2.0]


def test_a_hopeless_deadline_is_refused_with_a_hint(house: Served) -> None:
    answer = house.infer("sleep", [[2.0]], timeout=5 * MS)
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == "deadline_unreachable"
    assert int(answer.headers["retry-after"]) >= 1
    assert house.in_flight("sleep") == 0


def test_the_models_own_slo_is_the_default_timeout(house: Served) -> None:
    # 200 rows take the sleep model far longer than its slo_ms of 105.
    answer = house.infer("sleep", [[1.0]] * 200)
    assert answer.status_code == 503, answer.text
    assert answer.json()["code"] == "deadline_unreachable"


def test_a_run_that_outlasts_the_deadline_is_a_504_in_stage_executing(house: Served) -> None:
    answer = house.infer("pause", [1500.0], timeout=200 * MS)
    assert answer.status_code == 504, answer.text
    assert answer.json()["code"] == "deadline_exceeded"
    assert answer.json()["stage"] == "executing"
    eventually(lambda: values(house.infer("pause", [1.0])) == [1.0], "the model goes on")


def test_a_wait_that_outlasts_the_deadline_is_a_504_in_stage_queued(house: Served) -> None:
    with ThreadPoolExecutor(3) as pool:
        # The model has never taken this long, so nobody can foresee it at admission.
        running = pool.submit(house.infer, "pause", [1500.0])
        eventually(lambda: house.in_flight("pause") == 1, "one runs")
        next_one = pool.submit(house.infer, "pause", [1.0])
        eventually(lambda: house.in_flight("pause") == 2, "one waits at the instance")
        late = pool.submit(house.infer, "pause", [2.0], timeout=300 * MS).result()
        assert values(running.result()) == [1500.0]
        assert values(next_one.result()) == [1.0]
    assert late.status_code in (503, 504), late.text
    if late.status_code == 504:
        assert late.json()["stage"] == "queued"


def test_a_timeout_of_zero_is_the_default_and_a_wrong_one_a_400(house: Served) -> None:
    assert values(house.infer("ragged", [[1.0]], timeout=0)) == [1.0]
    for wrong in (-1, 1.5, "10", True, 10**30):
        assert house.infer("ragged", [[1.0]], timeout=wrong).status_code == 400, wrong


@pytest.mark.timeout(180)
def test_overload_is_refused_and_what_is_admitted_is_answered(house: Served) -> None:
    # 128 clients against a model that does at most 64 rows in 84 ms, each with 105 ms to live.
    end = time.monotonic() + 4

    def client(number: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        while time.monotonic() < end:
            answer = house.infer("sleep", [[float(number)]], timeout=105 * MS)
            if answer.status_code == 200:
                assert values(answer) == [number]
                seen["ok"] += 1
            else:
                seen[answer.json()["code"]] += 1
                time.sleep(0.02)
        return seen

    with ThreadPoolExecutor(128) as pool:
        total = sum(pool.map(client, range(128)), Counter[str]())
    assert set(total) <= {"ok", "deadline_unreachable", "deadline_exceeded"}, total
    assert total["ok"] >= 100, total
    assert house.in_flight("sleep") == 0
    assert values(house.infer("sleep", [[1.0]], timeout=10_000 * MS)) == [1.0]
