"""Many callers leave: what that costs, counted in looks at items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from forebay.batching import Batcher
from forebay.batching.simulate import SimItem

MakeBatcher = Callable[..., Batcher[SimItem]]
COUNT = 2000
LOOKS = 20
"""At each item, at most, on average."""


class Seen(SimItem):
    """Counts how often anybody looks whether it still waits."""

    looks = 0

    @property
    def order(self) -> Any:
        Seen.looks += 1
        return self._order

    @order.setter
    def order(self, value: Any) -> None:
        self._order = value


def queued(batcher: Batcher[SimItem], lanes: int = 1) -> list[SimItem]:
    items: list[SimItem] = [Seen(0.0, 30.0 + n * 1e-6, 1, 0, 0, n % lanes) for n in range(COUNT)]
    assert all(batcher.offer(item, 0.0) is None for item in items)
    Seen.looks = 0
    return items


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("between", ["nothing", "forecasts"])
@pytest.mark.parametrize("way", ["from the front", "from the back", "all but the last"])
def test_who_leaves_in_whatever_order_costs_the_same(batcher: MakeBatcher, way: str, between: str, lanes: int) -> None:
    b = batcher(instances=0)
    items = queued(b, lanes)
    leaving = {"from the front": items, "from the back": items[::-1], "all but the last": items[:-1]}[way]
    for item in leaving:
        assert b.discard(item)
        if between == "forecasts":
            b.wake_at(0.0)
    assert Seen.looks < LOOKS * COUNT
    assert b.depth_rows == COUNT - len(leaving)
    b.add_instance(0, 1.0)
    batch = b.pull(1.0)
    assert (batch.items if batch is not None else []) == items[len(leaving) :]


def test_to_empty_the_queue_looks_at_each_item_a_few_times(batcher: MakeBatcher) -> None:
    b = batcher(instances=0)
    items = queued(b)
    assert b.take_all() == items
    assert Seen.looks < LOOKS * COUNT
    assert (b.depth_rows, b.depth_bytes) == (0, 0)


def test_the_earlier_head_goes_first_though_another_before_it_has_left(batcher: MakeBatcher) -> None:
    b = batcher(instances=0)
    items = queued(b, lanes=2)
    b.discard(items[0])
    b.add_instance(0, 1.0)
    batch = b.pull(1.0)
    assert batch is not None
    assert batch.items[0] is items[1]
