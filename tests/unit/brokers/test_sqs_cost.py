"""What calls to an SQS cost."""

from __future__ import annotations

import pytest
from benchmarks.sqs_prices import DOLLARS_A_MILLION, FIFO_DOLLARS_A_MILLION, of_a_million, of_a_month_idle


def test_a_million_jobs_cost_as_many_calls_as_some_took() -> None:
    calls = {"SendMessageBatch": 10, "ReceiveMessage": 10, "DeleteMessageBatch": 10}
    billed = {"SendMessageBatch": 20, "ReceiveMessage": 20, "DeleteMessageBatch": 10}
    found = of_a_million(calls, billed, 1000)
    assert (found.calls, found.requests) == (30_000, 50_000)
    assert found.dollars == pytest.approx(0.05 * DOLLARS_A_MILLION)
    assert of_a_million(calls, billed, 1000, fifo=True).dollars == pytest.approx(0.05 * FIFO_DOLLARS_A_MILLION)


def test_who_waits_pays_for_each_call_that_waits() -> None:
    found = of_a_month_idle(3, 20)
    assert found.calls == 3 * 30 * 86400 / 20
    assert found.dollars == pytest.approx(found.calls / 1e6 * DOLLARS_A_MILLION)
