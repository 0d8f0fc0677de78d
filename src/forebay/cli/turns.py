"""How many rows a second each of several models does, asked in turns so that a busy moment meets all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Final

import numpy as np

from forebay.core.tensors import Array

ROUNDS: Final = 7
LEAST_ROUNDS: Final = 2
"""Each of two models goes first once."""
TURN_S: Final = 0.5
"""A turn lasts as long at least."""
LEAST_BUDGET_S: Final = 15.0
"""No further round begins once the rounds took so long, or as long as asking all rows once, whichever is longer."""
WARM_S: Final = 3.0
"""A model that was at work for so long is warm."""

Batch = Mapping[str, Array]
Ask = Callable[[Batch], Awaitable[object]]


async def turn(ask: Ask, batches: Sequence[Batch], at_once: int, least_s: float = TURN_S) -> float:
    """Rows a second of one turn: all batches, so many at once, again and again until the time is over. Only whole
    cycles count, so that every model sees the same rows, short and long."""
    began = time.monotonic()
    rows = 0

    def cycles() -> Iterator[Batch]:
        while True:
            yield from batches
            if time.monotonic() - began >= least_s:
                return

    places = cycles()

    async def asker() -> None:
        nonlocal rows
        for batch in places:
            await ask(batch)
            rows += len(next(iter(batch.values())))

    await asyncio.gather(*(asker() for _ in range(at_once)))
    return rows / max(time.monotonic() - began, 1e-9)


async def in_turns(
    names: Sequence[str],
    one_turn: Callable[[str], Awaitable[float]],
    asked_s: Mapping[str, float],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, float]:
    """Rows a second by name, of several rounds; `one_turn` says how many it were in one turn of a model. `asked_s`: how
    long each was at work before. What is slow has fewer rounds, so that all take about as long as asking did.
    """
    for name in names:
        if asked_s[name] < WARM_S:
            await one_turn(name)
    budget_s = max(LEAST_BUDGET_S, sum(asked_s.values()))
    began = clock()
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and clock() - began >= budget_s:
            break
        for name in names if number % 2 == 0 else reversed(names):
            taken[name].append(await one_turn(name))
    return _rates(names[0], taken)


def _rates(first: str, taken: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The first one's median; the others' by the median ratio of rounds, since both then had the same machine."""
    base = median(taken[first])
    return {name: base * float(median(np.divide(rates, taken[first]).tolist())) for name, rates in taken.items()}
