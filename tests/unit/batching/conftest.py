"""A factory for batchers whose costs are known, and items to offer them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pytest

from forebay.batching import Batcher, LatencyModel, Policy
from forebay.batching.costs import Cost, Linear
from forebay.batching.simulate import SimItem
from forebay.core.request import Background

SLEEP = Linear(0.02, 0.001)
SIZES = (1, 2, 4, 8, 16, 32, 64)
LENGTHS = (8, 16, 32, 64, 128, 256)


def make_item(
    arrived: float = 0.0,
    timeout: float = 30.0,
    rows: int = 1,
    *,
    length: int = 0,
    priority: int = 0,
    lane: Hashable = "",
    nbytes: int = 10,
    background: Background | None = None,
) -> SimItem:
    item = SimItem(arrived, arrived + timeout, rows, length, priority, lane)
    item.nbytes = nbytes
    item.background = background
    return item


def make_batcher(cost: Cost = SLEEP, instances: int = 1, *, lengths: bool = False, **policy: Any) -> Batcher[SimItem]:
    settings = Policy(**{"max_batch_rows": 64, **policy})
    latency = LatencyModel(settings.max_batch_rows)
    for rows in SIZES:
        for length in LENGTHS if lengths else (0,):
            for _ in range(5):
                latency.observe(rows, length, cost.seconds(rows, length))
    batcher: Batcher[SimItem] = Batcher(settings, latency)
    for number in range(instances):
        batcher.add_instance(number, 0.0)
    return batcher


@pytest.fixture(scope="session")
def item() -> Callable[..., SimItem]:
    return make_item


@pytest.fixture(scope="session")
def batcher() -> Callable[..., Batcher[SimItem]]:
    return make_batcher
