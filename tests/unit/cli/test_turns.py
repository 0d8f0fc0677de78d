"""Timing in turns: what a busy machine, a cold model and a slow one make of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import numpy as np
import pytest

from forebay.cli.turns import LEAST_BUDGET_S, LEAST_ROUNDS, ROUNDS, in_turns, turn
from forebay.core.tensors import Array


class Machine:
    """Models of known speed on a machine that is ever slower. The first turn of each is cold."""

    def __init__(self, turn_s: float = 0.5) -> None:
        self.now, self.turn_s = 0.0, turn_s
        self.order: list[str] = []
        self._speeds = {"large": 100.0, "small": 800.0}

    async def one_turn(self, name: str) -> float:
        cold = name not in self.order
        self.order.append(name)
        self.now += self.turn_s
        return self._speeds[name] / (50.0 if cold else 1.0) / (1.0 + (len(self.order) - 1) // 2)

    def measured(self, asked_s: Mapping[str, float]) -> dict[str, float]:
        return asyncio.run(in_turns(["large", "small"], self.one_turn, asked_s, lambda: self.now))


def test_neither_a_cold_start_nor_a_machine_that_slows_down_changes_who_is_how_much_faster() -> None:
    machine = Machine()
    rates = machine.measured({"large": 0.1, "small": 0.1})
    assert rates["small"] / rates["large"] == pytest.approx(8.0)
    assert machine.order[2:6] == ["large", "small", "small", "large"]
    assert len(machine.order) == 2 + 2 * ROUNDS


def test_models_that_are_slow_are_warm_already_and_have_fewer_rounds() -> None:
    machine = Machine(turn_s=LEAST_BUDGET_S)
    machine.measured({"large": 20.0, "small": 10.0})
    assert machine.order == ["large", "small", "small", "large"]
    assert len(machine.order) == 2 * LEAST_ROUNDS


async def test_a_turn_lasts_its_time_and_asks_all_batches_as_often() -> None:
    batches = [{"x": np.full((rows, 1), rows, np.float32)} for rows in (1, 2, 3)]
    asked = {1: 0, 2: 0, 3: 0}
    running = most = 0

    async def ask(batch: Mapping[str, Array]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        asked[len(batch["x"])] += 1
        running -= 1

    began = asyncio.get_running_loop().time()
    rate = await turn(ask, batches, at_once=4, least_s=0.05)
    took_s = asyncio.get_running_loop().time() - began
    assert took_s >= 0.05
    assert asked[1] == asked[2] == asked[3] > 1
    assert most == 4
    assert rate == pytest.approx(6 * asked[1] / took_s, rel=0.2)
